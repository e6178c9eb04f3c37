"""Utterance mixing: against the published loop in NumPy, by distribution, on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from research.errors import InputError
from research.features import augment, mixing


def clips(lengths, samples, seed=0):
  """Clips with very different powers, NaN behind their ends."""
  rng = np.random.default_rng(seed)
  audio = np.full((len(lengths), samples), np.nan, np.float32)
  for row, n in enumerate(lengths):
    audio[row, :n] = rng.normal(0.1, rng.uniform(0.01, 1.0), n)
  mask = np.arange(samples) < np.array(lengths)[:, None]
  return audio, mask


def loop(audio, mask, draws, noise=None, noise_mask=None):
  """The published steps, row by row, each clip cut to its real samples."""
  rows = [row[m].astype(np.float64) for row, m in zip(audio, mask)]
  for i in range(len(rows)):
    if not draws.mixed[i]:
      continue
    if draws.noisy[i]:
      other = noise[i][noise_mask[i]].astype(np.float64)
    else:
      other = rows[draws.partner[i]].copy()
    ours, theirs = (np.mean(x**2) if len(x) else 0.0 for x in (rows[i], other))
    scale = np.sqrt(ours / (theirs * 10 ** (draws.snr[i] / 10))) if theirs else 0.0
    n, source, target = draws.length[i], draws.source[i], draws.target[i]
    rows[i][target : target + n] += scale * other[source : source + n]
  out = audio.copy()
  for row, m, values in zip(out, mask, rows):
    row[m] = values
  return out


def drawn(seed, sizes, noise_sizes, prob=0.8, noise_prob=0.3, divisor=2):
  """Draws by NumPy, with many mixed rows, for long chains."""
  rng, b = np.random.default_rng(seed), len(sizes)
  mixed, noisy = rng.random(b) < prob, rng.random(b) < noise_prob
  partner = rng.integers(0, b, b)
  there = np.where(noisy, noise_sizes, np.array(sizes)[partner])
  length = np.minimum(rng.integers(0, np.array(sizes) // divisor + 1), there)
  source = rng.integers(0, there - length + 1)
  target = rng.integers(0, sizes - length + 1)
  snr = rng.uniform(-5, 20, b).astype(np.float32)
  whole = (x.astype(np.int32) for x in (partner, length, source, target))
  partner, length, source, target = whole
  return mixing.Draws(mixed, noisy, partner, snr, length, source, target)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('padded', [False, True])
def test_explicit_draws_give_what_the_loop_gives(seed, padded):
  rng = np.random.default_rng(seed)
  sizes = rng.integers(0, 301, 24) if padded else np.full(24, 300)
  noise_sizes = rng.integers(0, 301, 24) if padded else np.full(24, 300)
  audio, mask = clips(sizes, 300, seed)
  noise, noise_mask = clips(noise_sizes, 300, seed + 100)
  noise[3, noise_mask[3]] = 0.0  # silence
  draws = drawn(seed, sizes, noise_sizes)
  want = loop(audio, mask, draws, noise, noise_mask)
  assert np.nanmax(np.abs(want - audio)) > 0.1
  for function in (mixing.mix_stretches, jax.jit(mixing.mix_stretches)):
    got = np.asarray(function(audio, mask, draws, noise, noise_mask))
    np.testing.assert_allclose(got, want, atol=2e-5, rtol=2e-5)  # float32 against float64
  np.testing.assert_array_equal(np.isnan(got), ~mask)
  same = ~draws.mixed | (draws.length == 0)
  np.testing.assert_array_equal(got[same], audio[same])


def test_a_chain_of_mixed_rows_is_followed_to_its_end():
  audio, mask = clips([40] * 6, 40)
  audio -= 0.1
  zeros = np.zeros(6, np.int32)
  # Row 1 takes from row 0, row 2 from the mixed row 1, …; row 0 takes from the unmixed row 5.
  draws = mixing.Draws(
    mixed=np.ones(6, bool),
    noisy=np.zeros(6, bool),
    partner=np.array([5, 0, 1, 2, 3, 4], np.int32),
    snr=np.zeros(6, np.float32),
    length=np.full(6, 40, np.int32),
    source=zeros,
    target=zeros,
  )
  want = loop(audio, mask, draws)
  np.testing.assert_allclose(mixing.mix_stretches(audio, mask, draws), want, atol=1e-5)
  # A row may be its own partner.
  itself = draws._replace(partner=np.arange(6, dtype=np.int32))
  np.testing.assert_allclose(mixing.mix_stretches(audio, mask, itself), 2 * audio, atol=1e-6)


def test_silent_and_empty_rows():
  audio, mask = clips([30, 30, 0, 30], 30)
  audio[1] = 0.0
  draws = drawn(0, [30, 30, 0, 30], [0] * 4)._replace(
    mixed=np.ones(4, bool),
    noisy=np.zeros(4, bool),
    partner=np.array([1, 0, 3, 2], np.int32),
  )
  got = np.asarray(mixing.mix_stretches(audio, mask, draws))
  np.testing.assert_array_equal(got, audio)  # nothing to add, and nothing to add to


@pytest.fixture(scope='module')
def many():
  audio = np.random.default_rng(0).normal(0, 0.1, (3000, 64)).astype(np.float32)
  mask = np.ones(audio.shape, bool)
  mask[::2, 48:] = False
  noise, noise_mask = audio[::-1].copy(), np.arange(64) < 40
  return {
    'audio': audio,
    'audio_mask': mask,
    'noise': noise,
    'noise_mask': np.broadcast_to(noise_mask, mask.shape),
    'units': np.arange(3000, dtype=np.int32)[:, None],
  }


def test_draws_have_the_published_distribution(many):
  size = many['audio_mask'].sum(axis=1)
  draws = mixing.draw(
    jax.random.key(0),
    size,
    many['noise_mask'].sum(axis=1),
    prob=0.2,
    noise_prob=0.1,
    snr=(-5.0, 5.0),
    noise_snr=(-5.0, 20.0),
    divisor=2,
  )
  draws = mixing.Draws(*map(np.asarray, draws))
  np.testing.assert_allclose([draws.mixed.mean(), draws.noisy.mean()], [0.2, 0.1], atol=0.02)
  for chosen, high in ((~draws.noisy, 5.0), (draws.noisy, 20.0)):
    snr = draws.snr[chosen]
    assert -5 <= snr.min() < -4.8 and high - 0.3 < snr.max() < high
    np.testing.assert_allclose(snr.mean(), (high - 5) / 2, atol=1.0)
  # Draws reach both ends of the range and stay within it.
  there = np.where(draws.noisy, 40, size[draws.partner])
  for of, n in ((64, 32), (48, 24)):
    assert draws.length[size == of].min() == 0 and draws.length[size == of].max() == n
    np.testing.assert_allclose(draws.length[size == of].mean(), n / 2, atol=1.0)
  for place, room in ((draws.source, there), (draws.target, size)):
    assert (place >= 0).all() and (place + draws.length <= room).all()
    assert (place == 0).any() and (place + draws.length == room).any()
  assert len(np.unique(draws.partner)) > 1800 and draws.partner.max() > 2990


@pytest.mark.slow
def test_a_batch_is_mixed(many):
  def changed(**args):
    mix = functools.partial(mixing.mix_utterances, **args)
    out = jax.jit(mix)(jax.random.key(1), many)
    assert out.keys() == many.keys()
    for name in many.keys() - {'audio'}:
      np.testing.assert_array_equal(out[name], many[name])
    difference = np.asarray(out['audio']) - many['audio']
    assert not difference[~many['audio_mask']].any()
    return difference

  # Lengths of 0 to 32 or 24 samples: three percent of stretches are empty.
  assert abs(changed().any(axis=1).mean() - 0.2 * 0.965) < 0.02
  assert not changed(prob=0.0).any()
  assert changed(prob=1.0, divisor=1).any(axis=1).mean() > 0.95
  # Noise only, at a fixed ratio: the interference has the requested power.
  difference = changed(prob=1.0, noise_prob=1.0, noise_snr=[10.0, 10.0])
  powers = [np.mean(x[m] ** 2) for x, m in zip(many['audio'], many['audio_mask'])]
  touched = difference != 0
  power = (difference**2).sum(axis=1)[touched.any(axis=1)] / touched.sum(1)[touched.any(axis=1)]
  ratio = 10 * np.log10(np.mean(np.array(powers)) / np.mean(power))
  np.testing.assert_allclose(ratio, 10.0, atol=0.3)
  keys = [jax.random.key(seed) for seed in (0, 0, 1)]
  a, b, c = (np.asarray(mixing.mix_utterances(key, many)['audio']) for key in keys)
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()


@pytest.mark.slow
@pytest.mark.parametrize('noise_prob', [0.0, 0.5])
def test_devices_give_what_one_gives(noise_prob):
  audio, mask = clips([200, 150, 90, 200] * 8, 200)
  noise, noise_mask = clips([120] * 32, 200, 1)
  batch = {'audio': audio, 'audio_mask': mask, 'noise': noise, 'noise_mask': noise_mask}
  mix = jax.jit(functools.partial(mixing.mix_utterances, prob=0.9, noise_prob=noise_prob))
  mesh = Mesh(np.asarray(jax.devices()), ('data',))
  spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data')))
  one, all_of_them = mix(jax.random.key(3), batch)['audio'], mix(jax.random.key(3), spread)['audio']
  assert len(all_of_them.sharding.device_set) == 8
  assert np.nanmax(np.abs(np.asarray(one) - audio)) > 0.1
  np.testing.assert_allclose(one, all_of_them, atol=1e-6)


def test_half_precision_stays():
  audio, mask = clips([50, 50], 50)
  batch = {'audio': jnp.asarray(audio, jnp.bfloat16), 'audio_mask': mask}
  out = mixing.mix_utterances(jax.random.key(0), batch, prob=1.0)['audio']
  assert out.dtype == jnp.bfloat16 and np.isfinite(np.asarray(out, np.float32)).all()


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ({'prob': 20.0}, 'has prob 20'),
    ({'noise_prob': -0.1}, 'has noise_prob -0.1'),
    ({'noise_prob': 0.1}, r'holds no noise: set config\.data\.fields\.noise'),
    ({'snr': [5.0, -5.0]}, 'two numbers in dB'),
    ({'noise_snr': [5.0]}, 'two numbers in dB'),
    ({'divisor': 0}, 'has divisor 0'),
  ],
)
def test_mistakes_get_a_sentence(args, message):
  audio, mask = clips([20, 20], 20)
  with pytest.raises(InputError, match=message):
    augment.AUGMENTATIONS['mix_utterances'](
      jax.random.key(0), {'audio': audio, 'audio_mask': mask}, **args
    )
