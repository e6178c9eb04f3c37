"""Fits that stream: as good as scikit-learn's, the same bits after a kill, nothing kept."""

import dataclasses
import shutil
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.audio.bad_files import BadFiles
from research.audio.decode import decode
from research.audio.sources import open_source, pool
from research.errors import InputError
from research.features.frontend import Frontend
from research.features.mfcc import kaldi_mfcc_deltas
from research.units import blocks, clustering, frames, mini_batches
from research.units.clustering import Settings, fit, fit_arrays
from research.units.codebook import Codebook
from tests.evals import toy

SMALL = Settings(clusters=8, batch_size=200, n_init=2, report_every=5, max_epochs=4)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return toy.tones(tmp_path_factory.mktemp('data') / 'tones', per_class=6)


@pytest.fixture
def source(folder):
  return open_source(str(folder))


def features(source):
  """MFCC of every clip of a source, one after the other."""
  clips = [decode(example, sample_rate=16_000) for example in source]
  audio = np.zeros((len(clips), max(map(len, clips))), np.float32)
  mask = np.arange(audio.shape[1]) < np.array([len(clip) for clip in clips])[:, None]
  audio[mask] = np.concatenate(clips)
  x, real = jax.jit(kaldi_mfcc_deltas)(audio, mask)
  return np.asarray(x)[np.asarray(real)]


def inertia(x, centroids):
  squared = np.square(x).sum(axis=1)[:, None] - 2 * x @ centroids.T
  return float((squared + np.square(centroids).sum(axis=1)).min(axis=1).mean())


@pytest.fixture(scope='module')
def speech():
  """MFCC of some of the built-in corpus, computed by the blocks that a fit reads."""
  whole = open_source('builtin')
  few = whole.select(np.arange(0, len(whole), 12))
  stream = blocks.ClipBlocks(
    frames.mfcc(), few, seed=0, max_epochs=1, batch_seconds=320, bad_files=None
  )
  rows = [np.asarray(x)[np.asarray(mask)] for x, mask in stream.start(0)]
  x = np.concatenate(rows)
  assert len(x) == stream.frames
  return few, x


@pytest.mark.slow
def test_inertia_is_that_of_sklearn(speech):
  cluster = pytest.importorskip('sklearn.cluster')
  few, x = speech
  settings = Settings(clusters=20, batch_size=1000, n_init=3)
  same = dict(max_iter=100, batch_size=1000, tol=0.0, max_no_improvement=100, n_init=3)
  # Threads of its own that spin would wait for a busy machine.
  with pytest.importorskip('threadpoolctl').threadpool_limits(1):
    theirs = [
      cluster.MiniBatchKMeans(20, reassignment_ratio=0.0, random_state=seed, **same).fit(x)
      for seed in range(3)
    ]
  scores = [inertia(x, t.cluster_centers_) for t in theirs]
  ours = fit_arrays(x, settings)
  assert inertia(x, ours.centroids) <= 1.01 * np.median(scores)
  # Streamed from the files it is as good.
  streamed = fit(frames.mfcc(), few, dataclasses.replace(settings, max_epochs=12), hold_bytes=0)
  assert inertia(x, streamed.centroids) <= 1.01 * np.median(scores)
  assert (
    streamed.history[-1]['in_use'] == 20 and ours.ended == 'no lower inertia in 100 mini-batches'
  )


@pytest.mark.slow
@pytest.mark.parametrize('hold_bytes', [0, clustering.HOLD_BYTES])
def test_the_history_says_how_it_goes(source, hold_bytes):
  told, settings = [], dataclasses.replace(SMALL, max_epochs=8)
  found = fit(frames.mfcc(), source, settings, hold_bytes=hold_bytes, report=told.append)
  assert told == found.history and found.centroids.shape == (8, 39)
  steps = [row['step'] for row in found.history]
  assert steps == sorted(set(steps)) and len(steps) > 2
  for row in found.history:
    assert 1 <= row['perplexity'] <= row['in_use'] <= 8 and row['inertia'] > 0
  assert found.history[-1]['smoothed'] < found.history[0]['smoothed']
  assert found.ended == '8 times through the data'


