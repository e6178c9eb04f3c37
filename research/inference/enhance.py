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


def references(source: Source, given: str | os.PathLike) -> list[str]:
  """The path of the clean recording of every clip.

  Args:
    source: noisy recordings.
    given: a folder, or a column of paths relative to that of the source.

  Raises:
    InputError: neither, or a clip without one.
  """
  folder = Path(given).expanduser()
  if folder.is_dir():
    known = {stem(path): str(folder / path) for path in find_audio(folder)}
    return [_known(source, i, known, folder) for i in range(len(source))]
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


def _known(source: Source, i: int, known: Mapping[str, str], folder: Path) -> str:
  name = stem(source.id(i))
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

  def __call__(self, row: int, path: str | os.PathLike) -> Row:
    """{'snr': dB, 'scores': {system: {metric: value}}} of the file made of a recording.

    Raises:
      InputError: lengths differ, or it cannot be scored.
    """
    clean = self._read(Example(self.paths[row], {}, path=self.paths[row]))
    noisy = self._read(self.source[row])
    systems: dict[str, np.ndarray] = {
      'noisy': noisy,
      **{name: method(noisy, self.rate)[0] for name, method in self.methods.items()},
      'enhanced': self._read(Example(str(path), {}, path=str(path))),
    }
    longest = max(abs(len(x) - len(clean)) for x in systems.values())
    if longest > TOLERANCE * self.rate:
      raise InputError(
        f'It has {len(noisy) / self.rate:.2f} s, and its clean recording, {self.paths[row]}, '
        f'{len(clean) / self.rate:.2f} s.'
      )
    n = min(len(clean), *map(len, systems.values()))
    ratio = enhancement.snr(noisy[:n], clean[:n])
    found = {
      name: enhancement.scores(x[:n], clean[:n], self.rate, self.metrics)
      for name, x in systems.items()
    }
    rounded = {k: {m: round(v, 4) for m, v in each.items()} for k, each in found.items()}
    return {'snr': round(ratio, 2), 'scores': rounded}

  def _read(self, example: Example) -> Float[np.ndarray, ' t']:
    try:
      return decode(example, sample_rate=self.rate)
    except AudioError as error:
      raise InputError(str(error)) from None


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Means of scores: a row for every system and signal-to-noise ratio, and 'all' of a system.

  Args:
    rows: of a job with a `Judge`; those without scores do not count.
  """
  scored = [row for row in rows if 'scores' in row]
  groups: dict[Any, list[Row]] = {}
  for name, key in (('ratio', _exact), ('step', _stepped)):
    groups = {}
    for row in scored:
      groups.setdefault(key(row['snr']), []).append(row)
    if len(groups) <= MAX_RATIOS or name == 'step':
      break
  order = [*((ratio, groups[ratio]) for ratio in sorted(groups)), ('all', scored)]
  found = []
  for ratio, members in order:
    for system in members[0]['scores'] if members else ():
      each = [row['scores'][system] for row in members]
      means = {m: round(float(np.mean([x[m] for x in each])), 4) for m in each[0]}
      found.append({'snr': ratio, 'system': system, 'files': len(members), **means})
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
