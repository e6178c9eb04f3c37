"""Scores of audio language models beside recorded ones."""

import math

import numpy as np
import pytest

from research.evals import leaderboard, rubrics
from research.metrics import answers, ordinal
from tests.parity.golden import each_case


def close(got, want):
  if want is None:
    return math.isnan(got)
  return abs(got - want) <= 1e-9


@each_case('sift', where=lambda case: 'categories' in case.info)
def test_evalsift(case):
  for each in case.info['cases']:
    reference = np.array(each['reference'])
    runs = [np.array(run) for run in each['predictions']]
    for run, want in zip(runs, each['per_run'], strict=True):
      assert close(ordinal.mean_absolute_error(reference, run), want['mae'])
      kappa = ordinal.quadratic_weighted_kappa(reference, run)
      assert close(kappa, want['quadratic_weighted_kappa']), each['name']
    found = ordinal.over_runs(reference, runs)
    for key, value in each['mean_over_runs'].items():
      assert close(found[key], value)


@each_case('dynamic_superb', where=lambda case: 'parser' in case.info)
def test_judge_and_word_errors(case):
  for each in case.info['filled_prompts']:
    for name, want in each['prompts'].items():
      assert rubrics.fill(case.info['templates'][name], each['fields']) == want
  for each in case.info['parser']['cases']:
    found = rubrics.parse_officially(each['judge_reply'])
    assert found == {'yes': 1.0, 'no': 0.0, None: None}[each['parsed']]
    assert (found or 0.0) == each['score']
    # Ours may refuse what the official one takes, but never turns a verdict round.
    assert rubrics.parse_strictly(each['judge_reply']) in (found, None) or found is None
  for each in case.info['word_error_rate']:
    given = (each['response'], each['reference'])
    for prefix, keep_case in (('', False), ('pos_', True)):
      plain = [answers.plain(text, keep_case) for text in given]
      named = 'pos' if keep_case else 'normalized'
      assert plain == [each[f'{named}_response'], each[f'{named}_reference']]
      rate = answers.word_error_rate(*given, keep_case)
      assert rate == pytest.approx(each[f'{prefix}wer'], abs=1e-9)
      assert max(0.0, 1 - rate) == pytest.approx(each[f'{prefix}score'], abs=1e-9)


@each_case('dynamic_superb', where=lambda case: 'task_means' in case.info.get('output', {}))
def test_leaderboard(case):
  given, want, models = case.info['input'], case.info['output'], case.info['models']
  for model, row in zip(models, want['task_means'], strict=True):
    found = leaderboard.task_means(given['task_scores'][model])
    assert {'id': row['id'], 'Model Name': model, **found} == row
  tables = leaderboard.board(given['seen']['instances'], given['unseen']['instances'], models)
  for name, table in tables.items():
    assert table == want[name]
