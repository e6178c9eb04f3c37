"""The raw-waveform trunk: derivatives that are written out, padding, positions, quantiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.models import waveform
from research.nn import quantizers
from research.nn.convolutions import frames_after
from research.nn.kernels import scale_gradient
from research.nn.kernels.convolutions import conv1d, grouped_conv1d, time_norm
from tests.contract import wave

TINY = dict(
  size='tiny', channels=24, width=32, depth=2, heads=2, hidden=64, final_dim=16, conv_pos_groups=4,
  codebook_size=12,
)  # fmt: skip


def start(model, audio):
  batch = {'audio': audio, 'audio_mask': np.ones(audio.shape, bool)}
  return jax.jit(model.init)(jax.random.key(0), batch)


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(params=['cpu', 'tpu'])
def platform(request, monkeypatch):
  """The forms of a platform, computed here."""
  if request.param == 'tpu':

    def chosen(*args, default, **branches):
      return branches.get('tpu', default)(*args)

    monkeypatch.setattr(jax.lax, 'platform_dependent', chosen)
  return request.param


@pytest.mark.slow
@pytest.mark.parametrize(
  ('samples', 'taps', 'stride', 'inputs'),
  [(20, 3, 2, 4), (21, 3, 2, 4), (22, 3, 2, 4), (20, 2, 2, 4), (23, 10, 5, 4), (23, 4, 1, 4),
   (9, 3, 5, 4), (23, 10, 5, 1)],
)  # fmt: skip
def test_gradients_of_the_strided_convolution_are_those_of_jax(
  samples, taps, stride, inputs, platform
):
  x, kernel = normal(0, 2, samples, inputs), normal(1, taps, inputs, 6)
  weight = normal(2, 2, (samples - taps) // stride + 1, 6)

  def jaxs(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (stride,), 'VALID', dimension_numbers=('NWC', 'WIO', 'NWC')
    )

  want, pull = jax.vjp(jaxs, x, kernel)
  for dtype, tolerance in (('float32', 1e-5), ('bfloat16', 0.02)):
    got, ours = jax.vjp(lambda *a, d=dtype: conv1d(*a, stride, d), x, kernel)
    for a, b in zip((got, *ours(weight.astype(dtype))), (want, *pull(weight))):
      np.testing.assert_allclose(a.astype(jnp.float32), b, atol=tolerance * float(abs(b).max()))
    assert [a.dtype for a in ours(weight.astype(dtype))] == [jnp.float32] * 2


@pytest.mark.slow
@pytest.mark.parametrize('taps', [8, 16, 7])
def test_gradients_of_the_grouped_convolution_are_those_of_jax(taps):
  x, kernel, weight = normal(0, 2, 37, 24), normal(1, taps, 6, 24), normal(2, 2, 37, 24)
  edges = (taps // 2, taps - 1 - taps // 2)

  def ours(x, kernel):
    return (grouped_conv1d(x, kernel, 4, edges) * weight).sum()

  def jaxs(x, kernel):
    y = jax.lax.conv_general_dilated(
      x, kernel, (1,), [edges], dimension_numbers=('NWC', 'WIO', 'NWC'), feature_group_count=4
    )
    return (y * weight).sum()

  for got, want in zip(jax.grad(ours, (0, 1))(x, kernel), jax.grad(jaxs, (0, 1))(x, kernel)):
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_norm_over_time_counts_real_frames_only_and_its_gradients_are_those_of_jax(platform):
  x, scale, bias = normal(0, 2, 37, 24), normal(1, 24), normal(2, 24)
  weight = normal(3, 2, 37, 24)
  real = jnp.arange(37) < jnp.array([[37], [20]])

  def plain(x, scale, bias):
    keep = real[..., None].astype(jnp.float32)
    count = keep.sum(axis=1, keepdims=True)
    mean = (x * keep).sum(axis=1, keepdims=True) / count
    variance = (jnp.square(x - mean) * keep).sum(axis=1, keepdims=True) / count
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias

  ours = lambda *args: time_norm(*args, real, 1e-5)  # noqa: E731
  np.testing.assert_allclose(ours(x, scale, bias), plain(x, scale, bias), atol=1e-5)
  wanted = jax.grad(lambda *args: (plain(*args) * weight).sum(), (0, 1, 2))(x, scale, bias)
  gotten = jax.grad(lambda *args: (ours(*args) * weight).sum(), (0, 1, 2))(x, scale, bias)
  for got, want in zip(gotten, wanted):
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_gradient_scale():
  value, gradient = jax.value_and_grad(lambda x: scale_gradient(x, 0.1) * 3.0)(jnp.float32(2.0))
  assert value == 6.0 and gradient == pytest.approx(0.3)


def test_positions_look_64_frames_back_and_63_ahead():
  positions = waveform.PositionalConv(128, 4)
  x = jnp.zeros((1, 300, 8))
  variables = positions.init(jax.random.key(0), x)
  away = np.asarray(positions.apply(variables, x.at[0, 150].set(1.0)) != 0).any(axis=-1)[0]
  assert np.flatnonzero(away).tolist() == list(range(150 - 63, 150 + 65))


@pytest.mark.slow
@pytest.mark.parametrize('norm', waveform.NORMS)
def test_a_clip_is_the_same_alone_padded_and_in_a_batch(norm):
  """Padded by one second, by ten, and as one of eight: at most 1e-5 apart."""
  model = models.get('wav2vec2')(**TINY, norm=norm, pre_norm=norm == 'layer')
  lengths = [9000, 400, 720, 16_000, 12_345, 5000, 3000, 7777]
  batch = np.full((8, 16_000 + 160_000), np.nan, np.float32)
  for i, n in enumerate(lengths):
    batch[i, :n] = wave(i, n)
  mask = np.arange(batch.shape[1]) < np.asarray(lengths)[:, None]
  audio = batch[:1, :9000]
  variables = start(model, audio)
  embed = jax.jit(lambda a, m: model.apply(variables, a, m, method='embed'))
  want, real = embed(audio, mask[:1, :9000])
  assert np.asarray(real).all() and real.shape[1] == model.frontend.frames(9000)
  n = real.shape[1]
  for rows, width in ((1, 25_000), (1, 169_000), (8, batch.shape[1])):
    tokens, found = embed(batch[:rows, :width], mask[:rows, :width])
    assert int(found[0].sum()) == n
    np.testing.assert_allclose(tokens[:, :1, :n], want, atol=1e-5)


@pytest.mark.slow
def test_published_padding_differs_only_where_there_is_padding():
  ours, theirs = (models.get('wav2vec2')(**TINY, padding=p) for p in ('masked', 'published'))
  audio = np.zeros((1, 12_000), np.float32)
  audio[0, :9000] = wave(0, 9000)
  variables = start(ours, audio)
  for mask, equal in ((np.ones(audio.shape, bool), True), (np.arange(12_000)[None] < 9000, False)):
    a, b = (
      jax.jit(lambda v, x, real, m=m: m.apply(v, x, real, method='embed'))(variables, audio, mask)[
        0
      ]
      for m in (ours, theirs)
    )
    n = ours.frontend.frames(int(mask.sum()))
    assert (np.abs(a - b)[:, :, :n].max() < 1e-6) == equal


def test_frames_of_the_stem():
  """Measured on fairseq: 399 samples give none."""
  shapes = waveform.stem_layers()
  counts = {399: 0, 400: 1, 16_000: 49, 40_000: 124, 190_800: 596, 250_000: 781, 320_000: 999}
  frontend = models.get('wav2vec2')(size='base').frontend
  for samples, frames in counts.items():
    assert frames_after(samples, shapes) == frontend.frames(samples) == frames
  assert [frontend.samples(n) for n in (1, 2, 49)] == [400, 720, 15_760]


def test_published_sizes_have_the_published_parameters():
  for size, count in {'base': 95_044_608, 'large_lv60': 317_390_592}.items():
    model = models.get('wav2vec2')(size=size)
    batch = {
      'audio': jax.ShapeDtypeStruct((1, 16_000), jnp.float32),
      'audio_mask': jax.ShapeDtypeStruct((1, 16_000), jnp.bool_),
    }
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)['params']
    assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes)) == count


@pytest.mark.slow
def test_noise_of_the_quantiser_follows_the_temperature_and_gradients_pass_through():
  quantizer = quantizers.GumbelQuantizer(groups=2, codes=5, width=6)
  x, used = normal(0, 3, 11, 4), jnp.ones((3, 11), bool)
  variables = quantizer.init(jax.random.key(0), x, used, 1.0)

  def call(x, temperature, seed=1):
    rngs = {'noise': jax.random.key(seed)}
    return quantizer.apply(variables, x, used, temperature, None, True, rngs=rngs)

  still = quantizer.apply(variables, x, used, 1.0)
  np.testing.assert_array_equal(still.codes, still.best)
  noisy = call(x, 1.0)
  assert (noisy.codes != noisy.best).any() and noisy.prob_perplexity == still.prob_perplexity
  # The gradient is that of the softmax: there is one, and at a tiny temperature next to none.
  gradient = jax.grad(lambda x, t: call(x, t).vectors.sum())
  warm, cold = (float(np.median(np.abs(gradient(x, t)))) for t in (1.0, 1e-3))
  assert warm > 1e-3 and cold < 1e-2 * warm
  codebook = np.asarray(variables['params']['codebook'])
  chosen = np.concatenate([codebook[g, np.asarray(noisy.codes)[..., g]] for g in range(2)], axis=-1)
  np.testing.assert_allclose(noisy.vectors, chosen, atol=1e-6)


@pytest.mark.slow
def test_the_temperature_falls_with_updates():
  model = models.get('wav2vec2')(**TINY, temperature_decay=0.5, temperature_end=0.6)
  batch = {'audio': wave(0, 9000)[None], 'audio_mask': np.ones((1, 9000), bool)}
  variables = start(model, batch['audio'])
  rngs = {name: jax.random.key(0) for name in ('mask', 'noise', 'dropout')}
  seen = []
  for _ in range(3):
    out, counters = model.apply(variables, batch, train=True, rngs=rngs, mutable=['counters'])
    variables = {**variables, **counters}
    seen.append(float(out['temperature']))
  np.testing.assert_allclose(seen, [2.0, 1.0, 0.6])


def test_impossible_settings_are_refused():
  make = models.get('wav2vec2')
  for args, words in (
    (dict(size='huge'), 'huge'),
    (dict(norm='batch'), "'batch'"),
    (dict(width=30), 'width=30'),
    (dict(frontend={'mel': 3}), 'mel'),
    (dict(frontend={'name': 'kaldi_fbank'}), 'waveform'),
  ):
    with pytest.raises(InputError, match=words):
      make(**{**TINY, **args})
