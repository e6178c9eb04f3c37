"""Batches filled up with empty rows, for devices and micro-batches that do not divide them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.audio import sources
from research.capabilities import Answers, mixes_rows
from research.train import build, health
from research.train.config import complete
from research.train.state import init_state
from research.train.step import make_gradient
from tests import experiments_test
from tests.multiprocess import group

ROWS, FILLED = 3, 4
# Augmentations that make what a model learns to give.
MAKE_TARGETS = ('mix_speakers',)


def debug_models():
  """One debug experiment for every model and objective."""
  seen = set()
  for file in experiments_test.FILES:
    config = experiments_test.load(file).get_config('debug').to_dict()
    args = config['model']['args']
    parts = (args[part]['name'] for part in ('encoder', 'head') if args.get(part))
    program = (config['model']['name'], *parts, config['objective']['name'])
    if program not in seen:
      seen.add(program)
      yield pytest.param(config, id=experiments_test.name_of(file))


def some_batch(config, model):
  """Three clips of noise of different lengths, with random fields; for a model that answers, three
  conversations of its data."""
  if isinstance(model, Answers):
    data = {**config['data'], 'batch_size': ROWS}
    clips = sources.open_source(data['source']).where(data['where'])
    return next(iter(build.train_batches(data, clips, model=model)))
  rng = np.random.default_rng(0)
  batch = build.example_batch(config, model, ROWS, config['data']['seconds'] or 2.0)
  batch['audio'] = rng.normal(size=batch['audio'].shape).astype(np.float32) * 0.1
  samples = batch['audio'].shape[1]
  lengths = np.array([samples, int(0.8 * samples), int(0.7 * samples)])
  batch['audio_mask'] = np.arange(samples) < lengths[:, None]
  batch['audio'] *= batch['audio_mask']
  for name in ('label', 'units', 'tokens', 'targets'):
    if name in batch:
      shape = batch[name][:, :4].shape if name in ('tokens', 'targets') else batch[name].shape
      batch[name] = rng.integers(1, 4, shape).astype(np.int32)
  return batch


def fill(batch):
  """The same batch with rows as the pipeline fills it."""
  extra = {k: np.zeros((FILLED - ROWS, *x.shape[1:]), x.dtype) for k, x in batch.items()}
  for name in {'tokens', 'targets'} & set(extra):
    extra[name] -= 1
  if 'units' in extra:
    extra['units'] -= 1
  return {k: np.concatenate([x, extra[k]]) for k, x in batch.items()}


@pytest.mark.slow
@pytest.mark.parametrize('config', list(debug_models()))
def test_empty_rows_change_nothing(config):
  config = complete(config)
  model, objective = build.model(config), build.objective(config)
  if mixes_rows(model):
    pytest.skip('its rows mix: batches are not filled')
  batch = some_batch(config, model)
  if any(spec['name'] in MAKE_TARGETS for spec in config['augment']):
    for i, transform in enumerate(build.augmentations(config)):
      batch = jax.device_get(transform(jax.random.key(i), batch))
  optimizer = build.optimizer(config, model, lambda step: 1e-3)
  teacher = bool(config['teacher'])
  options = {'xla_backend_optimization_level': 0}  # compiles in half of the time
  init = jax.jit(lambda b: init_state(model, optimizer, b, 0, teacher), compiler_options=options)
  state = init(batch)
  forward = bool((config['teacher'] or {}).get('forward'))
  gradient = jax.jit(make_gradient(model, objective, 1, forward), compiler_options=options)
  key = jax.random.key(1)
  grads, _, _, metrics = gradient(state, batch, key)
  filled_grads, _, _, filled_metrics = gradient(state, fill(batch), key)
  assert np.isfinite(metrics['loss'])
  for name, value in metrics.items():
    np.testing.assert_allclose(value, filled_metrics[name], rtol=2e-4, atol=1e-5, err_msg=name)
  scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(grads))
  assert scale > 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * scale), grads, filled_grads
  )


def test_signals_leave_empty_rows_out():
  z = jax.random.normal(jax.random.key(0), (5, 8))
  filled = jnp.concatenate([z, jnp.full((3, 8), 100.0)])
  valid = jnp.arange(8) < 5
  for signal in (health.representation_std, health.effective_rank):
    np.testing.assert_allclose(signal(z), signal(filled, valid), rtol=1e-5)


@pytest.mark.slow
def test_three_devices_train_as_one(tmp_path):
  """Eight clips on three devices, and with two micro-batches: nine and twelve rows."""
  losses = []
  for i, (devices, accumulate) in enumerate([(1, 1), (3, 1), (3, 2)]):
    workdir = tmp_path / str(i)
    args = ('--config.total_steps=20', f'--config.optim.accumulate={accumulate}')
    done = group.train(workdir, *args, count=1, devices=devices).wait()[0]
    assert done.code == 0, done
    losses.append(group.losses(workdir))
  one, three, parts = losses
  for step, loss in one.items():
    np.testing.assert_allclose(three[step], loss, rtol=1e-4)
  assert all(np.isfinite(list(parts.values()))) and parts.keys() == one.keys()
