"""A codec and its discriminator in one step: gradients of both, state that is carried, eight
devices, groups of the optimiser, and weights that leave without the discriminator."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import weights
from research.errors import InputError
from research.models.encodec import Encodec
from research.objectives import adversarial
from research.objectives.adversarial_codec import check_codec_adversarial, codec_adversarial
from research.objectives.codec import mel_scales
from research.train import config as configs
from research.train import optim, sharding
from research.train.checkpoint import Checkpointer
from research.train.health import Watch
from research.train.state import init_state
from research.train.step import forward, make_gradient, make_train_step
from research.weights import conversion
from research.weights.pretrained import Pretrained, save
from tests.contract import wave

ROWS, SAMPLES, RATE = 8, 160, 16_000
WEIGHTS = dict(l1=0.1, mel=1.0, adversarial=3.0, features=3.0)
OPTIM = {
  **optim.DEFAULTS,
  'name': 'adam',
  'lr': 3e-3,
  'b1': 0.5,
  'b2': 0.9,
  'groups': {'critic': dict(match='^critic/', lr=1e-2, probability=0.5)},
}
MATCHES = {'critic': '^critic/'}
OBJECTIVE = functools.partial(
  codec_adversarial, sample_rate=RATE, scales=(5, 6), bins=8, worker_clips=8
)
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def codec():
  return Encodec(
    size='small', n_filters=2, dimension=4, ratios=(4,), quantizers=1, codebook_size=8, lstm=0,
    kernel_size=3, last_kernel_size=3, bandwidths=(12.0,), norm='none',
    discriminator=dict(n_ffts=(32,), filters=2),
  )  # fmt: skip


def batch_of():
  audio = np.stack([wave(i, SAMPLES) for i in range(ROWS)])
  mask = np.ones(audio.shape, bool)
  mask[1, 100:] = False
  return {'audio': audio, 'audio_mask': mask, 'valid': np.arange(ROWS) < ROWS - 1}


class Made:
  """Everything that is compiled once."""

  def __init__(self):
    self.model, self.batch = codec(), jax.tree.map(jnp.asarray, batch_of())
    schedule = lambda step: jnp.float32(OPTIM['lr'])  # noqa: E731
    self.optimizer = optim.make_optimizer(OPTIM, schedule)
    start = functools.partial(init_state, self.model, self.optimizer, seed=0, with_teacher=False)
    self.state = jit(lambda batch: start(batch=batch))(self.batch)
    self.raw = make_train_step(
      self.model, OBJECTIVE, self.optimizer, schedule=schedule, groups=MATCHES
    )
    self.step = jit(self.raw)


@pytest.fixture(scope='module')
def made():
  return Made()


def flat(tree):
  return dict(jax.tree_util.tree_leaves_with_path(tree))


def close(got, want, tolerance=1e-4):
  for path, x in flat(want).items():
    y, x = np.asarray(flat(got)[path]), np.asarray(x)
    scale = max(np.abs(x).max(), 1e-6)
    assert np.abs(x - y).max() <= tolerance * scale, jax.tree_util.keystr(path)


def equal(a, b):
  def raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(raw(x)), np.asarray(raw(y)))


@pytest.mark.slow
def test_gradients_are_the_balanced_ones(made):
  """Each loss alone, its gradient at the reconstruction, their balance by hand, and from there
  back into the codec; the discriminator's hinge loss alone into the discriminator."""
  model, state, batch = made.model, made.state, made.batch
  key = jax.random.fold_in(state.key, state.step)
  rest = dict(state.params)
  critic = rest.pop('critic')
  valid = batch['valid']
  weight = (valid[:, None] & batch['audio_mask']).astype(jnp.float32)

  def decoded(params, critic):
    out, _ = forward(model, {**params, 'critic': critic}, state.variables, batch, key)
    return out

  def by_hand(params, critic):
    def reach(params):
      out = decoded(params, critic)
      return (out['reconstruction'], out['quantiser_loss']), out

    (x_hat, _), back, out = jax.vjp(reach, params, has_aux=True)
    target, frames = out['target'], out['judged_frames']
    counted = [f & valid[:, None] for f in frames]
    lengths = jnp.where(valid, batch['audio_mask'].sum(axis=1), 0)
    how = dict(sample_rate=RATE, start=5, end=6, bins=8)
    losses = {
      'l1': lambda y: (jnp.abs(y - target) * weight).sum() / weight.sum(),
      'mel': lambda y: mel_scales(y, target, lengths, **how)[0],
      'adversarial': lambda y: adversarial.generator_hinge(out['judge'](y)[0], counted),
      'features': lambda y: adversarial.feature_matching(
        out['judge'](target)[1], out['judge'](y)[1], counted
      ),
    }
    gradients = {name: jax.grad(loss)(x_hat) for name, loss in losses.items()}
    total, whole = 0.0, sum(WEIGHTS.values())
    for name, g in gradients.items():
      norm = jnp.sqrt(jnp.square(g).sum(axis=1)).sum() / (ROWS - 1)
      total = total + WEIGHTS[name] / whole * g / norm
    (wanted,) = back((total * 8 / (ROWS - 1), jnp.float32(1.0)))

    def hinge(critic):
      judged = decoded(jax.lax.stop_gradient(params), critic)
      return adversarial.discriminator_hinge(
        judged['judged_real'][0], judged['judged_fake'][0], counted
      )

    values = {name: loss(x_hat) for name, loss in losses.items()}
    return wanted, jax.grad(hinge)(critic), values

  wanted, of_critic, values = jit(by_hand)(rest, critic)
  gradient = jit(make_gradient(model, OBJECTIVE, 1, False))
  got, variables, _, metrics = gradient(state, batch, key)
  close({k: v for k, v in got.items() if k != 'critic'}, wanted)
  close(got['critic'], of_critic)
  for name, value in values.items():
    assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5)
  parts = [WEIGHTS[name] * values[name] for name in WEIGHTS]
  parts += [metrics['commitment'], metrics['discriminator_loss']]
  assert float(metrics['loss']) == pytest.approx(float(sum(parts)), rel=1e-5)
  assert 'variables' not in metrics and float(variables['balancer']['weight']) == 1.0


