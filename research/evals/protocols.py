"""Evaluation protocols: `protocol(system, task, options) -> row`.

A row is a JSON-serialisable dict. `probe`, `logistic` and `knn` use frozen embeddings; a protocol
that fine-tunes the model has the same signature and uses `system.embedder` and `task.source`.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from research.errors import InputError, unknown
from research.evals import input_statistics, knn, logistic, probe, splits
from research.evals.cache import Features, embed_source
from research.evals.input_statistics import Statistics
from research.evals.probe import ProbeConfig
from research.evals.splits import Split
from research.evals.tasks import Prepared
from research.inference.embedder import Embedder, layer_indices
from research.metrics import classification
from research.nn import pooling


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings shared by all protocols.

  Attributes:
    layers: 'last', an index, 'mean' (average of all), or 'all': the layer is selected on the
      validation rows, separately in each fold.
    pool: one of `pooling.NAMES`; None for the default of each system. Systems with a fixed pooling
      keep it.
    probe: training settings of the linear probe.
    neighbours: values of k that kNN tries.
    statistics: input normalisation of models that take data-set statistics (BYOL-A): 'task',
      statistics of the task's training clips, as published; 'weights', those in the weights.

  Raises:
    InputError: an unknown pooling.
  """

  layers: str | int = 'last'
  pool: str | None = None
  probe: ProbeConfig = dataclasses.field(default_factory=ProbeConfig)
  neighbours: tuple[int, ...] = knn.NEIGHBOURS
  statistics: str = 'task'

  def __post_init__(self) -> None:
    if self.pool is not None and self.pool not in pooling.NAMES:
      raise unknown('pooling', self.pool, pooling.NAMES)


class System:
  """An embedder and its embeddings, cached on disk."""

  def __init__(self, embedder: Embedder, options: Options, cache: str | os.PathLike):
    self.embedder, self.options, self.cache = embedder, options, cache
    count = embedder.num_layers()
    # Baselines have a single layer, whatever `options.layers` selects.
    self.layers = layer_indices(options.layers, count) if count > 1 else (0,)
    self._features: dict[str, Features] = {}
    self._normalised: dict[str, tuple[Embedder, Statistics | None]] = {}

  def normalised(self, task: Prepared) -> tuple[Embedder, Statistics | None]:
    """The embedder with the input normalisation for a task, and the task statistics if used.

    Collective: all processes must call it.
    """
    name = task.task.name
    if name not in self._normalised:
      statistics = None
      embedder = self.embedder
      if embedder.takes_statistics and self.options.statistics == 'task':
        statistics = input_statistics.of_task(embedder, task, self.cache)
        embedder = embedder.with_statistics(statistics.mean, statistics.std)
      self._normalised[name] = embedder, statistics
    return self._normalised[name]

  def features(self, task: Prepared, progress: Callable[[int], None] = lambda n: None) -> Features:
    """Embeddings of the task's clips, on process 0. Collective: all processes must call it."""
    if task.task.name not in self._features:
      self._features[task.task.name] = embed_source(
        self.normalised(task)[0],
        task.source,
        cache=self.cache,
        layers=self.layers,
        pool=self.options.pool,
        seconds=task.task.seconds,
        progress=progress,
      )
    return self._features[task.task.name]

  def candidates(self, task: Prepared) -> Iterator[tuple[str, np.ndarray]]:
    """(layer, embeddings [n, d]) pairs that a protocol selects from."""
    layers = self.features(task).layers
    if self.options.layers == 'mean':
      yield 'mean', np.mean([np.asarray(x) for x in layers.values()], axis=0)
      return
    for i, x in layers.items():
      yield str(i), np.asarray(x)


@dataclasses.dataclass
class Fold:
  """Result of a protocol on one fold with one layer.

  Attributes:
    test_scores: scores [k, n, c] of the test rows for k seeds.
    validation: score on the validation rows.
    chosen: the selected settings, plain values.
    grid: settings with their `validation` (and `test`) score, one dict per point.
  """

  test_scores: np.ndarray
  validation: float
  chosen: dict[str, Any]
  grid: list[dict[str, float]]


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
Fit = Callable[[np.ndarray, Rows], Fold]


def linear_probe(system: System, task: Prepared, options: Options) -> dict[str, Any]:
  """Linear probe: learning rate and weight decay selected on validation, scored on test.

  The selected probe is refitted with the validation rows, unless the validation split is published.
  """
  refit = not task.splits.published_validation
  return _probe('probe', system, task, options.probe, refit)


def evar(system: System, task: Prepared, options: Options) -> dict[str, Any]:
  """Linear probe with EVAR's settings (`probe.EVAR`)."""
  config = dataclasses.replace(probe.EVAR, seeds=options.probe.seeds)
  return _probe('evar', system, task, config, refit=False)


