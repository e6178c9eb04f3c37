"""Rules and filters of generation against transformers' processors of logits."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.inference import generate_rules as rules
from research.inference.generate_rules import SoFar

V, WIDTH, PROMPT = 30, 12, 5


@pytest.fixture(scope='module')
def drawn():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 6, (4, WIDTH)).astype(np.int32)
  logits = 3 * rng.standard_normal((4, V)).astype(np.float32)
  room = np.full((4, 3), -1, np.int32)
  so_far = SoFar(
    jnp.asarray(np.concatenate([tokens, room], axis=1)), PROMPT, jnp.int32(WIDTH - PROMPT)
  )
  return tokens, logits, so_far


def check(got, want):
  want = want.numpy()
  got = np.asarray(got)
  np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
  finite = np.isfinite(want)
  np.testing.assert_allclose(got[finite], want[finite], rtol=1e-6)


@pytest.mark.parametrize(
  ('rule', 'name', 'args'),
  [
    (rules.RepetitionPenalty(1.3), 'RepetitionPenaltyLogitsProcessor', (1.3,)),
    (rules.BlockNgrams(2), 'NoRepeatNGramLogitsProcessor', (2,)),
    (rules.BlockNgrams(3), 'NoRepeatNGramLogitsProcessor', (3,)),
    (rules.BlockNgrams(1), 'NoRepeatNGramLogitsProcessor', (1,)),
    (rules.Suppress((3, 7)), 'SuppressTokensLogitsProcessor', ([3, 7],)),
  ],
)
def test_rules(drawn, rule, name, args):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  tokens, logits, so_far = drawn
  theirs = getattr(transformers, name)(*args)
  want = theirs(torch.from_numpy(tokens).long(), torch.from_numpy(logits.copy()))
  check(rule(so_far, jnp.asarray(logits)), want)


@pytest.mark.parametrize(
  ('ours', 'name', 'value'),
  [
    (rules.top_k, 'TopKLogitsWarper', 4),
    (rules.top_k, 'TopKLogitsWarper', 100),
    (rules.top_p, 'TopPLogitsWarper', 0.7),
    (rules.top_p, 'TopPLogitsWarper', 0.05),
    (rules.min_p, 'MinPLogitsWarper', 0.1),
  ],
)
def test_filters(drawn, ours, name, value):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  tokens, logits, _ = drawn
  theirs = getattr(transformers, name)(value)
  want = theirs(torch.from_numpy(tokens).long(), torch.from_numpy(logits.copy()))
  check(ours(jnp.asarray(logits), value), want)
