"""lhotse cuts (lhotse.readthedocs.io/en/latest/cuts.html): cuts.jsonl or cuts.jsonl.gz, one
MonoCut a line with its recording and supervisions."""

import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from research.audio import lines
from research.audio.clips import Source
from research.audio.example import Value
from research.audio.manifests import Written
from research.audio.rows import Clips, Place
from research.errors import InputError

_SUFFIXES = ('.jsonl', '.jsonl.gz')
# Files of a folder that are opened to recognise it.
_LOOKED = 100
# A cut that lasts as long as its recording to within this is the whole file, seconds.
_WHOLE = 1e-4
# `cuts_train.jsonl.gz`, `librispeech_cuts_dev-clean.jsonl.gz`: what follows `cuts`.
_SPLIT = re.compile(r'^(.*[_-])?cuts[_.-]?')


def recognise(path: pathlib.Path) -> str | None:
  """A file of cuts (or of recordings, to be refused), or a folder with one of cuts."""
  found = _files(path, _LOOKED)
  return found[0].name if found else None


def _files(path: pathlib.Path, looked: int | None = None) -> list[pathlib.Path]:
  files = [path] if path.is_file() else sorted(path.glob('*.jsonl*'))[:looked]
  kinds = {f: _kind(lines.first_record(f)) for f in files if f.name.endswith(_SUFFIXES)}
  return [f for f, kind in kinds.items() if kind == 'cut' or (kind and path.is_file())]


def _kind(first: Mapping[str, Any]) -> str:
  if str(first.get('type', '')).endswith('Cut') or {'recording', 'supervisions'} <= set(first):
    return 'cut'
  if {'sources', 'sampling_rate'} <= set(first):
    return 'recording'
  return 'supervision' if {'recording_id', 'duration', 'channel'} <= set(first) else ''


def lhotse(path: str, audio: str | None = None) -> Source:
  """The cuts of a file, or of a folder of files, whose names are the splits.

  Ids are those of the cuts, SPLIT/ID in a folder of several files. Columns: transcript (the texts
  of the supervisions, by time), speaker, language, sex (gender) of the supervisions; a list where
  they differ. Durations are those of the cuts.

  Args:
    path: the file, or the folder.
    audio: folder of relative paths; that of the file by default.

  Raises:
    InputError: no MonoCut, audio that is not in files, augmented recordings, one of several
      channels.
  """
  given = pathlib.Path(path)
  files = _files(given)
  if not files:
    raise InputError(f'{given}: no lhotse cuts (cuts.jsonl or cuts.jsonl.gz).')
  root = pathlib.Path(audio or (given.parent if given.is_file() else given))
  name = (given if given.is_dir() else files[0]).resolve().name
  clips = Clips(re.sub(r'\.jsonl(\.gz)?$', '', name), root, Written(root))
  for file in files:
    stem = re.sub(r'\.jsonl(\.gz)?$', '', file.name)
    split = (_SPLIT.sub('', stem) or stem) if len(files) > 1 else ''
    for line, cut in lines.records(file):
      where = f'{file}, line {line}'
      try:
        _add(clips, cut, where, split)
      except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
          raise
        raise InputError(
          f'{where}: not a lhotse cut as `CutSet.to_file` writes it '
          f'({type(error).__name__}: {error}).'
        ) from None
  return clips.source()


def _add(clips: Clips, cut: Mapping[str, Any], where: str, split: str) -> None:
  kind = _kind(cut)
  if kind in ('recording', 'supervision'):
    raise InputError(
      f'{where}: a {kind}, not a cut; join recordings and supervisions to cuts with `lhotse cut '
      'simple -r RECORDINGS -s SUPERVISIONS CUTS`.'
    )
  name = cut.get('type', 'MonoCut')
  if name != 'MonoCut':
    raise InputError(
      f'{where}: a {name}, and only MonoCut is read; write its audio with `cuts.save_audios(…)`, '
      'which gives MonoCuts of files.'
    )
  if 'recording' not in cut:
    raise InputError(f'{where}: the cut {cut["id"]!r} has features but no recording.')
  recording = cut['recording']
  file = _file(recording, cut, where)
  start, length = float(cut['start']), float(cut['duration'])
  if not (0 <= start < math.inf and 0 < length < math.inf):
    raise InputError(f'{where}: the cut starts at {start:g} s and lasts {length:g} s.')
  whole = start == 0 and abs(length - float(recording['duration'])) < _WHOLE
  place: Place | None = None if whole else (start, length)
  columns = _columns(cut.get('supervisions') or ())
  if split:
    columns['split'] = split
  id = f'{split}/{cut["id"]}' if split else str(cut['id'])
  clips.add(where, file, columns, id=id, place=place, seconds=length)


def _file(recording: Mapping[str, Any], cut: Mapping[str, Any], where: str) -> str:
  """The one file of a recording; InputError for all else that a recording may be."""
  sources = recording['sources']
  kinds = [str(s['type']) for s in sources]
  other = next((k for k in kinds if k != 'file'), None)
  if other is not None or len(sources) != 1:
    what = f'of type {other!r}' if other else f'in {len(sources)} files'
    raise InputError(
      f'{where}: the audio of {cut["id"]!r} is {what}, and only one file is read; write the audio '
      'with `cuts.save_audios(…)`.'
    )
  if recording.get('transforms'):
    names = ', '.join(str(t.get('name', t)) for t in recording['transforms'])
    raise InputError(
      f'{where}: the recording of {cut["id"]!r} is transformed ({names}), which is not read; write '
      'the audio with `cuts.save_audios(…)`.'
    )
  channels = recording.get('channel_ids') or sources[0]['channels']
  if len(channels) != 1:
    raise InputError(
      f'{where}: {cut["id"]!r} is channel {cut.get("channel")} of {len(channels)}, and channels '
      'are averaged here: write each channel with `cuts.save_audios(…)`.'
    )
  return str(sources[0]['source'])


def _columns(supervisions: Sequence[Mapping[str, Any]]) -> dict[str, Value]:
  ordered = sorted(supervisions, key=lambda s: float(s.get('start', 0.0)))
  texts = [str(s['text']) for s in ordered if s.get('text')]
  columns: dict[str, Value] = {'transcript': ' '.join(texts)}
  for name, theirs in (('speaker', 'speaker'), ('language', 'language'), ('sex', 'gender')):
    values = list(dict.fromkeys(str(s[theirs]) for s in ordered if s.get(theirs)))
    if values:
      columns[name] = values[0] if len(values) == 1 else values
  return columns
