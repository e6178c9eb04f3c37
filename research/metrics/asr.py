"""Error rates of a corpus in words and characters, by jiwer, and in any units, by rapidfuzz."""

import dataclasses
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from research.errors import InputError


@dataclasses.dataclass(frozen=True)
class Errors:
  """Edits from references to hypotheses, counted over a whole corpus.

  Attributes:
    hits: correct reference units.
    substitutions: substituted reference units.
    deletions: reference units missing from the hypothesis.
    insertions: hypothesis units that are not in the reference.
  """

  hits: int
  substitutions: int
  deletions: int
  insertions: int

  @property
  def reference(self) -> int:
    """Number of reference units."""
    return self.hits + self.substitutions + self.deletions

  @property
  def rate(self) -> float:
    """Errors per reference unit; above 1 with many insertions.

    If all references are empty: 0 without insertions, else infinite.
    """
    wrong = self.substitutions + self.deletions + self.insertions
    if self.reference:
      return wrong / self.reference
    return float('inf') if wrong else 0.0


def word_errors(references: Iterable[str], hypotheses: Iterable[str]) -> Errors:
  """Word errors of a corpus; WER is their `rate`. Case and punctuation are not normalised,
  the forms of Unicode are (NFC).

  Against an empty reference, all words of the hypothesis are insertions.

  Raises:
    InputError: the numbers of references and hypotheses differ.
  """
  import jiwer

  return _errors(jiwer.process_words, references, hypotheses)


def character_errors(references: Iterable[str], hypotheses: Iterable[str]) -> Errors:
  """Character errors of a corpus, including single spaces between words; CER is their `rate`.

  Raises:
    InputError: the numbers of references and hypotheses differ.
  """
  import jiwer

  return _errors(jiwer.process_characters, references, hypotheses)


def unit_errors(
  references: Iterable[Sequence[Hashable]], hypotheses: Iterable[Sequence[Hashable]]
) -> Errors:
  """Errors of a corpus in units as they are given: phones, symbols, characters with every space.

  SUPERB's phone error rate is that of `text.split(' ')`; its word error rate of slot filling too,
  where two spaces in a row enclose an empty word.

  Raises:
    InputError: the numbers of references and hypotheses differ.
  """
  from rapidfuzz.distance import Levenshtein

  given = [list(x) for x in (references, hypotheses)]
  _check_pairs(given)
  counts = dict.fromkeys(('equal', 'replace', 'delete', 'insert'), 0)
  for reference, hypothesis in zip(*given):
    for code in Levenshtein.opcodes(reference, hypothesis):
      counts[code.tag] += max(code.src_end - code.src_start, code.dest_end - code.dest_start)
  return Errors(*counts.values())


def edits(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
  """Levenshtein's distance: substitutions, deletions and insertions cost 1 each."""
  from rapidfuzz.distance import Levenshtein

  return Levenshtein.distance(reference, hypothesis)


def _check_pairs(given: Sequence[Sequence[Any]]) -> None:
  if len(given[0]) != len(given[1]):
    raise InputError(
      f'{len(given[0])} references cannot be compared with {len(given[1])} hypotheses: give one '
      'hypothesis per reference.'
    )


def _errors(process: Any, references: Iterable[str], hypotheses: Iterable[str]) -> Errors:
  given = [
    [' '.join(unicodedata.normalize('NFC', line).split()) for line in lines]
    for lines in (references, hypotheses)
  ]
  _check_pairs(given)
  if not given[0]:
    return Errors(0, 0, 0, 0)
  found = process(*given)
  return Errors(found.hits, found.substitutions, found.deletions, found.insertions)
