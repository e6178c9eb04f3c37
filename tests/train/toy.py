"""A model small enough to check a training step by hand."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class Toy(nn.Module):
  """Two dense layers over the waveform, with a running mean and dropout-like noise."""

  width: int = 8
  noise: float = 0.0

  @nn.compact
  def __call__(self, batch, train=False):
    x = jnp.where(batch['audio_mask'], batch['audio'], 0.0)
    if self.noise and train:
      x = x + self.noise * jax.random.normal(self.make_rng('noise'), x.shape)
    mean = self.variable('statistics', 'mean', lambda: jnp.zeros((), jnp.float32))
    if train and not self.is_initializing():
      mean.value = 0.9 * mean.value + 0.1 * jnp.mean(x)
    h = nn.tanh(nn.Dense(self.width, name='fc1')(x))
    out = nn.Dense(1, name='fc2')(h)
    return {'embedding': h, 'pred': out[:, 0]}


def squared(out, batch):
  """Regression on the mean of the waveform, averaged over rows."""
  error = jnp.square(out['pred'] - batch['target'])
  return jnp.mean(error), {'error': jnp.mean(error)}


def batch_of(rows=16, samples=12, seed=0):
  key = jax.random.key(seed)
  audio = jax.random.normal(key, (rows, samples))
  return {
    'audio': audio,
    'audio_mask': jnp.ones((rows, samples), bool),
    'target': audio.mean(axis=1),
  }
