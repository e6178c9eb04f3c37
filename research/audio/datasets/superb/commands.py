"""SUPERB's spoken commands: keyword spotting, intent classification, slot filling."""

import collections
import os
import pathlib
from collections.abc import Sequence

from absl import logging

from research.audio import batching, tables
from research.audio.clips import Source
from research.audio.datasets.speech_commands import NOISE, SILENCE
from research.audio.datasets.superb.found import GAIN, Found, folder_of
from research.audio.datasets.superb.table import SPLITS
from research.audio.decode import duration
from research.audio.example import Example, Value
from research.audio.folder import Inside, find_audio
from research.errors import InputError
from research.text import slots, targets

# -- Keyword spotting (s3prl/downstream/speech_commands) -------------------------------------------

CLASSES = targets.KEYWORD_CLASSES
_TEST = ('speech_commands_test_set_v0.01', 'speech_commands_test_set_v0.02')


def superb_ks(root: str, test: str | None = None, windows: int = 0, seed: int = 0) -> Source:
  """Keyword spotting: Speech Commands 0.01 in 12 classes, levels lowered by 3 dB.

  Columns: split, label, word, speaker. `train` and `valid` are s3prl's, by a hash of the speaker,
  without a tenth of the clips; `test` is the official test archive. Every other word is
  `_unknown_`. A file of background noise is one clip of `_silence_`: whole in training, where crops
  of one second are random (seconds=1.0), and a second at a place drawn by the seed in `valid`.
  Classes are unequal: sample training with weights='balanced'.

  Args:
    root: folder of the words.
    test: folder of the test archive; by default beside or in `root`.
    windows: N seconds at drawn places of every file of noise, in training too, in place of whole
      files; 0 for one in `valid` alone.
    seed: of the places.

  Raises:
    InputError: no background noise, or a test folder that does not exist.
  """
  found = Found('superb_ks', pathlib.Path(root))
  paths = [p for p in find_audio(found.base) if p.count('/') == 1]
  for path in paths:
    word, name = path.split('/')
    if word == NOISE or (part := keyword_split(name)) is None:
      continue
    label = targets.keyword_class(word)
    found.add(path, found.base / path, _keyword(part, label, word, name))
  noise = [p for p in paths if p.startswith(f'{NOISE}/')]
  if not noise:
    raise found.lacks(found.base / NOISE, 'the recordings of silence')
  for part in ('train', 'valid'):
    for path in noise:
      _add_silence(found, part, path, windows, seed)
  given = [pathlib.Path(test).expanduser()] if test else []
  given += [] if test else [base / n for base in (found.base.parent, found.base) for n in _TEST]
  folder = next((f for f in given if f.is_dir()), None)
  if folder is None:
    if test:
      raise found.lacks(test, 'the folder of the test archive')
    logging.warning('superb_ks: no test archive (%s); give test= with its folder.', given[0])
  else:
    _add_tests(found, folder)
  return found.source(gain=GAIN, label_sets={'label': CLASSES})


def _add_tests(found: Found, folder: pathlib.Path) -> None:
  """The official test archive: a folder a class."""
  for path in (p for p in find_audio(folder) if p.count('/') == 1):
    label, name = path.split('/')
    if label not in CLASSES:
      raise InputError(
        f'superb_ks: {folder / path} is in no folder of a class ({", ".join(CLASSES)}); expected '
        'the official test archive.'
      )
    found.add(f'test/{path}', folder / path, _keyword('test', label, label, name))


def _keyword(split: str, label: str, word: str, name: str) -> dict[str, Value]:
  speaker = name.split('_nohash_')[0] if '_nohash_' in name else ''
  return {'split': split, 'label': label, 'word': word, 'speaker': speaker}


def _add_silence(found: Found, part: str, path: str, windows: int, seed: int) -> None:
  full = str(found.base / path)
  columns = _keyword(part, SILENCE, NOISE, '')
  if part == 'train' and not windows:
    found.add(path, full, columns)
    return
  seconds = duration(Example(path, {}, path=full))
  for k in range(max(1, windows)):
    start = batching.uniform(seed, k, f'{part}/{path}') * max(0.0, seconds - 1.0)
    start = int(start * 16000) / 16000
    length = min(1.0, seconds)
    found.add(f'{path}@{start:g}#{part}', full, columns, start=start, length=length)


def keyword_split(name: str) -> str | None:
  """The split of a file of Speech Commands by `targets.keyword_part`; None for the tenth that s3prl
  leaves out.

  Args:
    name: of the file, as 04d8b987_nohash_0.wav; other endings count as .wav.
  """
  part = targets.keyword_part(f'{os.path.splitext(name)[0]}.wav')
  return {'train': 'train', 'dev': 'valid'}.get(part)


# -- Intent classification (s3prl/downstream/fluent_commands) --------------------------------------

INTENT = ('action', 'object', 'location')


