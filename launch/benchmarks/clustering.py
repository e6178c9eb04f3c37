"""k-means of frames against scikit-learn's MiniBatchKMeans, and against fairseq's recipe with it.

Measures (1) the time and the inertia of a fit to the same rows in memory; (2) the audio per minute
of one epoch from FLAC files to centroids, compared with writing the features to disk before
clustering (examples/hubert/simple_kmeans, with our MFCC, which equal torchaudio's); and (3) the
peak memory of both, for one and for ten times the data. Each runs in its own process.
"""

import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from launch.benchmarks import timing

CLUSTERS, BATCH = 100, 10_000
ONE_EPOCH: dict[str, Any] = dict(clusters=CLUSTERS, max_epochs=1, init='k-means++', tries=3)


class _Kept:
  """A run that records its return values."""

  def __init__(self, run: Callable[[], Any]):
    self.run = run
    self.values: list[Any] = []

  def __call__(self) -> None:
    self.values.append(self.run())


def _inertia(x: np.ndarray, centroids: np.ndarray) -> float:
  total = 0.0
  for part in np.array_split(x, max(1, len(x) // 20_000)):
    squared = np.square(part).sum(axis=1)[:, None] - 2 * part @ centroids.T
    total += (squared + np.square(centroids).sum(axis=1)).min(axis=1).sum()
  return total / len(x)


def _estimator(seed: int, clusters: int, max_epochs: int, init: str, tries: int) -> Any:
  from sklearn.cluster import MiniBatchKMeans

  return MiniBatchKMeans(
    clusters,
    batch_size=BATCH,
    max_iter=max_epochs,
    tol=0.0,
    max_no_improvement=100,
    init=init,
    n_init=tries,
    reassignment_ratio=0.0,
    compute_labels=False,
    random_state=seed,
  )


def _settings(seed: int, clusters: int, max_epochs: int, init: str, tries: int) -> Any:
  from research.units.clustering import Settings

  return Settings(
    clusters=clusters, batch_size=BATCH, init=init, n_init=tries, max_epochs=max_epochs, seed=seed
  )


# -- Fit to rows in memory ---------------------------------------------------------------------


def make_our_fit(path: str, **how: Any) -> tuple[Callable[[], dict[str, float]], None]:
  """() -> {inertia, steps} of a fit to the rows of an .npy file; a new seed in every call."""
  from research.units.clustering import fit_arrays

  x, seeds = np.load(path), iter(range(1000))

  def run() -> dict[str, float]:
    found = fit_arrays(x, _settings(next(seeds), **how))
    return {'inertia': _inertia(x, found.centroids), 'steps': found.history[-1]['step']}

  return run, None


def make_their_fit(path: str, **how: Any) -> tuple[Callable[[], dict[str, float]], None]:
  """As `make_our_fit`, with scikit-learn."""
  x, seeds = np.load(path), iter(range(1000))

  def run() -> dict[str, float]:
    found = _estimator(next(seeds), **how).fit(x)
    return {'inertia': _inertia(x, found.cluster_centers_), 'steps': float(found.n_steps_)}

  return run, None


def _rows_like_mfcc(frames: int) -> np.ndarray:
  """MFCC rows [frames, 39] drawn from the built-in corpus, with a little noise added."""
  from research.audio.sources import open_source
  from research.units import blocks
  from research.units.frames import mfcc

  stream = blocks.ClipBlocks(
    mfcc(), open_source('builtin'), seed=0, max_epochs=1, batch_seconds=320, bad_files=None
  )
  base = np.concatenate([np.asarray(x)[np.asarray(mask)] for x, mask in stream.start(0)])
  rng = np.random.default_rng(0)
  rows = base[rng.integers(len(base), size=frames)]
  return (rows + 0.1 * base.std(axis=0) * rng.standard_normal(rows.shape)).astype(np.float32)


def _rows_like_a_layer(frames: int) -> np.ndarray:
  """Rows [frames, 768] from 400 overlapping clusters."""
  rng = np.random.default_rng(0)
  centres = rng.standard_normal((400, 768), np.float32)
  rows = centres[rng.integers(400, size=frames)]
  return rows + rng.standard_normal(rows.shape, np.float32)


def _compare_fits(folder: Path, repeats: int) -> list[dict[str, Any]]:
  rows = []
  plus_plus = dict(clusters=CLUSTERS, max_epochs=20, init='k-means++', tries=3)
  # k-means++ on 768 features takes scikit-learn minutes and would dominate the mini-batches.
  random = dict(clusters=500, max_epochs=10, init='random', tries=1)
  cases: list[tuple[str, np.ndarray, dict[str, Any]]] = [
    ('fit to MFCC', _rows_like_mfcc(100_000), plus_plus),
    ('fit to 768 features', _rows_like_a_layer(20_000), random),
  ]
  for what, x, how in cases:
    path = folder / 'rows.npy'
    np.save(path, x)
    arguments: dict[str, Any] = dict(path=str(path), **how)
    with (
      timing.Worker(make_their_fit, **arguments) as theirs,
      timing.Worker(make_our_fit, **arguments) as ours,
    ):
      runs = {'oido': _Kept(ours), 'scikit-learn': _Kept(theirs)}
      taken = timing.rounds(runs, repeats)
    middle = {
      (name, key): float(np.median([values[key] for values in run.values]))
      for name, run in runs.items()
      for key in ('inertia', 'steps')
    }
    facts = {
      'what': what,
      'frames': len(x),
      'clusters': how['clusters'],
      'inertia_ratio': middle['oido', 'inertia'] / middle['scikit-learn', 'inertia'],
      'ours_steps': middle['oido', 'steps'],
      'peer_steps': middle['scikit-learn', 'steps'],
    }
    rows += timing.compare(taken, 'oido', **facts)
  return rows


# -- From files to centroids -------------------------------------------------------------------


def _source(folder: str, times: int) -> Any:
  from research.audio.sources import open_source, pool

  source = open_source(folder)
  return pool([source] * times) if times > 1 else source


def peak_bytes() -> int:
  """Peak resident memory of this process, bytes."""
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def make_our_recipe(folder: str, times: int) -> tuple[Callable[[], int], float]:
  """(() -> peak bytes after one epoch over a folder repeated `times` times, hours of audio)."""
  from research.units.clustering import fit
  from research.units.frames import mfcc

  source = _source(folder, times)

  def run() -> int:
    fit(mfcc(), source, _settings(seed=0, **ONE_EPOCH))
    return peak_bytes()

  return run, float(source.durations().sum() / 3600)


def make_their_recipe(folder: str, times: int) -> tuple[Callable[[], int], float]:
  """As `make_our_recipe`: writes features to disk, reads them back, fits with scikit-learn."""
  from research.units import blocks
  from research.units.frames import mfcc

  source = _source(folder, times)
  frames = mfcc()

  def run() -> int:
    stream = blocks.ClipBlocks(
      frames, source, seed=0, max_epochs=1, batch_seconds=320, bad_files=None
    )
    with tempfile.TemporaryDirectory() as temporary:
      path = os.path.join(temporary, 'features.bin')
      with open(path, 'wb') as file:
        for x, mask in stream.start(0):
          file.write(np.asarray(x)[np.asarray(mask)].tobytes())
      features = np.fromfile(path, np.float32).reshape(-1, 39)
    _estimator(seed=0, **ONE_EPOCH).fit(features)
    return peak_bytes()

  return run, float(source.durations().sum() / 3600)


def _compare_recipes(folder: Path, repeats: int, clips: int) -> list[dict[str, Any]]:
  from launch.benchmarks.input import _write_clips

  folder.mkdir()
  _write_clips(folder, clips)
  rows, peer = [], 'features to disk, then scikit-learn'
  for times in (1, 10):
    arguments = dict(folder=str(folder), times=times)
    with (
      timing.Worker(make_their_recipe, **arguments) as theirs,
      timing.Worker(make_our_recipe, **arguments) as ours,
    ):
      runs = {'oido': _Kept(ours), peer: _Kept(theirs)}
      taken = timing.rounds(runs, repeats if times == 1 else 1)
      hours = ours.facts
    for row in timing.compare(taken, 'oido', what='one epoch over FLAC', audio_hours=hours):
      for side, name in (('ours', 'oido'), ('peer', peer)):
        row[f'{side}_audio_hours_per_minute'] = 60 * hours / row[f'{side}_seconds']
        row[f'{side}_peak_mib'] = max(runs[name].values) / 2**20
      rows.append(row)
  return rows


def compare_clustering(repeats: int = 3, clips: int = 60) -> list[dict[str, Any]]:
  """Rows for fits in memory and for complete recipes, oido against scikit-learn.

  Args:
    repeats: number of rounds; medians are reported.
    clips: number of 10 s clips for the recipes; the second recipe row has ten times as many.

  Returns:
    Rows with seconds of both and `ratio`, peer / ours (above 1: ours is faster); `inertia_ratio`,
    ours / peer (below 1: ours is better); `audio_hours_per_minute`; `peak_mib`, the peak memory of
    the process, JAX and scikit-learn included.
  """
  import sklearn  # noqa: F401  (fail before anything is timed)

  # Its threads busy-wait, which makes it three times slower on a machine with other work.
  os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    return _compare_fits(folder, repeats) + _compare_recipes(folder / 'flac', repeats, clips)
