"""Codebooks between continuous frames and discrete codes, as fairseq has them; those of VQ-VAE,
Jukebox and EnCodec are in `vector_quantizers`.

Perplexities are of the frames of the whole batch, wherever it lies; fairseq's are of the clips of
one GPU, and so is the diversity that it trains with. Of more frames they are somewhat higher.
Letters: b clips, m frames, c channels, g groups, k codes a group, d width of the output.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.nn import codebooks, kernels, layers
from research.nn.kernels.convolutions import time_norm

EPSILON = 1e-5


class Quantized(NamedTuple):
  """What a codebook says.

  Attributes:
    vectors: [b, m, d] chosen vectors of all groups, side by side.
    codes: int [b, m, g] what was chosen, with noise in training.
    best: int [b, m, g] what is chosen without noise.
    code_perplexity: sum over groups of exp(entropy of how often each code is best).
    min_code_perplexity: that of the group with the least: 1 where a group has one code left,
      which the sum does not show.
    loss: the codebook's own: number of codes of all groups minus `prob_perplexity` (Gumbel), or
      distance of frames and their vectors (k-means).
    logits: [b, m, g, k] without noise; None for k-means.
    prob_perplexity, min_prob_perplexity: as those of the codes, of the mean probability at
      temperature 1; None for k-means.
    encoded: [b, m, d] frames as they are compared with the vectors; None for Gumbel.
    code_usage, min_code_usage: fraction of the codes that a frame of the batch chose, mean over
      quantisers and that of the one with the least; None for Gumbel and k-means.
    commitments: [q] mean squared distances of frames and vectors of each quantiser in a row, see
      `vector_quantizers`; None for others.
  """

  vectors: Float[Array, 'b m d']
  codes: Int[Array, 'b m g']
  best: Int[Array, 'b m g']
  code_perplexity: Float[Array, '']
  min_code_perplexity: Float[Array, '']
  loss: Float[Array, '']
  logits: Float[Array, 'b m g k'] | None = None
  prob_perplexity: Float[Array, ''] | None = None
  min_prob_perplexity: Float[Array, ''] | None = None
  encoded: Float[Array, 'b m d'] | None = None
  code_usage: Float[Array, ''] | None = None
  min_code_usage: Float[Array, ''] | None = None
  commitments: Float[Array, ' q'] | None = None


def perplexities(probabilities: Float[Array, 'g k']) -> Float[Array, ' g']:
  """exp(entropy) of every group, with 1e-7 inside the logarithm as fairseq has it."""
  return codebooks.perplexity(probabilities, 1e-7)


def _weights(used: Bool[Array, 'b m']) -> Float[Array, 'b m']:
  """Weights of the frames that count; they sum to 1."""
  weight = used.astype(jnp.float32)
  return weight / jnp.maximum(weight.sum(), 1.0)


# -- Temperature -------------------------------------------------------------------------------


def falling_temperature(
  updates: Int[Array, ''], start: float, end: float, decay: float
) -> Float[Array, '']:
  """max(start decay^updates, end).

  The logarithm of a decay next to 1 is taken in double precision: in float32 0.999995 itself is off
  by so much that its power is 0.4 % too low after 590,000 updates.

  Raises:
    InputError: a decay that is not above 0.
  """
  if decay <= 0.0:
    raise InputError(f'temperature_decay={decay!r}: a temperature falls by a factor above 0.')
  return jnp.maximum(start * jnp.exp(updates.astype(jnp.float32) * math.log(decay)), end)


# -- Gumbel ------------------------------------------------------------------------------------


class GumbelQuantizer(nn.Module):
  """Product quantiser with a straight-through Gumbel softmax (fairseq gumbel_vector_quantizer.py).

  Forward is one-hot, the gradient that of the noisy softmax at the temperature. In evaluation the
  best code is taken. Parameters: `codebook` [g, k, d / g], or [1, k, d / g] where the groups share
  it, uniform in [0, 1); `logits`, a Dense, behind Denses `hidden_0`, … of twice the input's width
  where `depth` is above 1.
  """

  groups: int
  codes: int
  width: int
  dtype: Any = jnp.float32
  shared: bool = False
  depth: int = 1
  activation: Any = kernels.gelu

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b m c'],
    used: Bool[Array, 'b m'],
    temperature: Float[Array, ''] | float,
    noise: Float[Array, 'b m g k'] | None = None,
    train: bool = False,
  ) -> Quantized:
    """Quantises frames; those that are not `used` do not count in the perplexities.

    `noise` is Gumbel noise; if none is given, training draws it from rng 'noise'.
    """
    b, m, channels = x.shape
    g, k = self.groups, self.codes
    for i in range(self.depth - 1):
      start = layers.uniform(float(x.shape[-1]) ** -0.5)
      hidden = layers.Dense(2 * channels, self.dtype, start, start, name=f'hidden_{i}')
      x = self.activation(hidden(x))
    # One layer alone starts as fairseq draws it, a deeper head as PyTorch does.
    kernel, bias = nn.initializers.normal(1.0), nn.initializers.zeros_init()
    if self.depth > 1:
      kernel = bias = layers.uniform(float(x.shape[-1]) ** -0.5)
    head = layers.Dense(g * k, self.dtype, kernel, bias, name='logits')
    logits = head(x).astype(jnp.float32).reshape(b, m, g, k)
    rows = 1 if self.shared else g
    codebook = self.param('codebook', layers.unit, (rows, k, self.width // g))

    # How much of the codebook is in use.
    weight = _weights(used)
    best = jnp.argmax(logits, axis=-1)
    soft_each = perplexities(jnp.einsum('bmgk,bm->gk', jax.nn.softmax(logits), weight))
    hard_each = perplexities(jnp.einsum('bmgk,bm->gk', jax.nn.one_hot(best, k), weight))

    if train:
      if noise is None:
        noise = jax.random.gumbel(self.make_rng('noise'), logits.shape)
      soft = jax.nn.softmax((logits + noise) / temperature)
      codes = jnp.argmax(soft, axis=-1)
      choice = jax.lax.stop_gradient(jax.nn.one_hot(codes, k) - soft) + soft
    else:
      codes, choice = best, jax.nn.one_hot(best, k)
    every = jnp.broadcast_to(codebook, (g, *codebook.shape[1:]))
    vectors = jnp.einsum('bmgk,gkd->bmgd', choice, every).reshape(b, m, self.width)
    return Quantized(
      vectors,
      codes,
      best,
      code_perplexity=hard_each.sum(),
      min_code_perplexity=hard_each.min(),
      loss=g * k - soft_each.sum(),
      logits=logits,
      prob_perplexity=soft_each.sum(),
      min_prob_perplexity=soft_each.min(),
    )

  def vectors(self, codes: Int[Array, '*places g']) -> Float[Array, '*places d']:
    """The codebook's vectors of codes, all groups side by side; of a quantiser that was called."""
    codebook: Any = self.get_variable('params', 'codebook')
    every = jnp.broadcast_to(codebook, (self.groups, *codebook.shape[1:]))
    parts = [every[i][codes[..., i]] for i in range(self.groups)]
    return jnp.concatenate(parts, axis=-1)


