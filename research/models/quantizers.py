"""Codebooks between continuous frames and discrete codes.

Letters: b clips, m frames, c channels, g groups, k codes a group, d width of the output.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.models import layers


class Quantized(NamedTuple):
  """What a codebook says.

  Attributes:
    vectors: [b, m, d] chosen vectors of all groups, side by side.
    codes: int [b, m, g] what was chosen, with noise in training.
    best: int [b, m, g] what is chosen without noise.
    logits: [b, m, g, k] without noise.
    prob_perplexity: sum over groups of exp(entropy of the mean probability), temperature 1.
    code_perplexity: the same of how often each code is best.
  """

  vectors: Float[Array, 'b m d']
  codes: Int[Array, 'b m g']
  best: Int[Array, 'b m g']
  logits: Float[Array, 'b m g k']
  prob_perplexity: Float[Array, '']
  code_perplexity: Float[Array, '']


def perplexity(probabilities: Float[Array, 'g k']) -> Float[Array, '']:
  """Sum over groups of exp(entropy), with 1e-7 inside the logarithm as fairseq has it."""
  entropy = -(probabilities * jnp.log(probabilities + 1e-7)).sum(axis=-1)
  return jnp.exp(entropy).sum()


class GumbelQuantizer(nn.Module):
  """Product quantiser with a straight-through Gumbel softmax (fairseq gumbel_vector_quantizer.py).

  Forward is one-hot, the gradient that of the noisy softmax at the temperature. In evaluation the
  best code is taken. Parameters: `codebook` [g, k, d / g], uniform in [0, 1); `logits`, a Dense.
  """

  groups: int
  codes: int
  width: int
  dtype: Any = jnp.float32

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
    b, m, _ = x.shape
    g, k = self.groups, self.codes
    head = layers.Dense(g * k, self.dtype, nn.initializers.normal(1.0), name='logits')
    logits = head(x).astype(jnp.float32).reshape(b, m, g, k)
    codebook = self.param(
      'codebook',
      lambda key, shape: jax.random.uniform(key, shape),
      (g, k, self.width // g),
    )

    # How much of the codebook is in use.
    weight = used.astype(jnp.float32)
    weight = weight / jnp.maximum(weight.sum(), 1.0)
    best = jnp.argmax(logits, axis=-1)
    prob_perplexity = perplexity(jnp.einsum('bmgk,bm->gk', jax.nn.softmax(logits), weight))
    usage = jnp.einsum('bmgk,bm->gk', jax.nn.one_hot(best, k), weight)

    if train:
      if noise is None:
        noise = jax.random.gumbel(self.make_rng('noise'), logits.shape)
      soft = jax.nn.softmax((logits + noise) / temperature)
      codes = jnp.argmax(soft, axis=-1)
      choice = jax.lax.stop_gradient(jax.nn.one_hot(codes, k) - soft) + soft
    else:
      codes, choice = best, jax.nn.one_hot(best, k)
    vectors = jnp.einsum('bmgk,gkd->bmgd', choice, codebook).reshape(b, m, self.width)
    return Quantized(vectors, codes, best, logits, prob_perplexity, perplexity(usage))
