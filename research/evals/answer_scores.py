"""Scores of answers in words: by equality, by a judge, as numbers, as transcripts.

| metric | what an answer has to be | value | score |
|---|---|---|---|
| `accuracy` | the label, but for case; or, with a judge, what it accepts | fraction | the same |
| `wer`, `per`, `cer` | a transcript | errors of those that are one | mean max(0, 1 - errors) |
| `bleu` | a translation | of those that are one | BLEU / 100 |
| `mse`, `mae` | a number | mean error of those that are one | – |

Answers that are no transcript or number are left out of the value, and count 0 in the score; their
fraction is the N/A rate (NAR). What an answer says is found by rule, or by a language model that is
shown the instruction and the answer, not the label. The rules of the second phase of Dynamic-SUPERB
were not at hand; these follow its description.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.errors import InputError, unknown
from research.evals.judging import Judge, judged
from research.evals.rubrics import Rubric
from research.metrics import answers as words
from research.metrics.asr import character_errors, word_errors

SEQUENCES, NUMBERS = ('wer', 'per', 'cer', 'bleu'), ('mse', 'mae')
METRICS = ('accuracy', *SEQUENCES, *NUMBERS)


@dataclasses.dataclass(frozen=True)
class Score:
  """The score of one set of questions.

  Attributes:
    metric: of METRICS.
    value: of the metric; nan if no answer counts.
    score: 0 to 1, higher is better; None for errors of numbers.
    count: questions.
    missing: N/A rate, 0 to 1.
    unparsable: replies of a language model that could not be read.
    stated: what the value depends on: judge, rubric and version of its prompt, or 'exact'.
  """

  metric: str
  value: float
  score: float | None
  count: int
  missing: float
  unparsable: int = 0
  stated: Mapping[str, str] = dataclasses.field(default_factory=dict)


class _NotGiven:
  """The reply of an extractor that there is no answer."""


NOT_GIVEN = _NotGiven()
_EXTRACT = """\
A system listened to audio and answered an instruction in its own words.

Instruction: {{instruction}}
Answer of the system: {{response}}

Copy from the answer {what}. Do not correct it and do not answer the instruction yourself. If the \
answer holds no such thing, write N/A.

