"""Who speaks when, by a head that gives the speakers of every frame: recordings of any length.

A long recording is cut into chunks that share an overlap. The head's outputs are in no order, so
that the speakers of a chunk are first matched to those before it: in the order in which both agree
best over the overlap. Letters: n, m frames, k speakers, t samples.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from research.capabilities import diarizes
from research.errors import InputError
from research.inference import head_runs, inputs
from research.metrics.diarization import Segment, frames_to_segments

# Frames of a chunk, as SUPERB trains on (s3prl diarization), and those that neighbours share: 10 s
# of 20 ms, in which both speakers of a conversation usually say something.
CHUNK, OVERLAP = 2000, 500
THRESHOLD, MEDIAN = 0.5, 11


class Diarizer:
  """Segments of speakers by a model with the head diarization.

  from research import weights
  loaded = weights.load('runs/superb/sd/model')
  print(Diarizer(loaded.model, loaded.variables)('meeting.wav'))
  """

  def __init__(
    self,
    model: Any,
    variables: Any,
    *,
    threshold: float = THRESHOLD,
    median: int = MEDIAN,
    chunk: int = CHUNK,
    overlap: int = OVERLAP,
  ):
    """Args:
      model: a `capabilities.Diarizes`.
      variables: its weights.
      threshold: probability above which somebody speaks.
      median: frames of the median filter over decisions, odd.
      chunk: frames of a chunk.
      overlap: frames that neighbouring chunks share.

    Raises:
      InputError: another model, or numbers that cannot be.
    """
    if not diarizes(model):
      raise InputError(
        f"{type(model).__name__} does not say who speaks: give a model with the head 'diarization' "
        '(launch.superb trains one), or one of speaker vectors with speakers= or similarity=.'
      )
    if not 0 < overlap < chunk:
      raise InputError(f'Chunks of {chunk} frames cannot share {overlap}: give 1 to {chunk - 1}.')
    if not 0 < threshold < 1:
      raise InputError(f'threshold is {threshold:g}; expected a probability between 0 and 1.')
    if median < 1 or median % 2 == 0:
      raise InputError(f'median is {median}; expected an odd number of frames.')
    self.model, self.threshold, self.median = model, threshold, median
    self.chunk, self.overlap = chunk, overlap
    self.rate = model.frontend.sample_rate
    self.hop = head_runs.token_hop(model, variables)
    self._run = head_runs.Runner(model, variables, ('logits', 'logits_mask'))

  @property
  def frame_seconds(self) -> float:
    """From one frame to the next."""
    return self.hop / self.rate

  def about(self) -> dict[str, Any]:
    """What its result depends on beside the weights, JSON-able."""
    names = ('threshold', 'median', 'chunk', 'overlap')
    return {name: getattr(self, name) for name in names}

  def probabilities(
    self, audio: inputs.Audio, sample_rate: float | None = None
  ) -> Float[np.ndarray, 'n k']:
    """Of every speaker in every frame of a recording, a path or samples at `sample_rate` Hz.

    Raises:
      InputError: it cannot be read, or is below one frame.
    """
    samples = inputs.samples_of(audio, sample_rate, self.model.frontend, 0, None)
    shortest = self.model.frontend.min_samples
    size = (self.chunk - 1) * self.hop + max(self.hop, shortest)
    step = (self.chunk - self.overlap) * self.hop
    starts = [0]
    while len(samples) - starts[-1] > size:
      starts.append(starts[-1] + step)
    pieces = [samples[start : start + size] for start in starts]
    parts = [
      (start // self.hop, special.expit(logits[real].astype(np.float64)))
      for start, (logits, real) in zip(starts, self._run(pieces, size if starts[1:] else None))
    ]
    return stitch(parts)

  def __call__(self, audio: inputs.Audio, sample_rate: float | None = None) -> list[Segment]:
    """Segments, speakers numbered as they first speak; arguments and errors as `probabilities`."""
    found = frames_to_segments(
      self.probabilities(audio, sample_rate),
      threshold=self.threshold,
      median=self.median,
      frame_seconds=self.frame_seconds,
    )
    return named(found)


def stitch(parts: Sequence[tuple[int, np.ndarray]]) -> Float[np.ndarray, 'n k']:
  """Probabilities of overlapping chunks as those of the whole, cut in the middle of each overlap.

  Args:
    parts: (first frame, probabilities [m, k]) of every chunk, in order. The speakers of each are
      put in the order in which they differ least from those before over the frames that both have.

  Raises:
    InputError: neighbours have no frame in common.
  """
  whole, low = [], 0
  first, before = parts[0]
  for following, chunk in parts[1:]:
    end = first + len(before)
    common = min(end - following, len(chunk))
    if common < 1:
      raise InputError(
        f'A chunk ends at frame {end}, and the next starts at {following}: they share no frame.'
      )
    seen = before[following - first : following - first + common]
    chunk = chunk[:, match(seen, chunk[:common])]
    cut = following + common // 2
    whole.append(before[low - first : cut - first])
    first, before, low = following, chunk, cut
  return np.concatenate([*whole, before[low - first :]])


def match(first: Float[np.ndarray, 'm k'], second: Float[np.ndarray, 'm k']) -> list[int]:
  """The order of the columns of `second` in which they differ least from those of `first`, in the
  sum of squares."""
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  cost = np.square(first[:, :, None] - second[:, None]).sum(axis=0)
  return optimize.linear_sum_assignment(cost)[1].tolist()


def named(segments: Sequence[Segment]) -> list[Segment]:
  """Segments in the order of their times, speakers called speaker_1, speaker_2, … as they first
  speak."""
  ordered = sorted(segments)
  names = {s.speaker: f'speaker_{i}' for s, i in zip(_firsts(ordered), itertools.count(1))}
  return [Segment(s.start, s.end, names[s.speaker]) for s in ordered]


def _firsts(segments: Sequence[Segment]) -> list[Segment]:
  found: dict[str, Segment] = {}
  for segment in segments:
    found.setdefault(segment.speaker, segment)
  return list(found.values())
