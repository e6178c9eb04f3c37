"""AudioSet, FSD50K, ESC-50, UrbanSound8K and NSynth, in their published layouts."""

import json
import os
import pathlib

from absl import logging

from research.audio import tables
from research.audio.clips import Source
from research.audio.datasets.tables import check_columns, clip_names, read_rows, source
from research.audio.example import Value
from research.audio.folder import find_audio
from research.errors import InputError

# AudioSet's names of its segment lists -> splits.
_AUDIOSET_SPLITS = {
  'balanced_train_segments': 'balanced',
  'unbalanced_train_segments': 'unbalanced',
  'eval_segments': 'eval',
}


def audioset(root: str, labels: str = 'display_name') -> Source:
  """AudioSet: the csv files of research.google.com/audioset, and downloaded clips.

  Clips are audio files in any subfolder, named YTID or YYTID, optionally with the start, or start
  and end, of the segment after underscores (seconds or milliseconds). Segments without a file are
  left out and counted. Columns: split ('balanced' 20k, 'unbalanced' 2M, 'eval'; 'train' is both
  training sets), label (a list), ytid, start. Classes are the 527 of class_labels_indices.csv, by
  index.

  Args:
    root: the folder with the csv files.
    labels: names of the labels: 'display_name' or 'mid'.
  """
  base = pathlib.Path(root)
  if labels not in ('display_name', 'mid'):
    raise InputError(f"labels is {labels!r}; give 'display_name' or 'mid'.")
  names = _ontology(base, labels)
  files = {os.path.splitext(os.path.basename(p))[0]: p for p in find_audio(base)}
  rows: list[tuple[str, str, dict[str, Value]]] = []
  absent: dict[str, int] = {}
  lists = sorted([*base.glob('*_segments.csv'), *base.glob('*/*_segments.csv')])
  for file in lists:
    split = _AUDIOSET_SPLITS.get(file.stem, file.stem.removesuffix('_segments'))
    for ytid, start, end, mids in _segments(file):
      path = next((files[n] for n in clip_names(ytid, start, end) if n in files), None)
      if path is None:
        absent[split] = absent.get(split, 0) + 1
        continue
      unknown_mids = [m for m in mids if m not in names]
      if unknown_mids:
        raise InputError(f'{file} has label {unknown_mids[0]!r}, which is not in the class list.')
      columns: dict[str, Value] = {'split': split, 'label': [names[m] for m in mids], 'ytid': ytid}
      rows.append((f'{split}/{ytid}_{start:g}', path, columns | {'start': f'{start:g}'}))
  missing = sum(absent.values())
  if not rows:
    raise InputError(
      f'AudioSet in {root}: {len(lists)} csv files list {missing} segments, but no audio file '
      'matches; expected names like YTID.wav, YTID_30.flac or YTID_30000_40000.wav.'
    )
  if missing:
    logging.info('AudioSet in %s: %d segments without a file, %d with.', root, missing, len(rows))
  classes = tuple(names.values())
  train = {'train': ('balanced', 'unbalanced')}
  return source('audioset', root, rows, label_sets={'label': classes}, splits=train, absent=absent)


def _ontology(base: pathlib.Path, labels: str) -> dict[str, str]:
  """Machine id -> name, by class index."""
  found = [*base.glob('class_labels_indices.csv'), *base.glob('*/class_labels_indices.csv')]
  if not found:
    raise InputError(f'AudioSet in {base} lacks class_labels_indices.csv, the list of its classes.')
  rows = read_rows(found[0])
  check_columns(found[0], rows[0] if rows else {}, 'index', 'mid', 'display_name')
  rows.sort(key=lambda r: int(r['index']))
  names = {r['mid']: r[labels] for r in rows}
  if len(set(names.values())) != len(names):
    raise InputError(f'{found[0]} has two classes of one display name; use labels="mid".')
  return names


def _segments(file: pathlib.Path):
  """(ytid, start, end, mids) of a csv: `# …` lines, then `ID, 30.000, 40.000, "mid,mid"`."""
  for line, row in tables.records(file, spaced=True):
    if row[0].startswith('#'):
      continue
    try:
      ytid, start, end, labels = row
      yield ytid, float(start), float(end), [m for m in labels.split(',') if m]
    except ValueError:
      raise InputError(
        f'{file}, line {line}: {row} is not a segment (YTID, start, end, "labels").'
      ) from None


