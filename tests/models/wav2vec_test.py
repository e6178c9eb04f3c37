"""wav2vec, its quantisers and BERT over its codes: padding, causality, distractors, codebooks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.models.wav2vec import stem_layers
from research.nn import quantizers
from research.nn.convolutions import frames_after, receptive_field
from research.nn.kernels.convolutions import time_norm
from research.weights import conversion, convert, revert, tables
from tests.contract import wave

TINY = dict(size='tiny', channels=24, kernels=(2, 3, 4), codebook_size=12)


def make(**args):
  return models.get('wav2vec')(**{**TINY, **args})


def start(model, samples=6000):
  batch = {'audio': wave(0, samples)[None], 'audio_mask': np.ones((1, samples), bool)}
  return jax.jit(model.init)(jax.random.key(0), batch), batch


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


# -- Frames and padding ------------------------------------------------------------------------


def test_frames_of_the_stem():
  """10,000 samples are 60 frames (fairseq's README)."""
  for count in (5, 7, 8):
    shapes = stem_layers(512, count)
    assert receptive_field(shapes) == (465, 160)
    counts = {464: 0, 465: 1, 10_000: 60, 150_000: 935}
    frontend = models.get('wav2vec')(size='large', encoder_layers=count).frontend
    for samples, frames in counts.items():
      assert frames_after(samples, shapes) == frontend.frames(samples) == frames
    assert (frontend.min_samples, frontend.hop_samples, frontend.samples(60)) == (465, 160, 9905)
    assert type(frontend).from_dict(frontend.to_dict()) == frontend
  assert models.get('wav2vec')().first_step == 3 and make(offset=1).first_step == 1


@pytest.mark.slow
@pytest.mark.parametrize('groups', [1, 3])
def test_joint_norm_counts_real_frames_only_and_its_gradients_are_those_of_jax(groups):
  x, scale, bias = normal(0, 2, 37, 24), normal(1, 24), normal(2, 24)
  weight = normal(3, 2, 37, 24)
  real = jnp.arange(37) < jnp.array([[37], [20]])

  def plain(x, scale, bias):
    split = x.reshape(2, 37, groups, -1)
    keep = jnp.broadcast_to(real[:, :, None, None], split.shape).astype(jnp.float32)
    count = keep.sum(axis=(1, 3), keepdims=True)
    mean = (split * keep).sum(axis=(1, 3), keepdims=True) / count
    variance = (jnp.square(split - mean) * keep).sum(axis=(1, 3), keepdims=True) / count
    return ((split - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape) * scale + bias

  ours = lambda *args: time_norm(*args, real, 1e-5, groups)  # noqa: E731
  np.testing.assert_allclose(ours(x, scale, bias), plain(x, scale, bias), atol=1e-5)
  wanted = jax.grad(lambda *args: (plain(*args) * weight).sum(), (0, 1, 2))(x, scale, bias)
  gotten = jax.grad(lambda *args: (ours(*args) * weight).sum(), (0, 1, 2))(x, scale, bias)
  for got, want in zip(gotten, wanted):
    np.testing.assert_allclose(got, want, atol=1e-4)


BERT = dict(
  size='tiny', width=16, depth=1, heads=2, hidden=16, tokenizer=dict(TINY, vq_type='kmeans')
)
SMALL = dict(TINY, channels=16, encoder_layers=5, kernels=(3,))
PADDED = {
  'wav2vec': ('wav2vec', SMALL),
  'vq-wav2vec, Gumbel': ('wav2vec', dict(SMALL, vq_type='gumbel', activation='gelu')),
  'vq-wav2vec, k-means': ('wav2vec', dict(SMALL, vq_type='kmeans')),
  'BERT': ('code_bert', dict(BERT, tokenizer=dict(SMALL, vq_type='kmeans'))),
  'BERT in windows': (
    'code_bert', dict(BERT, frames=16, tokenizer=dict(SMALL, vq_type='gumbel')),
  ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'args'), PADDED.values(), ids=PADDED)
def test_a_clip_is_the_same_alone_padded_and_in_a_batch(name, args):
  """Every layer is normed over time: at most 1e-5 apart, alone, behind a second or ten of NaN, or
  among seven others; codes are the same."""
  model = models.get(name)(**args)
  variables, _ = start(model)
  lengths = [4000, 465, 625, 7000, 1200, 5555, 2000, 6400]
  audio = np.full((8, 12_000), np.nan, np.float32)
  for i, length in enumerate(lengths):
    audio[i, :length] = wave(i, length)
  mask = np.arange(audio.shape[1]) < np.asarray(lengths)[:, None]
  embed = jax.jit(lambda a, m: model.apply(variables, a, m, method='embed'))
  together, real = embed(audio, mask)
  assert np.asarray(real).sum(axis=1).tolist() == [model.frontend.frames(n) for n in lengths]
  assert np.abs(np.asarray(together)[:, real]).max() > 0.1
  # Of one width both clips, each program once: alone is the first one only.
  for more in (0, 16_000, 160_000):
    for i in (0, 1) if more else (0,):
      n, width = model.frontend.frames(lengths[i]), lengths[0] + more
      clip = np.full((1, width), np.nan, np.float32)
      clip[:, : lengths[i]] = audio[i, : lengths[i]]
      alone, _ = embed(clip, np.arange(width)[None] < lengths[i])
      np.testing.assert_allclose(together[:, i, :n], alone[:, 0, :n], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_published_padding_norms_over_padded_time():
  ours, theirs = (make(padding=p) for p in ('masked', 'published'))
  variables, _ = start(ours)
  audio = np.zeros((1, 9000), np.float32)
  audio[0, :6000] = wave(0, 6000)
  n = ours.frontend.frames(6000)
  embed = {
    m.padding: jax.jit(lambda a, real, m=m: m.apply(variables, a, real, method='embed')[0])
    for m in (ours, theirs)
  }
  full, part = np.ones(audio.shape, bool), np.arange(9000)[None] < 6000
  np.testing.assert_allclose(
    embed['masked'](audio, full), embed['published'](audio, full), atol=1e-6
  )
  # As if the zeros were part of the clip.
  padded = embed['published'](audio, part)[:, :, :n]
  np.testing.assert_allclose(padded, embed['published'](audio, full)[:, :, :n], atol=1e-6)
  assert np.abs(padded - embed['masked'](audio, part)[:, :, :n]).max() > 1e-2


@pytest.mark.slow
def test_context_hears_the_past_and_starts_from_copies_of_the_first_frame():
  """Kernels 2, 3, 4 see 1 + 1 + 2 + 3 frames; a norm in between would spread any change."""
  from research.models import wav2vec, waveform

  x = np.asarray(normal(0, 1, 40, 8))
  context = wav2vec.Aggregator((2, 3, 4))
  variables = context.init(jax.random.key(0), jnp.asarray(x), jnp.ones((1, 40), bool))
  flat = variables['params']['conv_0']
  counted = jnp.zeros((1, 40), bool)  # Norms that count nothing: scale alone.

  def run(x, **args):
    context = wav2vec.Aggregator((2, 3, 4), **args)
    return np.asarray(context.apply(variables, jnp.asarray(x), counted))

  changed = x.copy()
  changed[0, 20] += 1.0
  away = np.abs(run(x) - run(changed)).max(axis=(0, 1, 3))
  assert np.flatnonzero(away).tolist() == list(range(20, 27))
  # The first layer by hand, copies of frame 0 before it, and the residual of root 0.5.
  before = np.concatenate([x[:, :1], x], axis=1)
  kernel, bias = np.asarray(flat['kernel']), np.asarray(flat['bias'])
  y = before[:, :-1] @ kernel[0] + before[:, 1:] @ kernel[1] + bias
  y = np.maximum(y / np.sqrt(waveform.EPSILON), 0.0)
  np.testing.assert_allclose(run(x)[0], (y + x) * 0.5**0.5, rtol=1e-4, atol=1e-3)
  np.testing.assert_allclose(run(x, skip=False)[0], y, rtol=1e-4, atol=1e-3)
  assert np.abs(run(x, zero_pad=True)[0] - run(x)[0])[0, 0].max() > 1e-2


# -- Predictions -------------------------------------------------------------------------------


@pytest.mark.slow
def test_distractors():
  """Uniform over the other real frames of a clip; the published sampler meets the frame itself."""
  model = make(negatives=50)
  real = jnp.arange(50) < jnp.array([[50], [20]])
  variables, _ = start(model)

  def draw(model, seed):
    rngs = {'mask': jax.random.key(seed)}
    return np.asarray(model.apply(variables, {}, real, method='_negatives', rngs=rngs))

  own = np.arange(50)[None, :, None]
  drawn = np.stack([draw(model, seed) for seed in range(40)])
  assert not (drawn == own)[:, 0].any() and not (drawn == own)[:, 1, :20].any()
  assert drawn[:, 0].max() == 49 and drawn[:, 1, :20].max() == 19 and drawn.min() == 0
  counts = np.bincount(drawn[:, 0, 7].ravel(), minlength=50)  # 2000 draws over 49 frames
  assert counts[7] == 0 and np.delete(counts, 7).min() > 15 and counts.max() < 75
  published = make(negatives=10, published_negatives=True)
  drawn = np.stack([draw(published, seed) for seed in range(40)])
  assert 0.010 < (drawn == own)[:, 0].mean() < 0.027


@pytest.mark.slow
def test_predictions_are_lined_up_with_the_frames_that_they_are_of():
  model = make(steps=4, negatives=3)
  variables, batch = start(model, 2000)
  out = jax.jit(model.apply)(variables, batch, rngs={'mask': jax.random.key(0)})
  kernel, bias = (variables['params']['predictor'][name] for name in ('kernel', 'bias'))
  context = np.asarray(out['layers'][-1][0])
  n = len(context)
  assert n == model.frontend.frames(2000) == 10
  used = np.asarray(out['used'][0])
  assert used.sum() == sum(n - 3 - i for i in range(4))
  for i in range(4):
    assert used[:, i].tolist() == [f >= 3 + i for f in range(n)]
    want = context[: n - 3 - i] @ np.asarray(kernel[:, i]) + np.asarray(bias)
    np.testing.assert_allclose(out['predictions'][0, 3 + i :, i], want, atol=1e-5)


@pytest.mark.slow
def test_too_few_frames_to_predict_are_no_samples():
  from research.objectives.contrastive import wav2vec_contrastive

  model = make(steps=4, negatives=3)
  variables, _ = start(model)
  batch = {'audio': wave(0, 700)[None], 'audio_mask': np.ones((1, 700), bool)}
  out = model.apply(variables, batch, rngs={'mask': jax.random.key(0)})
  loss, metrics = wav2vec_contrastive(out, batch)
  assert out['targets'].shape[1] == 2 and float(loss) == float(metrics['sample_size']) == 0


def test_published_sizes_have_the_published_parameters():
  """SUPERB's leaderboard and fairseq's class itself, k-means and shared codebooks included."""
  sizes = {
    ('large', False): 32_537_088,
    ('vq_gumbel', True): 34_063_488,
    ('vq_gumbel', False): 34_145_408,
    ('vq_kmeans', True): 33_014_272,
    ('vq_kmeans', False): 33_096_192,
  }
  batch = {
    'audio': jax.ShapeDtypeStruct((1, 16_000), jnp.float32),
    'audio_mask': jax.ShapeDtypeStruct((1, 16_000), jnp.bool_),
  }
  for (size, combine), count in sizes.items():
    model = models.get('wav2vec')(size=size, combine_groups=combine)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)['params']
    assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes)) == count


