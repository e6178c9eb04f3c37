"""Conv-TasNet and GCRN: causality, objectives of their signals, mixing on the device. Published
numbers of parameters are in the experiments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.features import augment, rooms
from research.metrics import separation
from research.objectives import signals
from tests.contract import wave


@pytest.mark.slow
def test_causal_frames_do_not_depend_on_later_ones():
  audio = np.stack([wave(0, 900), wave(1, 900)])
  for name, args, reach in (
    ('conv_tasnet', dict(size='tiny', causal=True), 16),
    ('gcrn', dict(size='tiny', channels=(4,), n_fft=32, hop=16, groups=1), 32),
  ):
    model = models.get(name)(**args)
    batch = {'audio': audio, 'audio_mask': np.ones(audio.shape, bool)}
    variables = model.init(jax.random.key(0), batch)

    def call(x, model=model, variables=variables, batch=batch):
      return jax.jit(model.apply)(variables, batch | {'audio': x})['estimates']

    later = audio.copy()
    later[:, 500:] *= -2.0
    first, second = call(audio), call(later)
    np.testing.assert_allclose(first[..., : 500 - reach], second[..., : 500 - reach], atol=1e-5)
    assert np.abs(first - second)[..., 500:].max() > 1e-3


def test_objectives_find_the_order_and_the_ratio():
  rng = np.random.default_rng(0)
  sources = rng.standard_normal((2, 2, 800)).astype(np.float32)
  estimates = sources + 0.3 * rng.standard_normal(sources.shape).astype(np.float32)
  estimates[0] = estimates[0, ::-1]
  mask = np.arange(800) < np.array([800, 500])[:, None]
  batch = {'audio': sources.sum(axis=1), 'audio_mask': mask, 'sources': sources}
  batch |= {'sources': np.where(mask[:, None], sources, np.nan)}
  loss, metrics = signals.negative_si_sdr({'estimates': jnp.asarray(estimates)}, batch)
  pairs = [(estimates[0, ::-1], sources[0]), (estimates[1, :, :500], sources[1, :, :500])]
  want = np.mean([separation.si_sdr(e, s) for e, s in pairs])
  assert (
    float(-loss)
    == pytest.approx(want, abs=1e-3)
    == pytest.approx(float(metrics['si_sdr']), abs=1e-3)
  )
  before = np.mean([separation.si_sdr(s.sum(0), s) for _, s in pairs])
  assert float(metrics['si_sdr_improvement']) == pytest.approx(want - before, abs=1e-3)
  how = dict(n_fft=64, hop=32, power=0.3, magnitude=1.0)
  same = np.where(mask[:, None], sources, 0.0)[:, ::-1]
  best, _ = signals.compressed_spectra({'estimates': jnp.asarray(same)}, batch, **how)
  other, _ = signals.compressed_spectra({'estimates': jnp.asarray(estimates)}, batch, **how)
  assert float(best) < 1e-6 < 0.01 < float(other)
  with pytest.raises(InputError, match=r'config\.model\.args\.signals'):
    signals.negative_si_sdr({'estimates': jnp.zeros((2, 1, 800))}, batch)


@pytest.mark.slow
def test_mixtures_on_the_device_have_the_drawn_ratios():
  audio = np.stack([wave(i, 4000) for i in range(4)])
  mask = np.arange(4000) < np.array([4000, 4000, 3000, 0])[:, None]
  noise_mask = np.arange(4000) < np.array([4000, 700, 700, 700])[:, None]
  noise = np.random.default_rng(0).standard_normal((4, 4000)).astype(np.float32)
  batch = {
    'audio': np.where(mask, audio, np.nan), 'audio_mask': mask,
    'noise': np.where(noise_mask, noise, np.nan), 'noise_mask': noise_mask,
  }  # fmt: skip
  key = jax.random.key(0)

  def ratios(out):
    out = {k: np.asarray(out[k]) for k in ('audio', 'sources')}
    assert all(np.isfinite(x).all() for x in out.values())
    clean = out['sources'].sum(axis=1)[:3]
    return 10 * np.log10(np.square(clean).sum(1) / np.square(out['audio'][:3] - clean).sum(1))

  how = dict(snr=(3.0, 3.0), level=(-6.0, 6.0))
  noisy = jax.jit(lambda b: augment.add_noise(key, b, **how))(batch)
  np.testing.assert_allclose(ratios(noisy), 3.0, atol=1e-3)
  assert not np.allclose(np.asarray(noisy['sources'])[:3, 0], np.where(mask, audio, 0)[:3])
  again = augment.remix_noise(jax.random.key(3), noisy, snr=(9.0, 9.0))
  moved = ratios(again)
  assert np.isclose(moved, 9.0, atol=1e-3).sum() >= 2  # silent noise adds nothing
  spoken = augment.mix_speakers(key, batch, count=2, ratio=(5.0, 5.0))
  parts = np.asarray(spoken['sources'])
  np.testing.assert_allclose(parts.sum(1), spoken['audio'], atol=1e-6)
  assert 10 * np.log10(
    np.square(parts[1, 0]).sum() / np.square(parts[1, 1]).sum()
  ) == pytest.approx(5)
  # The room: a pulse becomes the response; what is late is not in the sources.
  drawn = rooms.response(
    jax.random.normal(key, (2, 8000)), np.array([0.2, 0.4]), np.array([0.0, 6.0]), 16_000
  )
  energy = np.square(drawn[:, 1:]).sum(axis=1)
  np.testing.assert_allclose(-10 * np.log10(energy), [0.0, 6.0], atol=1e-3)
  edges = np.square(drawn[0]).reshape(-1, 800).sum(axis=1)
  assert 10 * np.log10(edges[1] / edges[2]) == pytest.approx(60 * 0.05 / 0.2, abs=2)
  pulse = np.zeros((2, 8000), np.float32)
  pulse[:, 100] = 1.0
  room = augment.reverberate(
    key, {'audio': pulse, 'audio_mask': np.ones(pulse.shape, bool)}, prob=1.0
  )
  late = np.asarray(room['audio'] - room['sources'][:, 0])
  assert np.abs(late[:, : 100 + 800]).max() < 1e-5 < np.abs(late[:, 900:]).max()
  measured = {
    'field': np.roll(np.asarray(drawn), 50, axis=1) * 0.1,
    'field_mask': np.ones(drawn.shape, bool),
  }
  own = augment.reverberate(
    key, {'audio': pulse, 'audio_mask': np.ones(pulse.shape, bool), **measured}, prob=1.0,
    t60=(0.1, 0.5), responses='field',
  )  # fmt: skip
  np.testing.assert_allclose(own['audio'][:, 100:7000], drawn[:, :6900], atol=1e-5)
