"""Dynamic-SUPERB (arXiv 2309.09510, 2411.05361): task folders as published, the rules of its
validator, and scores.

A task is `<Task>/<Task>_<Dataset>/` with `instance.json` (name, path and version of the data set,
metric). Its data set, the split `test`, lies there as well or where `data` says: Parquet or
`save_to_disk` of `datasets`, or `test.jsonl` or `metadata.jsonl` with paths. Nothing is downloaded.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from research.audio import arrow
from research.audio import lines as json_lines
from research.audio.example import Example
from research.audio.folder import Inside
from research.audio.manifests import huggingface as hub
from research.errors import InputError, listed
from research.evals import answer_scores, answering, leaderboard
from research.evals.answer_scores import METRICS, Score
from research.evals.answering import Answer, Question
from research.evals.judging import Judge
from research.evals.transcripts import Transcripts
from research.jobs import folders, paths
from research.text.messages import question as asked

INSTANCE, TABLES = 'instance.json', ('test.jsonl', 'metadata.jsonl')
TEXTS = ('file', 'instruction')
# Minimum of different instructions, or one for each N rows.
MIN_INSTRUCTIONS, ROWS_PER_INSTRUCTION = 10, 20
_CLIP = re.compile(r'audio(\d*)')
# Tasks in which case is part of the label.
CASED = ('PartOfSpeech', 'POS')


@dataclasses.dataclass(frozen=True)
class Task:
  """A task and its questions.

  Attributes:
    name: of the instance: '<Task>_<Dataset>'.
    version: of its data set.
    metric: of answer_scores.METRICS.
    questions: all rows, in order.
  """

  name: str
  version: str
  metric: str
  questions: tuple[Question, ...]


@dataclasses.dataclass(frozen=True)
class TaskScore:
  """The score of a system on a task, with what it depends on."""

  task: str
  version: str
  system: str
  score: Score

  def row(self) -> dict[str, Any]:
    """Plain values, as they are written."""
    task, dataset = leaderboard.names(self.task)
    own = dataclasses.asdict(self.score)
    stated = own.pop('stated')
    return {
      'task': task, 'dataset': dataset, 'domain': leaderboard.domain(task), 'system': self.system,
      'version': self.version, **own, **stated,
    }  # fmt: skip


def find_tasks(root: str | os.PathLike) -> list[Path]:
  """All folders with an instance.json below a folder, sorted.

  Raises:
    InputError: there is none.
  """
  top = Path(root).expanduser()
  found = sorted(path.parent for path in top.rglob(INSTANCE))
  if not found:
    raise InputError(
      f'{top} holds no {INSTANCE}: expected the folder benchmark_tasks of Dynamic-SUPERB, or one '
      'of its tasks.'
    )
  return found


def read_task(
  folder: str | os.PathLike,
  data: str | os.PathLike | None = None,
  metric: str | None = None,
  check: bool = True,
) -> Task:
  """Reads a task.

  Args:
    folder: with `instance.json`.
    data: folder of its data set; the same folder by default, or `data` in it.
    metric: of METRICS, instead of the one in `instance.json`.
    check: whether the rules of the validator must hold (`check_rows`).

  Raises:
    InputError: the folder or the data set is not of this form.
  """
  home = Path(folder).expanduser()
  about = paths.read_object(
    home / INSTANCE, 'is not an object in JSON with name, path and version.'
  )
  name = about.get('name', home.resolve().name)
  if check and name != home.resolve().name:
    raise InputError(f'{home / INSTANCE}: name is {name!r}, but the folder is {home.name!r}.')
  rows = list(_rows(_data(home, data)))
  if check:
    check_rows([row for row, _ in rows], name)
  questions = tuple(_question(row, clips, i) for i, (row, clips) in enumerate(rows))
  version = about.get('version')
  return Task(str(name), str(version or ''), metric or _metric(about, home), questions)


def check_rows(rows: Sequence[Mapping[str, Any]], name: str) -> None:
  """The rules of the validator (gather_information.py), on rows without their audio.

  Raises:
    InputError: a row lacks file, instruction or label, has two of what must be one, is of another
      split, or the instructions do not differ enough.
  """
  if not rows:
    raise InputError(f'Task {name}: its data set has no rows.')
  for number, row in enumerate(rows):
    where = f'Task {name}, row {number}'
    if row.get('split', 'test') not in ('', 'test'):
      raise InputError(f'{where}: split {row["split"]!r}; a task has only the split test.')
    for key in TEXTS:
      if not isinstance(row.get(key), str) or not row[key].strip():
        raise InputError(f'{where}: no text {key!r} (it has: {listed(row)}).')
    for kind in ('label', 'audio'):
      given = [key for key in (kind, f'{kind}1') if row.get(key) not in (None, '')]
      if len(given) != 1:
        raise InputError(
          f'{where}: expected exactly one of {kind} and {kind}1, got {listed(given)}.'
        )
    if not isinstance(_label(row), str):
      raise InputError(
        f'{where}: the label is {type(_label(row)).__name__}, not a text: tasks whose answers are '
        'audio cannot be scored here.'
      )
  need = max(MIN_INSTRUCTIONS, len(rows) // ROWS_PER_INSTRUCTION)
  different = len({row['instruction'] for row in rows})
  if different < need:
    raise InputError(
      f'Task {name}: {different} different instructions for {len(rows)} rows; its rules ask for '
      f'{need}. check=False reads it anyway.'
    )


def score_task(
  task: Task,
  answer: Answer,
  *,
  system: str,
  judge: Judge | None = None,
  transcripts: Transcripts | None = None,
  sample_rate: int = 16_000,
) -> TaskScore:
  """Puts a task to a system and scores its answers.

  Args:
    task: of `read_task`.
    answer: `answer(clips, messages) -> text`; all clips first, then the instruction, in one turn.
    system: name and settings of the system.
    judge: None scores by equality and rules (first phase); else see `answer_scores.score`.
    transcripts: where answers are kept; a run that was killed goes on.
    sample_rate: of the clips, Hz.
  """
  found = answering.ask(
    task.questions, answer, system=system, version=f'{task.name}@{task.version}',
    sample_rate=sample_rate, transcripts=transcripts, text=task.name,
  )  # fmt: skip
  name = leaderboard.names(task.name)[0]
  rows = [{'instruction': q.text, 'label': q.label, 'task_name': name} for q in task.questions]
  scored = answer_scores.score(
    rows, found, task.metric, judge=judge, keep_case=any(mark in name for mark in CASED)
  )
  return TaskScore(task.name, task.version, system, scored)


def score_tasks(
  root: str | os.PathLike,
  answer: Answer,
  *,
  system: str,
  out: str | os.PathLike,
  judge: Judge | None = None,
  sample_rate: int = 16_000,
) -> dict[str, Any]:
  """Scores all tasks below a folder, and writes `scores.json`, `scores.md` and the answers.

  Args:
    root: of `find_tasks`.
    answer: `answer(clips, messages) -> text`.
    system: name and settings of the system.
    out: a folder; the same call goes on there when it was killed.
    judge: None for the first phase. With one, accuracy is judged by its rubric, and other metrics
      are of what it finds in an answer.
    sample_rate: of the clips, Hz.

  Returns:
    the table, see `table`.
  """
  home = Path(out).expanduser()
  transcripts = Transcripts(home / 'answers.jsonl')
  scores = []
  try:
    for folder in find_tasks(root):
      task = read_task(folder)
      own = answer_scores.judge_for(task.metric, judge) if judge else None
      how: dict[str, Any] = dict(system=system, judge=own, transcripts=transcripts)
      scores.append(score_task(task, answer, sample_rate=sample_rate, **how))
  finally:
    transcripts.close()
  found = table(scores)
  # JSON has no nan: a value of no answer is null.
  rows = [{k: None if v != v else v for k, v in row.items()} for row in found['tasks']]
  text = json.dumps({**found, 'tasks': rows}, indent=2, ensure_ascii=False)
  folders.replace_text(home / 'scores.json', text)
  folders.replace_text(home / 'scores.md', markdown(found))
  return found


def markdown(found: Mapping[str, Any]) -> str:
  """What `table` gives, for reading."""
  lines = ['| task | data set | domain | metric | value | N/A | unparsable | by |']
  lines.append('|---|---|---|---|---|---|---|---|')
  for row in found['tasks']:
    by = row.get('judge') or row.get('extracted', '')
    numbers = f'{row["value"]:.4f} | {row["missing"]:.3f} | {row["unparsable"]}'
    names = f'{row["task"]} | {row["dataset"]} | {row["domain"]} | {row["metric"]}'
    lines.append(f'| {names} | {numbers} | {by} |')
  lines += ['', '| domain | mean score |', '|---|---|']
  lines += [f'| {name} | {value:.4f} |' for name, value in found['domains'].items()]
  return '\n'.join(lines) + '\n'


def table(scores: Sequence[TaskScore], domains: Mapping[str, str] | None = None) -> dict[str, Any]:
  """Rows of tasks, and means over the domains of those with a score from 0 to 1.

  Raises:
    InputError: judged and exact scores are mixed: they cannot be compared.
  """
  kinds = {s.score.stated.get('judge', '') for s in scores if s.score.metric == 'accuracy'}
  if len(kinds) > 1:
    raise InputError(
      f'These scores were made by {listed(sorted(kinds))}: scores by different judges, or by a '
      'judge and by equality, cannot be compared.'
    )
  known = {s.task: s.score.score for s in scores if s.score.score is not None}
  return {
    'tasks': [s.row() for s in scores],
    'domains': leaderboard.domain_means(known, domains),
  }


def _metric(about: Mapping[str, Any], home: Path) -> str:
  given = about.get('metric') or about.get('metrics') or 'accuracy'
  names = [given] if isinstance(given, str) else list(given)
  for name in names:
    words = re.findall(r'[a-z]+', str(name).lower())
    for known in METRICS:
      if known in words or (known == 'accuracy' and 'classification' in words):
        return known
  raise InputError(
    f'{home / INSTANCE} names the metric {listed(map(str, names))}; known are {listed(METRICS)}: '
    'name one of them with metric=.'
  )


def _data(home: Path, data: str | os.PathLike | None) -> Path:
  if data is not None:
    return Path(data).expanduser()
  return home / 'data' if (home / 'data').is_dir() else home


def _rows(data: Path) -> Iterator[tuple[dict[str, Any], list[Example]]]:
  """(columns, clips) of every row."""
  for name in TABLES:
    if (data / name).is_file():
      yield from _json_rows(data / name)
      return
  if hub.recognise(data) is None:
    raise InputError(
      f'{data} holds no data set: expected .parquet, what save_to_disk wrote, or {TABLES[0]}.'
    )
  first = hub.first_file(data)
  names = _clip_names([f.name for f in arrow.schema(first)])
  if not names:
    raise InputError(f'{data} has no column audio or audio1.')
  sources = [hub.huggingface(str(data), audio=name) for name in names]
  for i, example in enumerate(sources[0]):
    clips = [example, *(source[i] for source in sources[1:])]
    row: dict[str, Any] = dict(example.columns)
    yield {**row, **dict.fromkeys(names, True)}, clips


def _json_rows(path: Path) -> Iterator[tuple[dict[str, Any], list[Example]]]:
  inside = Inside(path.parent)
  for line, row in json_lines.records(path):
    where = f'{path}, line {line}'
    clips = []
    for name in _clip_names(list(row)):
      if not isinstance(row[name], str):
        raise InputError(f'{where}: {name} is not the path of a file.')
      found = str(path.parent / inside(row[name], where))
      clips.append(Example(found, {}, path=found))
    yield row, clips


def _clip_names(columns: Sequence[str]) -> list[str]:
  """audio, or audio1, and those behind it, in order."""
  found = [(int(m[1] or 1), name) for name in columns if (m := _CLIP.fullmatch(name))]
  return [name for _, name in sorted(found)]


def _label(row: Mapping[str, Any]) -> Any:
  return row['label'] if row.get('label') not in (None, '') else row.get('label1')


def _question(row: Mapping[str, Any], clips: Sequence[Example], number: int) -> Question:
  messages = asked(row['instruction'], *(clip.where for clip in clips))
  columns = {k: v for k, v in row.items() if isinstance(v, str)}
  return Question(f'{number}/{row["file"]}', tuple(clips), messages, str(_label(row)), columns)
