"""Pooling, streaming, the cache on disk, and the times of tokens."""

import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest

from research.audio.bad_files import BadFiles
from research.audio.decode import decode
from research.audio.sources import open_source
from research.errors import InputError
from research.evals import cache as cache_lib
from research.features.mfcc import kaldi_mfcc_deltas
from research.features.waveform import Waveform
from research.inference import clip_jobs, embedder
from research.inference.stream import stream
from research.nn import pooling
from tests.evals import toy


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv('OIDO_CACHE', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture(scope='module')
def system():
  return toy.embedder()


@pytest.fixture
def source(tmp_path):
  return open_source(str(toy.tones(tmp_path / 'tones', per_class=4)))


def test_pooling_sees_only_valid_tokens():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 6, 4)).astype(np.float32)
  mask = np.arange(6) < np.array([6, 2, 1])[:, None]
  spoiled = np.where(mask[None, ..., None], x, np.nan)
  pool = lambda name: np.asarray(pooling.POOLS[name](jnp.asarray(spoiled), jnp.asarray(mask)))  # noqa: E731
  for b, n in enumerate((6, 2, 1)):
    seen = x[:, b, :n]
    np.testing.assert_allclose(pool('mean')[:, b], seen.mean(1), atol=1e-6)
    np.testing.assert_allclose(pool('max')[:, b], seen.max(1), atol=1e-6)
    np.testing.assert_allclose(pool('mean+max')[:, b], seen.mean(1) + seen.max(1), atol=1e-6)
    both = np.concatenate([seen.mean(1), seen.std(1)], axis=-1)
    np.testing.assert_allclose(pool('mean_std')[:, b], both, atol=1e-6)


def test_bands_are_pooled_apart():
  x = np.arange(2 * 1 * 6 * 3, dtype=np.float32).reshape(2, 1, 6, 3)
  mask = np.array([[True, True, True, True, False, False]])
  got = np.asarray(pooling.bands('mean_bands', jnp.asarray(x), jnp.asarray(mask), 2))
  expected = np.concatenate([x[:, :, [0, 2]].mean(2), x[:, :, [1, 3]].mean(2)], axis=-1)
  np.testing.assert_allclose(got, expected)
  # Both statistics of a band side by side.
  got = np.asarray(pooling.bands('mean_std_bands', jnp.asarray(x), jnp.asarray(mask), 2))
  parts = [x[:, :, [0, 2]], x[:, :, [1, 3]]]
  expected = np.concatenate([s for p in parts for s in (p.mean(2), p.std(2))], axis=-1)
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  with pytest.raises(InputError, match='4 a row'):
    pooling.bands('mean_bands', jnp.asarray(x), jnp.asarray(mask), 4)


def test_layers_that_are_asked_for():
  assert embedder.layer_indices('last', 13) == (12,)
  assert embedder.layer_indices('all', 3) == (0, 1, 2)
  assert embedder.layer_indices('-2', 13) == (11,)
  assert embedder.layer_indices('6', 13) == (6,)
  with pytest.raises(InputError, match=r'layers 0 \(stem\) to 12'):
    embedder.layer_indices('13', 13)
  with pytest.raises(InputError, match="Did you mean 'last'"):
    embedder.layer_indices('lst', 13)


@pytest.mark.slow
def test_a_source_is_embedded_as_each_clip_alone(system, source, tmp_path):
  found = cache_lib.embed_source(system, source, cache=tmp_path / 'cache', layers=(0, 2))
  assert found.valid.all() and not found.missing and not found.cached
  for i in (0, 5, 11):
    expected = toy.alone(system, decode(source[i], sample_rate=16000)).mean(axis=1)
    for layer in (0, 2):
      np.testing.assert_allclose(found.layers[layer][i], expected[layer], atol=2e-5)


@pytest.mark.slow
def test_clips_are_cut_to_the_asked_length(system, source, tmp_path):
  found = cache_lib.embed_source(system, source, cache=tmp_path, layers=(2,), seconds=0.25)
  audio = decode(source[5], sample_rate=16000, seconds=0.25)
  assert len(audio) == 4000
  np.testing.assert_allclose(
    found.layers[2][5], toy.alone(system, audio).mean(axis=1)[2], atol=2e-5
  )


