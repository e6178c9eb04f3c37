"""Charts: what is drawn, as matplotlib figures; `svg.text` makes them a part of a page.

Figures are 400 units wide: about one unit a pixel on a phone.
"""

import colorsys
import dataclasses
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from research.report import svg

if TYPE_CHECKING:
  import matplotlib.figure

WIDTH = 400.0
# Okabe & Ito's colours for colour-blind readers, then the same ones darker.
PALETTE = (
  svg.THEME['accent'],
  '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#b8a800', '#7b5ea7',
  '#00496f', '#8c6100', '#005f45', '#803800', '#7d4766', '#2f7fae', '#6e6500', '#a58bd0',
)  # fmt: skip
# Shades of a confusion matrix, alike in light and dark, and the ink on them.
RIGHT, WRONG, WHITE = '#0071b1', '#d55e00', '#ffffff'
MAX_POINTS, MAX_BARS = 500, 320
# Confusion matrices of more classes are drawn without the counts, or without the names.
MAX_COUNTED, MAX_NAMED = 15, 25


@dataclasses.dataclass(frozen=True)
class Chart:
  """A chart on a page.

  Attributes:
    caption: plain text.
    svg: of `svg.text`.
    legend: (colour in CSS, name).
    more: number of names that the legend leaves out.
  """

  caption: str
  svg: str
  legend: Sequence[tuple[str, str]] = ()
  more: int = 0


def chart(
  figure: 'matplotlib.figure.Figure', caption: str, names: Sequence[str] = (), limit: int = 36
) -> Chart:
  """A figure for a page; `names` of groups become its legend, up to `limit` of them."""
  legend = [(svg.css(color_of(i)), name) for i, name in enumerate(names[:limit])]
  return Chart(caption, svg.text(figure, caption), legend, max(len(names) - limit, 0))


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


def ticks(low: float, high: float, count: int = 5, *, integer: bool = False) -> list[float]:
  """About `count` round numbers (1, 2 or 5 times a power of ten apart) inside a range."""
  from matplotlib.ticker import MaxNLocator

  locator = MaxNLocator(count, steps=[1, 2, 5, 10], min_n_ticks=1, integer=integer)
  found = locator.tick_values(low, high)
  margin = 1e-9 * (high - low)
  return [float(v) for v in found if low - margin <= v <= high + margin]


def color_of(group: int) -> str:
  """The colour of a class: the palette first, then evenly turned hues."""
  if group < len(PALETTE):
    return PALETTE[group]
  rgb = colorsys.hls_to_rgb(group * 137.508 % 360 / 360, 0.5, 0.55)
  return '#' + ''.join(f'{round(255 * c):02x}' for c in rgb)


def lines(
  series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  *,
  x_label: str = 'step',
  height: float = 200.0,
) -> 'matplotlib.figure.Figure':
  """A line chart of named (x, y) series; values that are not finite break the line.

  Long series are drawn as means of neighbouring points.
  """
  drawn = {
    name: _thin(np.asarray(x, float), np.asarray(y, float), MAX_POINTS)
    for name, (x, y) in series.items()
  }
  names = [_short(svg.label(name), 48) for name in drawn]
  xs = np.concatenate([x for x, _ in drawn.values()])
  x_range = float(xs.min()), float(xs.max())
  y_range = _bounds(np.concatenate([y for _, y in drawn.values()]))
  # Names stand above the plot, which does not shrink for more than one row of them.
  columns, rows = _legend_grid(names) if len(names) > 1 else (0, 0)
  height += 18 * max(rows - 1, 0)
  with svg.style():
    figure = _plot(
      height, x_range if x_range[1] > x_range[0] else (x_range[0], x_range[0] + 1), y_range,
      top=14 + 18 * rows, x_label=x_label,
    )  # fmt: skip
    (axes,) = figure.axes
    for i, (name, (x, y)) in enumerate(zip(names, drawn.values())):
      axes.plot(
        x, y, color=color_of(i), linewidth=2.0 if i == 0 else 1.6, label=name,
        marker='o', markersize=6, markeredgewidth=0, markevery=_lone(y), clip_on=False,
      )  # fmt: skip
    if rows:
      legend = figure.legend(
        loc='upper left', bbox_to_anchor=(6 / WIDTH, 1 - 2 / height), ncols=columns,
        borderaxespad=0, borderpad=0.2, labelspacing=0.35, handlelength=1.0, handletextpad=0.5,
        columnspacing=1.4, numpoints=1,
      )  # fmt: skip
      for handle in legend.get_lines():
        handle.set(linewidth=4, marker='')
  return figure


