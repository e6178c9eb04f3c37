"""report.html: one self-contained page about a run, from whatever its folder holds."""

import base64
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from research.capabilities import Hears
from research.errors import InputError
from research.jobs import folders, lines, mirror, paths
from research.report import charts, players, story, tables
from research.report.page import render

SPEED = ('step_seconds', 'audio_seconds_per_second_per_chip', 'input_wait_fraction', 'mfu')
# Bookkeeping that says nothing about learning.
HIDDEN = ('step', 'epoch', 'compile_seconds', 'flops_per_second_per_chip', 'warning')
NAMES = {
  'grad_norm': 'gradient norm',
  'learning_rate': 'learning rate',
  'audio_seconds_per_second_per_chip': 'seconds of audio per second and chip',
  'input_wait_fraction': 'fraction of time waiting for input',
  'step_seconds': 'seconds a step',
  'mfu': 'model FLOPs utilisation',
  'representation_std': 'spread of the representation',
}
MAX_CLIPS = 6
FIRST_CHARTS, MAX_CHARTS, MAX_GROUPS = 3, 24, 6
PANELS = ('original', 'masked', 'reconstructed')


READ = (
  'config.json',
  'metrics*.jsonl',
  'pictures.npz',
  'scores.json',
  'map.npz',
  'bad_files*.jsonl',
)


def write_report(workdir: str | os.PathLike) -> paths.AnyPath:
  """Writes report.html in a run's folder from what is there.

  Read: config.json (headline), metrics.jsonl (curves), pictures.npz (panels name -> [b, s, f]),
  scores.json and map.npz (of `launch.evaluate`), bad_files.jsonl. What is absent is left out.

  Returns:
    the path of the page.
  """
  home = paths.path(workdir, 'workdir')
  with mirror.folder(home, READ) as folder:
    return home / _write(folder, home.absolute().name if folder == home else home.name).name


def _write(workdir: Path, name: str) -> Path:
  config = _json(workdir / 'config.json', {})
  metrics = read_lines(workdir / 'metrics.jsonl')
  found = _json(workdir / 'scores.json', {})
  path = workdir / 'report.html'
  page = render(
    'report.html',
    title=config.get('model', {}).get('name') or name,
    headline=headline(config, metrics, found.get('rows', [])),
    story=story.sentences(config, metrics, found.get('rows', [])),
    curves=curves(metrics),
    first_curves=FIRST_CHARTS,
    clips=clips(workdir / 'pictures.npz', config),
    scores=scores(found),
    maps=maps(workdir / 'map.npz'),
    bad_files=tables.bad_files(_once(read_lines(workdir / 'bad_files.jsonl'))),
    config=json.dumps(config, indent=2, ensure_ascii=False) if config else '',
  )
  folders.replace_text(path, page)
  return path


def score_page(found: Mapping[str, Any]) -> str:
  """The page of the content of scores.json alone."""
  return render('scores.html', title='Scores', scores=scores(found))


# -- Reading -----------------------------------------------------------------------------------


def _json(path: Path, default: Any) -> Any:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    return default


def read_lines(path: Path) -> list[dict[str, Any]]:
  """The objects of a .jsonl file; a line that a kill left half-written is passed over."""
  try:
    found = lines.read(path)
  except FileNotFoundError:
    return []
  rows = []
  for line in found:
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue
    if isinstance(row, dict):
      rows.append(row)
  return rows


