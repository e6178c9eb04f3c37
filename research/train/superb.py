"""Heads of SUPERB on a frozen system: layers computed once, heads trained by the loop, the best
checkpoint judged on the test clips."""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research import models, weights
from research.audio.clips import Source
from research.audio.frames import Frames
from research.errors import InputError
from research.evals import frame_cache, judges, superb, superb_search
from research.evals.superb import LOWER, Parts, Recipe, Task
from research.inference.embedder import Embedder, ModelApply, digest
from research.jobs import folders
from research.metrics.classification import mean_ci
from research.models import settings as model_settings
from research.train import loop, selection, sharding, superb_targets
from research.train.config import complete
from research.train.judging import Judging
from research.train.superb_settings import Settings
from research.weights import Pretrained


@dataclasses.dataclass(frozen=True)
class Upstream:
  """A frozen system: how it embeds, and the model behind it, if it has one that heads can be put
  on."""

  embedder: Embedder
  loaded: Pretrained | None = None
  path: str | None = None

  @property
  def name(self) -> str:
    """What tables call it."""
    return self.embedder.name


def run_task(
  upstream: Upstream,
  task: Task,
  parts: Sequence[Parts],
  out: str | os.PathLike,
  *,
  cache: str | os.PathLike,
  root: Any = None,
  settings: Settings | None = None,
  log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
  """The row of a system on a task; runs lie in `out` and go on where they were killed.

  Args:
    upstream: the system.
    task: of `evals/superb.py`.
    parts: of every fold.
    out: folder of the runs, `<task>/<system>/…`; the trained heads, on their encoder, are in
      `<task>/<system>/model`.
    cache: folder of cached layers.
    root: folder of the data sets.
    settings: steps, learning rates, …; None for the published ones.
    log: prints a line.

  Raises:
    InputError: data or settings that cannot work.
  """
  settings = settings or Settings()
  place = Path(out) / task.name / digest(upstream.embedder.fingerprint())
  if task.how.judge == 'search':
    return _search(upstream, task, parts[0], cache, settings, log, place)
  started = time.perf_counter()
  recipe, points = task.how, _points(task.how, settings)
  frames = _frames(upstream, task, parts, cache, settings, log)
  cached = time.perf_counter() - started
  runs = []
  for lr, seed, fold in points_of(points, settings.seeds, len(parts)):
    config, judge = config_for(task, parts[fold], upstream, frames, settings, lr, seed, root, place)
    # Other settings are another run, in another folder; those of the test clips alone are not.
    key = digest(config, superb_targets.held_out(judge))[:6]
    name = f'lr{lr:g}-seed{seed}-fold{fold}-{key}'
    runs.append((lr, seed, fold, *_run(task, parts[fold], config, judge, place / name, log)))
  row = _row(upstream, task, parts, runs, settings)
  best = min(runs, key=lambda r: _order(recipe, r[3]['valid'][recipe.ranks]) + (r[1] + r[2],))
  row['model'] = _save(upstream, best[4], place / 'model')
  for file in place.glob('*.model') if row['model'] else ():  # a vocabulary beside its head
    shutil.copyfile(file, place / 'model' / file.name)
  total = time.perf_counter() - started
  row |= dict(wall_seconds=round(total - cached, 1), embed_seconds=round(cached, 1))
  row['chip_hours'] = total * jax.device_count() / 3600
  return row


def points_of(lrs: Sequence[float], seeds: int, folds: int) -> Iterator[tuple[float, int, int]]:
  """(learning rate, seed, fold) of every run."""
  yield from ((lr, seed, fold) for lr in lrs for seed in range(seeds) for fold in range(folds))


def _points(recipe: Recipe, settings: Settings) -> tuple[float, ...]:
  return tuple(settings.lrs) if settings.lrs else (recipe.lr,)


def _order(recipe: Recipe, value: float) -> tuple[float]:
  return (value if recipe.mode == 'min' else -value,)


# -- Layers ------------------------------------------------------------------------------------


def _frames(
  upstream: Upstream, task: Task, parts: Sequence[Parts], cache: Any, settings: Settings, log: Any
) -> tuple[Frames, ...]:
  """Open folders of layers of all clips of a task; () where they are computed in every step."""
  if settings.frames == 'stream':
    return ()
  seen: dict[str, Frames] = {}
  for each in parts:
    whole = each.whole
    if whole.fingerprint() not in seen:
      text = f'{task.name}: {upstream.name}'
      how: dict[str, Any] = dict(dtype=settings.dtype, text=text, log=log)
      seen[whole.fingerprint()] = frame_cache.opened(upstream.embedder, whole, cache, **how)
  return tuple(seen.values())


# -- One run -----------------------------------------------------------------------------------


def config_for(
  task: Task,
  parts: Parts,
  upstream: Upstream,
  frames: Sequence[Frames],
  settings: Settings,
  lr: float,
  seed: int,
  root: Any = None,
  place: str | os.PathLike | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """(config of a run, judge of its test clips): the head of a task on the layers of a system.

  Vocabularies that are made of the data lie in `place`.
  """
  recipe = task.how
  hop = frames[0].hop if frames else frame_cache.frame_hop(upstream.embedder)
  rate = upstream.embedder.sample_rate
  made = superb_targets.of(task, parts, hop, rate, place)
  objective, judge = made.objective, _judge(task, made.judge, settings)
  own = {**recipe.head_args, **made.head_args, **task.head_args, **settings.heads(task)}
  head = dict(name=recipe.head, args=own)
  steps = settings.total(recipe)
  evaluations = 2 if settings.debug else settings.evaluations
  every = max(1, min(recipe.eval_every, steps // evaluations))
  data_fields: dict[str, Any] = dict(made.fields)
  if frames:
    first = frames[0]
    encoder = dict(
      name='cached_layers',
      args=dict(
        layers=first.layers, width=first.width, hop=first.hop, sample_rate=first.sample_rate,
        dtype=str(first.values.dtype),
      ),
    )  # fmt: skip
    paths = [str(f.path) for f in frames]
    data_fields['layers'] = dict(
      name='layers', args=dict(path=paths, audio='sources' in data_fields)
    )
  else:
    encoder = _encoder(upstream)
  limit = None if recipe.frames is None else recipe.frames * hop / rate
  alike = None if limit else _alike(parts.train, recipe.seconds)
  whole = bool(alike or recipe.seconds)
  batch = settings.batch_size or recipe.batch_size
  batch = min(batch, max(1, len(parts.train) // recipe.accumulate)) * recipe.accumulate
  config: dict[str, Any] = dict(
    seed=seed,
    total_steps=steps,
    data=dict(
      source=task.source,
      split=None,
      root=None if root is None else str(root),
      fields=data_fields,
      sample_rate=upstream.embedder.sample_rate,
      seconds=alike or recipe.seconds,
      buckets=None if whole else 1 if settings.debug else settings.buckets,
      batch_size=batch,
      batch_seconds=None if limit is None or settings.batch_size else limit * recipe.accumulate,
      weights='balanced' if recipe.balanced else None,
      seed=seed,
    ),
    model=dict(
      name='finetuned',
      args=dict(
        encoder=encoder, head=head, layer='mix', freeze=True, normalize_layers=settings.normalize
      ),
    ),
    init=None
    if frames or upstream.path is None
    else dict(path=upstream.path, exclude='^params/head/', statistics='same'),
    objective=objective,
    optim=dict(
      name=recipe.optimizer,
      lr=lr,
      clip_norm=recipe.clip_norm,
      accumulate=recipe.accumulate,
      schedule=_schedule(recipe, steps),
      **recipe.optim,
    ),
    evals=dict(
      valid=dict(name='judged', every=every, args=dict(judge=superb_targets.quick(judge)))
    ),
    checkpoint=dict(every=every, keep=1, best=f'valid/{recipe.ranks}', best_mode=recipe.mode),
    log_every=max(1, steps // 100),
    watch={},
  )
  return config, judge


def _schedule(recipe: Recipe, steps: int) -> dict[str, Any]:
  """The published schedule; of a run of other length, with a warm-up in proportion."""
  found = dict(recipe.schedule) or dict(name='constant')
  if found.get('warmup_steps'):
    found['warmup_steps'] = max(1, round(found['warmup_steps'] * steps / recipe.steps))
  return found


def _judge(task: Task, judge: dict[str, Any], settings: Settings) -> dict[str, Any]:
  """The judge that the data give, with what the task and a trial run change."""
  changed = dict(superb.DEBUG_JUDGES.get(judge['name'], {})) if settings.debug else {}
  if judge['name'] == 'words' and settings.lm is not None:
    changed.update(lm=settings.lm, lexicon=settings.lexicon)
  return dict(judge, args={**judge['args'], **task.judge_args, **changed})


def _alike(clips: Source, seconds: float | None) -> float | None:
  """The length of the clips, where padding all of them to the longest wastes little."""
  durations = clips.durations()
  longest = float(durations.max()) if seconds is None else min(seconds, float(durations.max()))
  waste = 1 - np.minimum(durations, longest).mean() / max(longest, 1e-9)
  return longest if waste < 0.1 else None


def _encoder(upstream: Upstream) -> dict[str, Any]:
  """The specification of the encoder of a system that is run in every step."""
  loaded = upstream.loaded
  if loaded is None or (upstream.path is None and jax.tree.leaves(loaded.variables)):
    raise InputError(
      f'{upstream.name} has no model that could run in every step: use --frames=cache.'
    )
  model = loaded.model
  return dict(name=models.name_of(type(model)), args=model_settings.arguments(model))


def _run(
  task: Task,
  parts: Parts,
  config: dict[str, Any],
  judge_spec: dict[str, Any],
  workdir: Path,
  log: Callable[[str], None],
) -> tuple[dict[str, Any], Pretrained]:
  """Trains a head, and judges its best checkpoint: ({'valid', 'test': metrics, …}, the head)."""
  searched = '-lm' + digest(judge_spec)[:6] if judge_spec['args'].get('lm') else ''
  done = workdir / f'scores{searched}.json'
  if done.is_file():
    return json.loads(done.read_text()), weights.load(workdir)
  started = time.perf_counter()
  loop.train(config, workdir, quiet=True, clips=parts.train, held={'valid': parts.valid})
  trained = weights.load(workdir)
  full = complete(config)
  mesh = sharding.make_mesh(full['mesh'])
  specs = dict(valid=superb_targets.held_out(judge_spec), test=judge_spec)
  scores: dict[str, Any] = {}
  with jax.set_mesh(mesh):
    for part, spec in specs.items():
      judge = judges.get(spec)
      rows = selection.known(getattr(parts, part), full['data'])
      scores[part] = Judging(trained.model, full['data'], rows, judge, mesh)(trained.variables)
      scores[f'{part}_clips'] = len(rows)
  mix = np.asarray(trained.variables['params']['layer_mix'], np.float64)
  scores['layer_weights'] = (np.exp(mix - mix.max()) / np.exp(mix - mix.max()).sum()).tolist()
  scores['chosen'] = trained.origin
  scores['parameters'] = sum(x.size for x in jax.tree.leaves(trained.variables['params']))
  scores['seconds'] = round(time.perf_counter() - started, 1)
  scores['curve'] = _curve(workdir)
  folders.replace_text(done, json.dumps(scores))
  shown = ', '.join(f'{k} {v:.4f}' for k, v in scores['test'].items())
  log(f'{task.name}, {workdir.name}: {shown} ({scores["seconds"]:.0f} s)')
  return scores, trained


def _curve(workdir: Path) -> list[dict[str, float]]:
  """Loss and validation metrics by step, from metrics.jsonl."""
  kept = []
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    row = json.loads(line)
    found = {k: v for k, v in row.items() if k in ('step', 'loss') or k.startswith('valid/')}
    found.pop('valid/seconds', None)
    if len(found) > 1:
      kept.append(found)
  return kept


# -- The row -----------------------------------------------------------------------------------


def _row(
  upstream: Upstream, task: Task, parts: Sequence[Parts], runs: Sequence[Any], settings: Settings
) -> dict[str, Any]:
  """What scores.json holds of a system on a task."""
  recipe = task.how
  lrs = list(dict.fromkeys(r[0] for r in runs))

  def mean(part: str, lr: float, metric: str) -> float:
    return float(np.mean([r[3][part][metric] for r in runs if r[0] == lr]))

  chosen = min(lrs, key=lambda lr: _order(recipe, mean('valid', lr, recipe.ranks)))
  own = [r for r in runs if r[0] == chosen]
  metrics = dict.fromkeys((*recipe.metrics, *own[0][3]['test']))
  over = 'folds' if len(parts) > 1 else 'seeds'
  values = {m: [r[3]['test'][m] for r in own] for m in metrics}
  _, half = mean_ci(np.array(values[recipe.metrics[0]]))
  steps = settings.total(recipe)
  return _common(upstream, task, parts[0], settings) | dict(
    lower=[m for m in metrics if m in LOWER],
    scores={m: float(np.mean(v)) for m, v in values.items()},
    values=values,
    ci=half,
    ci_over=over,
    validation={m: mean('valid', chosen, m) for m in own[0][3]['valid']},
    lr=chosen,
    sweep=[
      dict(lr=lr, valid=mean('valid', lr, recipe.ranks), test=mean('test', lr, recipe.metrics[0]))
      for lr in lrs
    ],
    steps=steps,
    layer_weights=np.mean([r[3]['layer_weights'] for r in own], axis=0).tolist(),
    curve=own[0][3]['curve'],
    parameters=own[0][3]['parameters'],
    clips={name: len(getattr(parts[0], name)) for name in ('train', 'valid', 'test')},
    differs=_differs(task, settings, steps),
  )


def _search(
  upstream: Upstream,
  task: Task,
  parts: Parts,
  cache: Any,
  settings: Settings,
  log: Any,
  place: Path,
) -> dict[str, Any]:
  """The row of query by example, for which nothing is trained."""
  started = time.perf_counter()
  how: dict[str, Any] = dict(dtype=settings.dtype, text=f'{task.name}: {upstream.name}', log=log)
  frames = frame_cache.opened(upstream.embedder, parts.whole, cache, **how)
  cached = time.perf_counter() - started
  found: dict[str, Any] = superb_search.search_layers(task, parts, frames, place)
  total = time.perf_counter() - started
  weights = np.eye(frames.layers)[found['layer']].tolist()
  return _common(upstream, task, parts, settings) | dict(
    scores=dict(mtwv=found['test']),
    values=dict(mtwv=[found['test']]),
    ci=None,
    ci_over='seeds',
    validation=dict(mtwv=found['valid']),
    lower=[],
    lr=0.0,
    sweep=[],
    steps=0,
    layer_weights=weights,
    by_layer=found['by_layer'],
    curve=[],
    parameters=0,
    clips=found['clips'],
    differs=_differs(task, settings, 0),
    model=None,
    wall_seconds=round(total - cached, 1),
    embed_seconds=round(cached, 1),
    chip_hours=total * jax.device_count() / 3600,
  )


def _common(upstream: Upstream, task: Task, parts: Parts, settings: Settings) -> dict[str, Any]:
  """What a row says of a system and a task."""
  recipe = task.how
  return dict(
    task=task.name,
    recipe=task.recipe,
    title=recipe.title,
    benchmark=task.benchmark,
    system=upstream.name,
    kind=upstream.embedder.kind,
    weights=upstream.embedder.weights,
    metrics=list(recipe.metrics),
    ranks=recipe.ranks,
    lr_published=recipe.lr,
    steps_published=recipe.steps,
    seeds=settings.seeds,
    split=dict(origin=parts.origin, hash=parts.fingerprint),
    frames=settings.frames,
    dtype=settings.dtype,
  )


def _differs(task: Task, settings: Settings, steps: int) -> list[str]:
  """What keeps a score from being compared with the leaderboard's."""
  found = []
  if not task.benchmark:
    found.append(f'the data are {task.source}')
  if steps != task.how.steps:
    found.append(f'{steps:,} of {task.how.steps:,} steps')
  if settings.heads(task) or task.head_args:
    found.append('the head has other sizes')
  if settings.batch_size:
    found.append(f'{settings.batch_size} clips a micro-batch')
  if settings.frames == 'cache' and task.how.seconds:
    found.append('crops are of the layers of whole clips')
  if settings.normalize:
    found.append('layers are normed')
  if task.how.judge == 'converted':
    found.append('waveforms are of Griffin and Lim, the published ones of Parallel WaveGAN')
  return found


def _save(upstream: Upstream, head: Pretrained, path: Path) -> str | None:
  """The head on its encoder, as one file that `load` opens; None where the encoder cannot be under
  a head."""
  loaded = upstream.loaded
  if loaded is None or not isinstance(upstream.embedder.apply, ModelApply):
    return None
  args: dict[str, Any] = model_settings.arguments(head.model)
  encoder = dict(
    name=models.name_of(type(loaded.model)), args=model_settings.arguments(loaded.model)
  )
  try:
    model = models.get('finetuned')(**{**args, 'encoder': encoder})
  except InputError:
    return None
  made = jax.eval_shape(
    lambda: model.init(jax.random.key(0), {k: np.zeros(x.shape, x.dtype) for k, x in
                                           model.example().items()})
  )  # fmt: skip
  own, theirs = head.variables['params'], loaded.variables['params']
  if missing := [k for k in made['params'] if k not in own and k not in theirs]:
    raise ValueError(f'no weights for {missing}')
  params = {k: own[k] if k in own else theirs[k] for k in made['params']}

  def own_or(name: str) -> dict[str, Any]:
    both = {**loaded.variables.get(name, {}), **head.variables.get(name, {})}
    return {k: both[k] for k in made[name]}

  rest = {k: own_or(k) for k in made if k != 'params'}
  origin = f'{head.origin}, on {loaded.origin}'
  whole = Pretrained('finetuned', model, {'params': params, **rest}, origin, loaded.tokenizer)
  return str(weights.save(whole, path))
