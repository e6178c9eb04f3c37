"""A model that takes no audio: config, training, files, meshes, checkpoints."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import capabilities, models, weights
from research.errors import InputError
from research.train import build, optim, sharding
from research.train.checkpoint import Checkpointer
from research.train.config import complete
from research.train.state import init_state
from research.train.step import make_train_step
from research.weights import tables
from tests.models.toy_text import ToyText, filled_in

MODEL = dict(name='toy_text', args=dict(width=32, heads=4))


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
  monkeypatch.setitem(models.ELSEWHERE, 'toy_text', 'tests.models.toy_text:ToyText')


def batch():
  answers = np.random.default_rng(0).integers(0, 11, (8, 12)).astype(np.int32)
  tokens = np.where(np.arange(12) % 3 == 1, -1, answers)
  return {'tokens': jnp.asarray(tokens), 'answers': jnp.asarray(answers)}


def start():
  config = complete(
    dict(
      total_steps=9, model=MODEL, objective=dict(name='cross_entropy'),
      optim=dict(name='adamw', lr=1e-2, weight_decay=0.01, layer_decay=dict(rate=0.5)),
    )
  )  # fmt: skip
  model = build.model(config)
  schedule = optim.make_schedule(config['optim'], 9)
  optimizer = build.optimizer(config, model, schedule)
  state = jax.jit(lambda: init_state(model, optimizer, batch(), 0, False))()
  return model, state, make_train_step(model, filled_in, optimizer, schedule=schedule)


def test_it_declares_what_it_is():
  model, _, _ = start()
  assert isinstance(model, capabilities.Model) and not isinstance(model, capabilities.Hears)
  assert models.name_of(ToyText) == 'toy_text' and 'toy_text' in models.names()
  assert json.loads(json.dumps(weights.model_args(model))) == MODEL['args']


@pytest.mark.slow
def test_it_learns_and_steps_are_the_same_on_eight_devices():
  _, state, step = start()
  losses, one = [], state
  for _ in range(9):
    one, metrics = jax.jit(step)(one, batch())
    losses.append(float(metrics['loss']))
  assert losses[-1] < 0.5 * losses[0] and 'audio_samples' not in metrics

  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  numpy = {k: np.asarray(x) for k, x in batch().items()}
  layout = sharding.shardings(state, mesh)
  assert any(any(s.spec) for s in jax.tree.leaves(layout.params))
  spread = jax.device_put(state, layout)
  with jax.set_mesh(mesh):
    for want in losses[:3]:
      spread, metrics = jax.jit(step)(spread, sharding.to_devices(numpy, mesh))
      assert float(metrics['loss']) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize('scan', [False, True])
def test_files_there_and_back(tmp_path, scan):
  model, state, _ = start()
  ours = weights.Pretrained('toy_text', model, {'params': jax.device_get(state.params)}, 'a test')
  weights.save(ours, tmp_path)
  back = weights.load(tmp_path, scan_layers=scan)
  assert back.model == model.clone(scan_layers=scan) and back.fingerprint == ours.fingerprint
  assert ('blocks' in back.variables['params']) == scan
  np.testing.assert_allclose(
    jax.jit(back.model.apply)(back.variables, batch())['logits'],
    jax.jit(model.apply)(ours.variables, batch())['logits'],
    rtol=2e-6,  # two programs: sums in another order, 6 ulp apart
    atol=2e-6,
  )
  with pytest.raises(InputError, match='width=16 was given, but the weights were made with'):
    weights.load(tmp_path, width=16)
  with pytest.raises(InputError, match='toy_text takes no audio'):
    weights.load(tmp_path, frontend={})
  with pytest.raises(InputError, match='it has no front-end'):
    _ = back.frontend


@pytest.mark.slow
def test_checkpoints_on_another_mesh(tmp_path):
  model, state, step = start()
  state, _ = jax.jit(step)(state, batch())
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  saver = Checkpointer(tmp_path / 'checkpoints')
  saver.save(1, jax.device_put(state, sharding.shardings(state, mesh)), {'next_index': 1})
  saver.close()
  layout = sharding.shardings(state, sharding.make_mesh(dict(data=1, fsdp=8, tensor=1)))
  target = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, layout
  )
  reader = Checkpointer(tmp_path / 'checkpoints')
  restored, position = reader.restore_newest(target)
  reader.close()
  assert position == {'next_index': 1}
  for a, b in zip(*map(jax.tree.leaves, (restored.params, state.params)), strict=True):
    np.testing.assert_array_equal(a, b)
  (tmp_path / 'config.json').write_text(json.dumps({'model': MODEL}))
  loaded = weights.load(tmp_path)
  assert loaded.name == 'toy_text' and loaded.model == model
  assert set(tables.flatten(loaded.variables)) == set(tables.expected(model))
