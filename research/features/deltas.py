"""Kaldi's filter banks with deltas, normalised per clip: SUPERB's FBANK (s3prl upstream/baseline,
fbank.yaml and fbank_no_cmvn.yaml). Dimensions: see spectral.py.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from research.features import fbank, mfcc, spectral
from research.features.spectral import Array

CMVN_EPSILON = 1e-10


def cmvn(
  features: Float[Array, 'b s f'], frame_mask: Bool[Array, 'b s'], epsilon: float = CMVN_EPSILON
) -> Float[jax.Array, 'b s f']:
  """(x - mean) / (std + epsilon) over the real frames of each clip, with the unbiased deviation; 0
  behind them, and for a clip of one frame.

  Args:
    features: any.
    frame_mask: True for real frames.
    epsilon: added to the deviation.
  """
  real = jnp.asarray(frame_mask)[..., None]
  count = spectral.clip_lengths(frame_mask)[:, None, None].astype(jnp.float32)
  x = jnp.where(real, jnp.asarray(features), 0.0)
  centred = jnp.where(real, x - x.sum(1, keepdims=True) / jnp.maximum(count, 1.0), 0.0)
  square = jnp.square(centred).sum(1, keepdims=True) / jnp.maximum(count - 1.0, 1.0)
  flat = square == 0.0  # where the derivative of the root is infinite
  deviation = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, square)))
  return centred / (deviation + epsilon)


def kaldi_fbank_deltas(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  *,
  delta_order: int = 2,
  delta_win_length: int = 5,
  normalise_clips: bool = True,
  **settings,
) -> tuple[Float[jax.Array, 'b s f'], Bool[jax.Array, 'b s']]:
  """Log-mel, its deltas and delta-deltas side by side: [b, s, 3 * num_mel_bins].

  Args:
    audio, audio_mask: see `fbank.kaldi_fbank`.
    delta_order: how many times deltas are taken.
    delta_win_length: frames of the regression.
    normalise_clips: whether `cmvn` follows; SUPERB's tasks that pool by the mean are without, for
      it makes the mean 0 (fbank_no_cmvn).
    **settings: those of `kaldi_fbank`.
  """
  mel, frame_mask = fbank.kaldi_fbank(audio, audio_mask, **settings)
  parts = [mel]
  for _ in range(delta_order):
    parts.append(mfcc.deltas(parts[-1], frame_mask, win_length=delta_win_length))
  features = jnp.concatenate(parts, axis=-1)
  return cmvn(features, frame_mask) if normalise_clips else features, frame_mask
