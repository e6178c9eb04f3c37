"""STFT, mel and decibels against librosa; frames, edges and masks."""

import jax
import jax.export
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from research.errors import InputError
from research.features import filters, spectral


def tone(samples: int, rate: int = 16000, seed: int = 0) -> np.ndarray:
  time = np.arange(samples) / rate
  noise = np.random.RandomState(seed).randn(samples)
  return (0.3 * np.sin(2 * np.pi * 440 * time) + 0.05 * noise).astype(np.float32)


def padded(clips: list[np.ndarray], samples: int) -> tuple[np.ndarray, np.ndarray]:
  audio = np.full((len(clips), samples), np.nan, np.float32)
  for row, clip in enumerate(clips):
    audio[row, : len(clip)] = clip
  return audio, ~np.isnan(audio)


@pytest.mark.parametrize('pad_mode', ['reflect', 'constant'])
@pytest.mark.parametrize(
  'n_fft, win_length, hop', [(400, None, 160), (512, 300, 100), (1024, None, 160), (401, None, 130)]
)
def test_stft_equals_librosa_at_each_clips_own_end(n_fft, win_length, hop, pad_mode):
  clips = [tone(4001, seed=1), tone(3000, seed=2), tone(1200, seed=3)]
  settings = {'n_fft': n_fft, 'hop_length': hop, 'win_length': win_length, 'pad_mode': pad_mode}
  got, mask = jax.jit(lambda a, m: spectral.stft_power(a, m, **settings))(*padded(clips, 4321))
  for row, clip in enumerate(clips):
    want = np.abs(librosa.stft(clip, **settings)).T ** 2
    assert mask[row].sum() == len(want) == 1 + len(clip) // hop
    np.testing.assert_allclose(got[row, : len(want)], want, atol=2e-6 * want.max())
    assert not np.asarray(got[row, len(want) :]).any()


def test_stft_without_centre_and_magnitude():
  clip = tone(2000)
  settings = {'n_fft': 400, 'hop_length': 160, 'center': False}
  got, mask = spectral.stft_power(*padded([clip], 2100), power=1.0, **settings)
  want = np.abs(librosa.stft(clip, **settings)).T
  assert mask.sum() == len(want) == 11
  np.testing.assert_allclose(got[0, :11], want, atol=2e-6 * want.max())


def test_mel_and_decibels_equal_librosa():
  clips = [tone(5000, seed=4), tone(3333, seed=5)]
  mel = {'n_mels': 40, 'fmin': 50.0, 'fmax': 7000.0}
  stft = {'n_fft': 512, 'hop_length': 128, 'pad_mode': 'reflect'}
  power, mask = spectral.stft_power(*padded(clips, 5100), **stft)
  matrix = filters.mel_filterbank(
    sample_rate=16000, n_fft=512, num_mel_bins=40, f_min=50.0, f_max=7000.0, norm='slaney'
  )
  energy = spectral.apply_filters(power, matrix)
  got = np.asarray(spectral.compress(energy, 'db', 1e-10))
  for row, clip in enumerate(clips):
    want = librosa.feature.melspectrogram(y=clip, sr=16000, **mel, **stft)
    want = librosa.power_to_db(want, ref=1.0, top_db=None).T
    assert mask[row].sum() == len(want)
    np.testing.assert_allclose(got[row, : len(want)], want, atol=2e-3)


def test_filters_in_bands_equal_the_full_product():
  spectrum = np.random.RandomState(0).rand(2, 5, 257).astype(np.float32)
  matrix = filters.mel_filterbank(
    sample_rate=16000, n_fft=512, num_mel_bins=30, f_min=20.0, scale='kaldi'
  )
  matrix[:, 8:16] = 0  # a whole band of zeros
  want = spectrum.astype(np.float64) @ matrix
  for bands in (1, 4, 30, 99):
    got = spectral.apply_filters(spectrum, matrix, bands=bands)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
  'log, floor', [('ln', 0.1), ('ln_floor', 0.1), ('log10_floor', 0.1), ('db', 0.1)]
)
def test_logarithms(log, floor):
  x = np.array([[[0.0, 0.05, 1.0, 20.0]]], np.float32)
  want = {
    'ln': np.log(x + floor),
    'ln_floor': np.log(np.maximum(x, floor)),
    'log10_floor': np.log10(np.maximum(x, floor)),
    'db': 10 * np.log10(np.maximum(x, floor)),
  }[log]
  np.testing.assert_allclose(spectral.compress(x, log, floor), want, atol=1e-6)


@pytest.mark.parametrize(
  'mode, numpy_mode', [('reflect', 'reflect'), ('symmetric', 'symmetric'), ('constant', 'constant')]
)
def test_edges_are_extended_at_each_clips_end(mode, numpy_mode):
  lengths = [10, 7, 6]
  clips = [np.arange(1, n + 1, dtype=np.float32) for n in lengths]
  audio = np.stack([np.pad(clip, (0, 10 - len(clip))) for clip in clips])
  got = spectral.extend_edges(audio, np.array(lengths, np.int32), 3, 5, mode)
  for row, clip in enumerate(clips):
    want = np.pad(clip, (3, 5), mode=numpy_mode)
    np.testing.assert_array_equal(got[row, : len(want)], want)
    assert not np.asarray(got[row, len(want) :]).any()


