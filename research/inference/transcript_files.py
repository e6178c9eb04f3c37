"""Transcripts of a source into one file: .jsonl, .txt, .srt, .vtt or .ctm. Killed, it goes on.

Finished clips lie in `<file>.parts/`; the file itself appears when all clips are in it, in the
order of the source.
"""

import html
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.audio.bad_files import BadFiles
from research.errors import InputError
from research.inference.ctc import Transcript, Word
from research.inference.transcribe import Transcriber
from research.jobs import folders, locks
from research.jobs.progress import bar
from research.metrics import asr
from research.text import characters

SUFFIXES = ('.jsonl', '.txt', '.srt', '.vtt', '.ctm')
# Those that hold the words of one recording.
SUBTITLES = ('.srt', '.vtt')
# Two lines of 42 letters, at most seven seconds: the usual limits of subtitles (BBC and Netflix
# style guides). A pause of a second ends one.
CUE_LETTERS, LINE_LETTERS, CUE_SECONDS, CUE_PAUSE = 84, 42, 7.0, 1.0

Row = dict[str, Any]


def transcribe_source(
  transcriber: Transcriber,
  source: Any,
  out: str | os.PathLike | None = None,
  *,
  references: Sequence[str] | None = None,
  about: dict[str, Any] | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
  show: Callable[[str, str], None] = lambda id, text: None,
) -> list[Row]:
  """Transcribes every clip of a source, into a file if one is named.

  A row is {id, text, seconds, words: [{word, start, end}], reference if there is one} (seconds), or
  {id, error} for a clip that was left out. .jsonl holds the rows, one a line; .txt a line
  `id<tab>text` a clip; .srt and .vtt subtitles of one recording; .ctm NIST's `id 1 start duration
  word`, with _ for white space in ids. Clips that were left out are not in the last four.

  Args:
    transcriber: the system.
    source: clips.
    out: the file; its ending says which kind. None writes nothing.
    references: what was said in each clip, '' where that is not known.
    about: what else the result depends on: an unfinished job is only gone on with if it is equal.
    overwrite: whether a file that is there may be replaced.
    max_bad_fraction: share of unreadable clips above which it stops.
    show: called with id and text of every clip when it is done.

  Returns:
    the rows, in the order of the source.

  Raises:
    InputError: an ending that is not known or does not fit, the file exists, the parts of another
      job are in the way, nothing could be transcribed, or the disk is full.
  """
  job = _Job(None if out is None else check_out(out, len(source), overwrite))
  try:
    rows = job.open(dict(about or {}, source=source.fingerprint()))
  except OSError as error:
    raise InputError(f'Cannot write {out}: {error.strerror or error}.') from error
  try:
    bad = BadFiles(None, max_bad_fraction, total=len(source))
    done = {row['id'] for row in rows}
    todo = np.array([i for i in range(len(source)) if source.id(i) not in done], np.int64)
    with bar('transcribing', len(source)) as progress:
      for place, result in transcriber.stream(source.select(todo), bad):
        i = int(todo[place])
        rows.append(_row(source.id(i), result, references[i] if references else ''))
        job.add(rows[-1])
        if not isinstance(result, str):
          show(source.id(i), result.text)
        progress(len(rows))
    places = {source.id(i): i for i in range(len(source))}
    rows.sort(key=lambda row: places[row['id']])
    if all('error' in row for row in rows):
      raise InputError(
        f'Nothing of {source.name!r} could be transcribed; the first, {rows[0]["id"]}: '
        f'{rows[0]["error"]}'
      )
    job.finish(rows)
  except OSError as error:
    raise InputError(
      f'Cannot write {out}: {error.strerror or error}. The finished clips are kept in '
      f'{job.folder}; the same command goes on from them.'
    ) from error
  finally:
    job.close(rows)
  return rows


def check_out(out: str | os.PathLike, clips: int, overwrite: bool = False) -> Path:
  """The path of the file to be written.

  Raises:
    InputError: its ending is not known, it cannot hold several clips, or the file exists.
  """
  out = folders.writable(out, SUFFIXES, overwrite)
  if out.suffix in SUBTITLES and clips != 1:
    raise InputError(
      f'{out} can hold the subtitles of one recording, and the input has {clips}: give one file as '
      'input, or write .jsonl, .txt or .ctm.'
    )
  return out


def error_rates(rows: Sequence[Row], symbols: Sequence[str]) -> tuple[int, asr.Errors, asr.Errors]:
  """(clips, word errors, character errors) of the rows that have a reference and a text.

  References are put into the case of the vocabulary; punctuation counts as it is.
  """
  both = [row for row in rows if 'reference' in row and 'text' in row]
  references = [characters.in_case(row['reference'], symbols) for row in both]
  texts = [row['text'] for row in both]
  counted = (asr.word_errors(references, texts), asr.character_errors(references, texts))
  return len(both), *counted