# -- k-means -----------------------------------------------------------------------------------


class KMeansQuantizer(nn.Module):
  """Product quantiser that takes the nearest vector of each group (fairseq
  kmeans_vector_quantizer.py).

  Frames are projected group by group and normed over time and the group's channels; the gradient of
  the vectors goes straight to the projected frames. The codebook itself learns from the loss alone:
  mean (z_q - sg(z_e))^2 + gamma mean (z_e - sg(z_q))^2. Parameters: `codebook` [g, k, c / g], or
  [1, k, c / g] where the groups share it, drawn from 0.01 N(0, 1); `kernel` [g, c / g, c / g];
  `norm_scale`, `norm_bias` [c]. Vectors are as wide as the input.
  """

  groups: int
  codes: int
  gamma: float = 0.25
  shared: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b m c'], used: Bool[Array, 'b m'], counted: Bool[Array, 'b m']
  ) -> Quantized:
    """Quantises frames, in float32.

    Args:
      x: frames.
      used: which count in the perplexity and the loss.
      counted: which count in the norm over time.
    """
    b, m, c = x.shape
    g, part = self.groups, c // self.groups
    start = layers.uniform(float(part) ** -0.5)
    kernel = self.param('kernel', start, (g, part, part))
    scale = self.param('norm_scale', nn.initializers.ones_init(), (c,))
    bias = self.param('norm_bias', nn.initializers.zeros_init(), (c,))
    rows = 1 if self.shared else g
    codebook = self.param('codebook', nn.initializers.normal(0.01), (rows, self.codes, part))
    every = jnp.broadcast_to(codebook, (g, *codebook.shape[1:]))

    split = x.astype(jnp.float32).reshape(b, m, g, part)
    encoded = jnp.einsum('bmgi,gio->bmgo', split, kernel).reshape(b, m, c)
    encoded = time_norm(encoded, scale, bias, counted, EPSILON, g)

    # The nearest vector: |z - e|^2 without |z|^2, which is the same for all of them.
    parts = jax.lax.stop_gradient(encoded).reshape(b, m, g, part)
    products = jnp.einsum('bmgd,gkd->bmgk', parts, every, precision='highest')
    codes = jnp.argmin(jnp.square(every).sum(axis=-1) - 2.0 * products, axis=-1)
    choice = jax.nn.one_hot(codes, self.codes)
    chosen = jnp.einsum('bmgk,gkd->bmgd', choice, every, precision='highest').reshape(b, m, c)

    weight = _weights(used)
    still = jax.lax.stop_gradient

    def distance(one, other):
      return jnp.einsum('bmc,bm->', jnp.square(one - other), weight) / c

    loss = distance(chosen, still(encoded)) + self.gamma * distance(encoded, still(chosen))
    each = perplexities(jnp.einsum('bmgk,bm->gk', choice, weight))
    vectors = still(chosen) + (encoded - still(encoded))
    return Quantized(vectors, codes, codes, each.sum(), each.min(), loss, encoded=encoded)
