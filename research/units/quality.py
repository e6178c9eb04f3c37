"""How good units are: what they say about phones, words or speakers, and how evenly they are used.

With y the reference label and z the unit of a frame (HuBERT, Hsu et al. 2021, section IV-C):
phone purity = sum_z max_y p(y, z), the accuracy of naming every frame after its unit; cluster
purity = sum_y max_z p(y, z); PNMI = I(y; z) / H(y), the share of what there is to know about y that
z tells.

Units also tell speakers apart, and speakers say different things. Within speakers, with s the
speaker of a frame: I(y; z | s) / H(y | s), and purity sum_{s, z} max_y p(y, z, s). Both are those
of the frames at hand: with few frames a speaker they are too high.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from research.audio import tables
from research.audio.units import Units
from research.errors import InputError, unknown
from research.units.clustering import occupancy, perplexity

COLUMNS = ('id', 'start', 'end', 'label')
# Columns of a source that are looked at when none is named.
USUAL = ('phone', 'word', 'digit', 'label', 'speaker')
SPEAKER = 'speaker'
# Frames that are counted at once.
_CELLS = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
  """What the frames of some clips are, by a name such as 'speaker'.

  Attributes:
    name: what tables call it.
    classes: names of the labels.
    of_clip: clip -> its label, where all its frames have the same one.
    spans: clip -> (start, end, label) of its parts, seconds.
  """

  name: str
  classes: Sequence[str]
  of_clip: Mapping[str, int] = dataclasses.field(default_factory=dict)
  spans: Mapping[str, Sequence[tuple[float, float, int]]] = dataclasses.field(default_factory=dict)

  def frames(self, clip: str, count: int, units: Units) -> Int[np.ndarray, 'n']:
    """The label of each of `count` frames of a clip; -1 where there is none."""
    labels = np.full(count, self.of_clip.get(clip, -1), np.int64)
    rate = units.about['sample_rate']
    middle = (np.arange(count) * units.about['hop'] + units.about['window'] / 2) / rate
    for start, end, label in self.spans.get(clip, ()):
      labels[(middle >= start) & (middle < end)] = label
    return labels


def of_column(source: Any, name: str) -> Reference:
  """A label column: every frame has the label of its clip. Clips without one have none.

  Raises:
    InputError: no such column, or its clips have several labels each.
  """
  values = source.column(name)
  if any(not isinstance(value, str) for value in values):
    raise InputError(
      f'The column {name!r} of {source.name!r} has several labels a clip: purity needs one.'
    )
  classes = sorted({value for value in values if value})
  numbers = {label: i for i, label in enumerate(classes)}
  found = {source.id(i): numbers[value] for i, value in enumerate(values) if value}
  return Reference(name, classes, of_clip=found)


def usual_columns(source: Any) -> list[str]:
  """Columns of a source that may say something: known names, one label a clip, two at least."""
  names = [name for name in USUAL if name in source.column_names]
  return [
    name
    for name in names
    if all(isinstance(v, str) for v in source.column(name)) and len(set(source.column(name))) > 1
  ]


def speakers_of(source: Any) -> Reference | None:
  """Who speaks in the clips of a source; None where that is not known, or one speaks in all."""
  if SPEAKER not in source.column_names:
    return None
  if any(not isinstance(value, str) for value in source.column(SPEAKER)):
    return None
  found = of_column(source, SPEAKER)
  return found if len(found.classes) > 1 else None


def of_alignments(path: str | os.PathLike, name: str = 'phone') -> Reference:
  """A table of alignments: a .csv with the columns id, start, end (seconds) and label.

  Raises:
    InputError: no such file, a column is missing, or a row cannot be.
  """
  path = Path(path)
  spans: dict[str, list[tuple[float, float, int]]] = {}
  numbers: dict[str, int] = {}
  if missing := [c for c in COLUMNS if c not in tables.header(path)]:
    raise InputError(
      f'{path} has no column {", ".join(missing)}: alignments need {", ".join(COLUMNS)}.'
    )
  for line, row in tables.rows(path):
    start, end = _seconds(row['start']), _seconds(row['end'])
    if not (row['id'] and row['label'] and 0 <= start < end):
      raise InputError(
        f'{path}, line {line}: expected an id, 0 <= start < end in seconds and a label, not '
        f'{", ".join(row[c] for c in COLUMNS)}.'
      )
    label = numbers.setdefault(row['label'], len(numbers))
    spans.setdefault(row['id'], []).append((start, end, label))
  if not spans:
    raise InputError(f'The alignments {path} have no rows.')
  return Reference(name, list(numbers), spans=spans)


def _seconds(text: str | None) -> float:
  try:
    return float(text or 'nan')
  except ValueError:
    return math.nan


# -- Figures -----------------------------------------------------------------------------------


def joint_counts(units: Units, reference: Reference) -> Int[np.ndarray, 'k c']:
  """Frames of every unit and label; clip by clip, so that memory does not grow with the data.

  Raises:
    InputError: no frame of any clip has a label.
  """
  counts = np.zeros((units.clusters, len(reference.classes)), np.int64)
  known = reference.spans if reference.spans else reference.of_clip
  for clip in units.ids:
    if clip not in known:
      continue
    codes = units[clip]
    labels = reference.frames(clip, len(codes), units)
    real = labels >= 0
    cells = codes[real].astype(np.int64) * counts.shape[1] + labels[real]
    counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
  if not counts.sum():
    if not any(clip in known for clip in units.ids) and known:
      raise InputError(
        f'None of the {len(known)} clips of the reference {reference.name!r} has units: '
        f'{unknown("clip", next(iter(known)), list(units.ids)[:1000])}'
      )
    raise InputError(f'No frame of any clip has a label of the reference {reference.name!r}.')
  return counts


def figures(counts: Int[np.ndarray, 'k c']) -> dict[str, float]:
  """Purities and PNMI of counts [unit, label].

  Returns:
    {frames, classes, purity, cluster_purity, pnmi, majority}: `purity` is phone purity where the
    labels are phones; `majority` is what it is without any units; PNMI is NaN for one class.
  """
  joint = np.asarray(counts, np.float64) / counts.sum()
  units, labels = joint.sum(axis=1), joint.sum(axis=0)
  cells = joint > 0
  information = (joint[cells] * np.log(joint[cells] / np.outer(units, labels)[cells])).sum()
  entropy = -(labels[labels > 0] * np.log(labels[labels > 0])).sum()
  return {
    'frames': int(counts.sum()),
    'classes': int((labels > 0).sum()),
    'purity': float(joint.max(axis=1).sum()),
    'cluster_purity': float(joint.max(axis=0).sum()),
    'pnmi': float(information / entropy) if entropy > 0 else math.nan,
    'majority': float(labels.max()),
  }


def within_speakers(
  units: Units, reference: Reference, speakers: Reference
) -> dict[str, float] | None:
  """Purity and PNMI within speakers, speaker by speaker: one's counts are held at a time.

  Args:
    units: of the clips.
    reference: the labels.
    speakers: who speaks in each clip.

  Returns:
    {frames, speakers, purity, pnmi, majority} as in `figures`, of the frames with a label and a
    speaker; None where there is none. PNMI is NaN where the speaker says the label.
  """
  known = reference.spans if reference.spans else reference.of_clip
  speaker = speakers.of_clip.__getitem__
  clips = (clip for clip in units.ids if clip in known and clip in speakers.of_clip)
  frames, count, best, largest, information, entropy = 0, 0, 0, 0, 0.0, 0.0
  for _, own in itertools.groupby(sorted(clips, key=speaker), key=speaker):
    cells, n = _cell_counts(units, reference, own)
    if not len(cells):
      continue
    unit, label = np.divmod(cells, len(reference.classes))
    starts = np.flatnonzero(np.diff(unit, prepend=-1))
    of_unit = np.repeat(np.add.reduceat(n, starts), np.diff(starts, append=len(unit)))
    of_label = np.bincount(label, weights=n)
    total = int(n.sum())
    frames, count = frames + total, count + 1
    best += int(np.maximum.reduceat(n, starts).sum())
    largest += int(of_label.max())
    information += float((n * np.log(n / of_unit * (total / of_label[label]))).sum())
    of_label = of_label[of_label > 0]
    entropy += float((of_label * np.log(total / of_label)).sum())
  if not frames:
    return None
  return {
    'frames': frames,
    'speakers': count,
    'purity': best / frames,
    'pnmi': information / entropy if entropy > 0 else math.nan,
    'majority': largest / frames,
  }


def _cell_counts(
  units: Units, reference: Reference, clips: Iterable[str]
) -> tuple[Int[np.ndarray, 'm'], Int[np.ndarray, 'm']]:
  """(unit * classes + label, rising, of the pairs that some clips have; frames of each)."""
  cells = n = np.zeros(0, np.int64)
  waiting: list[np.ndarray] = []

  def merged() -> tuple[np.ndarray, np.ndarray]:
    new = np.concatenate([np.zeros(0, np.int64), *waiting])
    found, place = np.unique(np.concatenate([cells, new]), return_inverse=True)
    weights = np.concatenate([n, np.ones(len(new), np.int64)])
    return found, np.bincount(place, weights=weights, minlength=len(found)).astype(np.int64)

  for clip in clips:
    codes = units[clip]
    labels = reference.frames(clip, len(codes), units)
    real = labels >= 0
    waiting.append(codes[real].astype(np.int64) * len(reference.classes) + labels[real])
    if sum(map(len, waiting)) >= _CELLS:
      (cells, n), waiting = merged(), []
  return merged()


def unit_counts(units: Units) -> Int[np.ndarray, 'k']:
  """Frames of every unit."""
  counts = np.zeros(units.clusters, np.int64)
  for start in range(0, len(units.codes), 2**24):
    counts += np.bincount(units.codes[start : start + 2**24], minlength=units.clusters)
  return counts


def quality(
  units: Units, references: Sequence[Reference], speakers: Reference | None = None
) -> dict[str, Any]:
  """Everything about some units, JSON-able.

  Args:
    units: of some clips.
    references: what they are compared with.
    speakers: of the clips, to compare within them.

  Returns:
    {clips, frames, hours, clusters, in_use, perplexity, run_length, largest, references}: hours of
    audio; `run_length` is frames from one change of the unit to the next, `largest` the share of
    the most used one; `references` is name -> `figures`, with {'within_speakers': …} of
    `within_speakers` where there are any and the reference is another.
  """
  counts = unit_counts(units)
  share = occupancy(counts)
  runs = sum(1 + int((np.diff(units[clip]) != 0).sum()) for clip in units.ids if len(units[clip]))
  frames = int(counts.sum())
  found: dict[str, dict[str, Any]] = {}
  for reference in references:
    found[reference.name] = _plain(figures(joint_counts(units, reference)))
    if speakers is not None and reference.name != speakers.name:
      within = within_speakers(units, reference, speakers)
      if within is not None:
        found[reference.name]['within_speakers'] = _plain(within)
  return {
    'clips': len(units),
    'frames': frames,
    'hours': frames / units.rate / 3600,
    'clusters': units.clusters,
    'in_use': int((counts > 0).sum()),
    'perplexity': perplexity(share),
    'run_length': frames / max(runs, 1),
    'largest': float(share.max()),
    'references': found,
  }


def _plain(values: Mapping[str, float]) -> dict[str, Any]:
  """JSON has no NaN."""
  return {k: None if v != v else v for k, v in values.items()}


def sentence(row: Mapping[str, Any]) -> str:
  """The figures of a reference, of `quality`, in a line."""

  def said(row: Mapping[str, Any]) -> str:
    return (
      f'PNMI {fraction_text(row["pnmi"])}, purity {row["purity"]:.3f} '
      f'(largest class {row["majority"]:.3f})'
    )

  within = row.get('within_speakers')
  return said(row) + (f'; within speakers {said(within)}' if within else '')


def fraction_text(value: float | None) -> str:
  return '–' if value is None else f'{value:.3f}'


# -- The page ----------------------------------------------------------------------------------
