"""Units of fairseq's .km files (fairseq/examples/hubert/simple_kmeans): one line a clip, its units
separated by spaces, in the order of the .tsv of the same name. Read once into a folder of units in
the cache (`audio/units.py`)."""

import hashlib
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from research.audio import lines, units
from research.audio.manifests import fairseq
from research.errors import InputError
from research.jobs.cache import cache_folder

# Samples at 16 kHz: HuBERT's MFCC have a hop of 10 ms, its layers one of 20 ms.
RATE, HOPS, WINDOW = 16000, (160, 320), 400


def is_kmeans(path: pathlib.Path) -> bool:
  """Whether it is a .km file, or a folder of manifests with such."""
  return path.suffix == '.km' or (path.is_dir() and any(path.glob('*.km')))


def folder_of(path: pathlib.Path) -> pathlib.Path:
  """The folder of units made of a .km file, or of all of a folder.

  Raises:
    InputError: no .tsv beside a .km, other numbers of lines, something that is no unit, or units
      that fit the clips at neither hop.
  """
  files = [path] if path.suffix == '.km' else sorted(path.glob('*.km'))
  digest = hashlib.sha256()
  for file in (g for f in files for g in (f, f.with_suffix('.tsv'), f.with_name('dict.km.txt'))):
    if file.suffix != '.txt' and not file.is_file():
      raise InputError(f'{file} does not exist; units of .km need it, and the .tsv beside it.')
    if file.is_file():
      state = file.stat()
      digest.update(repr((str(file.absolute()), state.st_size, state.st_mtime_ns)).encode())
  made = cache_folder() / f'km-{digest.hexdigest()[:24]}'
  if not (made / 'about.json').is_file():
    _make(files, made, digest.hexdigest()[:16])
  return made


def _make(files: list[pathlib.Path], made: pathlib.Path, fingerprint: str) -> None:
  ids: list[str] = []
  codes: list[np.ndarray] = []
  ratios: list[float] = []
  rate = 0
  for file in files:
    manifest = file.with_suffix('.tsv')
    fairseq.check_count(manifest, file)
    for (name, path, samples), found in zip(fairseq.entries(manifest), _units(file)):
      rate = rate or fairseq.rate_of(path)
      ids.append(f'{manifest.stem}/{name}')
      codes.append(found)
      if len(found):
        ratios.append(samples / len(found))
  rate = rate or RATE
  # Whole windows alone give units, so a clip has some samples more than hops.
  smallest = float(np.median(ratios)) if ratios else 0.0
  hop = max((h * rate // RATE for h in HOPS if h * rate / RATE <= smallest * 1.001), default=0)
  if not hop or smallest > 1.5 * hop + 1:
    raise InputError(
      f'{files[0]} has a unit for every {smallest:.0f} samples of its clips; expected one for '
      f'every {" or ".join(str(h * rate // RATE) for h in HOPS)} samples at {rate} Hz.'
    )
  clusters = _clusters(files[0].with_name('dict.km.txt'))
  clusters = clusters or 1 + max((int(c.max()) for c in codes if len(c)), default=0)
  about = dict(
    clusters=clusters, sample_rate=rate, hop=hop, window=WINDOW * rate // RATE,
    fingerprint=fingerprint,
  )  # fmt: skip
  made.parent.mkdir(parents=True, exist_ok=True)
  own = made.with_name(f'{made.name}.{os.getpid()}')
  units.save(own, ids, codes, about)
  try:
    os.replace(own, made)
  except OSError:  # another process was faster
    if not (made / 'about.json').is_file():
      raise


def _units(file: pathlib.Path) -> Iterator[np.ndarray]:
  for line, text in lines.lines(file):
    try:
      found = np.array(text.split(), np.int64)
    except (ValueError, OverflowError):
      found = np.array([-1])
    if len(found) and not 0 <= found.min() <= found.max() < 2**16:
      raise InputError(f'{file}, line {line}: not units (numbers from 0 to 65535 with spaces).')
    yield found.astype(np.uint16)


def _clusters(dictionary: pathlib.Path) -> int:
  """Number of units of `dict.km.txt`, whose lines are `unit count`; 0 if there is none."""
  if not dictionary.is_file():
    return 0
  names = [text.split()[0] for _, text in lines.lines(dictionary) if text.split()]
  return 1 + max((int(n) for n in names if n.isdecimal()), default=-1)
