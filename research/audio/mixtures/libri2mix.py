"""Libri2Mix (arXiv 2005.11262) from its published metadata: the same samples as the scripts of
github.com/JorisCos/LibriMix write, and the lists of SUPERB's separation and diarization.

A row of libri2mix_SUBSET.csv names two utterances of LibriSpeech, a recording of WHAM noise and
their gains; the gains already keep mixtures from clipping. Sources are multiplied by their gains,
cut to the shorter ('min') or filled to the longer one ('max'), and added in float32.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.signal
import soundfile
from jaxtyping import Float

from research.audio import lines, tables
from research.audio.folder import Inside
from research.audio.mixtures import lists, signals
from research.audio.mixtures.writing import Item, Made, Recipe
from research.errors import InputError, unknown

# Folder of a subset -> its metadata and its file of turns (github.com/s3prl/LibriMix).
SUBSETS = {
  'train-100': ('libri2mix_train-clean-100.csv', 'train_clean_100.rttm'),
  'train-360': ('libri2mix_train-clean-360.csv', 'train_clean_360.rttm'),
  'dev': ('libri2mix_dev-clean.csv', 'dev_clean.rttm'),
  'test': ('libri2mix_test-clean.csv', 'test_clean.rttm'),
}
MODES = ('min', 'max')
TYPES = ('mix_clean', 'mix_both', 'mix_single')
# Of LibriSpeech and WHAM, Hz.
RATE = 16000
_COLUMNS = ('mixture_ID', 'source_1_path', 'source_1_gain', 'source_2_path', 'source_2_gain',
            'noise_path', 'noise_gain')  # fmt: skip


def libri2mix(
  source: str,
  metadata: str,
  noise: str | None = None,
  subsets: Sequence[str] = ('train-100', 'dev', 'test'),
  mode: str = 'min',
  types: Sequence[str] = ('mix_clean',),
  rttm: str | None = None,
  sample_rate: int = RATE,
) -> Recipe:
  """wav16k/MODE/SUBSET/{s1,s2,mix_clean,mix_both,mix_single,noise}/ID with wav.scp. The folder
  wav16k/min is read by `superb_ss`, and wav16k/max by `superb_sd`: with mode='max' segments,
  utt2spk, reco2dur and rttm are written for mix_both, or for mix_clean without it.

  Args:
    source: the folder of LibriSpeech.
    metadata: folder of the csv files, LibriMix's metadata/Libri2Mix.
    noise: the folder wham_noise; needed for mix_both and mix_single.
    subsets: of SUBSETS.
    mode: 'min' or 'max'.
    types: of TYPES. SUPERB separates mix_clean of 'min' and diarizes mix_both of 'max'.
    rttm: folder of turns by forced alignment, s3prl/LibriMix's metadata/LibriSpeech; None finds
      turns by the energy of the sources.
    sample_rate: 16000 or 8000.

  Raises:
    InputError: unknown settings, or recordings that are missing.
  """
  for kind, given, known in (('subset', subsets, SUBSETS), ('type', types, TYPES)):
    for name in given:
      if name not in known:
        raise unknown(f'{kind} of Libri2Mix', name, known)
  if mode not in MODES:
    raise unknown('mode of Libri2Mix', mode, MODES)
  if sample_rate not in (16000, 8000):
    raise InputError(f'Libri2Mix has 16000 or 8000 Hz, not {sample_rate}.')
  noisy = any(kind != 'mix_clean' for kind in types)
  if noisy and noise is None:
    raise InputError(f'{" and ".join(types)} need --noise, the folder wham_noise of WHAM.')
  roots = {'source': source, 'noise': noise if noisy else None}
  items = [item for name in subsets for item in _items(pathlib.Path(metadata), name, roots)]
  _check_files(items, roots)
  turns = None if rttm is None or mode == 'min' else _turns(pathlib.Path(rttm), subsets)

  def make(item: Item) -> Made:
    return _mixture(item, roots, mode, types, turns, sample_rate)

  settings = {
    'subsets': list(subsets), 'mode': mode, 'types': list(types), 'sample_rate': sample_rate,
    'turns': 'alignment' if turns is not None else 'energy',
  }  # fmt: skip
  top = f'wav{sample_rate // 1000}k/{mode}'

  def write_lists(facts: list[dict[str, Any]], suffix: str) -> dict[str, str]:
    return _lists(facts, suffix, top, types, mode)

  return Recipe('libri2mix', settings, items, make, write_lists, sample_rate)


def _items(folder: pathlib.Path, subset: str, roots: dict[str, str | None]) -> list[Item]:
  file = folder / SUBSETS[subset][0]
  if not file.is_file():
    raise InputError(
      f"{file} does not exist; expected the metadata of Libri2Mix, LibriMix's metadata/Libri2Mix."
    )
  checks = {k: Inside(pathlib.Path(root)) for k, root in roots.items() if root is not None}
  items = []
  for number, row in tables.rows(file):
    where = f'{file}, line {number}'
    for name in _COLUMNS:
      if name not in row:
        raise InputError(f'{where}: no column {name!r}.')
    try:
      gains = [float(row[name]) for name in _COLUMNS if name.endswith('_gain')]
    except ValueError:
      raise InputError(f'{where}: a gain is no number.') from None
    id = row['mixture_ID']
    if id != os.path.basename(id) or len(id.split('_')) != 2:
      raise InputError(f'{where}: the mixture {id!r} is not named by its two utterances.')
    item: Item = {
      'id': id,
      'subset': subset,
      'paths': [checks['source'](row[f'source_{k}_path'], where) for k in (1, 2)],
      'gains': gains[:2],
    }
    if 'noise' in checks:
      item |= {'noise': checks['noise'](row['noise_path'], where), 'noise_gain': gains[2]}
    items.append(item)
  return items


def _check_files(items: Sequence[Item], roots: dict[str, str | None]) -> None:
  """Raises InputError if recordings are missing."""
  wanted = {os.path.join(str(roots['source']), p): i['subset'] for i in items for p in i['paths']}
  if roots['noise'] is not None:
    wanted |= {os.path.join(roots['noise'], i['noise']): i['subset'] for i in items}
  missing = [path for path in wanted if not os.path.exists(path)]
  if missing:
    made = any(mark in os.path.basename(missing[0]) for mark in ('sp08', 'sp12'))
    hint = ' Noise at other speeds is made by LibriMix, scripts/augment_train_noise.py.'
    names = ', '.join(sorted({wanted[path] for path in missing}))
    raise InputError(
      f'{len(missing)} of {len(wanted)} recordings are missing for {names}, the first is '
      f'{missing[0]}: download them, or give fewer subsets.{hint if made else ""}'
    )


def _turns(folder: pathlib.Path, subsets: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
  """Utterance -> (start, end) of its stretches of speech, of the .rttm of LibriSpeech, where a
  recording is CHAPTER-NUMBER."""
  found: dict[str, list[tuple[float, float]]] = {}
  for subset in subsets:
    file = folder / SUBSETS[subset][1]
    for number, text in lines.lines(file):
      fields = text.split()
      try:
        start, length, speaker = float(fields[3]), float(fields[4]), fields[7]
      except (IndexError, ValueError):
        raise InputError(f'{file}, line {number}: not a line of RTTM, {text[:200]!r}.') from None
      found.setdefault(f'{speaker}-{fields[1]}', []).append((start, start + length))
  return found


def _mixture(
  item: Item,
  roots: dict[str, str | None],
  mode: str,
  types: Sequence[str],
  turns: dict[str, list[tuple[float, float]]] | None,
  sample_rate: int,
) -> Made:
  sources = [_read(os.path.join(str(roots['source']), path)) for path in item['paths']]
  names = item['id'].split('_')
  facts: dict[str, Any] = {'id': item['id'], 'subset': item['subset']}
  if mode == 'max':
    facts['turns'] = [
      (name.split('-')[0], start, end)
      for name, audio in zip(names, sources)
      for start, end in _active(name, audio, turns)
    ]
  scaled = [audio * np.float32(gain) for audio, gain in zip(sources, item['gains'])]
  if 'noise' in item:
    longest = max(map(len, sources))
    scaled.append(_noise(os.path.join(str(roots['noise']), item['noise']), longest))
    scaled[-1] = scaled[-1] * scaled[-1].dtype.type(item['noise_gain'])
  scaled = [scipy.signal.resample_poly(audio, sample_rate, RATE) for audio in scaled]
  length = (min if mode == 'min' else max)(map(len, scaled))
  parts = [signals.fit(audio, length) for audio in scaled]
  arrays = {'s1': parts[0], 's2': parts[1]}
  if 'noise' in item:
    arrays['noise'] = parts[2]
  summed = {'mix_clean': parts[:2], 'mix_both': parts, 'mix_single': [parts[0], parts[-1]]}
  for kind in types:
    mixed = np.zeros(length, np.float32)
    for part in summed[kind]:
      mixed += part
    arrays[kind] = mixed
  folder = f'wav{sample_rate // 1000}k/{mode}/{item["subset"]}'
  facts |= {'seconds': length / sample_rate, 'noisy': 'noise' in item}
  return {f'{folder}/{kind}/{item["id"]}': audio for kind, audio in arrays.items()}, facts


def _read(path: str, frames: int = -1) -> Float[np.ndarray, 't']:
  """The first channel of a recording, float32."""
  try:
    audio, rate = soundfile.read(path, frames=frames, dtype='float32', always_2d=True)
  except (OSError, RuntimeError) as error:
    raise InputError(f'{path} cannot be read: {error}.') from None
  if rate != RATE:
    raise InputError(f'{path} has {rate} Hz; LibriSpeech and WHAM have {RATE} Hz.')
  return audio[:, 0]


def _noise(path: str, length: int) -> np.ndarray:
  """A recording of noise, cut to a length; short ones are repeated, joined over half a second."""
  noise = _read(path, frames=length)
  if len(noise) >= length:
    return noise
  window = np.hanning(RATE + 1)
  rising, falling = window[: len(window) // 2 + 1], window[len(window) // 2 :: -1]
  joined, size = noise, len(rising)
  if len(noise) <= size:
    raise InputError(f'{path} has {len(noise)} samples; noise needs more than {size}.')
  while len(joined) < length:
    seam = joined[-size:] * falling + noise[:size] * rising
    joined = np.concatenate([joined[:-size], seam, noise[size:]])
  return joined[:length]


def _active(
  name: str, audio: np.ndarray, turns: dict[str, list[tuple[float, float]]] | None
) -> list[tuple[float, float]]:
  if turns is None:
    return [(low / RATE, high / RATE) for low, high in signals.runs(audio, RATE)]
  if name not in turns:
    raise InputError(f'The .rttm files have no turns of the utterance {name!r}.')
  return turns[name]


def _lists(
  facts: list[dict[str, Any]], suffix: str, top: str, types: Sequence[str], mode: str
) -> dict[str, str]:
  found: dict[str, str] = {}
  for subset in dict.fromkeys(f['subset'] for f in facts):
    own = [f for f in facts if f['subset'] == subset]
    kinds = ['s1', 's2', *types, *(['noise'] if own[0]['noisy'] else [])]
    for kind in kinds:
      rows = ((f['id'], f'{f["id"]}{suffix}') for f in own)
      found[f'{top}/{subset}/{kind}/wav.scp'] = lists.scp(rows)
    if mode == 'max':
      mixed = 'mix_both' if 'mix_both' in types else types[0]
      recordings = {
        f['id']: (f'{mixed}/{f["id"]}{suffix}', f['seconds'], [tuple(t) for t in f['turns']])
        for f in own
      }
      for name, text in lists.diarization(recordings).items():
        found[f'{top}/{subset}/{name}'] = text
  return found
