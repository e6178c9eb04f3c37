"""Scores systems on tasks and writes the results: the body of `launch/evaluate.py`."""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.audio.decode import AudioError, decode
from research.errors import InputError, printable, unknown
from research.evals import protocols
from research.evals.protocols import Options, Protocol, System
from research.evals.tasks import Prepared
from research.inference.embedder import Embedder, layer_indices
from research.jobs import folders
from research.jobs.progress import bar
from research.report import charts, players, published, run, svg, tables
from research.report import maps as planes

FORMAT = 1
# Clips that a page plays: classes of a task, seconds of a clip, Hz.
HEARD, HEARD_SECONDS, HEARD_RATE = 12, 2.0, 16_000
# Protocol -> kinds of systems it applies to. Statistics have no weights to fine-tune, and only
# trained towers compare audio with text.
KINDS: Mapping[str, Sequence[str]] = {'finetune': ('model', 'random'), 'zero_shot': ('model',)}


def evaluate(
  embedders: Sequence[Embedder],
  tasks: Sequence[Prepared],
  *,
  out: str | os.PathLike,
  cache: str | os.PathLike | None = None,
  use: Sequence[str] = ('probe',),
  known: Mapping[str, Protocol] = protocols.PROTOCOLS,
  options: Options | None = None,
  absent: dict[str, str] | None = None,
  optional: Collection[str] = (),
  maps: bool = True,
  kinds: Mapping[str, Sequence[str]] = KINDS,
  log: Callable[[str], None] = lambda text: print(printable(text), flush=True),
) -> list[dict[str, Any]]:
  """Embeds every task with every system, then scores. Process 0 scores and writes.

  Args:
    embedders: systems. Systems of kind 'random' are merged into one row with their spread.
    tasks: prepared tasks.
    out: folder for scores.json, scores.md, scores.html, map.npz and one SVG per figure.
    cache: folder for cached embeddings; default `out`/cache.
    use: names of the protocols to run.
    known: name -> protocol; default `protocols.PROTOCOLS`.
    options: layers, pooling and probe settings; None for the defaults.
    absent: requested tasks that cannot be scored -> reason. Written with the results; `optional`
      tasks that fail are added to it.
    optional: names of tasks that are recorded as absent when they fail, instead of raising.
    maps: draw 2-D embedding projections (seconds per task).
    kinds: protocol -> kinds of systems it applies to; a protocol not listed applies to all.
    log: prints a line.

  Returns:
    The rows of scores.json (process 0; [] on the others).

  Raises:
    InputError: an unknown protocol or layer, two tasks with one name, or a task that cannot be
      scored.
  """
  given = [task.task.name for task in tasks]
  if twice := {name for name in given if given.count(name) > 1}:
    raise InputError(f'Two tasks are named {sorted(twice)[0]!r}: rename or remove one of them.')
  absent = {} if absent is None else absent
  for name in use:
    if name not in known:
      raise unknown('protocol', name, known)
  out, options = Path(out), options or Options()
  deepest = max(e.num_layers() for e in embedders)
  layer_indices(options.layers, deepest)  # raises if no system has such a layer
  systems = [System(e, options, cache or out / 'cache') for e in embedders]
  first = jax.process_index() == 0

  # Embed everything before scoring: all processes embed, only process 0 scores.
  embedded = []
  for task in tasks:
    with _record_absent(task, optional, absent, log if first else None):
      for system in systems:
        with bar(f'{task.task.name}: {system.embedder.name}', len(task.source), first) as move:
          found = system.features(task, move)
        if first and not found.cached:
          rate = len(task.source) / max(found.seconds, 1e-9)
          log(
            f'embedded {task.task.name} with {system.embedder.name}: {len(task.source)} clips in '
            f'{found.seconds:.1f} s ({rate:.0f}/s), {len(found.missing)} missing'
          )
      embedded.append(task)
  if not first:
    return []

  _keep_previous(
    out, {(e.name, t.task.name, u) for e in embedders for t in tasks for u in use}, log
  )
  rows: list[dict[str, Any]] = []
  scored = []
  for task in embedded:
    with _record_absent(task, optional, absent, log):
      task_rows = []
      for name in use:
        usable = [s for s in systems if s.embedder.kind in kinds.get(name, (s.embedder.kind,))]
        each = [known[name](system, task, options) for system in usable]
        random = [r for r in each if r['kind'] == 'random']
        kept = [r for r in each if r['kind'] != 'random']
        kept += [protocols.merge_inits(random)] if random else []
        for row in kept:
          log(f'{name} {row["task"]}: {row["system"]} {tables.score_text(row)}')
        task_rows += kept
      rows += task_rows
      scored.append(task)
      _write_scores(out, rows, absent)  # kept if a later task fails
  if not rows:
    raise InputError('\n'.join(['No task can be scored.', *absent.values()]))
  write(out, rows, project(systems, scored, rows) if maps else {}, absent)
  return rows