def _probe(
  name: str, system: System, task: Prepared, settings: ProbeConfig, refit: bool
) -> dict[str, Any]:
  folds = _embedded_folds(task, system.features(task))
  # No clip may occur twice in a batch.
  smallest = min(len(f.train) for f in folds)
  settings = dataclasses.replace(settings, batch_size=min(settings.batch_size, smallest))
  pad_to = (max(len(f.train) for f in folds), max(len(f.validation) for f in folds))

  def fit(x: np.ndarray, rows: Rows, config: ProbeConfig, refit: bool) -> Fold:
    found = probe.fit(
      x,
      task.labels,
      rows,
      num_classes=len(task.classes),
      metric=task.metric,
      config=config,
      refit=refit,
      pad_to=pad_to,
    )
    chosen = {
      'learning_rate': found.learning_rate,
      'weight_decay': found.weight_decay,
      'rounds': found.rounds,
      'at_edge': [n for n in ('learning_rate', 'weight_decay') if _at_edge(found, n)],
    }
    return Fold(found.test_scores, found.validation, chosen, found.grid)

  # One seed suffices to compare layers, and their validation scores need no refit.
  one = dataclasses.replace(settings, seeds=1)
  return row(
    name,
    system,
    task,
    lambda x, rows: fit(x, rows, settings, refit),
    lambda x, rows: fit(x, rows, one, False),
  )


def _at_edge(found: probe.ProbeResult, name: str) -> bool:
  """Whether the largest value won by more than one point: the grid may be too short."""
  largest = max(point[name] for point in found.grid)
  inside = [point['validation'] for point in found.grid if point[name] < largest]
  return bool(inside) and found.validation > max(inside) + 0.01


def logistic_regression(system: System, task: Prepared, options: Options) -> dict[str, Any]:
  """Logistic regression at its optimum: L2 penalty selected on validation, scored on test."""
  del options  # Learning rates, weight decays and seeds of the Adam probe.

  def fit(x: np.ndarray, rows: Rows, refit: bool) -> Fold:
    found = logistic.fit(
      x, task.labels, rows, num_classes=len(task.classes), metric=task.metric, refit=refit
    )
    # Only the smallest penalty is checked: above the largest, almost nothing is learned.
    others = [p['validation'] for p in found.grid if p['penalty'] > found.penalty]
    smallest = found.penalty == min(p['penalty'] for p in found.grid)
    edge = smallest and found.validation > max(others) + 0.01
    chosen = {
      'penalty': found.penalty,
      'steps': found.steps,
      'at_edge': ['penalty'] if edge else [],
    }
    return Fold(found.test_scores[None], found.validation, chosen, found.grid)

  refit = not task.splits.published_validation
  return row(
    'logistic',
    system,
    task,
    lambda x, rows: fit(x, rows, refit),
    lambda x, rows: fit(x, rows, False),
  )


def nearest_neighbours(system: System, task: Prepared, options: Options) -> dict[str, Any]:
  """Cosine kNN: k selected on validation, scored on test."""

  def fit(x: np.ndarray, rows: Rows) -> Fold:
    found = knn.fit(
      x,
      task.labels,
      rows,
      num_classes=len(task.classes),
      metric=task.metric,
      neighbours=options.neighbours,
      refit=not task.splits.published_validation,
    )
    chosen = {'neighbours': found.neighbours}
    return Fold(found.test_scores[None], found.validation, chosen, found.grid)

  return row('knn', system, task, fit)


Protocol = Callable[[System, Prepared, Options], dict[str, Any]]
PROTOCOLS: dict[str, Protocol] = {
  'probe': linear_probe,
  'evar': evar,
  'logistic': logistic_regression,
  'knn': nearest_neighbours,
}


def row(
  protocol: str, system: System, task: Prepared, fit: Fit, screen: Fit | None = None
) -> dict[str, Any]:
  """Runs `fit` on every fold and layer, keeps the best layer of each fold, and builds the row.

  Args:
    protocol: name of the protocol.
    system: the system to score.
    task: the task to score it on.
    fit: (embeddings [n, d], (train, validation, test) rows) -> result on that fold.
    screen: a cheaper `fit` that selects the layer when there are several. `by_layer` then holds its
      scores, and only the selected layer is passed to `fit`.
  """
  started = time.perf_counter()
  features = system.features(task)
  folds = _embedded_folds(task, features)
  found: dict[str, list[Fold]] = {}
  candidates = dict(system.candidates(task))
  select = screen if screen and len(candidates) > 1 else fit
  for layer, x in candidates.items():
    found[layer] = [select(x, fold.rows()) for fold in folds]
  best = [max(found, key=lambda name: found[name][i].validation) for i in range(len(folds))]
  kept = [found[name][i] for i, name in enumerate(best)]
  if select is not fit:
    kept = [fit(candidates[name], fold.rows()) for name, fold in zip(best, folds)]
  tests = [fold.test for fold in folds]
  made = _result(task, kept, tests)
  made |= _identity(protocol, system, task, features)
  made['layers'] = best
  made['chosen'] = [fold.chosen for fold in kept]
  made['validation'] = float(np.mean([fold.validation for fold in kept]))
  made['grid'] = _mean_grid([fold.grid for fold in kept])
  made['sensitivity'] = _sensitivity(kept)
  if len(found) > 1:
    made['by_layer'] = {
      name: {
        'validation': float(np.mean([f.validation for f in per_fold])),
        'test': float(np.mean(_values(task, per_fold, tests))),
      }
      for name, per_fold in found.items()
    }
  made['wall_seconds'] = round(time.perf_counter() - started, 3)
  return made


