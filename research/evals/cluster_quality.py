"""How good units are: what they say about phones, words or speakers, and how evenly they are used.

With y the reference label and z the unit of a frame (HuBERT, Hsu et al. 2021, section IV-C):
phone purity = sum_z max_y p(y, z), the accuracy of naming every frame after its unit; cluster
purity = sum_y max_z p(y, z); PNMI = I(y; z) / H(y), the share of what there is to know about y that
z tells.

Units also tell speakers apart, and speakers say different things. Within speakers, with s the
speaker of a frame: I(y; z | s) / H(y | s), and purity sum_{s, z} max_y p(y, z, s). Both are those
of the frames at hand: with few frames a speaker they are too high.
"""

import csv
import dataclasses
import html
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from research.audio.units import Units
from research.errors import InputError, unknown
from research.evals import jobs, report, svg, tables
from research.evals.clustering import Row, occupancy, perplexity
from research.evals.page import page

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
  try:
    with open(path, newline='', encoding='utf-8-sig') as file:
      reader = csv.DictReader(file)
      missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
      if missing:
        raise InputError(
          f'{path} has no column {", ".join(missing)}: alignments need {", ".join(COLUMNS)}.'
        )
      for row in reader:
        start, end = _seconds(row['start']), _seconds(row['end'])
        if not (row['id'] and row['label'] and 0 <= start < end):
          raise InputError(
            f'{path}, line {reader.line_num}: expected an id, 0 <= start < end in seconds and a '
            f'label, not {", ".join(str(row[c]) for c in COLUMNS)}.'
          )
        label = numbers.setdefault(row['label'], len(numbers))
        spans.setdefault(row['id'], []).append((start, end, label))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f'The alignments {path} cannot be read ({error}).') from None
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
      f'PNMI {_share(row["pnmi"])}, purity {row["purity"]:.3f} '
      f'(largest class {row["majority"]:.3f})'
    )

  within = row.get('within_speakers')
  return said(row) + (f'; within speakers {said(within)}' if within else '')


def _share(value: float | None) -> str:
  return '–' if value is None else f'{value:.3f}'


# -- The page ----------------------------------------------------------------------------------


def write_page(
  path: str | os.PathLike,
  units: Units,
  found: Mapping[str, Any],
  *,
  history: Sequence[Row] = (),
  facts: Mapping[str, str] | None = None,
) -> Path:
  """Writes the report of some units.

  Args:
    path: the .html file.
    units: what it is about.
    found: of `quality`.
    history: of the fit, where there was one.
    facts: what else to say, name -> text.
  """
  path = Path(path)
  about = units.about
  sections = [
    _headline(units, found),
    _reference_section(found['references']),
    _occupancy_section(unit_counts(units)),
    _fit_section(history),
    _skipped_section(about.get('skipped') or {}),
    _facts_section({**(facts or {}), 'fingerprint': str(about['fingerprint'])}),
  ]
  title = f'{units.clusters} units of {_features(about)}'
  jobs.replace_text(path, page(title, [s for s in sections if s]))
  return path


def _features(about: Mapping[str, Any]) -> str:
  name = str(about.get('features', 'frames'))
  return name.upper() if name == 'mfcc' else f'{name}, layer {about.get("layer")}'


def _headline(units: Units, found: Mapping[str, Any]) -> str:
  tiles = [
    ('clips', f'{found["clips"]:,}'),
    ('of audio', _length(found['hours'])),
    ('units a second', svg.number(units.rate)),
    ('units in use', f'{found["in_use"]} of {found["clusters"]}'),
    ('perplexity', f'{found["perplexity"]:.1f}'),
    ('frames a run', f'{found["run_length"]:.2f}'),
  ]
  cells = ''.join(
    f'<div class="tile"><b>{html.escape(v)}</b><span>{html.escape(k)}</span></div>'
    for k, v in tiles
  )
  warning = ''
  if found['perplexity'] < 0.1 * found['clusters'] or found['in_use'] < 0.5 * found['clusters']:
    warning = (
      '<p class="warning">Few of the clusters hold most of the frames: the codebook has collapsed, '
      'or these are other data than it was fitted to.</p>'
    )
  return f'<div class="tiles">{cells}</div>{warning}'


