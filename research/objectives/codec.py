"""How near the audio of a codec is to what it was made of: waveforms and mel spectra of several
window lengths (EnCodec, arXiv 2210.13438, §3.4; figures as in audiocraft's losses/specloss.py).

Letters: b clips, t samples, a channels, r = b a rows, n frames, f mel bins.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

FLOOR = 1e-5  # below the logarithm


def _window(size: int) -> np.ndarray:
  """The periodic Hann window."""
  return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)


def _bank(sample_rate: int, n_fft: int, bins: int, f_min: float) -> np.ndarray:
  """Triangles of height 1 over Hz, on HTK's mel scale [n_fft // 2 + 1, bins]; an objective imports
  nothing of ours, so `features.filters` has them as well."""
  low, high = (2595.0 * np.log10(1.0 + f / 700.0) for f in (f_min, sample_rate / 2))
  edges = 700.0 * (10.0 ** (np.linspace(low, high, bins + 2) / 2595.0) - 1.0)
  slopes = edges - np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)[:, None]
  width = np.diff(edges)
  bank = np.minimum(-slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:])
  return np.maximum(bank, 0.0).astype(np.float32)


def _frames(x: Float[Array, 'r t'], n_fft: int, hop: int) -> Float[Array, 'r n m']:
  """Frames of rows that are mirrored by (n_fft - hop) / 2 at both ends, the last one filled up
  with zeros."""
  side = (n_fft - hop) // 2
  t = x.shape[1]
  if t <= side:
    x = jnp.pad(x, ((0, 0), (0, side + 1 - t)))
  x = jnp.pad(x, ((0, 0), (side, side)), mode='reflect')
  count = -(-max(x.shape[1] - n_fft, 0) // hop) + 1
  x = jnp.pad(x, ((0, 0), (0, (count - 1) * hop + n_fft - x.shape[1])))
  return x[:, hop * np.arange(count)[:, None] + np.arange(n_fft)]


def mel_spectrum(
  x: Float[Array, 'r t'], *, sample_rate: int, n_fft: int, hop: int, bins: int = 64,
  f_min: float = 0.0, normalized: bool = False,
) -> Float[Array, 'r n f']:  # fmt: skip
  """Mel powers (HTK's scale, triangles of height 1), Hann windows of n_fft samples.

  Args:
    x: rows of samples.
    sample_rate: Hz.
    n_fft, hop: samples of a frame, and from frame to frame.
    bins, f_min: mel bins, and Hz where the first begins.
    normalized: divides spectra by the root of the window's energy.
  """
  window = _window(n_fft)
  spectra = jnp.fft.rfft(_frames(x.astype(jnp.float32), n_fft, hop) * window)
  power = jnp.square(spectra.real) + jnp.square(spectra.imag)
  if normalized:
    power = power / np.float32(np.square(window).sum())
  bank = _bank(sample_rate, n_fft, bins, f_min)
  return jnp.einsum('rnm,mf->rnf', power, bank, precision='highest')


def mean_over(x: Float[Array, 'r n *c'], real: Bool[Array, 'r n']) -> Float[Array, '']:
  """Mean of the values of real frames."""
  weight = real.astype(jnp.float32).reshape(*real.shape, *[1] * (x.ndim - 2))
  each = x.size // max(real.size, 1)
  return (x * weight).sum() / jnp.maximum(weight.sum() * each, 1.0)


def _real(lengths: Int[Array, ' r'], frames: int, hop: int) -> Bool[Array, 'r n']:
  """Frames of rows that start within them."""
  return jnp.arange(frames) * hop < lengths[:, None]


def mel_l1(
  x: Float[Array, 'r t'], y: Float[Array, 'r t'], lengths: Int[Array, ' r'], *,
  sample_rate: int, n_fft: int = 1024, hop: int = 256, bins: int = 64, f_min: float = 64.0,
) -> Float[Array, '']:  # fmt: skip
  """Mean |log10 mel(x) - log10 mel(y)|."""
  how = dict(sample_rate=sample_rate, n_fft=n_fft, hop=hop, bins=bins, f_min=f_min)
  a, b = (jnp.log10(FLOOR + mel_spectrum(each, **how)) for each in (x, y))  # type: ignore[arg-type]
  return mean_over(jnp.abs(a - b), _real(lengths, a.shape[1], hop))


def mel_scales(
  x: Float[Array, 'r t'], y: Float[Array, 'r t'], lengths: Int[Array, ' r'], *,
  sample_rate: int, start: int = 5, end: int = 12, bins: int = 64, f_min: float = 0.0,
  normalized: bool = False, alphas: bool = True,
) -> tuple[Float[Array, ''], list[tuple[Float[Array, ''], Float[Array, '']]]]:  # fmt: skip
  """sum_i mean |S_i(x) - S_i(y)| + alpha_i mean (log10 S_i(x) - log10 S_i(y))^2 over windows of 2^i
  samples, i from `start` to `end` - 1, hops of a quarter (EnCodec, eq. 2).

  Args:
    x, y: audio and what it should be.
    lengths: real samples of rows.
    sample_rate: Hz.
    start, end: of i.
    bins, f_min: of the mel spectra.
    normalized: spectra divided by the root of their window's energy, and the sum by that of
      alpha_i + 1 (audiocraft's default).
    alphas: alpha_i = sqrt(2^i - 1), otherwise 1.

  Returns:
    the sum, and the two terms of each scale.
  """
  loss, weight, terms = jnp.float32(0.0), 0.0, []
  for i in range(start, end):
    hop = 2**i // 4
    how = dict(sample_rate=sample_rate, n_fft=2**i, hop=hop, bins=bins, f_min=f_min)
    a, b = (mel_spectrum(each, normalized=normalized, **how) for each in (x, y))  # type: ignore[arg-type]
    real = _real(lengths, a.shape[1], hop)
    one = mean_over(jnp.abs(a - b), real)
    two = mean_over(jnp.square(jnp.log10(FLOOR + a) - jnp.log10(FLOOR + b)), real)
    alpha = float(np.sqrt(2.0**i - 1)) if alphas else 1.0
    loss, weight = loss + one + alpha * two, weight + alpha + 1.0
    terms.append((one, two))
  return (loss / weight if normalized else loss), terms


def rows(
  x: Float[Array, 'b t *a'], lengths: Int[Array, ' b']
) -> tuple[Float[Array, 'r t'], Int[Array, ' r']]:
  """Every channel as a row, and the lengths of these."""
  if x.ndim == 2:
    return x, lengths
  a = x.shape[2]
  return jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1]), jnp.repeat(lengths, a)


def codec_reconstruction(
  out: Mapping[str, Any], batch: Mapping[str, Any], *,
  sample_rate: int = 24_000, l1: float = 0.1, mel: float = 1.0, commitment: float = 1.0,
  scales: Sequence[int] = (5, 12), bins: int = 64,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:  # fmt: skip
  """l1 mean |x^ - x| + mel sum_i … (`mel_scales`) + commitment: a codec without a discriminator.

  Args:
    out: 'reconstruction' x^ and 'target' x [b, t] or [b, t, a], 0 behind the clips;
      'quantiser_loss'.
    batch: 'audio_mask' [b, t]; rows with 'valid' False do not count.
    sample_rate: Hz.
    l1, mel, commitment: weights; λ_t, λ_f and λ_w of the paper.
    scales: (start, end) of the windows.
    bins: mel bins.

  Returns:
    loss, and metrics 'l1', 'mel', 'commitment' and 'si_sdr', dB, the mean of the clips.
  """
  mask = batch['audio_mask']
  if 'valid' in batch:
    mask = mask & batch['valid'][:, None]
  lengths = mask.sum(axis=1)
  x_hat, x = (out[name].astype(jnp.float32) for name in ('reconstruction', 'target'))
  (x_hat, long), (x, _) = rows(x_hat, lengths), rows(x, lengths)
  there = jnp.arange(x.shape[1]) < long[:, None]
  distance = mean_over(jnp.abs(x_hat - x), there)
  spectra, _ = mel_scales(
    x_hat, x, long, sample_rate=sample_rate, start=scales[0], end=scales[1], bins=bins
  )
  loss = l1 * distance + mel * spectra + commitment * out['quantiser_loss']
  metrics = {
    'l1': distance,
    'mel': spectra,
    'commitment': out['quantiser_loss'],
    'si_sdr': si_sdr(x_hat, x, long),
  }
  return loss, metrics


def si_sdr(
  x_hat: Float[Array, 'r t'], x: Float[Array, 'r t'], lengths: Int[Array, ' r']
) -> Float[Array, '']:
  """Mean over rows that are not empty of the ratio of what is along x to the rest, dB."""
  there = jnp.arange(x.shape[1]) < lengths[:, None]
  x_hat, x = jnp.where(there, x_hat, 0.0), jnp.where(there, x, 0.0)
  scale = (x_hat * x).sum(axis=1) / jnp.maximum(jnp.square(x).sum(axis=1), 1e-8)
  along = scale[:, None] * x
  ratio = jnp.square(along).sum(axis=1) / jnp.maximum(jnp.square(x_hat - along).sum(axis=1), 1e-8)
  decibels = 10.0 * jnp.log10(jnp.maximum(ratio, 1e-8))
  return mean_over(decibels[:, None], lengths[:, None] > 0)
