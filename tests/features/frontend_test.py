"""Front-ends as values, and contracts on masks, jit, gradients and lengths."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.features.frontend import FRONTENDS, STATISTICS, Frontend, fit_frames

NAMES = sorted(FRONTENDS)
# One per kind of computation; the others differ in constants.
KINDS = ['kaldi_fbank', 'mfcc', 'byol_a_v1', 'whisper', 'laion_clap']


def noise(samples: int, seed: int = 0) -> np.ndarray:
  return (0.1 * np.random.RandomState(seed).randn(samples)).astype(np.float32)


def padded(clips: list[np.ndarray], samples: int, fill=np.nan) -> tuple[np.ndarray, np.ndarray]:
  audio = np.full((len(clips), samples), fill, np.float32)
  mask = np.zeros(audio.shape, bool)
  for row, clip in enumerate(clips):
    audio[row, : len(clip)], mask[row, : len(clip)] = clip, True
  return audio, mask


def clips_of(frontend: Frontend) -> list[np.ndarray]:
  """Three lengths: several frames and a remainder, fewer, one frame."""
  samples = [frontend.samples(9) + 37, frontend.samples(6) + 1, frontend.min_samples]
  return [noise(n, seed=i) for i, n in enumerate(samples)]


# ---------------------------------------------------------------------------------------------
# Every front-end.


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_alone_padded_and_in_a_batch_are_the_same(name):
  frontend = Frontend.create(name)
  run = jax.jit(frontend.raw)
  clips = clips_of(frontend)
  longest = max(len(clip) for clip in clips)
  for samples, fill in ((longest, np.nan), (longest + 999, np.inf), (longest + 999, 0.5)):
    batch, batch_mask = run(*padded(clips, samples, fill))
    for row, clip in enumerate(clips):
      alone, mask = run(*padded([clip], len(clip)))
      frames = frontend.frames(len(clip))
      assert np.asarray(mask).all() and mask.sum() == batch_mask[row].sum() == frames > 0
      np.testing.assert_allclose(batch[row, :frames], alone[0], atol=5e-4)
      assert not np.asarray(batch[row, frames:]).any()


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_with_and_without_jit(name):
  frontend = Frontend.create(name)
  audio, mask = padded(clips_of(frontend), frontend.samples(10))
  got, got_mask = jax.jit(frontend)(audio, mask)
  want, want_mask = frontend(audio, mask)
  np.testing.assert_array_equal(got_mask, want_mask)
  np.testing.assert_allclose(got, want, atol=2e-3)
  assert np.abs(np.asarray(got) - np.asarray(want)).mean() < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_gradients_are_finite_and_stop_at_the_mask(name):
  frontend = Frontend.create(name)
  clips = [noise(frontend.samples(5)), np.zeros(frontend.samples(3), np.float32)]
  audio, mask = padded(clips, frontend.samples(5) + 100)
  gradient = jax.jit(jax.grad(lambda a: frontend(a, mask)[0].sum()))(jnp.asarray(audio))
  gradient = np.asarray(gradient)
  assert np.isfinite(gradient).all()
  assert gradient[0][mask[0]].any() and not gradient[~mask].any()


@pytest.mark.parametrize('name', NAMES)
def test_frames_and_samples(name):
  frontend = Frontend.create(name)
  for samples in (frontend.min_samples, frontend.min_samples + frontend.hop_samples - 1, 12345):
    audio, mask = padded([noise(samples)], samples)
    shape = jax.eval_shape(frontend.raw, audio, mask)[0].shape
    assert shape == (1, frontend.frames(samples), frontend.num_features)
  for frames in (1, 2, 7, 1024):
    samples = frontend.samples(frames)
    assert frontend.frames(samples) >= frames
    assert samples == frontend.min_samples or frontend.frames(samples - 1) < frames
  assert frontend.frames(frontend.min_samples - 1) == 0


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_too_short_is_refused_in_seconds_and_in_a_batch_has_no_frames(name):
  frontend = Frontend.create(name)
  short = frontend.min_samples - 1
  with pytest.raises(InputError, match=rf'front-end {name}: got {short} samples \(0\.0'):
    frontend(*padded([noise(short)], short))
  batch, mask = frontend.raw(*padded([noise(short), noise(4000)], 4000))
  assert not mask[0].any() and mask[1].sum() == frontend.frames(4000)
  assert not np.asarray(batch[0]).any() and np.isfinite(np.asarray(batch)).all()


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('name', ['kaldi_fbank', 'byol_a_v2', 'whisper'])
def test_features_are_float32_whatever_comes_in(name, dtype):
  frontend = Frontend.create(name)
  audio, mask = padded([noise(5000)], 5000)
  audio = jnp.asarray(audio).astype(dtype)
  got, _ = frontend(audio, mask)
  want, _ = frontend(audio.astype(jnp.float32), mask)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('name', NAMES)
def test_to_json_and_back(name):
  frontend = Frontend.create(name)
  text = json.dumps(frontend.to_dict())
  again = Frontend.from_dict(json.loads(text))
  assert again == frontend and hash(again) == hash(frontend)
  assert again.differences(frontend) == {}


# ---------------------------------------------------------------------------------------------
# Published values.


def sine(samples: int, rate: int) -> np.ndarray:
  t = np.arange(samples) / rate
  wave = 0.5 * np.sin(2 * np.pi * 440 * t) + 0.25 * np.sin(2 * np.pi * 1234.5 * t + 0.3)
  return wave.astype(np.float32)


@pytest.mark.parametrize(
  'name, changes, of_sine, of_noise',
  [
    ('byol_a_v1', {}, (-10.70340, 7.54228), (3.00759, 0.91049)),
    ('byol_a_v2', {}, (-12.71224, 5.84596), (-1.53664, 0.51066)),
    ('byol_a_v1_librosa', {'pad_mode': 'constant'}, (-12.73946, 5.79782), (-1.55276, 0.51637)),
  ],
)
def test_byol_a_figures(name, changes, of_sine, of_noise):
  run = jax.jit(Frontend.create(name, **changes).raw)
  for wave, want in ((sine(15200, 16000), of_sine), (noise(15200), of_noise)):
    got = np.asarray(run(*padded([wave], 15200))[0])
    assert got.shape == (1, 96, 64)
    np.testing.assert_allclose([got.mean(), got.std(ddof=1)], want, atol=5e-5)


@pytest.mark.parametrize(
  'bins, want',
  [
    (80, [-0.329671, 0.544219, -0.561795, 1.438205]),
    (128, [-0.324257, 0.485978, -0.514644, 1.485356]),
  ],
)
def test_whisper_figures(bins, want):
  run = jax.jit(Frontend.create('whisper', num_mel_bins=bins).raw)
  got = np.asarray(run(*padded([sine(480000, 16000)], 480000))[0])
  assert got.shape == (1, 3000, bins)
  np.testing.assert_allclose([got.mean(), got.std(), got.min(), got.max()], want, atol=1e-5)


def test_clap_figures():
  t = np.arange(480000) / 48000
  hiss = 0.1 * np.random.RandomState(0).randn(480000)
  wave = (0.3 * np.sin(2 * np.pi * 440 * t) + hiss).astype(np.float32)
  got = np.asarray(jax.jit(Frontend.create('laion_clap').raw)(*padded([wave], 480000))[0])
  assert got.shape == (1, 1001, 64)
  np.testing.assert_allclose([got.mean(), got.std()], [-10.19076, 6.74115], atol=1e-4)


def test_padding_and_silence_after_normalisation():
  frontend = Frontend.create()
  silent, mask = frontend(*padded([np.zeros(16000, np.float32)], 16000), 128)
  assert silent.shape == (1, 128, 128) and mask.sum() == 98
  # A padded frame is 0 before normalisation, which is louder than silence after it.
  np.testing.assert_allclose(silent[0, :98], -1.2776, atol=1e-4)
  np.testing.assert_allclose(silent[0, 98:], 0.46703, atol=1e-5)
  np.testing.assert_allclose(frontend.denormalise(silent)[0, 98:], 0.0, atol=1e-6)


def test_fit_frames():
  x, mask = np.ones((2, 5, 3), np.float32), np.ones((2, 5), bool)
  for frames in (3, 5, 8):
    fitted, fitted_mask = fit_frames(x, mask, frames)
    assert fitted.shape == (2, frames, 3)
    assert fitted.sum() == 6 * min(5, frames) and fitted_mask.sum() == 2 * min(5, frames)


# ---------------------------------------------------------------------------------------------
# Values.


def test_statistics_and_changes():
  for name, (mean, std) in STATISTICS.items():
    frontend = Frontend.create(statistics=name)
    assert (frontend.mean, frontend.std, frontend.std_factor) == (mean, std, 2.0)
  esc50 = Frontend.create().replace(statistics='esc50')
  assert esc50.mean == -6.6268077
  assert esc50.replace(std=3.0).to_dict() == esc50.to_dict() | {'std': 3.0}
  assert Frontend.create(statistics='esc50', mean=1.0).mean == 1.0


def test_differences_name_both_values():
  ours, theirs = Frontend.create(), Frontend.create(window='povey', mean=-5.0)
  assert ours.differences(theirs) == {'mean': (-4.2677393, -5.0), 'window': ('hanning', 'povey')}
  assert ours.differences(Frontend.create('whisper')) == {'name': ('kaldi_fbank', 'whisper')}
  assert not Frontend.create('byol_a_v2').differences(
    Frontend.create('byol_a_v1', scale='slaney', norm='slaney')
  )


@pytest.mark.parametrize(
  'values, message',
  [
    ({'name': 'kaldi_fbnk'}, "Did you mean 'kaldi_fbank'"),
    ({'num_mel_bin': 64}, "argument of front-end kaldi_fbank.*Did you mean 'num_mel_bins'"),
    ({'num_mel_bins': 'many'}, 'expected a whole number'),
    ({'num_mel_bins': 64.5}, 'expected a whole number'),
    ({'num_mel_bins': 0}, 'expected a number above 0'),
    ({'sample_rate': True}, 'expected a value that is not a bool'),
    ({'std': 0.0}, 'expected a number above 0'),
    ({'mean': 'zero'}, 'expected a number'),
    ({'window': 3}, "expected a name, such as 'hanning'"),
    ({'window': 'hannin'}, "Did you mean 'hanning'"),
    ({'use_power': 1}, 'expected True or False'),
    ({'high_freq': 9000.0}, 'do not fit audio of 16000 Hz'),
    ({'name': 'byol_a_v2', 'sample_rate': 8000}, 'do not fit audio of 8000 Hz'),
    ({'name': 'mfcc', 'num_ceps': 30}, 'expected 1 to the number of mel bins, 23'),
    ({'statistics': 'esc-50'}, "Did you mean 'esc50'"),
    ({'statistics': 'esc50', 'num_mel_bins': 64}, 'with 128 bins at 16000 Hz, not for kaldi_fbank'),
    ({'name': 'whisper', 'statistics': 'audioset'}, 'not for whisper with 80 bins'),
  ],
)
def test_mistakes_get_a_sentence(values, message):
  with pytest.raises(InputError, match=message):
    Frontend.from_dict(values)
