"""A front-end alone."""

import jax.numpy as jnp

from tests.contract import Subject


def power(out, batch):
  """A loss without parameters to learn."""
  del batch
  loss = jnp.square(out['tokens'].astype(jnp.float32)).mean()
  return loss, {'power': loss}


SUBJECTS = {
  'fbank': Subject(
    'fbank',
    dict(frontend=dict(name='superb_fbank_no_cmvn')),
    power,
    outputs=('embedding',),
    framed={'tokens': 'frame_mask'},
  ),
  'fbank, normalised': Subject(
    'fbank', {}, power, outputs=('embedding',), framed={'tokens': 'frame_mask'}
  ),
}