@pytest.mark.slow
def test_steps_resume_to_the_bit_and_eight_devices_are_one(made, tmp_path):
  states, metrics = [made.state], []
  for _ in range(4):
    after, found = made.step(states[-1], made.batch)
    states.append(after)
    metrics.append(found)
  assert all(float(m['finite']) == 1 for m in metrics)
  assert {'grad_norm', 'grad_norm_critic'} <= set(metrics[0])
  # Running norms: four updates, decayed.
  want = sum(0.999**i for i in range(4))
  assert float(states[-1].variables['balancer']['weight']) == pytest.approx(want, rel=1e-6)
  # Killed after two steps.
  saver = Checkpointer(tmp_path / 'checkpoints')
  saver.save(2, states[2], {'next_index': 0})
  saver.close()
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), states[2]
  )
  reader = Checkpointer(tmp_path / 'checkpoints')
  again, _ = reader.restore_newest(target)
  reader.close()
  for _ in range(2):
    again, _ = made.step(again, made.batch)
  equal(again, states[-1])
  # The discriminator learns at some steps, the codec at all.
  moved = [
    {
      name: any(
        np.any(np.asarray(x) != np.asarray(y))
        for x, y in zip(*(jax.tree.leaves(s.params[name]) for s in pair), strict=True)
      )
      for name in ('critic', 'encoder')
    }
    for pair in itertools.pairwise(states)
  ]
  draws = [each['critic'] for each in moved]
  assert all(each['encoder'] for each in moved) and 0 < sum(draws) < len(draws)
  # NaN: nothing is kept.
  bad = {**made.batch, 'audio': made.batch['audio'].at[0, 0].set(jnp.nan)}
  after, found = made.step(states[1], bad)
  assert float(found['finite']) == 0
  equal(dataclasses.replace(after, step=states[1].step), states[1])
  # Eight devices.
  mesh = sharding.make_mesh(dict(data=4, fsdp=2, tensor=1))
  layout = sharding.shardings(made.state, mesh)
  spread = jax.device_put(jax.tree.map(jnp.copy, made.state), layout)
  with jax.set_mesh(mesh):
    step = jit(made.raw, out_shardings=(layout, None))
    rows = sharding.to_devices(batch_of(), mesh)
    for i in range(2):
      spread, found = step(spread, rows)
      for name in ('loss', 'grad_norm', 'grad_norm_critic', 'features'):
        assert float(found[name]) == pytest.approx(float(metrics[i][name]), rel=2e-4), name
  close(spread.variables['balancer'], states[2].variables['balancer'], 2e-4)


