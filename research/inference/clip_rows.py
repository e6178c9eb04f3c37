"""A resumable job that gives a row, a line of JSON, for every clip of a source: transcripts,
captions, classes, turns of speakers, files of separated signals.

Killed, it goes on. Blocks of clips that are done lie in `<file>.parts/`; the file itself appears
when all clips are in it, in the order of the source (`research/jobs/parts.py`).
"""

import concurrent.futures
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research import distributed
from research.audio.bad_files import BadFiles
from research.audio.decode import AudioError, decode
from research.errors import InputError
from research.inference.transcribe import blocks
from research.jobs import folders
from research.jobs.parts import Job, Parts, key

Row = dict[str, Any]
THREADS = 2  # that decode
# (source, bad files, rows of each block) -> (row, its result, or the reason why there is none).
Stream = Callable[[Any, BadFiles, Sequence[np.ndarray]], Iterator[tuple[int, Any]]]


def run(
  stream: Stream,
  source: Any,
  row_of: Callable[[int, Any], Row],
  out: str | os.PathLike | None = None,
  write: Callable[[list[Row]], Iterable[str]] | None = None,
  *,
  doing: str,
  done: str,
  about: Mapping[str, Any] | None = None,
  max_bad_fraction: float = 0.5,
) -> list[Row]:
  """Works through every clip of a source, into a file if one is named.

  Args:
    stream: the system.
    source: clips.
    row_of: (number of a clip, its result or the reason why there is none) -> its row, JSON-able;
      with 'id', and 'error' where there is no result.
    out: the file, which was checked. None writes nothing; then there is one process.
    write: rows -> the text of the file; None writes none.
    doing, done: what is done to clips, for a progress bar and for messages ('transcribing',
      'transcribed').
    about: what the result depends on besides the source: an unfinished job is only gone on with if
      it is equal.
    max_bad_fraction: fraction of unreadable clips above which it stops.

  Returns:
    the rows, in the order of the source; none on processes after the first.

  Raises:
    InputError: the parts of another job are in the way, there is no result for any clip, the disk
      is full, or several processes without a file.
  """
  args = dict(doing=doing, done=done, about=about, max_bad_fraction=max_bad_fraction)
  if out is not None:
    return _run(stream, source, row_of, Path(out), write, **args)
  if distributed.process()[1] > 1:
    raise InputError('Several processes work into a file: give --out.')
  with tempfile.TemporaryDirectory() as folder:
    return _run(stream, source, row_of, Path(folder) / 'rows', None, **args)


def _run(stream, source, row_of, out, write, *, doing, done, about, max_bad_fraction):
  parts = Parts(out, dict(about or {}, source=source.fingerprint()))
  durations = source.durations()
  places = {source.id(i): i for i in range(len(source))}
  todo = list(blocks(durations))
  keys = [key(block) for block in todo]
  # Files that could not be used are tried again, in blocks of their own.
  failed = np.array([places[r['id']] for r in rows_of(parts, keys) if 'error' in r], np.int64)
  again = [failed[block] for block in blocks(durations[failed])]
  state = [part.name for part in parts.files()]
  todo, keys = todo + again, keys + [key('again', state, block) for block in again]
  job = Job(
    parts, keys, [len(b) for b in todo], out=out, process=distributed.process(), part_seconds=0.0
  )
  bad = BadFiles(None, max_bad_fraction, total=len(source))

  def work(numbers: list[int]) -> Iterator[dict[str, np.ndarray]]:
    left = [todo[i] for i in numbers]
    results = stream(source, bad, left)
    for block in left:
      each = itertools.islice(results, len(block))
      lines = ''.join(line(row_of(i, result)) for i, result in each)
      yield {'lines': np.frombuffer(lines.encode(errors='surrogateescape'), np.uint8)}

  def finish() -> list[Row]:
    found: dict[str, Row] = {}
    for row in rows_of(parts, keys):
      if 'error' not in row or row['id'] not in found:
        found[row['id']] = row
    rows = sorted(found.values(), key=lambda row: places[row['id']])
    if all('error' in row for row in rows):
      raise InputError(
        f'Nothing of {source.name!r} could be {done}; the first, {rows[0]["id"]}: '
        f'{rows[0]["error"]}'
      )
    if write is not None:
      folders.replace_text(out, ''.join(write(rows)))
    parts.remove()
    return rows

  try:
    return job.run(work, finish, doing) or []
  except InputError:
    # Nothing stays behind where there is nothing to go on from.
    if job.begun and not job.index and all('error' in row for row in rows_of(parts)):
      parts.remove()
    raise


def each_clip(one: Callable[[int, np.ndarray], Any], sample_rate: int) -> Stream:
  """A stream of what `one` makes of row and samples [t] of every clip; its InputError is the reason
  why a clip has no result. The next clips are decoded meanwhile."""

  def stream(source: Any, bad: BadFiles, rows: Sequence[np.ndarray]) -> Iterator[tuple[int, Any]]:
    def samples(i: int) -> np.ndarray | AudioError:
      try:
        return decode(source[i], sample_rate=sample_rate)
      except AudioError as error:
        return error

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
      for block in rows:
        bad.seen(len(block))
        clips = block.tolist()
        for i, audio in zip(clips, pool.map(samples, clips)):
          if isinstance(audio, AudioError):
            bad.record(source.id(i), audio.where, audio.reason)
            yield i, audio.reason
            continue
          try:
            result = one(i, audio)
          except InputError as error:
            result = str(error)
          yield i, result
        bad.check()

  return stream


def each_example(one: Callable[[int, Any], Any]) -> Stream:
  """A stream of what `one` makes of row and example of every clip, which it reads itself, as parts
  of long ones; its InputError is the reason why a clip has no result."""

  def stream(source: Any, bad: BadFiles, rows: Sequence[np.ndarray]) -> Iterator[tuple[int, Any]]:
    for block in rows:
      bad.seen(len(block))
      for i in block.tolist():
        try:
          result = one(i, source[i])
        except AudioError as error:
          bad.record(source.id(i), error.where, error.reason)
          result = error.reason
        except InputError as error:
          result = str(error)
        yield i, result
      bad.check()

  return stream


def rows_of(parts: Parts, keys: Sequence[str] | None = None) -> Iterator[Row]:
  """The rows of the clips that are done."""
  for arrays in parts.read(keys):
    # Not splitlines: names of files may hold other ends of lines, as U+2028.
    text = arrays['lines'].tobytes().decode(errors='surrogateescape')
    yield from map(json.loads, filter(None, text.split('\n')))


def line(row: Row) -> str:
  """A row of a .jsonl file."""
  return json.dumps(row, ensure_ascii=False) + '\n'


def jsonl(rows: list[Row]) -> Iterator[str]:
  """The text of a .jsonl file."""
  yield from map(line, rows)
