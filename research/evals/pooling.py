"""Tokens of a clip to one vector."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError


def _mean(x: Float[Array, 'l b n d'], mask: Bool[Array, 'b n']) -> Float[Array, 'l b d']:
  weight = mask.astype(jnp.float32)
  total = jnp.einsum('lbnd,bn->lbd', jnp.where(mask[None, ..., None], x, 0.0), weight)
  return total / jnp.maximum(weight.sum(axis=1), 1.0)[None, :, None]


def _max(x: Float[Array, 'l b n d'], mask: Bool[Array, 'b n']) -> Float[Array, 'l b d']:
  return jnp.where(mask[None, ..., None], x, -jnp.inf).max(axis=2)


def _std(x: Float[Array, 'l b n d'], mask: Bool[Array, 'b n']) -> Float[Array, 'l b d']:
  return jnp.sqrt(_mean(jnp.square(x - _mean(x, mask)[:, :, None]), mask))


def _columns(tokens: int, count: int) -> int:
  if count < 1 or tokens % count:
    raise InputError(
      f"Pooling 'mean_bands' needs rows of tokens of one time, {count} a row, but this model gives "
      f'{tokens} tokens; use mean.'
    )
  return count


def mean_bands(
  x: Float[Array, 'l b n d'], mask: Bool[Array, 'b n'], bands: int
) -> Float[Array, 'l b k']:
  """Mean over time of every frequency band of tokens, bands side by side (k = bands * d).

  M2D and MSM-MAE pool patches so (arXiv 2204.12260, section 2.4); with one band it is the mean.
  """
  layers, b, n, d = x.shape
  rows = n // _columns(n, bands)
  x, mask = x.reshape(layers, b, rows, bands, d), mask.reshape(b, rows, bands)
  each = [_mean(x[:, :, :, i], mask[:, :, i]) for i in range(bands)]
  return jnp.concatenate(each, axis=-1)


# 'mean+max' is the sum, as BYOL-A pools (v2/byol_a2/models.py); 'mean_std' puts both side by side.
POOLS: dict[str, Callable[..., Array]] = {
  'mean': _mean,
  'max': _max,
  'mean+max': lambda x, mask: _mean(x, mask) + _max(x, mask),
  'mean_std': lambda x, mask: jnp.concatenate([_mean(x, mask), _std(x, mask)], axis=-1),
  'mean_bands': mean_bands,
}
