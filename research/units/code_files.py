"""Codes of clips as text for other programs: what a model with a codebook hears, "g0-g1" a frame.

The words are those of fairseq's vq-wav2vec_featurize.py, which language models of vq-wav2vec's
codes are trained on. There a clip goes through in pieces of 1.3 million samples, each by itself;
here it is heard whole, and one longer than the model takes is left out (cut it into windows).
"""

import dataclasses
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from research.audio import units
from research.capabilities import EncodesToCodes
from research.errors import InputError
from research.features.waveform import Waveform
from research.inference.clip_jobs import ClipJob
from research.inference.codec import words
from research.inference.embedder import from_model
from research.inference.stream import BATCH_SECONDS, Embedded
from research.jobs import folders
from research.jobs.parts import PART_SECONDS
from research.units import files

SUFFIXES = ('.tsv', '.txt')


@dataclasses.dataclass(frozen=True)
class _Encode:
  """An embedder's `apply` whose tokens are the codes of a frame."""

  model: Any

  def __call__(self, variables: Any, audio: Array, mask: Array) -> tuple[Array, Array]:
    codes, real = self.model.apply(variables, audio, mask, method='encode')
    # A float32 holds every whole number up to 2^24.
    return codes[None].astype(jnp.float32), real


def write_codes(
  model: Any,
  variables: Mapping[str, Any],
  source: Any,
  out: str | os.PathLike,
  *,
  fingerprint: str | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
  batch_seconds: float = BATCH_SECONDS,
  part_seconds: float = PART_SECONDS,
  worker: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
  """Writes the codes of every clip of a source; killed, the same call goes on.

  A line a clip, in the order of the source: its id, a tab, and for every frame the codes of its
  groups with '-' between them, frames with spaces between them.

  Args:
    model: with `encode(audio, audio_mask) -> (codes [b, n, g], real [b, n])`, as vq-wav2vec.
    variables: its weights.
    source: clips.
    out: the file, .tsv or .txt.
    fingerprint: hash of the weights; made here if None.
    overwrite: whether a file that is there may be replaced.
    max_bad_fraction: fraction of unusable clips above which it stops.
    batch_seconds: audio that goes through at once.
    part_seconds: age at which finished codes are saved.
    worker: (index, count) of the independent runs that divide the clips; see `parts.Job`.

  Returns:
    {clips, frames, skipped}: how many were written; `skipped` is {id: why}. {} on processes that
    write nothing.

  Raises:
    InputError: the model has no codebook, the file exists or has another ending, a clip has a tab
      or a line break in its name, too many clips cannot be used or all of them, or the disk is
      full.
  """
  check_codes(model)
  path = folders.writable(out, SUFFIXES, overwrite)
  files.check_names(source, '.tsv')
  how: Any = dict(
    fingerprint=fingerprint, max_bad_fraction=max_bad_fraction, batch_seconds=batch_seconds,
    part_seconds=part_seconds, worker=worker,
  )  # fmt: skip
  job = _job(model, variables, source, path, **how)
  return job.run(_keep, lambda: _finish(job, path), 'encoding') or {}


def write_units(
  model: Any,
  variables: Mapping[str, Any],
  source: Any,
  out: str | os.PathLike,
  *,
  fingerprint: str | None = None,
  max_bad_fraction: float = 0.5,
  batch_seconds: float = BATCH_SECONDS,
  part_seconds: float = PART_SECONDS,
  worker: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
  """Writes the codes of every clip of a source as units to train on (`audio/units.py`): the folder
  `out`, or with several codebooks a folder of each, 0, 1, …. Killed, the same call goes on.

  Args and what is returned: as of `write_codes`.

  Raises:
    InputError: as `write_codes`; the folder exists, or codes are of frames of a spectrogram.
  """
  check_codes(model)
  if not isinstance(model.frontend, Waveform):
    raise InputError(
      f'The codes of {type(model).__name__} are of frames of a spectrogram: units are of samples. '
      'Write lines of codes instead (--format=tsv).'
    )
  path = Path(out).expanduser()
  # Killed at the very end, some codebooks may be there already, and the parts of all.
  if path.exists() and not path.with_name(f'{path.name}.parts').exists():
    raise InputError(f'{path} is there already: give another folder.')
  how: Any = dict(
    fingerprint=fingerprint, max_bad_fraction=max_bad_fraction, batch_seconds=batch_seconds,
    part_seconds=part_seconds, worker=worker,
  )  # fmt: skip
  job = _job(model, variables, source, path, **how)
  return job.run(_keep, lambda: _finish_units(job, path, model), 'encoding') or {}


def _job(model, variables, source, path, *, fingerprint, **how) -> ClipJob:
  named = from_model(model, variables, type(model).__name__, fingerprint)
  embedder = dataclasses.replace(named, apply=_Encode(model))
  about = {'weights': embedder.weights}
  return ClipJob(embedder, source, path, about, layers=(0,), pool='none', **how)


def check_codes(model: Any) -> None:
  """Raises InputError where a model has no codes to write."""
  if not isinstance(model, EncodesToCodes) or not model.code_sizes:
    raise InputError(
      f'{type(model).__name__} has no codebook of its own whose codes could be written: give a '
      'vq-wav2vec, a codec or a VQ-VAE, or the units of a codebook (--units, see '
      'launch.label_kmeans).'
    )


def _keep(chunk: Embedded) -> dict[str, np.ndarray]:
  assert chunk.mask is not None
  return {
    'counts': chunk.mask.sum(axis=1).astype(np.int64),
    'codes': chunk.values[0][chunk.mask].astype(np.int32),
  }


def _rows(job: ClipJob) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(clips that have codes, where those of each begin, codes of all)."""
  rows = np.flatnonzero(job.counts >= 0)
  if not len(rows):
    job.remove()
    raise InputError(f'None of the {len(job.source)} clips has codes: {job.first_reason()}.')
  offsets, arrays = job.joined('codes')
  return rows, offsets, arrays['codes']


def _finish(job: ClipJob, path: Path) -> dict[str, Any]:
  """Writes the lines in the order of the source."""
  skipped, (rows, offsets, codes) = job.skipped(), _rows(job)
  partial = path.with_name(f'{path.name}.partial')
  with open(partial, 'wb') as file:
    for row, (start, end) in zip(rows, itertools.pairwise(offsets)):
      text = words(codes[start:end])
      file.write(f'{job.source.id(row)}\t{text}\n'.encode(errors='surrogateescape'))
  os.replace(partial, path)
  job.remove()
  return {'clips': len(rows), 'frames': int(offsets[-1]), 'skipped': skipped}


def _finish_units(job: ClipJob, path: Path, model: Any) -> dict[str, Any]:
  """Writes a folder for each codebook."""
  skipped, (rows, offsets, codes) = job.skipped(), _rows(job)
  front, ids = model.frontend, [job.source.id(row) for row in rows]
  for i, size in enumerate(model.code_sizes[: codes.shape[1]]):
    about = dict(
      clusters=size, sample_rate=front.sample_rate, hop=front.hop_samples,
      window=front.min_samples, fingerprint=f'{job.embedder.weights}-{i}',
    )  # fmt: skip
    folder = path if len(model.code_sizes) == 1 else path / str(i)
    if not folder.exists():
      own = (codes[start:end, i] for start, end in itertools.pairwise(offsets))
      units.save(folder, ids, own, about)
  job.remove()
  return {'clips': len(rows), 'frames': int(offsets[-1]), 'skipped': skipped}
