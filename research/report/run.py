"""report.html: one self-contained page about a run, from whatever its folder holds."""

import base64
import html
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.capabilities import Hears
from research.errors import InputError
from research.jobs import folders
from research.report import charts, tables
from research.report.page import page

__all__ = ['page', 'score_section', 'write_report']

SPEED = ('step_seconds', 'audio_seconds_per_second_per_chip', 'input_wait_fraction', 'mfu')
# Bookkeeping that says nothing about learning.
HIDDEN = ('step', 'epoch', 'compile_seconds', 'flops_per_second_per_chip', 'warning')
NAMES = {
  'grad_norm': 'gradient norm',
  'learning_rate': 'learning rate',
  'audio_seconds_per_second_per_chip': 'seconds of audio per second and chip',
  'input_wait_fraction': 'share of time waiting for input',
  'step_seconds': 'seconds a step',
  'mfu': 'model FLOPs utilisation',
  'representation_std': 'spread of the representation',
}
MOST_CLIPS = 6
FIRST_CHARTS, MOST_CHARTS = 6, 24
PANELS = ('original', 'masked', 'reconstructed')


def write_report(workdir: str | os.PathLike) -> Path:
  """Writes report.html in a run's folder from what is there.

  Read: config.json (headline), metrics.jsonl (curves), pictures.npz (panels name -> [b, s, f]),
  scores.json and map.npz (of `launch.evaluate`), bad_files.jsonl. What is absent is left out.

  Returns:
    the path of the page.
  """
  workdir = Path(workdir)
  config = _json(workdir / 'config.json', {})
  metrics = read_lines(workdir / 'metrics.jsonl')
  found = _json(workdir / 'scores.json', {})
  scores = found.get('rows', [])
  sections = [
    headline(config, metrics, scores),
    curve_section(metrics),
    picture_section(workdir / 'pictures.npz', config),
    score_section(found),
    map_section(workdir / 'map.npz'),
    bad_file_section(read_lines(workdir / 'bad_files.jsonl')),
    config_section(config),
  ]
  title = config.get('model', {}).get('name') or workdir.resolve().name
  path = workdir / 'report.html'
  folders.replace_text(path, page(title, [s for s in sections if s]))
  return path


# -- Reading -----------------------------------------------------------------------------------


def _json(path: Path, default: Any) -> Any:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    return default


def read_lines(path: Path) -> list[dict[str, Any]]:
  """The objects of a .jsonl file; a line that a kill left half-written is passed over."""
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
  except FileNotFoundError:
    return []
  rows = []
  for line in lines:
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue
    if isinstance(row, dict):
      rows.append(row)
  return rows


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


# -- Sections ----------------------------------------------------------------------------------


def headline(
  config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], scores: Sequence[Mapping]
) -> str:
  """What was trained on what, and the few numbers that matter."""
  model, data = config.get('model', {}), config.get('data', {})
  args = {k: v for k, v in model.get('args', {}).items() if isinstance(v, str | int | float)}
  said = ', '.join(f'{k} {v}' for k, v in list(args.items())[:8])
  words = [f'<p class="lead">{html.escape(said)}</p>'] if said else []
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
  systems = {row['system'] for row in scores if row['kind'] == 'model'}
  for row in scores if len(systems) == 1 else ():  # several: their table follows
    if row['kind'] == 'model' and row['protocol'] in ('probe', 'logistic'):
      tiles.append((f'{row["task"]}, {row["protocol"]}', tables.score_text(row)))
  cells = ''.join(
    f'<div class="tile"><b>{html.escape(v)}</b><span>{html.escape(k)}</span></div>'
    for k, v in tiles[:8]
  )
  warnings = [row['warning'] for row in metrics if isinstance(row.get('warning'), str)]
  said = ''.join(f'<p class="warning">{html.escape(w)}</p>' for w in warnings[-5:])
  return ''.join(words) + (f'<div class="tiles">{cells}</div>' if cells else '') + said


def _source_name(source: Any) -> str:
  if isinstance(source, Mapping):
    return Path(str(source.get('name'))).name
  if isinstance(source, list):
    return ' + '.join(_source_name(s) for s in source)
  return Path(str(source)).name


def curve_section(metrics: Sequence[Mapping[str, Any]]) -> str:
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
  if not shown:
    return ''
  figures = [
    _figure(text, charts.lines(drawn[n], title=text))
    for n in shown[:MOST_CHARTS]
    for text in [NAMES.get(n, n.replace('_', ' '))]
  ]
  first, rest = ''.join(figures[:FIRST_CHARTS]), ''.join(figures[FIRST_CHARTS:])
  more = f'<details><summary>More curves</summary><div class="drawn">{rest}</div></details>'
  return f'<h2>Training</h2><div class="drawn">{first}</div>' + (more if rest else '')


def _constant(chart: Mapping[str, tuple[list[float], list[float]]]) -> bool:
  finite = [v for _, values in chart.values() for v in values if math.isfinite(v)]
  return max(finite) == min(finite)


def _figure(caption: str, picture: str) -> str:
  return f'<figure><figcaption>{html.escape(caption)}</figcaption>{picture}</figure>'


