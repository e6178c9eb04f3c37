"""A matplotlib figure as SVG text for a page: small, always the same bytes, in the page's colours.

The figure is drawn in the colours of `THEME`; each becomes a CSS variable with that colour as its
fallback. So a chart is right inside a page, light or dark, and in a file of its own. Text stays
text, in the page's font.
"""

import contextlib
import io
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
  import matplotlib.figure

# CSS variables of the page. The card is not quite white, so that white ink stays white in the dark.
THEME = {
  'ink': '#1c1e21',
  'muted': '#5f6670',
  'grid': '#dcdfe4',
  'card': '#fefefe',
  'accent': '#0072b2',
}
# Comes with matplotlib, so that a figure is laid out alike everywhere; wider than the fonts that
# browsers put in its place, so that no label grows out of its space.
FONT, PAGE_FONT = 'DejaVu Sans', 'system-ui, sans-serif'
STYLE = {
  'font.family': [FONT],
  'font.size': 12,
  'text.color': THEME['muted'],
  'text.parse_math': False,
  'figure.dpi': 72,
  'figure.facecolor': THEME['card'],
  'axes.facecolor': 'none',
  'axes.labelcolor': THEME['muted'],
  'axes.axisbelow': True,
  'axes.grid': True,
  'axes.grid.axis': 'y',
  'grid.color': THEME['grid'],
  'grid.linewidth': 1.0,
  **{f'axes.spines.{side}': False for side in ('left', 'right', 'top', 'bottom')},
  **{f'xtick.{side}': False for side in ('top', 'bottom')},
  **{f'ytick.{side}': False for side in ('left', 'right')},
  **{f'{axis}tick.color': THEME['muted'] for axis in 'xy'},
  'lines.solid_capstyle': 'round',
  'legend.frameon': False,
  'legend.labelcolor': THEME['ink'],
  'svg.fonttype': 'none',
  'svg.hashsalt': 'oido',
}
_LOCK = threading.RLock()
_UNWRITABLE = re.compile(r'[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')


@contextlib.contextmanager
def style() -> Iterator[None]:
  """What figures are made in: our settings, whatever the user's are. They are global in matplotlib:
  one thread at a time."""
  from matplotlib import style as styles

  with _LOCK, styles.context(['default', STYLE]):
    yield


def css(color: str) -> str:
  """A colour as the page names it: a variable if it is one of the theme."""
  return next((f'var(--{name}, {c})' for name, c in THEME.items() if c == color), color)


def label(name: str) -> str:
  """A name as it can be drawn: on one line, without what XML cannot hold."""
  return ' '.join(_UNWRITABLE.sub('\N{REPLACEMENT CHARACTER}', name).split())


def text(figure: 'matplotlib.figure.Figure', title: str) -> str:
  """The figure as an SVG element.

  Args:
    figure: made within `style`, sized in units of 1/72 inch. URLs of its artists are tooltips.
    title: what a screen reader says of it.
  """
  file = io.StringIO()
  with style(), warnings.catch_warnings():
    # The browser has fonts for characters that matplotlib's own lacks.
    warnings.filterwarnings('ignore', message='Glyph')
    figure.savefig(
      file, format='svg', metadata=dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
    )
  found = file.getvalue()
  drawing = ElementTree.fromstring(found)
  # Names of parts are only good for references, and several charts share a page.
  used = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', found))
  prefix = f'c{zlib.crc32(found.encode()):08x}'
  names = {name: f'{prefix}-{i}' for i, name in enumerate(used)}
  root = ElementTree.Element(
    'svg',
    {
      'xmlns': 'http://www.w3.org/2000/svg',
      'viewBox': drawing.attrib['viewBox'],
      'role': 'img',
      'aria-label': label(title),
      'font-family': PAGE_FONT,
      'stroke-linejoin': 'round',
    },
  )
  root.extend(part for child in drawing for part in _cleaned(child, names))
  return ElementTree.tostring(root, encoding='unicode')


def _cleaned(part: ElementTree.Element, names: dict[str, str]) -> list[ElementTree.Element]:
  """What to write of an element: no metadata, no style sheet (it would be one of the whole page),
  no names that nothing refers to, no groups of nothing, links as tooltips."""
  tag = part.tag.rpartition('}')[2]
  inside = [new for child in part for new in _cleaned(child, names)]
  if tag == 'a':
    for new in inside:
      tip = ElementTree.Element('title')
      tip.text = part.attrib['{http://www.w3.org/1999/xlink}href']
      new.insert(0, tip)
    return inside
  attributes = {}
  for key, value in part.attrib.items():
    key = key.rpartition('}')[2]
    if key == 'id':
      if value not in names:
        continue
      value = names[value]
    elif key == 'href' and value.startswith('#'):
      value = f'#{names[value[1:]]}'
    elif key == 'clip-path':
      value = re.sub(r'#([^)]+)', lambda match: f'#{names[match[1]]}', value)
    elif key == 'transform' and value.startswith('rotate(-0 '):
      continue
    elif key == 'style':
      # The page's font, however this release of matplotlib names its own.
      value = re.sub(rf"font-family: '{FONT}'(; )?", '', value)
      value = value.replace(f"'{FONT}'", PAGE_FONT)
      value = re.sub('#[0-9a-f]{6}', lambda match: css(match[0]), value)
    elif key in ('d', 'x', 'y', 'transform'):
      value = re.sub(r'\d+\.\d+', _rounded, ' '.join(value.split()))
    attributes[key] = value
  if tag in ('metadata', 'style') or (tag in ('defs', 'g') and not inside):
    return []
  if tag == 'g' and not attributes:
    return inside
  new = ElementTree.Element(tag, attributes)
  new.text = part.text if tag in ('text', 'tspan') else None
  new.extend(inside)
  return [new]


def _rounded(match: re.Match[str]) -> str:
  return f'{float(match[0]):.2f}'.rstrip('0').rstrip('.')
