"""The trunk of causal language models: its forms agree; numbers are in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.errors import InputError
from research.models.language_decoder import LanguageModel
from research.nn import cache as caches
from research.nn.layers import stack_blocks
from tests.contract import close, jit

ARGS = dict(vocabulary=11, width=8, depth=2, heads=2, hidden=12, trained_length=4)


class Gate(nn.Module):
  @nn.compact
  def __call__(self, x, context, own):
    gate = self.param('gate', nn.initializers.constant(0.5), (1,))
    return x + jnp.tanh(gate) * context[:, None] * own


def gate(name):
  return Gate(name=name)


def drawn(*shape):
  return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape), jnp.float32)


@pytest.mark.slow
def test_scanned_layers_a_cache_a_search_and_modules_before_the_layers():
  """Reordered rows of scanned layers with a cache: as unrolled ones that read all at once."""
  args = dict(ARGS, dynamic_ntk=True, logn=True, before=gate)
  plain, scanned = LanguageModel(**args), LanguageModel(**args, scan_layers=True)
  x, rows = drawn(3, 8, 8), jnp.array([2, 0, 0])
  real = jnp.arange(7)[None] >= jnp.array([0, 2, 5])[:, None]
  how = dict(context=drawn(1, 8), layer_context=jnp.asarray([1.0, 2.0]))
  variables = jit(plain.init)(jax.random.key(0), x, None, **how)

  def stepped(variables):
    _, kept = scanned.apply(variables, x[:, :7], real, scanned.start(3, 8), **how)
    after = caches.reorder(kept, rows)
    more, _ = scanned.apply(variables, x[:, 7:], None, after, **how)
    return kept.ntk, after.ntk, more['logits'][:, 0]

  ntk, reordered, more = jit(stepped)(stack_blocks(variables))
  np.testing.assert_array_equal(ntk, [3.0, 3.0, 1.0])
  np.testing.assert_array_equal(reordered, [1.0, 3.0, 3.0])
  own = jnp.concatenate([x[rows, :7], x[:, 7:]], axis=1)
  mask = jnp.concatenate([real[rows], jnp.ones((3, 1), bool)], axis=1)

  def whole(variables, **how):
    return plain.apply(variables, own, mask, **how)[0]['logits'][:, -1]

  want, without = jit(lambda v: (whole(v, **how), whole(v)))(variables)
  assert np.abs(np.asarray(want - without)).max() > 1e-3
  close(more, want, 'the token behind a prompt')


def test_arguments_that_cannot_be():
  with pytest.raises(InputError, match='trained_length=0'):
    LanguageModel(**dict(ARGS, trained_length=0, logn=True))
  with pytest.raises(InputError, match='before_every=2'):
    LanguageModel(**ARGS, before=gate, before_every=2, scan_layers=True)
  with pytest.raises(InputError, match="'geglu'"):
    LanguageModel(**ARGS, mlp='geglu')
