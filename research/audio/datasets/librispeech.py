"""LibriSpeech, Libri-Light and its limited-supervision sets, in their published layouts."""

import json
import os
import pathlib

from research.audio import tables
from research.audio.clips import Files, Source, Table
from research.audio.example import Value
from research.audio.folder import find_audio
from research.errors import InputError

# The usual groups of subsets.
_GROUPS = {
  'train': ('train-clean-100', 'train-clean-360', 'train-other-500'),
  'train-clean': ('train-clean-100', 'train-clean-360'),
  'valid': ('dev-clean', 'dev-other'),
  'test': ('test-clean', 'test-other'),
}


def librispeech(root: str) -> Source:
  """LibriSpeech (openslr.org/12): SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac.

  Columns: split (the subset), speaker, chapter, sex, transcript. Splits 'train', 'valid' and 'test'
  are groups of subsets.
  """
  paths, transcripts = _utterances(pathlib.Path(root))
  sexes = _sexes(pathlib.Path(root))
  parts = [p.split('/') for p in paths]
  columns: dict[str, list[Value]] = {
    'split': [p[0] for p in parts],
    'speaker': [p[-3] for p in parts],
    'chapter': [p[-2] for p in parts],
    'sex': [sexes.get(p[-3], '') for p in parts],
    'transcript': transcripts,
  }
  groups = {k: tuple(s for s in v if s in set(columns['split'])) for k, v in _GROUPS.items()}
  return Source(Table('librispeech', paths, columns, Files(root, paths), splits=groups))


def librispeech_finetuning(root: str) -> Source:
  """Libri-Light's limited supervision: 1h/FOLD/{clean,other}/… and 9h/{clean,other}/….

  Columns: split ('1h' or '9h'), fold, condition, speaker, chapter, transcript. Split '10min' is
  fold 0 of 1h, as in the Libri-Light paper; '10h' is both parts.
  """
  paths, transcripts = _utterances(pathlib.Path(root))
  parts = [p.split('/') for p in paths]
  columns: dict[str, list[Value]] = {
    'split': ['10min' if p[:2] == ['1h', '0'] else p[0] for p in parts],
    'fold': [p[1] if p[0] == '1h' else '' for p in parts],
    'condition': [p[-4] for p in parts],
    'speaker': [p[-3] for p in parts],
    'chapter': [p[-2] for p in parts],
    'transcript': transcripts,
  }
  groups = {'1h': ('10min', '1h'), '10h': ('10min', '1h', '9h')}
  return Source(Table('librispeech_finetuning', paths, columns, Files(root, paths), splits=groups))


def libri_light(root: str, voice_seconds: float | None = None) -> Source:
  """Libri-Light's unlabelled audio: {small,medium,large,duplicate}/SPEAKER/BOOK/*.flac with *.json.

  Columns: split (the subset), speaker, book, genre, snr. Splits 'unlab-580', 'unlab-5.8k' and
  'unlab-58k' are the groups of the paper.

  Args:
    root: the folder that holds the subsets.
    voice_seconds: cut the files, which are chapters, into clips of about N seconds at pauses of the
      `voice_activity` in the json; None gives whole files.
  """
  base = pathlib.Path(root)
  files = [
    p
    for subset in ('small', 'medium', 'large', 'duplicate')
    if (base / subset).is_dir()
    for p in (f'{subset}/{q}' for q in find_audio(base / subset))
  ]
  rows = []
  for path in files:
    known = _json(base / path)
    book = known.get('book_meta') or {}
    row = {
      'split': path.split('/')[0],
      'speaker': str(known.get('speaker') or path.split('/')[1]),
      'book': path.split('/')[-2],
      'genre': str(book.get('meta_genre') or ''),
      'snr': str(known.get('snr', '')),
    }
    for start, end in _voices(known.get('voice_activity') or [], voice_seconds):
      rows.append((path, start, end, row))
  ids = [p if e is None else f'{p}@{s:.2f}' for p, s, e, _ in rows]
  names = ('split', 'speaker', 'book', 'genre', 'snr')
  small, both = ('small',), ('small', 'medium')
  table = Table(
    name='libri_light',
    ids=ids,
    columns={n: [row[n] for *_, row in rows] for n in names},
    locate=Files(
      root=root,
      paths=[p for p, *_ in rows],
      starts=[s for _, s, _, _ in rows],
      seconds=[None if e is None else e - s for _, s, e, _ in rows],
    ),
    splits={'unlab-580': small, 'unlab-5.8k': both, 'unlab-58k': (*both, 'large')},
  )
  return Source(table)


def _utterances(root: pathlib.Path) -> tuple[list[str], list[Value]]:
  """Paths of all .flac files below `root`, and transcripts from their .trans.txt files."""
  paths = [p for p in find_audio(root) if p.endswith('.flac')]
  texts: dict[str, str] = {}
  for folder in sorted({os.path.dirname(p) for p in paths}):
    for file in sorted((root / folder).glob('*.trans.txt')):
      for _, line in tables.lines(file):
        name, _, text = line.partition(' ')
        texts[name] = text.strip()
  return paths, [texts.get(os.path.basename(p).removesuffix('.flac'), '') for p in paths]


def _sexes(root: pathlib.Path) -> dict[str, str]:
  """Speaker -> M or F, from SPEAKERS.TXT (`14 | F | train-clean-360 | 25.03 | name`)."""
  file = root / 'SPEAKERS.TXT'
  if not file.is_file():
    return {}
  rows = (line.split('|') for _, line in tables.lines(file))
  return {r[0].strip(): r[1].strip() for r in rows if len(r) > 2 and not r[0].startswith(';')}


def _json(path: pathlib.Path) -> dict:
  file = path.with_suffix('.json')
  if not file.is_file():
    return {}
  try:
    return json.loads(file.read_text(encoding='utf-8'))
  except ValueError as error:
    raise InputError(f'{file} is not JSON ({error}); copy it again.') from None


def _voices(activity: list[list[float]], seconds: float | None) -> list[tuple[float, float | None]]:
  """(start, end) of clips that join voiced segments until they span `seconds`."""
  if seconds is None or not activity:
    return [(0.0, None)]
  clips: list[tuple[float, float | None]] = []
  start, end = activity[0]
  for low, high in activity[1:]:
    if high - start > seconds:
      clips.append((start, end))
      start = low
    end = high
  return [*clips, (start, end)]
