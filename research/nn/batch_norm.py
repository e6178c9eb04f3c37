"""Batch norm with PyTorch's statistics: momentum 0.1, and an unbiased running variance.

Inside `jax.jit` the batch is the global one, so that a mesh of devices normalises as one device
does.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError
from research.nn.kernels import Dtype


class BatchNorm(nn.Module):
  """(x - mean) / sqrt(variance + epsilon) * scale + bias over all axes but the last.

  Statistics are computed in float32; running ones are in the collection 'batch_stats', with the
  number of batches that they have seen. With a mask over all axes but the last they are of the
  entries that are real.

  Raises:
    InputError: in training, a single value a channel, as PyTorch.
  """

  momentum: float = 0.1
  epsilon: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, '*axes d'],
    train: bool = False,
    mask: Bool[Array, '*axes'] | None = None,
  ) -> Float[Array, '*axes d']:
    d = x.shape[-1]
    scale = self.param('scale', nn.initializers.ones_init(), (d,))
    bias = self.param('bias', nn.initializers.zeros_init(), (d,))
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (d,))
    running_var = self.variable('batch_stats', 'var', jnp.ones, (d,))
    count = self.variable('batch_stats', 'count', jnp.zeros, (), jnp.int32)

    mean, var = running_mean.value, running_var.value
    y = x.astype(jnp.float32)
    if train:
      rows = x.size // d
      if rows == 1 and not self.is_initializing():
        raise InputError(
          'Batch norm has a single value a channel to learn from: take a batch of two clips or '
          'more.'
        )
      axes = tuple(range(x.ndim - 1))
      unbiased: Any = rows / max(rows - 1, 1)
      if mask is None:
        mean = y.mean(axis=axes)
        var = jnp.square(y - mean).mean(axis=axes)
      else:
        real, count_real = mask[..., None], mask.sum().astype(jnp.float32)
        total = jnp.maximum(count_real, 1.0)
        mean = jnp.where(real, y, 0.0).sum(axis=axes) / total
        var = jnp.where(real, jnp.square(y - mean), 0.0).sum(axis=axes) / total
        unbiased = total / jnp.maximum(total - 1.0, 1.0)
      if self.is_mutable_collection('batch_stats') and not self.is_initializing():
        seen = jax.lax.stop_gradient((mean, var * unbiased))
        running_mean.value += self.momentum * (seen[0] - running_mean.value)
        running_var.value += self.momentum * (seen[1] - running_var.value)
        count.value += 1
    gain = scale * jax.lax.rsqrt(var + self.epsilon)
    return ((y - mean) * gain + bias).astype(self.dtype)
