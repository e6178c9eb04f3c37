"""SUPERB as a page: the table beside the leaderboard's rows, the weights of the layers, the curves
of the heads, what each score cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from research.metrics import superb
from research.report import charts, page, superb_board
from research.report.tables import Table

# (recipe, metric) -> the leaderboard's name, and what it multiplies by.
BOARD: dict[tuple[str, str], tuple[str, float]] = {
  ('PR', 'per'): ('PR_per', 100.0),
  ('KS', 'accuracy'): ('KS_acc', 100.0),
  ('IC', 'accuracy'): ('IC_acc', 100.0),
  ('SID', 'accuracy'): ('SID_acc', 100.0),
  ('ER', 'accuracy'): ('ER_acc', 100.0),
  ('ASR', 'wer'): ('ASR_wer', 100.0),
  ('ASR', 'wer_lm'): ('ASR_LM_wer', 100.0),
  ('QbE', 'mtwv'): ('QbE_mtwv', 100.0),
  ('SF', 'slot_type_f1'): ('SF_f1', 100.0),
  ('SF', 'slot_value_cer'): ('SF_cer', 100.0),
  ('ASV', 'eer'): ('SV_eer', 100.0),
  ('SD', 'der'): ('SD_der', 100.0),
  ('ST', 'bleu'): ('ST_bleu', 1.0),
  ('SE', 'pesq'): ('SE_pesq', 1.0),
  ('SE', 'stoi'): ('SE_stoi', 100.0),
  ('SS', 'si_sdri'): ('SS_sisdri', 1.0),
}
# Metrics that are no fraction of 1.
PLAIN = ('pesq', 'si_sdri', 'bleu', 'mcd')


def cell(value: float, metric: str) -> str:
  """A score as tables have it: percent, or plain."""
  return f'{value:.2f}' if metric in PLAIN else f'{100 * value:.2f}'


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
  """Scores on the benchmark, beside the published rows, and on other data; each its own table."""
  made = []
  for benchmark in (True, False):
    mine = [row for row in rows if row['benchmark'] == benchmark]
    if mine:
      made.append(_table(mine, benchmark))
  return made


def _table(rows: Sequence[Mapping[str, Any]], benchmark: bool) -> Table:
  columns = [(r['task'], r['recipe'], m) for r in rows for m in r['metrics']]
  columns = list(dict.fromkeys(columns))
  systems = list(dict.fromkeys(r['system'] for r in rows))
  found = {(r['system'], r['task']): r for r in rows}
  body: list[list[str]] = []
  best = set()
  for system in systems:
    line = [system]
    for task, _, metric in columns:
      row = found.get((system, task))
      text = '' if row is None else cell(row['scores'][metric], metric)
      if row is not None and metric == row['metrics'][0] and row.get('ci') is not None:
        text += f' ± {cell(row["ci"], metric)}'
      line.append(text)
    body.append(line)
  for place, (task, _, metric) in enumerate(columns, start=1):
    values = {
      i: found[s, task]['scores'][metric] for i, s in enumerate(systems) if (s, task) in found
    }
    lower = any(metric in r['lower'] for r in rows if r['task'] == task)
    top = (min if lower else max)(values.values())
    best |= {(i, place) for i, value in values.items() if value == top}
  if benchmark:
    for line, entry in zip(body, overall(rows)):
      line.append('' if entry.score is None else str(entry.score))
    for name, published in superb_board.ROWS.items():
      each = [BOARD.get((recipe, metric), ('', 1.0))[0] for _, recipe, metric in columns]
      shown = [f'{published[n]:g}' if n in published else '' for n in each]
      score = superb.overall([published])[0].score
      body.append([f'{name} (published)', *shown, '' if score is None else str(score)])
  header = ['', *(f'{task} {metric.replace("_", " ")}' for task, _, metric in columns)]
  header += ['superb_s'] if benchmark else []
  title = 'SUPERB' if benchmark else 'SUPERB’s recipes on other data: not the benchmark'
  return Table(title, header, body, frozenset(best))


def board_entry(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """The scores of one system on the benchmark by the leaderboard's names and in its units."""
  entry = {}
  for row in rows:
    for metric in row['metrics']:
      if row['benchmark'] and (row['recipe'], metric) in BOARD:
        name, scale = BOARD[row['recipe'], metric]
        entry[name] = scale * row['scores'][metric]
  return entry


