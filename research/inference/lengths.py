"""Clips of unequal lengths in batches: one policy for whatever runs a trained model.

A clip is padded to the smallest length of a geometric grid that holds it: at most a quarter of it
is padding, and few programs are compiled. Where the clips are known at once the grid ends with the
longest of them, so that clips of one length are not padded at all; of chunks it ends with a window;
of calls that know nothing of each other it starts with the shortest clip there can be.

A batch holds at most `batch_seconds`, padding included, and MAX_BATCH clips; it has as many rows as
the devices of its process can share. What a batch is depends on the list of clips alone. Models do
not see the padding, so none of this changes a result by more than the rounding of a sum.
"""

import numpy as np
from jaxtyping import Float, Int

from research.audio import batching

# From one length of the grid to the next. 29,000 clips as long as LibriSpeech's have 0.86 of their
# batches filled by 11 programs; 1.25 fills 0.89 by 14, 1.5 fills 0.84 by 8.
GROWTH = 4 / 3
# No length below this many seconds is worth a program.
SHORTEST = 1.0
MAX_BATCH = 64


def grid(longest: int, shortest: int) -> list[int]:
  """Lengths in samples, ascending to exactly `longest` in steps of GROWTH."""
  found = [longest]
  while found[-1] / GROWTH >= shortest:
    found.append(round(found[-1] / GROWTH))
  return found[::-1]


def next_length(samples: int, shortest: int) -> int:
  """The next length of the grid that starts with `shortest` samples and has no end."""
  found, steps = shortest, 0
  while found < samples:
    steps += 1
    found = round(shortest * GROWTH**steps)
  return found


def rows(length: int, batch_samples: float, multiple: int = 1, max_batch: int = MAX_BATCH) -> int:
  """Rows of a full batch of clips of `length` samples, a multiple of `multiple` devices."""
  fits = max(1, int(min(batch_samples / length, max_batch)))
  return -(-fits // multiple) * multiple


def even_rows(clips: int, most: int, multiple: int = 1) -> int:
  """Rows of as few batches as hold `clips`, at most `most` in each: all batches have one size."""
  size = -(-clips // -(-clips // most))
  return -(-size // multiple) * multiple


def few_rows(clips: int, most: int, multiple: int = 1) -> int:
  """Rows of one batch of `clips`: `most`, or a half, a quarter … of it, so that batches which come
  one at a time meet the same programs again."""
  size = most
  while size > 1 and -(-size // 2) >= clips:
    size = -(-size // 2)
  return -(-size // multiple) * multiple


def of_list(
  durations: Float[np.ndarray, 'clips'],
  *,
  sample_rate: int,
  batch_seconds: float,
  min_samples: int = 1,
  max_seconds: float | None = None,
  multiple: int = 1,
) -> list[batching.Batch]:
  """Batches of clips that are known at once, every clip in one of them, shorter ones first.

  Args:
    durations: of the clips, seconds; 0 where it is not known.
    sample_rate: Hz.
    batch_seconds: audio in a batch.
    min_samples: what the model takes at least.
    max_seconds: only so much of each clip is taken.
    multiple: devices that share the rows of a batch.
  """
  if not len(durations):
    return []
  needed = batching.static_samples(durations, sample_rate, max_seconds)
  longest = max(int(needed.max()), min_samples)
  samples = grid(longest, max(min_samples, round(SHORTEST * sample_rate)))

  def size(length: int, clips: int) -> int:
    return even_rows(clips, rows(length, batch_seconds * sample_rate, multiple), multiple)

  return batching.by_length(durations, np.searchsorted(samples, needed), samples, size)


def of_stream(
  samples: Int[np.ndarray, 'clips'], lengths: list[int], batch_samples: float, multiple: int = 1
) -> list[batching.Batch]:
  """Batches of some clips of a stream that goes on: of few lengths and few sizes.

  Args:
    samples: of the clips; none is above the last of `lengths`.
    lengths: a `grid`.
    batch_samples: audio in a batch, samples.
    multiple: devices that share the rows of a batch.
  """
  return batching.by_length(
    samples.astype(np.float64),
    np.searchsorted(lengths, samples),
    lengths,
    lambda length, clips: rows(length, batch_samples, multiple),
    lambda clips, full: few_rows(clips, full, multiple),
  )
