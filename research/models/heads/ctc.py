"""Fine-tuning encoders of speech (wav2vec 2.0, arXiv 2006.11477, section 4.4; HuBERT, 2106.07447,
section IV-C): the encoder with a letter head for CTC.

Figures are those of fairseq's models/wav2vec/wav2vec2_asr.py, models/hubert/hubert_asr.py and of
their configs for fine-tuning.
Letters: b batch, t samples, n frames, v symbols, d width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.errors import InputError
from research.models import speech, waveform
from research.nn import layers
from research.text.characters import CHARACTERS

# What fine-tuning has instead of a size's own rates, but for activation and layer drop below.
NO_DROPOUT = dict(dropout=0.0, attention_dropout=0.0, input_dropout=0.0)


class SpeechCTC(speech.SpeechEncoder):
  """The encoder and a linear head over symbols; its sizes are those of the subclass.

  Attributes (those of SpeechEncoder, with fine-tuning's rates, and):
    vocabulary: symbols in the order of the logits; empty leaves the head out.
    blank: index of CTC's blank among them.
    head_dropout: of the head's input.
    freeze_feature_encoder: no gradient enters the convolutions; the default where `gradient_scale`
      says nothing else.
    freeze_updates: for so many updates only the head learns; masks and dropout act all the same.
  """

  TRAINING: ClassVar[tuple[str, ...]] = (
    *speech.SpeechEncoder.TRAINING, 'head_dropout', 'freeze_feature_encoder', 'freeze_updates',
  )  # fmt: skip

  vocabulary: Sequence[str] = CHARACTERS  # a list from a file becomes a tuple
  blank: int = 0
  head_dropout: float = 0.0
  freeze_feature_encoder: bool | None = None
  freeze_updates: int = 0
  activation_dropout: float = 0.1
  layer_drop: float = 0.1

  def __post_init__(self):
    object.__setattr__(self, 'vocabulary', tuple(self.vocabulary))
    if self.vocabulary and not 0 <= self.blank < len(self.vocabulary):
      raise InputError(
        f'blank={self.blank} is no index of a vocabulary of {len(self.vocabulary)} symbols.'
      )
    # Two words for one thing must say the same.
    stopped = self.gradient_scale is None or self.gradient_scale == 0.0
    if self.freeze_feature_encoder is None:
      object.__setattr__(self, 'freeze_feature_encoder', stopped)
    if self.gradient_scale is not None and stopped != self.freeze_feature_encoder:
      raise InputError(
        f'{self.TITLE} got freeze_feature_encoder={self.freeze_feature_encoder} and '
        f'gradient_scale={self.gradient_scale:g}: the first is True where the second is 0.'
      )
    super().__post_init__()

  def _figures(self, table: dict[str, Any]) -> dict[str, Any]:
    scale = 0.0 if self.freeze_feature_encoder else 1.0
    return {**super()._figures(table), **NO_DROPOUT, 'gradient_scale': scale}

  def setup(self):
    super().setup()
    if self.vocabulary:
      xavier = nn.initializers.xavier_uniform()
      self.head = layers.Dense(len(self.vocabulary), kernel_init=xavier)

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Logits of every frame.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]. In training 'span_mask' [b, n] and 'channel_mask'
        [b, d] may be given; else they come from rng 'mask'.
      train: masks and dropout act.

    Returns:
      'logits' [b, n, v] float32, padded frames certain of the blank; 'frame_mask' [b, n]; 'tokens'
      [b, n, d]; 'layers', 'positions', 'embedding' [b, d] as in pre-training.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    _, real, normed = self._frames(
      batch['audio'], batch['audio_mask'], clip_stats=batch.get('clip_stats')
    )
    mask = channels = None
    if train:
      mask = self._spans(batch, real) if self.mask_prob or 'span_mask' in batch else None
      channels = self._channels(batch, len(real))
    encoded = self._encode(normed, real, mask, train, channels)
    updates = layers.next_update(self, self.updates, train)
    tokens = encoded['tokens'].astype(jnp.float32)
    if self.freeze_updates:
      tokens = jnp.where(updates < self.freeze_updates, jax.lax.stop_gradient(tokens), tokens)
    out = {**encoded, 'frame_mask': real, 'embedding': waveform.mean_frames(tokens, real)}
    if not self.vocabulary:
      return out
    logits = self.head(waveform.drop(self, tokens, self.head_dropout, train))
    certain = jnp.where(jnp.arange(len(self.vocabulary)) == self.blank, 0.0, -jnp.inf)
    return out | {'logits': jnp.where(real[:, :, None], logits, certain)}
