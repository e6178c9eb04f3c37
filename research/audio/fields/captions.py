"""Captions of clips as padded token ids; labels as captions, by templates."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from research.audio import batching
from research.audio.clips import Source
from research.audio.fields import Context, Crops, Field, Rows
from research.errors import InputError
from research.text import subwords

BYTES = subwords.BYTES


@dataclasses.dataclass(frozen=True)
class Captions(Field):
  """Gives '<key>' i32 [b, u], the token ids of a caption, and '<key>_mask' bool [b, u]. For clips
  with several captions (a column of lists, or several templates), training draws one at every read;
  evaluation takes the first.

  Attributes:
    column: column of captions, or of lists of captions; with a template of labels.
    template: makes captions of labels: a text with {} for the label, in which '_' is a space, or
      several such texts. The labels of a clip are put into one caption: 'a, b and c'. '': the
      column holds captions. LAION-CLAP: 'The sounds of {}'; Microsoft: 'this is the sound of {}'.
    max_tokens: u; longer captions are truncated.
    tokenizer: 'bytes': UTF-8, ids 0 to 255; or a file or folder with the tokenizer of a checkpoint
      (see `text/subwords.py`), which must fit the model's vocabulary.
    suffix: put behind every caption (Microsoft CLAP 2023: ' <|endoftext|>').
  """

  column: str = 'caption'
  template: str | Sequence[str] = ''
  max_tokens: int = 128
  tokenizer: str = BYTES
  suffix: str = ''

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have a caption; raises InputError if none has."""
    found = np.array([bool(each) for each in captions(source, self.column, self.template)])
    if not found.any():
      raise InputError(f'No clip of {source.name!r} has a {self.column!r}.')
    return found

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Empty captions."""
    shape = (clips, self.max_tokens)
    return {self.key: np.zeros(shape, np.int32), f'{self.key}_mask': np.zeros(shape, bool)}

  def open(self, source: Source, context: Context) -> 'CaptionRows':
    """Tokenizes all captions.

    Raises:
      InputError: no such tokenizer, one of another vocabulary than the model's, or a clip without a
        caption.
    """
    if self.max_tokens < 1:
      raise InputError(
        f'config.data.fields.{self.key}.args.max_tokens is {self.max_tokens}; give at least 1.'
      )
    given = captions(source, self.column, self.template)
    for row, each in enumerate(given):
      if not each:
        raise InputError(
          f'Clip {source.id(row)!r} of {source.name!r} has no {self.column!r}: leave out clips '
          'without one.'
        )
    encode = self._encoder(context)
    encoded = [[encode(f'{c}{self.suffix}') for c in each] for each in given]
    seed = context.seed if context.train else None
    return CaptionRows(self.key, encoded, self.max_tokens, seed)

  def _encoder(self, context: Context) -> Callable[[str], np.ndarray]:
    """Captions to ids."""
    tokenizer = subwords.read_tokenizer(self.tokenizer)
    rows = getattr(context.model, 'vocabulary', None)
    if isinstance(rows, int):
      tokenizer.check_fits(rows, padded=self.tokenizer == BYTES)
    return lambda text: tokenizer.encode(text, max_tokens=self.max_tokens)


@dataclasses.dataclass
class CaptionRows(Rows):
  """Token ids of the captions of every clip; with `seed` None the first caption is used."""

  key: str
  ids: list[list[np.ndarray]]
  max_tokens: int
  seed: int | None

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """A caption for every valid row; empty for the others."""
    out: Any = np.zeros((len(crops.index), self.max_tokens), np.int32)
    lengths = np.zeros(len(crops.index), np.int64)
    for i, row in enumerate(crops.index):
      if not crops.valid[i]:
        continue
      each, place = self.ids[row], 0
      if self.seed is not None:
        drawn = batching.uniform(self.seed, crops.position + int(crops.slots[i]), self.key)
        place = int(drawn * len(each))
      ids = each[place][: self.max_tokens]
      out[i, : len(ids)], lengths[i] = ids, len(ids)
    return {self.key: out, f'{self.key}_mask': np.arange(self.max_tokens) < lengths[:, None]}


def captions(
  source: Source, column: str = 'caption', template: str | Sequence[str] = ''
) -> list[list[str]]:
  """The captions of every clip; empty lists where there is none.

  Args:
    source: clips.
    column: of captions, or with `template` of labels; a clip may have a list of either.
    template: see `Captions`.

  Raises:
    InputError: no such column, or a template without {}.
  """
  values = [[v] if isinstance(v, str) else v for v in source.column(column)]
  found = [[c for c in each if c.strip()] for each in values]
  forms = [template] if isinstance(template, str) else list(template)
  if forms in ([''], []):
    return found
  lacking = [form for form in forms if '{}' not in form]
  if lacking:
    raise InputError(f'template={lacking[0]!r}: expected a text with {{}} for the label.')
  return [[form.replace('{}', together(each)) for form in forms] if each else [] for each in found]


def together(labels: Sequence[str]) -> str:
  """Labels as words: 'dog', 'dog and rain', 'dog, rain and sea waves'."""
  names = [label.replace('_', ' ') for label in labels]
  return ' and '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)
