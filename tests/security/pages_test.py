"""Text of others on pages, in tables and on terminals: it is shown, never obeyed."""

import html.parser
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from research.audio.bad_files import BadFiles
from research.audio.units import Units
from research.errors import InputError, listed, printable, unknown
from research.evals import harness
from research.report import charts, run, svg, tables, units
from research.train.writer import Writer
from tests.launch import runner
from tests.report.run_test import score_row

EVIL = (
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  "'><svg onload=alert(1)>",
  '</script></style></title><script src=//x>',
  '<!--<a href="javascript:alert(1)">]]>',
  '{{ 7 * 7 }}{% include "x" %}',
  'a\x00b\x1b[31mc\u2028d\udc80e',
)
TAGS = {
  'html', 'head', 'meta', 'title', 'style', 'body', 'main', 'h1', 'h2', 'h3', 'p', 'b', 'div',
  'span', 'details', 'summary', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'figure', 'figcaption',
  'img', 'ul', 'li', 'i', 'pre', 'svg', 'g', 'path', 'text', 'tspan', 'rect', 'use', 'defs',
  'clippath', 'line', 'circle', 'polygon', 'polyline',
}  # fmt: skip


class Page(html.parser.HTMLParser):
  """Refuses every element and attribute that our templates do not have."""

  def __init__(self, page):
    super().__init__()
    self.text, self.values = [], []
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    assert tag in TAGS, tag
    for name, value in attrs:
      assert not name.startswith('on') and name not in ('srcdoc', 'formaction'), name
      if name in ('src', 'href', 'xlink:href'):
        assert value.startswith(('data:image/png;base64,', '#')), value
      self.values.append(value or '')

  handle_startendtag = handle_starttag

  def handle_comment(self, data):
    raise AssertionError(data)

  def handle_data(self, data):
    self.text.append(data)


def shown(path):
  page = Page(path.read_text(encoding='utf-8', errors='surrogateescape'))
  return ''.join([*page.text, *page.values])


@pytest.mark.parametrize('evil', EVIL, ids=range(len(EVIL)))
def test_the_page_of_a_run(tmp_path, evil):
  """Everything that a run's folder says is hostile."""
  model = {'name': evil, 'args': {'size': evil, evil: evil}}
  config = {'model': model, 'data': {'source': evil, 'batch_size': evil}, evil: evil}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  rows = [{'step': s, 'loss': 1.5 / s, evil: 2.5 / s, f'x/{evil}': s} for s in (1, 2)]
  rows.append({'step': 3, 'warning': evil})
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  bad = BadFiles(tmp_path / 'bad_files.jsonl', 1.0)
  bad.record(evil, f'/data/{evil}', evil)
  pictures = np.random.default_rng(0).random((1, 9, 4)).astype(np.float32)
  np.savez(tmp_path / 'pictures.npz', original=pictures, **{zipped(evil): pictures})
  arrays = {'points': np.eye(3, 2), 'groups': np.arange(3) % 2, 'names': [evil, 'b']}
  arrays |= {'method': 'pca', 'system': evil}
  np.savez(tmp_path / 'map.npz', **{f'{zipped(evil)}/{k}': np.array(v) for k, v in arrays.items()})
  row = score_row(
    task=evil, system=evil, classes=[evil, 'b'], per_class={evil: 0.5, 'b': None}, pool=evil
  )
  found = {'rows': [row], 'published': [], 'absent': {evil: evil}}
  (tmp_path / 'scores.json').write_text(json.dumps(found))
  text = shown(run.write_report(tmp_path))
  if evil.isprintable():
    assert text.count(evil) > 9
  (tmp_path / 'scores.html').write_text(run.score_page(found), errors='surrogateescape')
  shown(tmp_path / 'scores.html')


def zipped(name):
  """A member's name as a zip file can hold it."""
  return re.sub(r'[/\x00\udc80]', '_', name)


