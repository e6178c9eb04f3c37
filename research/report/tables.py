"""Score tables; Markdown and pages have the same cells."""

import dataclasses
import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.report.charts import number
from research.report.published import PROTOCOLS as PUBLISHED_NAMES

KINDS = {'model': 0, 'published': 1, 'random': 2, 'logmel': 3}
PROTOCOL_NAMES = {
  'probe': 'Linear probe',
  'evar': 'Linear probe as in EVAR',
  'logistic': 'Linear probe at its optimum (logistic regression)',
  'knn': 'Nearest neighbours',
  'finetune': 'Fine-tuning',
}


@dataclasses.dataclass(frozen=True)
class Table:
  """A table: the first column names its row; `best` holds the (row, column) cells to stress."""

  title: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  best: frozenset[tuple[int, int]] = frozenset()

  def markdown(self) -> str:
    """GitHub's table syntax under a heading."""
    rule = ['---', *['---:'] * (len(self.header) - 1)]
    lines = [f'### {self.title}', '', _line(self.header), _line(rule)]
    for r, row in enumerate(self.rows):
      lines.append(_line([f'**{c}**' if (r, i) in self.best else c for i, c in enumerate(row)]))
    return '\n'.join(lines) + '\n'


def _line(cells: Sequence[str]) -> str:
  return '| ' + ' | '.join(map(_cell, cells)) + ' |'


def _cell(text: str) -> str:
  """Text in a cell: names of classes and systems must not end it, nor become HTML."""
  return ' '.join(html.escape(text, quote=False).replace('|', '\\|').split())


def score_text(row: Mapping[str, Any]) -> str:
  """'87.3 ± 1.2' in percent, or plain for metrics that are no fraction of 1."""
  scale, digits = (1.0, 3) if row['metric'] == 'd_prime' else (100.0, 1)
  text = f'{row["score"] * scale:.{digits}f}'
  return text if row.get('ci') is None else f'{text} ± {row["ci"] * scale:.{digits}f}'


# Which published figures stand beside which of ours.
BESIDE = {'finetune': ('finetune',)}
LINEAR = ('evar', 'hear')


def comparison(
  rows: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]] = ()
) -> list[Table]:
  """One table a protocol: systems down, tasks across, the best of each task stressed.

  Published scores come last, labelled so, with what the system learned from; none is stressed.
  """
  tables = []
  for protocol in dict.fromkeys(row['protocol'] for row in rows):
    mine = [row for row in rows if row['protocol'] == protocol]
    task_names = list(dict.fromkeys(row['task'] for row in mine))
    systems = dict.fromkeys((KINDS.get(row['kind'], 9), row['system']) for row in mine)
    cells = {(row['system'], row['task']): row for row in mine}
    body, best = [], set()
    order = [name for _, name in sorted(systems, key=lambda s: s[0])]
    for name in order:
      found = [cells.get((name, task)) for task in task_names]
      body.append([name, *('' if row is None else score_text(row) for row in found)])
    others = [p for p in published if p['protocol'] in BESIDE.get(protocol, LINEAR)]
    for name in dict.fromkeys(p['system'] for p in others):
      each = {p['task']: p for p in others if p['system'] == name}
      about = next(iter(each.values()))
      label = f'{name} (published: {PUBLISHED_NAMES[about["protocol"]]}; {about["supervision"]})'
      cells_of = [f'{100 * each[t]["score"]:.1f}' if t in each else '' for t in task_names]
      if any(cells_of):
        body.append([label, *cells_of])
    for column, task in enumerate(task_names, start=1):
      scored = [cells[name, task]['score'] if (name, task) in cells else -1.0 for name in order]
      best |= {(r, column) for r, s in enumerate(scored) if s == max(scored)}
    metric = {row['task']: row['metric'] for row in mine}
    header = ['', *(f'{task} ({metric[task].replace("_", " ")})' for task in task_names)]
    tables.append(Table(PROTOCOL_NAMES.get(protocol, protocol), header, body, frozenset(best)))
  return tables


