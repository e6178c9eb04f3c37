"""Span masks against statistics of fairseq's own, on whatever settings the golden folder holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.features.span_masks import max_masked, span_mask
from tests.parity.golden import Case, each_case

DRAWS = 1000


def drawn(setting) -> tuple[np.ndarray, np.ndarray]:
  """(masks [draws, b, n], real [b, n]) of one recorded setting."""
  b, n = setting['b'], setting['t']
  lengths = np.asarray(setting['valid_frames'] or [n] * b)
  real = np.arange(n) < lengths[:, None]
  args = dict(
    prob=setting['mask_prob'],
    length=setting['mask_length'],
    min_masks=setting['min_masks'],
    equal_rows=b if setting['require_same_masks'] else 1,
  )
  one = jax.jit(jax.vmap(lambda key: span_mask(key, jnp.asarray(real), **args)))
  masks = np.asarray(one(jax.random.split(jax.random.key(0), DRAWS)))
  most = max_masked(n, setting['mask_prob'], setting['mask_length'], setting['min_masks'])
  assert masks.sum(-1).max() <= most
  return masks, real


@pytest.mark.slow
@each_case('span_masking')
def test_statistics_are_those_of_the_published_masks(case: Case):
  checked = 0
  for setting in case.info['settings']:
    # Spans of other lengths and without overlap are functions of their own.
    if setting['mask_type'] != 'static' or setting['no_overlap'] or 'fairseq_main' not in setting:
      continue
    want = setting['fairseq_main']
    masks, real = drawn(setting)
    name = setting['name']
    assert not masks[:, ~real].any(), name
    fractions = masks.sum(-1) / real.sum(-1)
    ours = fractions.mean()
    recorded = want['masked_fraction_of_valid_frames']
    error = np.hypot(fractions.mean(1).std() / DRAWS**0.5, recorded['standard_error_of_mean'])
    assert abs(ours - recorded['mean']) <= 4 * error, name
    if want.get('rows_of_a_draw_always_have_equal_counts'):
      assert (masks.sum(-1) == masks.sum(-1)[:, :1]).all(), name
    spans = (np.diff(np.pad(masks, ((0, 0), (0, 0), (1, 0))).astype(np.int8), axis=-1) == 1).sum(-1)
    # Rows of a draw depend on each other: a draw counts as one.
    recorded = want['spans_per_row']
    error = np.hypot(spans.mean(1).std() / DRAWS**0.5, recorded['std'] / want['draws'] ** 0.5)
    assert abs(spans.mean() - recorded['mean']) <= 4 * error, name
    checked += 1
  assert checked
