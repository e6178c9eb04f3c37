"""Augmentations: explicit draws against NumPy, random draws by their distributions."""

import jax
import numpy as np
import pytest

from research.errors import InputError
from research.features import augment


def clips(lengths: list[int], samples: int) -> dict[str, np.ndarray]:
  rng = np.random.RandomState(0)
  audio = np.full((len(lengths), samples), np.nan, np.float32)
  for row, n in enumerate(lengths):
    audio[row, :n] = rng.randn(n) + row % 3
  return {'audio': audio, 'audio_mask': ~np.isnan(audio), 'id': np.arange(len(lengths))}


@pytest.mark.slow
def test_the_table_names_batch_functions():
  alone = {'gain', 'speed', 'mixup', 'mix_utterances', 'mix_sources'}
  # These add sources, or read them or noise: tests/models/separating_test.py.
  mixing = {'add_noise', 'remix_noise', 'mix_speakers', 'reverberate'}
  assert set(augment.AUGMENTATIONS) == alone | mixing
  for function in (augment.AUGMENTATIONS[name] for name in sorted(alone)):
    batch = clips([5, 3], 6)
    out = function(jax.random.key(0), batch)
    assert out.keys() == batch.keys() and out['audio'].shape == (2, 6)
    if function is not augment.speed:
      np.testing.assert_array_equal(out['audio_mask'], batch['audio_mask'])


def test_gain():
  batch = clips([50, 20], 50)
  got = np.asarray(augment.apply_gain(batch['audio'], np.array([0.5, 2.0], np.float32)))
  np.testing.assert_array_equal(got[1, :20], 2 * batch['audio'][1, :20])

  many = {'audio': np.ones((4000, 1), np.float32), 'audio_mask': np.ones((4000, 1), bool)}
  drawn = np.asarray(jax.jit(augment.gain)(jax.random.key(1), many)['audio'])[:, 0]
  assert drawn.min() >= 0.5 and drawn.max() <= 1.5
  # Beta(10, 10) has mean 1/2 and variance 1/84.
  np.testing.assert_allclose([drawn.mean(), drawn.var()], [1.0, 1 / 84], atol=1e-2)


def sines(hertz: list[float], lengths: list[int], samples: int) -> dict[str, np.ndarray]:
  time = np.arange(samples) / 16_000
  mask = np.arange(samples) < np.array(lengths)[:, None]
  audio = np.sin(2 * np.pi * np.array(hertz)[:, None] * time).astype(np.float32)
  return {'audio': np.where(mask, audio, np.float32(np.nan)), 'audio_mask': mask}


@pytest.mark.slow
@pytest.mark.parametrize('factor', [0.8, 1.0, 1.25, 1.9])
def test_speed_moves_pitch_and_length(factor):
  given = sines([300.0, 2000.0], [4000, 3000], 5200)
  factors = np.full(2, factor, np.float32)
  audio, mask = augment.change_speed(given['audio'], given['audio_mask'], factors)
  lengths = [round(n / factor) for n in (4000, 3000)]
  np.testing.assert_array_equal(np.asarray(mask).sum(1), lengths)
  want = sines([300.0 * factor, 2000.0 * factor], lengths, 5200)['audio']
  for row, n in enumerate(lengths):
    assert not np.asarray(audio)[row, n:].any()
    # Samples near the edges are affected by the filter.
    np.testing.assert_allclose(audio[row, 30 : n - 30], want[row, 30 : n - 30], atol=5e-3)
  if factor == 1.0:
    np.testing.assert_allclose(audio[0, :4000], given['audio'][0, :4000], atol=1e-6)


def test_speed_does_not_alias():
  given = sines([7400.0], [5000], 5000)  # 11.1 kHz at 1.5 times the speed: above half the rate
  audio, _ = augment.change_speed(given['audio'], given['audio_mask'], np.array([1.5], np.float32))
  assert np.abs(audio[0, 30:3300]).max() < 0.02


def test_clips_are_slowed_as_far_as_they_fit():
  given = sines([300.0, 300.0, 300.0], [5000, 4500, 2000], 5000)
  half = np.full(3, 0.5, np.float32)
  audio, mask = augment.change_speed(given['audio'], given['audio_mask'], half)
  np.testing.assert_array_equal(np.asarray(mask).sum(1), [5000, 5000, 4000])
  np.testing.assert_allclose(audio[0], given['audio'][0], atol=1e-6)


def test_speeds_are_drawn_for_each_clip():
  given = sines([300.0] * 400, [500] * 400, 1000)
  out = jax.jit(lambda key: augment.speed(key, given, low=0.8, high=1.25))(jax.random.key(0))
  drawn = 500 / np.asarray(out['audio_mask']).sum(1)
  assert 0.798 < drawn.min() < 0.82 and 1.22 < drawn.max() < 1.253
  np.testing.assert_allclose(np.log(drawn).mean(), 0.0, atol=0.02)
  assert np.isfinite(np.asarray(out['audio'])).all()
  for low, high in ((1.1, 0.9), (0.3, 1.0), (1.0, 3.0)):
    with pytest.raises(InputError, match='speed has low'):
      augment.speed(jax.random.key(0), given, low=low, high=high)


