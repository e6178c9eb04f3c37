"""Linear probe at its optimum: logistic regression with an L2 penalty that the validation rows
choose. It is solved, so that neither learning rate, nor seed, nor early stopping has a say.

The protocol is the one of CLIP's linear probes (arXiv 2103.00020, appendix A.3) on standardised
features. The loss is convex and its curvature is bounded by the features' second moment (Boehning,
1992, doi 10.1007/BF00048682): one eigendecomposition gives the step of every direction and of every
penalty, accelerated as in FISTA (Beck and Teboulle, 2009) with restarts.
Letters: n clips, d width, c classes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy import special

from research.evals.probe import standardise
from research.metrics import classification

# Times half the squared norm of the kernel, against the mean loss of a clip.
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(0.5, -3.1, -0.5))
MAX_STEPS = 2000


class LogisticResult(NamedTuple):
  """What was found. The winning penalty has the best validation score, of ties the lowest loss."""

  test_scores: np.ndarray  # logits f32 [n_test, c] of the winner, trained again or not
  validation: float
  penalty: float
  steps: int  # that the winner took; MAX_STEPS where it was stopped
  grid: list[dict[str, float]]  # penalty, validation, test of each (all of training rows alone)


def fit(
  features: Float[np.ndarray, 'n d'],
  labels: np.ndarray,
  rows: tuple[np.ndarray, np.ndarray, np.ndarray],
  *,
  num_classes: int,
  metric: str,
  penalties: tuple[float, ...] = PENALTIES,
  refit: bool = False,
  tolerance: float = 1e-3,
) -> LogisticResult:
  """Solves for every penalty on some rows, chooses on others and scores the rest.

  Args:
    features: embeddings of all clips.
    labels: int [n] (softmax cross-entropy) or multi-hot f32 [n, c] (a binary cross-entropy a class,
      summed, so that each class is solved as if alone).
    rows: int arrays of training, validation and test rows.
    num_classes: c.
    metric: the name in `scores.METRICS` that chooses the penalty and is reported for each.
    penalties: to try; largest first is quickest, each starts where the one before ended.
    refit: solve with the winner on training and validation rows together, and score that.
    tolerance: the share of the objective by which it may be above its least value.
  """
  train, validation, test = (np.asarray(r) for r in rows)
  targets = np.eye(num_classes, dtype=np.float32)[labels] if labels.ndim == 1 else labels
  multi_label = labels.ndim == 2
  solve = functools.partial(_solve, features, targets, multi_label=multi_label, tolerance=tolerance)
  logits, steps = solve(train, np.concatenate([validation, test]), penalties)
  first, second = np.split(logits, [len(validation)], axis=1)

  score = classification.METRICS[metric]
  by_validation = np.array([score(v, labels[validation]) for v in first])
  loss = [_loss(v, targets[validation], multi_label) for v in first]
  winner = int(np.lexsort((loss, -np.nan_to_num(by_validation, nan=-np.inf)))[0])
  said, taken = second[winner], steps[winner]
  if refit:
    both = np.concatenate([train, validation])
    said, taken = (a[0] for a in solve(both, test, penalties[winner : winner + 1]))
  return LogisticResult(
    test_scores=said,
    validation=float(by_validation[winner]),
    penalty=penalties[winner],
    steps=int(taken),
    grid=[
      {'penalty': p, 'validation': float(v), 'test': float(score(t, labels[test]))}
      for p, v, t in zip(penalties, by_validation, second)
    ],
  )


def _solve(
  features: np.ndarray,
  targets: np.ndarray,
  train: np.ndarray,
  asked: np.ndarray,
  penalties: tuple[float, ...],
  *,
  multi_label: bool,
  tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Logits [p, n_asked, c] for every penalty, and the steps each took."""
  x = standardise(features, train)
  known, queries = x[train], x[asked]
  if len(train) < x.shape[1]:
    # The optimum lies in the span of the training rows: so many directions are enough.
    basis = np.linalg.qr(known.T)[0]
    known, queries = known @ basis, queries @ basis
  kernels, biases, steps = _optimum(
    jnp.asarray(known), jnp.asarray(targets[train]), jnp.asarray(penalties, jnp.float32),
    jnp.float32(tolerance), multi_label=multi_label,
  )  # fmt: skip
  return np.einsum('nd,pdc->pnc', queries, kernels) + np.asarray(biases)[:, None], np.asarray(steps)


