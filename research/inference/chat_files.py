"""Answers about the clips of a source, as one resumable job (`clip_rows`).

A source of instruction data (`audio/manifests/messages.py`) brings its own questions, of one or
several clips; of any other source every clip is asked the same.
"""

import dataclasses
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from research.audio import decode
from research.audio.bad_files import BadFiles
from research.audio.example import Example
from research.audio.manifests.messages import MESSAGES, TASK, clips_of
from research.errors import InputError
from research.inference import clip_rows
from research.inference.chat import Asked, Chat
from research.inference.clip_rows import Row
from research.jobs import folders
from research.metrics.answers import exact_match
from research.text.messages import Message, question, read_messages

SUFFIXES = ('.jsonl', '.tsv')


@dataclasses.dataclass(frozen=True)
class What:
  """What is asked.

  Attributes:
    question: of every clip; '' where rows bring their own.
    task: a published prompt instead, see `Chat.tasks`.
    given: what the task needs.
    clean: answer -> what of it counts.
  """

  question: str = ''
  task: str = ''
  given: Mapping[str, str] = dataclasses.field(default_factory=dict)
  clean: Callable[[str], str] = str.strip

  def of(self, example: Example) -> tuple[list[Example], tuple[Message, ...]]:
    """(clips, messages that end with the user's) of a row; an answer at their end is left out."""
    if self.question or self.task:
      return [example], question(self.question, 0)
    found = _messages(example)
    found = found[:-1] if found[-1].role == 'assistant' else found
    count = sum(len(message.clips) for message in found)
    return clips_of(example)[:count], found

  def expected(self, example: Example) -> dict[str, str]:
    """{'reference', 'task'} of a row that ends with an answer in words; {} of another."""
    if self.question or self.task:
      return {}
    last = _messages(example)[-1]
    if last.role != 'assistant' or last.clips:
      return {}
    return {'reference': last.text, 'task': str(example.columns.get(TASK, ''))}

  def about(self) -> dict[str, Any]:
    """JSON-able."""
    return {'question': self.question, 'task': self.task, 'given': dict(self.given)}


def _messages(example: Example) -> tuple[Message, ...]:
  return tuple(read_messages(json.loads(str(example.columns[MESSAGES])), f'Row {example.id!r}'))


def scores(rows: Sequence[Row]) -> dict[str, tuple[float, int]]:
  """{task: (fraction of answers that are the reference but for case, number of answers)} of rows
  that have a reference; 'all' where there are several tasks."""
  known: dict[str, list[Row]] = {}
  for row in rows:
    if 'reference' in row and 'answer' in row:
      known.setdefault(row['task'], []).append(row)
  if len(known) > 1:
    known['all'] = [row for each in known.values() for row in each]

  def right(rows: Sequence[Row]) -> float:
    return exact_match(*([row[name] for row in rows] for name in ('answer', 'reference')))

  return {task: (right(each), len(each)) for task, each in known.items()}


def answer_source(
  chat: Chat,
  source: Any,
  out: str | os.PathLike | None = None,
  what: What | None = None,
  *,
  about: Mapping[str, Any] | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
) -> list[Row]:
  """Writes an answer for every row of a source, into a file if one is named.

  A row is {id, question, answer}, or {id, question, error} where a clip cannot be used, and has
  `reference` and `task` too where the messages end with an answer. .jsonl holds the rows; .tsv the
  columns id and answer, without what was left out.

  Args:
    chat: the system.
    source, out, about, max_bad_fraction: see `clip_rows.run`.
    what: is asked; None: what the rows say.
    overwrite: whether a file that is there may be replaced.

  Raises:
    InputError: no question, a task that there is not, an ending that is not known, the file
      exists, and as `clip_rows.run`.
  """
  asked = what or What()
  if not (asked.question or asked.task) and MESSAGES not in source.column_names:
    raise InputError(
      f'Nothing is asked about {source.name!r}: give a question, or JSON lines with {MESSAGES!r}.'
    )
  path = None if out is None else folders.writable(out, SUFFIXES, overwrite)

  def row_of(i: int, result: Any) -> Row:
    row = {'id': source.id(i), 'question': asked.question or asked.task or _last(asked, source[i])}
    row |= asked.expected(source[i])
    return row | ({'answer': result[0]} if isinstance(result, tuple) else {'error': result})

  def stream(source: Any, bad: BadFiles, rows: Sequence[np.ndarray]) -> Iterator[tuple[int, Any]]:
    for block in rows:
      bad.seen(len(block))
      ready: dict[int, Asked | str] = {int(row): _ready(chat, asked, source, row, bad)
                                      for row in map(int, block)}  # fmt: skip
      bad.check()
      good = {row: each for row, each in ready.items() if isinstance(each, Asked)}
      numbers = [zlib.crc32(source.id(row).encode(errors='surrogateescape')) for row in good]
      texts = dict(zip(good, chat.answers(list(good.values()), numbers), strict=True))
      for row, each in ready.items():
        yield row, (asked.clean(texts[row]),) if row in texts else each

  return clip_rows.run(
    stream,
    source,
    row_of,
    path,
    None if path is None else _WRITERS[path.suffix],
    doing='answering',
    done='answered',
    about={**(about or {}), **asked.about(), **chat.about()},
    max_bad_fraction=max_bad_fraction,
  )


def _last(asked: What, example: Example) -> str:
  return asked.of(example)[1][-1].text


def _ready(chat: Chat, asked: What, source: Any, row: int, bad: BadFiles) -> Asked | str:
  """A question with its clips decoded, or why there is none."""
  try:
    clips, messages = asked.of(source[row])
    audio = [decode.decode(clip, sample_rate=chat.rate) for clip in clips]
    if asked.task:
      return chat.task(asked.task, audio[0], **asked.given)
    return chat.ask(audio, messages)
  except decode.AudioError as error:
    bad.record(source.id(row), error.where, error.reason)
    return error.reason
  except InputError as error:
    return str(error)


def _tsv(rows: list[Row]) -> Iterator[str]:
  yield 'id\tanswer\n'
  flat = lambda text: ' '.join(text.split())  # noqa: E731
  yield from (f'{row["id"]}\t{flat(row["answer"])}\n' for row in rows if 'answer' in row)


_WRITERS: dict[str, Callable[[list[Row]], Iterator[str]]] = {
  '.jsonl': clip_rows.jsonl,
  '.tsv': _tsv,
}
