"""wav2vec 2.0 (arXiv 2006.11477): masked frames are told apart from distractors by their codes.

Figures are those of fairseq's models/wav2vec/wav2vec2.py and examples/wav2vec/config/pretraining.
Letters: b batch, t samples, n frames, m masked places, d width, f contrastive width, k distractors.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from research.models import layers, quantizers, speech, speech_ctc, waveform
from research.models.speech import Size

AnyArray = jax.Array | np.ndarray

# fairseq's wav2vec2_base_librispeech and wav2vec2_large_librivox; torchaudio's WAV2VEC2_LARGE.
SIZES = {
  'tiny': Size(192, 4, 3, 768, 'group', False, False, False, 64, 0.1, 0.0, 0.1, 0.5),  # ours
  'base': Size(768, 12, 12, 3072, 'group', False, False, False, 256, 0.1, 0.05, 0.1, 0.5),
  'large': Size(1024, 24, 16, 4096, 'group', False, False, False, 768, 0.1, 0.2, 0.1, 0.1),
  'large_lv60': Size(1024, 24, 16, 4096, 'layer', True, True, True, 768, 0.0, 0.0, 1.0, 0.1),
}


class Wav2Vec2(speech.SpeechEncoder):
  """The encoder with its quantiser and heads.

  Attributes (those of SpeechEncoder, and):
    final_width: of the space in which context and targets are compared.
    quantise: False leaves out the quantiser: targets are a projection of the frames.
    groups, codes, code_width: of the quantiser; `code_width` is all groups together.
    negatives: distractors of every masked frame.
    temperature_start, temperature_end, temperature_decay: of the Gumbel softmax, by updates.
  """

  SIZES: ClassVar[Mapping[str, Size]] = SIZES
  TITLE: ClassVar[str] = 'wav2vec 2.0'

  final_width: int = None  # type: ignore[assignment]
  quantise: bool = True
  groups: int = 2
  codes: int = 320
  code_width: int = None  # type: ignore[assignment]
  negatives: int = 100
  temperature_start: float = 2.0
  temperature_end: float = None  # type: ignore[assignment]
  temperature_decay: float = 0.999995

  def __post_init__(self):
    super().__post_init__()
    self._demand_multiple('code_width', 'groups')

  def _figures(self, table: dict[str, Any]) -> dict[str, Any]:
    own = table['final_width'] if self.final_width is None else self.final_width
    return {**super()._figures(table), 'code_width': own}

  def setup(self):
    super().setup()
    torch = waveform.torch_linear
    if self.quantise:
      self.quantizer = quantizers.GumbelQuantizer(self.groups, self.codes, self.code_width)
    target_width = self.code_width if self.quantise else self.channels
    f = self.final_width
    self.project_targets = layers.Dense(f, jnp.float32, torch(target_width), torch(target_width))
    self.project_context = layers.Dense(f, jnp.float32, torch(self.width), torch(self.width))

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Masks spans, encodes, quantises what was hidden and draws distractors.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]. Draws may be given: 'span_mask' [b, n] (shorter or
        longer is as good; m is n then), 'negative_draws' int [b, m or more, k] below (masked
        frames - 1), 'gumbel_noise' [b, m or more, g, k]; else rngs 'mask' and 'noise' give them.
      train: dropout, Gumbel noise and the update counter act.

    Returns:
      what `objectives.contrastive.wav2vec2_contrastive` takes, and 'features' [b, n, c],
      'frame_mask', 'span_mask' [b, n], 'tokens' [b, n, d], 'layers', 'positions',
      'quantised', 'temperature',
      'embedding' [b, d]: mean of the real frames, whose spread tells a collapse.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    features, real, normed = self._frames(
      batch['audio'], batch['audio_mask'], moments=batch.get('audio_moments')
    )
    mask = self._spans(batch, real)
    channels = self._channels(batch, len(mask))
    encoded = self._encode(normed, real, mask, train, channels)
    places, used = self._masked_places(batch, mask)
    hidden = waveform.drop(self, speech.take(normed, places), self.input_dropout, train)

    out: dict[str, Any] = {}
    updates = layers.next_update(self, self.updates, train)
    falling = self.temperature_start, self.temperature_end, self.temperature_decay
    temperature = quantizers.falling_temperature(updates, *falling)
    if self.quantise:
      noise = batch['gumbel_noise'][:, : places.shape[1]] if 'gumbel_noise' in batch else None
      found = self.quantizer(hidden, used, temperature, noise, train)
      hidden = found.vectors
      out |= {
        'codes': found.codes,
        'best_codes': found.best,
        'code_logits': found.logits,
        'prob_perplexity': found.prob_perplexity,
        'code_perplexity': found.code_perplexity,
        'num_codes': self.groups * self.codes,
      }
    context = speech.take(encoded['tokens'], places)
    return out | {
      'context': self.project_context(context.astype(jnp.float32)),
      'targets': self.project_targets(hidden),
      'used': used,
      'negatives': waveform.draw_others(self, batch, used, self.negatives),
      'feature_penalty': self._penalty(features, real),
      'features': features,
      'frame_mask': real,
      'span_mask': mask,
      'quantised': hidden,
      'temperature': temperature,
      'embedding': waveform.mean_frames(encoded['tokens'], real),
      **encoded,
    }


class Wav2Vec2CTC(speech_ctc.SpeechCTC):
  """wav2vec 2.0 for transcripts."""

  SIZES: ClassVar[Mapping[str, Size]] = SIZES
  TITLE: ClassVar[str] = 'wav2vec 2.0'
