"""Audio Flamingo 1 and 2: windows, what tokens hear, what can be frozen; numbers are in
tests/parity."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.capabilities import Embeds, Freezes, Generates
from research.errors import InputError
from research.features.clips import full_scale
from research.models.gated_audio import FREEZABLE
from research.models.gated_parts import Sound
from research.objectives.autoregressive import answer_tokens
from research.text.prompts import audio_flamingo as prompts
from research.text.prompts import audio_flamingo2 as prompts2
from research.train import sharding
from research.weights import tables
from tests import contract
from tests.contract import close, jit
from tests.models.subjects.audio_flamingo import SMALL

NAMES = ('audio_flamingo', 'audio_flamingo2')
ALONE = dict(SMALL, encoder=False, max_windows=2, max_clips=3)


def count(shapes, pattern):
  found = {path: x for path, x in shapes.items() if re.search(pattern, path)}
  assert found
  return sum(int(np.prod(x.shape)) for x in found.values())


@pytest.mark.parametrize(
  ('name', 'transformer', 'gates', 'language'),
  [
    ('audio_flamingo', 25_189_376, 881_000_496, 1_315_749_888),
    ('audio_flamingo2', 75_538_432, 1_359_249_480, 3_085_391_872),
  ],
)
def test_published_sizes(name, transformer, gates, language):
  """Numbers of parameters, measured on the official modules; those of OPT and Qwen2.5 with the
  tokens that Audio Flamingo adds. Matrices are split over a mesh."""
  model = models.get(name)(encoder=False, scan_layers=True)
  shapes = tables.expected(model)
  assert count(shapes, '^params/audio_transformer/') == transformer
  assert count(shapes, '/before/') == gates
  own = FREEZABLE['language_model'].replace('^', '^params/')
  assert count(shapes, own) == language
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  for path, x in shapes.items():
    if path.endswith('kernel'):
      spec = sharding.leaf_spec(path, x.shape, mesh)
      assert 'tensor' in spec and 'fsdp' in spec, path


@pytest.mark.parametrize('name', NAMES)
def test_what_it_can_do(name):
  model = models.get(name)(size='tiny', freeze=('clap', 'language_model'))
  assert isinstance(model, Embeds) and isinstance(model, Generates)
  assert isinstance(model, Freezes) and not model.MIXES_ROWS
  assert models.get(name)(size='tiny', freeze=()).MIXES_ROWS
  for path, part in (
    ('clap_tower/bn0/scale', 'clap'),
    ('audio_transformer/norm/scale', 'audio_transformer'),
    ('language_model/blocks_3/before/attn_gate', 'gates'),
    ('language_model/blocks/before/mlp/fc1/kernel', 'gates'),
    ('language_model/blocks/mlp/fc1/kernel', 'language_model'),
    ('language_model/token_embedding', 'language_model'),
  ):
    assert bool(re.search(FREEZABLE[part], path))
    learns = not any(re.search(pattern, path) for pattern in model.frozen)
    assert learns == (part in ('audio_transformer', 'gates')), path
  for args, words in (
    (dict(freeze=('tower',)), "'tower'"),
    (dict(size='9b'), "'9b'"),
    (dict(audio_heads=5), 'audio_heads=5'),
    (dict(audio_token=999_999), 'placeholder 999999'),
    (dict(max_clips=0), 'max_clips=0'),
  ):
    with pytest.raises(InputError, match=words):
      models.get(name)(**args)
  with pytest.raises(InputError, match=r'max_clips=9.*max_media=128'):
    models.get('audio_flamingo')(max_clips=9)
  with pytest.raises(InputError, match="'rotten'"):
    models.get('audio_flamingo')(cached='rotten')
  with pytest.raises(InputError, match='8 times as wide'):
    models.get('audio_flamingo2')(clap_width=96)


# -- Audio -------------------------------------------------------------------------------------


def test_numbers_of_windows():
  """As many as the prompts count."""
  one, two = (models.get(name)() for name in NAMES)
  assert (one.samples, one.hop) == (308_700, 77_175) and one.max_samples == 1_466_325
  assert (two.samples, two.hop) == (160_000, 160_000)
  for n in (1, 308_700, 308_701, 385_875, 385_876, 1_466_324, 1_466_325, 2_000_000):
    assert one.windows_of(n) == prompts.windows(n)[0]
    assert two.windows_of(n) == prompts2.windows(n, two.max_windows)
  assert one.windows_of(0) == 0


@pytest.mark.slow
def test_windows():
  """In their places; what is behind a clip is silence."""
  small = models.get('audio_flamingo')(**SMALL | dict(max_windows=3))
  size, hop = small.samples, small.hop
  assert int(small.windows_of(jnp.int32(size + hop + 1))) == 3
  audio = np.sin(np.arange(2 * 9000)).astype(np.float32).reshape(1, 2, 9000) / 3
  lengths = np.array([size + hop, size - 5])
  mask = np.arange(9000) < lengths[None, :, None]
  windows, there = small._cut(jnp.where(mask, audio, np.nan), jnp.asarray(mask))
  np.testing.assert_array_equal(there, [[[True, True, False], [True, False, False]]])
  whole = np.where(mask, audio, 0.0)
  whole = whole / np.abs(whole).max(axis=-1, keepdims=True)
  for i in range(3):
    want = whole[0, 0, i * hop : i * hop + size]
    np.testing.assert_allclose(np.asarray(windows)[0, 0, i], want, atol=4e-5)
  assert not np.asarray(windows)[0, 1, 0, size - 5 :].any()


@pytest.mark.slow
def test_vectors_are_those_of_clap():
  """Of Audio Flamingo CLAP's projected embeddings of windows, one of silence among them; of 2 the
  tower's tokens, band by band."""
  model = models.get('audio_flamingo')(**SMALL)
  audio = np.random.default_rng(0).standard_normal((1, 6000)).astype(np.float32)
  mask = np.ones(audio.shape, bool)
  batch = {'audio': audio, 'audio_mask': mask, 'tokens': np.zeros((1, 1), np.int32)}
  variables = jit(model.init)(jax.random.key(0), batch)
  features = jit(lambda v, batch: model.apply(v, batch, False, True, method='_features'))
  own, there, silent = features(variables, batch)
  assert there.tolist() == [[[True, True]]]
  windows = np.zeros((3, model.samples), np.float32)
  whole = audio[0] / np.abs(audio).max()
  windows[0], windows[1, : 6000 - model.hop] = whole[: model.samples], whole[model.hop :]
  windows = (np.trunc(windows * np.float32(32767)) / np.float32(32767)).astype(np.float32)
  clap = models.get('clap')(
    size='microsoft_2023', audio_width=SMALL['clap_width'], depths=SMALL['clap_depths'],
    audio_heads=SMALL['clap_heads'], dim=SMALL['audio_width'], seconds=SMALL['seconds'],
  )  # fmt: skip
  theirs = {
    'params': {
      'audio_tower': variables['params']['clap_tower'],
      'audio_projection': variables['params']['clap_projection'],
      'logit_scale_a': np.float32(0),
    },
    'batch_stats': {'audio_tower': variables['batch_stats']['clap_tower']},
  }
  batch = {'audio': jnp.asarray(windows), 'audio_mask': jnp.ones(windows.shape, bool)}
  want = jit(lambda v: clap.apply(v, batch, method='embed_clips')['audio_projected'])(theirs)
  close(np.concatenate([own[0, 0, :, 0], silent[0]]), want, 'vectors')
  tokens = np.arange(2 * 4 * 2 * 3, dtype=np.float32).reshape(2, 4, 2, 3)
  second = models.get('audio_flamingo2')(size='tiny')
  got = second._vectors({'tokens': jnp.asarray(tokens)}, False)
  np.testing.assert_array_equal(got[1, 4 * 1 + 2], tokens[1, 2, 1])


