"""Answers in words: exact matches, options, numbers, transcripts, and how many give none of these.

None stands for "no answer": its fraction is the N/A rate (NAR) of Dynamic-SUPERB's second phase.
"""

import re
import string
from collections.abc import Callable, Sequence

import numpy as np

from research.errors import InputError
from research.metrics.asr import Errors, word_errors

_NUMBER = re.compile(r'(?<![\w.])[-+]?(?:\d+(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w])')
_PUNCTUATION = str.maketrans('', '', string.punctuation)


def matches(answer: str, label: str) -> bool:
  """Dynamic-SUPERB, first phase: equal but for case and the space around."""
  return answer.strip().lower() == label.strip().lower()


def exact_match(answers: Sequence[str], labels: Sequence[str]) -> float:
  """Fraction of answers that match.

  Raises:
    InputError: the numbers differ, or there are none.
  """
  _check(answers, labels)
  return float(np.mean([matches(a, b) for a, b in zip(answers, labels, strict=True)]))


def plain(text: str, keep_case: bool = False) -> str:
  """Without the punctuation of ASCII (typographic quotes stay), in lower case: what
  Dynamic-SUPERB's word errors are counted on. Part-of-speech tasks keep the case."""
  found = text.translate(_PUNCTUATION)
  return found if keep_case else found.lower()


def word_error_rate(answer: str, reference: str, keep_case: bool = False) -> float:
  """WER of one answer after `plain`; infinite for words against an empty reference."""
  return word_errors([plain(reference, keep_case)], [plain(answer, keep_case)]).rate


def sequence_errors(
  answers: Sequence[str | None], references: Sequence[str], keep_case: bool = False
) -> Errors:
  """Word errors of a corpus after `plain`, over those that are an answer."""
  pairs = [(r, a) for a, r in zip(answers, references, strict=True) if a is not None]
  return word_errors(
    [plain(r, keep_case) for r, _ in pairs], [plain(a, keep_case) for _, a in pairs]
  )


def missing_rate(answers: Sequence[object]) -> float:
  """NAR: the fraction of None.

  Raises:
    InputError: there are no answers.
  """
  if not answers:
    raise InputError('There are no answers, so no rate of missing ones.')
  return float(np.mean([a is None for a in answers]))


def number(answer: str) -> float | None:
  """The number in an answer; None if there is none, or if there are several different ones."""
  found = {float(each.replace(',', '')) for each in _NUMBER.findall(answer)}
  return found.pop() if len(found) == 1 else None


def text_or_none(answer: str) -> str | None:
  """The answer without space around; None if nothing is left, or if it says N/A."""
  found = answer.strip()
  return None if not found or found.lower().rstrip('.') in ('n/a', 'na', 'none') else found


def option(answer: str, options: Sequence[str]) -> int | None:
  """Which of several options an answer names: by its letter, as '(B)', 'B.' or 'the answer is B',
  or by its words. None if it names none or several.

  A letter alone counts if nothing else but punctuation, 'answer', 'option' and 'choice' is around.
  """
  letters = string.ascii_uppercase[: len(options)]
  text = answer.strip()
  alone = re.fullmatch(rf'[\W_]*([{letters}])[\W_]*', text, re.IGNORECASE)
  marked = {m.upper() for m in re.findall(rf'\(([{letters}])\)', text, re.IGNORECASE)}
  said = re.findall(
    rf'\b(?:answer|option|choice)\b(?:\s+is)?\s*:?\s*\(?([{letters}])\b', text, re.IGNORECASE
  )
  leading = re.findall(rf'^\s*\(?([{letters}])[).:]\s', text)
  found = {alone[1].upper()} if alone else marked | {s.upper() for s in (*said, *leading)}
  by_letter = {letters.index(letter) for letter in found}
  low = text.lower()
  named = {
    i for i, each in enumerate(options)
    if re.search(rf'(?<!\w){re.escape(each.strip().lower())}(?!\w)', low)
  }  # fmt: skip
  # 'male' within 'female' is no word of its own; 'dog' within the option 'hot dog' is.
  inside = {
    i for i in named for j in named
    if i != j and options[i].strip().lower() in options[j].strip().lower()
  }  # fmt: skip
  named -= inside
  either = by_letter or named
  if by_letter and named and by_letter != named:
    return None
  return either.pop() if len(either) == 1 else None


def option_accuracy(
  answers: Sequence[str], options: Sequence[Sequence[str]], correct: Sequence[int]
) -> tuple[float, float]:
  """Multiple choice, by rule: (fraction of answers that name the right option alone, fraction that
  names none or several).

  Args:
    answers: of a system.
    options: of every question, in the order of their letters.
    correct: index of the right one.

  Raises:
    InputError: the numbers differ, or there are none.
  """
  _check(answers, options)
  _check(answers, correct)
  found = [option(a, o) for a, o in zip(answers, options, strict=True)]
  right = [f == c for f, c in zip(found, correct, strict=True)]
  return float(np.mean(right)), missing_rate(found)


def squared_errors(
  values: Sequence[float | None], references: Sequence[float],
  error: Callable[[np.ndarray], np.ndarray] = np.square,
) -> float:  # fmt: skip
  """Mean squared error over the values that are there (or mean of another function of the
  differences); nan if there are none."""
  pairs = [(v, r) for v, r in zip(values, references, strict=True) if v is not None]
  if not pairs:
    return float('nan')
  return float(np.mean(error(np.array([v - r for v, r in pairs]))))


def _check(answers: Sequence[object], labels: Sequence[object]) -> None:
  if len(answers) != len(labels) or not answers:
    raise InputError(
      f'{len(answers)} answers cannot be compared with {len(labels)} labels: give one answer per '
      'label.'
    )
