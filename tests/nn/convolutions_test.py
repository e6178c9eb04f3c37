"""Causal convolutions: chunks of a stream give what the whole does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.nn.convolutions import CausalConv1d, CausalConvTranspose1d


def streamed(module, variables, x, sizes):
  state, found, start = None, [], 0
  step = jax.jit(module.apply)
  for size in sizes:
    y, state = step(variables, x[:, start : start + size], state)
    found.append(y)
    start += size
  assert start == x.shape[1]
  return jnp.concatenate(found, axis=1)


@pytest.mark.parametrize(
  'args, sizes',
  [
    (dict(taps=3), (1, 1, 5, 3, 2)),
    (dict(taps=1), (4, 8)),
    (dict(taps=7, stride=2), (2, 4, 2, 2, 2)),
    (dict(taps=4, stride=4), (4, 8)),
    (dict(taps=2, dilation=4), (1,) * 12),
    (dict(taps=3, dilation=2, groups=2, use_bias=False), (5, 7)),
  ],
)
def test_chunks_give_what_the_whole_does(args, sizes):
  x = jax.random.normal(jax.random.key(0), (2, 12, 4))
  module = CausalConv1d(6, **args)
  (want, state), variables = module.init_with_output(jax.random.key(1), x)
  assert want.shape == (2, 12 // args.get('stride', 1), 6)
  assert state.shape == (2, module.context, 4)
  got = streamed(module, variables, x, sizes)
  np.testing.assert_allclose(got, want, atol=1e-6)
  # Against the library, zeros before the first sample.
  kernel = variables['params']['kernel']
  library = jax.lax.conv_general_dilated(
    x,
    kernel,
    (args.get('stride', 1),),
    [(module.context, 0)],
    rhs_dilation=(args.get('dilation', 1),),
    dimension_numbers=('NWC', 'WIO', 'NWC'),
    feature_group_count=args.get('groups', 1),
  )
  bias = variables['params'].get('bias', 0.0)
  np.testing.assert_allclose(want, library + bias, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('taps, stride', [(4, 2), (3, 3), (5, 2), (1, 1)])
def test_transposed_chunks_give_what_the_whole_does(taps, stride):
  x = jax.random.normal(jax.random.key(0), (2, 9, 4))
  module = CausalConvTranspose1d(6, taps, stride)
  (want, state), variables = module.init_with_output(jax.random.key(1), x)
  assert want.shape == (2, 9 * stride, 6) and state.shape == (2, taps - stride, 6)
  got = streamed(module, variables, x, (1, 1, 4, 3))
  np.testing.assert_allclose(got, want, atol=1e-6)
  # Input n adds kernel tap p to output n stride + p.
  kernel, bias = (np.asarray(variables['params'][k]) for k in ('kernel', 'bias'))
  slow = np.zeros((2, 9 * stride + taps, 6))
  for n in range(9):
    for p in range(taps):
      slow[:, n * stride + p] += np.asarray(x[:, n]) @ kernel[p]
  np.testing.assert_allclose(want, slow[:, : 9 * stride] + bias, atol=1e-5)


def test_what_is_refused():
  with pytest.raises(InputError, match='5 frames is no multiple of the stride 2'):
    CausalConv1d(3, 4, stride=2).init(jax.random.key(0), jnp.ones((1, 5, 2)))
  with pytest.raises(InputError, match='stride 4 skips samples with 2 taps'):
    CausalConv1d(3, 2, stride=4)
  with pytest.raises(InputError, match='1 taps and stride 2 leaves gaps'):
    CausalConvTranspose1d(3, 1, 2)
