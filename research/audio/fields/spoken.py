"""Texts that clips say, in the symbols of a model that speaks."""

import dataclasses
from typing import ClassVar

import numpy as np
from absl import logging
from jaxtyping import Bool

from research.audio.clips import Source
from research.audio.fields import Conditioned, Context, Field
from research.audio.fields.transcript import CHARACTERS_PER_SECOND, Tokens, texts
from research.errors import InputError
from research.text import alphabets


@dataclasses.dataclass(frozen=True)
class Spoken(Field):
  """Gives '<key>' i32 [b, u], the symbols of what clips say, padded with -1. The alphabet is that
  of the model, by which texts are normalised too. Characters that it has not are left out.

  Clips must not be longer than the batches: the text of a crop is unknown.

  Attributes:
    column: column of texts.
    alphabet: of `text.alphabets`; None for that of the model.
  """

  column: str = 'transcript'
  alphabet: str | None = None

  WHOLE: ClassVar[bool] = True

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have a text.

    Raises:
      InputError: no clip has one, or there is no such column.
    """
    found = np.array([bool(text.strip()) for text in texts(source, self.column)])
    if not found.any():
      raise InputError(
        f'No clip of {source.name!r} has a {self.column!r}: there is no text to say.'
      )
    return found

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """As many characters as English speech of that length has."""
    count = max(1, round(CHARACTERS_PER_SECOND * samples / context.sample_rate))
    return {self.key: np.zeros((clips, count), np.int32)}

  def open(self, source: Source, context: Context) -> Tokens:
    """The symbols of all clips.

    Raises:
      InputError: no alphabet, or another one than the model's; a clip without a text, or with
        nothing in it that is spoken.
    """
    alphabet = alphabets.get(self._alphabet(context))
    ids, left_out = [], 0
    for row, text in enumerate(texts(source, self.column)):
      try:
        ids.append(alphabet.encode(text, strict=False))
      except InputError as error:
        raise InputError(f'Clip {source.id(row)!r} of {source.name!r}: {error}') from None
      left_out += len(alphabet.normalised(text)) - len(ids[-1])
    if left_out and context.train:
      logging.warning(
        '%d of %d characters of %r are not in the alphabet %r and are left out.',
        left_out, left_out + sum(map(len, ids)), source.name, alphabet.name,
      )  # fmt: skip
    return Tokens(ids, np.asarray(source.durations()), context.sample_rate, self.key)

  def _alphabet(self, context: Context) -> str:
    model = context.model
    own = model.spelling.name if isinstance(model, Conditioned) and model.spelling else None
    given = self.alphabet or own
    if given is None:
      raise InputError(
        f'config.data.fields.{self.key} needs an alphabet, for the model has none: set '
        "config.model.args.text.alphabet, as to 'english'."
      )
    if own is not None and own != given:
      raise InputError(
        f'config.data.fields.{self.key}.args.alphabet is {given!r}, and the model spells by '
        f'{own!r}: leave it out.'
      )
    return given
