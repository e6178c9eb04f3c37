"""Purity and PNMI by hand and against scikit-learn; the page says what was found."""

import math
import re
import xml.dom.minidom

import numpy as np
import pytest

from research.audio.sources import open_source
from research.audio.units import Units, save
from research.errors import InputError
from research.report import units as quality_page
from research.units import quality as quality_lib
from research.units.quality import Reference, figures, joint_counts, quality
from tests.evals import toy

ABOUT = dict(clusters=4, sample_rate=16_000, hop=160, window=400, fingerprint='ab12')


def saved(path, clips, **about):
  save(path, list(clips), [np.array(c, np.int64) for c in clips.values()], {**ABOUT, **about})
  return Units.open(path)


def test_figures_by_hand():
  # Unit 0 holds 3 a and 1 b, unit 1 holds 2 b, unit 2 holds 2 a; unit 3 nothing.
  counts = np.array([[3, 1], [0, 2], [2, 0], [0, 0]])
  found = figures(counts)
  assert found['frames'] == 8 and found['classes'] == 2
  assert found['purity'] == pytest.approx(7 / 8)
  assert found['cluster_purity'] == pytest.approx((3 + 2) / 8)
  assert found['majority'] == pytest.approx(5 / 8)
  # H(y) of (5/8, 3/8); H(y|z) = 1/2 H(3/4, 1/4).
  entropy = lambda *p: -sum(x * math.log(x) for x in p)  # noqa: E731
  whole, rest = entropy(5 / 8, 3 / 8), 0.5 * entropy(3 / 4, 1 / 4)
  assert found['pnmi'] == pytest.approx((whole - rest) / whole)
  # Units that say nothing, units that say all, labels that need no saying.
  assert figures(np.array([[2, 2], [3, 3]]))['pnmi'] == pytest.approx(0, abs=1e-12)
  assert figures(np.array([[0, 7], [2, 0]]))['pnmi'] == pytest.approx(1)
  assert math.isnan(figures(np.array([[1], [2]]))['pnmi'])


def test_figures_are_those_of_sklearn():
  metrics = pytest.importorskip('sklearn.metrics')
  rng = np.random.default_rng(0)
  labels, units = rng.integers(5, size=400), rng.integers(9, size=400)
  units[::2] = labels[::2]
  counts = np.zeros((9, 5), np.int64)
  np.add.at(counts, (units, labels), 1)
  found = figures(counts)
  mutual = metrics.mutual_info_score(labels, units)
  assert found['pnmi'] == pytest.approx(mutual / metrics.mutual_info_score(labels, labels))
  assert found['pnmi'] == pytest.approx(metrics.homogeneity_score(labels, units))
  matrix = metrics.cluster.contingency_matrix(labels, units)
  assert found['purity'] == pytest.approx(matrix.max(axis=0).sum() / 400)
  assert found['cluster_purity'] == pytest.approx(matrix.max(axis=1).sum() / 400)