def test_the_cache_is_hit_and_only_when_it_is_right(system, source, tmp_path, monkeypatch):
  cache = tmp_path / 'cache'
  embed = lambda e=system, s=source, layers=(2,), **more: cache_lib.embed_source(  # noqa: E731
    e, s, cache=cache, layers=layers, **more
  )
  first = embed()

  def forbidden(*args, **kwargs):
    raise AssertionError('the model ran again')

  with monkeypatch.context() as patch:
    patch.setattr(clip_jobs, 'stream', forbidden)
    again = embed()
    assert again.cached and isinstance(again.layers[2], np.memmap)
    np.testing.assert_array_equal(first.layers[2], again.layers[2])
    # Another pooling, length, model, layer or set of clips is another embedding.
    for change in (
      dict(pool='max'),
      dict(seconds=0.2),
      dict(e=toy.embedder(seed=1)),
      dict(layers=(1,)),
      dict(s=source.select([0, 1, 2])),
    ):
      with pytest.raises(AssertionError, match='ran again'):
        embed(**change)

  # A new layer joins the ones that are there.
  more = embed(layers=(1, 2))
  assert not more.cached and set(more.layers) == {1, 2}
  assert len(list(cache.glob('*/meta.json'))) == 1
  assert embed(layers=(1, 2)).cached

  # A file that was replaced is embedded anew.
  path = source[0].path
  os.utime(path, ns=(1, 1))
  assert not embed().cached


def test_a_killed_embedding_leaves_no_half_cache(system, source, tmp_path):
  def die(done):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    cache_lib.embed_source(system, source, cache=tmp_path / 'cache', layers=(2,), progress=die)
  assert list(tmp_path.glob('cache/*/layers_*.parts'))
  found = cache_lib.embed_source(system, source, cache=tmp_path / 'cache', layers=(1, 2))
  assert not found.cached and found.valid.all()
  # Nor does a part of either run stay.
  assert {p.suffix for p in tmp_path.glob('cache/*/*') if p.name != '.lock'} == {'.npy', '.json'}


