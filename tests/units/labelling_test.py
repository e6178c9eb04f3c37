"""Units of every clip: right, in order, resumable, and clear about what was left out."""

import tracemalloc

import jax
import numpy as np
import pytest

from research.audio.clips import Source, Table
from research.audio.decode import decode
from research.audio.sources import open_source
from research.audio.units import Units
from research.errors import InputError
from research.features.frontend import Frontend
from research.features.mfcc import kaldi_mfcc_deltas
from research.inference.clip_jobs import ClipJob
from research.jobs import parts
from research.units import frames as frames_lib
from research.units import labelling
from research.units.codebook import Codebook
from research.units.labelling import label
from tests.evals import toy
from tests.jobs.kills import killed

MFCC = frames_lib.mfcc()
ABOUT = dict(sample_rate=16_000, hop=160, window=400, fingerprint='ab12')


@pytest.fixture
def folder(tmp_path):
  import soundfile

  root = toy.tones(tmp_path / 'tones', per_class=4)
  soundfile.write(root / '900_01.flac', toy.tone(900, 1.7, 9), toy.RATE)
  return root


@pytest.fixture
def source(folder):
  return open_source(str(folder))


@pytest.fixture(scope='module')
def book():
  """Centroids among the frames of tones."""
  rng = np.random.default_rng(0)
  clips = [toy.tone(hertz, 1.0, i) / 32768 for i, hertz in enumerate((300, 900, 2700))]
  x = np.asarray(
    kaldi_mfcc_deltas(np.stack(clips).astype(np.float32), np.ones((3, 16000), bool))[0]
  )
  rows = x.reshape(-1, 39)
  return Codebook(rows[rng.permutation(len(rows))[:12]], MFCC.about())


def nearest(example, book):
  """Units of a clip by all distances in double precision, and by how much each is the nearest."""
  audio = decode(example, sample_rate=16_000)
  padded = np.zeros((1, 32_000), np.float32)
  padded[0, : len(audio)] = audio
  x, mask = jax.jit(kaldi_mfcc_deltas)(padded, np.arange(32_000)[None] < len(audio))
  x = np.asarray(x, np.float64)[np.asarray(mask)]
  distances = np.square(x[:, None] - book.centroids).sum(axis=2)
  two = np.sort(distances, axis=1)
  return distances.argmin(axis=1), two[:, 1] - two[:, 0] > 1e-2


def check(units, source, book):
  for example in source:
    codes, sure = nearest(example, book)
    assert len(units[example.id]) == len(codes)
    np.testing.assert_array_equal(units[example.id][sure], codes[sure])


def test_units_of_every_clip(source, book, tmp_path):
  done = label(MFCC, book, source, tmp_path / 'units', about={'note': 'mine'})
  units = Units.open(tmp_path / 'units')
  assert list(units.ids) == [source.id(i) for i in range(12)]
  assert (units.rate, units.clusters, units.about['note']) == (100.0, 12, 'mine')
  assert units.about['fingerprint'] == book.fingerprint(MFCC)
  check(units, source, book)
  total = sum(len(units[i]) for i in units.ids)
  assert done == {'clips': 12, 'frames': total, 'resumed': 0, 'skipped': {}}
  assert units.frames(27_200) == len(units['900_01.flac']) == 168
  assert not (tmp_path / 'units.parts').exists()


def test_long_clips_are_labelled_without_a_seam(source, book, tmp_path, monkeypatch):
  monkeypatch.setattr(frames_lib, 'PIECE_SAMPLES', 400 + 160 * 39)
  label(MFCC, book, source, tmp_path / 'units')
  check(Units.open(tmp_path / 'units'), source, book)


@pytest.mark.slow
def test_units_of_a_model_in_pieces(source, tmp_path, monkeypatch):
  """A model's piece is run by itself; its frames lie on the grid of the clip."""
  system = toy.embedder(bands=1, frontend=Frontend.create('kaldi_fbank', num_mel_bins=16))
  frames = frames_lib.of_model(system, 1)
  monkeypatch.setattr(frames_lib, 'PIECE_SAMPLES', 400 + 640 * 9)
  centroids = np.random.default_rng(0).normal(size=(7, 12)).astype(np.float32)
  book = Codebook(centroids, frames.about())
  label(frames, book, source, tmp_path / 'units')
  units = Units.open(tmp_path / 'units')
  audio = decode(source[5], sample_rate=16_000)
  assert (
    source.id(5) == '900_01.flac' and len(units[source.id(5)]) == units.frames(len(audio)) == 42
  )
  expected = []
  for start in range(0, 42, 10):
    piece = audio[start * 640 : start * 640 + 400 + 640 * 9]
    x = toy.alone(system, piece)[1]
    expected += np.square(x[:, None] - centroids).sum(axis=2).argmin(axis=1).tolist()[:10]
  assert units[source.id(5)].tolist() == expected


