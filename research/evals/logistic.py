"""L2-regularised logistic regression on frozen embeddings; the penalty is chosen on validation.

The problem is solved to convergence, so the result does not depend on a learning rate, seed or
early stopping. The protocol is that of CLIP's linear probes (arXiv 2103.00020, appendix A.3) on
standardised features. The loss is convex and its curvature is bounded by the second moment of the
features (Boehning, 1992, doi 10.1007/BF00048682): one eigendecomposition gives the step size of
every direction for every penalty. Steps are accelerated as in FISTA (Beck and Teboulle, 2009) with
restarts.
Dimensions: n clips, d width, c classes, p penalties.
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

# The objective is the mean loss per clip plus penalty / 2 * ||kernel||^2.
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(0.5, -3.1, -0.5))
MAX_STEPS = 2000


class LogisticResult(NamedTuple):
  """Result of the best penalty by validation score; ties go to the lower validation loss."""

  test_scores: np.ndarray  # logits f32 [n_test, c], after the refit if there is one
  validation: float
  penalty: float
  steps: int  # steps to convergence; MAX_STEPS if stopped there
  grid: list[dict[str, float]]  # penalty, validation, test of each, fitted to training rows only


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
  """Fits training rows with every penalty, selects one on validation rows and scores test rows.

  Args:
    features: embeddings of all clips.
    labels: int [n] (softmax cross-entropy) or multi-hot f32 [n, c] (binary cross-entropy summed
      over classes, so that classes are independent).
    rows: int arrays of training, validation and test rows.
    num_classes: c.
    metric: name in `classification.METRICS` that selects the penalty and is reported for each.
    penalties: values to try. Decreasing order is fastest: each solve is warm-started from the
      previous one.
    refit: fit the best penalty again on training and validation rows together, and score that.
    tolerance: convergence criterion: max relative excess of the objective over its minimum.
  """
  train, validation, test = (np.asarray(r) for r in rows)
  targets = np.eye(num_classes, dtype=np.float32)[labels] if labels.ndim == 1 else labels
  multi_label = labels.ndim == 2
  solve = functools.partial(_solve, features, targets, multi_label=multi_label, tolerance=tolerance)
  logits, steps = solve(train, np.concatenate([validation, test]), penalties)
  on_validation, on_test = np.split(logits, [len(validation)], axis=1)

  score = classification.METRICS[metric]
  by_validation = np.array([score(v, labels[validation]) for v in on_validation])
  loss = [_loss(v, targets[validation], multi_label) for v in on_validation]
  winner = int(np.lexsort((loss, -np.nan_to_num(by_validation, nan=-np.inf)))[0])
  test_scores, num_steps = on_test[winner], steps[winner]
  if refit:
    both = np.concatenate([train, validation])
    test_scores, num_steps = (a[0] for a in solve(both, test, penalties[winner : winner + 1]))
  return LogisticResult(
    test_scores=test_scores,
    validation=float(by_validation[winner]),
    penalty=penalties[winner],
    steps=int(num_steps),
    grid=[
      {'penalty': p, 'validation': float(v), 'test': float(score(t, labels[test]))}
      for p, v, t in zip(penalties, by_validation, on_test)
    ],
  )


def _solve(
  features: np.ndarray,
  targets: np.ndarray,
  train: np.ndarray,
  queries: np.ndarray,
  penalties: tuple[float, ...],
  *,
  multi_label: bool,
  tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Logits [p, n_queries, c] for every penalty, and the number of steps of each solve."""
  standardised = standardise(features, train)
  x, x_query = standardised[train], standardised[queries]
  if len(train) < x.shape[1]:
    # The optimum lies in the span of the training rows, so n_train directions are enough.
    basis = np.linalg.qr(x.T)[0]
    x, x_query = x @ basis, x_query @ basis
  kernels, biases, steps = _optimum(
    jnp.asarray(x), jnp.asarray(targets[train]), jnp.asarray(penalties, jnp.float32),
    jnp.float32(tolerance), multi_label=multi_label,
  )  # fmt: skip
  return np.einsum('nd,pdc->pnc', x_query, kernels) + np.asarray(biases)[:, None], np.asarray(steps)


def _loss(
  logits: Float[np.ndarray, 'n c'], targets: Float[np.ndarray, 'n c'], multi_label: bool
) -> float:
  """Mean loss per clip."""
  if multi_label:
    return float(np.mean(np.sum(np.logaddexp(0, logits) - targets * logits, axis=1)))
  return -float(np.mean(np.sum(targets * special.log_softmax(logits, axis=1), axis=1)))


@functools.partial(jax.jit, static_argnames='multi_label')
def _optimum(
  x: Float[Array, 'n d'], targets: Float[Array, 'n c'], penalties: Float[Array, ' p'],
  tolerance: Float[Array, ''], *, multi_label: bool,
) -> tuple[Float[Array, 'p d c'], Float[Array, 'p c'], Array]:  # fmt: skip
  """Kernel, bias and number of steps for every penalty, solved in order with warm starts.

  A solve ends when the relative excess of the objective over its minimum at this bias is at most
  `tolerance`, or after MAX_STEPS. Features have zero mean over the rows, so the curvature bound
  does not couple kernel and bias, and each has its own step size.
  """
  n, width = x.shape
  classes = targets.shape[1]
  moment, basis = jnp.linalg.eigh(jnp.matmul(x.T, x, precision='highest') / n)
  x = jnp.matmul(x, basis, precision='highest')
  # The Hessian of softmax cross-entropy is at most 1/2, that of the sigmoid 1/4.
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
      # Restart when momentum points uphill (O'Donoghue and Candes, 2015).
      uphill = sum(jnp.vdot(g, a - b) for g, a, b in zip(gradient, new, now)) > 0
      # In the kernel the objective is strongly convex with modulus `penalty`.
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
