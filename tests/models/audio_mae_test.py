"""AudioMAE's arguments, masks, views and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.models import token_masks
from research.models.audio_mae import SIZES, AudioMAE
from research.models.finetuned import Finetuned, route
from tests.contract import wave

SMALL = dict(size='tiny', width=32, depth=2, heads=2, frames=64)
PARTS = {'encoder': {'name': 'audio_mae'}, 'head': {'name': 'classifier'}}
DECODER = dict(decoder_width=16, decoder_depth=2, decoder_heads=2)


def batch(seconds=(0.66, 0.3)):
  audio = np.zeros((len(seconds), 11_000), np.float32)
  for i, s in enumerate(seconds):
    audio[i, : int(s * 16_000)] = wave(i, int(s * 16_000))
  mask = np.arange(11_000) < (np.asarray(seconds) * 16_000).astype(int)[:, None]
  return {'audio': audio, 'audio_mask': mask}


def run(model, **kwargs):
  variables = jax.jit(model.init)(jax.random.key(0), batch())
  out = jax.jit(model.apply)(variables, batch(), rngs={'mask': jax.random.key(1)}, **kwargs)
  return variables, out


def parameters(model):
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch())['params']
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))


def test_published_sizes():
  """The counts of the published state dict: 136 336 128 trainable; encoder with its table 85 648
  128."""
  shapes = jax.eval_shape(AudioMAE().init, jax.random.key(0), batch())
  count = lambda tree: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))  # noqa: E731
  assert count(shapes['params']) == 136_336_128
  assert count([shapes['params']['encoder'], shapes['buffers']['encoder']]) == 85_648_128
  assert shapes['buffers']['encoder']['pos_embed'].shape == (513, 768)
  assert parameters(Finetuned(**route(PARTS, dict(classes=527)))) == 85_659_407
  assert (AudioMAE().decoder_depth, AudioMAE(decoder='global').decoder_depth) == (16, 8)
  assert AudioMAE().counts.patches == 102
  assert SIZES['huge'].patch == 14


def test_names():
  assert models.get('audio_mae') is AudioMAE
  with pytest.raises(InputError, match=r"Unknown model 'audiomae'\. Did you mean"):
    models.get('audiomae')


@pytest.mark.slow
@pytest.mark.parametrize(
  'kind, kept', [('unstructured', 6), ('time', 8), ('frequency', 4), ('time_frequency', 5)]
)
def test_kinds_of_masking(kind, kept):
  args = {'time': dict(mask_ratio=0.6), 'frequency': dict(mask_ratio=0.8)}.get(kind, {})
  model = AudioMAE(**SMALL, **DECODER, masking=kind, mask_t_prob=0.6, **args)
  _, out = run(model)
  mask = np.asarray(out['mask']).reshape(2, 4, 8)
  assert model.counts.patches == kept and (mask == 0).sum((1, 2)).tolist() == [kept, kept]
  for clip in mask == 0:
    product = np.outer(clip.any(1), clip.any(0))
    assert (kind == 'unstructured') or np.array_equal(clip, product)
  # Kept patches are those that are not masked, each once.
  ids = np.sort(np.asarray(out['ids_keep']), axis=1)
  np.testing.assert_array_equal(ids, [np.flatnonzero(row.ravel() == 0) for row in mask])


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['unstructured', 'time_frequency'])
def test_masked_padding_keeps_the_same_share_of_each_clip(kind):
  model = AudioMAE(
    **SMALL, **DECODER, masking=kind, mask_ratio=0.5, mask_t_prob=0.5, padding='masked'
  )
  _, out = run(model)
  used = np.asarray(out['latent_mask']).sum(1)
  real = np.array([32, 16])  # 64 and 28 real frames: 4 and 2 rows of 8 patches
  share = {'unstructured': 0.5, 'time_frequency': 0.5 * 5 / 8}[kind]
  np.testing.assert_array_equal(used, real * share)
  mask = np.asarray(out['mask'])
  np.testing.assert_array_equal(mask.sum(1), real - used)
  assert not mask[1, 16:].any()


@pytest.mark.slow
def test_published_padding_is_sound_that_is_zero_before_normalisation():
  _, out = run(AudioMAE(**SMALL, **DECODER))
  frames = np.asarray(out['frame_mask']).sum(1)
  target = np.asarray(out['target'])[1].reshape(4, 8, 16, 16)
  np.testing.assert_allclose(target[3], 0.46703237, atol=1e-6)
  assert frames.tolist() == [64, 28]


@pytest.mark.slow
def test_reconstruction_can_be_looked_at():
  model = AudioMAE(**SMALL, **DECODER)
  variables, out = run(model)
  kwargs = dict(method='picture', rngs={'mask': jax.random.key(1)})
  panels = model.apply(variables, batch(), **kwargs)
  assert {k: v.shape for k, v in panels.items()} == dict.fromkeys(
    ('original', 'masked', 'reconstructed'), (2, 64, 128)
  )
  hidden = (
    np.asarray(out['mask']).reshape(2, 4, 1, 8, 1).repeat(16, 2).repeat(16, 4).reshape(2, 64, 128)
  )
  original, reconstructed = np.asarray(panels['original']), np.asarray(panels['reconstructed'])
  np.testing.assert_array_equal(original[hidden == 0], reconstructed[hidden == 0])
  assert (np.asarray(panels['masked'])[0][hidden[0] == 1] == original[0].min()).all()
  # Back in the scale of each patch: the mean of a predicted patch is near that of the true one.
  patch = (0, slice(16, 32), slice(0, 16))
  assert abs(reconstructed[patch].mean() - original[patch].mean()) < original.std()


@pytest.mark.slow
def test_contextual_features_need_blocks_above():
  model = AudioMAE(**SMALL, **DECODER)
  variables, _ = run(model)
  with pytest.raises(InputError, match='contextual_depth=8 leaves none of the 2 blocks'):
    model.apply(variables, batch(), method='contextual')
  x = model.clone(contextual_depth=0).apply(variables, batch(), method='contextual')
  assert x.shape == (2, 33, 32)


@pytest.mark.slow
def test_embed_cuts_long_audio_into_chunks():
  model = AudioMAE(**SMALL, **DECODER)
  variables, _ = run(model)
  embed = jax.jit(lambda v, a: model.apply(v, a, jnp.ones(a.shape, bool), method='embed'))
  audio = wave(0, model.frontend.samples(150))[None]
  tokens, mask = embed(variables, audio)
  assert tokens.shape == (3, 1, 96, 32) and int(mask.sum()) == 80  # 150 frames: 10 started rows
  first, _ = embed(variables, audio[:, : model.frontend.samples(64)])
  np.testing.assert_allclose(tokens[:, :, :32], first, atol=1e-5)
  last = tokens[-1, 0, :80]
  np.testing.assert_allclose(last.mean(-1), 0, atol=1e-5)  # normed


@pytest.mark.slow
def test_without_a_key_the_masks_cannot_be_drawn():
  model = AudioMAE(**SMALL, **DECODER)
  variables, _ = run(model)
  with pytest.raises(InputError, match=r"rngs=\{'mask': key\}"):
    model.apply(variables, batch())


@pytest.mark.parametrize(
  'args, message',
  [
    (dict(size='bse'), "Unknown size of AudioMAE 'bse'. Did you mean 'base'"),
    (dict(heads=5), 'width=32 and heads=5'),
    (dict(decoder='swim'), "Did you mean 'swin'"),
    (dict(masking='freq'), 'Known: frequency'),
    (dict(padding='none'), 'Known: masked, published'),
    (dict(mask_ratio=1.0), 'mask ratio is 1.0'),
    (dict(mask_ratio=0.99), 'keeps 0 of 4 x 8 patches'),
    (dict(frames=10), 'frames=10'),
    (dict(dtype='float16'), 'Known: bfloat16, float32'),
    (dict(frontend={'name': 'fbank'}), "Unknown front-end 'fbank'"),
    (dict(stride=0), 'stride=0'),
  ],
  ids=str,
)
def test_impossible_arguments(args, message):
  with pytest.raises(InputError, match=message):
    AudioMAE(**{**SMALL, **DECODER, **args})


def test_wrong_batches():
  model = AudioMAE(**SMALL, **DECODER)
  with pytest.raises(InputError, match="'audio' without 'audio_mask'"):
    model.init(jax.random.key(0), {'audio': np.zeros((1, 8000), np.float32)})
  with pytest.raises(InputError, match=r'takes \[batch, 64, 128\]'):
    model.init(jax.random.key(0), {'spectrogram': np.zeros((1, 60, 128), np.float32)})


# -- Fine-tuning -------------------------------------------------------------------------------


def classifier(**args):
  unmasked = dict(mask_t_prob=0.0, mask_f_prob=0.0)
  return Finetuned(**route(PARTS, {**SMALL, **unmasked, 'classes': 5, **args}))


@pytest.mark.slow
def test_classifier_trains_with_masks_and_evaluates_without():
  model = classifier(mask_t_prob=0.25, mask_f_prob=0.2, freq_mask=20, time_mask=30)
  variables = jax.jit(model.init)(jax.random.key(0), batch())
  rngs = {k: jax.random.key(i) for i, k in enumerate(('mask', 'dropout', 'augment'))}
  out = model.apply(variables, batch(), train=True, rngs=rngs)
  assert out['latent'].shape == (2, 1 + 3 * 6, 32)
  assert model.apply(variables, batch())['latent'].shape == (2, 33, 32)
  head = variables['params']['head']
  assert 0 < np.abs(head['kernel']).max() < 1e-4 and not np.any(head['bias'])
  assert 'norm' not in variables['params']['encoder']


@pytest.mark.slow
def test_spec_augment_takes_given_draws():
  model = classifier(freq_mask=48, time_mask=20, drop_path=0.0)
  variables = jax.jit(model.init)(jax.random.key(0), batch())
  u = np.array([[0.5, 0.5, 0.5, 0.5]] * 2, np.float32)
  run = lambda u: model.apply(variables, batch() | {'spec_augment_u': u}, train=True)  # noqa: E731
  assert np.abs(run(u)['pooled'] - run(0 * u)['pooled']).max() > 1e-3
  np.testing.assert_allclose(
    run(0 * u)['pooled'], model.apply(variables, batch())['pooled'], atol=1e-6
  )


@pytest.mark.slow
def test_masked_padding_pools_real_patches():
  model = classifier(padding='masked')
  variables = jax.jit(model.init)(jax.random.key(0), batch())
  out = model.apply(variables, batch())
  scale = variables['params']['fc_norm']['scale']
  mean = np.asarray(out['latent'])[1, 1:17].mean(0)
  want = (mean - mean.mean()) / np.sqrt(mean.var() + 1e-6) * scale
  np.testing.assert_allclose(out['pooled'][1], want, atol=1e-5)


def test_grids_of_overlapping_patches():
  model = AudioMAE(stride=10)
  assert model.grid == (101, 12) and model.window == (6, 6)
  assert model.counts == token_masks.Counts(242, 0, 0)