@pytest.mark.parametrize('evil', EVIL, ids=range(len(EVIL)))
def test_figures_of_their_own(tmp_path, evil):
  figure = charts.confusion(np.array([[2, 1], [0, 3]]), [evil, 'b'])
  text = svg.text(figure, evil)
  ElementTree.fromstring(text)
  figure = charts.lines({evil: ([1, 2], [3.0, 4.0]), 'b': ([1, 2], [4.0, 4.0])}, x_label='x')
  (tmp_path / 'a.html').write_text(text + svg.text(figure, evil), errors='surrogateescape')
  shown(tmp_path / 'a.html')


def test_the_page_of_units(tmp_path):
  evil = EVIL[1]
  about = dict(clusters=4, sample_rate=16000, hop=320, window=400, fingerprint=evil)
  about |= dict(features=evil, layer=evil, skipped={evil: evil})
  labelled = Units(np.arange(4, dtype=np.uint8), np.array([0, 4]), ['a'], about, tmp_path)
  scores = dict(pnmi=0.5, purity=0.5, majority=0.5, cluster_purity=0.5, classes=2, frames=4)
  found = dict(
    perplexity=4.0, clusters=4, in_use=4, run_length=1.0, clips=1, hours=0.1,
    references={evil: scores},
  )  # fmt: skip
  path = units.write_page(tmp_path / 'units.html', labelled, found, facts={evil: evil})
  assert shown(path).count(evil) > 3


def test_markdown(tmp_path):
  row = score_row(task='a|b\nc', system=EVIL[0], classes=['x', 'y'], confusion=[[1, 0], [0, 1]])
  harness.write(tmp_path, [row], {})
  text = (tmp_path / 'scores.md').read_text()
  assert '<script' not in text and '&lt;script&gt;' in text
  table = tables.comparison([row])[0].markdown().splitlines()
  assert len(table) == 5 and r'a\|b c (accuracy)' in table[2]


def test_tags_of_tensorboard(tmp_path):
  """TensorBoard gets names without markup, and no file is named after a metric."""
  writer = Writer(tmp_path)
  writer.scalars(1, {EVIL[0]: 1.0, '../../x': 2.0})
  writer.picture(1, EVIL[1], np.eye(4))
  writer.close()
  (events,) = (tmp_path / 'tensorboard').iterdir()
  assert b'<script' not in events.read_bytes() and b'<img' not in events.read_bytes()
  assert {p.name for p in tmp_path.iterdir()} == {'metrics.jsonl', 'tensorboard'}


# -- Terminals -------------------------------------------------------------------------------------

ESCAPES = '\x1b]0;title\x07\x1b[2J\x9b31m\u202egpj'
SAFE = r'\x1b]0;title\x07\x1b[2J\x9b31m\u202egpj'


def test_printable():
  assert printable(ESCAPES) == SAFE
  assert printable('ä\t日本\nعربي 🎵') == 'ä\t日本\nعربي 🎵'


def test_errors_of_commands_hold_no_escapes(tmp_path):
  cases = {'name': ([f'--source=/x/{ESCAPES}', f'--out={tmp_path / "a"}'], [SAFE])}
  runner.check_mistakes('launch.prepare_data', cases)


def test_logs_and_lines_hold_no_escapes():
  code = f"""
from absl import logging
from launch import command
def main(argv):
  logging.warning('%s is bad', {ESCAPES!r})
  command.say({ESCAPES!r})
  command.fail('x' * 10**6)
command.run(main)
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=runner.ROOT,
    env=runner.environment(),
  )  # fmt: skip
  assert done.returncode == 2
  assert f'{SAFE} is bad' in done.stderr and done.stdout == f'{SAFE}\n'
  assert len(done.stderr) < 30_000 and not re.search('[\x1b\x07\x9b]', done.stderr + done.stdout)


def test_lists_of_names_are_short():
  names = [f'{i:07d}' for i in range(100_000)]
  assert len(listed(names)) < 300 and listed(names).endswith('0000019, and 99980 more')
  assert listed(['b', 'a']) == 'b, a' and listed([]) == 'none'
  long = unknown('clip', 'y' * 10**6, ['x' * 10**6] * 3)
  assert isinstance(long, InputError) and len(str(long)) < 600
