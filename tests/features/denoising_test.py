"""Classic removal of noise: what is left of noise, of speech, and of silence."""

import functools

import jax
import numpy as np
import pytest

from research.features import denoising
from research.metrics.separation import si_sdr

RATE = 16_000
METHODS = {
  name: jax.jit(functools.partial(method, sample_rate=RATE))
  for name, method in denoising.METHODS.items()
}


def bursts(seconds=2.0, seed=0):
  """(a voice with pauses, white noise)."""
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * RATE)) / RATE
  voice = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 12))
  voice *= np.sin(2 * np.pi * 1.5 * t) > 0
  return 0.1 * voice.astype(np.float32), 0.05 * rng.standard_normal(len(t)).astype(np.float32)


@pytest.mark.parametrize('method', METHODS)
def test_less_noise_and_no_number_that_is_none(method):
  """Around digital silence, in which tracked noise would become 0, and with NaN behind a clip."""
  voice, noise = bursts()
  quiet = np.zeros(5 * RATE, np.float32)
  noisy = voice + noise
  whole = np.concatenate([noisy, quiet, noisy])
  nothing = np.full(len(whole) - len(noisy), np.nan, np.float32)
  audio = np.stack([np.concatenate([noisy, nothing]), whole])
  mask = np.arange(len(whole)) < np.array([[len(noisy)], [len(whole)]])
  alone, behind = np.asarray(METHODS[method](audio, mask))
  assert np.isfinite(alone).all() and np.isfinite(behind).all()
  silent = slice(len(noisy) + 512, len(noisy) + len(quiet) - 512)
  assert not alone[len(noisy) :].any() and np.abs(behind[silent]).max() < 1e-4
  before, after = si_sdr(noisy, voice), si_sdr(alone[: len(noisy)], voice)
  assert after > before + 2
  pauses = voice == 0
  left = np.square(alone[: len(noisy)][pauses]).mean() / np.square(noise[pauses]).mean()
  assert left < 0.3
