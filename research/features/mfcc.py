"""Kaldi's MFCC and deltas, the features of HuBERT's first clustering.

Same numbers as torchaudio.compliance.kaldi.mfcc with dither 0 and
torchaudio.functional.compute_deltas; batched, mask-aware, float32. Dimensions: see spectral.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from research.errors import InputError
from research.features import filters, spectral
from research.features.fbank import kaldi_fbank
from research.features.spectral import Array


def cepstra(log_mel: Float[Array, 'b s f'], num_ceps: int) -> Float[jax.Array, 'b s ceps']:
  """The first `num_ceps` cepstral coefficients of log-mel frames."""
  bins = log_mel.shape[-1]
  if not 0 < num_ceps <= bins:
    raise InputError(f'num_ceps is {num_ceps}: expected 1 to the number of mel bins, {bins}.')
  return spectral.apply_filters(log_mel, filters.dct_matrix(bins, num_ceps), bands=1)


def kaldi_mfcc(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  *,
  sample_rate: int = 16000,
  num_mel_bins: int = 23,
  num_ceps: int = 13,
  cepstral_lifter: float = 22.0,
  window: str = 'povey',
  frame_length_ms: float = 25.0,
  frame_shift_ms: float = 10.0,
  low_freq: float = 20.0,
  high_freq: float = 0.0,
  preemphasis: float = 0.97,
  remove_dc_offset: bool = True,
  round_to_power_of_two: bool = True,
  snip_edges: bool = True,
  use_energy: bool = False,
  raw_energy: bool = True,
  energy_floor: float = 1.0,
  htk_compat: bool = False,
  scale: float = 1.0,
) -> tuple[Float[jax.Array, 'b s ceps'], Bool[jax.Array, 'b s']]:
  """Mel-frequency cepstral coefficients [b, s, num_ceps] and frame mask [b, s].

  Args beyond those of `kaldi_fbank`: num_ceps coefficients are kept; cepstral_lifter L multiplies
  coefficient i by 1 + L/2 sin(pi i / L) (0: none); use_energy puts the frame's log energy in place
  of coefficient 0; htk_compat puts that coefficient last (times sqrt 2 when it is not the energy).

  Raises:
    InputError: the batch is shorter than one frame, or num_ceps is larger than num_mel_bins.
  """
  log_mel, frame_mask = kaldi_fbank(
    audio,
    audio_mask,
    sample_rate=sample_rate,
    num_mel_bins=num_mel_bins,
    window=window,
    frame_length_ms=frame_length_ms,
    frame_shift_ms=frame_shift_ms,
    low_freq=low_freq,
    high_freq=high_freq,
    preemphasis=preemphasis,
    remove_dc_offset=remove_dc_offset,
    round_to_power_of_two=round_to_power_of_two,
    snip_edges=snip_edges,
    use_energy=use_energy,
    raw_energy=raw_energy,
    energy_floor=energy_floor,
    scale=scale,
  )
  energy, log_mel = (log_mel[..., :1], log_mel[..., 1:]) if use_energy else (None, log_mel)
  ceps = cepstra(log_mel, num_ceps)
  if cepstral_lifter:
    index = np.arange(num_ceps)
    ceps = ceps * np.float32(1.0 + 0.5 * cepstral_lifter * np.sin(np.pi * index / cepstral_lifter))
  if energy is not None:
    ceps = jnp.concatenate([energy, ceps[..., 1:]], axis=-1)
  if htk_compat:
    first = ceps[..., :1] if use_energy else ceps[..., :1] * float(np.sqrt(2.0))
    ceps = jnp.concatenate([ceps[..., 1:], first], axis=-1)
  return jnp.where(frame_mask[..., None], ceps, 0.0), frame_mask


def deltas(
  features: Float[Array, 'b s f'], frame_mask: Bool[Array, 'b s'], *, win_length: int = 5
) -> Float[jax.Array, 'b s f']:
  """Regression slope over `win_length` frames.

  The first and last real frames of each clip are repeated beyond its ends.

  Args:
    features: any features; values behind the mask are ignored.
    frame_mask: True for real frames.
    win_length: odd number of frames, at least 3.

  Raises:
    InputError: win_length is even or below 3.
  """
  if win_length < 3 or win_length % 2 == 0:
    raise InputError(
      f'win_length of deltas is {win_length} frames: expected an odd number, at least 3.'
    )
  half = win_length // 2
  frame_mask = jnp.asarray(frame_mask)

  # Repeat the last real frame beyond the end of the clip.
  last = jnp.maximum(spectral.clip_lengths(frame_mask) - 1, 0)
  edge = jnp.take_along_axis(jnp.asarray(features), last[:, None, None], axis=1)
  filled = jnp.where(frame_mask[..., None], features, edge)
  padded = jnp.pad(filled, ((0, 0), (half, half), (0, 0)), mode='edge')
  steps = features.shape[1]
  slope = sum(
    i * (padded[:, half + i : half + i + steps] - padded[:, half - i : half - i + steps])
    for i in range(1, half + 1)
  )
  return jnp.where(frame_mask[..., None], slope / (half * (half + 1) * (2 * half + 1) / 3.0), 0.0)


def kaldi_mfcc_deltas(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  *,
  delta_win_length: int = 5,
  **settings,
) -> tuple[Float[jax.Array, 'b s f'], Bool[jax.Array, 'b s']]:
  """MFCC, deltas and delta-deltas side by side: [b, s, 3 * num_ceps], 39 with the defaults.

  fairseq, examples/hubert/simple_kmeans/dump_mfcc_feature.py. Other arguments: those of
  `kaldi_mfcc`.
  """
  ceps, frame_mask = kaldi_mfcc(audio, audio_mask, **settings)
  first = deltas(ceps, frame_mask, win_length=delta_win_length)
  second = deltas(first, frame_mask, win_length=delta_win_length)
  return jnp.concatenate([ceps, first, second], axis=-1), frame_mask
