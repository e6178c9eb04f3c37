"""Classic removal of noise from speech, without training: baselines of enhancement.

Letters: b batch, t samples, n frames, f bins.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float

from research.features.spectral import Array, masked_float
from research.features.stft import istft, stft, stft_frames

WINDOW, HOPS = 0.032, 4  # seconds of a Hann window, and windows that a sample is in
# Frames whose energy is below this quantile are taken for noise where nothing is known yet.
QUIET = 0.2
# Noise power (Gerkmann and Hendriks, IEEE TASLP 20, 2012): a priori SNR under speech, smoothing of
# the probability of speech, above which it is held, and of the power.
SPEECH_DB, PROBABILITY, STUCK, POWER = 15.0, 0.9, 0.99, 0.8
# A priori SNR by the decision-directed rule (Ephraim and Malah, IEEE TASSP 32, 1984).
DIRECTED, MIN_SNR_DB, MIN_GAIN_DB = 0.98, -25.0, -20.0
# Noise is never below this power: digital silence would make it 0.
FLOOR = 1e-12
# Spectral gating (as noisereduce, Sainburg et al. 2020): deviations above the mean of noise in dB,
# smoothing over frequency (Hz) and time (seconds).
DEVIATIONS, SMOOTH_HERTZ, SMOOTH_SECONDS = 1.5, 500.0, 0.05


def sizes(sample_rate: int) -> tuple[int, int]:
  """Samples of a window, and from one to the next."""
  hop = max(1, round(WINDOW * sample_rate / HOPS))
  return HOPS * hop, hop


def wiener(
  audio: Float[Array, 'b t'], audio_mask: Bool[Array, 'b t'], sample_rate: int
) -> Float[jax.Array, 'b t']:
  """Wiener's gain xi / (1 + xi) with the decision-directed a priori SNR xi over noise that is
  tracked by the probability of speech; it begins with the quietest frames."""
  spectra, real = _spectra(audio, audio_mask, sample_rate)
  power = jnp.square(spectra.real) + jnp.square(spectra.imag)
  noise = jnp.maximum(_mean(power, _quiet(power, real)), FLOOR)
  prior = 10.0 ** (SPEECH_DB / 10.0)
  low, floor = 10.0 ** (MIN_SNR_DB / 10.0), 10.0 ** (MIN_GAIN_DB / 20.0)

  def step(state, y):
    noise, held, clean = state
    exponent = jnp.minimum(y / noise * (prior / (1.0 + prior)), 80.0)
    speech = 1.0 / (1.0 + (1.0 + prior) * jnp.exp(-exponent))
    held = PROBABILITY * held + (1.0 - PROBABILITY) * speech
    speech = jnp.where(held > STUCK, jnp.minimum(speech, STUCK), speech)
    noise = POWER * noise + (1.0 - POWER) * ((1.0 - speech) * y + speech * noise)
    noise = jnp.maximum(noise, FLOOR)
    gamma = y / noise
    xi = DIRECTED * clean / noise + (1.0 - DIRECTED) * jnp.maximum(gamma - 1.0, 0.0)
    xi = jnp.maximum(xi, low)
    gain = jnp.maximum(xi / (1.0 + xi), floor)
    return (noise, held, jnp.square(gain) * y), gain

  first = (noise, jnp.full_like(noise, 0.5), noise)
  _, gains = jax.lax.scan(step, first, power.swapaxes(0, 1))
  return _audio(_scaled(spectra, gains.swapaxes(0, 1)), audio_mask, real, sample_rate)


def spectral_gate(
  audio: Float[Array, 'b t'], audio_mask: Bool[Array, 'b t'], sample_rate: int
) -> Float[jax.Array, 'b t']:
  """Bins below a level of noise are closed: the mean in dB over the quietest frames and 1.5
  deviations above. The mask is smoothed over neighbours."""
  spectra, real = _spectra(audio, audio_mask, sample_rate)
  power = jnp.square(spectra.real) + jnp.square(spectra.imag)
  level = 10.0 * jnp.log10(power + FLOOR)
  quiet = _quiet(power, real)
  mean = _mean(level, quiet)
  deviation = jnp.sqrt(_mean(jnp.square(level - mean[:, None]), quiet))
  open_ = level > (mean + DEVIATIONS * deviation)[:, None]
  gains = jnp.where(open_ & real[:, :, None], 1.0, 0.0)
  size, hop = sizes(sample_rate)
  for axis, reach in (
    (1, round(SMOOTH_SECONDS * sample_rate / hop)),
    (2, round(SMOOTH_HERTZ * size / sample_rate)),
  ):
    gains = _triangle(gains, axis, reach)
  return _audio(_scaled(spectra, gains), audio_mask, real, sample_rate)


METHODS = {'wiener': wiener, 'spectral_gate': spectral_gate}


# -- Parts -----------------------------------------------------------------------------------------


def _spectra(
  audio: Array, audio_mask: Array, sample_rate: int
) -> tuple[Complex[Array, 'b n f'], Bool[Array, 'b n']]:
  size, hop = sizes(sample_rate)
  spectra = stft(masked_float(audio, audio_mask), n_fft=size, hop=hop)
  count = stft_frames(jnp.asarray(audio_mask).sum(axis=1), hop)
  return spectra, jnp.arange(spectra.shape[1]) < count[:, None]


def _scaled(spectra: Complex[Array, 'b n f'], gains: Float[Array, 'b n f']) -> Array:
  return jax.lax.complex(spectra.real * gains, spectra.imag * gains)


def _audio(
  spectra: Array, audio_mask: Array, real: Array, sample_rate: int
) -> Float[jax.Array, 'b t']:
  hop = sizes(sample_rate)[1]
  spectra = jnp.where(real[:, :, None], spectra, 0.0)
  whole = istft(spectra, audio_mask.shape[1], hop=hop, real=real)
  return jnp.where(jnp.asarray(audio_mask), whole, 0.0)


def _quiet(power: Float[Array, 'b n f'], real: Bool[Array, 'b n']) -> Bool[Array, 'b n']:
  """The real frames of lowest energy."""
  energy = jnp.where(real, power.sum(axis=-1), jnp.inf)
  last = (QUIET * jnp.maximum(real.sum(axis=1) - 1, 0).astype(jnp.float32)).astype(jnp.int32)
  limit = jnp.take_along_axis(jnp.sort(energy, axis=1), last[:, None], axis=1)
  return real & (energy <= limit)


def _mean(x: Float[Array, 'b n f'], where: Bool[Array, 'b n']) -> Float[Array, 'b f']:
  count = jnp.maximum(where.sum(axis=1, keepdims=True), 1).astype(jnp.float32)
  return jnp.where(where[:, :, None], x, 0.0).sum(axis=1) / count


def _triangle(x: Float[jax.Array, 'b n f'], axis: int, reach: int) -> Float[jax.Array, 'b n f']:
  """The mean over neighbours, by weights that fall to 0 in `reach` + 1 steps."""
  weights = 1.0 - np.abs(np.arange(-reach, reach + 1)) / (reach + 1)
  weights = (weights / weights.sum()).astype(np.float32)
  pads = [(0, 0)] * 3
  pads[axis] = (reach, reach)
  wide, size = jnp.pad(x, pads), x.shape[axis]
  each = (
    weight * jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i, weight in enumerate(weights)
  )
  return jnp.asarray(sum(each))
