"""Contract 7 on a small decoder in each of its forms: step by step equals all at once."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from research.nn import cache as caches
from research.nn.positions import Rotary
from research.train import sharding
from research.train.state import path_name
from tests import contract
from tests.nn.decoder import Decoder

FORMS = {
  'rotary, grouped heads': dict(kv_heads=2),
  'one key head, own size, rows of their own': dict(kv_heads=1, head_dim=12, aligned=False),
  'partial interleaved rotary, scan': dict(rotary=Rotary(500.0, 4, True), scan_layers=True),
  'learned, context': dict(positions='learned', cross=True),
  'sinusoidal, context, scan, own rows': dict(
    positions='sinusoidal', cross=True, scan_layers=True, aligned=False
  ),
  'relative bias': dict(positions='relative', kv_heads=2),
  'window': dict(window=3),
  'window in a ring': dict(window=3, ring=True, max_length=4, kv_heads=2),
  'window in a ring, own rows, scan': dict(
    window=4, ring=True, max_length=4, aligned=False, scan_layers=True
  ),
}
FORM = pytest.mark.parametrize('form', FORMS)


@functools.cache
def stepper(form):
  model = Decoder(**FORMS[form])
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, model.vocabulary, (8, 12)).astype(np.int32)
  inputs = {}
  if model.cross:
    mask = np.arange(9) < np.asarray([9, 5, 7, 9, 1, 3, 9, 8])[:, None]
    context = rng.standard_normal((8, 9, model.width)).astype(np.float32)
    inputs = {'context': context, 'context_mask': mask}
  one = {k: v[:1] for k, v in inputs.items()}
  variables = jax.jit(model.init)(jax.random.key(0), tokens[:1], **one)
  # Biases that start at zero would hide a missing one.
  keys = iter(jax.random.split(jax.random.key(1), 100))
  variables = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), variables)

  def full(variables, tokens, real, inputs):
    return model.apply(variables, tokens, real, None, **inputs)[0]

  def prefill(variables, state, tokens, real, inputs):
    return model.apply(variables, tokens, real, state, **inputs)

  def step(variables, state, tokens, real):
    return model.apply(variables, tokens, real, state)

  # Padding between tokens moves the slots by which the table of relative biases goes, and takes
  # room in a ring.
  sides = ('left', 'right') if not model.aligned or not model.ring else ('left',)
  sides = () if model.positions == 'relative' else sides
  return contract.Stepper(
    variables, tokens, inputs, jax.jit(full), model.start, prefill, step, sides
  )


@pytest.mark.slow
@FORM
def test_step_by_step_equals_all_at_once(form):
  contract.check_steps(stepper(form))


@pytest.mark.slow
@FORM
def test_padding_changes_nothing(form):
  contract.check_padded_steps(stepper(form))


@pytest.mark.slow
@FORM
def test_rows_go_on_from_other_rows(form):
  contract.check_reordered_steps(stepper(form), caches.reorder)


@pytest.mark.slow
@FORM
def test_bfloat16(form):
  contract.check_bfloat16_steps(stepper(form))


@pytest.mark.slow
@FORM
@pytest.mark.parametrize('mesh', (contract.MESHES[0], contract.MESHES[-1]), ids=str)
def test_meshes(form, mesh):
  contract.check_steps_on_mesh(stepper(form), mesh)


@pytest.mark.slow
def test_projections_are_spread_by_their_heads():
  mesh = sharding.make_mesh(contract.MESHES[-1])
  specs = jax.tree_util.tree_map_with_path(
    lambda path, x: sharding.leaf_spec(path_name(path), x.shape, mesh), stepper('window').variables
  )
  attention = specs['params']['blocks_0']['attn']
  assert attention['query'] == {'kernel': P('fsdp', 'tensor', None), 'bias': P('tensor', None)}
  assert attention['key'] == {'kernel': P('fsdp', 'tensor', None)}
  assert attention['out']['kernel'] == P('tensor', None, 'fsdp')
