"""A codebook: centroids of frames, with everything that is needed to use them.

A folder holds `codebook.npy` (float32 [clusters, features]) and `codebook.json`: which features,
layer and dtype, hashes of weights and data, the grid of the frames, how it was fitted. Centroids of
others (`research.units.centroids`) say nothing of that.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from research.errors import InputError
from research.inference.embedder import digest
from research.units.centroids import read_centroids
from research.units.frames import Frames

# Units are stored in 16 bits.
MOST_CLUSTERS = 2**16


@dataclasses.dataclass(frozen=True, eq=False)
class Codebook:
  """Centroids and what is known of them.

  Attributes:
    centroids: [k, d].
    about: of `Frames.about`, and how they were fitted; {} for those of others.
  """

  centroids: Float[np.ndarray, 'k d']
  about: Mapping[str, Any]

  @classmethod
  def open(cls, path: str | os.PathLike) -> 'Codebook':
    """The codebook of a folder that `save` wrote, or the centroids of a file.

    Raises:
      InputError: nothing there, or not readable; see `research.units.centroids`.
    """
    path = Path(path)
    if path.is_dir() and not (path / 'codebook.npy').is_file():
      inside = path / 'codebook'  # what launch.label_kmeans writes
      if not (inside / 'codebook.npy').is_file():
        raise InputError(f'{path} holds no codebook: codebook.npy is missing.')
      path = inside
    if not path.is_dir():
      return cls(read_centroids(path), {})
    try:
      about = json.loads((path / 'codebook.json').read_text(encoding='utf-8'))
      if not isinstance(about, dict):
        raise ValueError('no object')
    except FileNotFoundError:
      about = {}
    except (OSError, ValueError) as error:
      raise InputError(f'{path / "codebook.json"} cannot be read ({error}).') from None
    found = cls(read_centroids(path / 'codebook.npy'), about)
    if about.get('centroids', found.hash) != found.hash:
      raise InputError(
        f'The centroids in {path} are not those that codebook.json speaks of: one of the two files '
        'was replaced.'
      )
    return found

  def save(self, path: str | os.PathLike) -> None:
    """Writes the folder, whole or not at all; one that is there is replaced."""
    path = Path(path)
    partial = path.with_name(f'{path.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    np.save(partial / 'codebook.npy', self.centroids)
    about = {**self.about, 'clusters': self.clusters, 'centroids': self.hash}
    (partial / 'codebook.json').write_text(json.dumps(about, indent=1), encoding='utf-8')
    # Moved, not removed: a kill in the middle would leave half a codebook under its name.
    old = path.with_name(f'{path.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
      os.replace(path, old)
    os.replace(partial, path)
    shutil.rmtree(old, ignore_errors=True)

  @property
  def clusters(self) -> int:
    """k."""
    return len(self.centroids)

  @property
  def hash(self) -> str:
    """Of the centroids alone."""
    array = np.ascontiguousarray(self.centroids, '<f4')
    return hashlib.sha256(f'{array.shape}'.encode() + array.tobytes()).hexdigest()[:16]

  def fingerprint(self, frames: Frames) -> str:
    """Hash of weights, front-end, layer and centroids: equal for equal units."""
    return digest(frames.fingerprint(), self.hash)

  def check(self, frames: Frames, width: int) -> None:
    """Checks that the codebook was made of such frames.

    Raises:
      InputError: other features, another layer, dtype, weights or width: both values are named.
    """
    about, wanted = self.about, frames.about()
    for name, what in (
      ('features', 'features'),
      ('layer', 'layer'),
      ('dtype', 'dtype'),
      ('frontend', 'front-end'),
      ('features_fingerprint', 'weights' if 'dtype' in about else 'weights or dtype'),
    ):
      if name in about and about[name] != wanted[name]:
        raise InputError(
          f'The codebook was made of other frames: its {what} is {about[name]!r}, not '
          f'{wanted[name]!r}.'
        )
    if self.centroids.shape[1] != width:
      raise InputError(
        f'The codebook has centroids of {self.centroids.shape[1]} features, but '
        f'{frames.embedder.name} gives {width} a frame: it was made of other features.'
      )
    if self.clusters > MOST_CLUSTERS:
      raise InputError(f'{self.clusters} clusters are more than the {MOST_CLUSTERS} of units.')
