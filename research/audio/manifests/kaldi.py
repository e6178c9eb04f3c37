"""Kaldi data directories (kaldi-asr.org/doc/data_prep.html).

`wav.scp` (recording or utterance, file), `segments` (utterance, recording, start, end), `text`,
`utt2spk`, `utt2dur`, `spk2gender`, `utt2lang`; one space or tab behind the first field.
"""

import math
import pathlib
import re

from absl import logging

from research.audio import lines
from research.audio.clips import Source
from research.audio.example import Value
from research.audio.manifests import Written
from research.audio.rows import Clips
from research.errors import InputError

SCP = 'wav.scp'
# An archive and an offset in it, or a range of frames.
_ARK = re.compile(r'(\.ark(\.gz)?(:\d+)?|:\d+|\[[\d:,]+\])$')


def recognise(path: pathlib.Path) -> str | None:
  """A directory with wav.scp, one of such directories, or a .scp file."""
  if path.is_file():
    return path.name if path.suffix == '.scp' else None
  if (path / SCP).is_file():
    return SCP
  return f'*/{SCP}' if next(path.glob(f'*/{SCP}'), None) else None


def kaldi(path: str, audio: str | None = None) -> Source:
  """The utterances of a Kaldi data directory; ids are utterance ids.

  A directory of several (data/train, data/dev, …) gives them as splits, with ids SPLIT/UTTERANCE.
  Columns: transcript, speaker, sex, language, recording, as far as the files are there. Durations
  are those of `segments` or `utt2dur`.

  Args:
    path: the directory, or its wav.scp.
    audio: folder of relative paths in wav.scp; the directory by default.

  Raises:
    InputError: pipes, archives, channels, lines with too few fields, utterances of unknown
      recordings.
  """
  given = pathlib.Path(path)
  scp = given.name if given.is_file() else SCP
  home = given.parent if given.is_file() else given
  folders = [home] if (home / scp).is_file() else sorted(p.parent for p in home.glob(f'*/{SCP}'))
  if not folders:
    raise InputError(f'{home} holds no {SCP}, nor do its folders; expected a Kaldi data directory.')
  clips = Clips(home.resolve().name, audio or home, lambda path, where: path)
  for folder in folders:
    _read(clips, folder, scp, audio, folder.name if folder != home else '')
  return clips.source()


def _read(clips: Clips, folder: pathlib.Path, scp: str, audio: str | None, split: str) -> None:
  files = recordings(folder / scp, pathlib.Path(audio) if audio else folder)
  tables = {
    'transcript': table(folder / 'text', empty=True),
    'speaker': table(folder / 'utt2spk'),
    'language': table(folder / 'utt2lang'),
  }
  genders, lasting = table(folder / 'spk2gender'), table(folder / 'utt2dur')
  seen = dict.fromkeys(tables, 0)

  def add(where: str, id: str, recording: str, place: tuple[float, float] | None) -> None:
    columns: dict[str, Value] = {'split': split} if split else {}
    for name, known in tables.items():
      if known:
        columns[name] = known.get(id, '')
        seen[name] += id in known
    if genders:
      columns['sex'] = genders.get(str(columns.get('speaker', '')), '')
    if place is not None:
      columns['recording'] = recording
    length = _number(lasting[id], f'{folder / "utt2dur"}: {id}') if id in lasting else math.nan
    full = f'{split}/{id}' if split else id
    clips.add(where, files[recording], columns, id=full, place=place, seconds=length)

  segments = folder / 'segments'
  if segments.is_file():
    for line, text in _rows(segments):
      where = f'{segments}, line {line}'
      fields = text.split()
      if len(fields) not in (4, 5):
        raise InputError(f'{where}: {len(fields)} fields; expected utterance recording start end.')
      if len(fields) == 5 and fields[4] != '-1':
        raise InputError(
          f'{where}: takes channel {fields[4]} of its recording; channels are averaged here: write '
          'each channel into a file of its own, or leave out the channel of files that have one.'
        )
      if fields[1] not in files:
        raise InputError(f'{where}: {folder / scp} has no recording {fields[1]!r}.')
      start = _number(fields[2], where)
      end = math.nan if fields[3] in ('-1', '-1.0') else _number(fields[3], where)
      if end <= start:
        raise InputError(f'{where}: the segment ends at {end:g} s, not behind its start {start:g}.')
      add(where, fields[0], fields[1], (start, end - start))
  else:
    for id in files:
      add(str(folder / scp), id, id, None)
  for name, count in seen.items():
    if tables[name] and count < len(tables[name]):
      if not count:
        raise InputError(f'{folder}: no utterance has a {name}; are these files of other data?')
      logging.warning(
        '%s: %d utterances with a %s are in no list of audio and are left out.',
        folder, len(tables[name]) - count, name,
      )  # fmt: skip


def recordings(scp: pathlib.Path, root: pathlib.Path) -> dict[str, str]:
  """Recording -> path of its file, of a wav.scp; relative paths start at `root`."""
  check, found = Written(root), dict[str, str]()
  for line, text in _rows(scp):
    where = f'{scp}, line {line}'
    id, _, path = text.replace('\t', ' ', 1).partition(' ')
    path = path.strip()
    if not path:
      raise InputError(f'{where}: {text!r} names no file; expected a recording and its file.')
    if path.endswith('|') or path.startswith('|'):
      raise InputError(
        f'{where}: {id!r} is the output of a command ({path[:80]!r}), and commands of manifests '
        'are not run: write its audio to files, for instance with wav-copy, and list these.'
      )
    if path == '-' or _ARK.search(path):
      raise InputError(
        f'{where}: {id!r} lies in a Kaldi archive ({path[-80:]!r}), which is not read: write its '
        'audio to files with wav-copy, and list these.'
      )
    if id in found:
      raise InputError(f'{where}: {id!r} is listed twice.')
    path = check(path, where)
    found[id] = path if path.startswith('/') else str(root.absolute() / path)
  return found


def table(path: pathlib.Path, empty: bool = False) -> dict[str, str]:
  """First field -> the rest of the line; {} if there is no such file."""
  found: dict[str, str] = {}
  for line, text in _rows(path) if path.is_file() else ():
    id, _, rest = text.replace('\t', ' ', 1).partition(' ')
    if id in found:
      raise InputError(f'{path}, line {line}: {id!r} is listed twice.')
    if not rest.strip() and not empty:
      raise InputError(f'{path}, line {line}: {id!r} has no value.')
    found[id] = rest.strip()
  return found


def _rows(path: pathlib.Path):
  return ((line, text.strip()) for line, text in lines.lines(path) if text.strip())


def _number(text: str, where: str) -> float:
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not 0 <= number < math.inf:
    raise InputError(f'{where}: {text!r} is no number of seconds from 0.')
  return number
