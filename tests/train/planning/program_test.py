"""Batches, states and FLOPs of a config without data or devices."""

import dataclasses
import math

import jax
import pytest

from research.errors import InputError
from research.train import sharding
from research.train.config import complete
from research.train.planning import plan, program, topology
from tests import experiments_test
from tests.train.planning import subject

BUCKETS = dict(seconds=None, buckets=[5.0, 10.0], batch_size=99, batch_seconds=160.0)


def test_batches_of_every_length():
  data = subject.config()['data']
  assert program.batches(dict(data=data)) == [program.Batch(16, 1.28)]
  found = program.batches(dict(data={**data, **BUCKETS, 'batch_multiple': 8}))
  assert found == [program.Batch(16, 10.0), program.Batch(32, 5.0)]
  with pytest.raises(InputError, match=r'set config\.data\.seconds'):
    program.batches(dict(data={**data, 'seconds': None}))


@pytest.mark.parametrize('mesh', [dict(data=8), dict(data=2, fsdp=2, tensor=2), dict(fsdp=8)])
def test_state_bytes_are_those_of_the_arrays(mesh):
  made = program.Program(subject.config())
  real = sharding.make_mesh({'data': 1, **mesh})
  arrays = jax.device_put(
    jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), made.state.opt_state),
    sharding.shardings(made.state.opt_state, real),
  )
  device = jax.devices()[3]
  held = sum(
    shard.data.nbytes
    for x in jax.tree.leaves(arrays)
    for shard in x.addressable_shards
    if shard.device == device
  )
  found = made.state_bytes(program.abstract_mesh({'data': 1, **mesh}, 8))
  assert found['optimizer'] == held and found['teacher'] == 0
  if mesh == dict(data=8):
    assert found['params'] == 4 * made.params


@pytest.mark.slow
def test_flops_of_the_batch_and_of_rematerialisation():
  made = program.Program(subject.config(model=dict(remat=True)))
  batch = made.batches[0]
  model, runs = made.step_flops(batch)
  assert 1.02 < runs / model < 1.5
  half = dataclasses.replace(batch, rows=8)
  assert made.flops(half) == pytest.approx(runs / 2, rel=1e-3)
  same = program.Program(subject.config())
  assert same.step_flops(batch) == (model, model)


def test_length_of_the_run():
  assert program.Program(subject.config()).total == 1000
  epochs = subject.config()
  epochs.update(total_steps=None, epochs=3)
  assert program.Program(epochs).total is None
  assert program.Program(epochs, clips=160).total == 30


def test_batches_are_filled_up_or_refused():
  config = subject.config(optim=dict(accumulate=4))
  slice_of_eight = topology.parse('v5e:2x4')
  made = program.Program(config)
  filled = plan.make(made, slice_of_eight, flops=(1.0, 1.0))
  assert (filled.filled, filled.refused, filled.program_flops) == (32, None, 2.0)
  assert ('batch', '16 clips of 1.28 s, and 16 empty rows') in filled.rows()
  two = {**config, 'mesh': dict(data=2, fsdp=1, tensor=4)}
  assert plan.make(made.on(two), slice_of_eight, flops=(1.0, 1.0)).filled == 16
  with pytest.raises(InputError, match='choose data x fsdp x tensor = 8'):
    plan.make(made.on({**config, 'mesh': dict(data=3)}), slice_of_eight, flops=(1.0, 1.0))
  byol = experiments_test.load(experiments_test.ROOT / 'experiments/byol_a/audioset_v2.py')
  byol = complete({**byol.get_config('debug').to_dict(), 'mesh': dict(data=-1)})
  refused = plan.make(program.Program(byol), topology.parse('v5e:16x16'), flops=(1.0, 1.0))
  assert 'statistics over all rows' in (refused.error or '')


def test_the_lowered_step_has_the_mesh_and_the_batch():
  made = program.Program(subject.config())
  mesh = sharding.make_mesh(dict(data=8))
  text = made.lower(made.batches[0], mesh).as_text()
  assert 'tensor<16x20480xf32>' in text and '"data"=8' in text
  samples = math.prod(made.shapes(made.batches[0])['audio'].shape)
  assert samples == 16 * 20480
