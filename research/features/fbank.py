"""Kaldi's log-mel filter bank, as AudioMAE, AST, EAT and BEATs use it.

Same numbers as torchaudio.compliance.kaldi.fbank without dither; batched, mask-aware, float32.
Dimensions: see spectral.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from research.errors import InputError
from research.features import filters, spectral
from research.features.spectral import Array, Count

EPSILON = 1.1920928955078125e-07  # float32 machine epsilon, the floor of every mel energy


def frame_samples(sample_rate: int, milliseconds: float) -> int:
  """Samples in a Kaldi frame or shift of N milliseconds, rounded down."""
  return int(sample_rate * milliseconds * 0.001)


def fft_size(size: int, round_to_power_of_two: bool = True) -> int:
  """FFT size for a frame of `size` samples."""
  return 1 << (size - 1).bit_length() if round_to_power_of_two else size


def kaldi_min_samples(size: int, shift: int, snip_edges: bool = True) -> int:
  """Minimum samples for one frame; without snip_edges, the samples mirrored at the ends."""
  return size if snip_edges else max(shift - shift // 2, size // 2 + 1)


def kaldi_frame_count(samples: Count, size: int, shift: int, snip_edges: bool = True) -> Count:
  """Number of frames of a clip of N samples; 0 if it is too short."""
  count = 1 + (samples - size) // shift if snip_edges else (samples + shift // 2) // shift
  minimum = kaldi_min_samples(size, shift, snip_edges)
  if isinstance(samples, int):
    return count if samples >= minimum else 0
  return jnp.where(samples >= minimum, count, 0)


def kaldi_fbank(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  *,
  sample_rate: int = 16000,
  num_mel_bins: int = 128,
  window: str = 'hanning',
  frame_length_ms: float = 25.0,
  frame_shift_ms: float = 10.0,
  low_freq: float = 20.0,
  high_freq: float = 0.0,
  preemphasis: float = 0.97,
  remove_dc_offset: bool = True,
  round_to_power_of_two: bool = True,
  snip_edges: bool = True,
  use_power: bool = True,
  use_log_fbank: bool = True,
  use_energy: bool = False,
  raw_energy: bool = True,
  energy_floor: float = 1.0,
  htk_compat: bool = False,
  scale: float = 1.0,
) -> tuple[Float[jax.Array, 'b s f'], Bool[jax.Array, 'b s']]:
  """Natural logarithm of mel energies.

  A 16 kHz clip of n samples has 1 + (n - 400) // 160 frames. The defaults are those of AudioMAE and
  AST (128 bins, symmetric Hann); BEATs has window='povey' and scale=2**15.

  Args:
    audio: waveform in [-1, 1], any float type; may hold NaN behind the mask.
    audio_mask: True for real samples.
    sample_rate: Hz.
    num_mel_bins: mel filters.
    window: 'hanning', 'povey', 'hamming', 'blackman' or 'rectangular', symmetric.
    frame_length_ms: frame, milliseconds.
    frame_shift_ms: milliseconds between frames.
    low_freq: Hz.
    high_freq: Hz; values of 0 or less are offsets from half the sample rate.
    preemphasis: y[i] = x[i] - preemphasis * x[i - 1] inside each frame, x[-1] = x[0].
    remove_dc_offset: subtract each frame's mean.
    round_to_power_of_two: zero-pad frames to a power of two before the FFT.
    snip_edges: only frames wholly inside the clip; False mirrors the clip at its ends and gives
      (n + shift // 2) // shift frames.
    use_power: energies (True) or magnitudes.
    use_log_fbank: logarithm of max(energy, 1.19e-7).
    use_energy: adds a column with the frame's log energy: the first, or the last with htk_compat.
    raw_energy: that energy before pre-emphasis and window.
    energy_floor: floor of that energy.
    htk_compat: position of that column.
    scale: factor on the waveform.

  Returns:
    log-mel [b, s, f] (f + 1 with use_energy) and frame mask [b, s]. A clip that is too short has no
    frames.

  Raises:
    InputError: the batch is shorter than one frame, or the frequencies do not fit the sample rate.
  """
  size = frame_samples(sample_rate, frame_length_ms)
  shift = frame_samples(sample_rate, frame_shift_ms)
  if size < 2 or shift < 1:
    raise InputError(
      f'Frames of {frame_length_ms:g} ms every {frame_shift_ms:g} ms are {size} and {shift} '
      f'samples at {sample_rate} Hz: expected at least 2 and 1.'
    )
  minimum = kaldi_min_samples(size, shift, snip_edges)
  what = f'Kaldi frames of {frame_length_ms:g} ms'
  spectral.check_samples(audio.shape[1], minimum, what, sample_rate)
  n_fft = fft_size(size, round_to_power_of_two)
  matrix = filters.mel_filterbank(
    sample_rate=sample_rate,
    n_fft=n_fft,
    num_mel_bins=num_mel_bins,
    f_min=low_freq,
    f_max=high_freq if high_freq > 0 else sample_rate / 2 + high_freq,
    scale='kaldi',
  )
  taper = filters.window_values(window, size, periodic=False)

  def mel_energies(frames):
    frames = _settle(frames if scale == 1.0 else frames * scale)
    if remove_dc_offset:
      frames = _settle(frames - jnp.mean(frames, axis=-1, keepdims=True))
    raw = frames
    if preemphasis:
      frames = frames - preemphasis * _previous(frames, first_matters=bool(taper[0]))
    frames = frames * taper
    mel = spectral.apply_filters(
      spectral.fft_power(frames, n_fft, 2.0 if use_power else 1.0), matrix
    )
    if use_log_fbank:
      mel = spectral.compress(mel, 'ln_floor', EPSILON)
    if not use_energy:
      return mel
    energy = _log_energy(raw if raw_energy else frames, energy_floor)
    return jnp.concatenate([mel, energy] if htk_compat else [energy, mel], axis=-1)

  lengths = spectral.clip_lengths(audio_mask)
  signal = spectral.masked_float(audio, audio_mask)
  count = kaldi_frame_count(signal.shape[1], size, shift, snip_edges)
  if not snip_edges:
    # torchaudio cuts instead of mirroring if the shift is longer than the frame.
    left = size // 2 - shift // 2
    signal = spectral.extend_edges(signal, lengths, max(left, 0), size // 2 + 1, 'symmetric')
    signal = signal[:, max(-left, 0) :]
  values = spectral.map_frames(mel_energies, signal, size=size, hop=shift, count=count)
  return spectral.mask_frames(values, kaldi_frame_count(lengths, size, shift, snip_edges))


def _settle(frames: Float[Array, 'b s size']) -> Float[jax.Array, 'b s size']:
  """Materialises the frames on CPU: fused with later operations, its loops do not vectorise."""
  return jax.lax.platform_dependent(frames, cpu=jax.lax.optimization_barrier, default=lambda x: x)


def _previous(
  frames: Float[Array, 'b s size'], first_matters: bool
) -> Float[jax.Array, 'b s size']:
  """Each sample's predecessor in its frame; the first sample is its own predecessor.

  If the window starts with 0 the first sample does not matter, and a zero there is faster.
  """
  if first_matters:
    return jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
  return jnp.pad(frames[..., :-1], ((0, 0), (0, 0), (1, 0)))


def _log_energy(frames: Float[Array, 'b s size'], floor: float) -> Float[jax.Array, 'b s 1']:
  """ln of the frame's sum of squares, floored at float32 epsilon and at ln(floor)."""
  energy = jnp.sum(jnp.square(frames), axis=-1, keepdims=True)
  energy = jnp.log(jnp.maximum(energy, EPSILON))
  return energy if floor == 0.0 else jnp.maximum(energy, float(np.log(floor)))
