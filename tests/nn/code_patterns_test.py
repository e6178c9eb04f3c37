"""Patterns of codes, written out."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.nn import code_patterns as patterns

CODES = np.array([[[10, 20], [11, 21], [12, 22]]], np.int32)
LAID = {
  'delay': [[10, 99], [11, 20], [12, 21], [99, 22]],
  'flat': [[10, 99], [99, 20], [11, 99], [99, 21], [12, 99], [99, 22]],
  'parallel': [[10, 20], [11, 21], [12, 22]],
}


@pytest.mark.parametrize('pattern', patterns.PATTERNS)
def test_codes_are_laid_out_and_gathered(pattern):
  assert set(LAID) == set(patterns.PATTERNS)
  for codes in (CODES, jnp.asarray(CODES)):
    laid = patterns.lay_out(codes, pattern, 99)
    assert np.asarray(laid[0]).tolist() == LAID[pattern]
    assert laid.shape[1] == patterns.steps(pattern, 3, 2)
    np.testing.assert_array_equal(patterns.gather(laid, pattern, 3), CODES)
  # A clip that goes on changes none of the steps that are known.
  more = np.concatenate([CODES, [[[13, 23]]]], axis=1)
  known = patterns.known_steps(pattern, 3, 2)
  laid, longer = (patterns.lay_out(x, pattern, 99)[0] for x in (CODES, more))
  np.testing.assert_array_equal(longer[:known], laid[:known])
  assert known == len(laid) or not np.array_equal(longer[known], laid[known])


def test_one_codebook_and_no_frames():
  for pattern in patterns.PATTERNS:
    assert patterns.lay_out(CODES[:, :, :1], pattern, 99)[0, :, 0].tolist() == [10, 11, 12]
    assert patterns.steps(pattern, 0, 4) == 0
    assert patterns.lay_out(CODES[:, :0], pattern, 99).shape == (1, 0, 2)
  with pytest.raises(InputError, match=r'delai.*delay'):
    patterns.steps('delai', 1, 1)