def test_alignments_name_the_frames_whose_middle_they_hold(tmp_path):
  units = saved(tmp_path / 'units', {'x': [0, 1, 2, 3, 0], 'y': [1]})
  # Middles of the frames: 12.5, 22.5, 32.5, 42.5, 52.5 ms.
  (tmp_path / 'a.csv').write_text(
    'id,start,end,label\nx,0,0.0225,sil\nx,0.0225,0.04,aa\nx,0.05,1,sil\nother,0,1,bb\n'
  )
  reference = quality_lib.of_alignments(tmp_path / 'a.csv')
  assert reference.classes == ['sil', 'aa', 'bb']
  assert reference.frames('x', 5, units).tolist() == [0, 1, 1, -1, 0]
  counts = joint_counts(units, reference)
  assert counts.tolist() == [[2, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
  'text, says',
  [
    ('id,start,stop\n', 'no column end, label'),
    ('id,start,end,label\n', 'no rows'),
    ('id,start,end,label\nx,1,0.5,a\n', r'line 2: expected .* 0 <= start < end'),
    ('id,start,end,label\nx,a,0.5,a\n', 'line 2'),
    ('id,start,end,label\nx,1\n', 'line 2'),
    (b'\xff\xfe\x00', 'UTF-16, not UTF-8'),
  ],
)
def test_alignments_that_cannot_be(tmp_path, text, says):
  (tmp_path / 'a.csv').write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(InputError, match=says):
    quality_lib.of_alignments(tmp_path / 'a.csv')
  with pytest.raises(InputError, match='cannot be read'):
    quality_lib.of_alignments(tmp_path / 'absent.csv')


def test_columns_of_a_source(tmp_path):
  toy.tones(
    tmp_path / 'tones', per_class=3, columns=('speaker',), row=lambda i, c: (f's{i}' if i else '',)
  )
  source = open_source(str(tmp_path / 'tones'))
  assert quality_lib.usual_columns(source) == ['label', 'speaker']
  reference = quality_lib.of_column(source, 'speaker')
  assert reference.classes == ['s1', 's2'] and '300_00.flac' not in reference.of_clip
  units = saved(tmp_path / 'units', {source.id(i): [i % 4, 1] for i in range(9)})
  assert joint_counts(units, reference).sum() == 12
  with pytest.raises(InputError, match=r"Unknown column .*'speakr'"):
    quality_lib.of_column(source, 'speakr')
  other = Reference('speaker', ['a'], of_clip={'300_00.flc': 0})
  with pytest.raises(InputError, match=r"None of the 1 clips .* Did you mean '300_00.flac'"):
    joint_counts(units, other)


def test_several_labels_a_clip_are_refused(tmp_path):
  folder = toy.tones(tmp_path / 'tones', per_class=1)
  (folder / 'labels.csv').write_text('path,labels\n300_00.flac,a;b\n900_00.flac,a\n')
  with pytest.raises(InputError, match='several labels a clip'):
    quality_lib.of_column(open_source(str(folder)), 'labels')


def test_quality_of_units(tmp_path):
  units = saved(tmp_path / 'units', {'x': [0, 0, 1, 1, 1, 0], 'y': [2, 2], 'z': []})
  speaker = Reference('speaker', ['a', 'b'], of_clip={'x': 0, 'y': 1, 'z': 0})
  alone = Reference('alone', ['a'], of_clip={'x': 0})
  found = quality(units, [speaker, alone])
  assert (found['clips'], found['frames'], found['in_use'], found['clusters']) == (3, 8, 3, 4)
  assert found['run_length'] == 8 / 4 and found['largest'] == 3 / 8
  assert found['perplexity'] == pytest.approx(
    math.exp(2 * 3 / 8 * math.log(8 / 3) + 1 / 4 * math.log(4))
  )
  assert found['hours'] == pytest.approx(8 * 0.01 / 3600)
  assert found['references']['speaker']['pnmi'] == pytest.approx(1)
  assert found['references']['alone']['pnmi'] is None


ENTROPY = lambda *p: -sum(x * math.log(x) for x in p)  # noqa: E731


def spoken(path, frames):
  """Units and references of frames (speaker, label, unit), a clip each."""
  units = saved(path, {f'{i}': [unit] for i, (_, _, unit) in enumerate(frames)})
  found = []
  for column, name in enumerate(('speaker', 'word')):
    values = [frame[column] for frame in frames]
    classes = sorted(set(values) - {''})
    of_clip = {f'{i}': classes.index(v) for i, v in enumerate(values) if v}
    found.append(Reference(name, classes, of_clip=of_clip))
  return units, *found


def test_units_that_need_the_speaker_to_say_the_word(tmp_path):
  frames = [('A', 'a', 0), ('A', 'b', 1), ('B', 'a', 1), ('B', 'b', 0)]
  units, speaker, word = spoken(tmp_path / 'units', frames)
  row = quality(units, [word, speaker], speaker)['references']
  assert row['word']['pnmi'] == pytest.approx(0, abs=1e-12) and row['word']['purity'] == 0.5
  within = row['word']['within_speakers']
  assert within['pnmi'] == pytest.approx(1) and within['purity'] == 1
  assert (within['frames'], within['speakers'], within['majority']) == (4, 2, 0.5)
  # Of the speaker itself there is nothing to say.
  assert 'within_speakers' not in row['speaker']
  assert 'within_speakers' not in quality(units, [word])['references']['word']


def test_units_that_say_the_speaker_only(tmp_path):
  """Speakers say different words, so that units of the speaker seem to know them."""
  frames = [('A', 'a', 0)] * 3 + [('A', 'b', 0)] + [('B', 'a', 1)] + [('B', 'b', 1)] * 3
  units, speaker, word = spoken(tmp_path / 'units', frames)
  found = quality(units, [word], speaker)['references']['word']
  assert found['pnmi'] == pytest.approx(1 - ENTROPY(1 / 4, 3 / 4) / math.log(2))
  within = found['within_speakers']
  assert within['pnmi'] == pytest.approx(0, abs=1e-12)
  assert within['purity'] == within['majority'] == 0.75


def test_within_speakers_by_hand(tmp_path, monkeypatch):
  frames = [('A', 'a', 0), ('A', 'a', 0), ('B', 'a', 2), ('A', 'b', 0), ('A', 'b', 1)]
  frames += [('B', 'b', 2), ('', 'a', 3), ('B', '', 3)]  # of two something is not known
  units, speaker, word = spoken(tmp_path / 'units', frames)
  found = quality_lib.within_speakers(units, word, speaker)
  assert (found['frames'], found['speakers']) == (6, 2)
  # A: H = log 2, of which unit 0 leaves 3/4 H(1/3); B: H = log 2, of which its unit leaves all.
  told = 4 / 6 * (math.log(2) - 3 / 4 * ENTROPY(1 / 3, 2 / 3))
  assert found['pnmi'] == pytest.approx(told / math.log(2))
  assert found['purity'] == pytest.approx(4 / 6) and found['majority'] == pytest.approx(3 / 6)
  # Counted a few frames at a time, the same.
  monkeypatch.setattr(quality_lib, '_CELLS', 2)
  assert quality_lib.within_speakers(units, word, speaker) == found


def test_within_speakers_of_alignments(tmp_path):
  """Phones are spans of a clip, its speaker is one; against figures of each speaker's counts."""
  rng = np.random.default_rng(0)
  clips = {f'{i}': rng.integers(4, size=300) for i in range(6)}
  units = saved(tmp_path / 'units', clips)
  rows = [f'{i},{t / 10},{t / 10 + 0.1},p{rng.integers(3)}' for i in clips for t in range(28)]
  (tmp_path / 'a.csv').write_text('\n'.join(['id,start,end,label', *rows]))
  phone = quality_lib.of_alignments(tmp_path / 'a.csv')
  speaker = Reference('speaker', ['A', 'B'], of_clip={i: int(i) % 2 for i in clips})
  found = quality_lib.within_speakers(units, phone, speaker)
  each = []
  for own in (0, 1):
    of_one = {i: s for i, s in phone.spans.items() if int(i) % 2 == own}
    counts = joint_counts(units, Reference('phone', phone.classes, spans=of_one))
    labels = counts.sum(axis=0) / counts.sum()
    each.append((figures(counts), ENTROPY(*labels)))
  frames = sum(f['frames'] for f, _ in each)
  assert found['frames'] == frames and found['speakers'] == 2
  for name in ('purity', 'majority'):
    assert found[name] == pytest.approx(sum(f['frames'] * f[name] for f, _ in each) / frames)
  whole = sum(f['frames'] * h for f, h in each)
  assert found['pnmi'] == pytest.approx(sum(f['frames'] * f['pnmi'] * h for f, h in each) / whole)


def test_speakers_of_a_source(tmp_path):
  def source(name, row):
    toy.tones(tmp_path / name, per_class=3, columns=('speaker',), row=row)
    return open_source(str(tmp_path / name))

  assert quality_lib.speakers_of(source('two', lambda i, c: (f's{i % 2}',))).classes == ['s0', 's1']
  assert quality_lib.speakers_of(source('one', lambda i, c: ('s',))) is None
  toy.tones(tmp_path / 'none', per_class=3)
  assert quality_lib.speakers_of(open_source(str(tmp_path / 'none'))) is None


def test_labels_that_the_speaker_says(tmp_path):
  frames = [('A', 'a', 0), ('A', 'a', 1), ('B', 'b', 1)]
  units, speaker, word = spoken(tmp_path / 'units', frames)
  found = quality(units, [word], speaker)
  within = found['references']['word']['within_speakers']
  assert within['pnmi'] is None and within['purity'] == 1
  said = quality_lib.sentence(found['references']['word'])
  assert said.endswith('within speakers PNMI –, purity 1.000 (largest class 1.000)')
  text = quality_page.write_page(tmp_path / 'report.html', units, found).read_text()
  assert 'Within speakers' in text and 'few frames a speaker' in text
  none = Reference('speaker', ['A', 'B'], of_clip={'other': 0})
  assert quality_lib.within_speakers(units, word, none) is None


def test_the_page_says_what_was_found(tmp_path):
  units = saved(
    tmp_path / 'units', {'x': [0, 0, 1, 1, 1, 0], 'y': [2, 2]},
    features='mfcc', skipped={'<b>.wav': 'it is empty & short'},
  )  # fmt: skip
  found = quality(units, [Reference('speaker', ['a', 'b'], of_clip={'x': 0, 'y': 1})])
  row = dict(inertia=3.0, smoothed=3.5, in_use=3, restarts=1)
  history = [dict(row, step=i, epoch=i / 2, perplexity=i / 40) for i in (50, 100)]
  path = quality_page.write_page(
    tmp_path / 'report.html', units, found, history=history, facts={'input': 'my/folder'}
  )
  text = path.read_text()
  assert '4 units of MFCC' in text and '3 of 4' in text and 'my/folder' in text
  assert '<td>1.000</td>' in text and '100 mini-batches' in text
  assert '&lt;b&gt;.wav' in text and 'empty &amp; short' in text and '<b>.wav' not in text
  pictures = re.findall(r'<svg.*?</svg>', text, flags=re.DOTALL)
  assert len(pictures) == 3
  for picture in pictures:
    xml.dom.minidom.parseString(picture)
  assert 'src=' not in text and not re.search('href="[^#]', text)