def superb_ic(root: str) -> Source:
  """Intent classification: Fluent Speech Commands.

  Columns: split, action, object, location, transcript, speaker. Classes of the three are numbered
  in the order in which they appear in train_data.csv; published: 6, 14 and 4.

  Raises:
    InputError: no table of training, or a table without these columns.
  """
  found = Found('superb_ic', pathlib.Path(root))
  inside = Inside(found.base)
  classes: dict[str, dict[str, None]] = {slot: {} for slot in INTENT}
  for split in SPLITS:
    file = found.base / 'data' / f'{split}_data.csv'
    if not file.is_file():
      if split == 'train':
        raise found.lacks(file, 'the table whose order numbers the classes')
      logging.warning('superb_ic: %s is missing; there is no split %r.', file, split)
      continue
    for line, row in tables.rows(file):
      for name in ('path', *INTENT):
        if name not in row:
          raise InputError(f'{file}, line {line}: no column {name!r}.')
      if split == 'train':
        for slot in INTENT:
          classes[slot].setdefault(row[slot])
      columns: dict[str, Value] = {'split': split, **{slot: row[slot] for slot in INTENT}}
      columns['transcript'] = row.get('transcription', '')
      columns['speaker'] = row.get('speakerId', '')
      path = inside(row['path'], f'{file}, line {line}')
      found.add(path, found.base / path, columns)
  return found.source(label_sets={slot: tuple(values) for slot, values in classes.items()})


# -- Slot filling (s3prl/downstream/ctc/corpus/snips.py) -------------------------------------------

SPEAKERS = {
  'train': ('Ivy', 'Joanna', 'Joey', 'Justin', 'Kendra', 'Kimberly', 'Matthew', 'Salli'),
  'valid': ('Aditi', 'Amy', 'Geraint', 'Nicole'),
  'test': ('Brian', 'Emma', 'Raveena', 'Russell'),
}


def superb_sf(root: str) -> Source:
  """Slot filling: Audio SNIPS.

  Columns: split, transcript (the words), slots (the line 'BOS words EOS<TAB>labels' for
  `text/slots.py` and the field `symbols` with split='slots'), intent, speaker. Of the published
  voices each split has its own (SPEAKERS); clips of others are left out. Voices of other names, as
  in generated sets, are all taken.

  Raises:
    InputError: no all.iob.snips.txt, or a line that is no text with labels.
  """
  found = Found('superb_sf', pathlib.Path(root))
  lines = _snips(found)
  heard: set[str] = set()
  silent: collections.Counter[str] = collections.Counter()
  for split in SPLITS:
    folder = folder_of(found.base, split)
    for path in find_audio(folder) if folder else ():
      name = os.path.splitext(os.path.basename(path))[0]
      if name not in lines:
        silent[split] += 1
      elif _speaks(name, split):
        heard.add(name)
        found.add(name, folder / path, {'split': split, **lines[name]})  # type: ignore[operator]
  for name in lines.keys() - heard:
    split = next((s for s in SPLITS if f'-snips-{s}-' in name), '')
    if split and _speaks(name, split):
      found.absent[split] += 1
  if silent:
    logging.warning(
      'superb_sf in %s: %d audio files are in no line of the text and are left out.',
      found.base,
      silent.total(),
    )
  return found.source()


def slot_vocabulary(root: str | os.PathLike) -> tuple[str, ...]:
  """The symbols of slot filling, of the slots.txt of the data set.

  Raises:
    InputError: there is no slots.txt.
  """
  found = Found('superb_sf', pathlib.Path(root))
  file = found.base / 'slots.txt'
  if not file.is_file():
    raise found.lacks(file, 'the list of slots')
  return slots.vocabulary(slots.read_slots(text for _, text in tables.lines(file)))


def _snips(found: Found) -> dict[str, dict[str, Value]]:
  """Id -> columns, of all.iob.snips.txt."""
  file = found.base / 'all.iob.snips.txt'
  if not file.is_file():
    raise found.lacks(file, 'the text of all clips')
  known: dict[str, dict[str, Value]] = {}
  for number, line in tables.lines(file):
    name, _, text = line.partition(' ')
    words, _, labels = text.partition('\t')
    said: Sequence[str] = words.split()
    if len(said) < 3 or len(said) != len(labels.split()):
      raise InputError(
        f'{file}, line {number}: expected "ID BOS words EOS<TAB>label of each", found '
        f'{line[:200]!r}.'
      )
    known[name] = {
      'transcript': ' '.join(said[1:-1]),
      'slots': text,
      'intent': labels.split()[-1],
      'speaker': name.split('-')[0],
    }
  return known


def _speaks(name: str, split: str) -> bool:
  """Whether the voice of a clip belongs to a split, or is none of the published ones."""
  published = (s for names in SPEAKERS.values() for s in names)
  return name.startswith(SPEAKERS[split]) or not name.startswith(tuple(published))