@pytest.mark.slow
def test_full_scale():
  """By the highest absolute value; a clip without negative samples from -1 to 1; silence stays."""
  x = np.array([[0.1, -0.2, 9.0], [0.1, 0.4, -9.0], [0.0, 0.0, 1.0]], np.float32)
  mask = np.array([[True, True, False]] * 3)
  got = np.asarray(full_scale(jnp.asarray(x), jnp.asarray(mask)))
  np.testing.assert_allclose(got, [[0.5, -1.0, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.0, 0.0]], atol=1e-6)


def test_prompts_are_checked():
  model = models.get('audio_flamingo')(**SMALL)
  mask = np.ones((2, 2, 5), bool)
  mask[1] = False
  tokens = np.full((2, 4), 7, np.int32)
  tokens[0, 1:3] = model.audio_token
  model.check_prompts({'tokens': tokens, 'audio_mask': mask})
  mask[1, 1] = True  # the second clip alone
  tokens[1, 0] = model.audio_token
  with pytest.raises(InputError, match=r'Prompt 1 has 1 placeholders \(30\).*places \[1\]'):
    model.check_prompts({'tokens': tokens, 'audio_mask': mask})
  assert model.placeholders(400) == 1
  with pytest.raises(InputError, match='clip of 0 samples'):
    model.placeholders(0)