def _embedded_folds(task: Prepared, features: Features) -> list[Split]:
  """The folds without clips that could not be embedded.

  Raises:
    InputError: a part has no clips left.
  """
  folds = [fold.only(features.valid) for fold in task.splits.folds]
  for number, fold in enumerate(folds):
    for part, rows in zip(splits.NAMES, fold.rows()):
      if not len(rows):
        raise InputError(
          f'Task {task.task.name}: none of the {part} clips of fold {number} could be embedded. '
          f'{len(features.missing)} clips are missing in total, for example '
          f'{next(iter(features.missing.items()), "")}.'
        )
  return folds


def _sensitivity(folds: list[Fold]) -> dict[str, Any] | None:
  """Spread of the test score over the grid, averaged over folds; None for a grid with one point or
  without test scores.

  Holds the test score of the 'chosen', 'best', 'median' and 'worst' point, and under 'adjacent',
  for each setting, the worse of the two points one grid step from the chosen one. The probes are
  trained on training rows only, so 'chosen' may differ from the reported score.
  """
  each: list[dict[str, Any]] = []
  for fold in folds:
    grid = [p for p in fold.grid if np.isfinite(p.get('test', np.nan))]
    keys = [k for k in fold.chosen if grid and k in grid[0]]
    mine = [p for p in grid if all(p[k] == fold.chosen[k] for k in keys)]
    if len(grid) < 2 or len(mine) != 1:
      return None
    tests = [p['test'] for p in grid]
    found = dict(chosen=mine[0]['test'], best=max(tests), median=np.median(tests), worst=min(tests))
    each.append(found | {f'adjacent/{k}': _adjacent(grid, mine[0], k, keys) for k in keys})
  made: dict[str, Any] = {'settings': len(folds[0].grid), 'adjacent': {}}
  for name in each[0]:
    values = [float(e[name]) for e in each if e.get(name) is not None]
    if values and '/' in name:
      made['adjacent'][name.split('/')[1]] = float(np.mean(values))
    elif values:
      made[name] = float(np.mean(values))
  return made


def _adjacent(grid, chosen, key: str, keys: list[str]) -> float | None:
  """The worse test score of the points one grid step from the chosen one in `key`."""
  same = [p for p in grid if all(p[k] == chosen[k] for k in keys if k != key)]
  line = sorted(same, key=lambda p: p[key])
  at = next(i for i, p in enumerate(line) if p is chosen)
  beside = [line[i]['test'] for i in (at - 1, at + 1) if 0 <= i < len(line)]
  return min(beside) if beside else None


def _values(task: Prepared, folds: list[Fold], tests: list[np.ndarray]) -> list[list[float]]:
  score = classification.METRICS[task.metric]
  return [[score(s, task.labels[rows]) for s in f.test_scores] for f, rows in zip(folds, tests)]


def _result(task: Prepared, folds: list[Fold], tests: list[np.ndarray]) -> dict[str, Any]:
  """Scores with confidence interval, and per-class scores; other metrics are means over seeds and
  folds."""
  values = _values(task, folds, tests)
  over = 'folds' if len(folds) > 1 else 'seeds'
  per_fold = [float(np.mean(v)) for v in values]
  if not np.isfinite(per_fold).all():
    raise InputError(
      f'Task {task.task.name}: {task.metric} is undefined on the test clips: no class has both '
      'positive and negative clips there.'
    )
  mean, half = classification.mean_ci(np.array(per_fold if over == 'folds' else values[0]))
  others = [
    classification.all_scores(s, task.labels[rows])
    for f, rows in zip(folds, tests)
    for s in f.test_scores
  ]
  logits = np.concatenate([f.test_scores[0] for f in folds])
  labels = task.labels[np.concatenate(tests)]
  result = {
    'metric': task.metric,
    'score': mean,
    'ci': half,
    'ci_over': over,
    'values': values,
    'scores': {name: float(np.mean([o[name] for o in others])) for name in others[0]},
    'classes': list(task.classes),
  }
  # Test clips of all folds together, first seed only: each clip counts once.
  each = classification.per_class(logits, labels)
  result['per_class'] = {
    name: None if np.isnan(v) else float(v) for name, v in zip(task.classes, each)
  }
  if labels.ndim == 1:
    matrix = classification.confusion_matrix(logits.argmax(axis=1), labels, len(task.classes))
    result['confusion'] = matrix.tolist()
    # Sampling error of the test clips: on a small, easy task the seeds agree and show no spread.
    accuracy = float(np.mean(logits.argmax(axis=1) == labels))
    result['accuracy_ci_clips'] = 1.96 * (accuracy * (1 - accuracy) / len(labels)) ** 0.5
    if half is None and task.metric == 'accuracy':
      result |= {'ci': result['accuracy_ci_clips'], 'ci_over': 'test clips'}
    # For paired comparisons of systems: one character a test clip, 1 = right, by seed.
    seeds = zip(*(f.test_scores for f in folds))
    result['correct'] = [
      ''.join('01'[int(right)] for right in np.concatenate(one).argmax(axis=1) == labels)
      for one in seeds
    ]
  return result


