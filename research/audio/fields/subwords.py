"""Texts of clips as the ids of SentencePiece's subwords: targets of a decoder."""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

from research.audio.clips import Source
from research.audio.fields import Context, Field
from research.audio.fields.transcript import CHARACTERS_PER_SECOND, Tokens, texts
from research.errors import InputError
from research.text.sentencepieces import SentencePieces


@dataclasses.dataclass(frozen=True)
class Subwords(Field):
  """Gives '<key>' i32 [b, u], the ids of a text and its end, padded with -1.

  Clips must not be longer than the batches: the text of a crop is unknown.

  Attributes:
    model: a file of SentencePiece, with the special ids of fairseq (`text/sentencepieces.py`).
    column: of texts.
  """

  model: str
  column: str = 'translation'

  WHOLE: ClassVar[bool] = True

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have a text; raises InputError if none has, or there is no such column."""
    found = np.array([bool(text.strip()) for text in texts(source, self.column)])
    if not found.any():
      raise InputError(f'No clip of {source.name!r} has a {self.column!r}.')
    return found

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """As many ids as English speech of that length has characters."""
    count = max(1, round(CHARACTERS_PER_SECOND * samples / context.sample_rate))
    return {self.key: np.zeros((clips, count), np.int32)}

  def open(self, source: Source, context: Context) -> Tokens:
    """The ids of all texts.

    Raises:
      InputError: no such model, or a clip without a text.
    """
    pieces, given = SentencePieces(self.model), texts(source, self.column)
    if lacking := sum(not text.strip() for text in given):
      raise InputError(
        f'{lacking} of {len(given)} clips of {source.name!r} have no {self.column!r}: leave out '
        'clips without one.'
      )
    ids = [pieces.encode(text) for text in given]
    return Tokens(ids, np.asarray(source.durations()), context.sample_rate, self.key)
