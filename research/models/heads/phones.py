"""Phones by CTC as SUPERB's phone recognition has them (arXiv 2105.01051): a projection and a
linear map, nothing bent between (s3prl downstream/ctc with FrameLevel).

Letters: b batch, n tokens, d width, v symbols.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.models.heads.ctc import certain_of_blank, check_vocabulary
from research.nn import layers
from research.text.phones import PHONES


class Phones(nn.Module):
  """A projection and a linear map to symbols.

  Attributes:
    vocabulary: symbols in the order of the logits.
    blank: index of CTC's blank among them.
    width: of the projection.
  """

  PARAMETERS: ClassVar[tuple[str, ...]] = ('projector', 'head')
  encoder_args: ClassVar[Mapping[str, Any]] = {}

  vocabulary: Sequence[str] = PHONES
  blank: int = 0
  width: int = 256

  def __post_init__(self):
    object.__setattr__(self, 'vocabulary', tuple(self.vocabulary))  # JSON has lists
    check_vocabulary(self)
    super().__post_init__()

  def setup(self):
    self.projector = layers.Linear(self.width)
    self.head = layers.Linear(len(self.vocabulary))

  def __call__(
    self,
    tokens: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'],
    encoded: Mapping[str, Any],
    train: bool,
  ) -> dict[str, Array]:
    """'projected' [b, n, k], 'logits' [b, n, v] float32; padded tokens are certain of the blank."""
    del encoded, train
    projected = self.projector(jnp.where(mask[:, :, None], tokens, 0.0))
    logits = self.head(projected)
    return {'projected': projected, 'logits': certain_of_blank(logits, mask, self.blank)}
