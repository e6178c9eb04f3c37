"""LJSpeech, LibriTTS and VCTK: read speech with its texts, in the published layouts."""

import os
import pathlib

from research.audio import tables
from research.audio.clips import Source
from research.audio.datasets.tables import source
from research.audio.example import Value
from research.audio.folder import find_audio
from research.errors import InputError

# The usual groups of subsets of LibriTTS.
_GROUPS = {
  'train': ('train-clean-100', 'train-clean-360', 'train-other-500'),
  'train-clean': ('train-clean-100', 'train-clean-360'),
  'valid': ('dev-clean', 'dev-other'),
  'test': ('test-clean', 'test-other'),
}


def ljspeech(root: str) -> Source:
  """LJSpeech 1.1 (keithito.com/LJ-Speech-Dataset): metadata.csv (id|text|normalized), wavs/ID.wav.

  Columns: transcript (normalised), text (as it is printed), speaker (LJ), chapter. No published
  splits.

  Raises:
    InputError: a line of the metadata has no three fields, or no clip is on disk.
  """
  base = pathlib.Path(root)
  rows: list[tuple[str, str, dict[str, Value]]] = []
  for number, line in tables.lines(base / 'metadata.csv'):
    fields = line.split('|')
    if len(fields) != 3:
      raise InputError(
        f'{base / "metadata.csv"}, line {number}: {len(fields)} fields, expected '
        'id|text|normalized.'
      )
    name, text, normalised = (field.strip() for field in fields)
    path = f'wavs/{name}.wav'
    columns: dict[str, Value] = {
      'transcript': normalised or text,
      'text': text,
      'speaker': 'LJ',
      'chapter': name.rpartition('-')[0],
    }
    if (base / path).is_file():
      rows.append((path, path, columns))
  if not rows:
    raise InputError(f'LJSpeech in {root}: no clip of metadata.csv is in wavs/: copy it again.')
  return source('ljspeech', root, rows)


def libritts(root: str) -> Source:
  """LibriTTS and LibriTTS-R (openslr.org/60, 141): SUBSET/SPEAKER/CHAPTER/ID.wav.

  Texts are those of the tables SPEAKER_CHAPTER.trans.tsv (id, original, normalised), and of
  ID.normalized.txt and ID.original.txt where a chapter has no table. Columns: split (the subset),
  speaker, chapter, transcript (normalised), text (original). Splits 'train', 'valid' and 'test' are
  groups of subsets.
  """
  base = pathlib.Path(root)
  paths = [p for p in find_audio(base) if p.count('/') == 3]
  told: dict[str, tuple[str, str]] = {}
  for folder in sorted({os.path.dirname(p) for p in paths}):
    for file in sorted((base / folder).glob('*.trans.tsv')):
      for _, line in tables.lines(file):
        name, *fields = line.split('\t')
        told[name] = (fields[0].strip(), fields[-1].strip()) if fields else ('', '')
  rows: list[tuple[str, str, dict[str, Value]]] = []
  for path in paths:
    subset, speaker, chapter, name = path.split('/')
    stem = os.path.splitext(name)[0]
    text, normalised = told.get(stem) or (
      _text(base / subset / speaker / chapter / f'{stem}.{kind}.txt')
      for kind in ('original', 'normalized')
    )
    columns: dict[str, Value] = {
      'split': subset,
      'speaker': speaker,
      'chapter': chapter,
      'transcript': normalised,
      'text': text,
    }
    rows.append((path, path, columns))
  there = {row['split'] for *_, row in rows}
  groups = {k: tuple(s for s in v if s in there) for k, v in _GROUPS.items()}
  return source('libritts', root, rows, splits=groups)


def vctk(root: str, mic: int = 1) -> Source:
  """VCTK 0.92 and 0.80 (datashare.ed.ac.uk/handle/10283/3443): wav48_silence_trimmed/SPEAKER/
  SPEAKER_NUMBER_mic1.flac, or wav48/SPEAKER/SPEAKER_NUMBER.wav; txt/SPEAKER/SPEAKER_NUMBER.txt;
  speaker-info.txt.

  Columns: speaker, transcript (p315 has none), sentence (the number), sex, age, accent. No
  published splits.

  Args:
    root: the folder.
    mic: 1 or 2, of version 0.92, which has most sentences by two microphones.

  Raises:
    InputError: another microphone, or no clips.
  """
  if mic not in (1, 2):
    raise InputError(f'VCTK has microphones 1 and 2, not {mic!r}.')
  base = pathlib.Path(root)
  people = _people(base / 'speaker-info.txt')
  rows: list[tuple[str, str, dict[str, Value]]] = []
  for part in ('wav48_silence_trimmed', 'wav48'):
    for path in find_audio(base / part) if (base / part).is_dir() else ():
      stem = os.path.splitext(os.path.basename(path))[0]
      name, _, own = stem.partition('_mic')
      speaker, _, sentence = name.partition('_')
      if path.count('/') != 1 or not sentence or (own and own != str(mic)):
        continue
      age, sex, accent = people.get(speaker.removeprefix('p'), ('', '', ''))
      columns: dict[str, Value] = {
        'speaker': speaker,
        'transcript': _text(base / 'txt' / speaker / f'{name}.txt'),
        'sentence': sentence,
        'sex': sex,
        'age': age,
        'accent': accent,
      }
      rows.append((f'{part}/{path}', f'{part}/{path}', columns))
    if rows:
      break
  if not rows:
    raise InputError(f'VCTK in {root}: no clips of microphone {mic} in wav48_silence_trimmed/.')
  return source('vctk', root, rows)


def _text(path: pathlib.Path) -> str:
  return ' '.join(tables.text(path).split()) if path.is_file() else ''


def _people(path: pathlib.Path) -> dict[str, tuple[str, str, str]]:
  """Number of a speaker -> age, sex, accent, of lines 'p225  23  F  English  Southern England'."""
  found = {}
  for _, line in tables.lines(path) if path.is_file() else ():
    fields = line.split()
    if len(fields) >= 4 and fields[0] != 'ID':
      found[fields[0].removeprefix('p')] = (fields[1], fields[2], fields[3])
  return found