def _row(id: str, result: Transcript | str, reference: str) -> Row:
  if isinstance(result, str):
    return {'id': id, 'error': result}
  words = [dict(word=w, start=round(s, 3), end=round(e, 3)) for w, s, e in result.words]
  row = {'id': id, 'text': result.text, 'seconds': round(result.seconds, 3), 'words': words}
  return row | ({'reference': reference} if reference else {})


class _Job:
  """The unfinished file: the rows that are done, on disk, one a line."""

  def __init__(self, out: Path | None):
    self.out = out
    self.folder = None if out is None else folders.parts_folder(out)

  def open(self, settings: dict[str, Any]) -> list[Row]:
    """The rows that are done; files that could not be used are tried again."""
    if self.folder is None:
      return []
    folders.begin(self.folder, settings)
    rows = [row for row in self._done() if 'error' not in row]
    # A line that a kill has cut is done again.
    folders.replace_text(self.folder / 'done.jsonl', ''.join(_line(row) for row in rows))
    return rows

  def _done(self) -> Iterator[Row]:
    assert self.folder is not None
    file = self.folder / 'done.jsonl'
    for line in file.read_bytes().splitlines(keepends=True) if file.exists() else ():
      if line.endswith(b'\n'):
        yield json.loads(line.decode('utf-8', errors='surrogateescape'))

  def add(self, row: Row) -> None:
    if self.folder is not None:
      with open(
        self.folder / 'done.jsonl', 'a', encoding='utf-8', errors='surrogateescape'
      ) as file:
        file.write(_line(row))

  def finish(self, rows: list[Row]) -> None:
    if self.out is None or self.folder is None:
      return
    self.out.parent.mkdir(parents=True, exist_ok=True)
    folders.replace_text(self.out, ''.join(WRITERS[self.out.suffix](rows)))
    locks.release(self.folder)
    shutil.rmtree(self.folder)

  def close(self, rows: list[Row]) -> None:
    """Leaves nothing behind where there is nothing to go on from."""
    if self.folder is not None and all('error' in row for row in rows):
      locks.release(self.folder)
      shutil.rmtree(self.folder, ignore_errors=True)


# -- Formats -----------------------------------------------------------------------------------


def _line(row: Row) -> str:
  return json.dumps(row, ensure_ascii=False) + '\n'


def _jsonl(rows: list[Row]) -> Iterator[str]:
  yield from map(_line, rows)


def _txt(rows: list[Row]) -> Iterator[str]:
  yield from (f'{row["id"]}\t{row["text"]}\n' for row in rows if 'text' in row)


def _ctm(rows: list[Row]) -> Iterator[str]:
  for row in rows:
    name = '_'.join(row['id'].split())
    for w in row.get('words', ()):
      yield f'{name} 1 {w["start"]:.3f} {w["end"] - w["start"]:.3f} {w["word"]}\n'


def _srt(rows: list[Row]) -> Iterator[str]:
  for i, cue in enumerate(cues(_words(rows[0])), start=1):
    start, end = (_clock(t, ',') for t in (cue[0].start, cue[-1].end))
    yield f'{i}\n{start} --> {end}\n{_lines(cue)}\n\n'


def _vtt(rows: list[Row]) -> Iterator[str]:
  yield 'WEBVTT\n\n'
  for cue in cues(_words(rows[0])):
    start, end = (_clock(t, '.') for t in (cue[0].start, cue[-1].end))
    yield f'{start} --> {end}\n{html.escape(_lines(cue), quote=False)}\n\n'


WRITERS: dict[str, Callable[[list[Row]], Iterator[str]]] = {
  '.jsonl': _jsonl,
  '.txt': _txt,
  '.srt': _srt,
  '.vtt': _vtt,
  '.ctm': _ctm,
}


def cues(words: Sequence[Word]) -> list[list[Word]]:
  """Words in subtitles: not too long for the eye, and apart where the speaker pauses."""
  found: list[list[Word]] = []
  for word in words:
    last = found[-1] if found else []
    letters = sum(len(w.word) + 1 for w in last) + len(word.word)
    if (
      not last
      or letters > CUE_LETTERS
      or word.end - last[0].start > CUE_SECONDS
      or word.start - last[-1].end > CUE_PAUSE
    ):
      found.append([])
    found[-1].append(word)
  return found


def _words(row: Row) -> list[Word]:
  return [Word(w['word'], w['start'], w['end']) for w in row['words']]


def _lines(cue: list[Word]) -> str:
  """One line, or two of about the same length."""
  whole = ' '.join(w.word for w in cue)
  if len(whole) <= LINE_LETTERS or len(cue) == 1:
    return whole
  halves = [
    (' '.join(w.word for w in cue[:i]), ' '.join(w.word for w in cue[i:]))
    for i in range(1, len(cue))
  ]
  return '\n'.join(min(halves, key=lambda pair: max(map(len, pair))))


def _clock(seconds: float, point: str) -> str:
  """01:02:03,456."""
  ms = round(1000 * seconds)
  return (
    f'{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{point}{ms % 1000:03d}'
  )
