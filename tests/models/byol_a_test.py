"""BYOL-A: its memory, its views, what is refused, and a run made to collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.byol_a import laptop
from research.errors import InputError
from research.models.byol_a import ByolA
from research.objectives.bootstrap import bootstrap
from research.train import health, optim, sharding
from research.train.config import complete
from research.train.optim import make_optimizer
from research.train.state import init_state, streams
from research.train.step import make_train_step

SMALL = dict(
  size='v1_d512', hidden=32, width=32, channels=8, frames=32, bank=6, projection=16,
  projection_hidden=32,
)  # fmt: skip
TEACHER = dict(decay=0.9, decay_end=None, decay_steps=None, forward=True)


def clips(b, seed=0, samples=4960):
  """Tones of several pitches with noise."""
  rng = np.random.default_rng(seed)
  t = np.arange(samples) / 16_000
  pitch = rng.uniform(200, 4000, (b, 1))
  audio = 0.3 * np.sin(2 * np.pi * pitch * t) + 0.02 * rng.standard_normal((b, samples))
  return {'audio': jnp.asarray(audio, jnp.float32), 'audio_mask': jnp.ones((b, samples), bool)}


def started(batch, model=None, lr=3e-4):
  model = model or ByolA(**SMALL)
  optimizer = make_optimizer(
    dict(optim.DEFAULTS, name='adamw', lr=lr), lambda step: jnp.float32(lr)
  )
  state = jax.jit(lambda: init_state(model, optimizer, batch, 0, True))()
  step = make_train_step(
    model, bootstrap, optimizer, schedule=lambda s: jnp.float32(lr), teacher=TEACHER
  )
  return state, jax.jit(step)


@pytest.mark.slow
def test_memory_goes_on_in_training_alone():
  batch = clips(4)
  state, step = started(batch)
  assert int(state.variables['memory']['seen']) == 0
  after, _ = step(state, batch)
  after, metrics = step(after, batch)
  memory = after.variables['memory']
  assert int(memory['seen']) == 8 == int(memory['statistics']['clips'])
  assert 'memory' not in after.teacher['variables']
  assert 1 < float(metrics['effective_rank']) <= 3
  model = ByolA(**SMALL)
  variables = {'params': after.params, **after.variables}
  rngs = streams(jax.random.key(0))
  _, changed = model.apply(variables, batch, rngs=rngs, mutable=list(after.variables))
  same = jax.tree.map(np.array_equal, changed, after.variables)
  assert all(jax.tree.leaves(same))


@pytest.mark.slow
def test_the_teacher_sees_the_views_of_the_student():
  batch = clips(4)
  state, step = started(batch)
  after, metrics = step(state, batch)
  assert 0 <= float(metrics['loss']) <= 8
  decay = TEACHER['decay']
  for old, new, ema in zip(
    *map(jax.tree.leaves, (state.params, after.params, after.teacher['params']))
  ):
    np.testing.assert_allclose(ema, decay * old + (1 - decay) * new, rtol=1e-5, atol=1e-7)
  # The same weights and views: the same statistics of the batch.
  ours, theirs = after.variables['batch_stats'], after.teacher['variables']['batch_stats']
  for a, b in zip(jax.tree.leaves(ours['encoder']), jax.tree.leaves(theirs['encoder'])):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_batch_statistics_are_those_of_the_whole_batch_on_a_mesh():
  batch = clips(8)
  state, step = started(batch)
  alone, metrics = step(state, batch)
  mesh = sharding.make_mesh(dict(data=8, fsdp=1, tensor=1))
  spread = jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
  with jax.set_mesh(mesh):
    together, seen = step(spread, sharding.to_devices(jax.tree.map(np.asarray, batch), mesh))
  np.testing.assert_allclose(seen['loss'], metrics['loss'], rtol=1e-4)
  for name in ('batch_stats', 'memory'):
    for a, b in zip(*(jax.tree.leaves(s.variables[name]) for s in (alone, together))):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('padding', ['end', 'both'])
def test_short_clips_are_padded_with_silence(padding):
  model = ByolA(**SMALL, padding=padding)
  batch = clips(2)
  state, _ = started(batch)
  short = jnp.arange(4960) < jnp.array([[1000], [4960]])
  noisy = jnp.where(short, batch['audio'], jnp.nan)
  got = model.apply(
    {'params': state.params, **state.variables},
    {'audio': noisy, 'audio_mask': short},
    method=lambda m, b: m._spectrogram(b),
  )
  energy = np.asarray(got)[0].max(axis=1)
  loud = np.flatnonzero(energy > -10)
  first = 1980 // 160 if padding == 'both' else 0
  # A window reaches 512 samples to both sides.
  assert first - 4 <= loud[0] <= first and loud[-1] <= first + 1000 // 160 + 4
  assert np.isfinite(got).all()


@pytest.mark.slow
def test_short_clips_may_be_repeated():
  model = ByolA(**SMALL, padding='repeat')
  batch = clips(1)
  state, _ = started(batch)
  spectrogram = lambda audio, real: model.apply(  # noqa: E731
    {'params': state.params, **state.variables},
    {'audio': audio, 'audio_mask': real},
    method=lambda m, b: m._spectrogram(b),
  )
  short = jnp.arange(4960)[None] < 1600
  got = spectrogram(jnp.where(short, batch['audio'], jnp.nan), short)
  again = jnp.tile(batch['audio'][:, :1600], (1, 4))[:, :4960]
  np.testing.assert_allclose(got, spectrogram(again, jnp.ones_like(short)), rtol=1e-6)


@pytest.mark.slow
def test_without_a_predictor_it_collapses_and_the_watch_says_so():
  """As BYOL reports (arXiv 2006.07733, section 5)."""
  found = {}
  for predictor in (True, False):
    model = ByolA(**SMALL | dict(predictor=predictor, projection_hidden=64))
    state, step = started(clips(16), model, lr=3e-3)
    for i in range(80):
      state, metrics = step(state, clips(16, seed=i % 40))
    found[predictor] = {name: float(value) for name, value in metrics.items()}
  assert found[True]['projection_std'] > 0.5 and found[False]['projection_std'] < 0.15
  assert found[False]['loss'] < 0.1 < found[True]['loss']
  limits = dict(projection_std=dict(min=0.2, after=50))
  assert not health.Watch(limits).check(80, found[True])
  (warning,) = health.Watch(limits).check(80, found[False])
  assert warning.startswith('collapse warning: projection_std is 0.0')


@pytest.mark.parametrize(
  'args, says',
  [
    (dict(size='v3'), r"Unknown size of byol_a 'v3'"),
    (dict(norm='batch'), 'norm of byol_a'),
    (dict(frames=4), 'need 8 of each'),
    (dict(bank=0), 'bank=0'),
    (dict(projection=0), "take norm='frontend'"),
    (dict(projection=-1), 'projection=-1'),
    (dict(mix_ratio=2.0), 'mix_ratio=2.0; it is a fraction'),
    (dict(crop_freq=(1.5, 0.6)), r'crop_freq=\(1.5, 0.6\); it takes \(least, most\)'),
    (dict(canvas=(0.5, 1.0)), 'canvas='),
  ],
)
def test_refusals(args, says):
  with pytest.raises(InputError, match=says):
    ByolA(**{**SMALL, **args})


@pytest.mark.slow
def test_a_batch_of_one_clip_is_refused():
  """PyTorch's batch norm refuses it too: the projector would learn from one value a channel."""
  batch = clips(1)
  state, _ = started(batch)
  with pytest.raises(InputError, match='two clips or more'):
    ByolA(**SMALL).apply(
      {'params': state.params, **state.variables}, batch, train=True,
      rngs={name: jax.random.key(0) for name in ('augment', 'dropout')},
      mutable=['memory', 'batch_stats'],
    )  # fmt: skip


