"""Linear probe on frozen embeddings. All (learning rate, weight decay) points and seeds train
together in one jitted program; the validation rows select the point.

The protocol is that of BYOL-A and EVAR (https://github.com/nttcslab/eval-audio-repr): features
standardised with the statistics of the training rows, a linear layer, Adam with L2 weight decay on
the kernel, early stopping. With `refit`, the selected point is trained again on training and
validation rows together, as five-fold protocols train on four folds.
Dimensions: n clips, d width, c classes, k seeds, g grid points, b batch.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from research.metrics import classification

MIN_BATCH = 32


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
  """Training settings of the probe.

  A round is one pass over the training rows, but at least `min_round_steps` steps. The validation
  rows are scored after each round. A grid point stops after `patience` rounds without a better
  validation score (ties: lower validation loss), and its best round is used.
  """

  learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
  weight_decays: tuple[float, ...] = (0.0, 1e-3, 1e-2, 1e-1)
  seeds: int = 3
  batch_size: int = 256  # upper bound; smaller if a pass would have fewer than `min_batches`
  min_batches: int = 4  # with one batch per pass all seeds would train identically
  max_rounds: int = 60
  min_round_steps: int = 20
  patience: int = 10


# EVAR's linear evaluation (lineareval.py, 2pass_lineareval.py): Adam, no schedule, no refit with
# the validation rows. EVAR sets the learning rate per system and task, from 3e-5 to 1e-3 for BYOL-A
# v2; here it is selected on validation. EVAR divides the loss by the number of classes; Adam is
# invariant to that.
EVAR = ProbeConfig(
  learning_rates=(3e-5, 1e-4, 3e-4, 1e-3),
  weight_decays=(1e-8,),
  batch_size=200,
  min_batches=1,
  max_rounds=200,
  min_round_steps=1,
  patience=20,
)


class ProbeResult(NamedTuple):
  """Result of the best grid point by mean validation score over seeds; ties go to the lower mean
  validation loss."""

  test_scores: np.ndarray  # logits f32 [k, n_test, c], after the refit if there is one
  validation: float  # validation score, mean over seeds
  learning_rate: float
  weight_decay: float
  rounds: list[int]  # round of each seed's best validation score, counted from 1
  grid: list[dict[str, float]]  # learning_rate, weight_decay, validation, test of every point,
  # trained on training rows only


class _Carry(NamedTuple):
  params: Any
  opt_state: Any
  best: Any  # params of the best round
  best_score: Array  # [k, g]
  best_loss: Array  # [k, g]
  best_round: Array  # [k, g]
  round: Array  # []
  keys: Array  # [k]


def fit(
  features: Float[np.ndarray, 'n d'],
  labels: np.ndarray,
  rows: tuple[np.ndarray, np.ndarray, np.ndarray],
  *,
  num_classes: int,
  metric: str,
  config: ProbeConfig = ProbeConfig(),
  refit: bool = False,
  pad_to: tuple[int, int] = (0, 0),
) -> ProbeResult:
  """Trains the probe, selects the grid point on validation rows and scores test rows.

  Args:
    features: embeddings of all clips.
    labels: int [n] (softmax cross-entropy) or multi-hot f32 [n, c] (binary cross-entropy).
    rows: int arrays of training, validation and test rows.
    num_classes: c.
    metric: name in `classification.METRICS` that selects the grid point and is reported for each.
    config: training settings.
    refit: train the best point again on training and validation rows together, each seed for its
      own best number of rounds, and score that.
    pad_to: minimum padded numbers of training and validation rows, so that folds of different
      sizes share one compiled program. Padding changes the random order and the number of batches
      in a round.
  """
  train, validation, test = (np.asarray(r) for r in rows)
  x = standardise(features, train)
  y = jnp.asarray(labels, jnp.int32 if labels.ndim == 1 else jnp.float32)
  rates, decays = (a.ravel() for a in np.meshgrid(config.learning_rates, config.weight_decays))
  best, best_round, best_loss = _train(
    jnp.asarray(x),
    y,
    _pad(train, pad_to[0]),
    jnp.int32(len(train)),
    _pad(validation, pad_to[1]),
    jnp.int32(len(validation)),
    jnp.asarray(rates, jnp.float32),
    jnp.asarray(decays, jnp.float32),
    num_classes=num_classes,
    config=config,
  )
  logits = np.asarray(_logits(best, jnp.asarray(x[np.concatenate([validation, test])])))
  score = classification.METRICS[metric]
  tables = [
    np.array([[score(s[:, g], labels[r]) for g in range(len(rates))] for s in part])  # [k, g]
    for part, r in (
      (logits[:, : len(validation)], validation),
      (logits[:, len(validation) :], test),
    )
  ]
  by_validation, by_test = (np.nan_to_num(t, nan=-np.inf).mean(axis=0) for t in tables)
  winner = int(np.lexsort((np.asarray(best_loss).mean(axis=0), -by_validation))[0])
  test_scores = logits[:, len(validation) :, winner]
  if refit:
    both = np.concatenate([train, validation])
    x = standardise(features, both)
    final = _retrain(
      jnp.asarray(x),
      y,
      _pad(both, sum(pad_to)),
      jnp.int32(len(both)),
      jnp.asarray(rates[winner : winner + 1], jnp.float32),
      jnp.asarray(decays[winner : winner + 1], jnp.float32),
      best_round[:, winner],
      num_classes=num_classes,
      config=config,
    )
    test_scores = np.asarray(_logits(final, jnp.asarray(x[test])))[:, :, 0]
  return ProbeResult(
    test_scores=test_scores,
    validation=float(by_validation[winner]),
    learning_rate=float(rates[winner]),
    weight_decay=float(decays[winner]),
    rounds=[int(r) for r in np.asarray(best_round)[:, winner]],
    grid=[
      {
        'learning_rate': float(rates[g]),
        'weight_decay': float(decays[g]),
        'validation': float(by_validation[g]),
        'test': float(by_test[g]),
      }
      for g in range(len(rates))
    ],
  )


def standardise(features: np.ndarray, train: np.ndarray) -> np.ndarray:
  """Features with zero mean and unit variance over the training rows; constant ones become 0."""
  seen = features[train].astype(np.float64)
  mean, std = seen.mean(axis=0), seen.std(axis=0)
  constant = std <= 1e-6 * np.maximum(1.0, np.abs(mean))
  scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, std))
  return ((features - mean) * scale).astype(np.float32)


def _pad(rows: np.ndarray, count: int) -> Array:
  padded = np.zeros(max(len(rows), count), np.int32)
  padded[: len(rows)] = rows
  return jnp.asarray(padded)


def _logits(params: dict[str, Array], x: Array) -> Array:
  """Logits [k, n, g, c] of kernels [k, d, g, c], for rows [n, d] shared by seeds or [k, n, d]."""
  k, d, g, c = params['kernel'].shape
  kernel = params['kernel'].reshape(k, d, g * c)
  out = jnp.einsum('knd,kdo->kno' if x.ndim == 3 else 'nd,kdo->kno', x, kernel)
  return out.reshape(k, x.shape[-2], g, c) + params['bias'][:, None]


def _loss(logits: Float[Array, 'k n g c'], y: Array) -> Float[Array, 'k n g']:
  """Loss per clip; labels are [k, n] or multi-hot [k, n, c]."""
  if y.ndim == 2:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, :, None, None], axis=-1)[..., 0]
  return optax.sigmoid_binary_cross_entropy(logits, y[:, :, None, :]).mean(axis=-1)


def _quick_average_precision(logits: Array, y: Array, valid: Array) -> Array:
  """mAP [k, g] of logits [k, n, g, c], without tie handling; only used to compare rounds."""
  logits = jnp.where(valid[None, :, None, None], logits, -jnp.inf)
  order = jnp.argsort(-logits, axis=1)
  hit = jnp.take_along_axis(jnp.where(valid[:, None], y, 0.0)[None, :, None, :], order, axis=1)
  ranks = jnp.arange(1, y.shape[0] + 1, dtype=jnp.float32)[None, :, None, None]
  positives = hit.sum(axis=1)
  precision = (hit * jnp.cumsum(hit, axis=1) / ranks).sum(axis=1) / jnp.maximum(positives, 1.0)
  defined = (positives > 0).astype(jnp.float32)
  return (precision * defined).sum(-1) / jnp.maximum(defined.sum(-1), 1.0)


def _validate(params: Any, x: Array, y: Array, valid: Array) -> tuple[Array, Array]:
  """Validation score and loss, both [k, g]."""
  logits = _logits(params, x)
  weight = valid.astype(jnp.float32)[None, :, None]
  total = weight.sum()
  labels = jnp.broadcast_to(y[None], (logits.shape[0], *y.shape))
  loss = (_loss(logits, labels) * weight).sum(axis=1) / total
  if y.ndim == 2:
    return _quick_average_precision(logits, y, valid), loss
  correct = (jnp.argmax(logits, axis=-1) == labels[..., None]).astype(jnp.float32)
  return (correct * weight).sum(axis=1) / total, loss


def _start(optimizer: Any, seeds: int, points: int, width: int, num_classes: int) -> _Carry:
  """Initial carry: small random kernels, one draw per seed, shared by its grid points."""
  keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
  draw = jax.vmap(lambda key: jax.random.normal(key, (width, 1, num_classes)))(keys)
  params = {
    'kernel': jnp.tile(0.01 * draw, (1, 1, points, 1)),
    'bias': jnp.zeros((seeds, points, num_classes)),
  }
  worst = jnp.full((seeds, points), -jnp.inf)
  return _Carry(
    params=params,
    opt_state=optimizer.init(params),
    best=params,
    best_score=worst,
    best_loss=-worst,
    best_round=jnp.zeros((seeds, points), jnp.int32),
    round=jnp.int32(0),
    keys=jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys),
  )


def _passes(x, y, train, num_train, rates, decays, config: ProbeConfig):
  """(optimizer, one_pass), where one_pass(params, opt_state, keys) runs one round."""
  max_batch = max(MIN_BATCH, train.shape[0] // config.min_batches)
  batch = min(config.batch_size, max_batch, train.shape[0])
  steps = max(config.min_round_steps, train.shape[0] // batch)
  optimizer = optax.scale_by_adam()

  def objective(params, rows):
    loss = _loss(_logits(params, x[rows]), y[rows]).mean(axis=1)
    penalty = 0.5 * decays * jnp.square(params['kernel']).sum(axis=(1, 3))
    return (loss + penalty).sum()  # the terms share no parameters, so gradients are independent

  def one_pass(params, opt_state, keys):
    keys = jax.vmap(jax.random.split)(keys)
    noise = jax.vmap(lambda key: jax.random.uniform(key, train.shape))(keys[:, 1])
    shuffled = jnp.argsort(jnp.where(jnp.arange(train.shape[0]) < num_train, noise, 2.0), axis=1)

    def step(i, state):
      params, opt_state = state
      places = (i * batch + jnp.arange(batch)) % num_train
      gradient = jax.grad(objective)(params, train[shuffled[:, places]])
      with jax.numpy_dtype_promotion('standard'):  # optax mixes its int32 counter with floats
        update, opt_state = optimizer.update(gradient, opt_state)
      update = jax.tree.map(lambda u: -u * rates[:, None], update)  # [k, (d,) g, c]
      return optax.apply_updates(params, update), opt_state

    return *jax.lax.fori_loop(0, steps, step, (params, opt_state)), keys[:, 0]

  return optimizer, one_pass


@functools.partial(jax.jit, static_argnames=('num_classes', 'config'))
def _train(
  x: Float[Array, 'n d'],
  y: Array,
  train: Array,
  num_train: Array,
  validation: Array,
  num_validation: Array,
  rates: Float[Array, ' g'],
  decays: Float[Array, ' g'],
  *,
  num_classes: int,
  config: ProbeConfig,
) -> tuple[dict[str, Array], Array, Array]:
  """Parameters, number [k, g] and validation loss [k, g] of the best round per seed and point."""
  valid = jnp.arange(validation.shape[0]) < num_validation
  x_val, y_val = x[validation], y[validation]
  optimizer, one_pass = _passes(x, y, train, num_train, rates, decays, config)

  def one_round(carry: _Carry) -> _Carry:
    params, opt_state, keys = one_pass(carry.params, carry.opt_state, carry.keys)
    score, loss = _validate(params, x_val, y_val, valid)
    better = (score > carry.best_score) | ((score == carry.best_score) & (loss < carry.best_loss))
    better &= carry.round - carry.best_round < config.patience  # stopped points stay stopped
    kept = {'kernel': better[:, None, :, None], 'bias': better[..., None]}
    return _Carry(
      params,
      opt_state,
      jax.tree.map(jnp.where, kept, params, carry.best),
      jnp.where(better, score, carry.best_score),
      jnp.where(better, loss, carry.best_loss),
      jnp.where(better, carry.round + 1, carry.best_round),
      carry.round + 1,
      keys,
    )

  def going(carry: _Carry) -> Array:
    waiting = jnp.any(carry.round - carry.best_round < config.patience)
    return (carry.round < config.max_rounds) & waiting

  start = _start(optimizer, config.seeds, rates.shape[0], x.shape[1], num_classes)
  end = jax.lax.while_loop(going, one_round, start)
  return end.best, end.best_round, end.best_loss


@functools.partial(jax.jit, static_argnames=('num_classes', 'config'))
def _retrain(
  x: Float[Array, 'n d'],
  y: Array,
  train: Array,
  num_train: Array,
  rates: Float[Array, ' 1'],
  decays: Float[Array, ' 1'],
  rounds: Array,
  *,
  num_classes: int,
  config: ProbeConfig,
) -> dict[str, Array]:
  """Parameters of one grid point after `rounds` [k] rounds of each seed."""
  optimizer, one_pass = _passes(x, y, train, num_train, rates, decays, config)
  start = _start(optimizer, config.seeds, 1, x.shape[1], num_classes)

  def one_round(i, state):
    *state, kept = state
    params, opt_state, keys = one_pass(*state)
    last = rounds == i + 1
    kept = jax.tree.map(
      lambda new, old: jnp.where(last.reshape(-1, *[1] * (new.ndim - 1)), new, old), params, kept
    )
    return params, opt_state, keys, kept

  first = (start.params, start.opt_state, start.keys, start.params)
  return jax.lax.fori_loop(0, rounds.max(), one_round, first)[3]
