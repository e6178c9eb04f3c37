"""Who speaks when, among any number of speakers: windows of speech, clustered by their voices.

Speech is found by its energy, a vector of the voice is computed every 0.75 s over 1.5 s, vectors
are merged from the bottom up (average linkage of cosine distances), and every frame of speech goes
to the speaker whose mean vector its windows are most like. One speaks at a time.
Letters: w windows, d width, k speakers, n frames, t samples.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster import hierarchy
from scipy.spatial import distance

from research.errors import InputError
from research.inference import inputs
from research.inference.activity import FRAME_SECONDS, Energy, runs
from research.inference.diarize import named
from research.inference.speakers import SpeakerEncoder, unit
from research.metrics.diarization import Segment

WINDOW, STEP = 1.5, 0.75
# Pairs of this number of windows take 1.6 GB.
MAX_WINDOWS = 20_000


@dataclasses.dataclass(frozen=True)
class ClusterDiarizer:
  """Segments of speakers by vectors of their voices.

  Attributes:
    encoder: of the vectors.
    speakers: how many there are; None: as `similarity` says.
    similarity: mean cosine between two groups of windows, below which they are two speakers.
    window, step: seconds.
    activity: what finds speech.

  Raises:
    InputError: neither or both of speakers and similarity, or numbers that cannot be.
  """

  encoder: SpeakerEncoder
  speakers: int | None = None
  similarity: float | None = None
  window: float = WINDOW
  step: float = STEP
  activity: Energy = dataclasses.field(default_factory=Energy)

  def __post_init__(self):
    if (self.speakers is None) == (self.similarity is None):
      raise InputError(
        'Voices are clustered: give speakers, how many there are, or similarity, the cosine below '
        'which two voices are two speakers (launch.verify --calibrate finds it), and not both.'
      )
    if self.speakers is not None and self.speakers < 1:
      raise InputError(f'speakers is {self.speakers}; expected 1 or more.')
    if self.similarity is not None and not -1 <= self.similarity <= 1:
      raise InputError(f'similarity is {self.similarity:g}; expected a cosine, -1 to 1.')
    shortest = self.encoder.min_samples / self.encoder.rate
    if not 0 < self.step <= self.window or self.window < shortest:
      raise InputError(
        f'Windows of {self.window:g} s every {self.step:g} s cannot be: a vector needs '
        f'{shortest:.2f} s, and windows may not leave gaps.'
      )

  def about(self) -> dict[str, Any]:
    """What its result depends on beside the weights, JSON-able."""
    names = ('speakers', 'similarity', 'window', 'step')
    activity = dataclasses.asdict(self.activity)
    return {**{name: getattr(self, name) for name in names}, 'activity': activity}

  def __call__(self, audio: inputs.Audio, sample_rate: float | None = None) -> list[Segment]:
    """Segments of a recording, a path or samples at `sample_rate` Hz; none where all is silent.

    Raises:
      InputError: it cannot be read, or is too short for a vector.
    """
    samples = inputs.samples_of(audio, sample_rate, self.encoder.model.frontend, 0, None)
    if len(samples) < self.encoder.min_samples:
      raise InputError(
        'The recording is too short for a vector of a speaker: '
        f'{len(samples) / self.encoder.rate:.2f} s, and '
        f'{self.encoder.min_samples / self.encoder.rate:.2f} s are needed.'
      )
    active = self.activity.frames(samples, self.encoder.rate)
    places, run = self.windows(active, len(samples))
    if not len(places):
      return []
    if len(places) > MAX_WINDOWS:
      raise InputError(
        f'The recording has {len(places)} windows of speech, of which {MAX_WINDOWS} can be '
        f'clustered: give step={self.step * len(places) / MAX_WINDOWS:.1f} or more, or cut it.'
      )
    x = self.encoder.vectors([samples[start:end] for start, end in places])
    labels = clusters(x, self.speakers, self.similarity)
    centres = places.mean(axis=1) / self.encoder.rate / FRAME_SECONDS
    return self._segments(active, assign(x, labels, centres, run, active), len(samples))

  def windows(
    self, active: np.ndarray, samples: int
  ) -> tuple[Int[np.ndarray, 'w 2'], Int[np.ndarray, ' w']]:
    """First and behind the last sample of every window: those of each run of speech, the last one
    at its end. A shorter run is one, without the silence around it but what a vector needs. And
    the number of the run of each."""
    rate, found, run = self.encoder.rate, [], []
    whole, step = round(self.window * rate), round(self.step * rate)
    for number, (first, last) in enumerate(runs(active)):
      low, high = (round(x * FRAME_SECONDS * rate) for x in (first, last))
      high = min(high, samples)
      size = max(min(whole, high - low), self.encoder.min_samples)
      if high - low <= size:
        starts = [max(0, min((low + high - size) // 2, samples - size))]
      else:
        starts = [*range(low, high - size, step), high - size]
      found += [(start, start + size) for start in starts]
      run += [number] * len(starts)
    return np.array(found, np.int64).reshape(-1, 2), np.array(run, np.int64)

  def _segments(self, active: np.ndarray, speaker: np.ndarray, samples: int) -> list[Segment]:
    seconds = samples / self.encoder.rate
    found = []
    for k in np.unique(speaker[active]):
      for a, b in runs(active & (speaker == k)):
        found.append(Segment(a * FRAME_SECONDS, min(b * FRAME_SECONDS, seconds), str(k)))
    return named(found)


def clusters(
  x: Float[np.ndarray, 'w d'], speakers: int | None = None, similarity: float | None = None
) -> Int[np.ndarray, ' w']:
  """The cluster of each vector, 0, 1, …: average linkage of cosine distances, cut at a number of
  clusters or where the mean cosine between two falls below `similarity`."""
  if len(x) == 1:
    return np.zeros(1, np.int64)
  apart = np.maximum(distance.pdist(np.asarray(x, np.float64), 'cosine'), 0.0)
  tree = hierarchy.linkage(apart, 'average')
  if speakers is not None:
    found = hierarchy.fcluster(tree, speakers, 'maxclust')
  else:
    found = hierarchy.fcluster(tree, 1.0 - float(similarity or 0.0), 'distance')
  return np.unique(found, return_inverse=True)[1].astype(np.int64)


def assign(
  x: Float[np.ndarray, 'w d'],
  labels: Int[np.ndarray, ' w'],
  centres: Float[np.ndarray, ' w'],
  run: Int[np.ndarray, ' w'],
  active: Bool[np.ndarray, ' n'],
) -> Int[np.ndarray, ' n']:
  """The speaker of every active frame, -1 of others: that of the highest cosine to the mean vector
  of a cluster, interpolated between the centres (in frames, ascending) of the windows of its run of
  active frames."""
  means = unit(np.stack([x[labels == k].mean(axis=0) for k in range(labels.max() + 1)]))
  scores = unit(x) @ means.T
  found = np.full(len(active), -1, np.int64)
  for number, (first, last) in enumerate(runs(active)):
    own = run == number
    times = np.arange(first, last) + 0.5
    each = [np.interp(times, centres[own], column) for column in scores[own].T]
    found[first:last] = np.argmax(each, axis=0)
  return found
