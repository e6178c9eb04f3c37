"""AudioCaps, Clotho, WavCaps and MusicCaps, in their published layouts.

Captions are in the column `caption`: a text, or a list for clips with several. Clips whose audio is
not on disk are left out and counted, those without a caption too. Labels of other data sets become
captions by the template of the field (`fields/captions.py`).
"""

import ast
import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from research.audio import tables
from research.audio.clips import Source
from research.audio.datasets.tables import check_columns, clip_names, source
from research.audio.example import Value
from research.audio.folder import find_audio
from research.errors import InputError, listed

# Folders of AudioCaps' tables; the first with one counts, as the repository has two versions.
_AUDIOCAPS_TABLES = ('.', 'dataset', 'csv_files_v1', 'dataset2.0', 'csv_files_v2')
# WavCaps' parts: folder of the table, its file.
_WAVCAPS_PARTS = {
  'as_final': 'AudioSet_SL',
  'bbc_final': 'BBC_Sound_Effects',
  'fsd_final': 'FreeSound',
  'sb_final': 'SoundBible',
}


@dataclasses.dataclass
class _Clip:
  """A clip that a table lists.

  Attributes:
    id: of the clip.
    split: value of the column `split`.
    names: of its file, without the ending; one of them is enough.
    captions: of the clip; empty ones do not count.
    columns: all others.
    folder: text in the names of folders; of several files the one in such a folder is taken.
  """

  id: str
  split: str
  names: Sequence[str]
  captions: list[str]
  columns: dict[str, Value] = dataclasses.field(default_factory=dict)
  folder: str = ''


def audiocaps(root: str) -> Source:
  """AudioCaps (github.com/cdjkim/audiocaps): {train,val,test}.csv, and clips in any subfolder.

  Files are named as those of AudioSet (`audioset`) or by the audiocap_id. A clip has one caption in
  training, five in 'val' and 'test'. Columns: split, caption, ytid, start.

  Args:
    root: the folder with the csv files, or with dataset/ (version 1) or dataset2.0/.
  """
  base = pathlib.Path(root)
  folders = [base / name for name in _AUDIOCAPS_TABLES]
  parts = ('train', 'val', 'test')
  folder = next((f for f in folders if any((f / f'{p}.csv').is_file() for p in parts)), base)
  found: dict[str, _Clip] = {}
  for part in parts:
    if not (folder / f'{part}.csv').is_file():
      continue
    for line, row in tables.rows(folder / f'{part}.csv'):
      check_columns(
        folder / f'{part}.csv', row, 'audiocap_id', 'youtube_id', 'start_time', 'caption'
      )
      start = _number(row['start_time'], f'{folder / part}.csv, line {line}')
      ytid = row['youtube_id']
      clip = found.setdefault(
        f'{part}/{ytid}_{start:g}',
        _Clip(
          f'{part}/{ytid}_{start:g}', part, clip_names(ytid, start, start + 10), [],
          {'ytid': ytid, 'start': f'{start:g}'}, part,
        ),
      )  # fmt: skip
      clip.captions.append(row['caption'])
      clip.names = [*clip.names, row['audiocap_id']]
  return _captioned('audiocaps', base, found.values(), {'valid': ('val',)})


def clotho(root: str) -> Source:
  """Clotho (zenodo.org/record/4783391): clotho_captions_*.csv, and wav files in folders by the
  parts.

  Splits: 'development', 'validation' and 'evaluation', which are also 'train', 'valid' and 'test'.
  Columns: split, caption (five a clip).

  Args:
    root: the folder with the csv files, or one above.
  """
  base = pathlib.Path(root)
  found = []
  for table in sorted([*base.glob('clotho_captions_*.csv'), *base.glob('*/clotho_captions_*.csv')]):
    part = table.stem.removeprefix('clotho_captions_')
    for _, row in tables.rows(table):
      check_columns(table, row, 'file_name', 'caption_1')
      captions = [text for name, text in row.items() if name.startswith('caption_')]
      name = row['file_name']
      clip_id = f'{part}/{name}'
      found.append(_Clip(clip_id, part, [os.path.splitext(name)[0]], captions, folder=part))
  groups = {'train': ('development',), 'valid': ('validation',), 'test': ('evaluation',)}
  return _captioned('clotho', base, found, groups, own_folder=True)


def wavcaps(root: str) -> Source:
  """WavCaps (github.com/XinhaoMei/WavCaps): json_files/PART/*_final.json, and files named by their
  id in any subfolder, of equal ids in one that is named by the part.

  No splits. Columns: part ('AudioSet_SL', 'BBC_Sound_Effects', 'FreeSound', 'SoundBible'), caption.

  Args:
    root: the folder with json_files, or json_files itself.
  """
  base = pathlib.Path(root)
  found: list[_Clip] = []
  for table in sorted({*base.glob('*_final.json'), *base.glob('**/*_final.json')}):
    part = _WAVCAPS_PARTS.get(table.stem, table.parent.name)
    for number, row in enumerate(_wavcaps_rows(table)):
      if not isinstance(row, dict) or not {'id', 'caption'} <= set(row):
        raise InputError(f'{table}, clip {number + 1} of "data": expected "id" and "caption".')
      name = str(row['id'])
      stem, ending = os.path.splitext(name)
      stem = stem if ending.lower() in ('.wav', '.flac') else name  # ids of AudioSet_SL
      captions = row['caption'] if isinstance(row['caption'], list) else [row['caption']]
      clip_id = f'{part}/{stem}'
      found.append(
        _Clip(clip_id, '', [stem], [str(c or '') for c in captions], {'part': part}, part)
      )
  return _captioned('wavcaps', base, found)


