"""The units of every clip of a source, a part at a time: killed, it goes on.

Finished parts lie in `<folder>.parts/`; the folder itself appears when all clips are in it, in the
order of the source. Its format: `research/audio/units.py`. Memory holds the codes of one part, and
some bytes for every clip.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from research.audio import units
from research.audio.bad_files import BadFiles
from research.errors import InputError
from research.inference.embedder import Embed
from research.inference.embedding_files import PART_BYTES, PART_SECONDS, TOO_SHORT
from research.inference.stream import BATCH_SECONDS, stream
from research.jobs import folders, locks
from research.jobs.progress import bar
from research.units import kmeans
from research.units.codebook import Codebook
from research.units.frames import Frames, Pieces, pieces

# Of a piece, instead of how many units it has.
SHORT, NONE = -1, -2


def label(
  frames: Frames,
  codebook: Codebook,
  source: Any,
  out: str | os.PathLike,
  *,
  about: Mapping[str, Any] | None = None,
  max_bad_fraction: float = 0.5,
  bad_files: str | os.PathLike | None = None,
  batch_seconds: float = BATCH_SECONDS,
  part_seconds: float = PART_SECONDS,
) -> dict[str, Any]:
  """Writes the units of every clip of a source.

  Long clips go through in pieces whose frames lie on the grid of the whole clip: unit j always
  stands for samples j * hop to j * hop + window. MFCC are the same as those of the whole clip; a
  model sees 100 s at a time, as in fairseq. There each piece begins where the one before ended, and
  units are late by one more hop every 100 s; here pieces overlap by what the windows need.

  Args:
    frames: what the codebook is of.
    codebook: the centroids.
    source: clips.
    out: folder of units that is not there yet.
    about: what else the units should say of themselves.
    max_bad_fraction: share of unreadable clips above which it stops.
    bad_files: the list of clips that could not be used; in the folder of parts if None.
    batch_seconds: audio that goes through at once.
    part_seconds: age at which a part is written, if it is not large before.

  Returns:
    {clips, frames, resumed, skipped}: `skipped` is {id: why}.

  Raises:
    InputError: the codebook is of other frames, the folder is there, the parts of another job are
      in the way, too many clips cannot be read, or the disk is full.
  """
  out = Path(out)
  codebook.demand(frames, frames.width())
  if out.exists() and jax.process_index() == 0:
    raise InputError(f'{out} is there already: give another --out, or delete it.')
  about = {
    **frames.about(),
    **(about or {}),
    'clusters': codebook.clusters,
    'codebook': codebook.hash,
    'fingerprint': codebook.fingerprint(frames),
  }
  cut = pieces(source, frames)
  job = _Job(out, source, cut, dict(about, source=source.fingerprint()), bad_files)
  try:
    remaining = job.open()
    if len(remaining):
      part = cut.select(remaining)
      chunks = _coded(frames, codebook, part, job.bad_files(max_bad_fraction), batch_seconds)
      with bar('labelling', len(remaining), job.active) as progress:
        job.take(chunks, remaining, progress, part_seconds)
    done = job.finish(about) if job.active else {}
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      multihost_utils.sync_global_devices(f'labelled {out.name}')
    return dict(resumed=job.resumed, **done)
  except OSError as error:
    raise InputError(
      f'Cannot write {out}: {error.strerror or error}. The finished parts are kept in '
      f'{job.folder}; the same command goes on from them.'
    ) from error


@dataclasses.dataclass(frozen=True)
class _Nearest:
  """An embedder's `apply` whose only token of a frame is the number of its cluster."""

  apply: Embed
  layer: int

  def __call__(self, variables: Any, audio: Array, mask: Array) -> tuple[Array, Array]:
    tokens, real = self.apply(variables['weights'], audio, mask)
    x = tokens[self.layer].astype(jnp.float32)
    labels, _ = kmeans.assign(x.reshape(-1, x.shape[-1]), variables['centroids'])
    # A float32 holds every whole number up to 2^24.
    return labels.reshape(1, *x.shape[:2], 1).astype(jnp.float32), real


@dataclasses.dataclass(frozen=True)
class _Coded:
  """Units of some pieces, on every process."""

  rows: np.ndarray  # int [b], pieces
  codes: list[np.ndarray]
  too_short: np.ndarray  # int, pieces without a frame


def _coded(
  frames: Frames, codebook: Codebook, cut: Pieces, bad: BadFiles, batch_seconds: float
) -> Iterator[_Coded]:
  embedder = dataclasses.replace(
    frames.embedder,
    apply=_Nearest(frames.embedder.apply, frames.layer),
    variables={'weights': frames.embedder.variables, 'centroids': codebook.centroids},
  )
  chunks = stream(
    embedder, cut.source, layers=(0,), pool='none', batch_seconds=batch_seconds, bad_files=bad
  )
  for chunk in chunks:
    assert chunk.mask is not None
    own = cut.own(chunk.mask, chunk.rows)
    codes = chunk.values[0, :, :, 0].astype(np.uint16)
    yield _Coded(chunk.rows, [c[m] for c, m in zip(codes, own)], chunk.too_short)


