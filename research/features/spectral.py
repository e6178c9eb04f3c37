"""Frames, STFT power and mel spectrograms of padded batches, in float32, inside jit.

Every function takes `audio` [b, t] with its `audio_mask` [b, t] (True = real sample; a clip's real
samples come first, padding follows) and returns a spectrogram [b, s, ...] with its frame mask
[b, s]. Samples behind the mask are ignored and may be NaN. A clip gives the same frames alone,
padded, and in a batch, because edges are extended at the end of each clip. Values behind the frame
mask are 0.

Dimensions: b batch, t samples, s spectrogram frames, f mel bins.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from research.errors import InputError, unknown
from research.features import filters

Array = jax.Array | np.ndarray  # type of inputs; outputs are jax.Array
Count = TypeVar('Count', int, jax.Array)

PAD_MODES = ('reflect', 'symmetric', 'constant')
LOGS = ('ln', 'ln_floor', 'log10_floor', 'db')

# Samples per chunk of frames on CPU: small enough for its caches, large enough for its cores.
CPU_SAMPLES = 2**19


# ---------------------------------------------------------------------------------------------
# Masks and edges.


def clip_lengths(audio_mask: Bool[Array, 'b t']) -> Int[jax.Array, 'b']:
  """Number of real samples (or frames) of each clip."""
  return jnp.sum(jnp.asarray(audio_mask), axis=-1, dtype=jnp.int32)


def masked_float(
  audio: Float[Array, 'b t'], audio_mask: Bool[Array, 'b t']
) -> Float[jax.Array, 'b t']:
  """The audio in float32, with zeros behind the mask."""
  return jnp.where(jnp.asarray(audio_mask), jnp.asarray(audio).astype(jnp.float32), 0.0)


def check_samples(samples: int, minimum: int, what: str, sample_rate: int | None = None) -> None:
  """Raises InputError, in samples and seconds, if a batch is too short for one frame."""
  if samples >= minimum:
    return

  def amount(n: int) -> str:
    return f'{n} samples' + (
      f' ({n / sample_rate:.4g} s at {sample_rate} Hz)' if sample_rate else ''
    )

  raise InputError(
    f'The audio is too short for {what}: got {amount(samples)}, one frame needs at least '
    f'{amount(minimum)}. Pad the clip or leave it out.'
  )


def mask_frames(
  values: Float[Array, 'b s *rest'], counts: Int[Array, 'b']
) -> tuple[Float[jax.Array, 'b s *rest'], Bool[jax.Array, 'b s']]:
  """Zeros behind each clip's frame count, and the frame mask."""
  mask = jnp.arange(values.shape[1], dtype=jnp.int32) < counts[:, None]
  return jnp.where(mask.reshape(mask.shape + (1,) * (values.ndim - 2)), values, 0.0), mask


def extend_edges(
  audio: Float[Array, 'b t'], lengths: Int[Array, 'b'], left: int, right: int, mode: str
) -> Float[jax.Array, 'b longer']:
  """Extends every clip at its start and at its end.

  Args:
    audio: float32, zeros behind each clip's end.
    lengths: real samples of each clip.
    left: samples to add before the clip.
    right: samples to add after its last real sample.
    mode: 'constant' (zeros), 'reflect' (the edge sample is not repeated), 'symmetric' (it is).
  """
  if mode not in PAD_MODES:
    raise unknown('padding mode', mode, PAD_MODES)
  padded = jnp.pad(audio, ((0, 0), (0, right)))
  if mode == 'constant':
    return jnp.pad(padded, ((0, 0), (left, 0)))
  skip = 1 if mode == 'reflect' else 0
  head = audio[:, skip : left + skip][:, ::-1]

  # Only the samples of the tail are moved: gathering the whole clip would cost more than its FFT.
  def with_tail(row, length):
    tail = jax.lax.dynamic_slice(row, (length - skip - right,), (right,))[::-1]
    return jax.lax.dynamic_update_slice(row, tail, (length,))

  return jnp.concatenate([head, jax.vmap(with_tail)(padded, lengths)], axis=1)


def append_zeros(
  audio: Float[Array, 'b t'], audio_mask: Bool[Array, 'b t'], samples: int
) -> tuple[Float[jax.Array, 'b longer'], Bool[jax.Array, 'b longer']]:
  """Appends `samples` zeros at the end of each clip; they count as real samples."""
  padded = jnp.pad(masked_float(audio, audio_mask), ((0, 0), (0, samples)))
  ends = clip_lengths(audio_mask)[:, None] + samples
  return padded, jnp.arange(padded.shape[1], dtype=jnp.int32) < ends