# -- Quantisers --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('shared', [False, True])
def test_k_means_takes_the_nearest_vector_and_its_gradients_go_where_they_should(shared):
  quantizer = quantizers.KMeansQuantizer(groups=2, codes=5, gamma=0.25, shared=shared)
  x = normal(0, 2, 11, 6)
  real = jnp.arange(11) < jnp.array([[11], [7]])
  variables = quantizer.init(jax.random.key(0), x, real, real)
  params = dict(variables['params'])
  assert params['codebook'].shape == (1 if shared else 2, 5, 3)
  assert float(jnp.abs(params['codebook']).max()) < 0.05
  params['codebook'] = normal(1, *params['codebook'].shape)

  def call(params, x):
    return quantizer.apply({'params': params}, x, real, real)

  found = call(params, x)
  every = np.broadcast_to(params['codebook'], (2, 5, 3))
  z = np.asarray(found.encoded).reshape(2, 11, 2, 3)
  away = np.linalg.norm(z[:, :, :, None] - every[None, None], axis=-1)
  np.testing.assert_array_equal(found.codes, away.argmin(axis=-1))
  chosen = np.stack([every[g][np.asarray(found.codes)[..., g]] for g in range(2)], axis=2)
  np.testing.assert_allclose(found.vectors, chosen.reshape(2, 11, 6), atol=1e-6)
  keep = np.asarray(real)
  squares = np.square(chosen - z).reshape(2, 11, 6)[keep].mean()
  np.testing.assert_allclose(found.loss, 1.25 * squares, rtol=1e-5)
  # Vectors teach the projection, the loss alone teaches the codebook.
  straight = jax.grad(lambda p: (call(p, x).vectors * normal(2, 2, 11, 6)).sum())(params)
  assert not np.any(straight['codebook']) and np.abs(straight['kernel']).max() > 1e-2
  taught = jax.grad(lambda p: call(p, x).loss)(params)['codebook']
  row = np.asarray(found.codes)[keep]
  want = np.zeros((2, 5, 3))
  for g in range(2):
    np.add.at(want[g], row[:, g], 2 * (chosen - z)[keep][:, g] / (keep.sum() * 6))
  np.testing.assert_allclose(taught, want.sum(0, keepdims=True) if shared else want, atol=1e-6)


