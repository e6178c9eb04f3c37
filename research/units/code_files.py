"""Codes of clips as text for other programs: what a model with a codebook hears, "g0-g1" a frame.

The words are those of fairseq's vq-wav2vec_featurize.py, which language models of vq-wav2vec's
codes are trained on. There a clip goes through in pieces of 1.3 million samples, each by itself;
here it is heard whole, and one longer than the model takes is left out (cut it into windows).
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from research.audio.bad_files import BadFiles
from research.capabilities import EncodesToCodes
from research.errors import InputError
from research.inference.embedder import from_model
from research.inference.embedding_files import TOO_SHORT
from research.inference.stream import BATCH_SECONDS, stream
from research.jobs import folders
from research.jobs.progress import bar
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
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
  batch_seconds: float = BATCH_SECONDS,
) -> dict[str, Any]:
  """Writes the codes of every clip of a source; the file is there whole or not at all.

  A line a clip, in the order of the source: its id, a tab, and for every frame the codes of its
  groups with '-' between them, frames with spaces between them.

  Args:
    model: with `encode(audio, audio_mask) -> (codes [b, n, g], real [b, n])`, as vq-wav2vec.
    variables: its weights.
    source: clips.
    out: the file, .tsv or .txt.
    overwrite: whether a file that is there may be replaced.
    max_bad_fraction: share of unusable clips above which it stops.
    batch_seconds: audio that goes through at once.

  Returns:
    {clips, frames, skipped}: how many were written; `skipped` is {id: why}. {} on processes that
    write nothing.

  Raises:
    InputError: the model has no codebook, the file exists or has another ending, a clip has a tab
      or a line break in its name, too many clips cannot be used or all of them, or the disk is
      full.
  """
  demand_codes(model)
  path = folders.writable(out, SUFFIXES, overwrite)
  files.demand_names(source, '.tsv')
  embedder = dataclasses.replace(
    from_model(model, variables, type(model).__name__, weights=''),
    apply=_Encode(model),
  )
  bad = BadFiles(None, max_bad_fraction, total=len(source))
  skipped: dict[str, str] = {}
  chunks = stream(
    embedder, source, layers=(0,), pool='none', batch_seconds=batch_seconds, bad_files=bad
  )
  writes = jax.process_index() == 0
  by_length = path.with_name(f'{path.name}.unsorted')
  try:
    with bar('encoding', len(source), writes) as progress:
      if not writes:
        for _ in chunks:
          pass
        return {}
      # Clips come by their length: their lines are put in order in the end, on the disk.
      places: dict[int, tuple[int, int]] = {}
      frames = 0
      with open(by_length, 'w+b') as file:
        for row, codes in _rows(chunks, source, skipped):
          line = f'{source.id(row)}\t{_words(codes)}\n'.encode(errors='surrogateescape')
          places[row] = (file.tell(), len(line))
          file.write(line)
          frames += len(codes)
          progress(len(places))
        # Another process may have met what is missing.
        skipped |= dict(bad.items())
        ids = (source.id(row) for row in range(len(source)) if row not in places)
        skipped = {name: skipped.get(name, 'cannot be read') for name in ids}
        if not places:
          reason = next(iter(skipped.values()), 'there is none')
          raise InputError(f'None of the {len(source)} clips has codes: {reason}.')
        _in_order(file, places, path)
  except OSError as error:
    raise InputError(f'Cannot write {path}: {error.strerror or error}.') from error
  finally:
    if writes:
      by_length.unlink(missing_ok=True)
  return {'clips': len(places), 'frames': frames, 'skipped': skipped}


def demand_codes(model: Any) -> None:
  """Raises InputError where a model has no codes to write."""
  if not isinstance(model, EncodesToCodes) or not model.code_sizes:
    raise InputError(
      f'{type(model).__name__} has no codebook of its own whose codes could be written: give a '
      'vq-wav2vec, or the units of a codebook (--units, see launch.label_kmeans).'
    )


def _rows(
  chunks: Iterator[Any], source: Any, skipped: dict[str, str]
) -> Iterator[tuple[int, Int[np.ndarray, 'n g']]]:
  """(row of the source, its codes), as they come; `skipped` gets the clips below one frame."""
  for chunk in chunks:
    assert chunk.mask is not None
    for i, row in enumerate(chunk.rows):
      yield int(row), chunk.values[0, i][chunk.mask[i]].astype(np.int64)
    skipped |= {source.id(int(row)): TOO_SHORT for row in chunk.too_short}


def _words(codes: Int[np.ndarray, 'n g']) -> str:
  return ' '.join('-'.join(map(str, frame)) for frame in codes.tolist())


def _in_order(file: Any, places: Mapping[int, tuple[int, int]], path: Path) -> None:
  """Copies the lines in the order of their rows."""
  partial = path.with_name(f'{path.name}.partial')
  try:
    with open(partial, 'wb') as ordered:
      for _, (start, size) in sorted(places.items()):
        file.seek(start)
        ordered.write(file.read(size))
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
