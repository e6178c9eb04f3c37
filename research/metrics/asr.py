"""Word and character error rates of a corpus, by jiwer."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from research.errors import InputError


@dataclasses.dataclass(frozen=True)
class Errors:
  """Edits from references to hypotheses, counted over a whole corpus.

  Attributes:
    hits: reference units that are right.
    substitutions: that became another.
    deletions: that are missing.
    insertions: hypothesis units that no reference has.
  """

  hits: int
  substitutions: int
  deletions: int
  insertions: int

  @property
  def reference(self) -> int:
    """Units of all references."""
    return self.hits + self.substitutions + self.deletions

  @property
  def rate(self) -> float:
    """Errors over reference units: 0 for the best, above 1 with many insertions.

    Where the references are all empty: 0 without an insertion, else infinite.
    """
    wrong = self.substitutions + self.deletions + self.insertions
    if self.reference:
      return wrong / self.reference
    return float('inf') if wrong else 0.0


def word_errors(references: Iterable[str], hypotheses: Iterable[str]) -> Errors:
  """Word errors of a corpus; WER is their `rate`. Case and punctuation count as they are.

  An empty reference adds no words, and what was heard there counts as insertions.

  Raises:
    InputError: not as many hypotheses as references.
  """
  import jiwer

  return _errors(jiwer.process_words, references, hypotheses)


def character_errors(references: Iterable[str], hypotheses: Iterable[str]) -> Errors:
  """Character errors of a corpus, the single spaces between words included; CER is their `rate`.

  Raises:
    InputError: not as many hypotheses as references.
  """
  import jiwer

  return _errors(jiwer.process_characters, references, hypotheses)


def _errors(process: Any, references: Iterable[str], hypotheses: Iterable[str]) -> Errors:
  given = [[' '.join(line.split()) for line in lines] for lines in (references, hypotheses)]
  if len(given[0]) != len(given[1]):
    raise InputError(
      f'{len(given[0])} references cannot be compared with {len(given[1])} hypotheses: give one '
      'for each.'
    )
  if not given[0]:
    return Errors(0, 0, 0, 0)
  found = process(*given)
  return Errors(found.hits, found.substitutions, found.deletions, found.insertions)