# ---------------------------------------------------------------------------------------------
# Frames.


def map_frames(
  function: Callable[[jax.Array], jax.Array],
  audio: Float[Array, 'b t'],
  *,
  size: int,
  hop: int,
  count: int,
) -> Float[jax.Array, 'b s out']:
  """function(frames [b, s, size]) of the first `count` frames, one every `hop` samples.

  The signal is cut into blocks of one hop, and frames are assembled from whole blocks: contiguous
  copies, no gather. On CPU the function is applied to a few frames of every clip at a time (the
  batch axis stays whole, so that a sharded batch is not moved); elsewhere to all frames.
  """
  per_frame = -(-size // hop)
  pieces = max(1, round(audio.shape[0] * count * size / CPU_SAMPLES))
  piece = -(-count // pieces)
  total = (pieces * piece + per_frame - 1) * hop
  audio = jnp.pad(audio[:, :total], ((0, 0), (0, max(0, total - audio.shape[1]))))
  blocks = audio.reshape(audio.shape[0], -1, hop)

  def some(blocks, frames):
    parts = [blocks[:, i : i + frames] for i in range(per_frame)]
    parts[-1] = parts[-1][..., : size - (per_frame - 1) * hop]
    return function(jnp.concatenate(parts, axis=-1))

  def piecewise(blocks):
    def one(start):
      return some(jax.lax.dynamic_slice_in_dim(blocks, start, piece + per_frame - 1, axis=1), piece)

    values = jax.lax.map(one, piece * jnp.arange(pieces, dtype=jnp.int32))
    return jnp.moveaxis(values, 0, 1).reshape(blocks.shape[0], pieces * piece, -1)[:, :count]

  def whole(blocks):
    return some(blocks, count)

  if pieces == 1:
    return whole(blocks)
  return jax.lax.platform_dependent(blocks, cpu=piecewise, default=whole)


def fft_power(
  frames: Float[Array, 'b s size'], n_fft: int, power: float = 2.0
) -> Float[jax.Array, 'b s bins']:
  """|rFFT|^power of windowed frames, zero-padded on the right to `n_fft`; power is 2 or 1.

  An FFT on CPU. Elsewhere a product with the DFT matrix, which is cheap on accelerators; for an
  FFT, XLA would gather a sharded batch on every device.
  """
  energy = jax.lax.platform_dependent(
    frames, cpu=lambda x: energy_by_fft(x, n_fft), default=lambda x: energy_by_product(x, n_fft)
  )
  if power == 2:
    return energy
  if power != 1:
    raise InputError(f'power is {power!r}: expected 2 (energy) or 1 (magnitude).')
  # The derivative of the square root is infinite at 0: take it for bins with energy only.
  empty = energy == 0.0
  return jnp.where(empty, 0.0, jnp.sqrt(jnp.where(empty, 1.0, energy)))


def energy_by_fft(frames: Float[Array, 'b s size'], n_fft: int) -> Float[jax.Array, 'b s bins']:
  """|rFFT|^2 by an FFT."""
  spectrum = jnp.fft.rfft(frames, n=n_fft, axis=-1)
  return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def energy_by_product(frames: Float[Array, 'b s size'], n_fft: int) -> Float[jax.Array, 'b s bins']:
  """|rFFT|^2 by products with the DFT matrix in full float32.

  Summed over pieces of 128 samples: as accurate as an FFT; one long sum is three times worse.
  """
  matrix = filters.dft_matrix(frames.shape[-1], n_fft)
  pieces = [
    jnp.matmul(
      frames[..., start : start + 128],
      jnp.asarray(matrix[start : start + 128]),
      precision=jax.lax.Precision.HIGHEST,
    )
    for start in range(0, frames.shape[-1], 128)
  ]
  while len(pieces) > 1:
    pairs = [a + b for a, b in zip(pieces[::2], pieces[1::2])]
    pieces = pairs + pieces[2 * len(pairs) :]
  real, imaginary = jnp.split(pieces[0], 2, axis=-1)
  return jnp.square(real) + jnp.square(imaginary)


# ---------------------------------------------------------------------------------------------
# Mel.


def apply_filters(
  spectrum: Float[Array, 'b s bins'], matrix: Float[np.ndarray, 'bins f'], bands: int = 4
) -> Float[jax.Array, 'b s f']:
  """spectrum @ matrix in full float32 on every device (no TF32, no bfloat16 passes).

  Mel filters are mostly zero, so `bands` groups of neighbouring filters are each multiplied only
  with the bins they cover.
  """
  products = []
  for columns in np.array_split(matrix, min(bands, matrix.shape[1]), axis=1):
    covered = np.flatnonzero(columns.any(axis=1))
    low, high = (covered[0], covered[-1] + 1) if covered.size else (0, 1)
    products.append(
      jnp.matmul(
        spectrum[..., low:high],
        jnp.asarray(columns[low:high]),
        precision=jax.lax.Precision.HIGHEST,
      )
    )
  return jnp.concatenate(products, axis=-1)


def compress(mel: Float[Array, 'b s f'], log: str, floor: float) -> Float[jax.Array, 'b s f']:
  """Logarithm of energies.

  'ln': ln(x + floor) (BYOL-A); 'ln_floor': ln(max(x, floor)) (Kaldi); 'log10_floor':
  log10(max(x, floor)) (Whisper); 'db': 10 log10(max(x, floor)) (CLAP, librosa.power_to_db).
  """
  if log == 'ln':
    return jnp.log(mel + floor)
  if log not in LOGS:
    raise unknown('logarithm', log, LOGS)
  logs = jnp.log(jnp.maximum(mel, floor))
  scale = {'ln_floor': 1.0, 'log10_floor': 1 / np.log(10), 'db': 10 / np.log(10)}[log]
  return logs if scale == 1.0 else logs * scale


def clip_peak(
  values: Float[Array, 'b s f'], frame_mask: Bool[Array, 'b s']
) -> Float[jax.Array, 'b 1 1']:
  """Each clip's maximum over its real frames."""
  low = jnp.finfo(jnp.float32).min
  real = jnp.asarray(frame_mask)[..., None]
  return jnp.max(jnp.where(real, values, low), axis=(1, 2), keepdims=True)


# ---------------------------------------------------------------------------------------------
# Spectrograms.


def stft_frame_count(
  samples: Count, n_fft: int, hop: int, *, center: bool, drop_last: bool
) -> Count:
  """Number of frames of a clip that is long enough for one."""
  edge = n_fft // 2 if center else 0
  return 1 + (samples + 2 * edge - n_fft) // hop - int(drop_last)


def stft_min_samples(n_fft: int, hop: int, *, center: bool, pad_mode: str, drop_last: bool) -> int:
  """Minimum samples for one frame (reflection needs one sample more than it mirrors)."""
  minimum = 1
  if center and pad_mode != 'constant':
    minimum = n_fft // 2 + (pad_mode == 'reflect')
  edge = n_fft // 2 if center else 0
  return max(minimum, n_fft - 2 * edge + (hop if drop_last else 0))


def stft_power(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  *,
  n_fft: int,
  hop_length: int,
  win_length: int | None = None,
  window: str = 'hann',
  center: bool = True,
  pad_mode: str = 'reflect',
  power: float = 2.0,
  drop_last: bool = False,
  sample_rate: int | None = None,
  finish: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[Float[jax.Array, 'b s bins'], Bool[jax.Array, 'b s']]:
  """Short-time spectrum |X|^power with a periodic window, as torch.stft and librosa.stft have it.

  Args:
    audio: waveform, any float type; may hold NaN behind the mask.
    audio_mask: True for real samples.
    n_fft: FFT size in samples.
    hop_length: samples between frames.
    win_length: window length in samples, centred in the FFT; None is n_fft.
    window: see `filters.window_values`.
    center: frame i is centred at sample i * hop; n_fft // 2 samples are added on both sides.
    pad_mode: padding: 'reflect', 'constant' (zeros) or 'symmetric'.
    power: 2 for energy, 1 for magnitude.
    drop_last: leave out each clip's last frame (Whisper).
    sample_rate: Hz, used in error messages only.
    finish: applied to the spectrum of each frame before it is stored.

  Returns:
    spectrum [b, s, n_fft // 2 + 1] and frame mask [b, s]; a centred clip of n samples has
    1 + n // hop frames. A clip that is too short has no frames.

  Raises:
    InputError: the batch is shorter than one frame.
  """
  win_length = n_fft if win_length is None else win_length
  if not 0 < win_length <= n_fft:
    raise InputError(f'win_length is {win_length} samples: expected 1 to n_fft, {n_fft}.')
  minimum = stft_min_samples(
    n_fft, hop_length, center=center, pad_mode=pad_mode, drop_last=drop_last
  )
  check_samples(audio.shape[1], minimum, f'an STFT of {n_fft} samples', sample_rate)

  def counts(samples):
    return stft_frame_count(samples, n_fft, hop_length, center=center, drop_last=drop_last)

  lengths = clip_lengths(audio_mask)
  signal = masked_float(audio, audio_mask)
  if center:
    signal = extend_edges(signal, lengths, n_fft // 2, n_fft // 2, pad_mode)
  left = (n_fft - win_length) // 2
  taper = np.pad(filters.window_values(window, win_length), (left, n_fft - win_length - left))

  def spectrum(frames):
    energy = fft_power(frames * taper, n_fft, power)
    return energy if finish is None else finish(energy)

  values = map_frames(spectrum, signal, size=n_fft, hop=hop_length, count=counts(audio.shape[1]))
  return mask_frames(values, jnp.where(lengths >= minimum, counts(lengths), 0))


def log_mel(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  *,
  sample_rate: int,
  n_fft: int,
  hop_length: int,
  num_mel_bins: int,
  win_length: int | None = None,
  f_min: float = 0.0,
  f_max: float | None = None,
  scale: str = 'slaney',
  norm: str = 'slaney',
  window: str = 'hann',
  center: bool = True,
  pad_mode: str = 'reflect',
  power: float = 2.0,
  power_offset: float = 0.0,
  log: str = 'ln',
  floor: float = 1.1920928955078125e-07,
  drop_last: bool = False,
  filter_rate: int | None = None,
) -> tuple[Float[jax.Array, 'b s f'], Bool[jax.Array, 'b s']]:
  """Log-mel spectrogram [b, s, f] and frame mask [b, s].

  Args: those of `stft_power`, `filters.mel_filterbank` and `compress`; power_offset is added to the
  spectrum before the mel product (2.2e-16 in the librosa front-end of BYOL-A v1); filter_rate is
  the sample rate that the filters are for, where weights were trained with those of another
  (Microsoft CLAP 2023).

  Raises:
    InputError: the batch is shorter than one frame, or a setting is unknown.
  """
  matrix = filters.mel_filterbank(
    sample_rate=filter_rate or sample_rate,
    n_fft=n_fft,
    num_mel_bins=num_mel_bins,
    f_min=f_min,
    f_max=f_max,
    scale=scale,
    norm=norm,
  )

  def finish(spectrum):
    mel = apply_filters(spectrum + power_offset if power_offset else spectrum, matrix)
    return compress(mel, log, floor)

  return stft_power(
    audio,
    audio_mask,
    n_fft=n_fft,
    hop_length=hop_length,
    win_length=win_length,
    window=window,
    center=center,
    pad_mode=pad_mode,
    power=power,
    drop_last=drop_last,
    sample_rate=sample_rate,
    finish=finish,
  )


def whisper_log_mel(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  *,
  sample_rate: int = 16000,
  num_mel_bins: int = 80,
  n_fft: int = 400,
  hop_length: int = 160,
  appended: int = 0,
) -> tuple[Float[jax.Array, 'b s f'], Bool[jax.Array, 'b s']]:
  """Whisper's log-mel: (max(log10 mel, clip maximum - 8) + 4) / 4 (openai/whisper audio.py).

  The maximum is over the real frames of each clip. A clip of n samples has (n + appended) // hop
  frames.

  Args:
    audio: waveform.
    audio_mask: True for real samples.
    sample_rate: Hz.
    num_mel_bins: 80, or 128 for large-v3.
    n_fft: FFT size in samples.
    hop_length: samples between frames.
    appended: zeros appended to each clip; they count as real samples (Whisper's transcription
      appends 30 s).
  """
  if appended:
    audio, audio_mask = append_zeros(audio, audio_mask, appended)
  logs, frame_mask = log_mel(
    audio,
    audio_mask,
    sample_rate=sample_rate,
    n_fft=n_fft,
    hop_length=hop_length,
    num_mel_bins=num_mel_bins,
    log='log10_floor',
    floor=1e-10,
    drop_last=True,
  )
  logs = (jnp.maximum(logs, clip_peak(logs, frame_mask) - 8.0) + 4.0) / 4.0
  return jnp.where(frame_mask[..., None], logs, 0.0), frame_mask