def test_a_codec_leaves_without_its_discriminator(made, tmp_path):
  variables = {'params': made.state.params, **made.state.variables}
  run = Pretrained('encodec', made.model, jax.tree.map(np.asarray, variables), 'a test')
  file = save(run, tmp_path / 'model.safetensors')
  loaded = weights.load(file)
  assert loaded.model.discriminator is None
  assert set(loaded.variables) == {'params', 'codebooks'}
  assert 'critic' not in loaded.variables['params']
  own = dict(bandwidths=(12.0,), size='small', frontend=dict(sample_rate=RATE))
  arrays = weights.revert('encodec', loaded.model, loaded.variables)
  model, back = weights.convert('encodec', arrays, **own)
  assert model.clone(learning='reset') == loaded.model
  equal(back, loaded.variables)
  whole = weights.load(file, whole=True)
  assert whole.model == made.model and whole.fingerprint != loaded.fingerprint
  equal(whole.variables, run.variables)
  assert conversion.build('encodec', dict(size='small')).discriminator is None


# -- What is checked ---------------------------------------------------------------------------


def test_a_discriminator_that_wins_is_named():
  sure = [jnp.full((2, 3, 4, 1), 5.0)]
  lost = adversarial.discriminator_hinge(sure, [-sure[0]])
  even = adversarial.discriminator_hinge([0 * sure[0]], [0 * sure[0]])
  assert float(lost) == 0.0 and float(even) == 2.0
  assert float(adversarial.logit_gap(sure, [-sure[0]])) == 10.0
  watch = Watch(configs.DEFAULTS['watch'])
  found = []
  for step in range(300, 500, 10):
    found += watch.check(step, {'discriminator_loss': float(lost), 'min_code_usage': 0.5})
  assert len(found) == 1
  assert found[0].startswith('collapse warning: discriminator_loss is 0 at step 390, below 0.05')
  assert found[0].endswith(': the discriminator always wins')
  assert watch.check(510, {'discriminator_loss': float(even)}) == []


def test_configs_that_do_not_fit():
  config = dict(
    model=dict(args=dict(discriminator=None)), data=dict(seconds=0.1, sample_rate=16_000)
  )
  with pytest.raises(InputError, match=r'set config\.model\.args\.discriminator'):
    check_codec_adversarial(config)
  config['model']['args']['discriminator'] = dict(filters=8)
  with pytest.raises(InputError, match=r'seconds is 0\.1, 1600 samples, .* windows of 2048'):
    check_codec_adversarial(config)
  for wrong, words in (
    (True, 'discriminator is True; expected its arguments'),
    (dict(filter=3), "Did you mean 'filters'"),
    (dict(n_ffts=(3,)), r'n_ffts=\(3,\): give multiples of 4'),
  ):
    with pytest.raises(InputError, match=words):
      Encodec(discriminator=wrong)
