"""Many systems on many tasks of SUPERB: scores, a table and a page, written after every score."""

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from research.errors import InputError, printable
from research.evals import superb
from research.evals.superb import Task
from research.inference import embedder
from research.jobs import folders
from research.models.fbank import Fbank
from research.report import superb as shown
from research.train.superb import Upstream, run_task
from research.train.superb_settings import Settings
from research.weights import Pretrained

FORMAT = 1
FILE = 'superb.json'
# Heads that take the mean over time, for which the mean of FBANK is left in.
MEANS = ('classes', 'slots')


def fbank(task: Task) -> Upstream:
  """SUPERB's baseline, as its leaderboard has it for a task."""
  mean = task.how.judge in MEANS
  model = Fbank(frontend=dict(name='superb_fbank_no_cmvn' if mean else 'superb_fbank'))
  loaded = Pretrained('fbank', model, {'params': {}}, 'FBANK')
  made = embedder.from_model(model, loaded.variables, 'FBANK', loaded.fingerprint)
  return Upstream(dataclasses.replace(made, kind='logmel'), loaded)


def run_suite(
  upstreams: Sequence[Upstream],
  names: Sequence[str],
  out: str | os.PathLike,
  *,
  root: Any = None,
  cache: str | os.PathLike | None = None,
  baseline: bool = True,
  optional: Collection[str] = (),
  settings: Settings | None = None,
  log: Callable[[str], None] = lambda text: print(printable(text), flush=True),
) -> list[dict[str, Any]]:
  """Scores systems on tasks, writes superb.json, superb.md and superb.html.

  Rows of other systems and tasks that are in superb.json stay. A run that was killed goes on.

  Args:
    upstreams: the systems.
    names: of the tasks.
    out: folder of the results, the runs and the data that recipes make.
    root: folder of the data sets; default $OIDO_DATA.
    cache: folder of cached layers; default `out`/cache.
    baseline: also score FBANK.
    optional: tasks that are listed as not scored where their data are absent or a system cannot do
      them, instead of raising.
    settings: see `train/superb_settings.Settings`; None for the published ones.
    log: prints a line.

  Raises:
    InputError: an unknown task; what keeps one that is not optional from being scored; no task at
      all; a superb.json that cannot be read; several processes.
  """
  if jax.process_count() > 1:
    raise InputError('SUPERB runs in one process: start it on one host, with all of its devices.')
  out, settings = Path(out), settings or Settings()
  tasks = [superb.get(name) for name in names]
  rows, absent = _read(out / FILE), dict[str, str]()
  for task in tasks:
    try:
      parts = superb.open_parts(task, root, out / 'made')
    except InputError as error:
      if task.name not in optional:
        raise
      absent[task.name] = str(error)
      log(f'{task.name} is not scored: {error}')
      continue
    sizes = ' / '.join(str(len(x)) for x in (parts[0].train, parts[0].valid, parts[0].test))
    log(f'{task.name}: {task.how.title}, {sizes} clips for training, validation and test')
    for upstream in (*upstreams, *([fbank(task)] if baseline else [])):
      try:
        row = run_task(
          upstream, task, parts, out / 'runs', cache=cache or out / 'cache', root=root,
          settings=settings, log=log,
        )  # fmt: skip
      except InputError as error:
        if task.name not in optional:
          raise
        absent[f'{task.name}, {upstream.name}'] = str(error)
        log(f'{task.name} is not scored with {upstream.name}: {error}')
        continue
      key = (row['task'], row['system'])
      rows = [r for r in rows if (r['task'], r['system']) != key] + [row]
      metric = row['metrics'][0]
      log(f'{task.name}: {row["system"]}, {metric} {shown.cell(row["scores"][metric], metric)}')
      write(out, rows, absent)
  if not rows:
    raise InputError('\n'.join(['No task can be scored.', *absent.values()]))
  write(out, rows, absent)
  return rows


def _read(path: Path) -> list[dict[str, Any]]:
  """The rows of earlier runs, which stay."""
  if not path.exists():
    return []
  try:
    return list(json.loads(path.read_text())['rows'])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'{path} holds earlier scores and cannot be read ({error}): move it away, or give another '
      '--out.'
    ) from error


def write(out: Path, rows: Sequence[Mapping[str, Any]], absent: Mapping[str, str]) -> None:
  """Writes superb.json, superb.md and superb.html, each at once."""
  order = list(superb.TASKS)
  rows = sorted(rows, key=lambda r: order.index(r['task']) if r['task'] in order else len(order))
  out.mkdir(parents=True, exist_ok=True)
  content = {'format': FORMAT, 'rows': list(rows), 'absent': dict(absent)}
  folders.replace_text(out / FILE, json.dumps(content, indent=1))
  found = shown.content(rows, absent)
  text = '\n'.join(t.markdown() for t in (*found['tables'], found['details']))
  folders.replace_text(out / 'superb.md', text)
  folders.replace_text(out / 'superb.html', shown.write_page(rows, absent))
