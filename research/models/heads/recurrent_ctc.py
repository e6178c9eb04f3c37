"""Symbols by bidirectional LSTMs and CTC, as SUPERB's speech recognition and slot filling have them
(arXiv 2105.01051; figures of s3prl downstream/asr and downstream/ctc/snips.yaml).

Letters: b batch, n tokens, d width, v symbols, h units of a direction.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError
from research.features import feature_masks
from research.models import settings
from research.models.heads.ctc import certain_of_blank, check_vocabulary
from research.models.waveform import draw_key, drop
from research.nn import layers
from research.nn.recurrent import LSTM
from research.text.characters import SUPERB_CHARACTERS


class RecurrentCTC(nn.Module):
  """A projection, bidirectional LSTMs with dropout after each, a linear map to symbols.

  In training, features are masked before the projection (`features/feature_masks.py`), by draws of
  rng 'augment' or by the batch's 'feature_draws'. Masks of dropout may be given by the batch's
  'dropout_keep', one [b, n, 2 h] a layer.

  Attributes:
    vocabulary: symbols in the order of the logits.
    blank: index of CTC's blank among them.
    width: of the projection.
    features: h.
    num_layers: LSTMs.
    dropout: after each, one rate or one a layer.
    bidirectional: LSTMs run in both directions.
    spec_augment: arguments of `draw_feature_masks` that differ from SUPERB's; None: no masks.
  """

  PARAMETERS: ClassVar[tuple[str, ...]] = ('projector', *(f'rnn_{i}' for i in range(16)), 'head')
  TRAINING: ClassVar[tuple[str, ...]] = ('dropout', 'spec_augment')
  encoder_args: ClassVar[Mapping[str, Any]] = {}

  vocabulary: Sequence[str] = SUPERB_CHARACTERS
  blank: int = 0
  width: int = 1024
  features: int = 1024
  num_layers: int = 2
  dropout: float | tuple[float, ...] = 0.2
  bidirectional: bool = True
  spec_augment: Any = ()

  def __post_init__(self):
    object.__setattr__(self, 'vocabulary', tuple(self.vocabulary))  # JSON has lists
    check_vocabulary(self)
    if self.spec_augment is not None:
      object.__setattr__(self, 'spec_augment', settings.frozen(dict(self.spec_augment)))
    if not 1 <= self.num_layers <= 16:
      raise InputError(f'head recurrent_ctc got num_layers={self.num_layers}; 1 to 16 is expected.')
    if not isinstance(self.dropout, float | int):
      object.__setattr__(self, 'dropout', tuple(self.dropout))
      if len(self.dropout) != self.num_layers:
        raise InputError(
          f'head recurrent_ctc got {len(self.dropout)} rates of dropout for {self.num_layers} '
          'layers: give one, or one a layer.'
        )
    super().__post_init__()

  def setup(self):
    self.projector = layers.Linear(self.width)
    self.rnn = [LSTM(self.features, self.bidirectional) for _ in range(self.num_layers)]
    self.head = layers.Linear(len(self.vocabulary))

  def __call__(
    self,
    tokens: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'],
    encoded: Mapping[str, Any],
    train: bool,
  ) -> dict[str, Any]:
    """'recurrent', the outputs of every LSTM, each [b, n, 2 h]; 'logits' [b, n, v] float32; padded
    tokens are certain of the blank."""
    batch = encoded.get('batch', {})
    x = jnp.where(mask[:, :, None], tokens, 0.0)
    if train and self.spec_augment is not None and not self.is_initializing():
      draws = batch.get('feature_draws')
      if draws is None:
        key = draw_key(self, 'augment')
        draws = feature_masks.draw_feature_masks(key, mask, x.shape[2], **self.spec_augment)
      x = feature_masks.mask_features(x, mask, feature_masks.FeatureDraws(*draws))
    x = self.projector(x)
    kept, outputs = batch.get('dropout_keep'), []
    one = isinstance(self.dropout, float | int)
    for i, rnn in enumerate(self.rnn):
      rate: Any = self.dropout if one else self.dropout[i]  # type: ignore[index]
      x, _ = rnn(x, mask)
      if train and kept is not None:
        x = jnp.where(kept[i] > 0, x / (1.0 - rate), 0.0)
      else:
        x = drop(self, x, rate, train)
      outputs.append(x)
    logits = certain_of_blank(self.head(x), mask, self.blank)
    return {'recurrent': tuple(outputs), 'logits': logits}
