"""Query by example and the random split of emotion recognition against the official code."""

import jax
import jax.numpy as jnp
import numpy as np

from research.inference import spoken_terms
from research.text import targets
from tests.parity.golden import Case, each_case
from tests.parity.superb_cases import check, kind


@each_case('superb', where=kind('superb_qbe'))
def test_query_by_example(case: Case):
  config, want = case.config, case.outputs
  queries, documents = (
    [case.inputs[f'{name}/{i}'] for i in range(len(config[f'{name}_lengths']))]
    for name in ('query', 'doc')
  )
  mean, std = spoken_terms.statistics([*queries, *documents])
  check(mean, want['mean'], 'mean')
  check(std, want['std'], 'std')
  x, y = queries[0], documents[0]
  if config['feature_normalization']:
    x, y = ((z - mean) / std for z in (x, y))
  distance = spoken_terms.distances(jnp.asarray(x), jnp.asarray(y), config['dist_method'])
  check(distance, want['distance_q0_d0'], 'distance')
  mask = jnp.ones(len(y), bool)
  rows = distance
  if config['minmax_norm']:
    rows = spoken_terms.normalise_rows(distance, mask)
    check(rows, want['distance_minmax_q0_d0'], 'scaled distance')
  cost = np.asarray(jax.jit(spoken_terms.accumulate)(rows, mask))
  reached = np.isfinite(want['cost_q0_d0'])
  check(cost[reached], want['cost_q0_d0'][reached], 'cost')
  np.testing.assert_array_equal(np.isfinite(cost), reached)
  np.testing.assert_array_equal(spoken_terms.path(cost), want['path_q0_d0'])

  args = dict(
    normalise=config['feature_normalization'], scale_rows=config['minmax_norm'],
    min_frames=config['min_query_frames'],
  )  # fmt: skip
  raw = spoken_terms.search(queries, documents, method=config['dist_method'], **args)
  searched = np.isfinite(want['raw_score'])
  np.testing.assert_array_equal(np.isfinite(raw), searched)
  check(raw[searched], want['raw_score'][searched], 'raw score')
  scores = spoken_terms.normalise_scores(raw)
  check(scores, want['score'], 'score')
  np.testing.assert_array_equal(scores > config['score_threshold'], want['decision'])
  assert config['score_threshold'] == spoken_terms.THRESHOLD
  for key, recorded in want.items():
    if key.startswith('written_score'):
      method = key.removeprefix('written_score').removeprefix('_') or config['dist_method']
      raw = spoken_terms.search(queries, documents, method=method, **args, batch_frames=256)
      check(spoken_terms.normalise_scores(raw), recorded, key)


@each_case('superb', where=kind('superb_er_split'))
def test_random_split(case: Case):
  config = case.config
  for fold, sizes in config['sizes'].items():
    count = sizes['train_and_dev']
    train, dev = targets.random_split(count, 1 - config['valid_ratio'], seed=config['seed'])
    np.testing.assert_array_equal(train, case.outputs[f'{fold}/train'])
    np.testing.assert_array_equal(dev, case.outputs[f'{fold}/dev'])
