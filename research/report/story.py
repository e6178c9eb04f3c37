"""What happened in a run, in plain sentences, from its config, metrics and scores."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from research.report import tables

# What each objective has the model do. None of them reads labels.
PRETEXT = {
  'masked_patch_mse': (
    '{hidden:.0f} % of each spectrogram was hidden, and the model learned to fill it in from the '
    'rest'
  ),
  'bootstrap': 'The model learned to give two altered copies of a clip the same embedding',
  'wav2vec2_contrastive': (
    'Spans of each clip were hidden, and the model learned to pick what was there among distractors'
  ),
  'wav2vec_contrastive': 'The model learned to pick what comes next among distractors',
  'masked_units': 'Spans of each clip were hidden, and the model learned to predict their units',
  'masked_codes': 'Spans of each clip were hidden, and the model learned to predict their codes',
}
PROBES = ('logistic', 'probe', 'evar')


def sentences(
  config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
  """Sentences about a self-supervised run and how its embeddings compare with their baselines.

  Args:
    config: of the run.
    metrics: lines of metrics.jsonl.
    rows: of scores.json.
  """
  objective = (config.get('objective') or {}).get('name')
  if objective not in PRETEXT:
    return []
  return [_training(config, metrics, objective), *_scores(rows)]


def _training(
  config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], objective: str
) -> str:
  hidden = 100 * config['model'].get('args', {}).get('mask_ratio', 0.8)
  text = f'{PRETEXT[objective].format(hidden=hidden)}. No labels were used.'
  held = [m['valid/loss'] for m in metrics if math.isfinite(m.get('valid/loss') or math.nan)]
  if len(held) > 1:
    text += (
      f' On clips that it never trained on, the loss fell from {held[0]:.3g} to {held[-1]:.3g}.'
    )
  return text


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """One sentence how it was judged, and one a task."""
  protocol = next((p for p in PROBES if any(r['protocol'] == p for r in rows)), None)
  mine = [r for r in rows if r['protocol'] == protocol and r['metric'] == 'accuracy']
  models = {r['system'] for r in mine if r['kind'] == 'model'}
  if len(models) != 1:
    return []
  said = [
    'Then the model was frozen. For each task, a linear classifier learned from the embeddings of '
    'labelled clips, and was tried on other clips.'
  ]
  for task in dict.fromkeys(r['task'] for r in mine):
    here = {r['kind']: r for r in mine if r['task'] == task}
    model = here.pop('model', None)
    if model is not None:
      said.append(_task(task, model, here))
  return said


def _task(task: str, model: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> str:
  count = len(model['classes'])
  text = (
    f'{task}: {100 * model["score"]:.0f} % of the clips right ({count} classes; guessing gives '
    f'{100 / count:.0f} %).'
  )
  for row in baselines.values():
    found = tables.paired(model, row)
    if found is None:
      continue
    points, half = 100 * found[0], 100 * found[1]
    name = {'random': 'the same model without training', 'logmel': 'log-mel statistics'}
    than = name.get(row['kind'], row['system'])
    if abs(points) > half:
      verdict = 'better' if points > 0 else 'worse'
      text += f' That is {abs(points):.0f} ± {half:.0f} points {verdict} than {than}.'
    else:
      text += f' The difference to {than} is within chance ({points:+.0f} ± {half:.0f} points).'
  return text
