"""How a language model judges: a prompt with places for the fields of an answer, and a parser of
the reply.

The prompts are our own wording. Published figures were made with others: give the official text as
a file (`read_rubric`), and its version is part of the score. The parsers of YES and NO:

| reply | strict | official (Dynamic-SUPERB) |
|---|---|---|
| `Result: YES`, `result:no` | as written | as written |
| `Result: **YES**`, `Result: <NO>`, `Result : YES` | as written | unparsable |
| `The result: yesterday` | unparsable | yes |
| `Result: NO … Result: YES` | unparsable | the first |
| `Result: YES or NO` | unparsable | yes |
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from research.errors import InputError, unknown

FIELDS = ('task_name', 'instruction', 'label', 'response')
_STRICT = re.compile(r'\bresult[\s*_]*:[\s*_<"\'`\[(]*(yes|no)\b(?!\s*(?:or|/)\s*(?:yes|no)\b)')
_LOOSE = re.compile(r'result:\s*(yes|no)')


def parse_strictly(reply: str) -> float | None:
  """1 for yes, 0 for no; None if there is no result, or two that contradict each other."""
  found = set(_STRICT.findall(reply.lower()))
  return float(found.pop() == 'yes') if len(found) == 1 else None


def parse_officially(reply: str) -> float | None:
  """As the runner of Dynamic-SUPERB: the first `result:` with yes or no behind it, which may be the
  beginning of another word."""
  found = _LOOSE.search(reply.strip().lower())
  return float(found[1] == 'yes') if found else None


def parse_score(reply: str, low: float, high: float) -> float | None:
  """The number of `"score": N` in JSON, or of a line `Score: N`; None if there is none, if it is
  outside of the range, or if there are several different ones."""
  found: set[float] = set()
  for text in re.findall(r'\{[^{}]*\}', reply):
    try:
      value = json.loads(text).get('score')
    except (ValueError, AttributeError):
      continue
    if isinstance(value, str):
      value = float(value) if re.fullmatch(r'\d+(\.\d+)?', value.strip()) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
      found.add(float(value))
  if not found:
    line = r'(?im)\bscore\W{0,4}[:=]\W{0,4}(-?\d+(?:\.\d+)?)(?!\w)(?!\s*-\s*\d)'
    found = {float(value) for value in re.findall(line, reply)}
  if len(found) != 1:
    return None
  value = found.pop()
  return value if low <= value <= high and math.isfinite(value) else None


@dataclasses.dataclass(frozen=True)
class Rubric:
  """What a judge is asked, and how its reply is read.

  Attributes:
    name: of the rubric.
    template: a text with {instruction}, {label}, {response} or {task_name}.
    parse: reply -> score, or what else is asked for; None: unparsable.
    low: lowest score.
    high: highest score.
  """

  name: str
  template: str
  parse: Callable[[str], Any]
  low: float = 0.0
  high: float = 1.0

  @property
  def version(self) -> str:
    """A hash of the prompt, part of every score."""
    return hashlib.sha256(self.template.encode()).hexdigest()[:12]

  def fill(self, **fields: str) -> str:
    """The prompt; see `fill`."""
    return fill(self.template, fields)


def fill(template: str, fields: Mapping[str, str]) -> str:
  """A template with its fields. Braces within them stay as they are.

  Raises:
    InputError: the template has a place for a field that is not given.
  """

  def put(found: re.Match) -> str:
    if found[1] not in fields:
      raise InputError(f'The prompt has a place for {found[0]}, which is not known here.')
    return fields[found[1]]

  return re.sub(r'\{(' + '|'.join(FIELDS) + r')\}', put, template)


def _scale(low: int, high: int) -> Callable[[str], float | None]:
  return lambda reply: parse_score(reply, low, high)


_YES_OR_NO = """\
Decide whether the answer of a system that listened to audio is correct.

Instruction that the system was given: {instruction}
Correct answer: {label}
Answer of the system: {response}

Rules:
- Only the meaning counts; wording, case and additional explanations do not.
- If the instruction asks for one choice, the answer must settle on that one. An answer that offers
\\ several, or none, is wrong.
- If several choices are correct, the answer must name all of them and no other.
- An answer that does not follow from the instruction, or refuses, is wrong.

Give your reason in one sentence. Then write a last line, either "Result: YES" or "Result: NO".
"""
_GRADE = """\
Grade the answer of a system that listened to audio, from {low} to {high}.

Question: {{instruction}}
Reference answer: {{label}}
Answer of the system: {{response}}

{what}

Reply with one line of JSON and nothing else: {{"reason": "one sentence", "score": a number}}
"""


def _grade(low: int, high: int, what: str) -> str:
  return _GRADE.format(low=low, high=high, what=what)


_OPEN = (
  'Compare it with the reference: {high} is an answer that is correct, complete and to the point; '
  '{low} is one that is wrong or does not answer the question. Length by itself is no merit.'
)
RUBRICS: dict[str, Rubric] = {
  'correct': Rubric('correct', _YES_OR_NO, parse_strictly),
  'evalsift_closed': Rubric(
    'evalsift_closed',
    _grade(0, 1, 'The score is 1 if it says what the reference says, and 0 otherwise.'),
    lambda reply: score if (score := parse_score(reply, 0, 1)) in (0.0, 1.0) else None,
  ),
  'evalsift_open': Rubric(
    'evalsift_open', _grade(0, 10, _OPEN.format(low=0, high=10)), _scale(0, 10), 0, 10
  ),
  'air_bench': Rubric(
    'air_bench', _grade(1, 10, _OPEN.format(low=1, high=10)), _scale(1, 10), 1, 10
  ),
}


def get(name: str) -> Rubric:
  """A rubric of this file.

  Raises:
    InputError: an unknown name.
  """
  if name not in RUBRICS:
    raise unknown('rubric', name, RUBRICS)
  return RUBRICS[name]


def read_rubric(path: str | epath.PathLike, base: Rubric, official: bool = False) -> Rubric:
  """A rubric whose prompt is read from a file.

  Args:
    path: the text, with {instruction}, {label} and {response} where they belong.
    base: gives the parser and the range.
    official: parse YES and NO as Dynamic-SUPERB's runner does.

  Raises:
    InputError: it cannot be read, or has no place for the response.
  """
  file = epath.Path(path).expanduser()
  try:
    text = file.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'The prompt of the judge {file} cannot be read: {error}.') from None
  if '{response}' not in text:
    raise InputError(f'The prompt of the judge {file} has no place for the answer: {{response}}.')
  changes: dict[str, Any] = {'name': file.stem, 'template': text}
  if official:
    changes['parse'] = parse_officially
  return dataclasses.replace(base, **changes)