@pytest.mark.parametrize(
  'size, hop', [(400, 160), (400, 400), (100, 160), (7, 3), (512, 512), (5, 1)]
)
def test_frames_are_the_sliding_windows(size, hop):
  audio = np.random.RandomState(0).randn(2, 2000).astype(np.float32)
  count = 1 + (2000 - size) // hop
  got = spectral.map_frames(lambda frames: frames, audio, size=size, hop=hop, count=count)
  want = np.lib.stride_tricks.sliding_window_view(audio, size, axis=1)[:, ::hop]
  np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_frames_in_pieces_equal_frames_at_once(monkeypatch):
  clips = [tone(40000, seed=1), tone(31234, seed=2), tone(500, seed=3)]

  def run():
    return spectral.log_mel(
      *padded(clips, 41000), sample_rate=16000, n_fft=400, hop_length=160, num_mel_bins=40
    )

  monkeypatch.setattr(spectral, 'CPU_SAMPLES', 10**9)
  want, want_mask = run()
  for samples in (20000, 130000, 280000):
    monkeypatch.setattr(spectral, 'CPU_SAMPLES', samples)
    got, mask = run()
    np.testing.assert_array_equal(mask, want_mask)
    np.testing.assert_allclose(got, want, atol=1e-5)


MEL = {'sample_rate': 16000, 'n_fft': 400, 'hop_length': 160, 'num_mel_bins': 40}


@pytest.mark.parametrize('size, n_fft', [(400, 512), (400, 400), (129, 1024), (31, 31)])
def test_the_dft_by_products_equals_the_fft(size, n_fft):
  frames = np.random.RandomState(0).randn(2, 7, size).astype(np.float32)
  want = np.abs(np.fft.rfft(frames.astype(np.float64), n_fft)) ** 2
  for energy in (spectral.energy_by_product, spectral.energy_by_fft):
    np.testing.assert_allclose(energy(frames, n_fft), want, atol=1e-6 * want.max())


def test_a_sharded_batch_is_not_moved(monkeypatch):
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  audio, mask = padded([tone(48000 - 1000 * i, seed=i) for i in range(8)], 48000)
  placed = jax.device_put(audio, sharding), jax.device_put(mask, sharding)
  want, _ = jax.jit(lambda a, m: spectral.log_mel(a, m, **MEL))(audio, mask)
  got, _ = jax.jit(lambda a, m: spectral.log_mel(a, m, **MEL))(*placed)
  np.testing.assert_allclose(got, want, atol=1e-4)
  assert got.sharding.is_equivalent_to(sharding, got.ndim)

  # As on accelerators: no communication between devices.
  monkeypatch.setattr(spectral, 'energy_by_fft', spectral.energy_by_product)
  compiled = jax.jit(lambda a, m: spectral.log_mel(a, m, **MEL)).lower(*placed).compile()
  np.testing.assert_allclose(compiled(*placed)[0], want, atol=1e-4)
  text = compiled.as_text()
  collectives = ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute')
  assert not [name for name in collectives if name in text]


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_other_platforms_get_products_and_no_fft(platform):
  audio, mask = padded([tone(48000)] * 16, 48000)
  run = jax.jit(lambda a, m: spectral.log_mel(a, m, **MEL))
  text = jax.export.export(run, platforms=[platform])(audio, mask).mlir_module()
  assert 'stablehlo.dot_general' in text and 'stablehlo.while' not in text
  assert 'stablehlo.fft' not in text


@pytest.mark.slow
def test_gradient_of_the_magnitude_is_finite_in_silence():
  def total(audio):
    mask = jnp.ones(audio.shape, bool)
    return spectral.stft_power(audio, mask, n_fft=64, hop_length=32, power=1.0)[0].sum()

  assert np.isfinite(jax.grad(total)(jnp.zeros((1, 200)))).all()


def test_appended_zeros_follow_each_clip():
  audio, mask = spectral.append_zeros(*padded([tone(5), tone(3)], 6), 2)
  np.testing.assert_array_equal(mask.sum(axis=1), [7, 5])
  assert audio.shape == (2, 8) and not np.asarray(audio[0, 5:]).any()
  assert not np.asarray(audio[1, 3:]).any()


@pytest.mark.parametrize(
  'change, message',
  [
    ({'pad_mode': 'reflct'}, "Did you mean 'reflect'"),
    ({'win_length': 500}, 'expected 1 to n_fft, 400'),
    ({'window': 'box'}, 'Unknown window'),
    ({'power': 3.0}, 'expected 2 .energy. or 1'),
  ],
)
def test_impossible_settings_are_refused(change, message):
  settings = {'n_fft': 400, 'hop_length': 160} | change
  with pytest.raises(InputError, match=message):
    spectral.stft_power(*padded([tone(1000)], 1000), **settings)


def test_too_short_says_how_long_in_seconds():
  with pytest.raises(InputError, match=r'got 100 samples \(0.00625 s at 16000 Hz\).* 201 samples'):
    spectral.stft_power(*padded([tone(100)], 100), n_fft=400, hop_length=160, sample_rate=16000)