def differences(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
  """Models minus baselines, in points of accuracy; one table a protocol.

  ± is the 95 % interval over the test clips that both classified (paired, normal approximation).
  Stressed: intervals without 0.
  """
  tables = []
  for protocol in dict.fromkeys(row['protocol'] for row in rows):
    mine = [row for row in rows if row['protocol'] == protocol and row.get('correct')]
    task_names = list(dict.fromkeys(row['task'] for row in mine))
    cells = {(row['system'], row['task']): row for row in mine}
    names = {kind: dict.fromkeys(r['system'] for r in mine if (r['kind'] == 'model') == kind)
             for kind in (True, False)}  # fmt: skip
    body: list[list[str]] = []
    best: set[tuple[int, int]] = set()
    for model, baseline in itertools.product(names[True], names[False]):
      line = [f'{model} above {baseline}']
      for column, task in enumerate(task_names, start=1):
        found = paired(cells.get((model, task)), cells.get((baseline, task)))
        line.append('' if found is None else f'{100 * found[0]:+.1f} ± {100 * found[1]:.1f}')
        if found is not None and abs(found[0]) > found[1]:
          best.add((len(body), column))
      body.append(line)
    if body:
      tables.append(Table('Differences, clip by clip', ['', *task_names], body, frozenset(best)))
  return tables


def paired(
  row: Mapping[str, Any] | None, other: Mapping[str, Any] | None
) -> tuple[float, float] | None:
  """Difference of two accuracies and half its 95 % interval; None where the test clips differ."""
  if row is None or other is None or row['split']['hash'] != other['split']['hash']:
    return None
  mine, theirs = (np.array([list(s) for s in r['correct']]) == '1' for r in (row, other))
  if mine.shape[1] != theirs.shape[1]:  # a clip could not be read
    return None
  each = mine.mean(axis=0) - theirs.mean(axis=0)
  return float(each.mean()), float(1.96 * each.std(ddof=1) / len(each) ** 0.5)


def sensitivity(rows: Sequence[Mapping[str, Any]]) -> Table | None:
  """How much the settings matter: test scores over the grid that validation chose from; None where
  no grid was scored on test."""
  header = [
    'task', 'system', 'protocol', 'settings', 'chosen', 'best of the grid', 'median', 'worst',
    'lr a step off', 'wd a step off', 'penalty a step off', 'k a step off',
  ]  # fmt: skip
  body = []
  for row in rows:
    if (found := row.get('sensitivity')) is None:
      continue
    scale = 1.0 if row['metric'] == 'd_prime' else 100.0
    off = found['adjacent']
    names = ('learning_rate', 'weight_decay', 'penalty', 'neighbours')
    values = [found[k] for k in ('chosen', 'best', 'median', 'worst')] + [off.get(k) for k in names]
    body.append(
      [
        row['task'],
        row['system'],
        row['protocol'],
        str(found['settings']),
        *('' if v is None else f'{scale * v:.1f}' for v in values),
      ]
    )
  return Table('How much the settings matter (test scores)', header, body) if body else None


def bad_files(rows: Sequence[Mapping[str, Any]]) -> Table | None:
  """Files that could not be used, the first 100 of them; None where there are none."""
  # A list also has marks of runs that were stopped; after one, a file may be listed again.
  rows = list({row['id']: row for row in rows if 'id' in row}.values())
  body = [[str(r.get('path') or r['id']), str(r.get('reason'))] for r in rows[:100]]
  title = f'Files that could not be used: {len(rows):,}'
  return Table(title, ['file', 'reason'], body) if body else None


def absent(reasons: Mapping[str, str]) -> Table | None:
  """The tasks of a suite that were not scored, and why; None where all were."""
  body = [[name, reason] for name, reason in reasons.items()]
  return Table('Not scored', ['task', 'why, and what prepares it'], body) if body else None


def per_class(row: Mapping[str, Any]) -> Table:
  """The score of each class, the best first."""
  what = 'recall' if 'confusion' in row else 'average precision'
  found = sorted(((v, name) for name, v in row['per_class'].items() if v is not None), reverse=True)
  title = f'{row["task"]}, {row["protocol"]}: {what} of each class, {row["system"]}'
  return Table(title, ['class', f'{what} (%)'], [[name, f'{100 * v:.1f}'] for v, name in found])


def details(rows: Sequence[Mapping[str, Any]]) -> Table:
  """What each score was made of."""
  header = [
    'task', 'system', 'protocol', 'score', '95 % CI over', '± by clips', 'chosen', 'layer',
    'pooling', 'clips', 'missing', 'split', 'split hash', 'weights', 'seconds',
  ]  # fmt: skip
  body = []
  for row in rows:
    weights = row['weights'] if isinstance(row['weights'], str) else ' '.join(row['weights'])
    body.append(
      [
        row['task'],
        row['system'],
        row['protocol'],
        score_text(row),
        f'{_count(row)} {row["ci_over"]}' if row.get('ci') is not None else '',
        f'{100 * row["accuracy_ci_clips"]:.1f}' if 'accuracy_ci_clips' in row else '',
        _chosen(row),
        _several(row['layers']),
        row['pool'].replace('_', ' + '),
        str(row['clips']),
        str(row['clips_missing']),
        row['split']['origin'],
        row['split']['hash'],
        weights[:12],
        f'{row["wall_seconds"]:.1f} + {row["embed_seconds"]:.1f}',
      ]
    )
  return Table('How each score was made', header, body)


def _count(row: Mapping[str, Any]) -> int:
  if row['ci_over'] == 'test clips':
    return len(row['correct'][0])
  return len(row['values']) if row['ci_over'] in ('folds', 'inits') else len(row['values'][0])


def _chosen(row: Mapping[str, Any]) -> str:
  """Settings chosen on validation; several folds may have chosen differently."""
  names = {
    'learning_rate': 'lr', 'lr': 'lr', 'weight_decay': 'wd', 'penalty': 'penalty',
    'neighbours': 'k', 'steps': 'steps',
  }  # fmt: skip
  parts = []
  for key, short in names.items():
    values = [number(c[key]) for c in row['chosen'] if key in c]
    if values:
      parts.append(f'{short} {_several(values)}')
  return ', '.join(parts)


def _several(values: Sequence[str]) -> str:
  return '/'.join(dict.fromkeys(values))


def _some(names: Sequence[str], limit: int = 5) -> str:
  return ', '.join(names[:limit]) + (' …' if len(names) > limit else '')


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """What a reader has to know before comparing: splits of ours, missing clips, a grid too short.

  What is true of several scores is said once, after all of their names.
  """
  found: dict[str, dict[str, None]] = {}

  def say(of: str, what: str) -> None:
    found.setdefault(what, {})[of] = None

  for row in rows:
    where = f'{row["task"]}, {row["system"]} ({row["protocol"]})'
    if row['split']['origin'].startswith('seeded'):
      say(row['task'], f'the split is {row["split"]["origin"]}.')
    if (statistics := row.get('statistics')) and row['kind'] == 'model':
      say(
        f'{row["task"]}, {row["system"]}',
        f'normalised by the statistics of {statistics["clips"]:,} {statistics["of"]}.',
      )
    if (dropped := row.get('clips_dropped')) and not row.get('as_published'):
      say(row['task'], f'{dropped:,} clips without a label or a part of the split are left out.')
    for lack, what in (
      ('untrained', 'tested without a training clip, and cannot be told'),
      ('untested', 'without a test clip'),
    ):
      if classes := row.get('classes_without_clips', {}).get(lack):
        say(
          row['task'], f'{len(classes)} of {len(row["classes"])} classes {what}: {_some(classes)}.'
        )
    lost = row.get('attrition', {})
    if lost.get('absent'):
      parts = ', '.join(f'{n:,} of {part}' for part, n in lost['absent'].items())
      percent = 100 * sum(lost['absent'].values()) / lost['listed']
      say(
        row['task'],
        f'{parts} in the published lists have no audio file here ({percent:.1f} % of all): scores '
        'on what is left are not those on the whole.',
      )
    if (listed := lost.get('clip_list')) is not None:
      say(
        where,
        f'on the clip list {listed["hash"]} of {listed["clips"]:,} clips, '
        f'{listed["absent"] + row["clips_missing"]:,} of them absent here.',
      )
    if row['clips_missing']:
      say(where, f'{row["clips_missing"]} of {row["clips"]} clips could not be used.')
    edges = sorted({e for c in row['chosen'] for e in c.get('at_edge', ())})
    if edges and row['kind'] == 'model':
      names = ' and '.join(e.replace('_', ' ') for e in edges)
      say(
        where,
        f'the {names} at the end of the grid won by over a point in a fold; a wider grid may score '
        'higher.',
      )
  return [f'{"; ".join(of)}: {what}' for what, of in found.items()]