def overall(rows: Sequence[Mapping[str, Any]]) -> list[superb.Overall]:
  """superb_s of every system, ranked among them and the leaderboard's rows."""
  systems = list(dict.fromkeys(r['system'] for r in rows))
  entries = [board_entry([r for r in rows if r['system'] == s]) for s in systems]
  return superb.overall([*entries, *superb_board.ROWS.values()])[: len(systems)]


def details(rows: Sequence[Mapping[str, Any]]) -> Table:
  """What each score was made of."""
  header = [
    'task', 'system', 'score', 'learning rate', 'steps', 'seeds', 'clips', 'layers', 'seconds',
    'chip-hours', 'what differs from the benchmark', 'weights',
  ]  # fmt: skip
  body = []
  for row in rows:
    metric = row['metrics'][0]
    clips = ' / '.join(str(row['clips'][part]) for part in ('train', 'valid', 'test'))
    body.append(
      [
        f'{row["task"]} ({row["title"]})',
        row['system'],
        f'{metric} {cell(row["scores"][metric], metric)}',
        charts.number(row['lr']),
        f'{row["steps"]:,}',
        str(row['seeds']),
        clips,
        f'{row["frames"]} {row["dtype"]}',
        f'{row["wall_seconds"]:.0f} + {row["embed_seconds"]:.0f}',
        f'{row["chip_hours"]:.3f}',
        '; '.join(row['differs']) or 'nothing',
        row['weights'][:12],
      ]
    )
  return Table('How each score was made', header, body)


def sweeps(rows: Sequence[Mapping[str, Any]]) -> Table | None:
  """Scores by learning rate; None where one was tried."""
  body = []
  for row in rows:
    if len(row['sweep']) > 1:
      metric = row['metrics'][0]
      tried = [f'{charts.number(p["lr"])}: {cell(p["test"], metric)}' for p in row['sweep']]
      tests = [p['test'] for p in row['sweep']]
      spread = cell(max(tests) - min(tests), metric)
      body.append([row['task'], row['system'], charts.number(row['lr']), ', '.join(tried), spread])
  header = ['task', 'system', 'chosen on validation', 'test score by learning rate', 'spread']
  return Table('Learning rates', header, body) if body else None


def layer_charts(rows: Sequence[Mapping[str, Any]]) -> list[charts.Chart]:
  """Weights of the layers by task, one chart a system."""
  drawn = []
  for system in dict.fromkeys(r['system'] for r in rows):
    mine = [r for r in rows if r['system'] == system and len(r['layer_weights']) > 1]
    if mine:
      series = {r['task']: (list(range(len(r['layer_weights']))), r['layer_weights']) for r in mine}
      figure = charts.lines(series, x_label='layer (0: what enters the first)')
      drawn.append(charts.chart(figure, f'{system}: weight of each layer'))
  return drawn


def curve_charts(rows: Sequence[Mapping[str, Any]]) -> list[charts.Chart]:
  """The metric that ranks checkpoints by step, one chart a task."""
  drawn = []
  for task in dict.fromkeys(r['task'] for r in rows):
    mine = [r for r in rows if r['task'] == task and r['curve']]
    series = {}
    for row in mine:
      key = next((k for k in row['curve'][-1] if k == f'valid/{row["ranks"]}'), None)
      points = [(p['step'], p[key]) for p in row['curve'] if key in p] if key else []
      if points:
        x, y = zip(*points)
        series[row['system']] = (list(x), list(y))
    if series:
      figure = charts.lines(series)
      drawn.append(charts.chart(figure, f'{task}: {mine[0]["ranks"]} on validation clips'))
  return drawn


def content(rows: Sequence[Mapping[str, Any]], absent: Mapping[str, str]) -> dict[str, Any]:
  """What `templates/superb.html` shows."""
  reasons = [[name, reason] for name, reason in absent.items()]
  missing = Table('Not scored', ['task', 'why'], reasons) if reasons else None
  shown = [*tables(rows), missing, sweeps(rows)]
  return dict(
    tables=[t for t in shown if t is not None],
    layers=layer_charts(rows),
    curves=curve_charts(rows),
    details=details(rows),
  )


def write_page(rows: Sequence[Mapping[str, Any]], absent: Mapping[str, str]) -> str:
  """The page as HTML."""
  return page.render('superb.html', title='SUPERB', **content(rows, absent))
