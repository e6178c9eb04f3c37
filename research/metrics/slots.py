"""Slot filling from text with marked slots, as 'play B-artist the beatles E-artist now' (SUPERB,
arXiv 2105.01051, section 3.1.2; figures of s3prl downstream/ctc/metric.py).

A slot is 'B-x value E-x', runs of spaces taken as one. Corpora are sequences of such texts,
references and hypotheses in the same order.
"""

import re
from collections.abc import Callable, Sequence

from research.errors import InputError
from research.metrics.asr import edits

Slots = dict[str, list[str]]
_SLOT = re.compile(r'B-(\S+) (.+?) E-\1')
_MARK = re.compile(r'B-\S+ | E-\S+')


def slots(text: str, *, clean: bool = False) -> Slots:
  """The values of each slot of a text, in order.

  Args:
    text: with its marks.
    clean: marks inside a value are removed, as in hypotheses; in references they stay.
  """
  found: Slots = {}
  for name, value in _SLOT.findall(re.sub(r' +', ' ', text)):
    found.setdefault(name, []).append(_MARK.sub('', value) if clean else value)
  return found


def slot_type_f1(references: Sequence[str], hypotheses: Sequence[str]) -> float:
  """F1 between the sets of slot names of an utterance, averaged over utterances; 1 where neither
  has one. A fraction."""
  scores = []
  for reference, hypothesis in _pairs(references, hypotheses):
    both = len(reference.keys() & hypothesis.keys())
    total = len(reference) + len(hypothesis)
    scores.append(2 * both / total if total else 1.0)
  return sum(scores) / len(scores)


def slot_value_cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
  """Character errors of slot values per reference character. Each reference value is compared with
  the nearest value of the same slot, or with nothing; further slots cost nothing. nan without a
  slot in the references."""
  return _value_error_rate(references, hypotheses, list)


def slot_value_wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
  """`slot_value_cer` in words."""
  return _value_error_rate(references, hypotheses, lambda text: text.split(' ') if text else [])


def slot_edit_f1(
  references: Sequence[str], hypotheses: Sequence[str], *, all_slots: bool = True
) -> float:
  """F1 of slot values that are equal, over a corpus, a fraction; nan where nothing is counted.

  Args:
    references: texts with marks.
    hypotheses: of the same utterances.
    all_slots: slots of the hypothesis that the reference lacks are false alarms ('full'); else only
      slots of the reference count ('part').
  """
  right = missed = wrong = 0
  for reference, hypothesis in _pairs(references, hypotheses):
    for name, values in reference.items():
      found = hypothesis.get(name)
      for value in values:
        hit = found is not None and value in found
        right += hit
        missed += not hit
        wrong += not hit and found is not None
    if all_slots:
      wrong += sum(len(v) for name, v in hypothesis.items() if name not in reference)
  total = 2 * right + missed + wrong
  return 2 * right / total if total else float('nan')


def _value_error_rate(
  references: Sequence[str], hypotheses: Sequence[str], units: Callable[[str], list[str]]
) -> float:
  errors = length = 0
  for reference, hypothesis in _pairs(references, hypotheses):
    for name, values in reference.items():
      for value in values:
        given = units(value)
        candidates = [units(v) for v in hypothesis.get(name, [''])]
        errors += min(edits(given, c) for c in candidates)
        length += len(given)
  return errors / length if length else float('nan')


def _pairs(references: Sequence[str], hypotheses: Sequence[str]) -> list[tuple[Slots, Slots]]:
  if len(references) != len(hypotheses) or not references:
    raise InputError(
      f'slot metrics got {len(references)} references and {len(hypotheses)} hypotheses: one of '
      'each for every utterance is expected.'
    )
  return [(slots(r), slots(h, clean=True)) for r, h in zip(references, hypotheses)]