def _keep_previous(out: Path, coming: set[tuple[str, str, str]], log: Callable) -> None:
  """Renames an existing scores.json that holds model scores which this run will not recompute.

  Args:
    out: folder of the scores.
    coming: (system, task, protocol) of this run.
    log: prints a line.
  """
  file = out / 'scores.json'
  try:
    rows = json.loads(file.read_text())['rows']
    previous = {(r['system'], r['task'], r['protocol']) for r in rows if r['kind'] == 'model'}
  except FileNotFoundError:
    return
  except (OSError, ValueError, KeyError, TypeError):
    previous = {('', '', '')}  # unreadable: keep it
  if previous - coming:
    number = 1
    while (kept := out / f'scores-{number}.json').exists():
      number += 1
    os.replace(file, kept)
    log(f'{file} also held other scores; moved to {kept}')


@contextlib.contextmanager
def _record_absent(
  task: Prepared, optional: Collection[str], absent: dict[str, str], log: Callable | None
) -> Iterator[None]:
  """Records an optional task that cannot be scored in `absent` instead of raising."""
  try:
    yield
  except InputError as error:
    # With several processes, one that continues would wait for the others forever.
    if task.task.name not in optional or jax.process_count() > 1:
      raise
    absent[task.task.name] = str(error)
    if log:
      log(f'{task.task.name} is not scored: {error}')


