"""SUPERB's mixtures: diarization, enhancement, separation."""

import os
import pathlib
import random

from absl import logging

from research.audio.clips import Source
from research.audio.datasets.superb.found import Found, folder_of, utterances
from research.audio.datasets.superb.table import SPLITS
from research.audio.example import Value
from research.audio.lines import lines
from research.audio.manifests import kaldi
from research.errors import InputError

# Size and seed of the validation set of separation (separation_stft/scripts/LibriMix/subsample.py).
DEV, SEED = 1000, 7
# Speakers of VoiceBank's training set that validate (enhancement_stft/scripts/Voicebank).
VALID_SPEAKERS = ('p226', 'p287')
_VOICEBANK = {'train': 'trainset_28spk_wav', 'valid': 'trainset_28spk_wav', 'test': 'testset_wav'}


def superb_sd(root: str, audio: str | None = None) -> Source:
  """Diarization: folders of Kaldi's files (s3prl/downstream/diarization), Libri2Mix in SUPERB.

  Columns: split, turns (a list of 'SPEAKER START END' in seconds, for the field `activity`),
  speakers (a list of those who speak). Ids are those of the recordings. Training takes chunks of
  2000 frames: cut_seconds=40 at a frame shift of 20 ms.

  Args:
    root: the folder of train/, dev/ and test/.
    audio: folder of relative paths in wav.scp; by default that of each list.

  Raises:
    InputError: a list is missing, or one names what another lacks.
  """
  found = Found('superb_sd', pathlib.Path(root))
  for split in SPLITS:
    folder = folder_of(found.base, split)
    if folder is None:
      logging.warning('superb_sd: %s has no folder of %r.', found.base, split)
      continue
    for name in ('wav.scp', 'segments', 'utt2spk', 'reco2dur'):
      if not (folder / name).is_file():
        raise found.lacks(folder / name, f'a list of {split!r}')
    turns = _turns(folder)
    seconds = kaldi.table(folder / 'reco2dur')
    for name, path in kaldi.recordings(folder / 'wav.scp', pathlib.Path(audio or folder)).items():
      if name not in seconds:
        raise InputError(f'{folder / "reco2dur"} has no recording {name!r}, which wav.scp lists.')
      own = turns.pop(name, [])
      columns: dict[str, Value] = {
        'split': split,
        'turns': [' '.join(turn) for turn in own],
        'speakers': sorted({turn[0] for turn in own}),
      }
      found.add(name, path, columns, seconds=_number(seconds[name], folder / 'reco2dur'))
    if turns:
      first = next(iter(turns))
      raise InputError(f'{folder / "segments"}: wav.scp has no recording {first!r}.')
  return found.source()


def _turns(folder: pathlib.Path) -> dict[str, list[tuple[str, str, str]]]:
  """Recording -> (speaker, start, end), as they are written."""
  speakers = kaldi.table(folder / 'utt2spk')
  made: dict[str, list[tuple[str, str, str]]] = {}
  for number, text in lines(folder / 'segments'):
    fields, where = text.split(), f'{folder / "segments"}, line {number}'
    if not fields:
      continue
    if len(fields) != 4:
      raise InputError(f'{where}: {len(fields)} fields; expected utterance recording start end.')
    if fields[0] not in speakers:
      raise InputError(f'{where}: {folder / "utt2spk"} has no utterance {fields[0]!r}.')
    if not _number(fields[2], where) <= _number(fields[3], where):
      raise InputError(f'{where}: the segment ends before it begins.')
    made.setdefault(fields[1], []).append((speakers[fields[0]], fields[2], fields[3]))
  return made


def _number(text: str, where: object) -> float:
  try:
    number = float(text)
  except ValueError:
    number = -1.0
  if not 0 <= number < float('inf'):
    raise InputError(f'{where}: {text!r} is no number of seconds from 0.')
  return number


