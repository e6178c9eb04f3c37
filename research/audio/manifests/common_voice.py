"""Common Voice (commonvoice.mozilla.org/datasets), as it is published: LANG/{train,dev,test,…}.tsv,
LANG/clips and LANG/clip_durations.tsv. Sentences hold quotes, which are characters."""

import itertools
import math
import pathlib

from research.audio import lines, tables
from research.audio.clips import Source
from research.audio.example import Value
from research.audio.folder import Inside
from research.audio.rows import Clips
from research.errors import InputError

CLIPS, DURATIONS = 'clips', 'clip_durations.tsv'
_NEEDED = {'client_id', 'path', 'sentence'}
# Columns under other names here; `accent` until version 7.
_NAMES = {
  'client_id': 'speaker', 'sentence': 'transcript', 'gender': 'sex', 'accents': 'accent',
  'locale': 'language',
}  # fmt: skip


def recognise(path: pathlib.Path) -> str | None:
  """A folder with clips/ and a .tsv of clips, one of such folders, or such a .tsv."""
  if path.is_file():
    return path.name if path.suffix == '.tsv' and _lists_clips(path) else None
  tsv = next((t for f in _folders(path) for t in sorted(f.glob('*.tsv')) if _lists_clips(t)), None)
  return tsv.name if tsv else None


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
  return [path] if (path / CLIPS).is_dir() else sorted(p.parent for p in path.glob(f'*/{CLIPS}'))


def _lists_clips(tsv: pathlib.Path) -> bool:
  # reported.tsv, clip_durations.tsv and the like do not.
  return set(lines.first_line(tsv).split('\t')) >= _NEEDED


def published(root: str, language: str | None = None) -> Source:
  """Common Voice as the named data set `common_voice`."""
  return common_voice(root, language)


def common_voice(path: str, language: str | None = None) -> Source:
  """The clips of one language or of several, or of one .tsv.

  Columns: split (the name of the tsv), language, speaker (client_id), transcript (sentence), sex,
  accent, age, and the further ones by their names (sentence_id, up_votes, variant, segment, …).
  Splits overlap (validated includes train), so the id of a clip is SPLIT/PATH. Durations are those
  of clip_durations.tsv.

  Args:
    path: the folder of one language, or of several, or a .tsv.
    language: selects one of several languages.

  Raises:
    InputError: no such language, or rows that do not fit the header.
  """
  given = pathlib.Path(path)
  base = given.parent if given.is_file() else given
  folders = _folders(base)
  if language is not None:
    folders = [f for f in folders if f.resolve().name == language]
  if not folders:
    named = f' {language!r}' if language is not None else ''
    raise InputError(f'Common Voice in {path} has no language{named} with {CLIPS}/.')
  clips = Clips('common_voice', base, Inside(base))
  for folder in folders:
    seconds = _durations(folder / DURATIONS)
    prefix = (folder / CLIPS).relative_to(base).as_posix()
    for tsv in [given] if given.is_file() else sorted(folder.glob('*.tsv')):
      if not _lists_clips(tsv):
        continue
      split, language_here = tsv.stem, folder.resolve().name
      for line, row in tables.rows(tsv):
        name = row.pop('path')
        columns: dict[str, Value] = {'split': split}
        columns |= {_NAMES.get(n, n): v for n, v in row.items()}
        columns['language'] = columns.get('language') or language_here
        clips.add(
          f'{tsv}, line {line}', f'{prefix}/{name}', columns, prefix=f'{split}/',
          seconds=seconds.get(name, math.nan),
        )  # fmt: skip
  return clips.source()


def _durations(file: pathlib.Path) -> dict[str, float]:
  """Clip -> seconds, of `clip TAB duration[ms]`; {} if there is no such file."""
  if not file.is_file():
    return {}
  found = {}
  for number, text in itertools.islice(lines.lines(file), 1, None):
    name, _, length = text.rpartition('\t')
    if not text:
      continue
    if not name or not length.isdecimal():
      raise InputError(f'{file}, line {number}: {text[:200]!r} is not `clip TAB milliseconds`.')
    found[name] = int(length) / 1000
  return found
