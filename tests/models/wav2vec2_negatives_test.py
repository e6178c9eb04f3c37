"""Distractors of wav2vec 2.0: of the clip, the batch, the codebook; and continuous targets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.nn import quantizers
from research.objectives.contrastive import wav2vec2_contrastive
from research.train import optim
from research.train.state import init_state
from research.train.step import make_train_step
from tests import contract
from tests.contract import wave
from tests.models.subjects.wav2vec2 import wav2vec2

TINY = dict(
  size='tiny', channels=24, width=32, depth=1, heads=2, hidden=32, final_dim=16, conv_pos_groups=4,
  codebook_size=12, negatives=7, mask_length=2,
)  # fmt: skip
RNGS = {name: jax.random.key(i) for i, name in enumerate(('mask', 'noise', 'dropout'))}


def clips(*lengths):
  audio = np.zeros((len(lengths), max(lengths)), np.float32)
  for i, length in enumerate(lengths):
    audio[i, :length] = wave(i, length)
  return {'audio': audio, 'audio_mask': np.arange(max(lengths)) < np.array(lengths)[:, None]}


@functools.cache
def start(**args):
  model = models.get('wav2vec2')(**{**TINY, **args})
  return model, jax.jit(model.init)(jax.random.key(0), clips(6000))


def loss_of(model, variables, batch, train=True):
  def loss(params):
    out = model.apply({**variables, 'params': params}, batch, train=train, rngs=RNGS)
    value, metrics = wav2vec2_contrastive(out, batch, penalty=0.1)
    return value, (out, metrics)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])


# -- Continuous targets ------------------------------------------------------------------------


@pytest.mark.slow
def test_continuous_targets_train():
  """Steps on one batch: no diversity, no codes, every parameter moves, and the loss falls."""
  model = models.get('wav2vec2')(**TINY, quantise=False)
  settings = {**optim.DEFAULTS, 'name': 'adamw', 'lr': 3e-3}
  schedule = optim.make_schedule(settings, 20)
  optimizer = optim.make_optimizer(settings, schedule)
  batch = clips(6000, 9000)
  first = state = init_state(model, optimizer, batch, 0, False)
  assert 'quantizer' not in state.params
  objective = functools.partial(wav2vec2_contrastive, penalty=0.1)
  step = jax.jit(make_train_step(model, objective, optimizer, schedule=schedule))
  seen = []
  for _ in range(20):
    state, metrics = step(state, batch)
    seen.append(float(metrics['loss']))
  left = {'learning_rate', 'finite', 'audio_samples', 'representation_std', 'effective_rank'}
  assert set(metrics) - left == {
    'loss', 'contrastive', 'feature_penalty', 'accuracy', 'sample_size', 'grad_norm',
  }  # fmt: skip
  total = metrics['contrastive'] + 0.1 * metrics['feature_penalty']
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-6)
  moved = jax.tree.map(lambda a, b: np.any(a != b), first.params, state.params)
  assert all(jax.tree.leaves(moved))
  assert np.isfinite(seen).all() and np.mean(seen[-5:]) < 0.95 * np.mean(seen[:5])


def test_continuous_targets_that_are_equal_are_no_distractors():
  """By hand: the second target is the first one's copy, the third is another one."""
  out = {
    'context': jnp.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]),
    'targets': jnp.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]),
    'used': jnp.array([[True, False, True]]),
    'negatives': jnp.array([[[2], [2], [0]]]),
    'feature_penalty': jnp.float32(0.0),
  }

  def loss(**changes):
    return wav2vec2_contrastive({**out, **changes}, {}, logit_temp=1.0)[0]

  first, third = np.log(1 + np.exp(-1.0)), np.log(2.0)
  np.testing.assert_allclose(loss(), (first + third) / 2, rtol=1e-6)
  # The first frame's distractor is its copy: nothing is left to confuse it with.
  both = loss(used=jnp.ones((1, 3), bool), negatives=jnp.array([[[1], [2], [0]]]))
  np.testing.assert_allclose(both, (0.0 + np.log(1 + np.exp(1.0)) + third) / 3, rtol=1e-6)


# -- Where there is nothing to draw ------------------------------------------------------------


@pytest.mark.slow
def test_a_clip_with_one_masked_frame_has_no_distractors_and_no_loss():
  """Its draws fall on a place that hides nothing: they do not count, nor does the frame."""
  model, variables = start()
  n = model.frontend.frames(9000)
  mask = np.zeros((2, n), bool)
  mask[0, 3:9] = True
  mask[1, 5] = True
  batch = clips(9000, 9000) | {'span_mask': mask}
  (value, (out, metrics)), gradients = loss_of(model, variables, batch, train=False)
  assert float(metrics['sample_size']) == 6 and np.asarray(out['used']).sum() == 7
  draws = np.asarray(out['negatives'][:1])
  alone = rows_of(batch, 0) | {'negative_draws': draws - (draws > np.arange(n)[None, :, None])}
  (_, (_, single)), _ = loss_of(model, variables, alone, train=False)
  np.testing.assert_allclose(metrics['contrastive'], single['contrastive'], rtol=1e-5)
  assert float(metrics['accuracy']) == float(single['accuracy'])
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients)) and np.isfinite(value)
  # Those of other clips are distractors all the same.
  model, _ = start(cross_sample_negatives=4)
  _, metrics = wav2vec2_contrastive(model.apply(variables, batch, rngs=RNGS), batch)
  assert float(metrics['sample_size']) == 7


