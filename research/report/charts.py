"""Charts as SVG text: they follow the page's colours, stay sharp, and need nothing to be drawn.

Colours are CSS variables with fallbacks, so that a chart is right inside the report, light or dark,
and in a file of its own. Charts are 400 units wide: about one unit a pixel on a phone.
"""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH = 400
_INK = 'var(--ink, #1c1e21)'
_MUTED = 'var(--muted, #5f6670)'
_GRID = 'var(--grid, #dcdfe4)'
_CARD = 'var(--card, #fff)'
# Okabe & Ito's colours for colour-blind readers, then the same ones darker.
PALETTE = (
  'var(--accent, #0072b2)',
  '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#b8a800', '#7b5ea7',
  '#00496f', '#8c6100', '#005f45', '#803800', '#7d4766', '#2f7fae', '#6e6500', '#a58bd0',
)  # fmt: skip
RIGHT, WRONG = '#0072b2', '#d55e00'  # shades of a confusion matrix


def _document(body: list[str], height: float, title: str) -> str:
  head = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
    f'aria-label="{html.escape(title, quote=True)}" font-family="system-ui, sans-serif" '
    'font-size="12">'
  )
  back = f'<rect width="{WIDTH}" height="{height:g}" fill="{_CARD}"/>'
  return '\n'.join([head, back, *body, '</svg>'])


def _text(
  x: float, y: float, text: str, *, anchor: str = 'middle', color: str = _MUTED, more: str = ''
) -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" {more}>'
    f'{html.escape(text)}</text>'
  )


