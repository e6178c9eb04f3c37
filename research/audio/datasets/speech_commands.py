"""Google Speech Commands, versions 0.01 and 0.02, in their published layout."""

import dataclasses
import hashlib
import pathlib

from research.audio import tables
from research.audio.clips import Files, Source, Table
from research.audio.decode import duration
from research.audio.example import Example, Value
from research.audio.folder import find_audio
from research.errors import InputError

NOISE = '_background_noise_'
# arXiv 1804.03209, section 6: the ten commands of the 12-class task.
COMMANDS = ('yes', 'no', 'up', 'down', 'left', 'right', 'on', 'off', 'stop', 'go')
SILENCE, UNKNOWN = '_silence_', '_unknown_'
SPLITS = ('train', 'valid', 'test')
# Clips of silence and of unknown words per clip of a command: 10 % of the set each, section 7.
EXTRA_FRACTION = 0.1
# The five words that version 0.02 added to the 30 of version 0.01.
ADDED = ('backward', 'follow', 'forward', 'learn', 'visual')
_WORDS = {1: 30, 2: 35}


@dataclasses.dataclass(frozen=True)
class _Row:
  id: str
  path: str
  label: str
  split: str
  start: float = 0.0
  seconds: float | None = None


def speech_commands(
  root: str, classes: int | None = None, version: int | None = None, name: str = 'speech_commands'
) -> Source:
  """Speech Commands: WORD/SPEAKER_nohash_N.wav, validation_list.txt, testing_list.txt.

  Columns: split, label, word, speaker. Background noise has an empty split and the label
  `_background_noise_`, which is not a class.

  Args:
    root: the folder of either version.
    classes: 35 or 30 for all words, None for all words of either version, or 12: the ten commands,
      `_silence_` (one-second windows of background noise) and `_unknown_` (other words). The last
      two have 10 % as many clips as the commands of each split, selected by a hash of the path.
    version: required version of the folder, 1 or 2; None accepts both.
    name: name of the source.

  Raises:
    InputError: another number of words, another version, or a missing list.
  """
  base = pathlib.Path(root)
  lists = {s: _listed(base / f) for s, f in _LISTS.items()}
  paths = [p for p in find_audio(base) if p.count('/') == 1]
  words = sorted({p.split('/')[0] for p in paths} - {NOISE, SILENCE, UNKNOWN})
  if classes not in (None, 12, len(words)):
    raise InputError(
      f'speech_commands with classes={classes}: {root} has {len(words)} words; use classes=12, '
      f'{len(words)}, or none.'
    )
  _check_version(root, words, version)
  split = {p: next((s for s, known in lists.items() if p in known), 'train') for p in paths}
  spoken = [p for p in paths if p.split('/')[0] in words]
  noise = [p for p in paths if p.startswith(f'{NOISE}/')]
  if classes == 12:
    return _twelve(name, root, spoken, noise, split)
  rows = [_Row(p, p, p.split('/')[0], split[p]) for p in spoken]
  rows += [_Row(p, p, NOISE, '') for p in noise]
  return _source(name, root, rows, tuple(words))


def twelve(root: str) -> Source:
  """`speech_commands` version 2 with the 12 classes."""
  return speech_commands(root, classes=12, version=2, name='speech_commands_12')


def version_2(root: str) -> Source:
  """`speech_commands` version 2: 35 words, 105,829 clips, of which 9981 valid and 11,005 test."""
  return speech_commands(root, version=2, name='speech_commands_v2')


def version_1(root: str) -> Source:
  """`speech_commands` version 1: 30 words, 64,721 clips, of which 6798 valid and 6835 test."""
  return speech_commands(root, version=1, name='speech_commands_v1')


def version_1_twelve(root: str) -> Source:
  """`speech_commands` version 1 with the 12 classes."""
  return speech_commands(root, classes=12, version=1, name='speech_commands_v1_12')


def _check_version(root: str, words: list[str], version: int | None) -> None:
  """Raises InputError if the words are of another version; a small subset may be of either."""
  if version not in (None, *_WORDS):
    raise InputError(f'speech_commands has the versions 1 and 2; got version={version}.')
  added = sorted(set(words) & set(ADDED))
  if version == 1 and added:
    raise InputError(f'{root} is version 0.02 of Speech Commands: it has the word {added[0]!r}.')
  if version == 2 and not added and len(words) >= _WORDS[1]:
    raise InputError(f'{root} is version 0.01 of Speech Commands: it lacks {", ".join(ADDED)}.')


_LISTS = {'valid': 'validation_list.txt', 'test': 'testing_list.txt'}


def _listed(path: pathlib.Path) -> set[str]:
  if not path.is_file():
    raise InputError(f'Speech Commands lacks {path}, the list of that split.')
  return {name for _, line in tables.lines(path) for name in line.split()}


def _source(name: str, root: str, rows: list[_Row], classes: tuple[str, ...]) -> Source:
  words = [r.path.split('/')[0] for r in rows]
  names = [r.path.split('/')[1] for r in rows]
  columns: dict[str, list[Value]] = {
    'split': [r.split for r in rows],
    'label': [r.label for r in rows],
    'word': list(words),
    'speaker': [n.split('_nohash_')[0] if '_nohash_' in n else '' for n in names],
  }
  locate = Files(root, [r.path for r in rows], [r.start for r in rows], [r.seconds for r in rows])
  ids = [r.id for r in rows]
  return Source(Table(name, ids, columns, locate, label_sets={'label': classes}))


def _twelve(
  name: str, root: str, spoken: list[str], noise: list[str], split: dict[str, str]
) -> Source:
  """The 12-class task: commands, some unknown words, and silence cut from background noise."""
  if not noise:
    raise InputError(f'Speech Commands in {root} lacks {NOISE}/, the source of {SILENCE}.')
  rows, spots = [], _spots(root, noise)
  for part in SPLITS:
    members = [p for p in spoken if split[p] == part]
    commands = [p for p in members if p.split('/')[0] in COMMANDS]
    others = sorted((p for p in members if p.split('/')[0] not in COMMANDS), key=_hash)
    extra = round(EXTRA_FRACTION * len(commands)) or min(1, len(commands))
    rows += [_Row(p, p, p.split('/')[0], part) for p in commands]
    rows += [_Row(p, p, UNKNOWN, part) for p in sorted(others[:extra])]
    for k in range(extra):
      path, start = spots[part][k % len(spots[part])]
      rows.append(_Row(f'{path}@{start:g}#{part}{k}', path, SILENCE, part, start, 1.0))
  return _source(name, root, rows, (*sorted(COMMANDS), SILENCE, UNKNOWN))


def _spots(root: str, noise: list[str]) -> dict[str, list[tuple[str, float]]]:
  """(file, offset) of every second of noise, assigned to train, valid and test by 3 : 1 : 1."""
  spots = [
    (path, float(second))
    for path in noise
    for second in range(int(duration(Example(path, {}, path=f'{root}/{path}'))))
  ]
  spots.sort(key=lambda spot: _hash(f'{spot[0]}@{spot[1]:g}'))
  if len(spots) < 5:
    raise InputError(f'{root}/{NOISE} holds {len(spots)} s of noise; at least 5 s are needed.')
  fifth = len(spots) // 5
  return {'test': spots[:fifth], 'valid': spots[fifth : 2 * fifth], 'train': spots[2 * fifth :]}


def _hash(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()
