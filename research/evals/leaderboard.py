"""Tables of Dynamic-SUPERB: the arithmetic of the first phase's public board, means of domains, and
scores relative to a reference system (second phase).

The aggregation of the second phase follows its description (arXiv 2411.05361), not its code, which
was not at hand.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.errors import InputError

# What a model without a score has in a table.
MISSING = 'N/A'
# Metrics of which less is better.
ERRORS = ('wer', 'cer', 'per', 'mse', 'mae', 'eer', 'der', 'ser')
# The domains of the first phase, by task (arXiv 2309.09510; SIFT-50M, arXiv 2504.09081, table 17).
DOMAINS = {
  'content': (
    *('LanguageIdentification', 'SpeechCommandRecognition', 'SpeechDetection'),
    *('SpeechTextMatching', 'SpokenTermDetection'),
  ),
  'semantics': (
    *('DialogueActClassification', 'DialogueActPairing', 'IntentClassification'),
    'SarcasmDetection',
  ),
  'speaker': ('MultiSpeakerDetection', 'SpeakerCounting', 'SpeakerVerification'),
  'degradation': (
    *('EnhancementDetection', 'NoiseDetection', 'NoiseSNRLevelPrediction'),
    'ReverberationDetection',
  ),
  'paralinguistics': (
    *('AccentClassification', 'DialogueEmotionClassification', 'EmotionRecognition'),
    *('HowFarAreYou', 'SpoofDetection', 'StressDetection'),
  ),
  'audio': ('BirdSoundDetection', 'ChordClassification', 'EnvironmentalSoundClassification'),
}
OTHER = 'other'


def names(instance: str) -> tuple[str, str]:
  """(task, data set) of an instance: 'SpeechDetection_LJSpeech', divided at the first
  underscore."""
  task, _, dataset = instance.partition('_')
  return task, dataset


def domain(task: str) -> str:
  """The domain of a task of the first phase; 'other' if it is none of these."""
  return next((name for name, tasks in DOMAINS.items() if task in tasks), OTHER)


def task_means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """{task: mean over its data sets}, to two decimals as JavaScript rounds: halves up."""
  return {
    task: math.floor(sum(each.values()) / len(each) * 100 + 0.5) / 100
    for task, each in scores.items()
    if each
  }


def board(
  seen: Sequence[Mapping[str, str]], unseen: Sequence[Mapping[str, str]], models: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
  """The three tables of the board: tasks seen in training, not seen, and all.

  Args:
    seen: rows with 'Instance' and a score in percent for every model ('84.79%'), '' for none.
    unseen: the same instances in the same order.
    models: columns.

  Returns:
    {'seen', 'unseen', 'all'}: rows with id, Task, Dataset, a score or 'N/A' for every model, and
    'best', the model with the highest score; of equal ones the last.

  Raises:
    InputError: the tables list different instances, or a score is none.
  """
  if [r['Instance'] for r in seen] != [r['Instance'] for r in unseen]:
    raise InputError('The tables of seen and unseen tasks must list the same instances.')
  both = [
    {key: s.get(key) or u.get(key, '') for key in ('Instance', *models)}
    for s, u in zip(seen, unseen, strict=True)
  ]
  return {
    'seen': _rows(seen, models), 'unseen': _rows(unseen, models), 'all': _rows(both, models)
  }  # fmt: skip


def _rows(rows: Sequence[Mapping[str, str]], models: Sequence[str]) -> list[dict[str, Any]]:
  found = []
  for number, row in enumerate(rows):
    task, dataset = names(row['Instance'])
    scores = {model: row.get(model) or MISSING for model in models}
    best = models[0]
    for model in models[1:]:
      best = best if _percent(scores[best]) > _percent(scores[model]) else model
    found.append({'id': number, 'Task': task, 'Dataset': dataset, **scores, 'best': best})
  return found


def _percent(score: str) -> float:
  if score == MISSING:
    return -1.0
  try:
    return float(score.removesuffix('%'))
  except ValueError:
    raise InputError(f'{score!r} is no score: expected percent, as 84.79%.') from None


def domain_means(
  scores: Mapping[str, float], domains: Mapping[str, str] | None = None
) -> dict[str, float]:
  """{domain: mean over its instances}, and 'all', the mean over instances.

  Args:
    scores: {instance: score}.
    domains: {instance or task: domain}; those of the first phase if not given.
  """
  groups: dict[str, list[float]] = {}
  for instance, score in scores.items():
    task = names(instance)[0]
    own = (domains or {}).get(instance) or (domains or {}).get(task) or domain(task)
    groups.setdefault(own, []).append(score)
  found = {name: float(np.mean(values)) for name, values in sorted(groups.items())}
  return {**found, 'all': float(np.mean(list(scores.values())))} if scores else {}


def relative(score: float, reference: float, metric: str) -> float:
  """By which fraction a system is better than a reference system; below 0: worse.

  Raises:
    InputError: the reference is 0.
  """
  if not reference:
    raise InputError(f'A {metric} relative to 0 is not defined: take another reference system.')
  gain = reference - score if metric.lower() in ERRORS else score - reference
  return gain / abs(reference)


def submission(name: str, scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """An entry of the site: {"name", "scores": [{metric, value, version, seen}]}.

  Args:
    name: of the system.
    scores: with these four, and whatever else, which is left out.

  Raises:
    InputError: a score lacks one of them.
  """
  keys = ('metric', 'value', 'version', 'seen')
  for score in scores:
    if lacking := [key for key in keys if key not in score]:
      raise InputError(f'A score of {name!r} lacks {", ".join(lacking)}: {dict(score)}.')
  return {'name': name, 'scores': [{key: score[key] for key in keys} for score in scores]}