@pytest.mark.slow
def test_features_that_do_not_fit():
  model = models.get('audio_flamingo')(**ALONE)
  shapes = jax.eval_shape(model.init, jax.random.key(0), model.example())
  tokens = jnp.zeros((1, 2), jnp.int32)

  def call(**batch):
    return jax.eval_shape(model.apply, shapes, {'tokens': tokens, **batch})

  features, there = jnp.zeros((1, 3, 2, 1, 16)), jnp.ones((1, 3, 2), bool)
  assert call(features=features, window_mask=there)['logits'].shape == (1, 2, 32)
  with pytest.raises(InputError, match=r'4 clips of 2 windows of 1 vectors.*3 clips of 2'):
    call(features=jnp.zeros((1, 4, 2, 1, 16)), window_mask=jnp.ones((1, 4, 2), bool))
  with pytest.raises(InputError, match='2 clips of 2 windows: give 3'):
    call(features=features[:, :2], window_mask=there[:, :2])
  with pytest.raises(InputError, match=r'\(1, 3, 2, 1, 8\)'):
    call(features=features[..., :8], window_mask=there)
  with pytest.raises(InputError, match='without its audio tower'):
    call(audio=jnp.zeros((1, 900)), audio_mask=jnp.ones((1, 900), bool))
  with pytest.raises(InputError, match='has 512 positions'):
    call(tokens=jnp.zeros((1, 513), jnp.int32))


# -- What tokens hear --------------------------------------------------------------------------


def test_few_shot_mask():
  """Text before the first clip hears it, later text all clips up to it; a step behind the prompt
  all of them, or the first alone."""
  model = models.get('audio_flamingo')(**ALONE)
  a = model.audio_token
  tokens = jnp.array([[7, a, 7, a, a, 7, -1]])
  counts, places = model._count(tokens, tokens >= 0, jnp.zeros(1, jnp.int32))
  assert places.tolist() == [3]
  sound = Sound(None, jnp.ones((1, 6), bool))
  seen = np.asarray(model._seen(sound, counts).seen)[0, 0]
  clips = [1, 1, 1, 2, 3, 3, 3]
  np.testing.assert_array_equal(seen, np.arange(6) < 2 * np.array(clips)[:, None])
  # A prompt with two of three clips; two rows of it go on, one with the third clip.
  counts, _ = model._count(jnp.array([[7], [a]]), jnp.ones((2, 1), bool), jnp.array([2, 2]))
  for cached, wanted in (('corrected', [4, 6]), ('faithful', [2, 2])):
    own = model.clone(cached=cached)
    seen = own._seen_in_step(sound, counts, jnp.array(False)).seen
    assert seen.shape == (1, 1, 2, 6) and seen[0, 0].sum(axis=1).tolist() == wanted
    seen = own._seen_in_step(sound, counts, jnp.array(True)).seen
    assert seen[0, 0].sum(axis=1).tolist() == [4, 6]


def prepared(name, **args):
  """(model, variables, batch of three rows: three clips, one, none)."""
  model = models.get(name)(**ALONE | args)
  rng = np.random.default_rng(0)
  n = 1 if name == 'audio_flamingo' else 3
  there = np.zeros((3, 3, 2), bool)
  there[0], there[1, 0] = True, True
  there[0, 1, 1] = False
  tokens = rng.integers(0, 20, (3, 12)).astype(np.int32)
  tokens[0, [0, 4, 8]] = tokens[1, 0] = model.audio_token
  features = rng.standard_normal((3, 3, 2, n, model.audio_width)).astype(np.float32)
  example = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), model.example())
  variables = jit(model.init)(jax.random.key(0), example)
  return model, variables, tokens, {'features': features, 'window_mask': there}


