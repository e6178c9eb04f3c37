"""Symbols by CTC (wav2vec 2.0, arXiv 2006.11477, section 4.4; HuBERT, 2106.07447, section IV-C).

Figures are those of fairseq's models/wav2vec/wav2vec2_asr.py and models/hubert/hubert_asr.py.
Letters: b batch, n tokens, d width, v symbols.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError
from research.models import waveform
from research.nn import layers
from research.text.characters import CHARACTERS


class CTC(nn.Module):
  """Dropout and a linear map to symbols.

  Attributes:
    vocabulary: symbols in the order of the logits.
    blank: index of CTC's blank among them.
    dropout: of the head's input.
  """

  PARAMETERS: ClassVar[tuple[str, ...]] = ('head',)
  TRAINING: ClassVar[tuple[str, ...]] = ('dropout',)
  encoder_args: ClassVar[Mapping[str, Any]] = {}

  vocabulary: Sequence[str] = CHARACTERS  # a list from a file becomes a tuple
  blank: int = 0
  dropout: float = 0.0

  def __post_init__(self):
    object.__setattr__(self, 'vocabulary', tuple(self.vocabulary))  # JSON has lists
    check_vocabulary(self)
    super().__post_init__()

  def setup(self):
    xavier = nn.initializers.xavier_uniform()
    self.head = layers.Dense(len(self.vocabulary), kernel_init=xavier)

  def __call__(
    self,
    tokens: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'],
    encoded: Mapping[str, Any],
    train: bool,
  ) -> dict[str, Array]:
    """'logits' [b, n, v] float32; padded tokens are certain of the blank."""
    del encoded
    logits = self.head(waveform.drop(self, tokens, self.dropout, train))
    return {'logits': certain_of_blank(logits, mask, self.blank)}


def check_vocabulary(head: Any) -> None:
  """Raises InputError unless a head has symbols, and its blank is one of them."""
  if not head.vocabulary:
    raise InputError('CTC got an empty vocabulary: give its symbols, or head=None for no head.')
  if not 0 <= head.blank < len(head.vocabulary):
    raise InputError(
      f'blank={head.blank} is no index of a vocabulary of {len(head.vocabulary)} symbols.'
    )


def certain_of_blank(
  logits: Float[Array, 'b n v'], mask: Bool[Array, 'b n'], blank: int
) -> Float[Array, 'b n v']:
  """Logits whose padded tokens are certain of the blank."""
  certain = jnp.where(jnp.arange(logits.shape[-1]) == blank, 0.0, -jnp.inf)
  return jnp.where(mask[:, :, None], logits, certain)
