"""WebDataset tars (github.com/webdataset/webdataset): the members of one key, which is the name up
to the first dot of its last part, are one sample: audio, .json, .txt, .cls.

Nothing is unpacked. Each tar is read once: the places of its members and the columns are an index
in the cache (`audio/index.py`), by which clips are read in any order.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from research.audio import index, lines, trouble
from research.audio.clips import Source, Table
from research.audio.decode import AudioError
from research.audio.example import Value
from research.audio.folder import EXTENSIONS
from research.audio.rows import Clips
from research.errors import InputError
from research.jobs.cache import cache_folder

_BRACES = re.compile(r'\{([^{}]*)\}')
_COMPRESSED = ('.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')
_META = ('json', 'txt', 'cls')
# Bytes of a member that is not audio.
MAX_META = 2**24


def recognise(path: pathlib.Path) -> str | None:
  """A tar, several by a brace pattern, or a folder of tars without audio or folders beside them."""
  name = path.name
  if name.endswith(('.tar', *_COMPRESSED)) and (path.is_file() or _BRACES.search(str(path))):
    return name
  found = sorted(path.glob('*.tar')) if path.is_dir() else []
  if not found or any(p.suffix.lower() in EXTENSIONS or p.is_dir() for p in path.iterdir()):
    return None
  return found[0].name


def webdataset(path: str, audio: str | None = None) -> Source:
  """The samples of tars that have audio; ids are TAR/KEY.

  Columns: the keys of .json, transcript (of .txt), label (of .cls), and split if the tars have
  different names before their numbers (train-000000.tar, valid-000000.tar).

  Args:
    path: a tar, a pattern such as name-{000000..000009}.tar, or a folder of tars.
    audio: the ending of the audio ('flac'), where samples have several files of audio.

  Raises:
    InputError: a tar is missing, compressed, damaged or truncated, holds links in place of files,
      several files of audio a sample, or none at all.
  """
  tars = _tars(pathlib.Path(path))
  digest = hashlib.sha256(repr(audio).encode())
  for tar in tars:
    state = tar.stat()
    digest.update(repr((str(tar.absolute()), state.st_size, state.st_mtime_ns)).encode())
  made = cache_folder() / f'tars-{digest.hexdigest()[:24]}.index'
  paths = [str(tar.absolute()) for tar in tars]
  if not made.is_file():
    _index(tars, audio, made)
  try:
    return Source(_table(made, paths))
  except InputError:  # damaged: it is only a cache
    _index(tars, audio, made)
    return Source(_table(made, paths))


def _tars(path: pathlib.Path) -> list[pathlib.Path]:
  if path.is_dir():
    found = sorted(path.glob('*.tar'))
  else:
    found = [path] if path.is_file() else [pathlib.Path(p) for p in expand(str(path))]
  if not found:
    raise InputError(f'{path} holds no .tar files.')
  for tar in found:
    if tar.name.endswith(_COMPRESSED):
      raise InputError(
        f'{tar} is compressed, so its clips cannot be read in any order: decompress it to .tar.'
      )
    if not tar.is_file():
      raise InputError(f'{tar} does not exist; {path} names {len(found)} tars.')
  return found


def expand(pattern: str) -> list[str]:
  """`a-{00..02}.tar` and `{a,b}.tar` as names."""
  found = _BRACES.search(pattern)
  if not found:
    return [pattern]
  ends = re.fullmatch(r'(\d+)\.\.(\d+)', found[1])
  if ends:
    low, high = ends.groups()
    width = max(len(low), len(high)) if low.startswith('0') or high.startswith('0') else 0
    options = [f'{n:0{width}d}' for n in range(int(low), int(high) + 1)]
  else:
    options = found[1].split(',')
  before, after = pattern[: found.start()], pattern[found.end() :]
  return [name for option in options for name in expand(f'{before}{option}{after}')]


def _index(tars: Sequence[pathlib.Path], audio: str | None, made: pathlib.Path) -> None:
  """Reads all tars and writes the index of their samples."""
  stems = [re.sub(r'[-_.]?\d+$', '', tar.stem) for tar in tars]
  name = stems[0] if len(set(stems)) == 1 else tars[0].resolve().parent.name
  clips = Clips(name or tars[0].stem, '', lambda path, where: path)
  places: list[tuple[int, int, int]] = []
  for number, (tar, stem) in enumerate(zip(tars, stems)):
    split: dict[str, Value] = {'split': stem} if len(set(stems)) > 1 else {}
    for key, columns, place in _samples(tar, audio):
      clips.add(str(tar), key, split | columns, id=f'{tar.stem}/{key}')
      places.append((number, *place))
  if not len(clips):
    raise InputError(
      f'{tars[0]}{" and the other tars hold" if len(tars) > 1 else " holds"} no audio '
      f'({" ".join(EXTENSIONS)}).'
    )
  clips.rename()
  ids, values, seconds = clips.values()
  extra = dict(zip(('tar', 'at', 'size'), np.array(places, np.int64).T))
  try:
    made.parent.mkdir(parents=True, exist_ok=True)
    index.write(
      made, name=clips.name, ids=ids, seconds=seconds, values=values, label_sets={},
      splits=clips.splits(), absent={}, about={}, extra=extra,
    )  # fmt: skip
  except OSError as error:
    raise InputError(
      f'The index of {tars[0]} cannot be written to {made.parent} ({error.strerror or error}); '
      'name another folder by the environment variable OIDO_CACHE.'
    ) from None


def _samples(
  tar: pathlib.Path, audio: str | None
) -> Iterator[tuple[str, dict[str, Value], tuple[int, int]]]:
  """(key, columns, place in the tar) of the samples with audio, in order."""
  found: dict[str, tuple[int, int]] = {}
  columns: dict[str, dict[str, Value]] = {}
  with open(tar, 'rb') as file:
    for member in _members(tar):
      folder, _, name = member.name.rpartition('/')
      stem, _, ending = name.partition('.')
      kind = ending.lower().rpartition('.')[2]
      key = f'{folder}/{stem}' if folder else stem
      place = member.offset_data, member.size
      if f'.{kind}' in EXTENSIONS and audio in (None, ending):
        if key in found:
          raise InputError(
            f'{tar}: the sample {key!r} has several files of audio, one is {member.name!r}; name '
            'the ending of one with audio=.'
          )
        found[key] = place
      elif kind in _META:
        if member.size > MAX_META:
          raise InputError(f'{tar}: {member.name!r} has {member.size} bytes, which is no column.')
        file.seek(place[0])
        text = file.read(place[1])
        columns.setdefault(key, {}).update(_columns(f'{tar}: {member.name!r}', kind, text))
  for key, place in found.items():
    yield key, columns.get(key, {}), place


def _members(tar: pathlib.Path) -> Iterator[tarfile.TarInfo]:
  """The files of a tar."""
  size, end = tar.stat().st_size, 0
  try:
    with tarfile.open(tar, 'r:', errorlevel=2) as archive:
      for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # it would keep every one
        end = member.offset_data + -(-member.size // 512) * 512
        if end > size:
          raise tarfile.ReadError(f'{member.name!r} reaches beyond its end')
        if member.isdir() or os.path.basename(member.name).startswith('.'):
          continue
        if not member.isreg() or member.issparse():
          raise InputError(f'{tar}: {member.name!r} is a link or device, and only files are read.')
        yield member
    with open(tar, 'rb') as file:
      file.seek(end)
      if file.read(512) != bytes(512):
        raise tarfile.ReadError('it has no end-of-archive mark')
  except (tarfile.TarError, OSError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    why = getattr(error, 'strerror', None) or error
    raise InputError(f'{tar} is no tar, or damaged or truncated ({why}); copy it again.') from None


def _columns(where: str, kind: str, data: bytes) -> dict[str, Value]:
  try:
    text = data.decode('utf-8-sig')
    if kind != 'json':
      return {'transcript' if kind == 'txt' else 'label': text.strip()}
    found = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise InputError(f'{where} is not {"JSON" if kind == "json" else "UTF-8"} ({error}).') from None
  if not isinstance(found, dict):
    raise InputError(f'{where} is not a JSON object.')
  return {name: lines.value(value) for name, value in found.items()}


@dataclasses.dataclass
class Members:
  """Locates row i: the bytes of a member of a tar."""

  tars: Sequence[str]
  tar: np.ndarray
  at: np.ndarray
  size: np.ndarray

  def __call__(self, row: int) -> dict[str, Any]:
    path, at, size = self.tars[self.tar[row]], int(self.at[row]), int(self.size[row])
    return {'data': trouble.patiently(lambda: _bytes(path, at, size))}


def _bytes(path: str, at: int, size: int) -> bytes:
  try:
    with open(path, 'rb') as file:
      file.seek(at)
      data = file.read(size)
  except (OSError, MemoryError) as error:
    if why := trouble.reason(error):
      raise trouble.Trouble(path, why) from None
    why = getattr(error, 'strerror', None) or str(error)
    raise AudioError(path, f'It cannot be opened: {why}.') from None
  if len(data) < size:
    raise AudioError(path, 'The tar has become shorter since it was indexed.')
  return data


def _table(made: pathlib.Path, tars: list[str]) -> Table:
  found = index.read(made)
  places = (found.array(name) for name in ('tar', 'at', 'size'))
  return found.table(Members(tars, *places), (_table, made, tars))
