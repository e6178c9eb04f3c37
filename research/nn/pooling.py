"""Tokens of a clip to one vector."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError


def mix_layers(
  states: Float[Array, 'l b n d'], weights: Float[Array, ' l'], normalize: bool = False
) -> Float[Array, 'b n d']:
  """Sum of layers by softmax(weights) (s3prl's Featurizer, arXiv 2105.01051).

  Args:
    states: of all layers.
    weights: before the softmax; zeros mix all layers alike.
    normalize: every state is layer-normed first, without scale and bias.
  """
  states = states.astype(jnp.float32)
  if normalize:
    centred = states - states.mean(-1, keepdims=True)
    states = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
  return (jax.nn.softmax(weights)[:, None, None, None] * states).sum(axis=0)


def _mean(x: Float[Array, 'l b n d'], mask: Bool[Array, 'b n']) -> Float[Array, 'l b d']:
  weight = mask.astype(jnp.float32)
  total = jnp.einsum('lbnd,bn->lbd', jnp.where(mask[None, ..., None], x, 0.0), weight)
  return total / jnp.maximum(weight.sum(axis=1), 1.0)[None, :, None]


def _max(x: Float[Array, 'l b n d'], mask: Bool[Array, 'b n']) -> Float[Array, 'l b d']:
  return jnp.where(mask[None, ..., None], x, -jnp.inf).max(axis=2)


def _std(x: Float[Array, 'l b n d'], mask: Bool[Array, 'b n']) -> Float[Array, 'l b d']:
  return jnp.sqrt(_mean(jnp.square(x - _mean(x, mask)[:, :, None]), mask))


def _mean_std(x: Float[Array, 'l b n d'], mask: Bool[Array, 'b n']) -> Float[Array, 'l b k']:
  return jnp.concatenate([_mean(x, mask), _std(x, mask)], axis=-1)


def _columns(tokens: int, count: int) -> int:
  if count < 1 or tokens % count:
    raise InputError(
      f'Pooling by bands needs rows of tokens of one time, {count} a row, but this model gives '
      f'{tokens} tokens; use mean.'
    )
  return count


def bands(
  pool: str, x: Float[Array, 'l b n d'], mask: Bool[Array, 'b n'], count: int
) -> Float[Array, 'l b k']:
  """A pooling over time of every frequency band of tokens by itself, bands side by side.

  M2D and MSM-MAE pool patches so (arXiv 2204.12260, section 2.4); with one band it is the plain
  pooling.

  Args:
    pool: a key of BAND_POOLS.
    x, mask: tokens, row by row in time, `count` a row.
    count: bands.

  Raises:
    InputError: the tokens do not come in such rows.
  """
  layers, b, n, d = x.shape
  rows = n // _columns(n, count)
  x, mask = x.reshape(layers, b, rows, count, d), mask.reshape(b, rows, count)
  each = [BAND_POOLS[pool](x[:, :, :, i], mask[:, :, i]) for i in range(count)]
  return jnp.concatenate(each, axis=-1)


BAND_POOLS: dict[str, Callable[..., Array]] = {'mean_bands': _mean, 'mean_std_bands': _mean_std}

# 'mean+max' is the sum, as BYOL-A pools (v2/byol_a2/models.py); 'mean_std' puts both side by side.
POOLS: dict[str, Callable[..., Array]] = {
  'mean': _mean,
  'max': _max,
  'mean+max': lambda x, mask: _mean(x, mask) + _max(x, mask),
  'mean_std': _mean_std,
}
NAMES = (*POOLS, *BAND_POOLS)
