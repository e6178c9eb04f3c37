"""Patches, their masks and the encoder trunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import spectrogram as trunk


def image(b=2, s=64, f=128):
  return jnp.arange(b * s * f, dtype=jnp.float32).reshape(b, s, f)


@pytest.mark.parametrize('stride', [16, 10])
def test_patches_are_where_they_should_be(stride):
  x = image()
  patches = trunk.patchify(x, 16, stride)
  rows, columns = trunk.patch_grid(64, 128, 16, stride)
  assert (rows, columns) == ((4, 8) if stride == 16 else (5, 12))
  assert patches.shape == (2, rows * columns, 256)
  r, c = 2, 5
  want = x[1, r * stride : r * stride + 16, c * stride : c * stride + 16]
  np.testing.assert_array_equal(patches[1, r * columns + c].reshape(16, 16), want)


@pytest.mark.parametrize('stride', [16, 10])
def test_patches_back_to_the_spectrogram(stride):
  x = image(s=70)
  back = trunk.unpatchify(trunk.patchify(x, 16, stride), 70, 128, 16, stride)
  covered = 64 if stride == 16 else 66
  columns = 128 if stride == 16 else 126
  np.testing.assert_allclose(back[:, :covered, :columns], x[:, :covered, :columns], rtol=1e-6)
  assert not back[:, covered:].any()


def test_published_grids():
  assert trunk.patch_grid(1024, 128, 16, 16) == (64, 8)
  assert trunk.patch_grid(1024, 128, 16, 10) == (101, 12)


def test_a_patch_is_real_if_one_frame_is():
  frames = jnp.arange(64) < jnp.array([0, 1, 16, 17, 64])[:, None]
  mask = trunk.patch_mask(frames, 128, 16, 16)
  np.testing.assert_array_equal(mask.sum(1), [0, 8, 8, 16, 32])


def encoder(**args):
  return trunk.Encoder(width=32, depth=3, heads=2, grid=(4, 8), **args)


def loss_and_gradients(model, variables, patches, **kwargs):
  def loss(params):
    out = model.apply({**variables, 'params': params}, patches, **kwargs)
    return jnp.square(out['tokens'] * out['stem']).mean()

  return jax.jit(jax.value_and_grad(loss))(variables['params'])


@pytest.mark.slow
@pytest.mark.parametrize(
  'change',
  [dict(scan_layers=True), dict(remat='products'), dict(scan_layers=True, remat=True)],
  ids=str,
)
@pytest.mark.parametrize('train', [False, True])
def test_scan_and_remat_change_nothing(change, train):
  from research.nn.layers import stack_blocks, unstack_blocks

  patches = jax.random.normal(jax.random.key(0), (2, 32, 256))
  plain, other = encoder(drop_path=0.5), encoder(drop_path=0.5, **change)
  variables = plain.init(jax.random.key(1), patches)
  u = jax.random.uniform(jax.random.key(2), (3, 2, 2)) if train else None
  mask = jnp.arange(32) < jnp.array([[20], [32]])
  kwargs = dict(key_mask=mask, drop_path_u=u, train=train)
  want, wanted = loss_and_gradients(plain, variables, patches, **kwargs)
  layout = stack_blocks if other.scan_layers else dict
  got, gradients = loss_and_gradients(other, layout(variables), patches, **kwargs)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  gradients = unstack_blocks(gradients)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradients, wanted)


@pytest.mark.slow
def test_collected_layers_are_the_same_scanned_and_not():
  from research.nn.layers import stack_blocks

  patches = jax.random.normal(jax.random.key(0), (2, 32, 256))
  variables = encoder().init(jax.random.key(1), patches)
  plain = encoder().apply(variables, patches, collect=True)
  scanned = encoder(scan_layers=True).apply(stack_blocks(variables), patches, collect=True)
  assert plain['layers'].shape == (3, 2, 33, 32)
  np.testing.assert_allclose(plain['layers'], scanned['layers'], atol=1e-5)
  np.testing.assert_allclose(plain['normed'][-1], plain['tokens'], atol=1e-5)


@pytest.mark.slow
def test_only_kept_patches_are_seen():
  patches = jax.random.normal(jax.random.key(0), (2, 32, 256))
  ids = jnp.array([[5, 2, 9], [0, 31, 4]])
  model = encoder()
  variables = model.init(jax.random.key(1), patches)
  out = model.apply(variables, patches, ids)
  assert out['tokens'].shape == (2, 4, 32)
  others = jnp.ones((2, 32), bool).at[jnp.arange(2)[:, None], ids].set(False)
  spoiled = jnp.where(others[:, :, None], jnp.nan, patches)
  np.testing.assert_array_equal(model.apply(variables, spoiled, ids)['tokens'], out['tokens'])
  whole = model.apply(variables, patches)['stem']
  np.testing.assert_allclose(out['stem'][1, 2], whole[1, 1 + 31], atol=1e-5)


def test_patch_bias_keeps_the_convolution_default():
  variables = encoder().init(jax.random.key(1), jnp.zeros((1, 32, 256)))
  bias = np.abs(variables['params']['patch_embed']['bias'])
  assert 0.8 / 16 < bias.max() <= 1 / 16
  kernel = np.abs(variables['params']['patch_embed']['kernel'])
  assert 0.98 < kernel.max() / (6 / (256 + 32)) ** 0.5 <= 1


def test_drop_rates_rise_linearly():
  np.testing.assert_allclose(trunk.drop_path_rates(0.1, 3), [0, 0.05, 0.1])