def number(value: float) -> str:
  """A short number: 0.00025 is 2.5e-4, 12000 is 12k."""
  if value == 0:
    return '0'
  size = abs(value)
  if size >= 1e6 or size < 1e-3:
    mantissa, exponent = f'{value:.2e}'.split('e')
    return f'{float(mantissa):g}e{int(exponent)}'
  if size >= 1e4:
    return f'{value / 1e3:.4g}k'
  return f'{value:.4g}'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Round numbers (1, 2 or 5 times a power of ten apart) inside a range."""
  if not high > low:
    return [low]
  step = (high - low) / count
  power = 10.0 ** math.floor(math.log10(step))
  step = power * next(m for m in (1, 2, 5, 10) if step <= m * power * 1.0001)
  first = math.ceil(low / step - 1e-9)
  return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _bounds(values: np.ndarray) -> tuple[float, float]:
  finite = values[np.isfinite(values)]
  if not len(finite):
    return 0.0, 1.0
  low, high = float(finite.min()), float(finite.max())
  margin = 0.05 * (high - low) or max(abs(high) * 0.05, 1e-9)
  return low - margin, high + margin


def _thin(x: np.ndarray, y: np.ndarray, most: int = 500) -> tuple[np.ndarray, np.ndarray]:
  """Means of neighbouring points, so that a long run is not megabytes of path."""
  if len(x) <= most:
    return x, y
  parts = np.array_split(np.arange(len(x)), most)
  return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def lines(
  series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  *,
  title: str,
  x_label: str = 'step',
  height: float = 200,
) -> str:
  """A line chart of named (x, y) series; values that are not finite break the line."""
  left, right, top, bottom = 54.0, 18.0, 14.0 + 18.0 * (len(series) > 1), 36.0
  drawn = {
    name: _thin(np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in series.items()
  }
  xs = np.concatenate([x for x, _ in drawn.values()])
  x0, x1 = float(xs.min()), float(xs.max())
  y0, y1 = _bounds(np.concatenate([y for _, y in drawn.values()]))
  x1 = x1 if x1 > x0 else x0 + 1.0
  to_x = lambda v: left + (v - x0) / (x1 - x0) * (WIDTH - left - right)  # noqa: E731
  to_y = lambda v: height - bottom - (v - y0) / (y1 - y0) * (height - top - bottom)  # noqa: E731

  body = []
  for value in ticks(y0, y1):
    body.append(
      f'<line x1="{left}" x2="{WIDTH - right}" y1="{to_y(value):.1f}" y2="{to_y(value):.1f}" '
      f'stroke="{_GRID}"/>'
    )
    body.append(_text(left - 6, to_y(value) + 4, number(value), anchor='end'))
  for value in ticks(x0, x1, 4):
    body.append(_text(to_x(value), height - bottom + 17, number(value)))
  body.append(_text((left + WIDTH - right) / 2, height - 4, x_label))
  at = left
  for i, (name, (x, y)) in enumerate(drawn.items()):
    color = PALETTE[i % len(PALETTE)]
    body.append(_path(to_x(x), to_y(y), color, bold=i == 0))
    if len(series) > 1:
      body.append(f'<rect x="{at:.1f}" y="6" width="12" height="4" rx="2" fill="{color}"/>')
      body.append(_text(at + 17, 13, name, anchor='start', color=_INK))
      at += 30 + 6.6 * len(name)
  return _document(body, height, title)


def _path(x: np.ndarray, y: np.ndarray, color: str, bold: bool) -> str:
  finite = np.isfinite(y)
  if finite.sum() == 1:
    place = int(np.flatnonzero(finite)[0])
    return f'<circle cx="{x[place]:.1f}" cy="{y[place]:.1f}" r="3" fill="{color}"/>'
  words, pen_down = [], False
  for a, b, good in zip(x, y, finite):
    if good:
      words.append(f'{"L" if pen_down else "M"}{a:.1f} {b:.1f}')
    pen_down = bool(good)
  width = 2 if bold else 1.6
  return (
    f'<path d="{"".join(words)}" fill="none" stroke="{color}" stroke-width="{width}" '
    'stroke-linejoin="round"/>'
  )


def bars(
  values: np.ndarray,
  *,
  title: str,
  x_label: str,
  mark: float | None = None,
  mark_label: str = '',
  height: float = 200,
) -> str:
  """One bar a value, in the order given, from 0; `mark` is a dashed line across with its name."""
  heights = np.asarray(values, float)
  # A bar a unit is as fine as the chart is: more are drawn as means of neighbours.
  _, heights = _thin(np.arange(len(heights), dtype=float), heights, 320)
  left, right, top, bottom = 54.0, 18.0, 14.0, 36.0
  high = max(float(heights.max(initial=0.0)), mark or 0.0) * 1.05 or 1.0
  to_y = lambda v: height - bottom - v / high * (height - top - bottom)  # noqa: E731
  width = (WIDTH - left - right) / max(len(heights), 1)
  body = []
  for value in ticks(0.0, high):
    body.append(
      f'<line x1="{left}" x2="{WIDTH - right}" y1="{to_y(value):.1f}" y2="{to_y(value):.1f}" '
      f'stroke="{_GRID}"/>'
    )
    body.append(_text(left - 6, to_y(value) + 4, number(value), anchor='end'))
  for i, value in enumerate(heights):
    body.append(
      f'<rect x="{left + i * width:.2f}" y="{to_y(value):.2f}" width="{width * 0.86:.2f}" '
      f'height="{height - bottom - to_y(value):.2f}" fill="{PALETTE[0]}"/>'
    )
  count = len(values)
  for value in ticks(1.0, max(float(count), 1.0), 4):
    body.append(
      _text(left + (value - 0.5) / count * (WIDTH - left - right), height - bottom + 17,
            number(value))
    )  # fmt: skip
  body.append(_text((left + WIDTH - right) / 2, height - 4, x_label))
  if mark is not None:
    body.append(
      f'<line x1="{left}" x2="{WIDTH - right}" y1="{to_y(mark):.1f}" y2="{to_y(mark):.1f}" '
      f'stroke="{PALETTE[3]}" stroke-dasharray="4 3"/>'
    )
    body.append(_text(WIDTH - right, to_y(mark) - 4, mark_label, anchor='end', color=_INK))
  return _document(body, height, title)


def scatter(
  points: np.ndarray,
  groups: Sequence[int],
  names: Sequence[str],
  *,
  title: str,
  height: float = 360,
) -> str:
  """Points [n, 2] coloured by group; the legend is `legend(names)`."""
  points = np.asarray(points, float)
  low, high = points.min(axis=0), points.max(axis=0)
  span = np.where(high > low, high - low, 1.0)
  placed = 10 + (points - low) / span * np.array([WIDTH - 20, height - 20])
  radius = 4.0 if len(points) <= 150 else 3.0 if len(points) <= 600 else 2.2
  body = [
    f'<circle cx="{x:.1f}" cy="{height - y:.1f}" r="{radius}" fill="{color_of(g)}" '
    f'fill-opacity="0.75"><title>{html.escape(names[g])}</title></circle>'
    for (x, y), g in zip(placed, groups)
  ]
  return _document(body, height, title)


def color_of(group: int) -> str:
  """The colour of a class: the palette first, then evenly turned hues."""
  if group < len(PALETTE):
    return PALETTE[group]
  return f'hsl({group * 137.508 % 360:.0f} 55% 50%)'


def legend(names: Sequence[str], most: int = 36) -> str:
  """An HTML list of colours and names; what does not fit is counted."""
  items = [
    f'<li><i style="background:{color_of(i)}"></i>{html.escape(n)}</li>'
    for i, n in enumerate(names[:most])
  ]
  if len(names) > most:
    items.append(f'<li>and {len(names) - most} more</li>')
  return f'<ul class="legend">{"".join(items)}</ul>'


def confusion(matrix: np.ndarray, classes: Sequence[str], *, title: str) -> str:
  """Counts [true, predicted], shaded by their share of the true class; numbers up to 15 classes."""
  matrix = np.asarray(matrix)
  count = len(classes)
  named = count <= 25
  size = 11 if count <= 15 else 9
  longest = max(len(_short(c)) for c in classes) if named else 0
  left = 24 + 0.6 * size * longest
  cell = (WIDTH - left - 8) / count
  # Names below the columns are turned where they would run into each other.
  turned = named and longest * 0.6 * size > cell - 2
  below = (0.6 * size * longest * (0.75 if turned else 0.0) + size + 8) if named else 6
  height = cell * count + below + 26
  share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  body = []
  for i in range(count):
    for j in range(count):
      x, y = left + j * cell, 4 + i * cell
      tip = f'{classes[i]} heard as {classes[j]}: {matrix[i, j]}'
      body.append(
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{cell:.2f}" height="{cell:.2f}" '
        f'fill="{RIGHT if i == j else WRONG}" fill-opacity="{share[i, j]:.3f}" '
        f'stroke="{_GRID}" stroke-width="0.5"><title>{html.escape(tip)}</title></rect>'
      )
      if count <= 15 and matrix[i, j]:
        ink = '#fff' if share[i, j] > 0.55 else _INK
        place = f'font-size="{min(11, cell * 0.45):.1f}"'
        body.append(_text(x + cell / 2, y + cell / 2 + 4, str(matrix[i, j]), color=ink, more=place))
  bottom = 4 + cell * count
  for i, name in enumerate(classes if named else ()):
    font = f'font-size="{min(size, cell):.1f}"'
    centre = (i + 0.5) * cell
    body.append(
      _text(left - 5, 4 + centre + 3.5, _short(name), anchor='end', color=_INK, more=font)
    )
    x, y = left + centre, bottom + size + 4
    if turned:
      spin = f'transform="rotate(-45 {x:.1f} {y:.1f})" {font}'
      body.append(_text(x + 4, y - 2, _short(name), anchor='end', color=_INK, more=spin))
    else:
      body.append(_text(x, y, _short(name), color=_INK, more=font))
  body.append(_text(left + cell * count / 2, height - 5, 'predicted'))
  middle = 4 + cell * count / 2
  body.append(_text(11, middle, 'true', more=f'transform="rotate(-90 11 {middle:.1f})"'))
  return _document(body, height, title)


def _short(name: str, most: int = 14) -> str:
  return name if len(name) <= most else name[: most - 1] + '…'