@pytest.mark.parametrize(
  ('file', 'damage'),
  [('layer_02.npy', 'cut'), ('layer_02.npy', 'bit'), ('valid.npy', 'cut'), ('meta.json', 'cut')],
)
def test_a_damaged_cache_is_computed_again_and_says_so(
  system, source, tmp_path, file, damage, caplog
):
  first = cache_lib.embed_source(system, source, cache=tmp_path, layers=(2,))
  right = np.array(first.layers[2])
  (path,) = tmp_path.glob(f'*/{file}')
  content = bytearray(path.read_bytes())
  content[-1] ^= damage == 'bit'
  path.write_bytes(content if damage == 'bit' else content[: len(content) // 2])
  again = cache_lib.embed_source(system, source, cache=tmp_path, layers=(2,))
  assert not again.cached and 'damaged' in caplog.text
  np.testing.assert_array_equal(again.layers[2], right)
  assert cache_lib.embed_source(system, source, cache=tmp_path, layers=(2,)).cached


def test_two_runs_at_once_embed_once(system, source, tmp_path, monkeypatch):
  """The second waits for the first and finds its embeddings; flock holds between threads too."""
  inside, go_on, ran = threading.Event(), threading.Event(), []
  stream = clip_jobs.stream

  def slow(*args, **kwargs):
    ran.append(1)
    inside.set()
    assert go_on.wait(60)
    return stream(*args, **kwargs)

  monkeypatch.setattr(clip_jobs, 'stream', slow)
  with ThreadPoolExecutor(2) as pool:
    embed = lambda: cache_lib.embed_source(system, source, cache=tmp_path, layers=(2,))  # noqa: E731
    one = pool.submit(embed)
    assert inside.wait(60)
    two = pool.submit(embed)
    with pytest.raises(TimeoutError):
      two.result(timeout=0.5)
    go_on.set()
    assert not one.result().cached and two.result().cached and len(ran) == 1


def test_a_cache_that_is_read_only_serves_what_it_has(system, source, tmp_path, monkeypatch):
  cache_lib.embed_source(system, source, cache=tmp_path, layers=(2,))

  def refused(path):
    raise AssertionError('something was to be written')

  monkeypatch.setattr(cache_lib.folders, 'lock', refused)
  assert cache_lib.embed_source(system, source, cache=tmp_path, layers=(2,)).cached
  (tmp_path / 'file').touch()
  monkeypatch.undo()
  with pytest.raises(InputError, match='cannot be written to: Not a directory'):
    cache_lib.embed_source(system, source, cache=tmp_path / 'file' / 'in', layers=(2,))


def test_bad_and_short_clips_are_named(system, source, tmp_path):
  (tmp_path / 'tones' / '300_00.flac').write_bytes(b'no audio')
  import soundfile

  soundfile.write(tmp_path / 'tones' / '900_01.flac', np.zeros(50, np.int16), 16000)
  found = cache_lib.embed_source(system, source, cache=tmp_path / 'cache', layers=(2,))
  names = [source.id(i) for i in np.flatnonzero(~found.valid)]
  assert names == ['300_00.flac', '900_01.flac']
  assert set(found.missing) == set(names)
  assert 'shorter than one frame' in found.missing['900_01.flac']
  assert len(found.missing['300_00.flac']) > 10


def test_clips_too_long_for_one_piece_are_named_and_the_others_embedded(system, tmp_path):
  """However many they are: they are not taken for a wrong folder."""
  toy.tones(tmp_path / 'tones', per_class=20)
  source = open_source(str(tmp_path / 'tones'))
  seconds = float(source.durations().max())
  short = dataclasses.replace(system, max_seconds=seconds - 1e-3)
  fits = source.durations() <= short.max_seconds
  assert 0 < fits.sum() < len(source)
  bad = BadFiles(None, 0.9)
  rows = [
    row for part in stream(short, source, layers=(2,), pool='mean', bad_files=bad)
    for row in part.rows
  ]  # fmt: skip
  assert sorted(rows) == np.flatnonzero(fits).tolist()
  assert {name for name, _ in bad.items()} == {source.id(i) for i in np.flatnonzero(~fits)}
  assert all('--window' in reason for _, reason in bad.items())


def test_nothing_readable_is_an_error(system, source, tmp_path):
  for example in source:
    with open(example.path, 'wb') as file:
      file.write(b'no audio')
  with pytest.raises(InputError):
    cache_lib.embed_source(system, source, cache=tmp_path / 'cache', layers=(2,))


def test_random_init_is_the_same_architecture_with_other_weights(system):
  one, two, again = (embedder.random_init(toy.Toy(), seed) for seed in (0, 1, 0))
  assert one.kind == 'random' and one.num_layers() == 3
  assert one.weights != two.weights and one.weights == again.weights
  kernel = lambda e: np.asarray(e.variables['params']['Dense_0']['kernel'])  # noqa: E731
  assert kernel(one).shape == kernel(two).shape and not np.allclose(kernel(one), kernel(two))


def test_log_mel_statistics_are_those_of_the_front_end(source, tmp_path):
  system = embedder.log_mel(toy.FRONTEND)
  found = cache_lib.embed_source(system, source, cache=tmp_path, layers=(0,), pool='max')
  audio = decode(source[3], sample_rate=16000)
  frames, _ = toy.FRONTEND(jnp.asarray(audio)[None], jnp.ones((1, len(audio)), bool))
  frames = np.asarray(frames)[0]
  expected = np.concatenate([frames.mean(0), frames.std(0)])
  np.testing.assert_allclose(found.layers[0][3], expected, atol=1e-4)


def test_log_mel_statistics_beside_a_model_of_waveforms_are_of_the_kaldi_filter_bank():
  system = embedder.log_mel(Waveform())
  assert system.frontend.kind == 'kaldi_fbank'
  tokens, mask = system.apply({}, jnp.zeros((1, 16_000)), jnp.ones((1, 16_000), bool))
  assert tokens.shape == (1, 1, 98, 128) and mask.all()


def test_weights_hash_sees_every_bit():
  tree = {'a': {'b': np.arange(4.0, dtype=np.float32)}}
  changed = {'a': {'b': np.nextafter(tree['a']['b'], 10, dtype=np.float32)}}
  assert embedder.weights_hash(tree) == embedder.weights_hash({'a': {'b': tree['a']['b'].copy()}})
  assert embedder.weights_hash(tree) != embedder.weights_hash(changed)
  assert embedder.weights_hash(tree) != embedder.weights_hash({'a': {'c': tree['a']['b']}})
  other = dataclasses.replace(toy.embedder(), frontend=toy.FRONTEND.replace(mean=-3.0))
  assert other.fingerprint() != toy.embedder().fingerprint()


@pytest.mark.slow
@pytest.mark.parametrize('bands, group', [(1, 1), (2, 4), (4, 3)])
def test_times_of_tokens_are_found_from_outside(bands, group):
  system = toy.embedder(bands=bands, group=group)
  assert system.bands() == bands
  audio = np.zeros(9000, np.float32)
  tokens = toy.alone(system, audio)
  times = system.token_seconds(len(audio))
  assert len(times) == tokens.shape[1]
  # A row of tokens starts with its first frame, 10 ms apart.
  expected = np.repeat(np.arange(len(times) // bands) * group * 0.01, bands)
  np.testing.assert_allclose(times, expected, atol=1e-9)


@pytest.mark.slow
def test_times_of_very_long_clips_are_refused(system):
  with pytest.raises(InputError, match='--window=30'):
    system.token_seconds(61 * 16000)


@pytest.mark.slow
def test_mfcc_statistics_are_those_of_huberts_first_features():
  system = embedder.mfcc()
  audio = np.random.default_rng(0).normal(size=(1, 16_000)).astype(np.float32)
  mask = np.ones(audio.shape, bool)
  tokens, real = system.apply({}, jnp.asarray(audio), jnp.asarray(mask))
  want, frames = kaldi_mfcc_deltas(audio, mask)
  np.testing.assert_allclose(tokens[0], want, rtol=1e-5, atol=1e-4)
  np.testing.assert_array_equal(real, frames)
  assert (system.name, system.pool) == ('MFCC statistics', 'mean_std')
