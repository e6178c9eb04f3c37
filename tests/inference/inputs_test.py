"""`Pretrained.embed`: what goes in, what comes out, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research.errors import InputError
from research.models.byol_a import ByolA
from research.weights import Pretrained
from tests.contract import wave
from tests.weights.weights_test import pretrained


@pytest.fixture(scope='module')
def model():
  return pretrained(padding='masked')


def test_shapes_and_order(model):
  clips = [wave(i, n) for i, n in enumerate((9000, 3000, 20000, 5000))]
  together = model.embed(clips, 16_000, batch_size=3)
  assert together.shape == (4, 32) and together.dtype == np.float32
  for clip, want in zip(clips, together):
    np.testing.assert_allclose(model.embed(clip, 16_000), want, atol=2e-5)
  stacked = model.embed(np.stack([clips[1], clips[2][:3000]]), 16_000, layers='all')
  assert stacked.shape == (2, 3, 32)
  tokens = model.embed(clips, 16_000, pool='none')
  # 8 tokens for each started row of 16 frames: 54, 17, 123 and 29 frames.
  assert [t.shape for t in tokens] == [(32, 32), (16, 32), (64, 32), (16, 32)]
  np.testing.assert_allclose(tokens[2].mean(0), together[2], atol=1e-5)
  every = model.embed(clips[0], 16_000, layers='all', pool='none')
  assert every.shape == (3, 32, 32)
  np.testing.assert_array_equal(every[1], model.embed(clips[0], 16_000, layers=1, pool='none'))


@pytest.mark.slow
def test_poolings_are_of_the_tokens(model):
  clips = [wave(i, n) for i, n in enumerate((9000, 3000))]
  tokens = model.embed(clips, 16_000, pool='none')
  for pool, by_hand in {
    'max': lambda t: t.max(0),
    'mean+max': lambda t: t.mean(0) + t.max(0),
    'mean_std': lambda t: np.concatenate([t.mean(0), t.std(0)]),
  }.items():
    got = model.embed(clips, 16_000, pool=pool)
    np.testing.assert_allclose(got, [by_hand(t) for t in tokens], atol=2e-5)


@pytest.mark.slow
def test_byol_a_is_pooled_as_published():
  net = ByolA(
    size='v1_d512', hidden=8, width=8, channels=4, projection=0, norm='frontend',
    frontend=dict(mean=-5.0, std=5.0),
  )  # fmt: skip
  clip = wave(0, 16_000)
  samples = jnp.asarray(clip)[None], jnp.ones((1, 16_000), bool)
  variables = jax.device_get(net.init(jax.random.key(0), *samples, method='embed'))
  loaded = Pretrained('byol_a', net, variables, 'random, for tests')
  frames = loaded.embed(clip, 16_000, pool='none')
  assert frames.shape == (12, 8)  # 101 frames, one token for eight
  want = frames.mean(0) + frames.max(0)
  np.testing.assert_allclose(loaded.embed(clip, 16_000), want, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
    loaded.embed(clip, 16_000, pool='mean'), frames.mean(0), rtol=1e-5, atol=1e-5
  )


def test_files_and_rates(model, tmp_path):
  clip = wave(0, 16_000)
  soundfile.write(tmp_path / 'a.wav', clip, 16_000, subtype='FLOAT')
  soundfile.write(tmp_path / 'b.flac', np.stack([clip, clip], 1), 16_000)
  want = model.embed(clip, 16_000)
  np.testing.assert_allclose(model.embed(tmp_path / 'a.wav'), want, atol=1e-6)
  both = model.embed([tmp_path / 'a.wav', str(tmp_path / 'b.flac')])
  np.testing.assert_allclose(both[1], want, atol=2e-3)
  # The same sound at twice the rate: resampled, not taken at the wrong speed.
  t = np.arange(32_000) / 32_000
  slow, fast = (np.sin(2 * np.pi * 440 * x).astype(np.float32) for x in (t[::2], t))
  right, wrong = model.embed(fast, 32_000), model.embed(fast, 16_000)
  want = model.embed(slow, 16_000)
  assert np.abs(right - want).max() < 0.1 * np.abs(wrong - want).max()


@pytest.mark.parametrize(
  'args, kwargs, message',
  [
    ((wave(0, 4000),), {}, 'without sample_rate'),
    ((wave(0, 300), 16_000), {}, r'clip 0 is too short: 300 samples at 16000 Hz.*400 \(25 ms\)'),
    (([wave(0, 4000), np.full(4000, np.nan, np.float32)], 16_000), {}, 'clip 1 holds samples'),
    ((wave(0, 4000), 16_000), {'layers': 3}, r"layers 0 \(stem\) to 2 .*'last' and 'all'"),
    ((wave(0, 4000), 16_000), {'pool': 'middle'}, "Unknown pooling 'middle'"),
    ((np.zeros((2, 2, 800), np.float32), 16_000), {}, r'expected float samples \[t\]'),
    (('no_such.wav',), {}, 'no_such.wav'),
    ((wave(0, 4000), float('nan')), {}, 'sample_rate is nan'),
    ((wave(0, 4000), 0), {}, 'sample_rate is 0'),
    ((np.zeros((4000, 2), np.float32), 16_000), {}, r'looks like \[samples, channels\]'),
    ((32768 * wave(0, 4000), 16_000), {}, 'divide 16-bit integers by 32768'),
  ],
  ids=lambda x: x if isinstance(x, str) else '',
)
def test_what_is_refused(model, args, kwargs, message):
  with pytest.raises(InputError, match=message):
    model.embed(*args, **kwargs)


def test_a_rate_beside_a_path_is_refused(model, tmp_path):
  """A file has its own: another one would be ignored, or wrong."""
  soundfile.write(tmp_path / 'a.wav', wave(0, 9000), 16_000)
  for given in (tmp_path / 'a.wav', [str(tmp_path / 'a.wav')]):
    with pytest.raises(InputError, match='sample_rate=8000 was given with a path'):
      model.embed(given, 8000)
    assert np.isfinite(model.embed(given)).all()
