"""The page about discrete units: what they agree with, how they are occupied, how the fit went."""

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from research.audio.units import Units
from research.jobs import folders
from research.report import charts, run, tables
from research.report.page import page
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
  sections = [
    _headline(units, found),
    _reference_section(found['references']),
    _occupancy_section(unit_counts(units)),
    _fit_section(history),
    _skipped_section(about.get('skipped') or {}),
    _facts_section({**(facts or {}), 'fingerprint': str(about['fingerprint'])}),
  ]
  title = f'{units.clusters} units of {_features(about)}'
  folders.replace_text(path, page(title, [s for s in sections if s]))
  return path


def _features(about: Mapping[str, Any]) -> str:
  name = str(about.get('features', 'frames'))
  return name.upper() if name == 'mfcc' else f'{name}, layer {about.get("layer")}'


def _headline(units: Units, found: Mapping[str, Any]) -> str:
  tiles = [
    ('clips', f'{found["clips"]:,}'),
    ('of audio', _length(found['hours'])),
    ('units a second', charts.number(units.rate)),
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
    shares = [fraction_text(row[k]) for k in ('pnmi', 'purity', 'majority', 'cluster_purity')]
    rows.append([name, *shares, str(row['classes']), f'{row["frames"]:,}'])
    if within := row.get('within_speakers'):
      shares = [fraction_text(within[k]) for k in ('pnmi', 'purity', 'majority')]
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
  chart = charts.bars(
    share[order], title=title, x_label='cluster', mark=even, mark_label=f'even: {even:.3g} %'
  )
  few = [[str(i), f'{share[i]:.2f}', f'{counts[i]:,}'] for i in order]
  shown = few if len(few) <= 40 else few[:20] + few[-20:]
  name = 'All clusters' if len(few) <= 40 else 'The 20 largest and the 20 smallest clusters'
  table = tables.Table(name, ['cluster', 'share (%)', 'frames'], shown).html()
  return (
    f'<h2>How the clusters are used</h2><div class="drawn">{_figure(title, chart)}</div>'
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
  drawn = [_figure('Inertia a frame', charts.lines(inertia, title='Inertia', x_label='mini-batch'))]
  for name, text in (('perplexity', 'Perplexity of the clusters'), ('in_use', 'Clusters in use')):
    if len({row[name] for row in history}) == 1:
      continue  # a flat line says less than the tile above
    series = {name: (steps, [row[name] for row in history])}
    drawn.append(_figure(text, charts.lines(series, title=text, x_label='mini-batch')))
  last = history[-1]
  said = (
    f'{last["step"]:,} mini-batches, {last["epoch"]:.2f} times through the data, '
    f'{last["restarts"]} dead clusters restarted.'
  )
  return f'<h2>The fit</h2><p>{said}</p><div class="drawn">{"".join(drawn)}</div>'


def _figure(caption: str, picture: str) -> str:
  return f'<figure><figcaption>{html.escape(caption)}</figcaption>{picture}</figure>'


def _skipped_section(skipped: Mapping[str, str]) -> str:
  rows = [{'id': name, 'reason': reason} for name, reason in skipped.items()]
  return run.bad_file_section(rows)


def _facts_section(facts: Mapping[str, str]) -> str:
  rows = [[name, text] for name, text in facts.items()]
  table = tables.Table('Where they come from', ['', ''], rows).html()
  return f'<details><summary>Where they come from</summary>{table}</details>'
