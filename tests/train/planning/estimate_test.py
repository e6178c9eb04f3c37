"""Rooflines, and the table that is printed."""

import dataclasses

import pytest

from research.train.planning import estimate, plan, topology
from research.train.planning.compiling import Compiled
from research.train.planning.program import Batch

SLICE = topology.parse('v5e:4x4')
BATCH = Batch(512, 10.0)
FLOPS = dict(model_flops=16 * 19.7e12, program_flops=16 * 39.4e12, total=864_000)


def test_arithmetic_alone():
  found = estimate.estimate(SLICE, BATCH, **FLOPS)
  assert found.step_seconds == pytest.approx(0.2) and found.bound == 'compute'
  # Recomputation costs time, and is not counted as use.
  assert found.mfu == pytest.approx(0.5)
  assert found.memory_seconds is None and found.link_seconds is None
  assert found.audio_hours_a_day == pytest.approx(512 * 10 / 3600 * 86400 / 0.2)
  assert found.days == pytest.approx(2.0) and found.chip_hours == pytest.approx(2 * 24 * 16)


@pytest.mark.parametrize(
  ('memory', 'sent', 'bound', 'seconds'),
  [(81.9e9, 0, 'compute', 0.2), (327.6e9, 1e9, 'memory', 0.4), (81.9e9, 100e9, 'links', 0.5)],
)
def test_the_busiest_unit_gives_the_time(memory, sent, bound, seconds):
  compiled = Compiled(memory_bytes=memory, collectives={'all-reduce': (3, sent / 2, sent)})
  found = estimate.estimate(SLICE, BATCH, compiled=compiled, **FLOPS)
  assert (found.bound, found.step_seconds) == (bound, pytest.approx(seconds))
  assert found.mfu == pytest.approx(0.1 / seconds)


def test_the_network_between_slices():
  """Half of the sums of a slice's 16 chips go each way, a sixteenth of them by each chip."""
  two = topology.parse('2xv5e:4x4')
  compiled = Compiled(memory_bytes=1e9, collectives={'all-reduce': (3, 16e9, 31e9)})
  found = estimate.estimate(two, BATCH, compiled=compiled, **FLOPS)
  assert found.network_seconds == pytest.approx(16e9 / 16 / 3.125e9)
  assert found.bound == 'network'
  one = estimate.estimate(SLICE, BATCH, compiled=compiled, **FLOPS)
  assert one.network_seconds is None


def made(**changes):
  return plan.Plan(
    topology=SLICE,
    batch=BATCH,
    mesh=dict(data=4, fsdp=4, tensor=1),
    params=111_000_000,
    state_bytes=dict(params=444e6, optimizer=888e6, teacher=0),
    **{**FLOPS, **changes},
  )


def test_table():
  rows = dict(made().rows())
  assert rows['slice'] == 'v5e:4x4: 16 chips, 4 hosts, data 4 x fsdp 4'
  assert rows['state a chip'] == '1.33 GB (params 0.444 GB, optimizer 0.888 GB)'
  assert rows['a step'] == '315.2 TFLOP, 100% more with rematerialisation'
  assert rows['memory'] == 'not compiled' and rows['estimate: MFU'] == 'not compiled'
  assert rows['estimate: run'] == '864,000 steps: >= 2 days, >= 768 chip-hours'
  assert 'clips' in dict(made(total=None).rows())['estimate: run']
  compiled = Compiled(
    hbm_bytes=7e9, temporary_bytes=5e9, memory_bytes=327.6e9,
    collectives={'all-reduce': (48, 444e6, 888e6)},
  )  # fmt: skip
  rows = dict(dataclasses.replace(made(), compiled=compiled).rows())
  assert rows['memory'] == 'fits: 7 GB of 16 GB a chip (5 GB temporary)'
  assert rows['collectives'] == '48 all-reduce 0.444 GB'
  assert rows['estimate: step'].startswith('>= 400 ms') and 'memory-bound' in rows['estimate: step']
  assert rows['estimate: MFU'] == '<= 25.0%'


@pytest.mark.parametrize(
  ('changes', 'error'),
  [
    (dict(refused='data.batch_size 3 is no multiple of 16 parts'), 'no multiple'),
    (dict(compiled=Compiled(error='does not fit: 20GiB of 15.75GiB HBM')), '20GiB'),
  ],
)
def test_what_does_not_run_says_why(changes, error):
  rows = dict(made(**changes).rows())
  assert error in rows['does not run'] and 'estimate: step' not in rows
  assert '\n' in plan.table(list(rows.items()))


def test_a_state_that_is_too_large():
  large = dataclasses.replace(made(), state_bytes=dict(params=20e9))
  assert large.error == 'the state alone has 20 GB a chip, of 16 GB'
