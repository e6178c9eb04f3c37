"""Charts: the numbers in their figures, and the SVG that a page gets."""

import re
import threading
import warnings
import xml.etree.ElementTree

import matplotlib
import numpy as np
import pytest

from research.report import charts, svg


def drawn(figure):
  """Its SVG, parsed; nothing is written of a label outside the frame."""
  text = svg.text(figure, 'a <title>')
  root = xml.etree.ElementTree.fromstring(text)
  assert root.attrib['aria-label'] == 'a <title>'
  figure.canvas.draw()
  frame = figure.bbox
  for label in figure.findobj(matplotlib.text.Text):
    box = label.get_window_extent()
    if label.get_text() and label.get_visible():
      assert frame.x0 - 0.5 <= box.x0 and box.x1 <= frame.x1 + 0.5, label.get_text()
      assert frame.y0 - 0.5 <= box.y0 and box.y1 <= frame.y1 + 0.5, label.get_text()
  return text


@pytest.mark.parametrize(
  'low, high, expected',
  [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (1.2e-4, 9e-4, [2e-4, 4e-4, 6e-4, 8e-4]), (3, 3, [3])],
)
def test_ticks_are_round(low, high, expected):
  np.testing.assert_allclose(charts.ticks(low, high), expected)


def test_numbers_are_short():
  numbers = (0, 0.00025, 0.001, 1.5, 12000, 1234567, -0.5)
  assert [charts.number(v) for v in numbers] == [
    '0',
    '2.5e-4',
    '0.001',
    '1.5',
    '12k',
    '1.23e6',
    '-0.5',
  ]


def test_lines_hold_their_values_and_break_at_gaps():
  values = [1.0, 2.0, float('nan'), 3.0, 3.5, float('nan'), 4.0]
  figure = charts.lines({'loss': ([1, 2, 3, 4, 5, 6, 7], values), 'valid/loss': ([4], [2.5])})
  (axes,) = figure.axes
  first, second = axes.lines
  np.testing.assert_array_equal(first.get_xdata(), range(1, 8))
  np.testing.assert_array_equal(first.get_ydata(), values)
  np.testing.assert_array_equal(second.get_xydata(), [[4, 2.5]])
  # Points between gaps are drawn as such.
  assert (first.get_markevery(), second.get_markevery()) == ([6], [0])
  assert [t.get_text() for t in figure.legends[0].get_texts()] == ['loss', 'valid/loss']
  assert [t.get_text() for t in axes.get_yticklabels()] == ['1', '2', '3', '4']
  assert axes.get_xlim() == (1, 7)
  text = drawn(figure)
  path = re.search(r'<path d="([^"]+)" style="[^"]*stroke: var\(--accent', text).group(1)
  assert path.count('M') == 3
  assert text.count('<use') == 2


def test_long_runs_stay_small():
  steps = np.arange(100_000)
  for values in (steps * 1.0, np.random.default_rng(0).normal(size=len(steps))):
    figure = charts.lines({'loss': (steps.tolist(), values.tolist())})
    (line,) = figure.axes[0].lines
    assert len(line.get_xdata()) == 500
    np.testing.assert_allclose(line.get_ydata(), values.reshape(500, 200).mean(axis=1))
    assert len(drawn(figure)) < 20_000


@pytest.mark.parametrize('count', [1, 2, 3, 6, 20])
def test_names_of_lines_do_not_run_into_each_other(count):
  series = {
    f'{"a_long_name_of_a_data_set" * (i % 3)}{i}/loss': ([0, 1], [i, 1]) for i in range(count)
  }
  figure = charts.lines(series)
  drawn(figure)
  if count == 1:
    assert not figure.legends
    return
  texts = figure.legends[0].get_texts()
  assert len(texts) == count
  boxes = [t.get_window_extent() for t in texts]
  assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
  plot = figure.axes[0].bbox
  assert plot.height > 120 and all(box.y0 > plot.y1 for box in boxes)


@pytest.mark.parametrize('count', [1, 2, 12, 20, 25, 50])
def test_confusion_matrices_are_drawn_inside_their_frame(count):
  classes = [f'a_rather_long_class_{i}' for i in range(count)]
  matrix = np.eye(count, dtype=int) * 7
  matrix[0, -1] = 3
  figure = charts.confusion(matrix, classes)
  (axes,) = figure.axes
  # One cell is one unit; those of no clip are empty.
  cells = {(int(p.get_y()), int(p.get_x())): p for p in axes.patches}
  assert set(cells) == set(zip(*np.nonzero(matrix)))
  assert all((p.get_width(), p.get_height()) == (1, 1) for p in cells.values())
  assert (axes.get_xlim(), axes.get_ylim()) == ((0, count), (count, 0))
  assert axes.bbox.width == pytest.approx(axes.bbox.height)
  fraction = matrix / matrix.sum(axis=1, keepdims=True)
  for (i, j), cell in cells.items():
    assert cell.get_facecolor()[3] == pytest.approx(fraction[i, j], abs=1e-3)
    right = matplotlib.colors.to_rgb(charts.RIGHT)
    assert (cell.get_facecolor()[:3] == right) == (i == j)
  numbers = [t.get_text() for t in axes.texts if t.get_text() in ('7', '3')]
  assert numbers.count('7') == (count - (count == 1) if count <= 15 else 0)
  assert numbers.count('3') == (1 if count <= 15 else 0)
  names = [t for t in axes.texts if t.get_text().startswith('a_')]
  assert len(names) == (2 * count if count <= 25 else 0)
  text = drawn(figure)
  tip = f'<title>{classes[0]} predicted as {classes[-1]}: 3</title>'
  assert text.count('<title>') == len(cells) and tip in text


