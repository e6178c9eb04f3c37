"""wav2vec 2.0 (arXiv 2006.11477): masked frames are told apart from distractors by their codes.

Figures are those of fairseq's models/wav2vec/wav2vec2.py and examples/wav2vec/config/pretraining.
Letters: b batch, t samples, n frames, m masked places, d width, f contrastive width, k distractors.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from research.errors import InputError
from research.models import speech, waveform
from research.models.settings import by_size
from research.models.speech import LAYERED, Size
from research.nn import layers, quantizers

AnyArray = jax.Array | np.ndarray

# fairseq's wav2vec2_base_librispeech and wav2vec2_large_librivox; torchaudio's WAV2VEC2_LARGE.
SIZES = {
  'tiny': Size(  # ours
    width=192, depth=4, heads=3, hidden=768, final_dim=64, temperature_end=0.5
  ),
  'base': Size(
    width=768,
    depth=12,
    heads=12,
    hidden=3072,
    final_dim=256,
    layerdrop=0.05,
    temperature_end=0.5,
  ),
  'large': Size(
    width=1024,
    depth=24,
    heads=16,
    hidden=4096,
    final_dim=768,
    layerdrop=0.2,
    temperature_end=0.1,
  ),
  'large_lv60': Size(
    width=1024,
    depth=24,
    heads=16,
    hidden=4096,
    final_dim=768,
    conv_bias=True,
    temperature_end=0.1,
    **LAYERED,
  ),
}


class Wav2Vec2(speech.SpeechEncoder):
  """The encoder with its quantiser and heads.

  Attributes (those of SpeechEncoder, and):
    final_dim: of the space in which context and targets are compared.
    quantise: False leaves out the quantiser: targets are a projection of the frames.
    groups, codebook_size, latent_dim: of the quantiser; `latent_dim` is all groups together.
    negatives: distractors of every masked frame, from the other ones of its clip.
    cross_sample_negatives: further ones, from the other masked frames of all clips of the batch
      (fairseq's option; there the batch of one GPU, and a frame may meet itself).
    codebook_negatives: further ones, any vectors of the codebook, groups drawn independently.
    feature_dropout: of the frames that are quantised, in training (fairseq's dropout_features);
      None: `input_dropout`, as in all published recipes.
    temperature_start, temperature_end, temperature_decay: of the Gumbel softmax, by updates.
  """

  SIZES: ClassVar[Mapping[str, Size]] = SIZES
  TITLE: ClassVar[str] = 'wav2vec 2.0'
  TRAINING: ClassVar[tuple[str, ...]] = (
    *speech.SpeechEncoder.TRAINING, 'negatives', 'cross_sample_negatives', 'codebook_negatives',
    'feature_dropout', 'temperature_start', 'temperature_end', 'temperature_decay',
  )  # fmt: skip

  final_dim: int = by_size()
  quantise: bool = True
  groups: int = 2
  codebook_size: int = 320
  latent_dim: int = by_size()  # `final_dim`
  negatives: int = 100
  cross_sample_negatives: int = 0
  codebook_negatives: int = 0
  feature_dropout: float = by_size()
  temperature_start: float = 2.0
  temperature_end: float = by_size()
  temperature_decay: float = 0.999995

  def _check(self) -> None:
    self._check_multiple('latent_dim', 'groups')
    if self.feature_dropout is None:
      object.__setattr__(self, 'feature_dropout', self.input_dropout)
    kinds = ('negatives', 'cross_sample_negatives', 'codebook_negatives')
    counts = {name: getattr(self, name) for name in kinds}
    if min(counts.values()) < 0 or not any(counts.values()):
      named = ', '.join(f'{name}={value!r}' for name, value in counts.items())
      raise InputError(f'wav2vec 2.0 got {named}: give none below 0, and one above.')
    if self.codebook_negatives and not self.quantise:
      raise InputError(
        f'wav2vec 2.0 got codebook_negatives={self.codebook_negatives} and quantise=False: there '
        'is no codebook to draw from. Give codebook_negatives=0.'
      )

  def _figures(self, table: dict[str, Any]) -> dict[str, Any]:
    own = table['final_dim'] if self.final_dim is None else self.final_dim
    return {**super()._figures(table), 'latent_dim': own}

  def setup(self):
    super().setup()
    torch = waveform.torch_linear
    if self.quantise:
      self.quantizer = quantizers.GumbelQuantizer(self.groups, self.codebook_size, self.latent_dim)
    target_width = self.latent_dim if self.quantise else self.channels
    f = self.final_dim
    self.project_targets = layers.Dense(f, jnp.float32, torch(target_width), torch(target_width))
    self.project_context = layers.Dense(f, jnp.float32, torch(self.width), torch(self.width))

  @nn.compact
  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Masks spans, encodes, quantises what was hidden and draws distractors.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]. Draws may be given: 'span_mask' [b, n] (shorter or
        longer is as good; m is n then), 'negative_draws' int [b, m or more, k] below (masked
        frames - 1), 'cross_negative_draws' int [b, m or more, k] below (those of the batch - 1),
        'codebook_draws' int [b, m or more, k, g] below `codebook_size`, 'gumbel_noise' [b, m or
        more, g, codebook_size]; else rngs 'mask' and 'noise' give them. Clips with 'valid' [b]
        False are no others.
      train: dropout, Gumbel noise and the update counter act.

    Returns:
      what `objectives.contrastive.wav2vec2_contrastive` takes, and 'features' [b, n, c],
      'frame_mask', 'span_mask' [b, n], 'tokens' [b, n, d], 'layers', 'positions',
      'quantised', 'temperature',
      'embedding' [b, d]: mean of the real frames, whose spread tells a collapse.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    features, real, normed = self._frames(
      batch['audio'], batch['audio_mask'], clip_stats=batch.get('clip_stats')
    )
    mask = self._spans(batch, real)
    channels = self._channels(batch, len(mask))
    encoded = self._encode(normed, real, mask, train, channels)
    places, used = self._masked_places(batch, mask)
    hidden = waveform.drop(self, speech.take(normed, places), self.feature_dropout, train)

    out: dict[str, Any] = {}
    updates = layers.next_update(self, layers.count_updates(self), train)
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
        'min_prob_perplexity': found.min_prob_perplexity,
        'min_code_perplexity': found.min_code_perplexity,
        'num_codes': self.groups * self.codebook_size,
      }
    if self.cross_sample_negatives:
      out['cross_negatives'] = self._draw_across(batch, used)
    if self.codebook_negatives:
      drawn = self._draw_codes(batch, used)
      vectors = self.quantizer.vectors(drawn)
      out |= {'codebook_codes': drawn, 'codebook_targets': self.project_targets(vectors)}
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

  def _draw_across(self, batch: Mapping[str, Any], used: Bool[Array, 'b m']) -> Int[Array, 'b m k']:
    """For every place other used ones of the batch, uniform with replacement; place i of clip j
    has the number j m + i. Where there is no other one, it is one that is not used."""
    b, m = used.shape
    used = used & batch['valid'][:, None] if 'valid' in batch else used
    flat = used.reshape(b * m)
    draws = batch.get('cross_negative_draws')
    if draws is None:
      shape = (b, m, self.cross_sample_negatives)
      others = jnp.maximum(flat.sum() - 1, 1)
      draws = jax.random.randint(waveform.draw_key(self, 'mask'), shape, 0, others)
    # Draws count the used places in a row, without the own one.
    own = jnp.cumsum(flat).reshape(b, m, 1) - 1
    draws = draws[:, :m]
    draws = draws + (draws >= own).astype(draws.dtype)
    order = jnp.argsort(~flat, stable=True)
    return jnp.take(order, draws, mode='fill', fill_value=b * m)

  def _draw_codes(
    self, batch: Mapping[str, Any], used: Bool[Array, 'b m']
  ) -> Int[Array, 'b m k g']:
    """For every place codes of any vectors."""
    b, m = used.shape
    if 'codebook_draws' in batch:
      return batch['codebook_draws'][:, :m]
    shape = (b, m, self.codebook_negatives, self.groups)
    return jax.random.randint(waveform.draw_key(self, 'mask'), shape, 0, self.codebook_size)