def _once(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  """The first row of every id: several processes may have met one file."""
  return list({row.get('id'): row for row in reversed(rows)}.values())[::-1]


def _series(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
  """name -> (steps, values) of every numeric metric; null is a gap."""
  found: dict[str, tuple[list[float], list[float]]] = {}
  for row in metrics:
    for name, value in row.items():
      if name in HIDDEN or isinstance(value, str | bool) or 'step' not in row:
        continue
      xs, ys = found.setdefault(name, ([], []))
      xs.append(float(row['step']))
      ys.append(math.nan if value is None else float(value))
  return {n: s for n, s in found.items() if np.isfinite(s[1]).any()}


# -- What is on the page -------------------------------------------------------------------------


def headline(
  config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], rows: Sequence[Mapping]
) -> dict[str, Any]:
  """What was trained on what, and the few numbers that matter.

  Args:
    config: of the run.
    metrics: lines of metrics.jsonl.
    rows: of scores.json.

  Returns:
    lead, a sentence; tiles, up to 8 (name, text); warnings, the last 5.
  """
  model, data = config.get('model', {}), config.get('data', {})
  args = {k: v for k, v in model.get('args', {}).items() if isinstance(v, str | int | float)}
  series = _series(metrics)
  tiles = []
  if 'loss' in series:
    steps, losses = series['loss']
    tiles.append(('steps', f'{int(steps[-1]):,}'))
    finite = [v for v in losses if math.isfinite(v)]
    tiles.append(('loss', f'{charts.number(finite[0])} → {charts.number(finite[-1])}'))
  if data.get('source'):
    tiles.append(('data', _source_name(data['source'])))
  if data.get('batch_seconds'):
    tiles.append(('audio a step, at most', f'{data["batch_seconds"]:g} s'))
  elif data.get('batch_size'):
    tiles.append(('clips a step', str(data['batch_size'])))
  systems = {row['system'] for row in rows if row['kind'] == 'model'}
  for row in rows if len(systems) == 1 else ():  # several: their table follows
    if row['kind'] == 'model' and row['protocol'] in ('probe', 'logistic'):
      tiles.append((f'{row["task"]}, {row["protocol"]}', tables.score_text(row)))
  warnings = [row['warning'] for row in metrics if isinstance(row.get('warning'), str)]
  return dict(
    lead=', '.join(f'{k} {v}' for k, v in list(args.items())[:8]),
    tiles=tiles[:8],
    warnings=warnings[-5:],
  )


def _source_name(source: Any) -> str:
  if isinstance(source, Mapping):
    return Path(str(source.get('name'))).name
  if isinstance(source, list):
    return ' + '.join(_source_name(s) for s in source)
  return Path(str(source)).name


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[charts.Chart]:
  """Loss with the held-out losses, learning rate, health signals and speed."""
  series = _series(metrics)
  # 'valid/loss' is drawn in the chart of 'loss'.
  drawn: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
  for name in sorted(series, key=lambda n: (n.count('/'), n)):
    whole, _, part = name.rpartition('/')
    if part == 'seconds':
      continue
    drawn.setdefault(part if whole else name, {})[name] = series[name]
  order = sorted(drawn, key=lambda n: (n != 'loss', n != 'learning_rate', n in SPEED, n))
  # The only term of a loss is the loss again.
  loss = drawn.get('loss', {}).get('loss', ())
  shown = [
    n
    for n in order
    if n in ('loss', 'learning_rate') or not (_constant(drawn[n]) or drawn[n].get(n) == loss)
  ]
  return [
    charts.chart(charts.lines(drawn[n]), NAMES.get(n, n.replace('_', ' ')))
    for n in shown[:MAX_CHARTS]
  ]


def _constant(chart: Mapping[str, tuple[list[float], list[float]]]) -> bool:
  finite = [v for _, values in chart.values() for v in values if math.isfinite(v)]
  return max(finite) == min(finite)


def clips(path: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Spectrogram panels of a few clips, on one colour scale a clip.

  Returns:
    a dict a clip: name and length, texts; panels, (name, data URL of a picture); sound, a data URL
    or None.
  """
  if not path.exists():
    return []
  file = folders.read_arrays(path)
  names = sorted(file, key=lambda n: PANELS.index(n) if n in PANELS else len(PANELS))
  panels = {name: file[name] for name in names if file[name].ndim == 3}
  if not panels:
    return []
  first = next(iter(panels.values()))
  hop = _hop_seconds(config)
  sounds = players.players(file)
  found = []
  for i in range(min(len(first), MAX_CLIPS)):
    length = _real_frames(first[i])
    low, high = np.percentile(first[i, :length], [1, 99.5])
    shown = [(name, spectrogram_png(x[i, :length], low, high)) for name, x in panels.items()]
    text = f'{length * hop:.1f} s' if hop else f'{length} frames'
    name, sound = sounds[i] if i < len(sounds) else (f'clip {i + 1}', None)
    found.append(dict(name=name, length=text, panels=shown, sound=sound))
  return found


def _real_frames(spectrogram: Float[np.ndarray, 's f']) -> int:
  """Frames up to the padding at the end, in which every frame is the same."""
  same = np.all(np.abs(spectrogram - spectrogram[-1]) < 1e-6, axis=1)
  padding = int(np.argmin(same[::-1])) if not same.all() else 0
  # The last frame is always equal to itself; one frame alone is no padding.
  return len(spectrogram) - (padding if padding > 1 else 0)


def _hop_seconds(config: Mapping[str, Any]) -> float | None:
  from research import models

  try:
    model = models.get(config['model']['name'])(**config['model'].get('args', {}))
  except (InputError, KeyError):
    return None  # of another version
  if not isinstance(model, Hears):
    return None
  frontend: Any = model.frontend
  return frontend.hop_samples / frontend.sample_rate


def spectrogram_png(x: Float[np.ndarray, 's f'], low: float, high: float) -> str:
  """A data URL of a spectrogram, low frequencies at the bottom."""
  from matplotlib import image

  file = io.BytesIO()
  image.imsave(
    file, x.T, origin='lower', cmap='magma', vmin=low, vmax=max(high, low + 1e-6), format='png'
  )
  return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'


def scores(found: Mapping[str, Any]) -> dict[str, Any]:
  """Score tables with the baselines and published figures, confusion matrices, per-class scores and
  how they were made.

  Args:
    found: the content of scores.json.

  Returns:
    what `templates/score_section.html` shows; nothing where nothing was scored.
  """
  rows = found.get('rows', [])
  if not rows:
    return {}
  absent = tables.absent(found.get('absent', {}))
  models = [row for row in rows if row['kind'] == 'model']
  return dict(
    tables=[*tables.comparison(rows, found.get('published', ())), *([absent] if absent else [])],
    charts=score_charts(rows),
    interval=' or '.join(sorted({row['ci_over'] for row in rows if row.get('ci') is not None})),
    notes=tables.notes(rows),
    differences=tables.differences(rows),
    confusions=[
      charts.chart(
        charts.confusion(np.array(row['confusion']), row['classes']),
        f'{row["task"]}, {row["protocol"]}: {row["system"]}',
      )
      for row in models
      if 'confusion' in row
    ],
    per_class=[tables.per_class(row) for row in models],
    sensitivity=tables.sensitivity(rows),
    details=tables.details(rows),
  )


def score_charts(rows: Sequence[Mapping[str, Any]]) -> list[charts.Chart]:
  """A chart of the scores of each protocol, of the tasks that are fractions of 1."""
  drawn = []
  for protocol in dict.fromkeys(row['protocol'] for row in rows):
    mine = [r for r in rows if r['protocol'] == protocol and r['metric'] != 'd_prime']
    order = sorted(mine, key=lambda r: tables.KINDS.get(r['kind'], 9))
    names = list(dict.fromkeys(row['task'] for row in mine))
    if not 0 < len(names) <= MAX_GROUPS:
      continue
    groups = {
      n: [(r['system'], r['score'], r.get('ci')) for r in order if r['task'] == n] for n in names
    }
    guessing = {
      r['task']: 1 / len(r['classes']) for r in mine if r['metric'] == 'accuracy' and r['classes']
    }
    figure = charts.scores(groups, guessing)
    what = tables.PROTOCOL_NAMES.get(protocol, protocol)
    drawn.append(charts.chart(figure, f'{what}: score in %, with 95 % intervals; dashed: guessing'))
  return drawn


def maps(path: Path) -> list[tuple[list[charts.Chart], list[players.Player]]]:
  """The 2-D maps of `launch.evaluate`: those of a task, and a clip of each of its classes."""
  if not path.exists():
    return []
  shown = []
  file = folders.read_arrays(path)
  for task in dict.fromkeys(key.split('/')[0] for key in file):
    names = [str(n) for n in file[f'{task}/names']]
    groups = file[f'{task}/groups'].tolist()
    method = {'tsne': 't-SNE', 'pca': 'two principal components'}[str(file[f'{task}/method'])]
    figure = charts.scatter(file[f'{task}/points'], groups, names)
    drawn = [charts.chart(figure, f'{task}: {file[f"{task}/system"]}, {method}', names)]
    if f'{task}/separated' in file:
      figure = charts.scatter(file[f'{task}/separated'], groups, names)
      caption = f'{task}: by the scores of a linear classifier of training clips, t-SNE'
      drawn.append(charts.chart(figure, caption, names))
    shown.append((drawn, players.players(file, f'{task}/')))
  return shown