@pytest.mark.slow
def test_groups_may_share_a_codebook_and_a_deep_head_has_hidden_layers():
  def start(**args):
    quantizer = quantizers.GumbelQuantizer(groups=2, codes=5, width=6, **args)
    variables = quantizer.init(jax.random.key(0), x, used, 1.0)
    return quantizer, variables['params']

  x, used = normal(0, 3, 11, 4), jnp.ones((3, 11), bool)
  _, plain = start()
  quantizer, params = start(shared=True, depth=3)
  assert {k: v['kernel'].shape for k, v in params.items() if k != 'codebook'} == {
    'hidden_0': (4, 8), 'hidden_1': (8, 8), 'logits': (8, 10),
  }  # fmt: skip
  assert plain['codebook'].shape == (2, 5, 3) and params['codebook'].shape == (1, 5, 3)
  found = quantizer.apply({'params': params}, x, used, 1.0)
  table = np.asarray(params['codebook'][0])
  chosen = table[np.asarray(found.codes)].reshape(3, 11, 6)
  np.testing.assert_allclose(found.vectors, chosen, atol=1e-6)
  np.testing.assert_allclose(found.loss, 10 - found.prob_perplexity, rtol=1e-6)
  # A single layer starts as N(0, 1), a deep head within the root of its fan-in.
  assert float(jnp.abs(plain['logits']['kernel']).max()) > 1.0
  assert float(jnp.abs(params['logits']['kernel']).max()) <= 8**-0.5