def test_mix_by_hand():
  batch = clips([6, 4, 8], 8)
  audio, mask = batch['audio'], batch['audio_mask']
  order = [1, 2, 0]  # a longer clip takes a shorter partner, and the other way round
  weight = np.array([0.25, 0.5, 0.8], np.float32)
  got = augment.mix_waveforms(audio, mask, audio[order], mask[order], weight)
  for row, (n, partner, w) in enumerate(zip([6, 4, 8], order, weight)):
    first, second = audio[row][mask[row]], audio[partner][mask[partner]]
    first, second = first - first.mean(), second - second.mean()
    second = np.pad(second, (0, 8))[:n]
    want = w * first + (1 - w) * second
    np.testing.assert_allclose(got[row, :n], want - want.mean(), atol=1e-6)
    assert not np.asarray(got[row, n:]).any()


def test_mixed_labels_sum_where_both_have_them():
  label = np.array([[1, 1, 0], [0, 1, 1]], np.float32)
  got = augment.mix_labels(label, label[::-1], np.array([0.3, 0.6], np.float32))
  np.testing.assert_allclose(got, [[0.3, 1.0, 0.7], [0.4, 1.0, 0.6]], atol=1e-6)


def test_mixup_of_a_batch():
  batch = clips([40, 30, 40, 20], 40) | {'label': np.eye(4, dtype=np.float32)}
  out = jax.jit(augment.mixup, static_argnames='rate')(jax.random.key(0), batch, rate=1.0)
  label = np.asarray(out['label'])
  np.testing.assert_allclose(label.sum(axis=1), 1, atol=1e-6)
  weight = np.diag(label)
  assert ((weight > 0) & (weight < 1)).all()
  # The partner is the previous clip.
  np.testing.assert_allclose(label[np.arange(4), np.arange(4) - 1], 1 - weight, atol=1e-6)
  audio, mask = batch['audio'], batch['audio_mask']
  want = augment.mix_waveforms(
    audio, mask, np.roll(audio, 1, axis=0), np.roll(mask, 1, axis=0), weight.astype(np.float32)
  )
  np.testing.assert_allclose(out['audio'], want, atol=1e-6)


def test_mixup_rate():
  batch = clips([8] * 2000, 8) | {'label': np.arange(2000, dtype=np.int32) % 2}
  for rate in (0.0, 0.5, 1.0):
    out = augment.mixup(jax.random.key(2), batch, rate=rate, num_classes=2)
    mixed = (np.asarray(out['label']) < 1).all(axis=1)
    np.testing.assert_allclose(mixed.mean(), rate, atol=0.05)
  untouched = augment.mixup(jax.random.key(2), batch, rate=0.0, num_classes=2)
  means = batch['audio'].mean(axis=1, keepdims=True)
  np.testing.assert_allclose(untouched['audio'], batch['audio'] - means, atol=1e-4)
  np.testing.assert_array_equal(untouched['label'], np.eye(2)[batch['label']])


def test_mixup_mistakes_get_a_sentence():
  batch = clips([8, 8], 8) | {'label': np.zeros(2, np.int32)}
  with pytest.raises(InputError, match='give num_classes'):
    augment.mixup(jax.random.key(0), batch)
  with pytest.raises(InputError, match='rate of mixup is 50'):
    augment.mixup(jax.random.key(0), batch, rate=50, num_classes=2)


def test_spec_augment_by_hand():
  x = np.ones((2, 20, 10), np.float32)
  draws = np.array([[0.5, 0.5, 0.45, 0.9], [0.1, 0.0, 0.0, 0.0]], np.float32)
  got = np.asarray(augment.spec_augment(x, draws, freq=8, time=10))
  # Width 4 of 10 from int(0.5 * 6) = 3; width 4.5 of 20 from int(0.9 * 15.5) = 13.
  want = np.ones((20, 10), np.float32)
  want[:, 3:7] = 0
  want[13:17] = 0
  np.testing.assert_array_equal(got[0], want)
  # A width below one bin masks nothing.
  np.testing.assert_array_equal(got[1], x[1])


def test_random_spec_augment_draws_for_each_clip():
  x = np.ones((500, 64, 32), np.float32)
  run = jax.jit(augment.random_spec_augment, static_argnames=('freq', 'time'))
  got = np.asarray(run(jax.random.key(0), x, freq=8, time=16))
  width_f = (got == 0).all(axis=1).sum(axis=1)
  width_t = (got == 0).all(axis=2).sum(axis=1)
  assert width_f.max() <= 7 and width_t.max() <= 15
  # int(U * 8) and int(U * 16) are uniform on 0..7 and 0..15.
  np.testing.assert_allclose([width_f.mean(), width_t.mean()], [3.5, 7.5], atol=0.5)
  assert len(np.unique(width_t)) == 16
  np.testing.assert_array_equal(got, run(jax.random.key(0), x, freq=8, time=16))
  np.testing.assert_array_equal(run(jax.random.key(0), x, freq=0, time=0), x)


def test_noise_and_roll_by_hand():
  rng = np.random.RandomState(0)
  x, noise = rng.randn(3, 12, 4).astype(np.float32), rng.rand(3, 12, 4).astype(np.float32)
  scale, shift = np.array([0.0, 0.5, 1.0], np.float32), np.array([0, 3, -10], np.int32)
  got = augment.noise_and_roll(x, noise, scale, shift)
  for row in range(3):
    want = np.roll(x[row] + noise[row] * scale[row] / 10, shift[row], axis=0)
    np.testing.assert_allclose(got[row], want, atol=1e-6)
