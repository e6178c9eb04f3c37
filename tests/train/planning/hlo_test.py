"""Collectives and memory traffic read from HLO text."""

import jax
import pytest

from research.train import sharding
from research.train.planning import hlo, program
from tests.train.planning import subject

# In the style of the TPU compiler: a loop without a noted trip count, copies of one collective.
LOOP = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused.1 (p.1: f32[256]) -> f32[256] {
  %p.1 = f32[256]{0:T(256)} parameter(0)
  ROOT %all-reduce.1 = f32[256]{0:T(256)} all-reduce(%p.1), channel_id=7, replica_groups={{0,1},{2,3}}, to_apply=%add
}

%fused.2 (p.2: f32[256]) -> f32[256] {
  %p.2 = f32[256]{0:T(256)} parameter(0)
  ROOT %all-reduce.2 = f32[256]{0:T(256)} all-reduce(%p.2), channel_id=7, replica_groups={{0,1},{2,3}}, to_apply=%add
}

%body (state: (s32[], f32[256], f32[12,256])) -> (s32[], f32[256], f32[12,256]) {
  %state = (s32[]{:T(128)}, f32[256]{0:T(256)}, /*index=2*/f32[12,256]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[256]{0:T(256)} get-tuple-element(%state), index=1
  %stacked = f32[12,256]{1,0:T(8,128)} get-tuple-element(%state), index=2
  %y = f32[256]{0:T(256)} fusion(%x), kind=kLoop, calls=%fused.1
  %z = f32[256]{0:T(256)S(1)} fusion(%y, %stacked), kind=kLoop, calls=%fused.2
  ROOT %next = (s32[]{:T(128)}, f32[256]{0:T(256)}, f32[12,256]{1,0:T(8,128)}) tuple(%i, %z, %stacked)
}

%condition (state.1: (s32[], f32[256], f32[12,256])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[256]{0:T(256)}, f32[12,256]{1,0:T(8,128)}) parameter(0)
  %bound = s32[]{:T(128)} constant(12)
  %j = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%j, %bound), direction=LT
}

ENTRY %main (start: f32[64]) -> f32[256] {
  %start = f32[64]{0:T(256)} parameter(0)
  %gather-start = (f32[64]{0:T(256)}, f32[256]{0:T(256)}) all-gather-start(%start), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  %gathered = f32[256]{0:T(256)} all-gather-done(%gather-start)
  %first = (s32[]{:T(128)}, f32[256]{0:T(256)}, f32[12,256]{1,0:T(8,128)}) tuple(%zero, %gathered, %weights)
  %loop = (s32[]{:T(128)}, f32[256]{0:T(256)}, f32[12,256]{1,0:T(8,128)}) while(%first), condition=%condition, body=%body
  ROOT %result = f32[256]{0:T(256)} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_collectives_count_by_trips_and_channels():
  found = hlo.Module(LOOP).collectives()
  assert set(found) == {'all-reduce', 'all-gather'}
  reduced, gathered = found['all-reduce'], found['all-gather']
  # In a group of two chips half of the array goes each way.
  assert (reduced.count, reduced.bytes, reduced.wire_bytes) == (12, 12 * 1024, 12 * 1024)
  # Of a start only the result counts, of which a chip has a quarter.
  assert (gathered.count, gathered.bytes, gathered.wire_bytes) == (1, 1024, 768)


def test_memory_traffic_of_a_loop():
  module = hlo.Module(LOOP)
  # A turn reads x and writes y, reads y and a twelfth of the stack; z stays on the chip. The gather
  # reads what it is given and writes what its start says.
  start = 256 + 1024 + 256
  assert module.memory_bytes() == 12 * (2048 + 2048) + start


@pytest.mark.parametrize(
  ('text', 'chips'),
  [
    ('replica_groups={{0,1,2},{3,4,5}}', 3),
    ('replica_groups=[2,8]<=[16]', 8),
    ("replica_groups=mesh['a'=4,'b'=2,'c'=3] {'a','c'}", 12),
    ("replica_groups=mesh['a'=16] {'a':(2)4}", 4),
    ('replica_groups={}', None),
  ],
)
def test_groups(text, chips):
  assert hlo._group(text) == chips


def test_bytes_of_shapes():
  assert hlo.shape_bytes('(bf16[2,3]{1,0}, pred[], f32[])') == 12 + 1 + 4
  assert hlo.arrays('(f32[8]{0:T(8)S(1)}, bf16[4]{0:T(8)})') == [('bf16[4]', 8)]


def test_noted_trip_counts():
  loop = hlo.Instruction('w', '()', 'while', (), 'backend_config={"known_trip_count":{"n":"5"}}')
  assert hlo.Module('').trips(loop) == 5


@pytest.mark.slow
def test_data_parallel_training_reduces_four_bytes_a_parameter():
  made = program.Program(subject.config())
  mesh = sharding.make_mesh(dict(data=8))
  compiled = made.lower(made.batches[0], mesh).compile()
  found = hlo.Module(compiled.as_text()).collectives()
  # Metrics and signals are reduced too: of so small a model they are more than a hundredth.
  assert 0 <= found['all-reduce'].bytes - 4 * made.params < 8000
  assert jax.device_count() == 8


def test_what_comes_to_the_chip_in_pieces_is_counted_once():
  text = """
ENTRY %main (p: f32[8,1024]) -> f32[8,1024] {
  %p = f32[8,1024]{1,0:T(8,128)} parameter(0)
  %a = ((f32[8,1024]{1,0}), f32[2,1024]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%p)
  %b = f32[2,1024]{1,0:T(8,128)S(1)} slice-done(%a)
  %c = (f32[8,1024]{1,0:T(8,128)S(1)}, f32[8,1024]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)
  ROOT %d = f32[8,1024]{1,0} copy-done(%c)
}
"""
  assert hlo.Module(text).memory_bytes() == 4 * 2 * 1024 + 4 * 8 * 1024


def test_a_part_that_is_written_in_place_is_what_moves():
  text = """
%fused (a: f32[8,1024], b: f32[1,1024]) -> f32[8,1024] {
  %a = f32[8,1024]{1,0} parameter(0)
  %b = f32[1,1024]{1,0:T(8,128)S(1)} parameter(1)
  %i = s32[] constant(3)
  %z = s32[] constant(0)
  ROOT %r = f32[8,1024]{1,0} dynamic-update-slice(%a, %b, %i, %z)
}

%begun (c: f32[1,1024]) -> f32[8,1024] {
  %n = f32[8,1024]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %c = f32[1,1024]{1,0} parameter(0)
  %k = s32[] constant(0)
  ROOT %s = f32[8,1024]{1,0} dynamic-update-slice(%n, %c, %k, %k)
}

ENTRY %main (p: f32[1,1024], q: f32[1,1024]) -> f32[8,1024] {
  %p = f32[1,1024]{1,0} parameter(0)
  %q = f32[1,1024]{1,0:T(8,128)S(1)} parameter(1)
  %x = f32[8,1024]{1,0} fusion(%p), kind=kLoop, calls=%begun
  ROOT %y = f32[8,1024]{1,0} fusion(%x, %q), kind=kLoop, calls=%fused
}
"""
  # p is read and written; q, on the chip, is written.
  assert hlo.Module(text).memory_bytes() == 3 * 4 * 1024
