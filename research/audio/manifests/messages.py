"""Instruction data: JSON lines with `messages` about clips, as SIFT-50M (arXiv 2504.09081, appendix
C.2) and other audio language models write them.

A record has `messages`, each with `role` and `content`: a text, or a list of parts `{"text": …}`
and `{"audio_path": …}` (or `{"audio": …}`), in any order and number; and optionally `id`, `task`,
`category`, `language` and other columns. The assistant may speak: such records have `answer` audio.
"""

import concurrent.futures
import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from research.audio import decode, lines
from research.audio.clips import Source
from research.audio.durations import THREADS
from research.audio.example import Example, Value
from research.audio.folder import Inside
from research.audio.rows import Clips
from research.errors import InputError
from research.text.messages import read_messages

MESSAGES, CLIPS, ANSWER, TASK = 'messages', 'clips', 'answer', 'task'
SUFFIXES = ('.jsonl', '.json')
# Files of a folder that are opened to recognise it.
_LOOKED = 20


def recognise(path: pathlib.Path) -> str | None:
  """A file of JSON lines with messages, or a folder of such."""
  found = _files(path, _LOOKED)
  return f'{found[0].name} with {MESSAGES}' if found else None


def _files(path: pathlib.Path, looked: int | None = None) -> list[pathlib.Path]:
  files = [path] if path.is_file() else sorted(path.glob('*.json*'))[:looked]
  return [
    f for f in files
    if f.suffix in SUFFIXES and isinstance(lines.first_record(f).get(MESSAGES), list)
  ]  # fmt: skip


def messages(path: str, audio: str | None = None) -> Source:
  """The records of a file, or of a folder of files, whose names are the splits.

  A row is one conversation. Its audio is its first clip, its duration that of its longest. Columns:
  messages (JSON), clips (paths in order), answer ('text' or 'audio'), task (the name of the file by
  default), and all others of the record. Ids are those of the records, made unique by a number
  behind `#`.

  Args:
    path: the file, or the folder.
    audio: folder of the clips, in which their paths stay; that of the file by default.

  Raises:
    InputError: a record is not of this form, has no clip, or a path leads out of the folder.
  """
  given = pathlib.Path(path)
  files = _files(given)
  if not files:
    raise InputError(f'{given}: no JSON lines with {MESSAGES!r}, so it is no instruction data.')
  root = pathlib.Path(audio or (given.parent if given.is_file() else given)).expanduser()
  inside, seen = Inside(root), dict[str, int]()
  name = given.stem if given.is_file() else given.resolve().name
  clips = Clips(name, root, lambda path, where: path)
  longest: list[list[str]] = []
  for file in files:
    split = file.stem if given.is_dir() and len(files) > 1 else ''
    for line, record in lines.records(file):
      where = f'{file}, line {line}'
      columns, paths = _columns(record, inside, where)
      columns.setdefault(TASK, file.stem)
      if split:
        columns.setdefault('split', split)
      id_ = str(columns.pop('id', '') or f'{file.stem}/{line}')
      count = seen[id_] = seen.get(id_, 0) + 1
      seconds = _seconds(columns, where)
      longest.append(paths if len(paths) > 1 and math.isnan(seconds) else [])
      # A place marks rows of one recording, so that they are held out together.
      clips.add(
        where, paths[0], columns, id=id_ if count == 1 else f'{id_}#{count}',
        place=(0.0, math.nan), seconds=seconds,
      )  # fmt: skip
  source = clips.source()
  _measure(source, root, longest)
  return source


def clips_of(example: Example) -> list[Example]:
  """The clips of a row, in the order of its messages.

  Raises:
    InputError: it has several, of which shards hold the first alone.
  """
  paths = [str(path) for path in example.columns[CLIPS]]
  if example.path is None and len(paths) > 1:
    raise InputError(f'{example.id!r} has several clips, of which shards hold the first alone.')
  # All paths start at the folder that the first one does, which is the clip of the row.
  root = (example.path or '').removesuffix(paths[0])
  more = [Example(root + path, {}, path=root + path) for path in paths[1:]]
  return [dataclasses.replace(example, columns={}), *more]


def _columns(
  record: Mapping[str, Any], inside: Inside, where: str
) -> tuple[dict[str, Value], list[str]]:
  """(columns, paths of the clips) of a record."""
  found = read_messages(record.get(MESSAGES), where)
  paths = []
  for message in found:
    for clip in message.clips:
      if not isinstance(clip.audio, str) or not clip.audio:
        raise InputError(f'{where}: a clip is {type(clip.audio).__name__}; expected a path.')
      paths.append(inside(clip.audio, where))
  if not paths:
    raise InputError(f'{where}: no clip in the messages; leave out records of text alone.')
  columns = {k: lines.value(v) for k, v in record.items() if k != MESSAGES}
  for name in (CLIPS, ANSWER):
    if name in columns:
      columns[f'{name}_'] = columns.pop(name)
  columns[MESSAGES] = json.dumps(record[MESSAGES], ensure_ascii=False)
  columns[CLIPS] = paths
  spoken = any(m.clips for m in found if m.role == 'assistant')
  columns[ANSWER] = 'audio' if spoken else 'text'
  return columns, paths


def _seconds(columns: dict[str, Value], where: str) -> float:
  """The column seconds or duration: of the longest clip."""
  for name in ('seconds', 'duration'):
    if name in columns:
      value = columns.pop(name)
      try:
        return float(value) if value else math.nan  # type: ignore[arg-type]
      except (TypeError, ValueError):
        raise InputError(f'{where}: {name} is {value!r}; expected seconds.') from None
  return math.nan


def _measure(source: Source, root: pathlib.Path, longest: list[list[str]]) -> None:
  """Durations of rows with several clips, from headers; 0 where one cannot be opened."""

  def seconds(path: str) -> float:
    try:
      return decode.duration(Example(path, {}, path=str(root / path)))
    except decode.AudioError:
      return 0.0

  rows = [row for row, paths in enumerate(longest) if paths]
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    every = sorted({path for row in rows for path in longest[row]})
    known = dict(zip(every, pool.map(seconds, every), strict=True))
  for row in rows:
    found = [known[path] for path in longest[row]]
    source.table.seconds[row] = max(found) if all(found) else 0.0