def test_a_killed_job_goes_on(source, book, tmp_path, monkeypatch):
  label(MFCC, book, source, tmp_path / 'whole', batch_seconds=8.0)
  with monkeypatch.context() as patch:
    killed(patch, after=1)
    with pytest.raises(KeyboardInterrupt):
      label(MFCC, book, source, tmp_path / 'units', part_seconds=0.0, batch_seconds=8.0)
  assert not (tmp_path / 'units').exists() and (tmp_path / 'units.parts').is_dir()
  other = Codebook(book.centroids[:5], {})
  with pytest.raises(InputError, match=r'unfinished job with another.* clusters'):
    label(MFCC, other, source, tmp_path / 'units')
  done = label(MFCC, book, source, tmp_path / 'units', part_seconds=0.0, batch_seconds=8.0)
  assert 0 < done['resumed'] < 12 and done['clips'] == 12
  for name in ('codes.npy', 'offsets.npy', 'ids.txt', 'about.json'):
    whole, again = (tmp_path / folder / name for folder in ('whole', 'units'))
    assert whole.read_bytes() == again.read_bytes()


@pytest.mark.slow
def test_what_cannot_be_used_is_left_out_and_named(folder, book, tmp_path):
  import soundfile

  (folder / '300_00.flac').write_bytes(b'no audio')
  soundfile.write(folder / '300_01.flac', np.zeros(399, np.int16), 16_000)
  soundfile.write(folder / '300_02.wav', np.full(8000, np.nan, np.float32), 16_000, subtype='FLOAT')
  lines = (folder / 'labels.csv').read_text().replace('300_02.flac', '300_02.wav')
  (folder / 'labels.csv').write_text(lines)
  source = open_source(str(folder))
  done = label(MFCC, book, source, tmp_path / 'units')
  assert done['clips'] == 9 and set(done['skipped']) == {
    '300_00.flac', '300_01.flac', '300_02.wav'
  }  # fmt: skip
  assert 'shorter than one frame' in done['skipped']['300_01.flac']
  assert 'not numbers' in done['skipped']['300_02.wav']
  units = Units.open(tmp_path / 'units')
  assert '300_00.flac' not in units and units.about['skipped'] == done['skipped']
  # A folder that is there is nobody's to replace.
  with pytest.raises(InputError, match='is there already'):
    label(MFCC, book, source, tmp_path / 'units')
  with pytest.raises(InputError, match=r"No clip of 'tones' has units.*not an audio file"):
    label(MFCC, book, source.select([0, 2]), tmp_path / 'none', max_bad_fraction=1.0)
  with pytest.raises(InputError, match='2 of 2 clips'):
    label(MFCC, book, source.select([0, 2]), tmp_path / 'half', max_bad_fraction=0.5)


def test_a_long_clip_with_a_hole_is_left_out(source, book, tmp_path, monkeypatch):
  """A piece that fails takes its clip with it, never only some of its units."""
  monkeypatch.setattr(frames_lib, 'PIECE_SAMPLES', 400 + 160 * 39)
  cut = frames_lib.pieces(source, MFCC)
  locate = frames_lib._Locate.__call__

  def broken(self, row):
    fields = locate(self, row)
    if self.source.id(self.clips[row]) == '900_01.flac' and self.first[row] > 8000:
      fields['array'] = fields['array'] * np.nan
    return fields

  monkeypatch.setattr(frames_lib._Locate, '__call__', broken)
  assert (cut.clips == 5).sum() > 2
  done = label(MFCC, book, source, tmp_path / 'units')
  assert set(done['skipped']) == {'900_01.flac'} and done['clips'] == 11


def test_memory_does_not_grow_with_the_data(tmp_path):
  """What joining the parts takes, of few and of ten times as many."""
  count = 200_000
  codes = lambda row: np.full(count, row % 12, np.uint16)  # noqa: E731

  def peak(clips):
    ids = [f'{i}' for i in range(clips)]
    source = Source(Table('many', ids, {}, lambda row: {}, seconds=np.ones(clips)))
    cut = frames_lib.pieces(source, MFCC)
    job = ClipJob(MFCC.embedder, cut.source, tmp_path / f'{clips}', {}, layers=(0,), pool='none')
    job.parts.open()
    job.job.keys = [f'{row}' for row in range(clips)]
    none = np.zeros(0, np.int64)
    failed = dict(too_short=none, failed=none, reasons=np.zeros(0, str))
    for row in np.random.default_rng(0).permutation(clips).tolist():
      one = dict(rows=np.array([row]), counts=np.array([count]), codes=codes(row), **failed)
      job.parts.write({f'{row}': one})
    job._look()
    tracemalloc.start()
    labelling._finish(job, source, cut, tmp_path / f'{clips}', {**ABOUT, 'clusters': 12})
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found

  few, many = peak(10), peak(100)
  assert many < 1.3 * few
  units = Units.open(tmp_path / '100')
  assert units.ids == [f'{i}' for i in range(100)]
  for row, name in enumerate(units.ids):
    np.testing.assert_array_equal(units[name], codes(row))


def test_a_part_is_written_when_it_is_large(source, book, tmp_path, monkeypatch):
  monkeypatch.setattr(parts, 'PART_BYTES', 200)
  write, sizes = parts.Parts.write, []

  def counted(self, results):
    sizes.append(len(results))
    write(self, results)

  monkeypatch.setattr(parts.Parts, 'write', counted)
  label(MFCC, book, source, tmp_path / 'units', part_seconds=1e9, batch_seconds=4.0)
  assert sizes == [1] * len(sizes) and len(sizes) > 1
  check(Units.open(tmp_path / 'units'), source, book)
