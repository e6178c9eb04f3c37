"""FLOPs of steps against XLA's count of single operations and against hand formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.train import build, flops, optim
from research.train.config import complete
from research.train.sharding import make_mesh, shardings, to_devices
from research.train.state import init_state
from research.train.step import Steps, make_train_step
from tests.train.toy import Toy, batch_of, squared


def xla(function, *args):
  """What XLA counts in a program without loops."""
  costs = jax.jit(function).lower(*args).compile().cost_analysis()
  return (costs[0] if isinstance(costs, list) else costs)['flops']


def counted(function, *args):
  return flops.count(jax.make_jaxpr(function)(*args))


def step_flops(model, rows=8, seconds=10.0, accumulate=1, objective='masked_patch_mse', **data):
  """FLOPs of a whole training step of a model."""
  config = complete(
    dict(
      total_steps=10,
      model=model,
      objective=dict(name=objective),
      optim=dict(accumulate=accumulate),
      data=dict(batch_size=rows, seconds=seconds, **data),
    )
  )
  made = build.model(config)
  schedule = optim.make_schedule(config['optim'], 10, 10)
  optimizer = build.optimizer(config, made, schedule)
  batch = build.example_batch(config, made, rows, seconds)
  state = jax.eval_shape(lambda: init_state(made, optimizer, batch, 0, False))
  step = build.train_step(config, made, optimizer, schedule, 10)
  return counted(step, state, batch)


def block(tokens, width, hidden):
  """FLOPs of a transformer block, forward: projections and MLP, q.k and the weighted values."""
  return tokens * (8 * width**2 + 4 * width * hidden) + 4 * tokens**2 * width


# -- Single operations -------------------------------------------------------------------------


def test_products_with_and_without_batch():
  a, b = jnp.ones((4, 8, 16)), jnp.ones((4, 16, 32))
  assert counted(jnp.matmul, a, b) == 2 * 4 * 8 * 16 * 32
  assert counted(lambda a, b: jnp.einsum('bij,bjk->ki', a, b), a, b) == 2 * 4 * 8 * 16 * 32


@pytest.mark.parametrize(
  'args',
  [
    dict(window_strides=(1,), padding=[(0, 0)]),
    dict(window_strides=(3,), padding=[(0, 0)]),
    dict(window_strides=(1,), padding=[(4, 3)]),
    dict(window_strides=(1,), padding=[(6, 6)], rhs_dilation=(3,)),
    dict(window_strides=(1,), padding=[(7, 7)], lhs_dilation=(4,)),
    dict(window_strides=(2,), padding=[(3, 3)], feature_group_count=4),
    dict(window_strides=(1,), padding=[(3, 3)], batch_group_count=2),
  ],
)
def test_convolutions_and_their_gradients_are_as_xla_counts_them(args):
  groups = args.get('feature_group_count', 1)
  x, kernel = jnp.ones((4, 50, 8)), jnp.ones((7, 8 // groups, 12))

  def forward(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=('NWC', 'WIO', 'NWC'), **args)

  g = jnp.ones(forward(x, kernel).shape)
  products = counted(forward, x, kernel)
  assert products == pytest.approx(xla(forward, x, kernel), rel=0.02)
  # Each gradient has the products of the forward pass, which itself is not needed for it.
  for number in (0, 1):
    pull = lambda x, kernel, g, i=number: jax.vjp(forward, x, kernel)[1](g)[i]  # noqa: E731
    assert counted(pull, x, kernel, g) == pytest.approx(products, rel=1e-6)


def test_loops_count_as_often_as_they_run():
  x = jnp.ones((16, 16))
  once = 2 * 16**3
  scanned = lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=5)[0]  # noqa: E731
  assert counted(scanned, x) == 5 * once
  assert counted(lambda x: jax.lax.fori_loop(0, 5, lambda i, c: c @ x, x), x) == 5 * once
  assert counted(lambda x: jax.lax.map(lambda row: x @ row, x), x) == once
  # Without a known trip count.
  assert counted(lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ x, x), x) == once


def test_what_nothing_depends_on_does_not_count():
  x = jnp.ones((16, 16))
  assert counted(lambda x: (x @ x, x)[1], x) == 0


def test_branches():
  x = jnp.ones((16, 16))
  once = 2 * 16**3
  by_platform = lambda x: jax.lax.platform_dependent(  # noqa: E731
    x, cpu=lambda x: x @ x @ x, default=lambda x: x @ x
  )
  assert counted(by_platform, x) == once
  by_value = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x, x)  # noqa: E731
  assert counted(by_value, x) == once


def test_programs_inside_programs():
  @jax.custom_vjp
  def square(x):
    return x @ x

  square.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))
  x = jnp.ones((16, 16))
  once = 2 * 16**3
  assert counted(square, x) == once
  assert counted(lambda x: jax.jit(square)(x), x) == once
  assert counted(jax.value_and_grad(lambda x: square(x).sum()), x) == 3 * once
  assert counted(jax.jit(jax.checkpoint(lambda x: jnp.sin(x @ x))), x) == once


# -- Whole steps -------------------------------------------------------------------------------


def test_audio_mae_base_is_within_two_percent_of_the_formula():
  """Forward, and twice as much backward, of 103 kept of 512 patches with cls; 513 decoded."""
  model = dict(
    name='audio_mae', args=dict(size='base', decoder='global', scan_layers=True, dtype='bfloat16')
  )
  clip = 12 * block(103, 768, 3072) + 8 * block(513, 512, 2048)
  clip += 2 * (512 * 256 * 768 + 103 * 768 * 512 + 513 * 512 * 256)
  assert 3 * clip == pytest.approx(145.3e9, rel=1e-3)
  assert step_flops(model, rows=2) == pytest.approx(3 * 2 * clip, rel=0.02)


@pytest.mark.slow
def test_scanned_unrolled_accumulated_and_recomputed_steps_are_alike():
  def mae(**args):
    small = dict(size='tiny', depth=3, decoder_depth=2, decoder='global')
    return dict(name='audio_mae', args={**small, **args})

  unrolled = step_flops(mae())
  assert step_flops(mae(scan_layers=True)) == unrolled
  assert step_flops(mae(), accumulate=4) == pytest.approx(unrolled, rel=1e-5)
  assert step_flops(mae(scan_layers=True), accumulate=2) == pytest.approx(unrolled, rel=1e-5)
  # Recomputing costs about a forward pass more, and without it the model is the same.
  recomputed = step_flops(mae(remat=True, scan_layers=True))
  assert 1.15 < recomputed / unrolled < 1.4
  # Without products it costs nothing that counts.
  assert step_flops(mae(remat='products', scan_layers=True)) == unrolled
  config = dict(model=mae(remat=True), data=dict(sample_rate=16_000))
  assert build.without_remat(build.model(config)) == build.model({**config, 'model': mae()})


def test_wav2vec2_is_within_two_percent_of_the_formula():
  rows, seconds = 2, 10.0
  model = dict(
    name='wav2vec2', args=dict(size='base', scan_layers=True, remat=False, mask_seconds=10.0)
  )
  length, channels, clip = round(seconds * 16_000), 1, 0.0
  # The convolutional stem; the first convolution's input needs no gradient.
  for number, (taps, stride) in enumerate([(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]):
    length = (length - taps) // stride + 1
    clip += (2 if number == 0 else 3) * 2 * length * taps * channels * 512
    channels = 512
  n = length
  clip += 3 * 2 * n * 512 * 768  # projection into the encoder
  clip += 3 * 2 * 768 * (768 // 16) * sum(min(n, i + 64) - max(0, i - 64) for i in range(n))
  clip += 3 * 12 * block(n, 768, 3072)
  clip += 3 * 2 * n * 768 * 256 + 3 * 2 * n * 512 * 640 + 3 * 2 * n * 256 * 256
  found = step_flops(model, rows, seconds, objective='wav2vec2_contrastive')
  assert found == pytest.approx(rows * clip, rel=0.02)


def test_steps_count_per_device_and_without_recomputation():
  mesh = make_mesh(dict(data=8))
  model, optimizer = Toy(), optax.sgd(0.1)
  batch = batch_of()
  state = init_state(model, optimizer, batch, 0, False)
  plain, double = (
    make_train_step(model, loss, optimizer, schedule=lambda s: jnp.float32(0.1), accumulate=2)
    for loss in (squared, lambda out, batch: squared(out, batch))
  )
  spread = shardings(state, mesh)
  with jax.set_mesh(mesh):
    steps = Steps(plain, spread, mesh, counted=double)
    state = jax.device_put(state, spread)
    batch = to_devices({k: np.asarray(x) for k, x in batch.items()}, mesh)
    for _ in range(2):
      state, _ = steps(state, batch)
  # fc1 [12, 8] and fc2 [8, 1]: forward and kernel gradients, and the input gradient of fc2.
  # The effective rank of the embeddings takes one product.
  row = 2 * (2 * 12 * 8 + 3 * 8 * 1 + 8 * 8)
  assert steps.flops == 2 * 16 * row / 8
