"""Discrete units of clips on disk: the cluster index of every frame, by clip id.

A folder holds `codes.npy` (uint8, or uint16 above 256 clusters, all clips concatenated),
`offsets.npy` (int64 [n + 1]), `ids.txt` (one id per line) and `about.json`. Unit j of a clip covers
its samples j * hop to j * hop + window; there are no units for partial windows.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from research.audio import by_clip
from research.audio.by_clip import ByClip, check_ids
from research.errors import InputError, unknown

# Required keys of about.json.
FIGURES = ('clusters', 'sample_rate', 'hop', 'window', 'fingerprint')


@dataclasses.dataclass(frozen=True, eq=False)
class Units(ByClip):
  """The units of many clips, read from disk on demand.

  Attributes:
    about: 'clusters' k; 'sample_rate' (Hz); 'hop' and 'window' (samples); 'fingerprint', a hash of
      the weights, front-end, layer and codebook that made the units; and further metadata.
  """

  @classmethod
  def open(cls, path: str | os.PathLike) -> 'Units':
    """Opens a folder of units, or fairseq's units: a .km file beside its .tsv, or their folder.

    Raises:
      InputError: not a folder of units, or its files are inconsistent.
    """
    path = Path(path)
    if path.suffix == '.km' or not (path / 'about.json').is_file():
      from research.audio import kmeans_lines  # it writes units

      path = kmeans_lines.folder_of(path) if kmeans_lines.is_kmeans(path) else path
    made_by = 'python -m launch.label_kmeans'
    codes, offsets, ids, about = by_clip.read(path, 'codes', FIGURES, 'units', made_by)
    if codes.ndim != 1 or codes.dtype.kind not in 'iu':
      raise InputError(
        f'{path / "codes.npy"} has dtype {codes.dtype} and shape {codes.shape}: expected integers '
        'in one dimension.'
      )
    return cls(codes, offsets, ids, about, path)

  @property
  def codes(self) -> np.ndarray:
    """Units of all clips, concatenated."""
    return self.values

  @property
  def clusters(self) -> int:
    """Number of clusters, k."""
    return int(self.about['clusters'])

  @property
  def rate(self) -> float:
    """Units per second."""
    return self.about['sample_rate'] / self.about['hop']

  def frames(self, samples: int) -> int:
    """Number of units of N samples."""
    return max(0, 1 + (samples - self.about['window']) // self.about['hop'])

  def part(self, row: int, first: int, count: int) -> Int[np.ndarray, 'n']:
    """Units `first` to `first + count` of the clip in a row, int32; fewer at the end of the clip.

    Raises:
      InputError: a code is not below the number of clusters.
    """
    low = self.offsets[row] + min(first, self.count(row))
    found = np.asarray(self.codes[low : min(low + count, self.offsets[row + 1])], np.int32)
    # Checked on read: checking all codes of a large corpus on open would take minutes.
    if found.size and not 0 <= found.min() <= found.max() < self.clusters:
      raise InputError(
        f'Clip {self.ids[row]!r} of {self.path} has unit {found.max()}, but there are '
        f'{self.clusters} clusters: codes.npy is damaged; label the clips again.'
      )
    return found

  def __getitem__(self, clip: str) -> Int[np.ndarray, 'n']:
    """The units of a clip; for an unknown clip raises InputError with the nearest ids."""
    if clip not in self._rows:
      raise unknown(f'clip of {self.path}', clip, self.ids)
    row = self._rows[clip]
    return self.part(row, 0, self.count(row))


def save(
  path: str | os.PathLike,
  ids: Sequence[str],
  codes: Iterable[Integer[np.ndarray, '_']],
  about: Mapping[str, Any],
) -> None:
  """Writes a folder of units atomically; holds the codes of one clip at a time.

  Args:
    path: a folder that does not exist yet.
    ids: unique clip ids.
    codes: units of each clip.
    about: see `Units`.

  Raises:
    InputError: the folder exists, an id is not unique, or a code is not below the number of
      clusters.
  """
  check_ids(ids)
  counts = []
  with Writer(path, int(about['clusters'])) as writer:
    position = 0
    for part in codes:
      writer.put(position, np.asarray(part))
      counts.append(len(part))
      position += len(part)
    writer.finish(ids, np.array(counts, np.int64), about)


class Writer:
  """Writes a folder of units, codes in any order. Codes are not held in memory.

  A context manager: the folder appears when `finish` is called; otherwise nothing is left.

  Args:
    path: a folder that does not exist yet.
    clusters: number of clusters, k.

  Raises:
    InputError: the folder exists, or there are too many clusters.
  """

  def __init__(self, path: str | os.PathLike, clusters: int):
    self._path = Path(path)
    if self._path.exists():
      raise InputError(f'{path} exists already; give another folder.')
    if clusters > 2**16:
      raise InputError(f'There are {clusters} clusters; units are stored for {2**16} at most.')
    self._clusters = clusters
    self._kind = np.dtype(np.uint8 if clusters <= 2**8 else np.uint16)
    self._partial = self._path.with_name(f'{self._path.name}.partial')
    self._end = 0

  def __enter__(self) -> 'Writer':
    shutil.rmtree(self._partial, ignore_errors=True)
    self._partial.mkdir(parents=True)
    # Not a memory map: on a full disk that kills the process, but this raises OSError.
    self._file = open(self._partial / 'codes.npy', 'wb')
    self._write_header(0)
    self._first = self._file.tell()
    return self

  def __exit__(self, *error: object) -> None:
    with contextlib.suppress(OSError):  # the folder is dropped
      self._file.close()
    shutil.rmtree(self._partial, ignore_errors=True)

  def _write_header(self, count: int) -> None:
    shape = {'descr': np.lib.format.dtype_to_descr(self._kind), 'fortran_order': False}
    np.lib.format.write_array_header_1_0(self._file, {**shape, 'shape': (count,)})

  def put(self, position: int, codes: Integer[np.ndarray, 'n']) -> None:
    """Writes codes at index `position` of the concatenated codes.

    Raises:
      InputError: a code is not below the number of clusters.
    """
    if not len(codes):
      return
    if not 0 <= codes.min() <= codes.max() < self._clusters:
      raise InputError(
        f'Units range from {codes.min()} to {codes.max()}, but there are {self._clusters} clusters.'
      )
    self._file.seek(self._first + position * self._kind.itemsize)
    self._file.write(codes.astype(self._kind).tobytes())
    self._end = max(self._end, position + len(codes))

  def finish(
    self, ids: Sequence[str], counts: Int[np.ndarray, 'clips'], about: Mapping[str, Any]
  ) -> None:
    """Completes the folder.

    Args:
      ids: unique clip ids.
      counts: number of units of each clip, in the order of the codes.
      about: see `Units`.

    Raises:
      InputError: an id is not unique, or ids and counts differ in length.
    """
    check_ids(ids)
    if len(counts) != len(ids):
      raise InputError(f'There are {len(ids)} ids, but units of {len(counts)} clips.')
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    if self._end != offsets[-1]:
      raise ValueError(f'counts add up to {offsets[-1]} units, but {self._end} were written.')
    self._file.seek(0)
    self._write_header(self._end)
    # numpy pads the header, so that its length does not depend on the shape.
    assert self._file.tell() == self._first
    self._file.close()
    np.save(self._partial / 'offsets.npy', offsets)
    by_clip.write_ids(self._partial, ids)
    text = json.dumps(dict(about), indent=1)
    (self._partial / 'about.json').write_text(text, encoding='utf-8')
    os.replace(self._partial, self._path)