@pytest.mark.slow
def test_the_temperature_falls_with_updates():
  model = make(vq_type='gumbel', temperature_decay=0.5, temperature_end=0.6)
  variables, batch = start(model)
  rngs = {name: jax.random.key(0) for name in ('mask', 'noise', 'dropout')}
  seen = []
  update = jax.jit(lambda v: model.apply(v, batch, train=True, rngs=rngs, mutable=['counters']))
  for _ in range(3):
    out, counters = update(variables)
    variables = {**variables, **counters}
    seen.append(float(out['temperature']))
  np.testing.assert_allclose(seen, [2.0, 1.0, 0.6])
  assert 'counters' not in start(make(vq_type='kmeans'))[0]


# -- Settings and weights ----------------------------------------------------------------------


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (dict(size='huge'), 'huge'),
    (dict(vq_type='gumble'), "Did you mean 'gumbel'"),
    (dict(activation='silu'), "'silu'"),
    (dict(encoder_layers=4), 'encoder_layers=4.*at least 5'),
    (dict(kernels=()), r'kernels=\(\)'),
    (dict(kernels=[3, 0]), r'kernels=\[3, 0\]'),
    (dict(offset=0), 'offset=0'),
    (dict(vq_type='kmeans', groups=5), 'groups=5'),
    (dict(frontend={'hop': 320}), 'window=465 and hop=320.*window=465 and hop=160'),
    (dict(frontend={'name': 'kaldi_fbank'}), 'waveform'),
  ],
  ids=str,
)
def test_impossible_settings_are_refused(args, words):
  with pytest.raises(InputError, match=words):
    make(**args)


