"""Losses of a generator and its discriminator, and a balance of gradients between losses.

Logits [r, n, f, 1] and feature maps [r, n, f, c] are lists, one of each scale of a discriminator,
and so are `frames` [r, n], those that count; None for all. Figures as in audiocraft's
adversarial/losses.py and encodec's balancer.py.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.objectives.codec import mean_over

Frames = Sequence[Array] | None  # bool [r, n] of every scale


def _mean(x: Array, frames: Frames, scale: int) -> Float[Array, '']:
  return x.mean() if frames is None else mean_over(x, frames[scale])


def generator_hinge(fake: Sequence[Array], frames: Frames = None) -> Float[Array, '']:
  """Mean over scales of mean -D(x^)."""
  means = [_mean(each, frames, i) for i, each in enumerate(fake)]
  return -sum(means, jnp.float32(0.0)) / len(fake)


def discriminator_hinge(
  real: Sequence[Array], fake: Sequence[Array], frames: Frames = None
) -> Float[Array, '']:
  """Mean over scales of mean max(0, 1 - D(x)) + mean max(0, 1 + D(x^)); near 0 where the
  discriminator always wins, 2 where it knows nothing."""
  terms = [
    _mean(jax.nn.relu(1.0 - x), frames, i) + _mean(jax.nn.relu(1.0 + y), frames, i)
    for i, (x, y) in enumerate(zip(real, fake, strict=True))
  ]
  return sum(terms, jnp.float32(0.0)) / len(terms)


def logit_gap(
  real: Sequence[Array], fake: Sequence[Array], frames: Frames = None
) -> Float[Array, '']:
  """Mean over scales of mean D(x) - mean D(x^): how far apart the two are."""
  return generator_hinge(fake, frames) - generator_hinge(real, frames)


def feature_matching(
  real: Sequence[Sequence[Array]], fake: Sequence[Sequence[Array]], frames: Frames = None
) -> Float[Array, '']:
  """Mean over scales and maps of mean |D_l(x^) - D_l(x)|."""
  terms = []
  for i, (x, y) in enumerate(zip(real, fake, strict=True)):
    each = [_mean(jnp.abs(p - q), frames, i) for p, q in zip(x, y, strict=True)]
    terms.append(sum(each, jnp.float32(0.0)) / len(each))
  return sum(terms, jnp.float32(0.0)) / len(terms)


# -- Balance -----------------------------------------------------------------------------------


class Norms(NamedTuple):
  """Running means of the norms of gradients.

  Attributes:
    totals: {loss: decayed sum of its norms}.
    weight: decayed number of updates.
  """

  totals: dict[str, Float[Array, '']]
  weight: Float[Array, '']


def no_norms(names: Sequence[str]) -> Norms:
  """Before the first update."""
  return Norms(dict.fromkeys(names, jnp.float32(0.0)), jnp.float32(0.0))


def balance(
  gradients: Mapping[str, Float[Array, 'b *s']],
  weights: Mapping[str, float],
  norms: Norms,
  *,
  decay: float = 0.999,
  total_norm: float = 1.0,
  per_item: bool = True,
  epsilon: float = 1e-12,
  valid: Bool[Array, ' b'] | None = None,
) -> tuple[Float[Array, 'b *s'], dict[str, Float[Array, '']], Norms]:
  """sum_i w_i / (sum_j w_j) total_norm / <|g_i|> g_i: weights say how much each loss moves the
  output, whatever its scale (arXiv 2210.13438, eq. 5).

  Args:
    gradients: of each loss with respect to the output.
    weights: of losses, of the same names.
    norms: running means before.
    decay: of the means, which are corrected for their start.
    total_norm: of the result, if gradients are as large as on average and of one direction.
    per_item: a norm is the mean of those of the clips, otherwise that of the batch.
    epsilon: added to mean norms.
    valid: clips that count in a norm per clip; the gradients of the others are 0.

  Returns:
    the gradient that goes on from the output, the factor of each loss in it, norms.
  """
  if set(gradients) != set(weights):
    raise ValueError(f'balance: gradients of {sorted(gradients)}, weights of {sorted(weights)}.')

  def norm(g: Array) -> Array:
    flat = g.reshape(len(g), -1) if per_item else g.reshape(1, -1)
    each = jnp.sqrt(jnp.square(flat).sum(axis=1))
    if valid is None or not per_item:
      return each.mean()
    return each.sum() / jnp.maximum(valid.sum(), 1).astype(jnp.float32)

  totals = {name: decay * norms.totals[name] + norm(g) for name, g in gradients.items()}
  weight = decay * norms.weight + 1.0
  whole = sum(weights.values())
  factors = {
    name: weights[name] / whole * total_norm / (epsilon + totals[name] / weight) for name in totals
  }
  moved = [factors[name] * g for name, g in gradients.items()]
  return sum(moved[1:], moved[0]), factors, Norms(totals, weight)
