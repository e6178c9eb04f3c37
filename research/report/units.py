"""The page about discrete units: what they agree with, how they are occupied, how the fit went."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from research.audio.units import Units
from research.jobs import folders
from research.report import charts, tables
from research.report.page import render
from research.units.clustering import Row, occupancy
from research.units.quality import fraction_text, unit_counts


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
  skipped = [dict(id=k, reason=v) for k, v in (about.get('skipped') or {}).items()]
  references, within_speakers = _references(found['references'])
  occupied, clusters = _occupancy(unit_counts(units))
  origin = {**(facts or {}), 'fingerprint': str(about['fingerprint'])}
  page = render(
    'units.html',
    title=f'{units.clusters} units of {_features(about)}',
    tiles=_tiles(units, found),
    collapsed=(
      found['perplexity'] < 0.1 * found['clusters'] or found['in_use'] < 0.5 * found['clusters']
    ),
    references=references,
    within_speakers=within_speakers,
    occupancy=occupied,
    clusters=clusters,
    fit=_fit(history),
    bad_files=tables.bad_files(skipped),
    facts=tables.Table('Where they come from', ['', ''], [list(row) for row in origin.items()]),
  )
  folders.replace_text(path, page)
  return path


def _features(about: Mapping[str, Any]) -> str:
  name = str(about.get('features', 'frames'))
  return name.upper() if name == 'mfcc' else f'{name}, layer {about.get("layer")}'


def _tiles(units: Units, found: Mapping[str, Any]) -> list[tuple[str, str]]:
  return [
    ('clips', f'{found["clips"]:,}'),
    ('of audio', _length(found['hours'])),
    ('units a second', charts.number(units.rate)),
    ('units in use', f'{found["in_use"]} of {found["clusters"]}'),
    ('perplexity', f'{found["perplexity"]:.1f}'),
    ('frames a run', f'{found["run_length"]:.2f}'),
  ]


def _length(hours: float) -> str:
  if hours >= 1:
    return f'{hours:,.1f} h'
  return f'{60 * hours:.1f} min' if hours >= 1 / 60 else f'{3600 * hours:.1f} s'


def _references(
  references: Mapping[str, Mapping[str, Any]],
) -> tuple[tables.Table, tables.Table]:
  """How well the units agree with each reference: over all frames, and within speakers."""
  rows, own = [], []
  for name, row in references.items():
    scores = [fraction_text(row[k]) for k in ('pnmi', 'purity', 'majority', 'cluster_purity')]
    rows.append([name, *scores, str(row['classes']), f'{row["frames"]:,}'])
    if within := row.get('within_speakers'):
      scores = [fraction_text(within[k]) for k in ('pnmi', 'purity', 'majority')]
      own.append([name, *scores, f'{within["speakers"]:,}', f'{within["frames"]:,}'])
  header = ['', 'PNMI', 'purity', 'largest class']
  return (
    tables.Table('References', [*header, 'cluster purity', 'classes', 'frames'], rows),
    tables.Table('Within speakers', [*header, 'speakers', 'frames'], own),
  )


def _occupancy(counts: Int[np.ndarray, 'k']) -> tuple[charts.Chart, tables.Table]:
  """How many frames each cluster has: all of them drawn, few of them listed."""
  percent = 100 * occupancy(counts)
  order = np.argsort(-percent, kind='stable')
  even = 100 / len(percent)
  figure = charts.bars(
    percent[order], x_label='cluster', mark=even, mark_label=f'even: {even:.3g} %'
  )
  rows = [[str(i), f'{percent[i]:.2f}', f'{counts[i]:,}'] for i in order]
  few = len(rows) <= 40
  name = 'All clusters' if few else 'The 20 largest and the 20 smallest clusters'
  listed = rows if few else rows[:20] + rows[-20:]
  return (
    charts.chart(figure, 'Frames of each cluster, largest first (%)'),
    tables.Table(name, ['cluster', 'frames (%)', 'frames'], listed),
  )


def _fit(history: Sequence[Row]) -> dict[str, Any]:
  """How the fit went: text, charts; nothing where there was none."""
  if len(history) < 2:
    return {}
  steps = [row['step'] for row in history]
  inertia = {
    'mini-batch': (steps, [row['inertia'] for row in history]),
    'smoothed': (steps, [row['smoothed'] for row in history]),
  }
  drawn = [charts.chart(charts.lines(inertia, x_label='mini-batch'), 'Inertia a frame')]
  for name, caption in (
    ('perplexity', 'Perplexity of the clusters'),
    ('in_use', 'Clusters in use'),
  ):
    if len({row[name] for row in history}) == 1:
      continue  # a flat line says less than the tile above
    series = {name: (steps, [row[name] for row in history])}
    drawn.append(charts.chart(charts.lines(series, x_label='mini-batch'), caption))
  last = history[-1]
  text = (
    f'{last["step"]:,} mini-batches, {last["epoch"]:.2f} times through the data, '
    f'{last["restarts"]} dead clusters restarted.'
  )
  return dict(text=text, charts=drawn)
