"""Classes of utterances in SUPERB (arXiv 2105.01051): keywords, speakers, emotions, intents.

Figures of s3prl downstream/model.py (UtteranceLevel, MeanPooling) and speech_commands, voxceleb1,
emotion, fluent_commands. Letters: b batch, n tokens, d width, c classes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from research.errors import InputError
from research.models.waveform import mean_frames
from research.nn import layers


class Utterance(nn.Module):
  """A projection, the mean over real tokens, a linear map; nothing between is bent.

  Attributes:
    classes: number of logits.
    slots: of several questions (intents: action, object, location) the number of classes of each,
      side by side in the logits; empty for one.
    width: of the projection.
    labels: names of the classes, where they are known.
  """

  PARAMETERS: ClassVar[tuple[str, ...]] = ('projector', 'head')
  encoder_args: ClassVar[Mapping[str, Any]] = {}

  classes: int
  slots: tuple[int, ...] = ()
  width: int = 256
  labels: tuple[str, ...] = ()

  def __post_init__(self):
    for name in ('slots', 'labels'):
      object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
    if self.classes < 1 or (self.slots and sum(self.slots) != self.classes):
      raise InputError(
        f'head utterance got classes={self.classes} and slots={self.slots}; expected 1 class or '
        'more, the sum of the slots where there are some.'
      )
    if self.labels and len(self.labels) != self.classes:
      raise InputError(
        f'head utterance got classes={self.classes} and {len(self.labels)} labels; expected a '
        'label for every class, or none.'
      )
    super().__post_init__()

  def setup(self):
    self.projector = layers.Linear(self.width)
    self.head = layers.Linear(self.classes)

  def __call__(
    self,
    tokens: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'],
    encoded: Mapping[str, Any],
    train: bool,
  ) -> dict[str, Array]:
    """'pooled' [b, k], 'logits' [b, c] float32."""
    del encoded, train
    pooled = mean_frames(self.projector(tokens), mask)
    return {'pooled': pooled, 'logits': self.head(pooled)}
