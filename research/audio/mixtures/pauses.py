"""Speech without its pauses, as SoX's `silence` removes them: VoxCeleb1 for SUPERB's verification.

s3prl reads clips through `channels 1, rate 16000, gain -3.0, silence 1 0.1 0.1% -1 0.1 0.1%`
(downstream/sv_voxceleb1/dataset.py). The level of a sample is the root mean square of the 20 ms
before it. Speech begins with 0.1 s above 0.1 % of full scale, a pause with 0.1 s at or below it.
After a pause levels are measured anew.
"""

import pathlib

import numpy as np
import soundfile
from jaxtyping import Bool, Float, Int

from research.audio.datasets.superb import speakers
from research.audio.datasets.superb.found import GAIN
from research.audio.decode import AudioError
from research.audio.folder import find_audio
from research.audio.mixtures.writing import Item, Made, Recipe
from research.errors import InputError

RATE = 16000
# Minimum length of speech and pauses in seconds, percent of full scale, windows of a second.
LASTING, THRESHOLD, WINDOWS = 0.1, 0.1, 50
_FULL = 2**31 - 1


def voxceleb1(source: str) -> Recipe:
  """dev/wav and test/wav of VoxCeleb1 without pauses, and its lists of trials; read by
  `superb_asv`. Samples are those of the files, at their own level; a clip that is one pause is left
  out.

  Args:
    source: the folder of VoxCeleb1.

  Raises:
    InputError: no dev/wav and no test/wav.
  """
  base = pathlib.Path(source)
  parts = [part for part in ('dev/wav', 'test/wav') if (base / part).is_dir()]
  if not parts:
    raise InputError(f'{base} has neither dev/wav nor test/wav; expected VoxCeleb1.')
  items: list[Item] = [
    {'path': f'{part}/{path}'} for part in parts for path in find_audio(base / part)
  ]

  def make(item: Item) -> Made:
    audio = _read(base / item['path'])
    kept = audio[speech(_quieter(audio), RATE)].astype(np.float64) / 2**31
    name = str(pathlib.PurePosixPath(item['path']).with_suffix(''))
    return ({name: kept} if len(kept) else {}), {}

  def lists(facts: list, suffix: str) -> dict[str, str]:
    del facts
    found = {}
    for name in speakers.TRIAL_LISTS:
      if (base / name).is_file():
        found[name] = (base / name).read_text(encoding='utf-8')
    return found

  return Recipe('voxceleb1', {'effect': 'silence 1 0.1 0.1% -1 0.1 0.1%'}, items, make, lists, RATE)


def _read(path: pathlib.Path) -> Int[np.ndarray, 't']:
  """The samples of a recording, of 32 bits."""
  try:
    audio, rate = soundfile.read(path, dtype='int32', always_2d=True)
  except (OSError, RuntimeError) as error:
    raise AudioError(str(path), f'It cannot be read ({error}).') from None
  if rate != RATE or audio.shape[1] != 1:
    raise AudioError(
      str(path), f'It has {audio.shape[1]} channels of {rate} Hz, not one of {RATE}.'
    )
  return audio[:, 0]


def _quieter(audio: Int[np.ndarray, 't']) -> Float[np.ndarray, 't']:
  """The samples lowered by 3 dB, whole numbers."""
  return np.rint(audio.astype(np.float64) * GAIN)


def speech(audio: Float[np.ndarray, 't'], rate: int) -> Bool[np.ndarray, 't']:
  """Which samples `silence 1 0.1 0.1% -1 0.1 0.1%` keeps.

  Args:
    audio: 32-bit samples, whole numbers.
    rate: Hz.
  """
  kept = np.zeros(len(audio), bool)
  lasting, window = round(LASTING * rate), rate // WINDOWS
  energy = np.concatenate([[0.0], np.cumsum(np.square(audio))])
  place = 0
  while place < len(audio):
    # Levels from here on: what was before does not count.
    ends = np.arange(place + 1, len(audio) + 1)
    sums = energy[ends] - energy[np.maximum(ends - window, place)]
    levels = np.floor(np.sqrt(np.maximum(sums, 0.0) / window))
    above = levels / _FULL * 100 > THRESHOLD
    begin = _first_run(above, lasting)
    if begin is None:
      break
    pause = _first_run(~above[begin + lasting :], lasting)
    if pause is None:
      kept[place + begin :] = True
      break
    kept[place + begin : place + begin + lasting + pause] = True
    place += begin + lasting + pause + lasting
  return kept


def _first_run(mask: Bool[np.ndarray, 'n'], length: int) -> int | None:
  """Where the first N true values in a row begin."""
  if len(mask) < length:
    return None
  false = np.concatenate([[0], np.cumsum(~mask)])
  found = np.flatnonzero(false[length:] == false[:-length])
  return int(found[0]) if len(found) else None