class _Job:
  """The unfinished folder: its parts on disk."""

  def __init__(
    self,
    out: Path,
    source: Any,
    cut: Pieces,
    settings: dict[str, Any],
    bad_files: str | os.PathLike | None,
  ):
    self.out, self.source, self.cut, self.settings = out, source, cut, settings
    self.folder = folders.parts_folder(out)
    self.bad_path = Path(bad_files) if bad_files is not None else self.folder / 'bad_files.jsonl'
    self.active = jax.process_index() == 0
    self.resumed = 0

  def bad_files(self, max_fraction: float = 1.0) -> BadFiles:
    return BadFiles(self.bad_path, max_fraction, total=len(self.cut.clips))

  def open(self) -> np.ndarray:
    """Pieces that are still to do, the same on every process."""
    todo = np.ones(len(self.cut.clips), bool)
    if self.active:
      folders.begin(self.folder, self.settings)
      for part in self._parts():
        arrays = folders.read_arrays(part)
        todo[arrays['rows']] = False
        todo[arrays['too_short']] = False
      self.resumed = int((~todo).sum())
      bad = {name for name, _ in self.bad_files().items()}
      todo &= np.array([self.cut.source.id(i) not in bad for i in range(len(todo))])
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      todo = np.asarray(multihost_utils.broadcast_one_to_all(todo))
    return np.flatnonzero(todo)

  def _parts(self) -> list[Path]:
    return sorted(self.folder.glob('part_*.npz'))

  def take(
    self, chunks: Iterator[_Coded], remaining: np.ndarray, progress: Any, part_seconds: float
  ) -> None:
    """Writes parts as they get old or large; a part is there whole or not at all."""
    kept: list[_Coded] = []
    number, started, done, size = len(self._parts()), time.monotonic(), 0, 0
    for chunk in chunks:
      done += len(chunk.rows) + len(chunk.too_short)
      progress(done)
      if not self.active:
        continue
      kept.append(
        dataclasses.replace(
          chunk, rows=remaining[chunk.rows], too_short=remaining[chunk.too_short.astype(np.int64)]
        )
      )
      size += sum(code.nbytes for code in chunk.codes)
      if time.monotonic() - started >= part_seconds or size >= PART_BYTES:
        self._write_part(number, kept)
        kept, number, started, size = [], number + 1, time.monotonic(), 0
    if kept:
      self._write_part(number, kept)

  def _write_part(self, number: int, kept: list[_Coded]) -> None:
    partial = self.folder / 'unfinished.npz'
    codes = [code for chunk in kept for code in chunk.codes]
    np.savez(
      partial,
      rows=np.concatenate([chunk.rows for chunk in kept]).astype(np.int64),
      too_short=np.concatenate([chunk.too_short for chunk in kept]).astype(np.int64),
      counts=np.array([len(code) for code in codes], np.int64),
      codes=np.concatenate([np.zeros(0, np.uint16), *codes]),
    )
    os.replace(partial, self.folder / f'part_{number:05d}.npz')

  def finish(self, about: Mapping[str, Any]) -> dict[str, Any]:
    """Joins the parts in the order of the source and removes them."""
    # -- How many units every piece has, and what those without lack.
    counts = np.full(len(self.cut.clips), NONE, np.int64)
    for part in self._parts():
      arrays = folders.read_arrays(part)
      counts[arrays['rows']] = arrays['counts']
      counts[arrays['too_short']] = SHORT
    bad = dict(self.bad_files().items())
    first = np.searchsorted(self.cut.clips, np.arange(len(self.source) + 1))
    # A piece that another follows has as many as its clip's header promised.
    whole = np.append(self.cut.clips[1:] != self.cut.clips[:-1], True) | (counts == self.cut.keep)
    skipped: dict[str, str] = {}
    for row in np.flatnonzero((counts < 0) | ~whole).tolist():
      # What the first of its pieces lacks is said of a clip.
      name = self.source.id(int(self.cut.clips[row]))
      skipped.setdefault(name, self._reason(row, int(counts[row]), bad))
    left_out = np.add.reduceat((counts < 0) | ~whole, first[:-1]) > 0
    clips = np.flatnonzero(~left_out)
    if not len(clips):
      reason = next(iter(skipped.values()), 'there is none')
      raise InputError(
        f'No clip of {self.source.name!r} has units; the first: {reason.rstrip(".")}.'
      )

    # -- Each part to its places.
    counts[left_out[self.cut.clips]] = 0
    position = np.cumsum(counts) - counts
    about = dict(about, clips=len(clips), frames=int(counts.sum()), skipped=skipped)
    with units.Writer(self.out, about['clusters']) as writer:
      for part in self._parts():
        arrays = folders.read_arrays(part)
        each = np.split(arrays['codes'], np.cumsum(arrays['counts'])[:-1])
        for row, codes in zip(arrays['rows'].tolist(), each):
          if not left_out[self.cut.clips[row]]:
            writer.put(int(position[row]), codes)
      ids = [self.source.id(int(clip)) for clip in clips]
      writer.finish(ids, np.add.reduceat(counts, first[:-1])[clips], about)
    locks.release(self.folder)
    shutil.rmtree(self.folder)
    return {'clips': len(clips), 'frames': about['frames'], 'skipped': skipped}

  def _reason(self, row: int, count: int, bad: Mapping[str, str]) -> str:
    """Why a piece has no units, or not those it should have."""
    if count >= 0:
      return 'it is shorter than its header says'
    return TOO_SHORT if count == SHORT else bad.get(self.cut.source.id(row), 'could not be read')