Reply with one line: "Extracted: " and what you copied.
"""


def _extracted(reply: str) -> Any:
  """What stands behind the only `Extracted:`; NOT_GIVEN for N/A; None if it cannot be parsed."""
  found = re.findall(r'(?im)^\W*extracted\W{0,3}:[*_ \t]*(.*)$', reply)
  if len(found) != 1 or not found[0].strip():
    return None
  text = found[0].strip().strip('"“”')
  return NOT_GIVEN if text.lower().rstrip('.') in ('n/a', 'na') else text


def _extracted_number(reply: str) -> Any:
  text = _extracted(reply)
  return words.number(text) if isinstance(text, str) else text


EXTRACTORS = {
  'number': Rubric(
    'number', _EXTRACT.format(what='the one number that it gives'), _extracted_number
  ),
  'sequence': Rubric(
    'sequence', _EXTRACT.format(what='the transcript, sequence or translation it gives'), _extracted
  ),
}


def extractor(metric: str) -> Rubric:
  """The rubric of a judge that finds what an answer of this metric says.

  Raises:
    InputError: the metric needs none.
  """
  if metric not in (*SEQUENCES, *NUMBERS):
    raise unknown('metric that answers are extracted for', metric, (*SEQUENCES, *NUMBERS))
  return EXTRACTORS['number' if metric in NUMBERS else 'sequence']


def judge_for(metric: str, judge: Judge) -> Judge:
  """The same language model with the rubric that a metric needs: that of the judge for accuracy,
  else one that finds what an answer says."""
  if metric == 'accuracy':
    return judge
  return dataclasses.replace(judge, rubric=extractor(metric))


def score(
  rows: Sequence[Mapping[str, str]],
  answers: Sequence[str | None],
  metric: str = 'accuracy',
  *,
  judge: Judge | None = None,
  keep_case: bool = False,
) -> Score:
  """The score of answers.

  Args:
    rows: `instruction`, `label` and `task_name` of every question.
    answers: None where there is none.
    metric: of METRICS.
    judge: for accuracy, decides what is right; for the others, finds what an answer says
      (`extractor`).
    keep_case: for sequences in which case counts (part of speech).

  Raises:
    InputError: an unknown metric, numbers that differ, or a label that is no number.
  """
  if metric not in METRICS:
    raise unknown('metric of answers', metric, METRICS)
  if len(rows) != len(answers) or not rows:
    raise InputError(f'{len(answers)} answers to {len(rows)} questions: give one to each.')
  if metric == 'accuracy':
    return _accuracy(rows, answers, judge)
  found, unparsable = _found(rows, answers, metric, judge)
  stated = judge.stated if judge else {'extracted': 'by rule'}
  missing = words.missing_rate(found)
  shared: dict[str, Any] = {
    'count': len(rows),
    'missing': missing,
    'unparsable': unparsable,
    'stated': stated,
  }
  labels = [row['label'] for row in rows]
  if metric in NUMBERS:
    error = np.square if metric == 'mse' else np.abs
    value = words.squared_errors(found, [_number(label) for label in labels], error)
    return Score(metric, value, None, **shared)
  texts = [(r, a) for r, a in zip(labels, found, strict=True) if a is not None]
  if not texts:
    return Score(metric, math.nan, 0.0, **shared)
  if metric == 'bleu':
    from research.metrics.translation import bleu

    value = bleu([r for r, _ in texts], [a for _, a in texts]).score
    return Score(metric, value, value / 100 * (1 - missing), **shared)
  errors = character_errors if metric == 'cer' else word_errors
  pairs = [(words.plain(r, keep_case), words.plain(a, keep_case)) for r, a in texts]
  value = errors([r for r, _ in pairs], [a for _, a in pairs]).rate
  each = [max(0.0, 1 - errors([r], [a]).rate) for r, a in pairs]
  return Score(metric, value, sum(each) / len(rows), **shared)


def _accuracy(
  rows: Sequence[Mapping[str, str]], answers: Sequence[str | None], judge: Judge | None
) -> Score:
  given = [words.text_or_none(answer or '') for answer in answers]
  missing = words.missing_rate(given)
  if judge is None:
    value = words.exact_match([answer or '' for answer in answers], [r['label'] for r in rows])
    return Score('accuracy', value, value, len(rows), missing, 0, {'judge': 'exact match'})
  # Nothing needs no judge, and must not be taken for something by one.
  asked = [{**row, 'response': a} for row, a in zip(rows, given, strict=True) if a is not None]
  if not asked:
    return Score('accuracy', 0.0, 0.0, len(rows), missing, 0, judge.stated)
  all_ = judged(judge(asked), judge)
  value = all_.score * all_.count / len(rows)
  return Score('accuracy', value, value, len(rows), missing, all_.unparsable, judge.stated)


def _found(
  rows: Sequence[Mapping[str, str]], answers: Sequence[str | None], metric: str, judge: Judge | None
) -> tuple[list[Any], int]:
  """What the answers say, None for nothing, and how many replies could not be parsed."""
  given = [words.text_or_none(answer or '') for answer in answers]
  if judge is None:
    if metric in NUMBERS:
      return [None if a is None else words.number(a) for a in given], 0
    return list(given), 0
  places = [i for i, a in enumerate(given) if a is not None]
  # The label is not shown.
  shown = [{**rows[i], 'label': '', 'response': given[i] or ''} for i in places]
  found: list[Any] = [None] * len(rows)
  unparsable = 0
  for i, verdict in zip(places, judge(shown) if shown else [], strict=True):
    unparsable += verdict.score is None
    found[i] = None if isinstance(verdict.score, _NotGiven) else verdict.score
  return found, unparsable


def _number(label: str) -> float:
  try:
    return float(label)
  except ValueError:
    raise InputError(f'The label {label!r} is no number, which mse and mae need.') from None