def test_bars_are_as_high_as_their_values():
  figure = charts.bars(np.array([3, 2, 1]), x_label='cluster', mark=2.0, mark_label='even')
  (axes,) = figure.axes
  assert [p.get_height() for p in axes.patches] == [3, 2, 1]
  assert all(p.get_y() == 0 for p in axes.patches)
  np.testing.assert_allclose([p.get_x() + p.get_width() / 2 for p in axes.patches], [1, 2, 3])
  (mark,) = axes.lines
  assert list(mark.get_ydata()) == [2, 2]
  text = drawn(figure)
  paths = re.findall(r'<path d="([^"]+)" style="fill: var\(--accent', text)
  heights = [np.ptp([float(y) for y in re.findall(r'[ML] \S+ (\S+)', path)]) for path in paths]
  np.testing.assert_allclose(np.array(heights) / heights[2], [3, 2, 1], rtol=1e-2)
  assert 'even' in text and 'cluster' in text
  many = charts.bars(np.arange(2000.0), x_label='cluster')
  assert len(many.axes[0].patches) == 320
  means = [part.mean() for part in np.array_split(np.arange(2000.0), 320)]
  np.testing.assert_allclose([p.get_height() for p in many.axes[0].patches], means)
  assert many.axes[0].get_xlim() == (0.5, 2000.5)
  assert len(drawn(many)) < 60_000


@pytest.mark.parametrize('count', [1, 2, 700])
def test_points_of_a_map_have_the_colour_and_the_name_of_their_class(count):
  points = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
  groups = [i % 40 for i in range(count)]
  names = [f'class <{i}>' for i in range(40)]
  figure = charts.scatter(points, groups, names)
  (axes,) = figure.axes
  (cloud,) = axes.collections
  np.testing.assert_allclose(cloud.get_offsets(), points)
  colors = [matplotlib.colors.to_rgba(charts.color_of(g), 0.75) for g in groups]
  found = np.broadcast_to(cloud.get_facecolors(), (count, 4))
  np.testing.assert_allclose(found, colors)
  assert len({charts.color_of(g) for g in range(40)}) == 40
  (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
  assert np.all((points > (x0, y0)) & (points < (x1, y1)))
  text = drawn(figure)
  tips = re.findall('<title>([^<]+)</title>', text)
  assert tips == [f'class &lt;{g}&gt;' for g in groups]


def test_legends_count_what_they_leave_out():
  figure = charts.scatter(np.zeros((2, 2)), [0, 1], ['a', 'b'])
  whole = charts.chart(figure, 'caption', ['a', 'b'])
  assert whole.legend == [('var(--accent, #0072b2)', 'a'), ('#e69f00', 'b')] and whole.more == 0
  cut = charts.chart(figure, 'caption', [str(i) for i in range(50)], limit=36)
  assert (len(cut.legend), cut.more) == (36, 14)


def test_charts_are_in_the_page_s_colours_and_always_the_same():
  figure = lambda: charts.lines({'a': ([0, 1], [1, 2]), 'b': ([0, 1], [2, 1])})  # noqa: E731
  text = svg.text(figure(), 'a')
  for name in ('ink', 'muted', 'grid', 'card', 'accent'):
    assert f'var(--{name}, {svg.THEME[name]})' in text
  # No style sheet (it would be one of the whole page), no date, no font of one's own.
  assert '<style' not in text and '<metadata' not in text and 'DejaVu' not in text
  with matplotlib.rc_context({'axes.facecolor': 'red', 'svg.fonttype': 'path', 'font.size': 30}):
    assert svg.text(figure(), 'a') == text
    assert matplotlib.rcParams['font.size'] == 30
  found = [None] * 4
  threads = [
    threading.Thread(target=lambda i=i: found.__setitem__(i, svg.text(figure(), 'a')))
    for i in range(4)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == [text] * 4


def test_names_in_any_script_are_written_as_they_are():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    text = svg.text(charts.confusion(np.eye(2, dtype=int), ['鋼琴', '$x_1$ & <b>']), 'a')
  assert '鋼琴</text>' in text and '$x_1$ &amp; &lt;b&gt;</text>' in text


def test_names_that_xml_cannot_hold_are_no_end_of_a_report():
  names = ['a\x0bb\udce9', 'two\nlines', '#dcdfe4 ("a")']
  matrix = np.arange(9).reshape(3, 3) + 1
  figures = [
    charts.confusion(matrix, names),
    charts.scatter(np.eye(2), [0, 1], names),
    charts.lines({name: ([0, 1], [0, 1]) for name in names}),
  ]
  for figure in figures:
    text = svg.text(figure, 'a\x0b')
    xml.etree.ElementTree.fromstring(text)
    assert 'a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}' in text and 'two lines' in text
  assert '>#dcdfe4 ("a")</text>' in svg.text(figures[0], 'a')


def test_bars_and_steps_are_numbered_in_whole_numbers():
  for count in (1, 2, 3, 10):
    figure = charts.bars(np.ones(count), x_label='cluster')
    assert all(float(t.get_text()).is_integer() for t in figure.axes[0].get_xticklabels())
    assert figure.axes[0].get_xticks()[-1] == count


def test_series_with_names_cut_alike_are_all_drawn():
  series = {f'{"x" * 60}{i}': ([0, 1], [i, 1]) for i in range(3)}
  assert len(charts.lines(series).axes[0].lines) == 3
