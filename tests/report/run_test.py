"""The report's page: whole, self-contained, safe, from whatever a run's folder holds."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest

from research.report import run, tables

VOID = {'meta', 'img', 'br', 'link'}


class Checker(html.parser.HTMLParser):
  """Checks that every tag is closed in order."""

  def __init__(self):
    super().__init__()
    self.open, self.text = [], []

  def handle_starttag(self, tag, attrs):
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    pass

  def handle_endtag(self, tag):
    assert self.open and self.open.pop() == tag, f'</{tag}> closes nothing'

  def handle_data(self, data):
    self.text.append(data)


def check(path):
  page = path.read_text()
  checker = Checker()
  checker.feed(page)
  assert not checker.open
  # Nothing is loaded from elsewhere: no script, no address but SVG's name space.
  assert '<script' not in page and '<link' not in page and '@import' not in page
  addresses = set(re.findall(r'https?://[^\s"\'<>)]+', page))
  assert addresses <= {'http://www.w3.org/2000/svg'}
  names = re.findall(r' id="([^"]+)"', page)
  assert len(set(names)) == len(names)
  references = re.findall(r'(?:href="|url\()([^")]+)', page)
  assert {'#' + name for name in names} == set(references)
  assert all(s.startswith('data:image/png') for s in re.findall(r'src="([^"]+)"', page))
  return page, ' '.join(checker.text)


def score_row(**changes):
  row = dict(
    task='pets', system='<b>model</b>', kind='model', protocol='probe', metric='accuracy',
    score=0.75, ci=0.05, ci_over='seeds', values=[[0.7, 0.75, 0.8]], scores={'accuracy': 0.75},
    classes=['cat', '<script>dog'], per_class={'cat': 1.0, '<script>dog': None},
    confusion=[[3, 1], [0, 4]], accuracy_ci_clips=0.1, layers=['2'], pool='mean',
    chosen=[{'learning_rate': 1e-3, 'weight_decay': 0.0, 'at_edge': []}], clips=8,
    clips_missing=0, split={'origin': 'column split', 'hash': 'abc', 'sizes': [[4, 2, 2]]},
    weights='0123456789abcdef', wall_seconds=1.0, embed_seconds=2.0,
  )  # fmt: skip
  return row | changes


@pytest.fixture
def workdir(tmp_path):
  config = {
    'model': {'name': 'audio_mae', 'args': {'size': 'tiny', 'frames': 208}},
    'data': {'source': 'builtin', 'batch_size': 32},
  }
  (tmp_path / 'config.json').write_text(json.dumps(config))
  lines = [
    {'step': s, 'loss': 2.0 / s, 'learning_rate': 1e-3, 'grad_norm': None if s == 3 else 1.0 * s}
    for s in range(1, 9)
  ]
  lines += [{'step': 8, 'valid/loss': 0.3}, {'step': 8, 'warning': 'collapse warning: <flat>'}]
  text = '\n'.join(json.dumps(line) for line in lines) + '\n{"step": 9, "lo'
  (tmp_path / 'metrics.jsonl').write_text(text)
  rng = np.random.default_rng(0)
  original = rng.normal(size=(2, 208, 128)).astype(np.float32)
  original[:, 50:] = 0.5  # padding
  panels = dict(reconstructed=original, masked=original * 0, original=original)
  np.savez(tmp_path / 'pictures.npz', **panels)
  rows = [score_row(), score_row(system='log-mel statistics', kind='logmel', score=0.5, ci=None)]
  (tmp_path / 'scores.json').write_text(json.dumps({'format': 1, 'rows': rows}))
  np.savez(
    tmp_path / 'map.npz',
    **{'pets/points': rng.normal(size=(8, 2)), 'pets/groups': np.arange(8) % 2,
       'pets/names': np.array(['cat', '<script>dog']), 'pets/method': np.array('pca'),
       'pets/system': np.array('model')},
  )  # fmt: skip
  return tmp_path


def test_everything_is_on_the_page(workdir):
  path = run.write_report(workdir)
  assert path == workdir / 'report.html'
  page, text = check(path)
  for words in (
    'audio_mae', 'size tiny', 'builtin', '2 → 0.25', 'learning rate', 'gradient norm',
    'clip 2, 0.5 s', 'original', 'Linear probe', '75.0 ± 5.0', '50.0', 'log-mel statistics',
    'two principal components', 'collapse warning: <flat>', '<script>dog', 'Config',
  ):  # fmt: skip
    assert words in text, words
  assert 'prefers-color-scheme: dark' in page and 'width=device-width' in page
  assert page.count('<svg') == 6  # three curves, scores, a matrix, a map
  assert page.index('original spectrogram') < page.index('masked spectrogram')


def test_held_out_metrics_share_a_chart_and_copies_of_the_loss_are_left_out(tmp_path):
  lines = [
    {'step': s, 'loss': 1.0 / s, 'mse': 1.0 / s, 'valid/accuracy': 0.1 * s, 'valid/loss': 2.0 / s}
    for s in (1, 2, 3)
  ]
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  page, _ = check(run.write_report(tmp_path))
  captions = re.findall(r'<figcaption>([^<]+)', page)
  assert captions == ['loss', 'accuracy']
  assert 'valid/loss' in page
  # Without a training loss the held-out curves are still drawn.
  lines = [{'step': s, 'valid/accuracy': 0.1 * s} for s in (1, 2)]
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  page, _ = check(run.write_report(tmp_path))
  assert re.findall(r'<figcaption>([^<]+)', page) == ['accuracy']


def test_pictures_are_cut_to_the_sound_and_turned_upright(workdir):
  page, _ = check(run.write_report(workdir))
  pictures = re.findall(r'data:image/png;base64,([^"]+)', page)
  assert len(pictures) == 6
  from matplotlib import image

  first = image.imread(io.BytesIO(base64.b64decode(pictures[0])))
  assert first.shape[:2] == (128, 50)


def test_low_frequencies_are_at_the_bottom():
  from matplotlib import image

  x = np.zeros((5, 8), np.float32)
  x[:, 0] = 1.0  # lowest band
  data = run.spectrogram_png(x, 0.0, 1.0).split(',')[1]
  picture = image.imread(io.BytesIO(base64.b64decode(data)))[..., :3].sum(axis=-1)
  assert np.all(picture[-1] > 2.0) and np.all(picture[:-1] < 0.1)


def test_the_same_run_gives_the_same_page(workdir):
  first = run.write_report(workdir).read_bytes()
  assert run.write_report(workdir).read_bytes() == first


def test_an_empty_folder_gives_a_page(tmp_path):
  _, text = check(run.write_report(tmp_path))
  assert tmp_path.name in text and 'Training' not in text


@pytest.mark.parametrize(
  'absent', ['config.json', 'metrics.jsonl', 'pictures.npz', 'scores.json', 'map.npz']
)
def test_any_part_may_be_missing(workdir, absent):
  (workdir / absent).unlink()
  check(run.write_report(workdir))


def test_bad_files_are_listed(workdir):
  (workdir / 'bad_files.jsonl').write_text(
    json.dumps({'id': 'a.wav', 'path': '/data/a.wav', 'reason': 'It is empty.'}) + '\n'
  )
  _, text = check(run.write_report(workdir))
  assert 'Files that could not be used: 1' in text and 'It is empty.' in text


def test_the_best_of_a_column_is_stressed_and_gaps_stay_empty():
  rows = [
    score_row(system='a', task='x', score=0.2, ci=None),
    score_row(system='b', task='x', score=0.3, ci=None, kind='published'),
    score_row(system='b', task='y', score=0.9, ci=None, kind='published'),
  ]
  table = tables.comparison(rows)[0]
  assert table.rows == [['a', '20.0', ''], ['b', '30.0', '90.0']]
  assert table.best == {(1, 1), (1, 2)}
  assert table.markdown().splitlines()[2:] == [
    '|  | x (accuracy) | y (accuracy) |',
    '| --- | ---: | ---: |',
    '| a | 20.0 |  |',
    '| b | **30.0** | **90.0** |',
  ]


def test_notes_say_what_a_reader_has_to_know():
  split = {'origin': 'seeded, stratified 70%/15%/15%, seed 0', 'hash': 'h', 'sizes': []}
  edge = [{'at_edge': ['learning_rate']}]
  notes = tables.notes([score_row(split=split, clips_missing=3, chosen=edge)])
  assert len(notes) == 3
  assert 'the split is seeded' in notes[0] and '3 of 8 clips' in notes[1]
  assert 'the learning rate at the end of the grid' in notes[2]
  # What is true of two is said once, after both names.
  twice = [score_row(system='a', chosen=edge), score_row(system='b', chosen=edge)]
  both = tables.notes(twice)
  assert len(both) == 1 and both[0].startswith('pets, a (probe); pets, b (probe): the learning')
  assert run.headline({}, [], twice[:1])['tiles'] == [('pets, probe', '75.0 ± 5.0')]
  assert run.headline({}, [], twice)['tiles'] == []