@pytest.mark.slow
def test_closed_gates_and_rows_without_a_clip():
  """Both read as the language model alone; other rows do not."""
  for name, args in (
    ('audio_flamingo', {}),
    ('audio_flamingo2', dict(audio_width=64, text_kv_heads=2, audio_heads=1)),
  ):
    model, variables, tokens, inputs = prepared(name, **args)
    shut = jax.tree_util.tree_map_with_path(
      lambda path, x: 0.0 * x if path[-1].key.endswith('_gate') else x, variables
    )
    read = jit(lambda v, batch, own=model: own.apply(v, batch)['logits'])
    text = np.asarray(read(variables, {'tokens': tokens}))
    got = np.asarray(read(variables, {'tokens': tokens, **inputs}))
    close(got[2], text[2], 'a row without a clip')
    assert np.abs(got[:2] - text[:2]).max(axis=(1, 2)).min() > 1e-3
    close(read(shut, {'tokens': tokens, **inputs}), text, 'closed gates')


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'args'),
  [
    ('audio_flamingo', dict(scan_layers=True)),
    ('audio_flamingo2', dict(audio_width=64, text_kv_heads=2, audio_heads=1, gate_every=2)),
  ],
)
def test_padded_prompts_and_steps_behind_them(name, args):
  """Contract 7: by the cache, token by token, as all at once, also where a step opens a clip; a row
  as if it were alone."""
  model, variables, tokens, inputs = prepared(name, **args)

  def full(variables, tokens, real, inputs):
    ids = tokens if real is None else jnp.where(real, tokens, -1)
    return model.apply(variables, {**inputs, 'tokens': ids})['logits']

  def prefill(variables, state, tokens, real, inputs):
    heard = model.apply(variables, inputs, method='remember')
    return step(variables, dataclasses.replace(state, memories=heard), tokens, real)

  def step(variables, state, tokens, real):
    return model.apply(variables, tokens, state, real, method='step')

  stepper = contract.Stepper(
    variables=variables,
    tokens=tokens,
    inputs=inputs,
    full=jit(full),
    start=lambda batch, dtype: model.start(batch, 16),
    prefill=prefill,
    step=step,
    padding=('left',),
  )
  contract.check_padded_steps(stepper)


@pytest.mark.slow
def test_a_tower_that_learns():
  """Gradients reach it, and its statistics move; frozen, neither."""
  small = SMALL | dict(seconds=1.0, hop_seconds=1.0, max_windows=1, max_clips=1, drop_path=0.0)
  rng = np.random.default_rng(0)
  batch = {
    'audio': rng.standard_normal((2, 44_100)).astype(np.float32),
    'audio_mask': np.ones((2, 44_100), bool),
    'tokens': np.array([[30, 1, 2], [3, 30, 4]], np.int32),
    'answer_mask': np.array([[False, True, True], [False, False, True]]),
  }
  for freeze in ((), ('clap',)):
    model = models.get('audio_flamingo')(**small, freeze=freeze)
    variables = jit(model.init)(jax.random.key(0), batch)

    def loss(params, variables=variables, model=model):
      rngs = {'dropout': jax.random.key(1), 'augment': jax.random.key(2)}
      out, changed = model.apply(
        {**variables, 'params': params}, batch, train=True, mutable=['batch_stats'], rngs=rngs
      )
      return answer_tokens(out, batch)[0], changed

    gradients, changed = jit(jax.grad(loss, has_aux=True))(variables['params'])
    learns = [bool(np.any(x)) for x in jax.tree.leaves(gradients['clap_tower'])]
    assert all(learns) if not freeze else not any(learns)
    assert np.any(gradients['audio_transformer']['norm']['scale'])
    before = variables['batch_stats']['clap_tower']['bn0']['mean']
    moved = np.any(changed['batch_stats']['clap_tower']['bn0']['mean'] != before)
    assert moved == (not freeze)
