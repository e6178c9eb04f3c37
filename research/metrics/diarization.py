"""Who spoke when: segments, RTTM, the diarization error rate.

Definitions are those of NIST's md-eval (version 22) and of dscore, which calls it; they differ in
the region that is scored (`extent`). Letters: n frames, k speakers, b clips.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, signal

from research.errors import InputError, unknown

EXTENTS = ('joint', 'reference')
# SUPERB's search (s3prl diarization/score.sh): its lowest error on the test set is reported.
THRESHOLDS, MEDIANS = (0.3, 0.4, 0.5, 0.6, 0.7), (1, 11)


class Segment(NamedTuple):
  """One speaker from `start` to `end`, seconds."""

  start: float
  end: float
  speaker: str


@dataclasses.dataclass(frozen=True)
class DiarizationErrors:
  """Seconds of speaker time; recordings are added with `+`.

  Attributes:
    scored: of reference speakers in the scored regions, a second with two speakers counts twice.
    missed: of reference speakers without a hypothesis speaker.
    false_alarm: of hypothesis speakers without a reference speaker.
    confusion: of reference speakers given to a wrong one.
  """

  scored: float = 0.0
  missed: float = 0.0
  false_alarm: float = 0.0
  confusion: float = 0.0

  def __add__(self, other: 'DiarizationErrors') -> 'DiarizationErrors':
    names = [f.name for f in dataclasses.fields(self)]
    return DiarizationErrors(*(getattr(self, n) + getattr(other, n) for n in names))

  @property
  def rate(self) -> float:
    """DER, a fraction; without reference speech 0, or infinite where there are false alarms."""
    wrong = self.missed + self.false_alarm + self.confusion
    if self.scored:
      return wrong / self.scored
    return float('inf') if wrong else 0.0


def diarization_errors(
  reference: Sequence[Segment],
  hypothesis: Sequence[Segment],
  *,
  collar: float = 0.0,
  overlap: bool = True,
  extent: str = 'joint',
  regions: Sequence[tuple[float, float]] | None = None,
) -> DiarizationErrors:
  """Errors of one recording.

  Speakers are mapped one to one so that their common time in the whole scored region, collars and
  overlapped speech included, is longest.

  Args:
    reference: what was said; segments of one speaker may overlap.
    hypothesis: what was found; the names of its speakers are its own.
    collar: seconds on each side of every reference boundary that are not scored.
    overlap: whether regions with several reference speakers are scored.
    extent: without `regions`, what is scored: from the first to the last boundary of reference and
      hypothesis ('joint': dscore, SUPERB, pyannote) or of the reference alone ('reference': md-eval
      without a UEM).
    regions: scored regions [start, end), as a UEM gives them.

  Raises:
    InputError: the extent is unknown, the collar negative, or a segment ends before it starts.
  """
  if extent not in EXTENTS:
    raise unknown('extent of a diarization error', extent, EXTENTS)
  if collar < 0:
    raise InputError(f'collar is {collar} s: 0 or more is expected.')
  reference, hypothesis = ([Segment(*s) for s in x] for x in (reference, hypothesis))
  for segment in (*reference, *hypothesis):
    if not segment.start <= segment.end:
      raise InputError(f'A segment ends before it starts: {segment}.')
  if regions is None:
    given = reference if extent == 'reference' else [*reference, *hypothesis]
    regions = [(min(s.start for s in given), max(s.end for s in given))] if given else []
  edges = {x for s in (*reference, *hypothesis) for x in (s.start, s.end)}
  edges |= {x for region in regions for x in region}
  bounds = {x for s in reference for x in (s.start, s.end)}
  if collar:
    edges |= {x + sign * collar for x in bounds for sign in (-1, 1)}
  times = np.array(sorted(edges))
  lengths = np.diff(times)
  middle = times[:-1] + lengths / 2
  lengths = lengths * _inside(middle, regions)
  first, second = _activity(reference, middle), _activity(hypothesis, middle)
  paired = _map((first * lengths) @ second.T)
  scored = np.ones(len(middle), bool)
  if collar:
    scored &= ~_inside(middle, [(x - collar, x + collar) for x in bounds])
  if not overlap:
    scored &= first.sum(0) <= 1
  weight = lengths * scored
  said, found = first.sum(0), second.sum(0)
  both = sum((first[i] * second[j] for i, j in paired), np.zeros(len(middle)))
  return DiarizationErrors(
    scored=float(weight @ said),
    missed=float(weight @ np.maximum(said - found, 0)),
    false_alarm=float(weight @ np.maximum(found - said, 0)),
    confusion=float(weight @ (np.minimum(said, found) - both)),
  )


def jaccard_error(reference: Sequence[Segment], hypothesis: Sequence[Segment]) -> float:
  """JER, a fraction: 1 - |both| / |either| of each reference speaker and the one mapped to it,
  averaged over reference speakers (DIHARD II; dscore). nan without a reference speaker."""
  edges = sorted({x for s in (*reference, *hypothesis) for x in (s[0], s[1])})
  times = np.array(edges)
  lengths, middle = np.diff(times), (times[1:] + times[:-1]) / 2
  first, second = (_activity([Segment(*s) for s in x], middle) for x in (reference, hypothesis))
  if not len(first):
    return float('nan')
  both = (first * lengths) @ second.T
  either = (first @ lengths)[:, None] + (second @ lengths)[None] - both
  error = 1.0 - both / np.maximum(either, np.finfo(float).tiny)
  rows, columns = optimize.linear_sum_assignment(error)
  return float((error[rows, columns].sum() + len(first) - len(rows)) / len(first))


def _inside(times: np.ndarray, regions: Iterable[tuple[float, float]]) -> np.ndarray:
  found = np.zeros(len(times), bool)
  for start, end in regions:
    found |= (times >= start) & (times < end)
  return found


def _activity(segments: Sequence[Segment], times: np.ndarray) -> np.ndarray:
  """[k, n] {0, 1}: which speakers, by name, are active at each time."""
  names = sorted({s.speaker for s in segments})
  own = [[(s.start, s.end) for s in segments if s.speaker == name] for name in names]
  rows = [_inside(times, regions) for regions in own]
  return np.array(rows, np.float64).reshape(len(names), len(times))


def _map(together: np.ndarray) -> list[tuple[int, int]]:
  """Pairs (reference, hypothesis) with the longest time together; none without any."""
  rows, columns = optimize.linear_sum_assignment(-together)
  return [(i, j) for i, j in zip(rows.tolist(), columns.tolist()) if together[i, j] > 0]


# -- From frames -------------------------------------------------------------------------------


def frames_to_segments(
  probability: Float[np.ndarray, 'n k'],
  *,
  threshold: float = 0.5,
  median: int = 1,
  frame_seconds: float = 0.02,
  names: Sequence[str] | None = None,
) -> list[Segment]:
  """Runs of active frames (s3prl diarization/make_rttm.py).

  Args:
    probability: of every speaker; a frame is active above the threshold.
    threshold: of the decision.
    median: frames of the median filter over decisions, odd; beyond the ends nobody speaks.
    frame_seconds: from one frame to the next.
    names: of the speakers; '0', '1', … by default.

  Raises:
    InputError: the median filter has an even length.
  """
  if median < 1 or median % 2 == 0:
    raise InputError(f'median is {median}: an odd number of frames is expected.')
  names = [str(i) for i in range(probability.shape[1])] if names is None else names
  found = []
  for name, column in zip(names, (probability > threshold).T.astype(np.float64), strict=True):
    column = signal.medfilt(column, median) if median > 1 else column
    steps = np.diff(column, prepend=0.0, append=0.0)
    starts, ends = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0)
    found += [
      Segment(s * frame_seconds, e * frame_seconds, name)
      for s, e in zip(starts.tolist(), ends.tolist())
    ]
  return found


def frame_counts(
  active: np.ndarray, label: np.ndarray, lengths: Sequence[int] | np.ndarray
) -> dict[str, float]:
  """Frame errors of a batch whose speakers are in one order (EEND's calc_diarization_error).

  Args:
    active: decisions, bool [b, n, k].
    label: bool or {0, 1} [b, n, k], columns in the order of the decisions.
    lengths: real frames of each clip [b].

  Returns:
    'correct' (mean over speakers) of 'frames'; 'speech_scored', 'speech_miss', 'speech_falarm' in
    frames; 'speaker_scored', 'speaker_miss', 'speaker_falarm', 'speaker_error' in frames of a
    speaker; 'accuracy' and 'der', fractions.
  """
  lengths = np.asarray(lengths)
  real = np.arange(label.shape[1]) < lengths[:, None]
  label, active = (np.asarray(x, bool) & real[:, :, None] for x in (label, active))
  said, found = label.sum(2), active.sum(2)
  counts = {
    'correct': ((label == active) & real[:, :, None]).sum() / label.shape[2],
    'frames': lengths.sum(),
    'speech_scored': (said > 0).sum(),
    'speech_miss': ((said > 0) & (found == 0)).sum(),
    'speech_falarm': ((said == 0) & (found > 0)).sum(),
    'speaker_scored': said.sum(),
    'speaker_miss': np.maximum(said - found, 0).sum(),
    'speaker_falarm': np.maximum(found - said, 0).sum(),
    'speaker_error': (np.minimum(said, found) - (label & active).sum(2)).sum(),
  }
  wrong = sum(counts[f'speaker_{name}'] for name in ('miss', 'falarm', 'error'))
  counts['accuracy'] = counts['correct'] / counts['frames']
  counts['der'] = wrong / counts['speaker_scored'] if counts['speaker_scored'] else np.nan
  return {name: float(value) for name, value in counts.items()}


# -- RTTM --------------------------------------------------------------------------------------


def rttm_text(recordings: Mapping[str, Sequence[Segment]]) -> str:
  """Lines of an RTTM file, times with two decimals (as kaldi and s3prl write them)."""
  return ''.join(
    f'SPEAKER {name} 1 {s.start:7.2f} {s.end - s.start:7.2f} <NA> <NA> {s.speaker} <NA>\n'
    for name, segments in recordings.items()
    for s in segments
  )


def parse_rttm(text: str, name: str = 'RTTM') -> dict[str, list[Segment]]:
  """Segments of every recording of an RTTM text; lines of other types than SPEAKER are left out.

  Args:
    text: as a file has it.
    name: of the file, for errors.

  Raises:
    InputError: a line is none of an RTTM file.
  """
  found: dict[str, list[Segment]] = {}
  for number, line in enumerate(text.splitlines(), start=1):
    fields = line.split()
    if not fields or fields[0] != 'SPEAKER':
      continue
    try:
      start, seconds, speaker = float(fields[3]), float(fields[4]), fields[7]
    except (IndexError, ValueError):
      raise InputError(
        f'{name}, line {number}: expected "SPEAKER recording channel start seconds <NA> <NA> '
        f'speaker …", found {line!r}.'
      ) from None
    found.setdefault(fields[1], []).append(Segment(start, start + seconds, speaker))
  return found