@pytest.mark.slow
def test_frames_of_small_data_are_computed_once(source, monkeypatch):
  read, calls = blocks.ClipBlocks._block, []
  monkeypatch.setattr(blocks.ClipBlocks, '_block', lambda *args: calls.append(args) or read(*args))
  taken = len(features(source)) * 39 * 4
  for hold_bytes, times in ((taken, 1), (taken - 1, 4)):
    calls.clear()
    found = fit(frames.mfcc(), source, SMALL, hold_bytes=hold_bytes, batch_seconds=8.0)
    # Two blocks an epoch, and those that the initialisation is drawn from.
    assert len(calls) - 2 * times in ([0] if hold_bytes == taken else [1, 2])
    # As many mini-batches either way: no frame is left out.
    assert found.history[-1]['step'] == 4 * (taken // (39 * 4)) // SMALL.batch_size


class Killed(Exception):
  pass


@pytest.mark.parametrize('kind', [pytest.param('clips', marks=pytest.mark.slow), 'held', 'rows'])
def test_a_killed_fit_ends_in_the_same_bits(source, tmp_path, kind):
  if kind != 'rows':
    hold = clustering.HOLD_BYTES if kind == 'held' else 0
    run = lambda **more: fit(frames.mfcc(), source, SMALL, hold_bytes=hold, **more)  # noqa: E731
  else:
    x = np.random.default_rng(0).normal(size=(3001, 4)).astype(np.float32)
    run = lambda **more: fit_arrays(x, SMALL, **more)  # noqa: E731
  whole = run()

  def dies(step):
    def report(row):
      if row['step'] >= step:
        raise Killed

    return report

  last = whole.history[-1]['step']
  for step in (last // 3, 2 * last // 3):
    with pytest.raises(Killed):
      run(folder=tmp_path, save_seconds=0.0, report=dies(step))
  assert (tmp_path / 'fit.npz').exists()
  again = run(folder=tmp_path, save_seconds=0.0)
  np.testing.assert_array_equal(again.centroids, whole.centroids)
  assert again.history == whole.history
  # A half-written state is not looked at.
  (tmp_path / 'fit.partial.npz').write_bytes(b'half')
  np.testing.assert_array_equal(run(folder=tmp_path).centroids, whole.centroids)


def test_the_state_of_another_fit_is_refused(source, tmp_path):
  fit(frames.mfcc(), source, SMALL, folder=tmp_path, save_seconds=0.0)
  other = dataclasses.replace(SMALL, seed=1)
  with pytest.raises(InputError, match='other settings or data'):
    fit(frames.mfcc(), source, other, folder=tmp_path)


@pytest.mark.slow
def test_what_is_held_does_not_grow_with_the_data(source, monkeypatch):
  """Ten times the clips: the same arrays, the same sample, one block at a time."""
  alive, most, samples = set(), [0], []
  read, draw = blocks.ClipBlocks._block, clustering._sample

  def counted(self, batch, once):
    x, mask = read(self, batch, once)
    alive.add(id(x))
    weakref.finalize(x, alive.discard, id(x))
    most[0] = max(most[0], len(alive))
    return x, mask

  def sampled(*args):
    samples.append(draw(*args))
    return samples[-1]

  monkeypatch.setattr(blocks.ClipBlocks, '_block', counted)
  monkeypatch.setattr(clustering, '_sample', sampled)
  held, shapes = [], []
  append = mini_batches.append

  def watched(pool, x, mask, *, rules):
    shapes.append(x.shape)
    held.append(pool.frames.nbytes)
    return append(pool, x, mask, rules=rules)

  monkeypatch.setattr(mini_batches, 'append', watched)
  monkeypatch.setattr(mini_batches, 'POOL', 2)
  settings = dataclasses.replace(SMALL, max_epochs=1)
  found = {}
  for times in (1, 10):
    held.clear(), shapes.clear(), samples.clear()
    most[0] = 0
    fit(frames.mfcc(), pool([source] * times), settings, batch_seconds=6.0)
    found[times] = (max(held), len(samples[0]), most[0], max(np.prod(s) for s in shapes))
  assert len(shapes) > 10 and found[1] == found[10]
  assert found[1][1] == settings.sample and found[1][2] <= 2


@pytest.mark.slow
def test_every_frame_of_an_epoch_is_used_once(source):
  """Though clips fill the last batch up, and frames wait for a mini-batch at the end."""
  x = features(source)
  stream = blocks.ClipBlocks(
    frames.mfcc(), source, seed=3, max_epochs=1, batch_seconds=8.0, bad_files=None
  )
  assert stream.frames == len(x)
  seen = np.concatenate([np.asarray(v)[np.asarray(m)] for v, m in stream.start(0)])
  assert stream.epoch == 2 and len(seen) == len(x)
  np.testing.assert_allclose(seen.mean(axis=0), x.mean(axis=0), atol=1e-3)
  np.testing.assert_allclose(np.sort(seen[:, 0]), np.sort(x[:, 0]), atol=1e-2)
  data = np.arange(1000, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
  settings = Settings(clusters=1, batch_size=64, n_init=1, max_epochs=1)
  found = fit_arrays(data, settings)
  # 15 mini-batches of 64: the centroid is their mean, close to that of all rows.
  assert found.history[-1]['step'] == 15
  assert abs(found.centroids[0, 0] - 499.5) < 25


def test_fewer_frames_than_a_mini_batch():
  x = np.random.default_rng(1).normal(size=(37, 3)).astype(np.float32)
  found = fit_arrays(x, Settings(clusters=5, n_init=2, max_epochs=7))
  assert found.history[-1]['step'] == 7 and found.history[-1]['in_use'] == 5


def test_long_clips_are_cut_without_a_seam(tmp_path, monkeypatch):
  import soundfile

  monkeypatch.setattr(frames, 'PIECE_SAMPLES', 400 + 160 * 59)
  for name, rate in (('a', 16_000), ('b', 22_050)):
    rng = np.random.default_rng(ord(name))
    soundfile.write(tmp_path / f'{name}.wav', 0.1 * rng.normal(size=int(2.37 * rate)), rate)
  source = open_source(str(tmp_path))
  cut = frames.pieces(source, frames.mfcc())
  assert len(cut.source) > 8 and len(set(cut.clips)) == 2
  assert cut.source.id(0) == 'a.wav from 0 s'
  for clip in range(2):
    parts = []
    for row in np.flatnonzero(cut.clips == clip):
      audio = decode(cut.source[row], sample_rate=16_000)
      padded = np.pad(audio, (0, 12_000 - len(audio)))[None]
      x, mask = jax.jit(kaldi_mfcc_deltas)(padded, np.arange(12_000)[None] < len(audio))
      parts.append(np.asarray(x)[cut.own(np.asarray(mask), np.array([row]))])
    np.testing.assert_allclose(
      np.concatenate(parts), features(source.select([clip])), atol=2e-3, rtol=1e-4
    )


def test_a_fraction_of_the_clips(source, monkeypatch):
  taken = []
  monkeypatch.setattr(
    clustering, 'ClipBlocks', lambda frames, source, **more: taken.append(source) or 1 / 0
  )
  for seed in (0, 0, 1):
    with pytest.raises(ZeroDivisionError):
      fit(frames.mfcc(), source, dataclasses.replace(SMALL, percent=0.3, seed=seed))
  ids = [[s.id(i) for i in range(len(s))] for s in taken]
  assert [len(i) for i in ids] == [6, 6, 6] and ids[0] == ids[1] != ids[2]  # 5.4 of 18


def test_bad_files_are_skipped_and_listed(tmp_path):
  toy.tones(tmp_path / 'tones', per_class=6)
  (tmp_path / 'tones' / '300_00.flac').write_bytes(b'no audio')
  bad = BadFiles(None, 0.5)
  fit(frames.mfcc(), open_source(str(tmp_path / 'tones')), SMALL, bad_files=bad)
  assert [name for name, _ in bad.items()] == ['300_00.flac']


@pytest.mark.parametrize(
  'settings, says',
  [
    (dict(clusters=0), '1 to 65536'),
    (dict(percent=0.0), 'percent is 0'),
    (dict(percent=10.0), 'percent is 10'),
    (dict(batch_size=0), 'batch_size is 0'),
    (dict(n_init=0), 'n_init is 0'),
  ],
)
def test_settings_that_cannot_be(settings, says):
  with pytest.raises(InputError, match=says):
    Settings(**settings)


def test_data_that_cannot_be():
  x = np.random.default_rng(1).normal(size=(37, 3)).astype(np.float32)
  with pytest.raises(InputError, match=r'38 clusters need at least as many frames.* only 37'):
    fit_arrays(x, Settings(clusters=38))
  x[3] = np.nan
  with pytest.raises(InputError, match='not finite'):
    fit_arrays(x, Settings(clusters=3))


# -- What is clustered -------------------------------------------------------------------------


KALDI = Frontend.create('kaldi_fbank', num_mel_bins=16)


def model(**args):
  return toy.embedder(**{'bands': 1, 'frontend': KALDI, **args})


@pytest.mark.slow
def test_frames_of_models():
  found = frames.of_model(model(), '1')
  assert (found.layer, found.hop, found.window, found.sample_rate) == (1, 640, 400, 16_000)
  assert found.fingerprint() != frames.of_model(model(), 2).fingerprint()
  with pytest.raises(InputError, match=r'2 for 400 samples.*patches'):
    frames.of_model(model(bands=2), 'last')
  with pytest.raises(InputError, match='reach beyond the clip'):
    frames.of_model(toy.embedder(bands=1), 'last')
  with pytest.raises(InputError, match='one layer'):
    frames.of_model(model(), 'all')
  with pytest.raises(InputError, match='layers 0'):
    frames.of_model(model(), '3')


@pytest.mark.slow
def test_frames_of_a_waveform_model_are_those_of_its_front_end():
  from research import models
  from research.inference import embedder

  wav2vec2 = models.get('wav2vec2')(size='tiny')
  found = frames.of_model(embedder.random_init(wav2vec2), '1')
  assert (found.hop, found.window) == (wav2vec2.frontend.hop, wav2vec2.frontend.window)
  assert [found.count(n) for n in (found.window - 1, found.window)] == [0, 1]


@pytest.mark.slow
def test_pieces_of_a_clip_are_normalised_by_the_whole(monkeypatch):
  from research import models
  from research.audio.clips import Source, Table
  from research.inference import embedder

  sizes = dict(channels=16, width=16, depth=1, heads=2, hidden=32, conv_pos_groups=4)
  of = lambda normalise: frames.of_model(  # noqa: E731
    embedder.random_init(
      models.get('wav2vec2')(size='tiny', frontend=dict(normalise=normalise), **sizes)
    ),
    '1',
  )
  found, plain = of(True), of(False)
  assert found.epsilon == 1e-5 and plain.epsilon is None
  assert found.about()['frontend']['normalise'] and found.fingerprint() != plain.fingerprint()
  monkeypatch.setattr(frames, 'PIECE_SAMPLES', 400 + 320 * 9)
  audio = np.random.default_rng(0).normal(0.1, 0.01, 10_000).astype(np.float32)
  audio[:5000] *= 5  # loud, then quiet
  source = Source(Table('memory', ['a'], {}, lambda _: dict(array=audio, sample_rate=16_000)))
  pieces = [decode(e, sample_rate=16_000) for e in frames.pieces(source, found).source]
  wanted = (audio - audio.mean(dtype=np.float64)) / np.sqrt(audio.var(dtype=np.float64) + 1e-5)
  assert [len(p) for p in pieces] == [3280, 3280, 3280, 400]
  for i, piece in enumerate(pieces):
    np.testing.assert_allclose(piece, wanted[i * 3200 :][: len(piece)], atol=1e-6)
  # The model takes them as they are.
  first, mask = jnp.asarray(pieces[0][None]), jnp.ones((1, 3280), bool)
  args = found.embedder.variables, first
  same = jax.jit(plain.embedder.apply)(*args, mask)[0]
  np.testing.assert_array_equal(jax.jit(found.embedder.apply)(*args, mask)[0], same)


@pytest.mark.slow
def test_codebooks_come_back_and_are_checked(tmp_path):
  mfcc = frames.mfcc()
  book = Codebook(np.random.default_rng(0).normal(size=(5, 39)).astype(np.float32), mfcc.about())
  book.save(tmp_path / 'out' / 'codebook')
  for place in ('out', 'out/codebook'):
    again = Codebook.open(tmp_path / place)
    np.testing.assert_array_equal(again.centroids, book.centroids)
    assert again.fingerprint(mfcc) == book.fingerprint(mfcc)
    again.check(mfcc, 39)
  other = frames.of_model(model(), 1)
  with pytest.raises(InputError, match="features is 'mfcc', not 'toy'"):
    again.check(other, 39)
  book = Codebook(np.zeros((5, 12), np.float32), other.about())
  with pytest.raises(InputError, match='layer is 1, not 2'):
    book.check(frames.of_model(model(), 2), 12)
  with pytest.raises(InputError, match='weights is'):
    book.check(frames.of_model(model(seed=1), 1), 12)
  with pytest.raises(InputError, match='centroids of 12 features, but mfcc gives 39'):
    Codebook(book.centroids, {}).check(mfcc, 39)
  np.save(tmp_path / 'out' / 'codebook' / 'codebook.npy', np.zeros((5, 39), np.float32))
  with pytest.raises(InputError, match='was replaced'):
    Codebook.open(tmp_path / 'out')
  with pytest.raises(InputError, match=r'codebook\.npy is missing'):
    Codebook.open(tmp_path)


def test_a_codebook_that_is_replaced_is_never_half(tmp_path, monkeypatch):
  book = Codebook(np.zeros((5, 12), np.float32), {})
  book.save(tmp_path / 'book')
  before = {p.name: p.read_bytes() for p in (tmp_path / 'book').iterdir()}

  def killed(path, **kwargs):
    if Path(path).exists():
      next(Path(path).iterdir()).unlink()
      raise KeyboardInterrupt

  monkeypatch.setattr(shutil, 'rmtree', killed)
  with pytest.raises(KeyboardInterrupt):
    Codebook(np.ones((5, 12), np.float32), {}).save(tmp_path / 'book')
  found = {p.name: p.read_bytes() for p in (tmp_path / 'book').iterdir()}
  assert found.keys() == before.keys() and found != before
