"""VoxPopuli, VoxCeleb 1 and 2, in their published layouts."""

import os
import pathlib

from research.audio import tables
from research.audio.clips import Source
from research.audio.datasets.tables import read_rows, source
from research.audio.example import Value
from research.audio.folder import find_audio
from research.errors import InputError, listed


def voxpopuli(root: str, language: str | None = None) -> Source:
  """VoxPopuli, in the layout of its download scripts.

  Splits 'train', 'dev' and 'test' are transcribed_data/LANG/asr_SPLIT.tsv with LANG/YEAR/ID.ogg;
  'unlabelled' is unlabelled_data/LANG/YEAR/*.ogg; 'raw' is raw_audios/LANG/YEAR/*.ogg, whole
  sessions (use cut_seconds). Columns: split, language, year, transcript, speaker, sex.

  Args:
    root: the folder.
    language: selects one language, e.g. 'en'.
  """
  base, rows = pathlib.Path(root), []
  for tsv in sorted(base.glob(f'transcribed_data/{language or "*"}/asr_*.tsv')):
    lang = tsv.parent.name
    for row in read_rows(tsv):
      name = row.get('id') or row.get('id_') or row.get('audio_id')
      if not name:
        raise InputError(f'{tsv} has no column "id" (it has: {listed(row)}).')
      path = f'transcribed_data/{lang}/{name[:4]}/{name}.ogg'
      columns: dict[str, Value] = {
        'split': tsv.stem.removeprefix('asr_'),
        'language': lang,
        'year': name[:4],
        'transcript': row.get('normalized_text', ''),
        'speaker': row.get('speaker_id', ''),
        'sex': row.get('gender', ''),
      }
      rows.append((path, path, columns))
  for part, split in (('unlabelled_data', 'unlabelled'), ('raw_audios', 'raw')):
    if (base / part).is_dir():
      for path in (p for p in find_audio(base / part) if '/' in p):
        lang, year = path.split('/')[0], path.split('/')[-2]
        if language in (None, lang):
          known: dict[str, Value] = {'split': split, 'language': lang, 'year': year}
          rows.append((f'{part}/{path}', f'{part}/{path}', known))
  return source('voxpopuli', root, rows)


def voxceleb1(root: str) -> Source:
  """VoxCeleb1: [dev/|test/]wav/idXXXXX/VIDEO/NUMBER.wav, iden_split.txt, vox1_meta.csv.

  Columns: speaker, video, split (of the identification task, from iden_split.txt; empty for files
  that are not in it), sex, nationality.
  """
  base = pathlib.Path(root)
  parts = {'1': 'train', '2': 'valid', '3': 'test'}
  listed: dict[str, str] = {}
  if (base / 'iden_split.txt').is_file():
    for _, line in tables.lines(base / 'iden_split.txt'):
      number, _, path = line.partition(' ')
      listed[os.path.splitext(path.strip())[0]] = parts.get(number, '')
  people = _meta(base / 'vox1_meta.csv', '\t')
  rows = []
  for path in find_audio(base):
    speaker, video, name = path.split('/')[-3:] if path.count('/') > 2 else ('', '', '')
    if speaker.startswith('id1'):
      person = people.get(speaker, {})
      columns: dict[str, Value] = {
        'speaker': speaker,
        'video': video,
        'split': listed.get(f'{speaker}/{video}/{os.path.splitext(name)[0]}', ''),
        'sex': person.get('Gender', ''),
        'nationality': person.get('Nationality', ''),
      }
      rows.append((path, path, columns))
  return source('voxceleb1', root, rows)


def voxceleb2(root: str) -> Source:
  """VoxCeleb2: {dev,test}/aac/idXXXXX/VIDEO/NUMBER.*, vox2_meta.csv.

  Distributed as AAC (.m4a), which the extra `[media]` reads; or convert the files, and keep the
  folders.
  Columns: speaker, video, split ('dev' or 'test'), sex.
  """
  base = pathlib.Path(root)
  people = _meta(base / 'vox2_meta.csv', ',')
  rows = []
  for path in find_audio(base):
    speaker, video = path.split('/')[-3:-1] if path.count('/') > 2 else ('', '')
    if speaker.startswith('id0'):
      person = people.get(speaker, {})
      top = path.split('/')[0]
      columns: dict[str, Value] = {
        'speaker': speaker,
        'video': video,
        'split': top if top in ('dev', 'test') else person.get('Set', ''),
        'sex': person.get('Gender', ''),
      }
      rows.append((path, path, columns))
  return source('voxceleb2', root, rows)


def _meta(path: pathlib.Path, delimiter: str) -> dict[str, dict[str, str]]:
  """First column -> row of a VoxCeleb meta file, whose names and values have stray blanks."""
  if not path.is_file():
    return {}
  rows = [[v.strip() for v in row] for _, row in tables.records(path, delimiter=delimiter)]
  return {row[0]: dict(zip(rows[0], row)) for row in rows[1:]}
