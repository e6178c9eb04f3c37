"""Resolves and checks the settings of batches."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from research.audio import batching
from research.audio.clips import Source
from research.audio.fields import Field
from research.errors import InputError, unknown

# Without `seconds`, clips are padded to the longest clip. Above this many seconds it is refused.
MAX_DEFAULT_SECONDS = 60.0


def check(
  source: Source,
  batch_size: int,
  process_index: int,
  process_count: int,
  batch_multiple: int = 1,
  fill_to: int = 1,
) -> None:
  """Raises InputError if there are no clips or the processes cannot split the batch, filled to a
  multiple of `fill_to` rows, evenly."""
  if not len(source):
    raise InputError(f'Data set {source.name!r} has no clips.')
  if batch_multiple < 1 or batch_size % batch_multiple:
    raise InputError(
      f'batch_size is {batch_size}, not a multiple of batch_multiple {batch_multiple}.'
    )
  if batch_size < 1 or batching.filled(batch_size, fill_to) % process_count:
    raise InputError(
      f'A batch of {batch_size} cannot be split over {process_count} processes; give a multiple of '
      f'{process_count}.'
    )
  if not 0 <= process_index < process_count:
    raise InputError(f'process_index {process_index} is not one of {process_count} processes.')


def batch_seconds(source: Source, seconds: float | None) -> float:
  """The static length of all batches: `seconds`, or the duration of the longest clip.

  Raises:
    InputError: the length is not above 0, or the longest clip exceeds MAX_DEFAULT_SECONDS.
  """
  if seconds is None:
    seconds = float(source.durations().max())
    if seconds > MAX_DEFAULT_SECONDS:
      raise InputError(
        f'The longest clip of {source.name!r} is {seconds:.0f} s long, and every clip would be '
        'padded to that; give seconds= to crop, or buckets=.'
      )
  if not seconds > 0:
    raise InputError(f'seconds is {seconds}; give a length above 0.')
  return float(seconds)


def bucket_seconds(
  durations: Float[np.ndarray, 'clips'],
  buckets: Sequence[float] | int,
  seconds: float | None,
  fill: str,
) -> list[float]:
  """Ascending bucket lengths in seconds.

  A list is taken as it is. An integer N gives the N lengths that waste the least for `durations`.

  Raises:
    InputError: a list is not ascending and positive, or is given together with `seconds`.
  """
  if isinstance(buckets, int):
    best = batching.best_crops if fill == 'crop' else batching.best_buckets
    return best(durations, buckets, longest=seconds)
  lengths = [float(b) for b in buckets]
  if not lengths or lengths[0] <= 0 or any(a >= b for a, b in itertools.pairwise(lengths)):
    raise InputError(f'buckets is {list(buckets)}; give ascending lengths in seconds, above 0.')
  if seconds is not None:
    raise InputError('Give seconds= or a list of buckets=, not both: the last bucket crops.')
  return lengths


def bucket_rows(
  lengths: Sequence[float],
  batch_size: int,
  batch_seconds: float | None,
  batch_multiple: int,
  process_count: int,
  fill_to: int = 1,
) -> list[int]:
  """Batch size of every bucket, see `pipeline.train_batches`.

  Raises:
    InputError: a batch cannot hold batch_multiple clips of the last bucket, or the processes cannot
      split the batches evenly.
  """
  if batch_seconds is None:
    return [batch_size] * len(lengths)
  if batching.filled(batch_multiple, fill_to) % process_count:
    raise InputError(
      f'Batches of {batch_seconds:g} s hold a multiple of {batch_multiple} clips, which cannot be '
      f'split over {process_count} processes; give a batch_multiple that {process_count} divides.'
    )
  room = batch_seconds / batch_multiple
  if not room + 1e-6 >= lengths[-1]:
    raise InputError(
      f'A batch of {batch_seconds:g} s cannot hold {batch_multiple} clips of '
      f'{lengths[-1]:g} s; give a larger batch_seconds, a smaller batch_multiple or shorter clips.'
    )
  return [min(int(room / edge + 1e-6) * batch_multiple, batch_size) for edge in lengths]


def sampling_weights(
  source: Source, weights: str | Sequence[float] | np.ndarray | None, fields: Sequence[Field]
) -> np.ndarray | None:
  """One weight per clip; None for uniform sampling. 'balanced' uses the classes of the first field
  that has classes, or else the column "label".

  Raises:
    InputError: an unknown name, or weights that do not fit the clips.
  """
  if weights is None:
    return None
  if isinstance(weights, str):
    if weights != 'balanced':
      raise unknown('sampling weights', weights, ['balanced'])
    found = (field.weights(source) for field in fields)
    balanced = next((each for each in found if each is not None), None)
    return batching.label_weights(source) if balanced is None else balanced
  weights = np.asarray(weights, np.float64)
  good = weights.shape == (len(source),) and np.isfinite(weights).all() and (weights >= 0).all()
  if not good or not weights.sum() > 0:
    raise InputError(
      f'Sampling weights of shape {weights.shape} do not fit the {len(source)} clips of '
      f'{source.name!r}; give one finite weight of 0 or more for every clip.'
    )
  return weights
