"""What is heard where in recordings of any length: labels with start, end and score.

Windows follow each other by a hop; the score of a hop is the mean over the windows that its middle
is in. A label is where its scores, median-filtered, are above one threshold and somewhere above a
higher one. Memory holds a window and the scores. Letters: n hops, c classes, s samples, w windows.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from research.audio import decode
from research.audio.clips import Source
from research.audio.example import Example
from research.errors import InputError, unknown
from research.inference import clip_rows, inputs, signal_files
from research.inference.classify import Classifier
from research.inference.clip_rows import Row
from research.jobs import folders

FIELDS = ('file', 'label', 'start', 'end', 'score')
HOP, THRESHOLD = 1.0, 0.5


class Tag(NamedTuple):
  """A label over a part of a recording: seconds, and its highest score there."""

  label: str
  start: float
  end: float
  score: float


class Tagger:
  """Labels of recordings.

  from research import weights
  tagger = Tagger(Classifier.of_model(weights.load('weights/ast')))
  for tag in tagger('street.wav'): print(tag)

  Attributes:
    classifier: of windows.
    names: the labels that are looked for.
    hop: seconds.
  """

  def __init__(
    self,
    classifier: Classifier,
    *,
    hop: float = HOP,
    names: Sequence[str] | None = None,
    threshold: float = THRESHOLD,
    low: float | None = None,
    median: float = 0.0,
    shortest: float = 0.0,
    gap: float = 0.0,
  ):
    """Args:
      classifier: of windows.
      hop: seconds from window to window, a window at most.
      names: of classes; None for all.
      threshold: that a score reaches somewhere.
      low: that it keeps from start to end; None for `threshold`.
      median: seconds over which scores are filtered.
      shortest: seconds; shorter ones are left out.
      gap: seconds; ones of a label that are no further apart become one.

    Raises:
      InputError: numbers that cannot be, or an unknown class.
    """
    low, rate = threshold if low is None else low, classifier.frontend.sample_rate
    self.step = round(hop * rate)
    if not 0 < self.step <= classifier.samples:
      raise InputError(
        f'hop={hop:g} s: expected more than 0 s and at most the window, '
        f'{classifier.samples / rate:g} s.'
      )
    if not low <= threshold or min(median, shortest, gap) < 0:
      raise InputError(
        f'low={low:g}, threshold={threshold:g}, median={median:g}, shortest={shortest:g}, '
        f'gap={gap:g}: low is at most the threshold, and seconds are 0 or more.'
      )
    for name in names or ():
      if name not in classifier.labels:
        raise unknown('class', name, classifier.labels)
    self.classifier, self.hop = classifier, self.step / rate
    self.names = tuple(classifier.labels if names is None else names)
    self.threshold, self.low = threshold, low
    self.median, self.shortest, self.gap = median, shortest, gap

  def about(self) -> dict[str, Any]:
    """What its result depends on beside the classifier, JSON-able."""
    names = ('hop', 'names', 'threshold', 'low', 'median', 'shortest', 'gap')
    return {'window': self.classifier.samples} | {name: getattr(self, name) for name in names}

  def __call__(self, audio: inputs.Audio, sample_rate: float | None = None) -> list[Tag]:
    """The labels of a recording, a path or samples at `sample_rate` Hz, by time.

    Raises:
      InputError: it cannot be read, or is below one frame.
    """
    samples = inputs.samples_of(audio, sample_rate, self.classifier.frontend, 0, None)
    scores, seconds = self.scores([samples])
    return self.tags(scores, seconds)

  def windows(
    self, blocks: Iterable[Float[np.ndarray, '_']]
  ) -> Iterator[tuple[int, Float[np.ndarray, '_']]]:
    """(first sample, samples) of the windows of a recording at the rate of the model; the last one
    ends with it, and a recording that is shorter than a window is one."""
    size, least = self.classifier.samples, self.classifier.frontend.min_samples
    held, first, start = np.zeros(0, np.float32), 0, 0
    for block in blocks:
      held = np.concatenate([held, block])
      end = first + len(held)
      while start + size <= end:
        yield start, held[start - first :][:size]
        start += self.step
      drop = max(0, min(start, end - size) - first)
      held, first = held[drop:], first + drop
    total = first + len(held)
    if total < least:
      raise InputError(f'It {inputs.too_short(total, self.classifier.frontend)}.')
    last = max(0, total - size)
    if not start or last > start - self.step:
      yield last, held[last - first :]

  def scores(
    self, blocks: Iterable[Float[np.ndarray, '_']]
  ) -> tuple[Float[np.ndarray, 'n c'], float]:
    """Scores of `names` in every hop, and the seconds of the recording.

    Raises:
      InputError: it is below one frame.
    """
    places: list[tuple[int, int]] = []

    def cuts() -> Iterator[np.ndarray]:
      for start, samples in self.windows(blocks):
        places.append((start, len(samples)))
        yield samples

    wanted = [self.classifier.labels.index(name) for name in self.names]
    found = [row[wanted] for _, row in self.classifier.batches(cuts())]
    total = max(start + length for start, length in places)
    middles = (np.arange(-(-total // self.step)) + 0.5) * self.step
    middles = np.minimum(middles, total - 0.5)
    summed = np.zeros((len(middles), len(wanted)), np.float64)
    count = np.zeros(len(middles))
    for (start, length), row in zip(places, found, strict=True):
      inside = slice(*np.searchsorted(middles, (start, start + length)))
      summed[inside] += row
      count[inside] += 1
    scores = (summed / count[:, None]).astype(np.float32)
    return scores, total / self.classifier.frontend.sample_rate

  def tags(self, scores: Float[np.ndarray, 'n c'], seconds: float) -> list[Tag]:
    """The labels in scores, by start and name."""
    size = 2 * int(self.median / self.hop / 2) + 1
    found = []
    for name, raw in zip(self.names, scores.T):
      x = ndimage.median_filter(raw, size, mode='nearest') if size > 1 else raw
      runs: list[list[int]] = []
      for first, end in _runs(x >= self.low):
        if x[first:end].max() < self.threshold:
          continue
        if runs and (first - runs[-1][1]) * self.hop <= self.gap:
          runs[-1][1] = end
        else:
          runs.append([first, end])
      for first, end in runs:
        start, stop = first * self.hop, min(end * self.hop, seconds)
        if stop - start >= self.shortest:
          found.append(Tag(name, start, stop, float(x[first:end].max())))
    return sorted(found, key=lambda tag: (tag.start, tag.label))


def _runs(inside: np.ndarray) -> Iterator[tuple[int, int]]:
  steps = np.diff(inside.astype(np.int8), prepend=0, append=0)
  yield from zip(np.flatnonzero(steps > 0).tolist(), np.flatnonzero(steps < 0).tolist())


# -- Files -------------------------------------------------------------------------------------


def tag_source(
  tagger: Tagger,
  source: Source,
  out: str | os.PathLike | None = None,
  *,
  seconds: Sequence[str] | None = None,
  about: Mapping[str, Any] | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
) -> list[Row]:
  """The labels of every recording of a source, into a file or a folder if one is named.

  A row is {id, seconds, found: [{label, start, end, score}]}, or {id, error} of a recording that
  was left out. Recordings are read in blocks.

  Args:
    tagger: the system.
    source: recordings.
    out: a .jsonl with the rows; a .csv, FIELDS of every label; or a folder of label tracks as
      Audacity opens them, NAME.txt of each recording, with files.jsonl.
    seconds: labels of which rows have the scores of every second too, 'scores' [[…], …].
    about, max_bad_fraction: see `clip_rows.run`.
    overwrite: whether what is there may be replaced.

  Raises:
    InputError: another ending, the file exists, and as `clip_rows.run`.
  """
  rate = tagger.classifier.frontend.sample_rate
  tracks = out is not None and not Path(out).suffix
  place: Path | None = None
  if out is not None and tracks:
    place = signal_files.open_folder(out, overwrite) / signal_files.LIST
  elif out is not None:
    place = folders.writable(out, ('.jsonl', '.csv'), overwrite)
  stems = signal_files.stems_of(source, 'txt') if tracks else []

  def one(row: int, example: Example) -> Row:
    kind = decode.kind(example)
    heard = signal_files.Heard(example, kind)
    blocks = signal_files.resampled(heard, kind.rate, rate)
    scores, length = tagger.scores(block.mean(axis=1) for block in blocks)
    if not heard.loudest:
      raise InputError('It is silent: all its samples are 0.')
    tags = tagger.tags(scores, length)
    found: Row = {
      'seconds': round(length, 3),
      'found': [
        {k: v if k == 'label' else round(v, 6) for k, v in tag._asdict().items()} for tag in tags
      ],
    }
    if tracks and place is not None:
      path = place.parent / f'{stems[row]}.txt'
      path.parent.mkdir(parents=True, exist_ok=True)
      folders.replace_text(path, audacity(tags))
    if seconds is not None:
      each = by_second(scores, tagger.hop, length)
      found['scores'] = np.round(each[:, [tagger.names.index(x) for x in seconds]], 5).tolist()
    return found

  def row_of(i: int, result: Any) -> Row:
    return {'id': source.id(i)} | ({'error': result} if isinstance(result, str) else result)

  def write(rows: list[Row]) -> Iterator[str]:
    kept = [{k: v for k, v in row.items() if k != 'scores'} for row in rows]
    return table(kept) if place is not None and place.suffix == '.csv' else clip_rows.jsonl(kept)

  how = dict(labels=list(tagger.classifier.labels), seconds=seconds, tracks=tracks)
  return clip_rows.run(
    clip_rows.each_example(one),
    source,
    row_of,
    place,
    write,
    doing='tagging',
    done='tagged',
    about={**(about or {}), **tagger.about(), **how},
    max_bad_fraction=max_bad_fraction,
  )


def table(rows: Sequence[Row]) -> Iterator[str]:
  """The lines of a .csv: FIELDS of every label of every recording."""
  for line in [FIELDS, *((r['id'], *x.values()) for r in rows for x in r.get('found', ()))]:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerow(line)
    yield text.getvalue()


def audacity(tags: Sequence[Tag]) -> str:
  """A label track: start, end and text of every label, between tabs."""
  return ''.join(
    f'{tag.start:.6f}\t{tag.end:.6f}\t{" ".join(tag.label.split())} {tag.score:.3f}\n'
    for tag in tags
  )


def by_second(
  scores: Float[np.ndarray, 'n c'], hop: float, seconds: float
) -> Float[np.ndarray, 'm c']:
  """Scores of every begun second: those of the hop that its middle is in."""
  middles = np.minimum(np.arange(int(np.ceil(seconds))) + 0.5, seconds)
  return scores[np.minimum((middles / hop).astype(int), len(scores) - 1)]


def read_reference(path: str | os.PathLike) -> dict[str, list[tuple[str, float, float]]]:
  """{recording: (label, start, end)} of a .csv with the columns file, label, start and end.

  Raises:
    InputError: it cannot be read, or has a line that is none.
  """
  place = Path(path).expanduser()
  found: dict[str, list[tuple[str, float, float]]] = {}
  try:
    lines = list(csv.DictReader(place.read_text(encoding='utf-8').splitlines()))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f'The reference {str(place)!r} cannot be read: {error}.') from None
  for number, line in enumerate(lines, 2):
    try:
      start, end = float(line['start']), float(line['end'])
      name, label = line['file'], line['label']
    except (KeyError, TypeError, ValueError):
      start, end, name, label = 1.0, 0.0, '', ''
    if not (0 <= start < end < float('inf') and name and label):
      raise InputError(
        f'{place}, line {number}: expected columns file, label, start and end with seconds from 0, '
        f'the end behind the start, not {dict(line)}.'
      )
    found.setdefault(name, []).append((label, start, end))
  if not found:
    raise InputError(f'The reference {str(place)!r} is empty: a line for each label is expected.')
  return found
