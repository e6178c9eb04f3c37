"""A sequence of symbols per clip: phones, letters, characters with slot tokens."""

import collections
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from absl import logging
from jaxtyping import Bool, Int

from research.audio import lines
from research.audio.clips import Source
from research.audio.example import Value
from research.audio.fields import Context, Field
from research.audio.fields.transcript import CHARACTERS_PER_SECOND, Tokens, texts
from research.capabilities import Hears, spells
from research.errors import InputError, listed, unknown
from research.text import characters, slots

# A line of fairseq's dictionaries: symbol and count.
_COUNTED = re.compile(r'(\S+) \d+')
SPLITS = ('spaces', 'characters', 'letters', 'slots')


@dataclasses.dataclass(frozen=True)
class Symbols(Field):
  """Gives '<key>' i32 [b, u], the ids of the symbols of a column, padded with -1.

  Clips must not be longer than the batches: the symbols of a crop are unknown.

  Attributes:
    column: column of texts, or of lists of symbols, which are taken as they are.
    vocabulary: the symbols in the order of their ids, or a file of them: one a line (also as
      `symbol count`), or a .json with a list or with {symbol: id}. None is that of the model.
    split: how a text becomes symbols: 'spaces' divides it at white space (phones), 'characters'
      takes every character, spaces too, 'letters' the characters of every word and '|' behind it,
      as CTC models of fairseq spell, and 'slots' a line of Audio SNIPS (`text/slots.py`), which
      brings its own end.
    eos: symbol at the end of every sequence, as '</s>'; None for none.
    unknown: symbol that stands for those that are not in the vocabulary; None refuses them.
  """

  column: str = 'phones'
  vocabulary: Sequence[str] | str | None = None
  split: str = 'spaces'
  eos: str | None = None
  unknown: str | None = characters.UNKNOWN

  WHOLE: ClassVar[bool] = True

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have symbols.

    Raises:
      InputError: no clip has any, or there is no such column.
    """
    found = np.array([bool(text) for text in texts(source, self.column)])
    if not found.any():
      raise InputError(f'No clip of {source.name!r} has a {self.column!r}.')
    return found

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """As many symbols as English speech of that length has characters."""
    count = max(1, round(CHARACTERS_PER_SECOND * samples / context.sample_rate))
    return {self.key: np.zeros((clips, count), np.int32)}

  def open(self, source: Source, context: Context) -> Tokens:
    """The ids of all clips.

    Raises:
      InputError: no vocabulary, or another one than the model's; a clip without symbols; a symbol
        that is not in the vocabulary where `unknown` is not either; in training also if all
        symbols are unknown, or every sequence is too long for its clip.
    """
    model = context.model
    symbols = self._vocabulary(model)
    values = source.column(self.column) if self.column in source.column_names else None
    if values is None:
      raise unknown(f'column of symbols of {source.name!r}', self.column, source.column_names)
    if not all(values):
      raise InputError(
        f'{sum(not v for v in values)} of {len(values)} clips of {source.name!r} have no '
        f'{self.column!r}: leave out clips without one.'
      )
    encode = self.encoder(symbols)
    ids = []
    for row, value in enumerate(values):
      try:
        ids.append(encode(value))
      except InputError as error:
        raise InputError(f'Clip {source.id(row)!r} of {source.name!r}: {error}') from None
    if context.train:
      encode.report()
    tokens = Tokens(ids, np.asarray(source.durations()), context.sample_rate, self.key)
    if context.train and spells(model) and isinstance(model, Hears):
      tokens.check_frames(model.frontend)
    return tokens

  def encoder(self, symbols: Sequence[str]) -> '_Encoder':
    """A function from a value of the column to its ids.

    Raises:
      InputError: an unknown `split`, or the vocabulary lacks `eos`, or '|' for letters.
    """
    if self.split not in SPLITS:
      raise unknown(f'config.data.fields.{self.key}.args.split', self.split, SPLITS)
    if self.split == 'slots' and self.eos is not None:
      raise InputError(
        f'config.data.fields.{self.key}.args.eos is {self.eos!r}: lines of slots bring their own '
        'end, give None.'
      )
    needed = {'eos': self.eos, 'split=letters': characters.BOUNDARY}
    if self.split != 'letters':
      del needed['split=letters']
    for name, symbol in needed.items():
      if symbol is not None and symbol not in symbols:
        raise InputError(
          f'config.data.fields.{self.key}.args: {name} needs {symbol!r}, which is not in the '
          f'vocabulary: {listed(symbols)}.'
        )
    return _Encoder(self, symbols)

  def _vocabulary(self, model: Any) -> tuple[str, ...]:
    own = tuple(model.vocabulary) if spells(model) else ()
    if self.vocabulary is None:
      if not own:
        raise InputError(
          f'config.data.fields.{self.key} needs a vocabulary, for the model has none: give '
          'args.vocabulary, a list of symbols or a file of them.'
        )
      return own
    given = read_vocabulary(self.vocabulary)
    if own and own != given:
      pairs = enumerate(zip(own, given))
      place = next((i for i, (a, b) in pairs if a != b), min(len(own), len(given)))
      raise InputError(
        f'config.data.fields.{self.key}.args.vocabulary has {len(given)} symbols, that of the '
        f'model {len(own)}, and they differ from id {place}: use one vocabulary.'
      )
    return given


def read_vocabulary(spec: Sequence[str] | str | os.PathLike) -> tuple[str, ...]:
  """The symbols of a list or a file; see `Symbols`.

  Raises:
    InputError: no such file, no symbols, a symbol twice, or ids of a .json that are not 0 to n - 1.
  """
  if isinstance(spec, str | os.PathLike):
    path = pathlib.Path(os.path.expanduser(spec))
    if not path.is_file():
      raise InputError(
        f'{path} does not exist; expected a vocabulary, a symbol a line, or a .json.'
      )
    found = _json(path) if path.suffix == '.json' else _lines(path)
    where = str(path)
  else:
    found, where = [str(symbol) for symbol in spec], 'The vocabulary'
  if not found:
    raise InputError(f'{where} has no symbols.')
  symbol, count = collections.Counter(found).most_common(1)[0]
  if count > 1:
    raise InputError(f'{where} has {symbol!r} twice; the id of a symbol is its place.')
  return tuple(found)


def _lines(path: pathlib.Path) -> list[str]:
  rows = (text for _, text in lines.lines(path) if text)
  return [found[1] if (found := _COUNTED.fullmatch(text)) else text for text in rows]


def _json(path: pathlib.Path) -> list[str]:
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise InputError(f'{path} is not JSON ({error}).') from None
  if isinstance(found, Mapping):
    if sorted(found.values(), key=str) != sorted(range(len(found)), key=str):
      raise InputError(f'{path}: the ids of {len(found)} symbols are not 0 to {len(found) - 1}.')
    found = sorted(found, key=lambda symbol: found[symbol])
  if not isinstance(found, list) or not all(isinstance(symbol, str) for symbol in found):
    raise InputError(f'{path}: expected a list of symbols, or an object of symbol to id.')
  return found


class _Encoder:
  """Values of a column to ids; counts symbols that are not in the vocabulary."""

  def __init__(self, field: Symbols, symbols: Sequence[str]):
    self._symbols, self._split = symbols, field.split
    self._ids = characters.ids_of(symbols)
    self._unknown = self._ids.get(field.unknown) if field.unknown is not None else None
    self._end = [] if field.eos is None else [self._ids[field.eos]]
    self._lacking: collections.Counter[str] = collections.Counter()
    self._total = 0

  def __call__(self, value: Value) -> Int[np.ndarray, 'u']:
    """The ids of a value, int32 [u]."""
    found: list[int] = []
    if self._split == 'slots':
      return slots.encode(str(value), self._symbols)
    if not isinstance(value, str):
      for symbol in value:
        found += self._find(symbol)
    elif self._split == 'letters':
      for word in characters.in_case(value, self._symbols).split():
        for character in word:
          found += self._find(character)
        found.append(self._ids[characters.BOUNDARY])
    else:
      for symbol in value if self._split == 'characters' else value.split():
        found += self._find(symbol)
    return np.array(found + self._end, np.int32)

  def _find(self, symbol: str) -> list[int]:
    self._total += 1
    if self._split == 'letters':
      own = characters.spelt(symbol, self._ids)
    else:
      own = [self._ids[symbol]] if symbol in self._ids else None
    if own is not None:
      return own
    if self._unknown is None:
      raise InputError(f'{symbol!r} is not in the vocabulary: {listed(self._symbols)}.')
    self._lacking[symbol] += 1
    return [self._unknown]

  def report(self) -> None:
    """Warns of symbols that are not in the vocabulary; raises InputError if none is."""
    if not self._lacking:
      return
    commonest = ' '.join(symbol for symbol, _ in self._lacking.most_common(20))
    if self._lacking.total() == self._total:
      raise InputError(
        f'No symbol of the data ({commonest}) is in the vocabulary: {listed(self._symbols)}.'
      )
    logging.warning(
      '%.3g %% of the symbols are not in the vocabulary: %s',
      100 * self._lacking.total() / self._total,
      commonest,
    )
