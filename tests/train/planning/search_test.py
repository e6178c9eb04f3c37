"""The search with a compiler that is played."""

import pytest

from research.errors import InputError
from research.train.planning import search, topology
from research.train.planning.compiling import Compiled
from tests.train.planning import subject

SLICE = topology.parse('v5e:2x4')
FULL = Compiled(error='does not fit: 20.1GiB of 15.75GiB HBM')


def fits(seconds=0.01):
  return Compiled(hbm_bytes=1e9, memory_bytes=seconds * 819e9)


def test_candidates_start_with_the_cheapest():
  found = search.candidates(subject.config(), SLICE)
  first = found[0]
  assert (first.data, first.fsdp, first.tensor) == (8, 1, 1)
  assert first.accumulate == 1 and first.remat is False
  assert first.scan_layers is True  # as in the config
  meshes = {(c.data, c.fsdp, c.tensor) for c in found}
  assert (1, 8, 1) in meshes and (2, 1, 4) in meshes
  assert all(a * b * c == 8 for a, b, c in meshes)


@pytest.mark.slow
def test_the_fastest_that_fits_is_recommended():
  asked = []

  def compile_step(config):
    asked.append((config['mesh'], config['optim']['accumulate'], config['model']['args']['remat']))
    mesh, scan = config['mesh'], config['model']['args']['scan_layers']
    return fits(0.001 if mesh['fsdp'] == 2 and not scan else 0.01)

  found = search.search(subject.config(), SLICE, compile_step=compile_step, limit=6)
  assert len(asked) == 6
  best = found.best.candidate
  assert (best.fsdp, best.scan_layers, best.remat) == (2, False, False)
  assert '--config.mesh.fsdp=2' in found.flags
  assert '--config.model.args.scan_layers=False' in found.flags
  # What only adds recomputation to what fits is not tried.
  assert all(not remat and parts == 1 for _, parts, remat in asked)
  assert {row.outcome for row in found.rows} == {'compiled', 'not compiled'}


@pytest.mark.slow
def test_what_needs_more_than_what_does_not_fit_is_left_out():
  asked = []

  def compile_step(config):
    mesh, remat = config['mesh'], config['model']['args']['remat']
    asked.append((mesh['data'], mesh['fsdp'], config['optim']['accumulate'], remat))
    return fits() if mesh['fsdp'] == 8 else FULL

  found = search.search(subject.config(), SLICE, compile_step=compile_step, limit=100)
  assert found.best.candidate.fsdp == 8
  # With two parts of a row for each chip there is nothing to split further.
  assert (8, 1, 1, False) in asked and (8, 1, 2, True) in asked
  assert [row.outcome for row in found.rows].count(FULL.error) < len(found.rows)


def test_a_state_that_is_too_large_is_not_compiled(monkeypatch):
  small = topology.Chip('v5e', 'tpu', 197e12, 0.5e6, 819e9, 200e9)
  asked = []

  def compile_step(config):
    asked.append(config['mesh']['fsdp'] * config['mesh']['tensor'])
    return fits()

  slice_ = topology.Topology('v5e:2x4', small, 8, 2)
  found = search.search(subject.config(), slice_, compile_step=compile_step, limit=100)
  assert min(asked) > 1
  assert any('the state alone' in row.outcome for row in found.rows)


def test_without_a_compiler_nothing_is_recommended():
  found = search.search(subject.config(), SLICE, compile_step=None)
  assert found.best is None and found.flags == ''
  assert {row.outcome for row in found.rows} == {'not compiled'}


@pytest.mark.slow
def test_a_batch_that_no_mesh_splits():
  config = subject.config()
  config['data']['batch_size'] = 3
  with pytest.raises(InputError, match='cannot be split over the 64 chips'):
    search.search(config, topology.parse('v5e:8x8'), compile_step=None)