def _identity(protocol: str, system: System, task: Prepared, features: Features) -> dict[str, Any]:
  """Metadata of a row: system, task, split and clip counts."""
  embedder, statistics = system.normalised(task)
  width = next(iter(features.layers.values())).shape[1]
  return {
    'task': task.task.name,
    'system': embedder.name,
    'kind': embedder.kind,
    'protocol': protocol,
    'weights': embedder.weights,
    'frontend': embedder.frontend.to_dict(),
    'statistics': statistics._asdict() if statistics else None,
    'pool': embedder.pooling(system.options.pool),
    'width': width,
    'label': task.label,
    'split': {
      'origin': task.splits.origin,
      'hash': task.splits.fingerprint,
      'sizes': [[len(r) for r in fold.rows()] for fold in task.splits.folds],
      'published_validation': task.splits.published_validation,
    },
    'clips': len(task.source),
    'clips_dropped': task.dropped,
    'classes_without_clips': _classes_without_clips(task),
    'as_published': task.as_published,
    'attrition': dict(task.attrition),
    'clips_missing': len(features.missing),
    'missing': dict(list(features.missing.items())[:100]),
    'embed_seconds': round(features.seconds, 3),
    'embed_cached': features.cached,
  }


def _classes_without_clips(task: Prepared) -> dict[str, list[str]]:
  """Classes that a fold tests without training clips ('untrained') and classes that no fold tests
  ('untested'). Unpublished validation splits count as training clips, since probes are refitted
  with them."""

  def present(rows: np.ndarray) -> np.ndarray:
    if task.labels.ndim == 1:
      return np.bincount(task.labels[rows], minlength=len(task.classes)) > 0
    parts = np.array_split(rows, len(rows) // 65_536 + 1)  # AudioSet's labels are 4 GB
    return np.any([task.labels[part].any(axis=0) for part in parts], axis=0)

  untrained = np.zeros(len(task.classes), bool)
  tested = np.zeros(len(task.classes), bool)
  for fold in task.splits.folds:
    train = fold.train
    if not task.splits.published_validation:
      train = np.concatenate([train, fold.validation])
    has = present(fold.test)
    tested |= has
    untrained |= has & ~present(train)
  named = {'untrained': untrained, 'untested': ~tested}
  return {name: [task.classes[i] for i in np.flatnonzero(these)] for name, these in named.items()}


def _mean_grid(grids: list[list[dict[str, float]]]) -> list[dict[str, float]]:
  """Validation and test score of every grid point, averaged over the folds that tried it."""
  keys = [k for k in grids[0][0] if k not in ('validation', 'test')]
  points: dict[tuple[float, ...], list[Mapping[str, float]]] = {}
  for grid in grids:
    for point in grid:
      points.setdefault(tuple(point[k] for k in keys), []).append(point)
  return [
    dict(zip(keys, settings))
    | {n: float(np.mean([p[n] for p in found])) for n in ('validation', 'test') if n in found[0]}
    for settings, found in points.items()
  ]


def merge_inits(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """One row for several random initialisations: mean score with a confidence interval."""
  if len(rows) == 1:
    return rows[0]
  each = [row['score'] for row in rows]
  mean, half = classification.mean_ci(np.array(each))
  names = rows[0]['scores']
  return rows[0] | {
    'score': mean,
    'ci': half,
    'ci_over': 'inits',
    'values': [[v] for v in each],
    'scores': {n: float(np.mean([r['scores'][n] for r in rows])) for n in names},
    'correct': [one for r in rows for one in r.get('correct', ())],
    'weights': [r['weights'] for r in rows],
    'wall_seconds': sum(r['wall_seconds'] for r in rows),
    'embed_seconds': sum(r['embed_seconds'] for r in rows),
  }
