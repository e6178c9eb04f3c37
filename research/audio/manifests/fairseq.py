"""fairseq manifests (fairseq/examples/wav2vec/wav2vec_manifest.py): train.tsv with the root in its
first line and `path TAB samples` in the others; beside it, line by line, train.wrd (words),
train.ltr (characters, `|` between words), train.phn (phones) and train.km (units)."""

import itertools
import math
import os
import pathlib
import re
from collections.abc import Iterator

import soundfile

from research.audio import lines, trouble
from research.audio.clips import Source
from research.audio.example import Value
from research.audio.folder import Inside
from research.audio.rows import Clips
from research.errors import InputError

_ENTRY = re.compile(r'[^\t]+\t\d+')
_LABELS = ('wrd', 'ltr', 'phn')
# Files of which one has to exist for its sample rate.
_TRIED = 20


def recognise(path: pathlib.Path) -> str | None:
  """A .tsv whose first line is a folder and whose second is `path TAB samples`, or a folder of
  such."""
  found = manifests(path)
  return found[0].name if found else None


def manifests(path: pathlib.Path) -> list[pathlib.Path]:
  """The manifests of a folder, or the one that is named."""
  files = [path] if path.is_file() else sorted(path.glob('*.tsv'))
  return [f for f in files if f.suffix == '.tsv' and _is_manifest(f)]


def _is_manifest(path: pathlib.Path) -> bool:
  try:
    head = [text for _, text in itertools.islice(lines.lines(path), 2)]
  except InputError:
    return False
  if len(head) < 2 or '\t' in head[0]:
    return False
  # A manifest whose entries are malformed is one too: its reader names the line.
  return head[0].startswith('/') or _ENTRY.fullmatch(head[1]) is not None


def fairseq(path: str, audio: str | None = None, sample_rate: int | None = None) -> Source:
  """The clips of a manifest, or of a folder of manifests, whose names are the splits.

  Ids are SPLIT/PATH, where SPLIT is the name of the manifest. Columns: transcript (of .wrd, else of
  .ltr), phones (of .phn), and for a folder split. Durations are the sample counts of the manifest
  at the rate of its first file. Units of .km are labels of the field `units`:
  config.data.fields.units=DIR/train.km, or the folder (`audio/kmeans_lines.py`).

  Args:
    path: the manifest, or the folder.
    audio: the folder of the audio, if it is elsewhere than the first line says.
    sample_rate: Hz of the sample counts, if it is not that of the files.

  Raises:
    InputError: not a manifest, lines that are not `path TAB samples`, entries of zip files, or
      label files with another number of lines.
  """
  given = pathlib.Path(path)
  files = manifests(given)
  if not files:
    raise InputError(f'{given}: no .tsv with a folder in its first line and `path TAB samples`.')
  single = given.is_file()
  clips = Clips(given.stem if single else given.resolve().name, given.parent, _as_it_is)
  for file in files:
    beside = {kind: file.with_suffix(f'.{kind}') for kind in (*_LABELS, 'km')}
    labels = {k: lines.lines(f) for k, f in beside.items() if check_count(file, f) and k != 'km'}
    tried = itertools.islice(entries(file, audio), 0 if sample_rate else _TRIED)
    rate = sample_rate or next(filter(None, (rate_of(full) for _, full, _ in tried)), 0)
    split = file.stem
    for name, full, samples in entries(file, audio):
      columns: dict[str, Value] = {} if single else {'split': split}
      found = {kind: next(rows)[1].strip() for kind, rows in labels.items()}
      if 'wrd' in found or 'ltr' in found:
        columns['transcript'] = found['wrd'] if 'wrd' in found else _words(found['ltr'])
      if 'phn' in found:
        columns['phones'] = found['phn']
      seconds = samples / rate if rate else math.nan
      clips.add('', full, columns, id=f'{split}/{name}', seconds=seconds)
  return clips.source()


def _as_it_is(path: str, where: str) -> str:
  return path


def entries(file: pathlib.Path, audio: str | None = None) -> Iterator[tuple[str, str, int]]:
  """(path as it is written, path of the file, samples) of every line."""
  rows = lines.lines(file)
  _, first = next(rows)
  root = pathlib.Path(audio or first)
  if not audio and not root.is_absolute():
    if '..' in root.parts:
      raise InputError(
        f'{file}, line 1: the root {first!r} goes up by ".."; write it as an absolute path, or '
        'give audio=.'
      )
    root = root if root.is_dir() and not (file.parent / root).is_dir() else file.parent / root
  root = root.absolute()
  inside, base = Inside(root), str(root).rstrip(os.sep)
  for line, text in rows:
    if not text:
      continue
    where = f'{file}, line {line}'
    if not _ENTRY.fullmatch(text):
      raise InputError(f'{where}: {text[:200]!r} is not `path TAB number of samples`.')
    name, _, samples = text.rpartition('\t')
    if re.search(r'\.zip(:\d+:\d+)?$', name):
      raise InputError(
        f'{where}: {name!r} lies in a zip file, which is not read; unpack it and write the '
        'manifest of its files.'
      )
    name = inside(name, where)
    yield name, f'{base}/{name}', int(samples)


def check_count(file: pathlib.Path, beside: pathlib.Path) -> bool:
  """Whether a label file exists; InputError if it has another number of lines than the manifest
  lists clips."""
  if not beside.is_file():
    return False
  count = sum(bool(text) for _, text in lines.lines(file)) - 1
  found, last = 0, b'\n'
  with open(beside, 'rb') as labels:
    while part := labels.read(2**20):
      found, last = found + part.count(b'\n'), part[-1:]
  found += last != b'\n'
  if found != count:
    raise InputError(
      f'{beside} has {found} lines, but {file} lists {count} clips; they must agree line by line: '
      'make both again from the same list.'
    )
  return True


def _words(characters: str) -> str:
  """The words of `H E L L O | Y O U |`."""
  return ' '.join(characters.replace(' ', '').replace('|', ' ').split())


def rate_of(path: str) -> int:
  """Sample rate of a file, Hz; 0 if it cannot be read."""
  if trouble.special(path):
    return 0
  try:
    return soundfile.info(path).samplerate
  except (soundfile.LibsndfileError, RuntimeError, OSError):
    return 0
