"""Enhanced recordings against clean ones: PESQ, STOI and SI-SDR of what was noisy, of what was made
of it, and of classic methods, by signal-to-noise ratio.

The clean recording of each is in a folder, under the same name with any ending, or in a column of
the list or data set that the recordings come from.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from research.audio.clips import Source
from research.audio.decode import AudioError, decode
from research.audio.example import Example
from research.audio.folder import EXTENSIONS, Inside, find_audio
from research.errors import InputError
from research.inference import classic
from research.inference.clip_rows import Row
from research.inference.signal_files import stem
from research.metrics import enhancement

# Mixtures differ from their signal-to-noise ratio by the rounding of samples.
DECIMALS = 1
# More ratios than these are summed up in steps of 5 dB.
MAX_RATIOS = 12
STEP = 5.0
# Seconds by which an enhanced recording and its reference may differ.
TOLERANCE = 0.05


def references(source: Source, given: str | os.PathLike, end: str = '') -> list[str]:
  """The path of the clean recording of every clip.

  Args:
    source: noisy recordings.
    given: a folder, or a column of paths relative to that of the source.
    end: put behind the names of clips, as the names of the folder have it.

  Raises:
    InputError: neither, or a clip without one.
  """
  folder = Path(given).expanduser()
  if folder.is_dir():
    known = {stem(path): str(folder / path) for path in find_audio(folder)}
    return [_known(source, i, known, folder, end) for i in range(len(source))]
  if str(given) not in source.column_names:
    raise InputError(
      f'--reference={given} is neither a folder nor a column of {source.name!r}, which has '
      f'{", ".join(source.column_names) or "none"}.'
    )
  root = source.table.root
  if not root:
    raise InputError(f'Data set {source.name!r} has no folder: give --reference a folder.')
  inside, found = Inside(Path(root)), []
  for i, value in enumerate(source.column(str(given))):
    where = f'Clip {source.id(i)!r} of {source.name!r}'
    if not isinstance(value, str) or not value:
      raise InputError(f'{where} has no {given!r}: leave out clips without one.')
    found.append(os.path.join(root, inside(value, where)))
  return found


def _known(source: Source, i: int, known: Mapping[str, str], folder: Path, end: str) -> str:
  name = f'{stem(source.id(i))}{end}'
  for each in (name, os.path.basename(name)):
    if each in known:
      return known[each]
  raise InputError(
    f'{folder} has no clean recording of {source.id(i)!r}: one of {name} with any ending '
    f'({", ".join(sorted(EXTENSIONS)[:4])}, …) is expected.'
  )


class Judge:
  """Scores of an enhanced recording, of the noisy one, and of classic methods."""

  def __init__(
    self,
    source: Source,
    given: str | os.PathLike,
    sample_rate: int,
    *,
    metrics: Sequence[str] = enhancement.METRICS,
    compare: Sequence[str] = ('wiener',),
  ):
    """Args:
      source: noisy recordings.
      given: see `references`.
      sample_rate: at which all are compared, Hz.
      metrics: of `enhancement.METRICS`.
      compare: classic methods, by name.

    Raises:
      InputError: a recording without a reference, or the library of a metric is missing.
    """
    self.source, self.paths, self.rate = source, references(source, given), sample_rate
    self.metrics = tuple(metrics)
    enhancement.check(self.metrics, sample_rate)
    self.methods = {name: classic.separator(name, sample_rate) for name in compare}

  def about(self) -> dict[str, Any]:
    """What scores depend on, JSON-able."""
    return {'metrics': list(self.metrics), 'compare': list(self.methods), 'clean': self.paths}

  def __call__(self, row: int, files: Sequence[Path]) -> Row:
    """{'snr': dB, 'scores': {system: {metric: value}}} of the file made of a recording.

    Raises:
      InputError: lengths differ, or it cannot be scored.
    """
    clean, noisy = read(self.paths[row], self.rate), read(self.source[row], self.rate)
    systems: dict[str, np.ndarray] = {
      'noisy': noisy,
      **{name: method(noisy, self.rate)[0] for name, method in self.methods.items()},
      'enhanced': read(files[0], self.rate),
    }
    n = common_length([clean, *systems.values()], self.rate, [self.paths[row]])
    ratio = enhancement.snr(noisy[:n], clean[:n])
    found = {
      name: enhancement.scores(x[:n], clean[:n], self.rate, self.metrics)
      for name, x in systems.items()
    }
    return {'snr': round(ratio, 2), 'scores': {k: rounded(each) for k, each in found.items()}}


def read(recording: Example | str | os.PathLike, rate: int) -> Float[np.ndarray, ' t']:
  """The mean of the channels of a recording at a rate; raises InputError where it cannot be
  read."""
  if not isinstance(recording, Example):
    recording = Example(str(recording), {}, path=str(recording))
  try:
    return decode(recording, sample_rate=rate)
  except AudioError as error:
    raise InputError(str(error)) from None


def common_length(signals: Sequence[np.ndarray], rate: int, names: Sequence[str]) -> int:
  """Samples that all signals have: the first ones are clean recordings of these names, the next one
  is what they are held against.

  Raises:
    InputError: a length differs from that by more than TOLERANCE.
  """
  heard = len(signals[len(names)])
  for i, signal in enumerate(signals):
    if abs(len(signal) - heard) > TOLERANCE * rate:
      what = f'its clean recording, {names[i]}' if i < len(names) else 'what was made of it'
      raise InputError(f'It has {heard / rate:.2f} s, and {what}, {len(signal) / rate:.2f} s.')
  return min(map(len, signals))


def rounded(scores: Mapping[str, float]) -> dict[str, float]:
  """Scores as files have them."""
  return {name: round(float(value), 4) for name, value in scores.items()}


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Means of scores: a row for every system and signal-to-noise ratio, and 'all' of a system; for
  every system alone where rows have no ratio.

  Args:
    rows: of a job with a judge; those without scores do not count.
  """
  scored = [row for row in rows if 'scores' in row]
  if not any('snr' in row for row in scored):
    return _means(scored)
  groups: dict[Any, list[Row]] = {}
  for name, key in (('ratio', _exact), ('step', _stepped)):
    groups = {}
    for row in scored:
      groups.setdefault(key(row['snr']), []).append(row)
    if len(groups) <= MAX_RATIOS or name == 'step':
      break
  order = [*((ratio, groups[ratio]) for ratio in sorted(groups)), ('all', scored)]
  return [{'snr': ratio, **each} for ratio, members in order for each in _means(members)]


def _means(rows: Sequence[Row]) -> list[dict[str, Any]]:
  found = []
  for system in rows[0]['scores'] if rows else ():
    each = [row['scores'][system] for row in rows]
    means = {m: np.mean([x[m] for x in each]) for m in each[0]}
    found.append({'system': system, 'files': len(rows), **rounded(means)})
  return found


def _exact(ratio: float) -> float:
  return round(ratio, DECIMALS) + 0.0


def _stepped(ratio: float) -> float:
  return float(np.round(ratio / STEP) * STEP)


def table(found: Sequence[Mapping[str, Any]]) -> str:
  """Lines of `summary`, aligned."""
  if not found:
    return ''
  names = list(found[0])
  lines = [names] + [[_text(row[name]) for name in names] for row in found]
  widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
  return '\n'.join('  '.join(map(str.rjust, line, widths)) for line in lines)


def _text(value: Any) -> str:
  return f'{value:.3f}' if isinstance(value, float) else str(value)