def picture_section(path: Path, config: Mapping[str, Any]) -> str:
  """Spectrogram panels of a few clips, side by side, on one colour scale a clip."""
  if not path.exists():
    return ''
  with np.load(path) as file:
    names = sorted(file.files, key=lambda n: PANELS.index(n) if n in PANELS else len(PANELS))
    panels = {name: file[name] for name in names if file[name].ndim == 3}
  if not panels:
    return ''
  first = next(iter(panels.values()))
  hop = _hop_seconds(config)
  clips = []
  for i in range(min(len(first), MOST_CLIPS)):
    length = _real_frames(first[i])
    low, high = np.percentile(first[i, :length], [1, 99.5])
    shown = ''.join(
      f'<figure><img alt="{html.escape(name)} spectrogram of clip {i + 1}" '
      f'src="{spectrogram_png(x[i, :length], low, high)}"><figcaption>{html.escape(name)}'
      '</figcaption></figure>'
      for name, x in panels.items()
    )
    span = f'{length * hop:.1f} s' if hop else f'{length} frames'
    clips.append(
      f'<div class="clip"><p>clip {i + 1}, {span}</p><div class="panels">{shown}</div></div>'
    )
  return (
    '<h2>What the model sees and fills in</h2><p>Time runs to the right, frequency upwards.</p>'
    + ''.join(clips)
  )


def _real_frames(spectrogram: np.ndarray) -> int:
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


def spectrogram_png(x: np.ndarray, low: float, high: float) -> str:
  """A data URL of a spectrogram [s, f], low frequencies at the bottom."""
  from matplotlib import image

  file = io.BytesIO()
  image.imsave(
    file, x.T, origin='lower', cmap='magma', vmin=low, vmax=max(high, low + 1e-6), format='png'
  )
  return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'


def score_section(scores: Mapping[str, Any]) -> str:
  """Score tables with the baselines and published figures, confusion matrices, per-class scores,
  how they were made; from the content of scores.json."""
  rows = scores.get('rows', [])
  if not rows:
    return ''
  parts = ['<h2>How good the embeddings are</h2>']
  parts += [table.html() for table in tables.comparison(rows, scores.get('published', ()))]
  if (absent := tables.absent(scores.get('absent', {}))) is not None:
    parts.append(absent.html())
  over = sorted({f'{row["ci_over"]}' for row in rows if row.get('ci') is not None})
  interval = f', ± the 95 % Student t interval over {" or ".join(over)}' if over else ''
  parts.append(
    f'<p class="note">Scores in percent on test clips{interval}. Settings were chosen on '
    'validation clips. Bold: the best of a column.</p>'
  )
  parts += [f'<p class="note">{html.escape(n)}</p>' for n in tables.notes(rows)]
  pictures = []
  for row in rows:
    if 'confusion' in row and row['kind'] == 'model':
      title = f'{row["task"]}, {row["protocol"]}: {row["system"]}'
      matrix = np.array(row['confusion'])
      pictures.append(_figure(title, charts.confusion(matrix, row['classes'], title=title)))
  if pictures:
    parts.append(f'<h3>Confusion</h3><div class="drawn">{"".join(pictures)}</div>')
  parts += [_per_class(row) for row in rows if row['kind'] == 'model']
  if (spread := tables.sensitivity(rows)) is not None:
    parts.append(f'<details><summary>{spread.title}</summary>{spread.html()}</details>')
  parts.append(f'<details><summary>Details</summary>{tables.details(rows).html()}</details>')
  return '\n'.join(parts)


def _per_class(row: Mapping[str, Any]) -> str:
  what = 'recall' if 'confusion' in row else 'average precision'
  found = sorted(((v, name) for name, v in row['per_class'].items() if v is not None), reverse=True)
  body = [[name, f'{100 * v:.1f}'] for v, name in found]
  title = f'{row["task"]}, {row["protocol"]}: {what} of each class, {row["system"]}'
  table = tables.Table(title, ['class', f'{what} (%)'], body)
  return f'<details><summary>{html.escape(title)}</summary>{table.html()}</details>'


def map_section(path: Path) -> str:
  """The 2-D maps of `launch.evaluate`."""
  if not path.exists():
    return ''
  shown = []
  with np.load(path) as file:
    for task in dict.fromkeys(key.split('/')[0] for key in file.files):
      names = [str(n) for n in file[f'{task}/names']]
      groups = file[f'{task}/groups'].tolist()
      method = {'tsne': 't-SNE', 'pca': 'two principal components'}[str(file[f'{task}/method'])]
      picture = charts.scatter(file[f'{task}/points'], groups, names, title=f'map of {task}')
      caption = f'{task}: {file[f"{task}/system"]}, {method}'
      shown.append(
        f'<figure><figcaption>{html.escape(caption)}</figcaption>{picture}{charts.legend(names)}</figure>'
      )
  if not shown:
    return ''
  about = '<p>Each point is a test clip; clips that the model finds alike lie close together.</p>'
  return f'<h2>Map of the embeddings</h2>{about}<div class="drawn">{"".join(shown)}</div>'


def bad_file_section(rows: Sequence[Mapping[str, Any]]) -> str:
  """Files that could not be used."""
  if not rows:
    return ''
  body = [[str(r.get('path') or r.get('id')), str(r.get('reason'))] for r in rows[:100]]
  table = tables.Table(f'{len(rows)} files could not be used', ['file', 'reason'], body)
  return f'<details><summary>{len(rows)} bad files</summary>{table.html()}</details>'


def config_section(config: Mapping[str, Any]) -> str:
  """The whole config, folded."""
  if not config:
    return ''
  text = html.escape(json.dumps(config, indent=2, ensure_ascii=False))
  return f'<details><summary>Config</summary><pre>{text}</pre></details>'
