"""Prompts of audio language models: how many placeholders clips take, and where vectors go."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.capabilities import Embeds, Freezes, Generates
from research.errors import InputError
from research.train import sharding
from research.weights import tables
from tests import contract
from tests.contract import jit
from tests.models.subjects.qwen2_audio import SMALL


def published(name, **args):
  return models.get(name)(size='7b', **args)


def test_placeholders_of_clips():
  """Of the published processors (shared with golden/*/processor_expansion)."""
  qwen2 = published('qwen2_audio')
  for samples, count in ((400, 1), (1600, 2), (16_000, 25), (479_999, 750), (900_000, 750)):
    assert qwen2.placeholders(samples) == count
  with pytest.raises(InputError, match=r'320 samples.*at least 321'):
    qwen2.placeholders(320)
  flamingo = published('audio_flamingo3')
  for seconds, count in ((10, 250), (30, 750), (45, 1125), (600, 15_000), (700, 15_000)):
    assert flamingo.placeholders(seconds * 16_000) == count
  qwen = published('qwen_audio')
  for samples, count in ((400, 2), (16_000, 27), (480_000, 752)):  # the tags among them
    assert qwen.placeholders(samples) == count
  assert qwen.places == (151_851, 155_163, 155_164)


def test_prompts_are_checked():
  model = published('qwen2_audio')
  mask = np.ones((2, 1, 1600), bool)
  mask[1] = False  # no clip
  tokens = np.full((2, 4), 7, np.int32)
  tokens[0, 1:3] = model.audio_token
  model.check_prompts({'tokens': tokens, 'audio_mask': mask})
  tokens[1, 0] = model.audio_token
  with pytest.raises(InputError, match=r'Prompt 1 has 1 placeholders \(151646\).*have 0'):
    model.check_prompts({'tokens': tokens, 'audio_mask': mask})


@pytest.mark.parametrize('name', ['qwen2_audio', 'audio_flamingo3', 'qwen_audio'])
def test_what_it_can_do(name):
  model = published(name, freeze=('audio_tower',))
  assert isinstance(model, Embeds) and isinstance(model, Generates)
  assert isinstance(model, Freezes) and model.frozen == ('^audio_tower/',)
  for args, words in (
    (dict(freeze=('tower',)), "'tower'"),
    (dict(size='8b'), "'8b'"),
    (dict(text_kv_heads=3), 'text_kv_heads=3'),
    (dict(audio_token=999_999), 'placeholder 999999'),
  ):
    with pytest.raises(InputError, match=words):
      models.get(name)(**args)


def test_published_sizes_are_spread():
  """Numbers of parameters (positions of the tower among them); every matrix is split over eight
  devices, heads and the hidden width over `tensor`."""
  for name, count in (('qwen2_audio', 8_397_094_912), ('audio_flamingo3', 8_267_215_360)):
    shapes = tables.expected(published(name, scan_layers=True))
    assert sum(int(np.prod(x.shape)) for x in shapes.values()) == count
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  for path, x in shapes.items():
    spec = sharding.leaf_spec(path, x.shape, mesh)
    if len(x.shape) > 1 and path.startswith('params/'):
      assert any(spec), path
    split = ('/mlp/', '/attn/query', '/attn/key', '/attn/value', '/attn/out', 'lm_head')
    if path.endswith('kernel') and 'language_model' in path:
      assert any(part in path for part in split)
      assert 'tensor' in spec and 'fsdp' in spec, path


def test_clips_stand_where_their_placeholders_are():
  """Two clips of a prompt, text between them; a prompt without audio reads as text alone."""
  model = models.get('qwen2_audio')(**SMALL)
  rng = np.random.default_rng(0)
  audio = rng.standard_normal((2, 2, 5000)).astype(np.float32)
  counts = np.array([[model.placeholders(n) for n in (5000, 2600)], [0, 0]])
  mask = np.arange(5000) < np.array([[5000, 2600], [0, 0]])[:, :, None]
  clips = [[model.audio_token] * n for n in counts[0]]
  first = [1, *clips[0], 2, 3, *clips[1], 4]
  tokens = np.full((2, len(first)), -1, np.int32)
  tokens[0], tokens[1, -3:] = first, [5, 6, 7]
  batch = {'audio': audio, 'audio_mask': mask, 'tokens': tokens}
  model.check_prompts(batch)
  shapes = jax.eval_shape(model.init, jax.random.key(0), model.example())
  variables = jax.tree.map(
    lambda x: np.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), shapes
  )
  out = jit(lambda v: model.apply(v, batch, collect=True))(variables)
  vectors, own = np.asarray(out['audio_vectors']), out['embedded'][0]
  np.testing.assert_array_equal(out['audio_counts'], counts)
  a, b = counts[0]
  np.testing.assert_array_equal(own[1 : 1 + a], vectors[0, :a])
  start = vectors.shape[1] // 2
  np.testing.assert_array_equal(own[3 + a : 3 + a + b], vectors[0, start : start + b])
  table = variables['params']['language_model']['token_embedding']
  np.testing.assert_array_equal(own[np.array([0, 1 + a, 2 + a, -1])], table[[1, 2, 3, 4]])
  np.testing.assert_array_equal(out['embedded'][1][-3:], table[[5, 6, 7]])
  assert not np.isnan(out['logits']).any()


@pytest.mark.slow
def test_padded_prompts_and_steps_behind_them():
  """Contract 7: by the cache, token by token, as all at once; a row as if it were alone."""
  model = models.get('qwen2_audio')(**SMALL, scan_layers=True)
  rng = np.random.default_rng(0)
  size, bins = model.window_frames, model.frontend.num_mel_bins
  tokens = rng.integers(0, 20, (3, 12)).astype(np.int32)
  tokens[:, 0] = tokens[0, 2:5] = model.audio_token
  inputs = {
    'spectrogram': rng.standard_normal((3, size, bins)).astype(np.float32),
    'frame_mask': np.arange(size)[None] < np.array([20, 9, 64])[:, None],
  }

  def full(variables, tokens, real, inputs):
    ids = tokens if real is None else jnp.where(real, tokens, -1)
    return model.apply(variables, {**inputs, 'tokens': ids})['logits']

  def prefill(variables, state, tokens, real, inputs):
    heard = model.apply(variables, inputs, method='remember')
    state = dataclasses.replace(state, memories=heard)
    return step(variables, state, tokens, real)

  def step(variables, state, tokens, real):
    return model.apply(variables, tokens, state, real, method='step')

  stepper = contract.Stepper(
    variables=jit(model.init)(jax.random.key(0), {**inputs, 'tokens': tokens}),
    tokens=tokens,
    inputs=inputs,
    full=jit(full),
    start=lambda batch, dtype: model.start(batch, 16),
    prefill=prefill,
    step=step,
    padding=('left',),
  )
  contract.check_padded_steps(stepper)