def rows_of(batch, i):
  return {name: x[i : i + 1] for name, x in batch.items()}


@pytest.mark.slow
def test_one_masked_frame_in_all_is_a_loss_of_nothing():
  model, variables = start(cross_sample_negatives=4)
  mask = np.zeros((1, model.frontend.frames(9000)), bool)
  mask[0, 5] = True
  batch = clips(9000) | {'span_mask': mask}
  (value, (_, metrics)), gradients = loss_of(model, variables, batch)
  assert float(metrics['sample_size']) == float(metrics['contrastive']) == 0
  assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


# -- Distractors of the batch ------------------------------------------------------------------


@pytest.mark.slow
def test_distractors_of_the_batch_are_other_masked_frames_of_all_clips():
  model, variables = start(negatives=0, cross_sample_negatives=3000)
  lengths = 9000, 5000, 9000, 9000
  batch = clips(*lengths) | {'valid': np.array([True, True, False, True])}
  out = jax.jit(model.apply)(variables, batch, rngs=RNGS)
  used = np.asarray(out['used']) & batch['valid'][:, None]
  b, m = used.shape
  drawn = np.asarray(out['cross_negatives'])
  assert out['negatives'].shape == (b, m, 0) and drawn.shape == (b, m, 3000)
  places = np.flatnonzero(used)
  for place in places:
    own = drawn.reshape(b * m, -1)[place]
    assert set(own) == set(places) - {place}  # Never itself; each clip's, and nothing else.
    counts = np.bincount(own, minlength=b * m)[places]
    assert counts.max() < 2.5 * 3000 / len(places)
  # As it would be by hand.
  _, metrics = wav2vec2_contrastive(out, batch, logit_temp=0.5)
  context, targets, codes = (
    np.asarray(out[name]).reshape(b * m, -1) for name in ('context', 'targets', 'codes')
  )
  sim = context @ targets.T / np.linalg.norm(context, axis=1)[:, None]
  sim = sim / np.linalg.norm(targets, axis=1) / 0.5
  sums = []
  for place in places:
    others = [i for i in drawn.reshape(b * m, -1)[place] if (codes[i] != codes[place]).any()]
    scores = np.concatenate([[sim[place, place]], sim[place, others]])
    sums.append(np.log(np.exp(scores).sum()) - scores[0])
  np.testing.assert_allclose(metrics['contrastive'], np.mean(sums), rtol=1e-5)


@pytest.mark.slow
def test_draws_over_the_batch_may_be_given():
  """Six masked frames in two clips; draw d is the d-th of the five others."""
  model, variables = start(negatives=0, cross_sample_negatives=5)
  n = model.frontend.frames(9000)
  mask = np.zeros((2, n), bool)
  mask[0, [2, 4]] = mask[1, [1, 5, 6, 7]] = True
  draws = np.broadcast_to(np.arange(5, dtype=np.int32), (2, n, 5))
  batch = clips(9000, 9000) | {'span_mask': mask, 'cross_negative_draws': draws}
  out = model.apply(variables, batch)
  every = [0, 1, n, n + 1, n + 2, n + 3]
  for clip, count in enumerate((2, 4)):
    for i in range(count):
      own = clip * n + i
      assert out['cross_negatives'][clip, i].tolist() == [p for p in every if p != own]


# -- Distractors of the codebook ---------------------------------------------------------------


@pytest.mark.slow
def test_distractors_of_the_codebook_are_its_vectors():
  model, variables = start(negatives=0, codebook_negatives=200)
  batch = clips(6000, 9000)
  out = jax.jit(model.apply)(variables, batch, rngs=RNGS)
  codes = np.asarray(out['codebook_codes'])
  assert codes.min() == 0 and codes.max() == 11 and codes.shape[2:] == (200, 2)
  # All pairs of codes, about equally often: the groups are independent.
  pairs = np.bincount(codes[..., 0].ravel() * 12 + codes[..., 1].ravel(), minlength=144)
  expected = pairs.sum() / 144
  assert np.abs(pairs - expected).max() < 6 * np.sqrt(expected)
  table = np.asarray(variables['params']['quantizer']['codebook'])
  vectors = np.concatenate([table[0][codes[..., 0]], table[1][codes[..., 1]]], axis=-1)
  project = jax.tree.map(np.asarray, variables['params']['project_targets'])
  want = vectors @ project['kernel'] + project['bias']
  np.testing.assert_allclose(out['codebook_targets'], want, atol=1e-5)
  # A vector that is the frame's own is no distractor.
  own = np.broadcast_to(np.asarray(out['codes'])[:, :, None], codes.shape)
  same = jax.jit(model.apply)(variables, batch | {'codebook_draws': own}, rngs=RNGS)
  _, metrics = wav2vec2_contrastive(same, batch)
  assert float(metrics['contrastive']) == 0 and float(metrics['sample_size']) > 0
  _, metrics = wav2vec2_contrastive(out, batch)
  assert float(metrics['contrastive']) > 1


