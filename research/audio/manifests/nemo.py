"""NeMo manifests (docs.nvidia.com/nemo: "Preparing data for ASR"): JSON lines with audio_filepath,
duration, text, and optionally offset, speaker, label or command, lang."""

import math
import pathlib
import re

from research.audio import lines, segments
from research.audio.clips import Source
from research.audio.manifests import Written
from research.audio.rows import Clips
from research.errors import InputError

PATH = 'audio_filepath'
_SUFFIXES = ('.json', '.jsonl')
# Files of a folder that are opened to recognise it: some data sets have one .json a clip.
_LOOKED = 100
# What NeMo calls the columns that are found by name here.
_NAMES = {'transcript': ('text',), 'label': ('command',), 'language': ('lang',)}
# `train_manifest.json`, `manifest_train.json`: train.
_SPLIT = re.compile(r'(^manifest[_-]|[_-]manifest$)')


def recognise(path: pathlib.Path) -> str | None:
  """A file of JSON lines with audio_filepath, or a folder of such."""
  found = _files(path, _LOOKED)
  return f'{found[0].name} with {PATH}' if found else None


def _files(path: pathlib.Path, looked: int | None = None) -> list[pathlib.Path]:
  files = [path] if path.is_file() else sorted(path.glob('*.json*'))[:looked]
  return [f for f in files if f.suffix in _SUFFIXES and PATH in lines.first_record(f)]


def nemo(path: str, audio: str | None = None) -> Source:
  """The clips of a manifest, or of a folder of manifests, whose names are the splits.

  Rows with `offset` are segments; other rows are whole files, whose `duration` is known. Ids are
  the column `id` of segments, else paths (SPLIT/PATH in a folder of manifests), for segments with
  `@start-end`. Columns: transcript (text), label (label or command), speaker, language (lang), and
  all others by their names.

  Args:
    path: the manifest, or the folder.
    audio: folder of relative paths; that of the manifest by default.

  Raises:
    InputError: not JSON, no audio_filepath, manifests of tarred audio, wrong offsets or durations.
  """
  given = pathlib.Path(path)
  files = _files(given)
  if not files:
    raise InputError(f'{given}: no JSON lines with {PATH!r}, so it is no manifest of NeMo.')
  home = given.parent if given.is_file() else given
  root = pathlib.Path(audio or home)
  clips = Clips(given.stem if given.is_file() else given.resolve().name, root, Written(root))
  for file in files:
    split = _SPLIT.sub('', file.stem) if given.is_dir() and len(files) > 1 else ''
    for line, found in lines.records(file):
      where = f'{file}, line {line}'
      row = {name: lines.value(v) for name, v in found.items()}
      name = row.pop(PATH, '')
      if not isinstance(name, str) or not name:
        raise InputError(f'{where}: no {PATH!r} that is one path (columns here: {", ".join(row)}).')
      if 'shard_id' in row:
        raise InputError(
          f'{where}: {name!r} lies in a tar of shard {row["shard_id"]}; name the tars as the '
          'source (WebDataset), not this manifest.'
        )
      place = segments.take(row, where)
      seconds = math.nan if place else segments.seconds(row.pop('duration', ''), 'duration', where)
      if split:
        row['split'] = split
      prefix = f'{split}/' if split else ''
      clips.add(where, name, row, place=place, seconds=seconds, prefix=prefix)
  clips.rename(_NAMES)
  clips.identify()
  return clips.source()
