"""Transcripts of a source into one file: .jsonl, .txt, .srt, .vtt, .tsv or .ctm.

Killed, it goes on. Blocks of clips that are done lie in `<file>.parts/`; the file itself appears
when all clips are in it, in the order of the source.
"""

import html
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from research import distributed
from research.errors import InputError
from research.inference import row_jobs
from research.inference.ctc import Transcript, Word
from research.inference.transcribe import Transcriber
from research.jobs import folders
from research.metrics import asr
from research.text import characters

SUFFIXES = ('.jsonl', '.txt', '.srt', '.vtt', '.ctm', '.tsv')
# Those that hold the words of one recording.
SUBTITLES = ('.srt', '.vtt', '.tsv')
# Two lines of 42 characters, at most seven seconds: the usual limits of subtitles (BBC and Netflix
# style guides). A pause of a second ends one.
CUE_CHARACTERS, LINE_CHARACTERS, CUE_SECONDS, CUE_PAUSE = 84, 42, 7.0, 1.0

Row = row_jobs.Row


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
  `id<tab>text` a clip; .srt and .vtt subtitles of one recording; .tsv its parts as `start end
  text`, in ms; .ctm NIST's `id 1 start duration word`, with _ for white space in ids. Clips that
  were left out are not in the last five. A system that gives segments has them in its rows, as
  `segments: [{text, start, end}]`, and `language`; subtitles are words, or segments where there are
  no words.

  Args:
    transcriber: the system.
    source: clips.
    out: the file; its ending says which kind. None writes nothing.
    references: what was said in each clip, '' where that is not known.
    about: what else the result depends on: an unfinished job is only gone on with if it is equal.
    overwrite: whether a file that is there may be replaced.
    max_bad_fraction: fraction of unreadable clips above which it stops.
    show: called with id and text of every clip when it is done.

  Returns:
    the rows, in the order of the source; none on processes after the first.

  Raises:
    InputError: an ending that is not known or does not fit, the file exists, the parts of another
      job are in the way, nothing could be transcribed, or the disk is full.
  """
  if out is not None:
    path = check_out(out, len(source), overwrite)
    return _transcribe(transcriber, source, path, references, about, max_bad_fraction, show)
  if distributed.process()[1] > 1:
    raise InputError('Several processes transcribe into a file: give --out.')
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / 'rows'
    return _transcribe(transcriber, source, path, references, about, max_bad_fraction, show)


def _transcribe(
  transcriber: Transcriber,
  source: Any,
  out: Path,
  references: Sequence[str] | None,
  about: dict[str, Any] | None,
  max_bad_fraction: float,
  show: Callable[[str, str], None],
) -> list[Row]:
  """As `transcribe_source`, whatever `out` is called; a file of no known kind is not written."""

  def row(i: int, result: Transcript | str) -> Row:
    return _row(source.id(i), result, references[i] if references else '')

  def write(rows: list[Row]) -> None:
    if out.suffix in WRITERS:
      folders.replace_text(out, ''.join(WRITERS[out.suffix](rows)))

  return row_jobs.run(
    transcriber.stream,
    source,
    out,
    row=row,
    write=write,
    done='transcribed',
    doing='transcribing',
    about=about,
    max_bad_fraction=max_bad_fraction,
    show=lambda i, result: show(source.id(i), result.text),
  )


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


def error_rates(
  rows: Sequence[Row],
  symbols: Sequence[str] = (),
  normalise: Callable[[str, str | None], str] | None = None,
) -> tuple[int, asr.Errors, asr.Errors]:
  """(clips, word errors, character errors) of the rows that have a reference and a text.

  Args:
    rows: of `transcribe_source`.
    symbols: references are put into the case of this vocabulary; punctuation counts as it is.
    normalise: (text, language) -> both texts as they are compared, instead.
  """
  both = [row for row in rows if 'reference' in row and 'text' in row]
  if normalise is None:
    references = [characters.in_case(row['reference'], symbols) for row in both]
    texts = [row['text'] for row in both]
  else:
    spoken = [row.get('language') for row in both]
    references = [normalise(row['reference'], code) for row, code in zip(both, spoken)]
    texts = [normalise(row['text'], code) for row, code in zip(both, spoken)]
  counted = (asr.word_errors(references, texts), asr.character_errors(references, texts))
  return len(both), *counted


def _row(id: str, result: Transcript | str, reference: str) -> Row:
  if isinstance(result, str):
    return {'id': id, 'error': result}
  words = [dict(word=w, start=round(s, 3), end=round(e, 3)) for w, s, e in result.words]
  row = {'id': id, 'text': result.text, 'seconds': round(result.seconds, 3), 'words': words}
  if result.segments:
    row['segments'] = [
      dict(text=w, start=round(s, 3), end=round(e, 3)) for w, s, e in result.segments
    ]
  if result.language is not None:
    row['language'] = result.language
  return row | ({'reference': reference} if reference else {})


# -- Formats -----------------------------------------------------------------------------------


def _jsonl(rows: list[Row]) -> Iterator[str]:
  yield from map(row_jobs.line, rows)


def _txt(rows: list[Row]) -> Iterator[str]:
  yield from (f'{row["id"]}\t{row["text"]}\n' for row in rows if 'text' in row)


def _ctm(rows: list[Row]) -> Iterator[str]:
  for row in rows:
    name = '_'.join(row['id'].split())
    for w in row.get('words', ()):
      yield f'{name} 1 {w["start"]:.3f} {w["end"] - w["start"]:.3f} {w["word"]}\n'


def _srt(rows: list[Row]) -> Iterator[str]:
  for i, cue in enumerate(_cues(rows[0]), start=1):
    start, end = (_clock(t, ',') for t in (cue[0].start, cue[-1].end))
    yield f'{i}\n{start} --> {end}\n{_lines(cue)}\n\n'


def _vtt(rows: list[Row]) -> Iterator[str]:
  yield 'WEBVTT\n\n'
  for cue in _cues(rows[0]):
    start, end = (_clock(t, '.') for t in (cue[0].start, cue[-1].end))
    yield f'{start} --> {end}\n{html.escape(_lines(cue), quote=False)}\n\n'


def _tsv(rows: list[Row]) -> Iterator[str]:
  yield 'start\tend\ttext\n'
  for cue in _cues(rows[0]):
    text = ' '.join(' '.join(w.word for w in cue).split())
    yield f'{round(1000 * cue[0].start)}\t{round(1000 * cue[-1].end)}\t{text}\n'


WRITERS: dict[str, Callable[[list[Row]], Iterator[str]]] = {
  '.jsonl': _jsonl,
  '.txt': _txt,
  '.srt': _srt,
  '.vtt': _vtt,
  '.ctm': _ctm,
  '.tsv': _tsv,
}


def _cues(row: Row) -> list[list[Word]]:
  """Subtitles of a row: its words, or its segments where there are no words."""
  if not row['words'] and row.get('segments'):
    return [[Word(s['text'], s['start'], s['end'])] for s in row['segments']]
  return cues(_words(row))


def cues(words: Sequence[Word]) -> list[list[Word]]:
  """Words in subtitles: not too long for the eye, and apart where the speaker pauses."""
  found: list[list[Word]] = []
  for word in words:
    last = found[-1] if found else []
    length = sum(len(w.word) + 1 for w in last) + len(word.word)
    if (
      not last
      or length > CUE_CHARACTERS
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
  if len(whole) <= LINE_CHARACTERS or len(cue) == 1:
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
