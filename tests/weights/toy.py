"""Random weights of any model, and whether two trees of weights are the same."""

import numpy as np

from research.weights import tables


def filled(model):
  """Variables of random numbers, so that a swapped tensor shows."""
  rng = np.random.default_rng(0)
  shapes = tables.expected_shapes(model)
  flat = {k: 0.1 * rng.standard_normal(s).astype(np.float32) for k, s in sorted(shapes.items())}
  # A negative variance gives NaN, which equals NaN in comparisons.
  flat = {k: np.abs(x) + 0.1 if k.endswith('/var') else x for k, x in flat.items()}
  return tables.nest(flat, model)


def same(a, b):
  a, b = tables.flatten(a), tables.flatten(b)
  return set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)


def check_identical(back, arrays):
  """The same names with the same bits."""
  assert set(back) == set(arrays)
  for key, x in arrays.items():
    assert back[key].dtype == x.dtype and back[key].tobytes() == x.tobytes(), key