def _loss(
  logits: Float[np.ndarray, 'n c'], targets: Float[np.ndarray, 'n c'], multi_label: bool
) -> float:
  """Mean loss of a clip."""
  if multi_label:
    return float(np.mean(np.sum(np.logaddexp(0, logits) - targets * logits, axis=1)))
  return -float(np.mean(np.sum(targets * special.log_softmax(logits, axis=1), axis=1)))


@functools.partial(jax.jit, static_argnames='multi_label')
def _optimum(
  x: Float[Array, 'n d'], targets: Float[Array, 'n c'], penalties: Float[Array, ' p'],
  tolerance: Float[Array, ''], *, multi_label: bool,
) -> tuple[Float[Array, 'p d c'], Float[Array, 'p c'], Array]:  # fmt: skip
  """Kernel and bias of every penalty, solved one after the other, and how many steps each took.

  The search ends when the objective is at most a share `tolerance` above the least that this bias
  allows, or after MAX_STEPS. Rows of x have zero mean, so that the bound on the curvature does not
  couple kernel and bias, and each may have its own step.
  """
  n, width = x.shape
  classes = targets.shape[1]
  moment, basis = jnp.linalg.eigh(jnp.matmul(x.T, x, precision='highest') / n)
  x = jnp.matmul(x, basis, precision='highest')
  # The Hessian of softmax is at most 1/2, that of the sigmoid 1/4.
  bound = 0.25 if multi_label else 0.5
  curvature = bound * jnp.maximum(moment, 0.0)[:, None]  # [d, 1]

  def objective(params, penalty):
    kernel, bias = params
    logits = jnp.matmul(x, kernel, precision='highest') + bias
    if multi_label:
      loss = optax.sigmoid_binary_cross_entropy(logits, targets).sum() / n
    else:
      loss = optax.softmax_cross_entropy(logits, targets).mean()
    return loss + 0.5 * penalty * jnp.square(kernel).sum()

  def one_penalty(carry, penalty):
    sizes = 1.0 / (curvature + penalty), 1.0 / bound

    def step(state):
      now, before, momentum, count, _ = state
      following = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * momentum**2))
      ahead = jax.tree.map(lambda a, b: a + (momentum - 1.0) / following * (a - b), now, before)
      value, gradient = jax.value_and_grad(objective)(ahead, penalty)
      new = jax.tree.map(lambda w, g, size: w - size * g, ahead, gradient, sizes)
      # Momentum that points uphill starts afresh (O'Donoghue and Candes, 2015).
      uphill = sum(jnp.vdot(g, a - b) for g, a, b in zip(gradient, new, now)) > 0
      # Along the kernel the objective is everywhere at least as curved as the penalty.
      excess = 0.5 * jnp.square(gradient[0]).sum() / penalty / value
      return new, now, jnp.where(uphill, 1.0, following), count + 1, excess

    def going(state):
      *_, count, excess = state
      return (excess > tolerance) & (count < MAX_STEPS)

    first = (carry, carry, jnp.float32(1.0), jnp.int32(0), jnp.float32(jnp.inf))
    end, _, _, count, _ = jax.lax.while_loop(going, step, first)
    return end, (*end, count)

  start = jnp.zeros((width, classes)), jnp.zeros((classes,))
  _, (kernels, biases, counts) = jax.lax.scan(one_penalty, start, penalties)
  return jnp.einsum('de,pec->pdc', basis, kernels), biases, counts