def test_only_codebooks_have_codes():
  model = make()
  variables, batch = start(model)
  with pytest.raises(InputError, match='no codebook'):
    model.apply(variables, batch['audio'], batch['audio_mask'], method='encode')


@pytest.mark.parametrize(
  'args',
  [
    dict(size='base', kernels=(3, 3)),
    dict(size='large', conv_bias=False, steps=5),
    dict(size='vq_gumbel', head_depth=1),
    dict(size='vq_gumbel', groups=3, combine_groups=True, head_depth=3),
    dict(size='vq_kmeans'),
    dict(size='vq_kmeans', groups=1, combine_groups=False),
  ],
  ids=str,
)
def test_weights_say_what_they_are(args):
  """Sizes come back from the arrays, the rest from the published size; and so do the arrays."""
  model = models.get('wav2vec')(**{'channels': 12, 'codebook_size': 6, 'kernels': (2, 3), **args})
  rng = np.random.default_rng(0)
  shapes = sorted(tables.expected_shapes(model).items())
  flat = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes}
  arrays = revert('vq_wav2vec', model, tables.nest(flat, model))
  back, variables = convert('wav2vec', arrays)
  if model.vq_type == 'none':
    back = back.clone(codebook_size=model.codebook_size)
  assert back == model
  for key, x in revert('wav2vec', back, variables).items():
    np.testing.assert_array_equal(x, arrays[key], err_msg=key)


def test_contradictions_of_weights_are_refused():
  model = make(vq_type='gumbel')
  arrays = revert('wav2vec', model, jax.tree.map(np.asarray, start(model)[0]))
  assert convert('wav2vec', arrays, skip=False, log_compression=True)[0].skip is False
  for args, words in (
    (dict(codebook_size=13), 'codebook_size=13 was given, but the weights have codebook_size=12'),
    (dict(kernels=[2, 3]), r'kernels=\(2, 3\) was given'),
  ):
    with pytest.raises(InputError, match=words):
      convert('wav2vec', arrays, **args)
  del arrays['vector_quantizer.weight_proj.1.bias']
  with pytest.raises(InputError, match=r'no vector_quantizer\.weight_proj\.1\.bias'):
    convert('wav2vec', arrays)
  with pytest.raises(InputError, match='no weights of wav2vec'):
    convert('wav2vec', {'x': np.zeros(2)})


def test_the_configuration_in_a_checkpoint_says_what_arrays_do_not_show():
  model = make(vq_type='gumbel')
  arrays = revert('wav2vec', model, jax.tree.map(np.asarray, start(model)[0]))

  def read(changes, **args):
    files = {'cfg': {'model': {'aggregator': 'cnn', 'offset': 'auto', **changes}}}
    return conversion.convert_files('wav2vec', arrays, files, args)[0]

  said = {'skip_connections_agg': False, 'log_compression': True, 'activation': 'relu'}
  found = read({**said, 'residual_scale': 0.3, 'offset': 2})
  assert (found.skip, found.log_compression, found.activation) == (False, True, 'relu')
  assert (found.residual_scale, found.first_step) == (0.3, 2)
  for changes, args, words in (
    (
      said,
      dict(skip=True),
      r'skip=True was given, but cfg \(skip_connections_agg\) says skip=False',
    ),
    ({'aggregator': 'gru'}, {}, "cfg says aggregator='gru'"),
    ({'skip_connections_feat': True}, {}, 'cfg says skip_connections_feat=True'),
  ):
    with pytest.raises(InputError, match=words):
      read(changes, **args)