def bars(
  values: Float[np.ndarray, ' n'] | Int[np.ndarray, ' n'],
  *,
  x_label: str,
  mark: float | None = None,
  mark_label: str = '',
  height: float = 200.0,
) -> 'matplotlib.figure.Figure':
  """One bar a value, in the order given, from 0; `mark` is a dashed line across with its name.

  More bars than the chart can show are drawn as means of neighbours.
  """
  count = len(values)
  places, heights = _thin(np.arange(1.0, count + 1), np.asarray(values, float), MAX_BARS)
  high = max(float(heights.max(initial=0.0)), mark or 0.0) * 1.05 or 1.0
  with svg.style():
    figure = _plot(height, (0.5, max(count, 1) + 0.5), (0.0, high), top=14, x_label=x_label)
    (axes,) = figure.axes
    width = count / max(len(heights), 1)
    axes.bar(places, heights, width=0.86 * width, color=color_of(0), clip_on=False)
    if mark is not None:
      axes.axhline(mark, color=color_of(3), linewidth=1.0, dashes=(4, 3), clip_on=False)
      axes.annotate(
        mark_label, (1, mark), xycoords=('axes fraction', 'data'), xytext=(0, 4),
        textcoords='offset points', ha='right', color=svg.THEME['ink'],
      )  # fmt: skip
  return figure


def scores(
  groups: Mapping[str, Sequence[tuple[str, float, float | None]]],
  marks: Mapping[str, float],
  *,
  height: float = 240.0,
) -> 'matplotlib.figure.Figure':
  """Bars with error bars: a group a task, a colour a system; 0 to 100 %.

  Args:
    groups: task -> (system, score, half of its interval or None) of every system.
    marks: task -> score of guessing, a dashed line across the group.
    height: of the figure.
  """
  names = list(dict.fromkeys(name for bars in groups.values() for name, _, _ in bars))
  columns, rows = _legend_grid([_short(svg.label(n), 48) for n in names])
  height += 18 * max(rows - 1, 0)
  width = 0.8 / max(len(names), 1)
  with svg.style():
    figure = _plot(height, (-0.5, len(groups) - 0.5), (0.0, 100.0), top=14 + 18 * rows, x_label='')
    (axes,) = figure.axes
    for i, name in enumerate(names):
      found = [
        (at + (i - (len(names) - 1) / 2) * width, 100 * value, 100 * (half or 0.0))
        for at, bars in enumerate(groups.values())
        for system, value, half in bars
        if system == name
      ]
      x, y, error = np.array(found).T
      axes.bar(x, y, 0.88 * width, color=color_of(i), label=_short(svg.label(name), 48))
      axes.errorbar(x, y, error, fmt='none', ecolor=svg.THEME['ink'], elinewidth=1.2, capsize=3)
    for at, task in enumerate(groups):
      if task in marks:
        axes.plot(
          (at - 0.45, at + 0.45), [100 * marks[task]] * 2, color=svg.THEME['ink'], linewidth=1.0,
          dashes=(4, 3),
        )  # fmt: skip
    axes.set_xticks(range(len(groups)), [_short(svg.label(task), 22) for task in groups])
    figure.legend(
      loc='upper center', ncols=columns, frameon=False, handlelength=1.0, borderaxespad=0.0
    )
  return figure


