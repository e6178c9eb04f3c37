"""Conversations judged by a language model: EvalSIFT (arXiv 2504.09081), AIR-Bench and the like.

A set of questions is instruction data (`audio/manifests/messages.py`): the last turn of the
assistant is the reference, what stands before it is asked. Scores are means by group: category,
task, language.

| rubric | scores | set |
|---|---|---|
| `evalsift_closed` | 0 or 1 | EvalSIFT, closed-ended |
| `evalsift_open` | 0 to 10 | EvalSIFT, open-ended |
| `air_bench` | 1 to 10 | AIR-Bench chat by domain, LongAudioBench |

Controllable generation (EvalSIFT) is measured, not judged: `generation_scores` compares the bins of
what was generated with the bins that were asked for.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.audio.clips import Source
from research.audio.manifests.messages import MESSAGES, clips_of
from research.errors import InputError, unknown
from research.evals import answering
from research.evals.answering import Answer, Question
from research.evals.judging import Judge, judged
from research.evals.transcripts import Transcripts
from research.metrics import ordinal
from research.text.messages import read_messages

ALL = 'all'
# Bins of SIFT-50M's metadata, low to high (table 9). What is said of a clip may name a bin with
# more words around it.
BINS: dict[str, tuple[str, ...]] = {
  'average_pitch': (
    *('very low', 'quite low', 'slightly low', 'moderate', 'slightly high', 'quite high'),
    'very high',
  ),
  'pitch_variation': (
    *('very monotone', 'quite monotone', 'slightly monotone', 'moderate intonation'),
    *('slightly expressive', 'quite expressive', 'very expressive'),
  ),
  'speaking_rate': (
    *('very slowly', 'quite slowly', 'slightly slowly', 'moderate speed', 'slightly fast'),
    *('quite fast', 'very fast'),
  ),
  'average_intensity': ('softly', 'moderate volume', 'loudly'),
}


def read_questions(source: Source, kind: str = 'text') -> list[Question]:
  """The questions of instruction data.

  Args:
    source: of `messages`.
    kind: of answers: 'text', or 'audio' for what has to be generated.

  Raises:
    InputError: the source has no messages, a row does not end with an answer, or none is of that
      kind.
  """
  if MESSAGES not in source.column_names:
    raise InputError(f'{source.name!r} has no messages: expected instruction data as JSON lines.')
  found = []
  for i, example in enumerate(source):
    if example.columns['answer'] != kind:
      continue
    where = f'Row {example.id!r} of {source.name!r}'
    messages = read_messages(json.loads(str(example.columns[MESSAGES])), where)
    if messages[-1].role != 'assistant' or len(messages) < 2 or messages[-2].role != 'user':
      raise InputError(f'{where} does not end with a question and its answer.')
    asked = messages[:-1]
    clips = clips_of(example)[: sum(len(m.clips) for m in asked)]
    columns = {k: v for k, v in example.columns.items() if isinstance(v, str) and k != MESSAGES}
    found.append(Question(source.id(i), tuple(clips), asked, messages[-1].text, columns))
  if not found:
    raise InputError(f'No row of {source.name!r} is answered by {kind}.')
  return found


@dataclasses.dataclass(frozen=True)
class ChatScore:
  """Judged answers to a set of questions.

  Attributes:
    groups: {group: {'score', 'count', 'unparsable'}}; 'all' is the mean over questions.
    missing: fraction of empty answers; they get the lowest score without a judge.
    stated: judge, rubric, version of its prompt, and the system.
  """

  groups: Mapping[str, Mapping[str, float]]
  missing: float
  stated: Mapping[str, str]


def score_chat(
  questions: Sequence[Question],
  answer: Answer,
  judge: Judge,
  *,
  system: str,
  version: str = '',
  by: str = 'category',
  sample_rate: int = 16_000,
  transcripts: Transcripts | None = None,
) -> ChatScore:
  """Puts questions to a system and has its answers judged.

  Args:
    questions: of `read_questions`.
    answer: `answer(clips, messages) -> text`.
    judge: with a rubric that gives numbers.
    system: name and settings of the system.
    version: of the set of questions.
    by: column of the groups; sets without it have 'all' alone.
    sample_rate: of the clips, Hz.
    transcripts: where answers are kept; a run that was killed goes on.

  Raises:
    InputError: see `answering.ask` and `Judge`.
  """
  found = answering.ask(
    questions, answer, system=system, version=version, sample_rate=sample_rate,
    transcripts=transcripts,
  )  # fmt: skip
  given = [i for i, text in enumerate(found) if text and text.strip()]
  rows = [
    {'instruction': questions[i].text, 'label': questions[i].label, 'response': found[i] or ''}
    for i in given
  ]
  verdicts = dict(zip(given, judge(rows) if rows else [], strict=True))
  groups: dict[str, list[int]] = {}
  for i, question in enumerate(questions):
    groups.setdefault(question.columns.get(by) or '', []).append(i)
  named = {name: rows for name, rows in sorted(groups.items()) if name}
  table = {}
  for name, members in {**named, ALL: list(range(len(questions)))}.items():
    own = [verdicts[i] for i in members if i in verdicts]
    lowest = judge.rubric.low * (len(members) - len(own))
    total = judged(own, judge).score * len(own) if own else 0.0
    table[name] = {
      'score': (total + lowest) / len(members),
      'count': len(members),
      'unparsable': sum(v.score is None for v in own),
    }
  missing = 1 - len(given) / len(questions)
  return ChatScore(table, missing, {**judge.stated, 'system': system, 'version': version})


def bin_of(key: str, text: str) -> int | None:
  """The bin that a text names; None if it names none or several.

  Raises:
    InputError: an unknown key.
  """
  if key not in BINS:
    raise unknown('ordinal attribute', key, BINS)
  low = ' '.join(text.lower().split())
  found = {i for i, name in enumerate(BINS[key]) if name in low}
  return found.pop() if len(found) == 1 else None


def generation_scores(
  asked: Mapping[str, Sequence[int]], runs: Sequence[Mapping[str, Sequence[int]]]
) -> dict[str, dict[str, float]]:
  """MAE and quadratic weighted kappa of every attribute, means over runs of one system (10 in the
  paper).

  Args:
    asked: {attribute: bin of every item}.
    runs: of each run the bins measured in what was generated, in the same order.

  Raises:
    InputError: an unknown attribute, a bin outside of it, or a run without it.
  """
  table = {}
  for key, reference in asked.items():
    if key not in BINS:
      raise unknown('ordinal attribute', key, BINS)
    if not runs or any(key not in run for run in runs):
      raise InputError(f'{key} was not measured in every run.')
    arrays = [np.asarray(reference), *(np.asarray(run[key]) for run in runs)]
    for array in arrays:
      if array.size and not (array.min() >= 0 and array.max() < len(BINS[key])):
        raise InputError(
          f'{key} has {len(BINS[key])} bins, from 0; got {array.min()} to {array.max()}.'
        )
    table[key] = ordinal.over_runs(arrays[0], arrays[1:])
  return table


def markdown(found: ChatScore) -> str:
  """A score, for reading."""
  lines = ['| group | score | questions | unparsable |', '|---|---|---|---|']
  lines += [
    f'| {name} | {row["score"]:.3f} | {row["count"]} | {row["unparsable"]} |'
    for name, row in found.groups.items()
  ]
  by = found.stated.get('judge', '')
  lines += ['', f'Judged by {by}; {100 * found.missing:.1f} % of the questions have no answer.']
  return '\n'.join(lines) + '\n'


def write_table(path: str | Path, score: ChatScore) -> None:
  """Writes a score as JSON."""
  found: dict[str, Any] = dataclasses.asdict(score)
  Path(path).write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding='utf-8')