def _length(hours: float) -> str:
  if hours >= 1:
    return f'{hours:,.1f} h'
  return f'{60 * hours:.1f} min' if hours >= 1 / 60 else f'{3600 * hours:.1f} s'


def _reference_section(references: Mapping[str, Mapping[str, Any]]) -> str:
  if not references:
    return ''
  header = ['', 'PNMI', 'purity', 'largest class', 'cluster purity', 'classes', 'frames']
  rows, own = [], []
  for name, row in references.items():
    shares = [_share(row[k]) for k in ('pnmi', 'purity', 'majority', 'cluster_purity')]
    rows.append([name, *shares, str(row['classes']), f'{row["frames"]:,}'])
    if within := row.get('within_speakers'):
      shares = [_share(within[k]) for k in ('pnmi', 'purity', 'majority')]
      own.append([name, *shares, f'{within["speakers"]:,}', f'{within["frames"]:,}'])
  text = (
    '<h2>What the units tell</h2>'
    + tables.Table('References', header, rows).html()
    + '<p class="note">PNMI: the share of the information about the label that the unit of a frame '
    'gives. Purity: how often a frame has the most frequent label of its unit; the share of the '
    'largest class is what it would be without units. Cluster purity: how often a frame has the '
    'most frequent unit of its label.</p>'
  )
  if not own:
    return text
  header = ['', 'PNMI', 'purity', 'largest class', 'speakers', 'frames']
  return (
    text
    + '<h3>Within speakers</h3>'
    + tables.Table('Within speakers', header, own).html()
    + '<p class="note">The same when the speaker of a frame is known already. With few frames a '
    'speaker the figures are too high: compare those of the same clips.</p>'
  )


def _occupancy_section(counts: Int[np.ndarray, 'k']) -> str:
  share = 100 * occupancy(counts)
  order = np.argsort(-share, kind='stable')
  even = 100 / len(share)
  title = 'Share of the frames in each cluster, largest first (%)'
  chart = svg.bars(
    share[order], title=title, x_label='cluster', mark=even, mark_label=f'even: {even:.3g} %'
  )
  few = [[str(i), f'{share[i]:.2f}', f'{counts[i]:,}'] for i in order]
  shown = few if len(few) <= 40 else few[:20] + few[-20:]
  name = 'All clusters' if len(few) <= 40 else 'The 20 largest and the 20 smallest clusters'
  table = tables.Table(name, ['cluster', 'share (%)', 'frames'], shown).html()
  return (
    f'<h2>How the clusters are used</h2><div class="charts">{_figure(title, chart)}</div>'
    f'<details><summary>{name}</summary>{table}</details>'
  )


def _fit_section(history: Sequence[Row]) -> str:
  if len(history) < 2:
    return ''
  steps = [row['step'] for row in history]
  inertia = {
    'mini-batch': (steps, [row['inertia'] for row in history]),
    'smoothed': (steps, [row['smoothed'] for row in history]),
  }
  charts = [_figure('Inertia a frame', svg.lines(inertia, title='Inertia', x_label='mini-batch'))]
  for name, text in (('perplexity', 'Perplexity of the clusters'), ('in_use', 'Clusters in use')):
    if len({row[name] for row in history}) == 1:
      continue  # a flat line says less than the tile above
    series = {name: (steps, [row[name] for row in history])}
    charts.append(_figure(text, svg.lines(series, title=text, x_label='mini-batch')))
  last = history[-1]
  said = (
    f'{last["step"]:,} mini-batches, {last["epoch"]:.2f} times through the data, '
    f'{last["restarts"]} dead clusters restarted.'
  )
  return f'<h2>The fit</h2><p>{said}</p><div class="charts">{"".join(charts)}</div>'


def _figure(caption: str, picture: str) -> str:
  return f'<figure><figcaption>{html.escape(caption)}</figcaption>{picture}</figure>'


def _skipped_section(skipped: Mapping[str, str]) -> str:
  rows = [{'id': name, 'reason': reason} for name, reason in skipped.items()]
  return report.bad_file_section(rows)


def _facts_section(facts: Mapping[str, str]) -> str:
  rows = [[name, text] for name, text in facts.items()]
  table = tables.Table('Where they come from', ['', ''], rows).html()
  return f'<details><summary>Where they come from</summary>{table}</details>'