@pytest.mark.parametrize('name', ['decay', 'decay_end'])
def test_an_average_that_would_diverge_is_refused(name):
  config = laptop.get_config('debug')
  config.teacher[name] = 1.5
  with pytest.raises(InputError, match=f'config.teacher.{name} is 1.5; it must be 1 at most'):
    complete(config)


def test_views_need_draws():
  batch = clips(2)
  state, _ = started(batch)
  model = ByolA(**SMALL)
  with pytest.raises(InputError, match="rng 'augment'"):
    model.apply({'params': state.params, **state.variables}, batch)


def layers_by_hand(model, variables, x):
  """Layers of one clip [s, f], as `reshape_conv_feature` of upstream's AudioNTT2020Task6X."""
  levels = []
  model.apply(variables, x[None], method=lambda m, x: m.encoder(x, levels=levels)[0])
  found, target = [], len(x) // 2**model.blocks
  for level, _ in levels:
    level = np.asarray(level)[0]
    while len(level) > target:
      if len(level) % 2:
        level = np.concatenate([level[:-2], level[-2:].mean(0, keepdims=True)])
      level = level.reshape(len(level) // 2, 2, -1).mean(1)
    found.append(level)
  return found


@pytest.mark.slow
def test_layers_are_those_of_upstream_clip_by_clip():
  args = dict(size='v1_d512', hidden=40, width=300, channels=8, norm='frontend')
  model = ByolA(**args, frontend=dict(mean=-5.5, std=5.0))
  rng = np.random.default_rng(0)
  lengths = [16_000, 16_480, 9_000, 12_345]
  audio = np.full((4, 16_480), np.nan, np.float32)
  for row, n in enumerate(lengths):
    audio[row, :n] = rng.standard_normal(n) * 0.1
  mask = np.arange(16_480) < np.array(lengths)[:, None]
  variables = model.init(jax.random.key(0), audio[:1], mask[:1], method='embed')
  found, real = jax.jit(lambda v, *a: model.apply(v, *a, method='embed'))(variables, audio, mask)
  assert found.shape[0] == 5 and found.shape[3] == 300
  for row, n in enumerate(lengths):
    clip = audio[row : row + 1, :n]
    raw, _ = model.frontend.raw(clip, np.ones((1, n), bool))
    normal = model.apply(variables, raw, method=lambda m, x: m._normalise(x))[0]
    by_hand = layers_by_hand(model, variables, normal)
    count = int(real[row].sum())
    for ours, theirs in zip(found[:, row], by_hand):
      assert len(theirs) == count
      np.testing.assert_allclose(ours[:count, : theirs.shape[1]], theirs, atol=1e-5)
      assert not np.any(ours[:count, theirs.shape[1] :]) and not np.any(ours[count:])
  # Narrower tokens have no place for the features of the first block.
  narrow = ByolA(**{**args, 'width': 200}, frontend=dict(mean=-5.5, std=5.0))
  variables = narrow.init(jax.random.key(0), audio[:1], mask[:1], method='embed')
  assert narrow.apply(variables, audio[:1], mask[:1], method='embed')[0].shape[0] == 1