@pytest.mark.slow
def test_groups_may_share_the_codebook_that_vectors_are_of():
  shared = quantizers.GumbelQuantizer(groups=2, codes=5, width=6, shared=True)
  x, used = jax.random.normal(jax.random.key(0), (3, 11, 4)), jnp.ones((3, 11), bool)
  variables = shared.init(jax.random.key(0), x, used, 1.0)
  found = shared.apply(variables, x, used, 1.0)
  again = shared.apply(variables, found.codes, method='vectors')
  np.testing.assert_allclose(again, found.vectors, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('mesh', contract.MESHES[::2], ids=str)
def test_all_kinds_on_meshes(mesh):
  contract.check_mesh(every_kind(), mesh)


@functools.cache
def every_kind():
  subject = wav2vec2(cross_sample_negatives=3, codebook_negatives=2)

  def draws(model, b):
    rng = np.random.default_rng(0)
    return subject.draws(model, b) | {
      'cross_negative_draws': rng.integers(0, 20, (b, 300, 3)).astype(np.int32),
      'codebook_draws': rng.integers(0, 12, (b, 300, 2, 2)).astype(np.int32),
    }

  return contract.Subject(
    subject.name, subject.args, subject.objective, subject.outputs, draws, framed=subject.framed
  )


# -- Settings ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_quantised_has_a_dropout_of_its_own():
  make = models.get('wav2vec2')
  assert make().feature_dropout == make().input_dropout == 0.1
  assert make(input_dropout=0.3).feature_dropout == 0.3
  still = dict(input_dropout=0.0, dropout=0.0, attention_dropout=0.0)
  batch = clips(6000)
  given = {'gumbel_noise': np.zeros((1, 300, 2, 12), np.float32)}
  n = make(**TINY).frontend.frames(6000)
  given['span_mask'] = np.arange(n)[None] % 3 == 0
  model, variables = start(**still)
  dropped, _ = start(**still, feature_dropout=0.5)
  one, other = (m.apply(variables, batch | given, train=True, rngs=RNGS) for m in (model, dropped))
  np.testing.assert_array_equal(one['context'], other['context'])
  assert np.abs(one['code_logits'] - other['code_logits']).max() > 0.1


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (dict(negatives=0), 'negatives=0, cross_sample_negatives=0, codebook_negatives=0'),
    (dict(cross_sample_negatives=-1), 'cross_sample_negatives=-1'),
    (dict(quantise=False, codebook_negatives=3), 'no codebook to draw from'),
  ],
)
def test_impossible_distractors_are_refused(args, words):
  with pytest.raises(InputError, match=words):
    models.get('wav2vec2')(**{**TINY, **args})


# -- Perplexities and temperature --------------------------------------------------------------


def test_one_dead_group_shows_in_the_least_perplexity():
  quantizer = quantizers.GumbelQuantizer(groups=2, codes=5, width=6)
  x, used = jax.random.normal(jax.random.key(0), (3, 40, 4)), jnp.ones((3, 40), bool)
  variables = quantizer.init(jax.random.key(0), x, used, 1.0)
  bias = np.zeros(10, np.float32)
  bias[7] = 1e4  # The second group takes its third code, always.
  params = jax.tree.map(lambda x: x, variables['params'])
  params['logits'] = {**params['logits'], 'bias': jnp.asarray(bias)}
  found = quantizer.apply({'params': params}, x, used, 1.0)
  np.testing.assert_allclose(found.min_code_perplexity, 1.0, atol=1e-5)
  np.testing.assert_allclose(found.min_prob_perplexity, 1.0, atol=1e-5)
  share = np.bincount(np.asarray(found.best)[..., 0].ravel(), minlength=5) / 120
  alive = np.exp(-(share * np.log(share + 1e-7)).sum())
  np.testing.assert_allclose(found.code_perplexity, alive + 1, rtol=1e-5)
  np.testing.assert_allclose(found.loss, 10 - found.prob_perplexity, rtol=1e-6)


def test_the_temperature_is_exact_after_many_updates():
  for decay, most in ((0.999995, 590_000), (0.9999995, 4_000_000), (0.999, 3000), (0.5, 4)):
    for updates in (1, most // 7, most // 2, most):
      got = quantizers.falling_temperature(jnp.int32(updates), 2.0, 1e-9, decay)
      assert abs(float(got) / (2.0 * decay**updates) - 1) < 1e-6
  np.testing.assert_allclose(
    quantizers.falling_temperature(jnp.int32(590_000), 2.0, 0.5, 0.999995), 0.5
  )
  with pytest.raises(InputError, match='temperature_decay=0'):
    quantizers.falling_temperature(jnp.int32(1), 2.0, 0.5, 0.0)
