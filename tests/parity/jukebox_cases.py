"""Cases of Jukebox's priors: hps of openai/jukebox as arguments of ours."""

import jax
import jax.numpy as jnp
import numpy as np

from research.weights import convert, revert
from tests.parity.golden import Case

# Settings that are no argument here: rates, losses, precision, and what others imply.
OTHER = ('sr', 'use_tokens', 'prime_loss_fraction', 'fp16_params', 'cond_c_res')


def build(case: Case):
  """(model, variables) of a case of a prior."""
  hps, codes = dict(case.config['hps']), case.config['vqvae']
  rate = hps['sr']
  args = {k: v for k, v in hps.items() if k not in OTHER}
  if not hps['use_tokens']:
    args['n_tokens'] = 0
  names = ('l_bins', 'downs_t', 'strides_t')
  vqvae = dict(size='tiny', width=4, depth=1, emb_width=4, multipliers=(1,) * codes['levels'])
  args['vqvae'] = vqvae | {name: codes[name] for name in names}
  model, variables = convert(
    'jukebox', case.weights, size='tiny', frontend={'sample_rate': rate}, **args
  )
  assert list(model.functions) == case.config['attn_funcs']
  back = revert('jukebox', model, variables)
  assert set(back) == set(case.weights)
  for name, x in case.weights.items():
    np.testing.assert_array_equal(back[name], x, err_msg=name)
  return model, jax.tree.map(jnp.asarray, variables)


def batch_of(case: Case):
  inputs = case.inputs
  batch = {'codes': inputs['z'].astype(np.int32), 'labels': inputs['y'].astype(np.int32)}
  if 'z_above' in inputs:
    batch['codes_above'] = inputs['z_above'].astype(np.int32)
  return batch
