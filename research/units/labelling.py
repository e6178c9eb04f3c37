"""The units of every clip of a source, a part at a time: killed, it goes on.

Finished parts lie in `<folder>.parts/`; the folder itself appears when all clips are in it, in the
order of the source. Its format: `research/audio/units.py`. Memory holds the codes of one part, and
some bytes for every clip.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from research.audio import units
from research.errors import InputError
from research.inference.clip_jobs import ClipJob
from research.inference.embedder import Embed
from research.inference.stream import BATCH_SECONDS, Embedded
from research.jobs.parts import PART_SECONDS
from research.units import kmeans
from research.units.codebook import Codebook
from research.units.frames import Frames, Pieces, pieces


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
  worker: tuple[int, int] = (0, 1),
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
    max_bad_fraction: fraction of unreadable clips above which it stops.
    bad_files: the list of clips that could not be used; in the folder of parts if None.
    batch_seconds: audio that goes through at once.
    part_seconds: age at which a part is written, if it is not large before.
    worker: (index, count) of the independent runs that divide the clips; see `parts.Job`.

  Returns:
    {clips, frames, resumed, skipped}: `skipped` is {id: why}.

  Raises:
    InputError: the codebook is of other frames, the folder is there, the parts of another job are
      in the way, too many clips cannot be read, or the disk is full.
  """
  out = Path(out)
  codebook.check(frames, frames.width())
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
  embedder = dataclasses.replace(
    frames.embedder,
    apply=_Nearest(frames.embedder.apply, frames.layer),
    variables={'weights': frames.embedder.variables, 'centroids': codebook.centroids},
  )
  job = ClipJob(
    embedder,
    cut.source,
    out,
    dict(about, clips=source.fingerprint()),
    layers=(0,),
    pool='none',
    batch_seconds=batch_seconds,
    bad_files=bad_files,
    max_bad_fraction=max_bad_fraction,
    part_seconds=part_seconds,
    worker=worker,
  )

  def keep(chunk: Embedded) -> dict[str, np.ndarray]:
    assert chunk.mask is not None
    own = cut.own(chunk.mask, chunk.rows)
    return {'counts': own.sum(axis=1), 'codes': chunk.values[0, :, :, 0][own].astype(np.uint16)}

  done = job.run(keep, lambda: _finish(job, source, cut, out, about), 'labelling')
  return dict(resumed=job.resumed, **(done or {}))


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


def _finish(
  job: ClipJob, source: Any, cut: Pieces, out: Path, about: Mapping[str, Any]
) -> dict[str, Any]:
  """Joins the parts in the order of the source and removes them."""
  # -- How many units every piece has, and what those without lack.
  counts = job.counts
  first = np.searchsorted(cut.clips, np.arange(len(source) + 1))
  # A piece that another follows has as many as its clip's header promised.
  whole = np.append(cut.clips[1:] != cut.clips[:-1], True) | (counts == cut.keep)
  skipped: dict[str, str] = {}
  for row in np.flatnonzero((counts < 0) | ~whole).tolist():
    # What the first of its pieces lacks is said of a clip.
    cause = 'it is shorter than its header says' if counts[row] >= 0 else job.reasons[row]
    skipped.setdefault(source.id(int(cut.clips[row])), cause)
  left_out = np.add.reduceat((counts < 0) | ~whole, first[:-1]) > 0
  clips = np.flatnonzero(~left_out)
  if not len(clips):
    reason = next(iter(skipped.values()), 'there is none')
    raise InputError(f'No clip of {source.name!r} has units; the first: {reason.rstrip(".")}.')

  # -- Each part to its places.
  counts[left_out[cut.clips]] = 0
  position = np.cumsum(counts) - counts
  about = dict(about, clips=len(clips), frames=int(counts.sum()), skipped=skipped)
  with units.Writer(out, about['clusters']) as writer:
    for arrays in job.each():
      each = np.split(arrays['codes'], np.cumsum(arrays['counts'])[:-1])
      for row, codes in zip(arrays['rows'].tolist(), each):
        if not left_out[cut.clips[row]]:
          writer.put(int(position[row]), codes)
    ids = [source.id(int(clip)) for clip in clips]
    writer.finish(ids, np.add.reduceat(counts, first[:-1])[clips], about)
  job.remove()
  return {'clips': len(clips), 'frames': about['frames'], 'skipped': skipped}