def superb_se(root: str, audio: str | None = None) -> Source:
  """Enhancement: noisy speech with its clean recording, VoiceBank-DEMAND in SUPERB.

  Columns: split, clean (path of the clean recording, for the field `recording`), speaker. Of
  VoiceBank's own folders, speakers p226 and p287 are `valid`.

  Args:
    root: folders of lists, or VoiceBank's folders.
    audio: folder of relative paths in wav.scp; by default that of each list.

  Raises:
    InputError: no folder of either form, or an utterance without its clean recording.
  """
  found = Found('superb_se', pathlib.Path(root))
  for split in SPLITS:
    folders = _voicebank(found.base, split)
    if folders is None:
      logging.warning('superb_se: %s has no folder of %r.', found.base, split)
      continue
    noisy, clean = (utterances(folder, audio) for folder in folders)
    for name in sorted(noisy):
      speaker = name.split('_')[0].split('-')[0]
      own = speaker in VALID_SPEAKERS
      if _is_voicebank(folders[0]) and split != 'test' and own != (split == 'valid'):
        continue
      if name not in clean:
        raise InputError(f'superb_se: {folders[1]} has no utterance {name!r}, which is in noise.')
      columns = {'split': split, 'speaker': speaker}
      found.add(name, noisy[name], {**columns}, others={'clean': clean[name]})
  return found.source(paths=('clean',))


def _voicebank(base: pathlib.Path, split: str) -> tuple[pathlib.Path, pathlib.Path] | None:
  """The folders of noisy and of clean speech."""
  folder = folder_of(base, split)
  if folder is not None and (folder / 'noisy').is_dir():
    return folder / 'noisy', folder / 'clean'
  for ending in ('_16k', ''):
    noisy, clean = (base / f'{kind}_{_VOICEBANK[split]}{ending}' for kind in ('noisy', 'clean'))
    if noisy.is_dir():
      return noisy, clean
  return None


def _is_voicebank(folder: pathlib.Path) -> bool:
  return folder.name.startswith('noisy_')


def superb_ss(
  root: str, mixture: str = 'mix_clean', dev: int = DEV, audio: str | None = None
) -> Source:
  """Separation: two-speaker mixtures with their sources, Libri2Mix (16 kHz, min) in SUPERB.

  Columns: split, s1 and s2 (paths of the sources, for the field `recording`). Of dev/ the 1000 that
  s3prl draws are `valid`; a folder dev_1000/ is taken as it is.

  Args:
    root: folders of splits, with lists (s3prl) or audio (LibriMix).
    mixture: 'mix_clean', 'mix_both' or another folder beside s1 and s2.
    dev: maximum number of clips of dev/; 0 for all.
    audio: folder of relative paths in wav.scp; by default that of each list.

  Raises:
    InputError: no such mixtures, or one without its sources.
  """
  found = Found('superb_ss', pathlib.Path(root))
  for split in SPLITS:
    drawn = found.base / 'dev_1000'
    folder = drawn if split == 'valid' and drawn.is_dir() else folder_of(found.base, split)
    if folder is None:
      logging.warning('superb_ss: %s has no folder of %r.', found.base, split)
      continue
    for kind in (mixture, 's1', 's2'):
      if not (folder / kind).is_dir():
        raise found.lacks(folder / kind, f'recordings of {split!r}')
    mixed, first, second = (utterances(folder / kind, audio) for kind in (mixture, 's1', 's2'))
    names = sorted(mixed)
    if split == 'valid' and folder != drawn and dev:
      names = subset(names, dev)
    for name in names:
      for kind, known in (('s1', first), ('s2', second)):
        if name not in known:
          raise InputError(f'superb_ss: {folder / kind} has no utterance {name!r} of {mixture}.')
      others = {'s1': first[name], 's2': second[name]}
      found.add(os.path.basename(name), mixed[name], {'split': split}, others=others)
  return found.source(paths=('s1', 's2'))


def subset(names: list[str], count: int = DEV) -> list[str]:
  """The clips of validation: the first of the sorted names in the order of Python's random with
  seed 7, sorted again."""
  order = sorted(names)
  random.Random(SEED).shuffle(order)
  return sorted(order[:count])