def scatter(
  points: Float[np.ndarray, 'n 2'],
  groups: Sequence[int],
  names: Sequence[str],
  *,
  height: float = 360.0,
) -> 'matplotlib.figure.Figure':
  """Points coloured by group, with the names of their groups as tooltips."""
  points = np.asarray(points, float)
  low, high = points.min(axis=0), points.max(axis=0)
  span = np.where(high > low, high - low, 1.0)
  margin = 10 * span / (np.array([WIDTH, height]) - 20)
  radius = 4.0 if len(points) <= 150 else 3.0 if len(points) <= 600 else 2.2
  with svg.style():
    figure = _figure(height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis('off')
    axes.set(
      xticks=[],
      yticks=[],
      xlim=(low[0] - margin[0], low[0] + span[0] + margin[0]),
      ylim=(low[1] - margin[1], low[1] + span[1] + margin[1]),
    )
    axes.scatter(
      *points.T, s=(2 * radius) ** 2, c=[color_of(g) for g in groups], alpha=0.75, linewidths=0,
      clip_on=False, urls=[svg.label(names[g]) for g in groups],
    )  # fmt: skip
  return figure


def confusion(matrix: Int[np.ndarray, 'c c'], classes: Sequence[str]) -> 'matplotlib.figure.Figure':
  """Counts [reference, predicted], shaded by their fraction of the reference class.

  Counts are written for up to MAX_COUNTED classes, names for up to MAX_NAMED.
  """
  matrix = np.asarray(matrix)
  classes = [svg.label(name) for name in classes]
  count = len(classes)
  names = [_short(name, 14) for name in classes] if count <= MAX_NAMED else []
  size = 11 if count <= MAX_COUNTED else 9
  longest = max((_width(name, size) for name in names), default=0.0)
  left, right, top = 24 + longest, 8, 4
  cell = (WIDTH - left - right) / count
  # Names below the columns are turned where they would run into each other.
  angle = 0 if longest <= cell - 2 else 45 if count <= MAX_COUNTED else 60
  below = (longest * math.sin(math.radians(angle)) + size + 8) if names else 6
  height = top + cell * count + below + 22
  fraction = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  with svg.style():
    from matplotlib.patches import Rectangle

    figure = _figure(height)
    # One unit is one cell, counted from the upper left.
    axes = figure.add_axes(
      (left / WIDTH, 1 - (top + cell * count) / height, cell * count / WIDTH, cell * count / height)
    )
    axes.axis('off')
    axes.set(xticks=[], yticks=[], xlim=(0, count), ylim=(count, 0))
    for i, j in zip(*np.nonzero(matrix)):
      axes.add_patch(
        Rectangle(
          (j, i), 1, 1, linewidth=0, clip_on=False,
          facecolor=(RIGHT if i == j else WRONG, round(fraction[i, j], 3)),
          url=f'{classes[i]} predicted as {classes[j]}: {matrix[i, j]}',
        )
      )  # fmt: skip
      if count <= MAX_COUNTED:
        dark = fraction[i, j] > (0.55 if i == j else 0.8)
        ink = WHITE if dark else svg.THEME['ink']
        axes.text(
          j + 0.5, i + 0.5, str(matrix[i, j]), ha='center', va='center_baseline', color=ink,
          fontsize=min(11, cell * 0.45),
        )  # fmt: skip
    edges = np.arange(count + 1) if cell >= 3 else np.array([0, count])
    rules: dict[str, Any] = dict(colors=svg.THEME['grid'], linewidth=0.5, clip_on=False)
    axes.hlines(edges, 0, count, **rules)
    axes.vlines(edges, 0, count, **rules)
    font: dict[str, Any] = dict(
      fontsize=min(size, cell), color=svg.THEME['ink'], rotation_mode='anchor'
    )
    for i, name in enumerate(names):
      axes.text(-5 / cell, i + 0.5, name, ha='right', va='center_baseline', **font)
      side = 'right' if angle else 'center'
      axes.text(i + 0.5, count + 4 / cell, name, rotation=angle, ha=side, va='top', **font)
    middle = left + cell * count / 2
    figure.text(middle / WIDTH, 5 / height, 'predicted', ha='center')
    figure.text(
      4 / WIDTH, 1 - (top + cell * count / 2) / height, 'reference', rotation=90,
      ha='center', va='top', rotation_mode='anchor',
    )  # fmt: skip
  return figure


# -- Parts -------------------------------------------------------------------------------------


def _figure(height: float) -> 'matplotlib.figure.Figure':
  from matplotlib.figure import Figure

  return Figure(figsize=(WIDTH / 72, height / 72), dpi=72)


def _plot(
  height: float,
  x_range: tuple[float, float],
  y_range: tuple[float, float],
  *,
  top: float,
  x_label: str,
) -> 'matplotlib.figure.Figure':
  """A figure of one plot with round ticks; the space at the left is that of their labels."""
  figure = _figure(height)
  y_ticks, x_ticks = ticks(*y_range), ticks(*x_range, 4, integer=True)
  y_names = [number(v) for v in y_ticks]
  left, right, bottom = 14 + max((_width(n, 12) for n in y_names), default=30.0), 18.0, 38.0
  axes = figure.add_axes(
    (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (top + bottom) / height)
  )
  axes.set(xlim=x_range, ylim=y_range)
  axes.set_yticks(y_ticks, y_names)
  axes.set_xticks(x_ticks, [number(v) for v in x_ticks])
  axes.tick_params(pad=6)
  axes.patch.set_visible(False)
  for line in axes.get_ygridlines():
    line.set_clip_on(False)
  figure.text((left + WIDTH - right) / 2 / WIDTH, 4 / height, x_label, ha='center')
  return figure


def _bounds(values: Float[np.ndarray, ' n']) -> tuple[float, float]:
  finite = values[np.isfinite(values)]
  if not len(finite):
    return 0.0, 1.0
  low, high = float(finite.min()), float(finite.max())
  margin = 0.05 * (high - low) or max(abs(high) * 0.05, 1e-9)
  return low - margin, high + margin


def _thin(
  x: Float[np.ndarray, ' n'], y: Float[np.ndarray, ' n'], limit: int
) -> tuple[Float[np.ndarray, ' m'], Float[np.ndarray, ' m']]:
  """Means of neighbouring points, so that a long run is not megabytes of path."""
  if len(x) <= limit:
    return x, y
  parts = np.array_split(np.arange(len(x)), limit)
  return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def _lone(y: Float[np.ndarray, ' n']) -> list[int]:
  """Points between gaps, which a line does not show."""
  finite = np.pad(np.isfinite(y), 1)
  return np.flatnonzero(finite[1:-1] & ~finite[:-2] & ~finite[2:]).tolist()


def _legend_grid(names: Sequence[str]) -> tuple[int, int]:
  """Columns and rows of a legend that fits the width; it is filled column by column."""
  for columns in range(len(names), 1, -1):
    groups: Iterable[np.ndarray] = np.array_split(np.asarray(names, dtype=object), columns)
    width = sum(max(_width(n, 12) for n in group) + 35 for group in groups)
    if width <= WIDTH:
      return columns, -(-len(names) // columns)
  return 1, len(names)


def _width(text: str, size: float) -> float:
  """About how wide a text is, not less than it is."""
  wide = sum(unicodedata.east_asian_width(c) in 'WF' for c in text)
  return size * (0.62 * (len(text) - wide) + 1.05 * wide)


def _short(name: str, limit: int) -> str:
  return name if len(name) <= limit else name[: limit - 1] + '…'
