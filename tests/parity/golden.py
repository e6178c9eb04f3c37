"""Golden cases: arrays recorded from reference implementations, found by folder.

A case is `<system>/<case>.json` (settings, shapes, tolerance, notes) beside
`<system>/<case>.safetensors` (keys `weights/…`, `inputs/…`, `outputs/…`); statistics cases have no
arrays. Cases are looked for in the folder $OIDO_GOLDEN (default `../shared/golden` beside the
checkout) and in the small subset committed under `tests/golden`; a case found in both is taken from
the first. A check reads sizes and modes from the case, never from its name: any folder in this
format can be checked.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

CHECKOUT = Path(__file__).resolve().parents[2]
COMMITTED = CHECKOUT / 'tests' / 'golden'


@dataclasses.dataclass(frozen=True)
class Case:
  """One recorded case: `config` and `info` from its json, arrays by their original names."""

  system: str
  name: str
  folder: Path

  @functools.cached_property
  def info(self) -> dict[str, Any]:
    """The whole json."""
    return json.loads((self.folder / f'{self.name}.json').read_text())

  @property
  def config(self) -> dict[str, Any]:
    return self.info.get('config') or {}

  @functools.cached_property
  def arrays(self) -> dict[str, np.ndarray]:
    """Every array, by its key in the file; empty for a json-only case."""
    path = self.folder / f'{self.name}.safetensors'
    return load_file(path) if path.exists() else {}

  @property
  def weights(self) -> dict[str, np.ndarray]:
    return self._part('weights')

  @property
  def inputs(self) -> dict[str, np.ndarray]:
    return self._part('inputs')

  @property
  def outputs(self) -> dict[str, np.ndarray]:
    return self._part('outputs')

  @property
  def twin(self) -> 'Case | None':
    """The same weights under transformers' names (`<case>_hf`), where there is one."""
    name = f'{self.name}_hf'
    found = (self.folder / f'{name}.json').exists()
    return Case(self.system, name, self.folder) if found else None

  def _part(self, part: str) -> dict[str, np.ndarray]:
    prefix = f'{part}/'
    return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}


def folders() -> list[Path]:
  """Folders that hold cases, the one of $OIDO_GOLDEN first.

  Raises:
    FileNotFoundError: $OIDO_GOLDEN is set and is not a folder: a check that was asked for must not
      pass by finding nothing.
  """
  named = os.environ.get('OIDO_GOLDEN')
  first = Path(named) if named else CHECKOUT.parent / 'shared' / 'golden'
  if named and not first.is_dir():
    raise FileNotFoundError(f'OIDO_GOLDEN is {named!r}, which is not a folder.')
  return [folder for folder in (first, COMMITTED) if folder.is_dir()]


def cases(system: str) -> Iterator[Case]:
  """The cases of a system, twins left out (see `Case.twin`)."""
  seen: set[str] = set()
  for folder in folders():
    for path in sorted((folder / system).glob('*.json')):
      name = path.stem
      is_twin = name.endswith('_hf') and (path.parent / f'{name[:-3]}.json').exists()
      if not is_twin and name not in seen:
        seen.add(name)
        yield Case(system, name, path.parent)


def each_case(*systems: str, where: Callable[[Case], bool] = lambda case: True):
  """Decorator: the test runs once for each case of these systems, as its argument `case`.

  Without a single case the test is skipped, and says where it looked.
  """
  found = [case for system in systems for case in cases(system) if where(case)]
  if found:
    return pytest.mark.parametrize('case', found, ids=lambda case: f'{case.system}/{case.name}')
  looked = ' and '.join(str(folder) for folder in folders()) or 'any folder (set OIDO_GOLDEN)'
  reason = f'no golden case of {", ".join(systems)} in {looked}'
  return pytest.mark.parametrize(
    'case', [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
  )


def assert_close(got, want, *, relative: float = 1e-4, what: str = 'output') -> None:
  """Equal shapes, finite values and max|got - want| <= relative * max|want|, the usual rule."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape, f'{what}: shape {got.shape}, expected {want.shape}'
  assert np.isfinite(got).all(), f'{what}: not finite'
  scale = np.abs(want).max() if want.size else 0.0
  worst = np.abs(got - want).max() if want.size else 0.0
  assert worst <= relative * scale, (
    f'{what}: max|diff| {worst:.3g} is above {relative:g} * max|reference| = {relative * scale:.3g}'
  )


def assert_near(
  got, want, *, max_abs: float, mean_abs: float | None = None, what: str = 'output'
) -> None:
  """Equal shapes, finite values, max|got - want| <= max_abs and mean|got - want| <= mean_abs."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape, f'{what}: shape {got.shape}, expected {want.shape}'
  assert np.isfinite(got).all(), f'{what}: not finite'
  if not want.size:
    return
  error = np.abs(got - want)
  assert error.max() <= max_abs, f'{what}: max|diff| {error.max():.3g} is above {max_abs:g}'
  if mean_abs is not None:
    assert error.mean() <= mean_abs, f'{what}: mean|diff| {error.mean():.3g} is above {mean_abs:g}'