def _wavcaps_rows(table: pathlib.Path) -> list[Any]:
  try:
    content = json.loads(tables.text(table))
  except (ValueError, RecursionError) as error:
    raise InputError(f'{table} is not JSON ({error}); copy it again.') from None
  if not isinstance(content, dict) or not isinstance(content.get('data'), list):
    raise InputError(f'{table} has no list "data"; expected a table of WavCaps.')
  return content['data']


def musiccaps(root: str) -> Source:
  """MusicCaps (arXiv 2301.11325): musiccaps-public.csv, and clips in any subfolder.

  Files are named as those of AudioSet (`audioset`), or '[YTID]-[START-END]'. Columns: split ('eval'
  for clips of AudioSet's evaluation set, else 'train'), caption, aspects and mids (lists; mids are
  AudioSet's labels), balanced ('True' or 'False': 1,000 clips with balanced genres), ytid, start.
  """
  base = pathlib.Path(root)
  table = next(
    (p for p in (base / 'musiccaps-public.csv', base / 'MusicCaps.csv') if p.is_file()),
    base / 'musiccaps-public.csv',
  )
  found = []
  for line, row in tables.rows(table):
    check_columns(table, row, 'ytid', 'start_s', 'end_s', 'caption')
    where = f'{table}, line {line}'
    start, end = (_number(row[name], where) for name in ('start_s', 'end_s'))
    ytid = row['ytid']
    split = 'eval' if row.get('is_audioset_eval') == 'True' else 'train'
    columns: dict[str, Value] = {
      'aspects': _aspects(row.get('aspect_list', ''), where),
      'mids': [m for m in row.get('audioset_positive_labels', '').split(',') if m],
      'balanced': row.get('is_balanced_subset', ''),
      'ytid': ytid,
      'start': f'{start:g}',
    }
    names = [*clip_names(ytid, start, end), f'[{ytid}]-[{start:g}-{end:g}]']
    found.append(_Clip(f'{ytid}_{start:g}', split, names, [row['caption']], columns))
  return _captioned('musiccaps', base, found, {'test': ('eval',)})


def _aspects(text: str, where: str) -> list[str]:
  """A list as Python writes it."""
  try:
    found = ast.literal_eval(text) if text else []
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    found = None
  if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
    raise InputError(f'{where}: aspect_list is {text[:60]!r}; expected a list of texts.')
  return found


def _number(text: str, where: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise InputError(f'{where}: {text!r} is not a number of seconds.') from None


def _captioned(
  name: str,
  base: pathlib.Path,
  clips: Iterable[_Clip],
  splits: Mapping[str, tuple[str, ...]] | None = None,
  own_folder: bool = False,
) -> Source:
  """The clips that have a file and a caption.

  Args:
    name: of the data set.
    base: its folder.
    clips: what the tables list.
    splits: groups of splits.
    own_folder: whether files count only in the folder of their part.

  Raises:
    InputError: no clip has both.
  """
  files = collections.defaultdict(list)
  for found in find_audio(base):
    files[os.path.splitext(os.path.basename(found))[0]].append(found)
  rows: list[tuple[str, str, dict[str, Value]]] = []
  absent: collections.Counter[str] = collections.Counter()
  silent, example = 0, ''
  for clip in clips:
    path = _file(clip, files, own_folder)
    captions = [text.strip() for text in clip.captions if text.strip()]
    if path is None:
      absent[clip.split] += 1
      example = example or clip.names[0]
      continue
    if not captions:
      silent += 1
      continue
    columns: dict[str, Value] = {'split': clip.split} if clip.split else {}
    columns['caption'] = captions[0] if len(captions) == 1 else captions
    rows.append((clip.id, path, columns | clip.columns))
  if not rows:
    raise InputError(
      f'{name} in {base}: {absent.total()} clips are listed without an audio file and {silent} '
      f'without a caption, none with both; expected files as {example or "NAME"}.wav in a '
      'subfolder.'
    )
  if absent or silent:
    parts = listed(f'{n} of {split}' for split, n in absent.items() if split)
    logging.warning(
      '%s in %s: %d clips; %d are left out for they have no audio file%s, %d for they have no '
      'caption.', name, base, len(rows), absent.total(), f' ({parts})' if parts else '', silent,
    )  # fmt: skip
  return source(name, base, rows, splits=dict(splits or {}), absent=dict(absent))


def _file(clip: _Clip, files: dict[str, list[str]], own_folder: bool) -> str | None:
  """The file of a clip: the first name that there is, in the clip's folder before any other."""
  every = [path for name in dict.fromkeys(clip.names) for path in files.get(name, ())]
  own = [path for path in every if clip.folder in os.path.dirname(path)]
  if own or not own_folder:
    return next(iter([*own, *every]), None)
  return None
