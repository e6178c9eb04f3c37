"""Masks of spectrograms by bidirectional LSTMs, as SUPERB-SG's enhancement and separation have them
(arXiv 2203.06849; figures of s3prl downstream/enhancement_stft and separation_stft).

Letters: b batch, n tokens, m frames of the spectrogram, f bins, k signals, t samples, d width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError, unknown
from research.features.stft import stft, stft_frames
from research.models.waveform import drop
from research.nn import layers
from research.nn.recurrent import LSTM

ACTIVATIONS = {'relu': jax.nn.relu, 'sigmoid': jax.nn.sigmoid, 'tanh': jnp.tanh}
TOLERANCE = 5  # frames between encoder and spectrogram that are no longer accepted


class Masks(nn.Module):
  """LSTMs in both directions with dropout after each, and a linear map to the mask of each signal.

  The spectrogram is that of the batch's 'audio' [b, t]; tokens are cut, or zeros follow, so that
  there is one a frame. Sources, where the batch has 'sources' [b, k, t], come out as spectra too.

  Attributes:
    signals: k: 1 for enhancement, of speakers in separation.
    features: units of a direction.
    num_layers: LSTMs.
    dropout: after each.
    bidirectional: LSTMs run in both directions.
    activation: a key of ACTIVATIONS, of the masks.
    n_fft: window, samples.
    hop: from frame to frame, samples: those of a token, 320 or 160.
  """

  PARAMETERS: ClassVar[tuple[str, ...]] = (
    *(f'rnn_{i}' for i in range(8)), *(f'mask_{i}' for i in range(8)),
  )  # fmt: skip
  TRAINING: ClassVar[tuple[str, ...]] = ('dropout',)
  encoder_args: ClassVar[Mapping[str, Any]] = {}

  signals: int = 1
  features: int = 896
  num_layers: int = 3
  dropout: float = 0.5
  bidirectional: bool = True
  activation: str = 'relu'
  n_fft: int = 512
  hop: int = 320

  def __post_init__(self):
    if self.activation not in ACTIVATIONS:
      raise unknown('activation of head masks', self.activation, ACTIVATIONS)
    super().__post_init__()

  def setup(self):
    self.rnn = [LSTM(self.features, self.bidirectional) for _ in range(self.num_layers)]
    self.mask = [layers.Linear(self.n_fft // 2 + 1) for _ in range(self.signals)]

  def __call__(
    self,
    tokens: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'],
    encoded: Mapping[str, Any],
    train: bool,
  ) -> dict[str, Array]:
    """'masks' [b, k, m, f]; 'mask_frames' [b, m]: frames of each clip; 'mixture'
    [b, m, f, 2], and 'sources' [b, k, m, f, 2] where they are given: spectra, real and imaginary.

    Raises:
      InputError: there is no audio, or tokens and frames are far from as many.
    """
    batch = encoded.get('batch', {})
    if self.is_initializing():
      batch = {
        'audio': jnp.zeros((len(tokens), self.hop)),
        'audio_mask': jnp.ones((len(tokens), self.hop), bool),
      }
      tokens, mask = tokens[:, :1], mask[:, :1]
    if 'audio' not in batch:
      raise InputError('Head masks needs the audio of its batch, whose spectrogram it masks.')
    audio_mask = jnp.asarray(batch['audio_mask'])
    frames = stft_frames(audio_mask.shape[1], self.hop)
    n = tokens.shape[1]
    if abs(n - frames) >= TOLERANCE:
      raise InputError(
        f'Head masks got {n} tokens for {frames} frames of a spectrogram with hop={self.hop}: give '
        'the hop of the encoder (320 for wav2vec 2.0 and its relatives, 160 for wav2vec and fbank).'
      )
    real = jnp.arange(frames) < stft_frames(audio_mask.sum(axis=1), self.hop)[:, None]
    x = jnp.where(mask[:, :, None], tokens, 0.0)[:, :frames]
    x = jnp.pad(x, ((0, 0), (0, max(0, frames - n)), (0, 0)))
    for rnn in self.rnn:
      x, _ = rnn(x, real)
      x = drop(self, x, self.dropout, train)
    bend = ACTIVATIONS[self.activation]
    masks = jnp.stack([bend(head(x)) for head in self.mask], axis=1)
    out = {'masks': masks, 'mask_frames': real}
    out['mixture'] = self._spectra(batch['audio'], audio_mask, real)
    if 'sources' in batch:
      both = audio_mask[:, None], real[:, None]
      out['sources'] = self._spectra(batch['sources'], *both)
    return out

  def _spectra(self, audio: Any, audio_mask: Array, real: Array) -> Array:
    audio = jnp.where(audio_mask, jnp.asarray(audio).astype(jnp.float32), 0.0)
    spectra = stft(audio, n_fft=self.n_fft, hop=self.hop)
    pairs = jnp.stack([spectra.real, spectra.imag], axis=-1)
    return jnp.where(real[..., None, None], pairs, 0.0)
