"""Cases of SUPERB: values of a case's json and the tolerances of its README."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.parity.golden import Case


def kind(*names: str) -> Callable[[Case], bool]:
  """Cases of these kinds."""
  return lambda case: case.info['kind'] in names


def given(case: Case, name: str, part: str = 'inputs') -> Any:
  """A text, list or map of the json."""
  return case.info[part][name]['value']


def check(got, want, what: str = 'output') -> None:
  """max|got - want| <= 1e-4 * max(1, max|want|), the rule of outputs."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape, f'{what}: shape {got.shape}, expected {want.shape}'
  assert np.isfinite(got).all(), f'{what}: not finite'
  if want.size:
    worst, limit = np.abs(got - want).max(), 1e-4 * max(1.0, np.abs(want).max())
    assert worst <= limit, f'{what}: max|diff| {worst:.3g} is above {limit:.3g}'


def check_gradient(got, want, what: str = 'gradient') -> None:
  """max|got - want| <= 1e-4 * max|want|, the rule of gradients."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape, f'{what}: shape {got.shape}, expected {want.shape}'
  assert np.isfinite(got).all(), f'{what}: not finite'
  worst, limit = np.abs(got - want).max(), 1e-4 * np.abs(want).max()
  assert worst <= limit, f'{what}: max|diff| {worst:.3g} is above {limit:.3g}'
