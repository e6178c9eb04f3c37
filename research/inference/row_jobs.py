"""Rows of a source, one a clip, by a job that can be killed and goes on.

A row is a dict, {id, …}, or {id, error} of a clip that was left out. Blocks of clips that are done
lie in `<out>.parts/` as lines of JSON; what is written of all rows appears when all are there, in
the order of the source. Clips that could not be used are tried again by the next run.
"""

import concurrent.futures
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research import distributed
from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.audio.decode import AudioError, decode
from research.errors import InputError
from research.inference.transcribe import blocks
from research.jobs.parts import Job, Parts, key

Row = dict[str, Any]
Stream = Callable[[Source, BadFiles, list[np.ndarray]], Iterator[tuple[int, Any]]]
THREADS = 2


def run(
  stream: Stream,
  source: Source,
  out: Path,
  *,
  row: Callable[[int, Any], Row],
  write: Callable[[list[Row]], None],
  done: str,
  doing: str,
  about: dict[str, Any] | None = None,
  max_bad_fraction: float = 0.5,
  show: Callable[[int, Any], None] = lambda row, result: None,
) -> list[Row]:
  """The rows of all clips, written in the end.

  Args:
    stream: (source, bad files, blocks of rows) -> (row, its result, or the reason, a text, why
      there is none), block by block.
    source: clips.
    out: what is written in the end; parts lie beside it.
    row: (row, result) -> what is kept of it, JSON-able.
    write: writes all rows; called on the first process.
    done, doing: the verb, for messages: 'transcribed', 'transcribing'.
    about: what else the result depends on: an unfinished job is only gone on with if it is equal.
    max_bad_fraction: fraction of unreadable clips above which it stops.
    show: called with row and result of every clip when it is done.

  Returns:
    the rows, in the order of the source; none on processes after the first.

  Raises:
    InputError: the parts of another job are in the way, no clip could be used, or the disk is full.
  """
  parts = Parts(out, dict(about or {}, source=source.fingerprint()))
  durations = source.durations()
  places = {source.id(i): i for i in range(len(source))}
  todo = list(blocks(durations))
  keys = [key(block) for block in todo]
  # Files that could not be used are tried again, in blocks of their own.
  failed = np.array([places[r['id']] for r in read(parts, keys) if 'error' in r], np.int64)
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
      lines = ''
      for i, result in itertools.islice(results, len(block)):
        lines += line(row(i, result))
        if not isinstance(result, str):
          show(i, result)
      yield {'lines': np.frombuffer(lines.encode(errors='surrogateescape'), np.uint8)}

  def finish() -> list[Row]:
    found: dict[str, Row] = {}
    for each in read(parts, keys):
      if 'error' not in each or each['id'] not in found:
        found[each['id']] = each
    rows = sorted(found.values(), key=lambda each: places[each['id']])
    if all('error' in each for each in rows):
      raise InputError(
        f'Nothing of {source.name!r} could be {done}; the first, {rows[0]["id"]}: '
        f'{rows[0]["error"]}'
      )
    write(rows)
    parts.remove()
    return rows

  try:
    return job.run(work, finish, doing) or []
  except InputError:
    # Nothing stays behind where there is nothing to go on from.
    if job.begun and not job.index and all('error' in each for each in read(parts)):
      parts.remove()
    raise


def read(parts: Parts, keys: Sequence[str] | None = None) -> Iterator[Row]:
  """The rows of the clips that are done."""
  for arrays in parts.read(keys):
    # Not splitlines: names of files may hold other ends of lines, as U+2028.
    text = arrays['lines'].tobytes().decode(errors='surrogateescape')
    yield from map(json.loads, filter(None, text.split('\n')))


def line(row: Row) -> str:
  """A row as a line of JSON."""
  return json.dumps(row, ensure_ascii=False) + '\n'


def each_clip(one: Callable[[int, np.ndarray], Any], sample_rate: int) -> Stream:
  """A stream of what `one` makes of row and samples [t] of every clip; its InputError is the reason
  why a clip has no result. The next clips are decoded meanwhile."""

  def stream(source: Source, bad: BadFiles, rows: list[np.ndarray]) -> Iterator[tuple[int, Any]]:
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