def project(
  systems: Sequence[System], tasks: Sequence[Prepared], rows: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
  """2-D embedding projections of the test rows of every task, by the first model.

  Args:
    systems, tasks: what was scored.
    rows: of scores.json. The layer that a task's first row chose in its first fold is drawn; the
      last one where there is none.

  Returns:
    Arrays to save: '<task>/points' [n, 2], '<task>/groups' [n], '<task>/names' [c],
    '<task>/method', '<task>/system', a test clip of each class (`players.arrays`), and for one
    split of clips with one label '<task>/separated' [n, 2] (`maps.separated`, by training clips).
    A clip with several labels is in the group of its first.
  """
  models = [s for s in systems if s.embedder.kind == 'model'] or list(systems)
  method = 'tsne' if planes.has_tsne() else 'pca'
  arrays: dict[str, Any] = {}
  for task in tasks:
    features = models[0].features(task)
    key = task.task.name
    mine = [r for r in rows if (r['task'], r['system']) == (key, models[0].embedder.name)]
    layer = max(features.layers)
    if mine and mine[0].get('layers', ['mean'])[0].isdigit():
      layer = int(mine[0]['layers'][0])
    tested = np.unique(np.concatenate([fold.test for fold in task.splits.folds]))
    tested = tested[features.valid[tested]]
    drawn = tested[planes.sample(len(tested))]
    labels = task.labels if task.labels.ndim == 1 else task.labels.argmax(axis=1)
    arrays[f'{key}/points'] = planes.flat(features.layers[layer][drawn], method).astype(np.float32)
    arrays[f'{key}/groups'] = labels[drawn].astype(np.int32)
    if method == 'tsne' and task.labels.ndim == 1 and len(task.splits.folds) == 1:
      train = task.splits.folds[0].only(features.valid).train
      train = train[planes.sample(len(train))]
      x = features.layers[layer]
      directions = planes.separated(x[train], labels[train], x[drawn])
      arrays[f'{key}/separated'] = directions.astype(np.float32)
    arrays[f'{key}/names'] = np.array(task.classes)
    arrays[f'{key}/method'] = np.array(method)
    arrays[f'{key}/system'] = np.array(models[0].embedder.name)
    found = _heard(task, tested, labels)
    arrays |= {f'{key}/{name}': values for name, values in found.items()}
  return arrays


def _heard(task: Prepared, tested: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
  """The first test clip of each class, up to HEARD classes."""
  clips, names = [], []
  for group in np.unique(labels[tested])[:HEARD]:
    clip = task.source[int(tested[labels[tested] == group][0])]
    with contextlib.suppress(AudioError):
      clips.append(decode(clip, sample_rate=HEARD_RATE, seconds=HEARD_SECONDS))
      names.append(task.classes[group])
  return players.arrays(clips, HEARD_RATE, names)


def write(
  out: Path, rows: list[dict[str, Any]], arrays: Mapping[str, Any], absent: Mapping[str, str] = {}
) -> None:
  """Writes scores.json, tables and figures; each file is replaced atomically."""
  content = _write_scores(out, rows, absent)
  made = [
    *tables.comparison(rows, content['published']),
    *tables.differences(rows),
    tables.absent(absent),
    tables.sensitivity(rows),
    tables.details(rows),
  ]
  shown = [table for table in made if table is not None]
  remarks = tables.notes(rows)
  text = '\n'.join(t.markdown() for t in shown) + ''.join(f'\n- {n}' for n in remarks) + '\n'
  folders.replace_text(out / 'scores.md', text)
  folders.replace_text(out / 'scores.html', run.score_page(content))
  for old in out.glob('confusion_*.svg'):
    old.unlink()
  drawn: dict[str, int] = {}
  for row in rows:
    if 'confusion' in row and row['kind'] == 'model':
      title = f'{row["task"]}: {row["system"]}, {row["protocol"]}'
      figure = charts.confusion(np.array(row['confusion']), row['classes'])
      name = f'confusion_{row["task"]}_{row["protocol"]}_{_slug(row["system"])}'
      drawn[name] = drawn.get(name, 0) + 1
      name += f'_{drawn[name]}' if drawn[name] > 1 else ''  # truncated names may collide
      folders.replace_text(out / f'{name}.svg', svg.text(figure, title))
  for old in (out / 'map.npz', *out.glob('map_*.svg')):
    old.unlink(missing_ok=True)
  if not arrays:
    return
  partial = out / 'map.partial.npz'
  np.savez_compressed(partial, **arrays)
  os.replace(partial, out / 'map.npz')
  for task in dict.fromkeys(key.split('/')[0] for key in arrays):
    names = [str(n) for n in arrays[f'{task}/names']]
    figure = charts.scatter(arrays[f'{task}/points'], arrays[f'{task}/groups'].tolist(), names)
    folders.replace_text(out / f'map_{task}.svg', svg.text(figure, task))


def _write_scores(
  out: Path, rows: list[dict[str, Any]], absent: Mapping[str, str]
) -> dict[str, Any]:
  """Writes scores.json and returns its content."""
  out.mkdir(parents=True, exist_ok=True)
  # Published scores do not apply to other clips under the same name.
  others = published.rows(list(dict.fromkeys(r['task'] for r in rows if r.get('as_published'))))
  content = {'format': FORMAT, 'rows': rows, 'published': others, 'absent': dict(absent)}
  folders.replace_text(out / 'scores.json', json.dumps(content, indent=1))
  return content


def _slug(text: str) -> str:
  return ''.join(c if c.isalnum() else '-' for c in text).strip('-')[:60]
