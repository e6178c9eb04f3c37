"""Scores systems on tasks and writes what was found: the body of `launch/evaluate.py`."""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.errors import InputError, unknown
from research.evals import protocols
from research.evals.protocols import Options, Protocol, System
from research.evals.tasks import Prepared
from research.inference.embedder import Embedder, layer_indices
from research.jobs import folders
from research.jobs.progress import bar
from research.report import charts, published, run, svg, tables
from research.report import maps as planes

FORMAT = 1
# Statistics have no weights to train.
KINDS: Mapping[str, Sequence[str]] = {'finetune': ('model', 'random')}


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
  say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> list[dict[str, Any]]:
  """Embeds every task with every system, then scores; process 0 scores and writes.

  Args:
    embedders: systems; several with kind 'random' become one row with their spread.
    tasks: prepared tasks.
    out: folder for scores.json, scores.md, scores.html, map.npz and one SVG a picture.
    cache: folder of the embeddings; `out`/cache by default.
    use: names of protocols.
    known: name -> protocol; more may be added to `protocols.PROTOCOLS`.
    options: layers, pooling and how probes are trained; None for the defaults.
    absent: tasks that were asked for but cannot be scored, and why: part of what is written, and
      longer afterwards where `optional` tasks cannot.
    optional: names of tasks that are listed as absent instead of ending everything.
    maps: whether 2-D maps of the embeddings are drawn, which takes seconds a task.
    kinds: protocol -> kinds of systems that it is for; others are for all.
    say: prints a line.

  Returns:
    the rows of scores.json (process 0; [] on the others).

  Raises:
    InputError: an unknown protocol or layer, two tasks of one name, or a task that cannot be
      scored.
  """
  given = [task.task.name for task in tasks]
  if twice := {name for name in given if given.count(name) > 1}:
    raise InputError(f'Two tasks are named {sorted(twice)[0]!r}: rename one, or leave one out.')
  absent = {} if absent is None else absent
  for name in use:
    if name not in known:
      raise unknown('protocol', name, known)
  out, options = Path(out), options or Options()
  deepest = max(e.num_layers() for e in embedders)
  layer_indices(options.layers, deepest)  # raises where no system has such a layer
  systems = [System(e, options, cache or out / 'cache') for e in embedders]
  first = jax.process_index() == 0

  # All embedding before all scoring: the processes work together in the first, not in the second.
  embedded = []
  for task in tasks:
    with _excused(task, optional, absent, say if first else None):
      for system in systems:
        with bar(f'{task.task.name}: {system.embedder.name}', len(task.source), first) as move:
          found = system.features(task, move)
        if first and not found.cached:
          rate = len(task.source) / max(found.seconds, 1e-9)
          say(
            f'embedded {task.task.name} with {system.embedder.name}: {len(task.source)} clips in '
            f'{found.seconds:.1f} s ({rate:.0f}/s), {len(found.missing)} missing'
          )
      embedded.append(task)
  if not first:
    return []

  _keep_previous(
    out, {(e.name, t.task.name, u) for e in embedders for t in tasks for u in use}, say
  )
  rows: list[dict[str, Any]] = []
  scored = []
  for task in embedded:
    with _excused(task, optional, absent, say):
      mine = []
      for name in use:
        able = [s for s in systems if s.embedder.kind in kinds.get(name, (s.embedder.kind,))]
        each = [known[name](system, task, options) for system in able]
        random = [r for r in each if r['kind'] == 'random']
        kept = [r for r in each if r['kind'] != 'random']
        kept += [protocols.merge_inits(random)] if random else []
        for row in kept:
          say(f'{name} {row["task"]}: {row["system"]} {tables.score_text(row)}')
        mine += kept
      rows += mine
      scored.append(task)
      _write_scores(out, rows, absent)  # not lost with what comes after
  if not rows:
    raise InputError('\n'.join(['No task can be scored.', *absent.values()]))
  write(out, rows, plane(systems, scored) if maps else {}, absent)
  return rows


def _keep_previous(out: Path, coming: set[tuple[str, str, str]], say: Callable) -> None:
  """Scores of models that are in the folder and will not be made again get another name."""
  file = out / 'scores.json'
  try:
    rows = json.loads(file.read_text())['rows']
    there = {(r['system'], r['task'], r['protocol']) for r in rows if r['kind'] == 'model'}
  except FileNotFoundError:
    return
  except (OSError, ValueError, KeyError, TypeError):
    there = {('', '', '')}  # what it is cannot be told
  if there - coming:
    number = 1
    while (kept := out / f'scores-{number}.json').exists():
      number += 1
    os.replace(file, kept)
    say(f'{file} had other scores too: they are in {kept}')


@contextlib.contextmanager
def _excused(
  task: Prepared, optional: Collection[str], absent: dict[str, str], say: Callable | None
) -> Iterator[None]:
  """A task that cannot be scored is put down in `absent` if it is optional."""
  try:
    yield
  except InputError as error:
    # Processes that do not fail alike would wait for each other.
    if task.task.name not in optional or jax.process_count() > 1:
      raise
    absent[task.task.name] = str(error)
    if say:
      say(f'{task.task.name} is not scored: {error}')


def plane(systems: Sequence[System], tasks: Sequence[Prepared]) -> dict[str, Any]:
  """2-D maps of the first model's embeddings (of the test rows) of every task, as arrays to save.

  Keys: '<task>/points' [n, 2], '<task>/groups' [n], '<task>/names' [c], '<task>/method'. Clips with
  several labels are drawn in the colour of the first.
  """
  models = [s for s in systems if s.embedder.kind == 'model'] or list(systems)
  method = 'tsne' if planes.has_tsne() else 'pca'
  arrays: dict[str, Any] = {}
  for task in tasks:
    features = models[0].features(task)
    layer = max(features.layers)
    tested = np.unique(np.concatenate([fold.test for fold in task.splits.folds]))
    tested = tested[features.valid[tested]]
    rows = tested[planes.sample(len(tested))]
    labels = task.labels if task.labels.ndim == 1 else task.labels.argmax(axis=1)
    key = task.task.name
    arrays[f'{key}/points'] = planes.flat(features.layers[layer][rows], method).astype(np.float32)
    arrays[f'{key}/groups'] = labels[rows].astype(np.int32)
    arrays[f'{key}/names'] = np.array(task.classes)
    arrays[f'{key}/method'] = np.array(method)
    arrays[f'{key}/system'] = np.array(models[0].embedder.name)
  return arrays


def write(
  out: Path, rows: list[dict[str, Any]], arrays: Mapping[str, Any], absent: Mapping[str, str] = {}
) -> None:
  """scores.json, the tables and the pictures; each file appears whole or not at all."""
  content = _write_scores(out, rows, absent)
  made = [
    *tables.comparison(rows, content['published']),
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
      name += f'_{drawn[name]}' if drawn[name] > 1 else ''  # names are cut, and may be alike
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
  """Writes scores.json, and returns what is in it."""
  out.mkdir(parents=True, exist_ok=True)
  # Of other clips under the same name nothing is published.
  others = published.rows(list(dict.fromkeys(r['task'] for r in rows if r.get('as_published'))))
  content = {'format': FORMAT, 'rows': rows, 'published': others, 'absent': dict(absent)}
  folders.replace_text(out / 'scores.json', json.dumps(content, indent=1))
  return content


def _slug(text: str) -> str:
  return ''.join(c if c.isalnum() else '-' for c in text).strip('-')[:60]