def fsd50k(root: str) -> Source:
  """FSD50K (zenodo.org/record/4060432): FSD50K.ground_truth/*.csv and two folders of audio.

  Columns: split ('train' and 'valid' of the development set, 'test' for the evaluation set), label
  (a list). The 200 classes are in the order of vocabulary.csv.
  """
  base = pathlib.Path(root)
  truth = base / 'FSD50K.ground_truth'
  vocabulary = read_rows(truth / 'vocabulary.csv', ('index', 'label', 'mid'))
  classes = tuple(r['label'] for r in sorted(vocabulary, key=lambda r: int(r['index'])))
  rows = []
  for part, audio in (('dev', 'FSD50K.dev_audio'), ('eval', 'FSD50K.eval_audio')):
    listed = read_rows(truth / f'{part}.csv') if (truth / f'{part}.csv').is_file() else []
    for row in listed:
      check_columns(truth / f'{part}.csv', row, 'fname', 'labels')
      split = {'val': 'valid', 'train': 'train'}.get(row.get('split', ''), 'test')
      columns: dict[str, Value] = {'split': split, 'label': row['labels'].split(',')}
      path = f'{audio}/{row["fname"]}.wav'
      rows.append((path, path, columns))
  return source('fsd50k', root, rows, label_sets={'label': classes})


def esc50(root: str) -> Source:
  """ESC-50 (github.com/karolpiczak/ESC-50): meta/esc50.csv and audio/*.wav.

  Columns: label (the category), fold ('1' to '5'), esc10 ('True' or 'False'), src_file, take. No
  splits: five-fold cross-validation by `fold`. Classes are in the order of the targets.
  """
  return _esc(root, 'esc50', only_esc10=False)


def esc10(root: str) -> Source:
  """ESC-10: the rows of ESC-50 with esc10 True, ten classes; otherwise as `esc50`."""
  return _esc(root, 'esc10', only_esc10=True)


def _esc(root: str, name: str, only_esc10: bool) -> Source:
  table = pathlib.Path(root) / 'meta' / 'esc50.csv'
  rows, targets = [], {}
  for row in read_rows(table):
    check_columns(table, row, 'filename', 'fold', 'target', 'category', 'esc10')
    if only_esc10 and row['esc10'] != 'True':
      continue
    targets[row['category']] = int(row['target'])
    path = f'audio/{row["filename"]}'
    columns: dict[str, Value] = {
      'label': row['category'],
      'fold': row['fold'],
      'esc10': row['esc10'],
    }
    columns |= {'src_file': row.get('src_file', ''), 'take': row.get('take', '')}
    rows.append((path, path, columns))
  classes = tuple(sorted(targets, key=targets.__getitem__))
  return source(name, root, rows, label_sets={'label': classes})


def urbansound8k(root: str) -> Source:
  """UrbanSound8K (urbansounddataset.weebly.com): metadata/UrbanSound8K.csv and audio/foldN/*.wav.

  Columns: label (the class), fold ('1' to '10'), fsID (the recording that a slice is from),
  salience ('1' foreground, '2' background). No splits: ten-fold cross-validation by `fold`. Classes
  are in the order of the class numbers.
  """
  table = pathlib.Path(root) / 'metadata' / 'UrbanSound8K.csv'
  rows, numbers = [], {}
  for row in read_rows(table):
    check_columns(table, row, 'slice_file_name', 'fsID', 'salience', 'fold', 'classID', 'class')
    numbers[row['class']] = int(row['classID'])
    path = f'audio/fold{row["fold"]}/{row["slice_file_name"]}'
    columns: dict[str, Value] = {
      'label': row['class'],
      'fold': row['fold'],
      'fsID': row['fsID'],
      'salience': row['salience'],
    }
    rows.append((path, path, columns))
  classes = tuple(sorted(numbers, key=numbers.__getitem__))
  return source('urbansound8k', root, rows, label_sets={'label': classes})


# magenta.tensorflow.org/datasets/nsynth, by number.
_NSYNTH_FAMILIES = (
  'bass', 'brass', 'flute', 'guitar', 'keyboard', 'mallet', 'organ', 'reed', 'string', 'synth_lead',
  'vocal',
)  # fmt: skip


def nsynth(root: str) -> Source:
  """NSynth: nsynth-{train,valid,test}/examples.json and audio/*.wav.

  Columns: split, label (instrument family), instrument, source, pitch, velocity, qualities (a
  list).
  """
  rows = []
  for folder in sorted(pathlib.Path(root).glob('nsynth-*')):
    listed = folder / 'examples.json'
    if not listed.is_file():
      continue
    try:
      notes = json.loads(listed.read_text())
    except ValueError as error:
      raise InputError(f'{listed} is not JSON ({error}); copy it again.') from None
    for name in sorted(notes):
      note = notes[name]
      path = f'{folder.name}/audio/{name}.wav'
      columns: dict[str, Value] = {
        'split': folder.name.removeprefix('nsynth-'),
        'label': str(note['instrument_family_str']),
        'instrument': str(note['instrument_str']),
        'source': str(note['instrument_source_str']),
        'pitch': str(note['pitch']),
        'velocity': str(note['velocity']),
        'qualities': [str(q) for q in note.get('qualities_str', [])],
      }
      rows.append((path, path, columns))
  return source('nsynth', root, rows, label_sets={'label': _NSYNTH_FAMILIES})
