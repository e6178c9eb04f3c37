"""Positions, buckets and attention layers of decoders against transformers' own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.nn import cache as caches
from research.nn.multihead import MultiHeadAttention, UseBias
from research.nn.positions import Rotary, rotary_frequencies, rotate, sinusoids
from research.nn.relative_bias import bucket

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')


def test_sinusoids_are_whispers():
  from transformers.models.whisper import modeling_whisper

  for length, width in ((1500, 384), (1500, 1280), (448, 768)):
    want = modeling_whisper.sinusoids(length, width).numpy()
    wrong = np.abs(sinusoids(length, width) - want)
    # torch rounds a few timescales the other way: by the last bit, times the position,
    # which is rounded again.
    rates = np.tile(10000.0 ** -np.linspace(0, 1, width // 2), 2)
    assert (wrong <= 1e-6 + 2.0**-22 * rates * np.arange(length)[:, None]).all()
    assert (wrong.max(axis=0) > 1e-6).mean() < 0.02


def test_buckets_are_t5s():
  from transformers.models.t5.modeling_t5 import T5Attention

  distance = np.arange(-700, 700)
  for bidirectional in (True, False):
    for buckets, farthest in ((32, 128), (16, 40), (320, 800)):
      want = T5Attention._relative_position_bucket(
        torch.as_tensor(distance), bidirectional, buckets, farthest
      )
      np.testing.assert_array_equal(bucket(distance, buckets, farthest, bidirectional), want)


@pytest.mark.parametrize('base', [10000.0, 1e6, 500.0])
@pytest.mark.parametrize('size', [64, 128, 80])
def test_frequencies_and_turns_are_llamas(base, size):
  from transformers.models.llama import modeling_llama

  config = transformers.LlamaConfig(
    hidden_size=size * 2,
    num_attention_heads=2,
    rope_parameters={'rope_type': 'default', 'rope_theta': base},
  )
  rotary = modeling_llama.LlamaRotaryEmbedding(config)
  frequencies = rotary_frequencies(Rotary(base), size)
  np.testing.assert_allclose(frequencies, rotary.inv_freq.numpy(), rtol=2.0**-23)

  rng = np.random.default_rng(0)
  q, k = (rng.standard_normal((2, 7, 2, size)).astype(np.float32) for _ in range(2))
  positions = np.asarray([[0, 1, 2, 3, 4, 5, 6], [90, 91, 700, 800, 1500, 2047, 8191]])
  cos, sin = rotary(torch.as_tensor(q), torch.as_tensor(positions))
  want = modeling_llama.apply_rotary_pos_emb(
    torch.as_tensor(q), torch.as_tensor(k), cos, sin, unsqueeze_dim=2
  )
  for ours, theirs in zip((q, k), want):
    got = rotate(jnp.asarray(ours), jnp.asarray(positions), frequencies)
    np.testing.assert_allclose(got, theirs.numpy(), atol=1e-6)


@pytest.mark.parametrize('dims', [16, 32])
def test_interleaved_turns_are_gptjs(dims):
  from transformers.models.gptj import modeling_gptj

  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 9, 3, 32)).astype(np.float32)
  table = modeling_gptj.create_sinusoidal_positions(64, dims)
  positions = np.stack([np.arange(9), np.arange(50, 59)])
  sin, cos = torch.split(table[torch.as_tensor(positions)], dims // 2, dim=-1)
  turned = modeling_gptj.apply_rotary_pos_emb(torch.as_tensor(x[..., :dims]), sin, cos)
  want = np.concatenate([turned.numpy(), x[..., dims:]], axis=-1)
  frequencies = rotary_frequencies(Rotary(dims=dims), 32)
  got = rotate(jnp.asarray(x), jnp.asarray(positions), frequencies, interleaved=True)
  np.testing.assert_allclose(got, want, atol=2e-6)


# -- Layers ------------------------------------------------------------------------------------


def array(x):
  return jnp.asarray(x.detach().numpy())


def projection(linear, heads):
  """A Linear to heads, torch's [h k, d] -> [d, h, k]."""
  weight = array(linear.weight).T
  found = {'kernel': weight.reshape(len(weight), heads, -1)}
  return found if linear.bias is None else found | {'bias': array(linear.bias).reshape(heads, -1)}


def joined(linear, heads):
  weight = array(linear.weight).T
  found = {'kernel': weight.reshape(heads, -1, weight.shape[-1])}
  return found if linear.bias is None else found | {'bias': array(linear.bias)}


def close(got, want):
  np.testing.assert_allclose(got, want, atol=1e-6 * max(1.0, float(np.abs(want).max())))


@pytest.mark.parametrize('window', [None, 3])
def test_grouped_causal_rotary_attention_is_qwen2s(window):
  from transformers.models.qwen2 import modeling_qwen2

  config = transformers.Qwen2Config(
    hidden_size=48,
    num_attention_heads=6,
    num_key_value_heads=2,
    rope_parameters={'rope_type': 'default', 'rope_theta': 1e6},
    attn_implementation='eager',
  )
  torch.manual_seed(0)
  theirs = modeling_qwen2.Qwen2Attention(config, layer_idx=0).eval()
  rotary = modeling_qwen2.Qwen2RotaryEmbedding(config)
  x = np.random.default_rng(0).standard_normal((2, 9, 48)).astype(np.float32)
  given = torch.as_tensor(x)
  distance = np.arange(9)[:, None] - np.arange(9)
  seen = (distance >= 0) & (distance < (window or 9))
  mask = torch.as_tensor(np.where(seen, 0.0, np.finfo(np.float32).min).astype(np.float32))
  with torch.no_grad():
    places = rotary(given, torch.arange(9)[None])
    want = theirs(given, position_embeddings=places, attention_mask=mask[None, None])[0].numpy()

  layer = MultiHeadAttention(
    48,
    6,
    kv_heads=2,
    use_bias=UseBias(out=False),
    causal=True,
    window=window,
    rotary=Rotary(1e6),
  )
  params = {
    'query': projection(theirs.q_proj, 6),
    'key': projection(theirs.k_proj, 2),
    'value': projection(theirs.v_proj, 2),
    'out': joined(theirs.o_proj, 6),
  }
  shapes = jax.tree.map(jnp.shape, layer.init(jax.random.key(0), jnp.asarray(x))['params'])
  assert shapes == jax.tree.map(jnp.shape, params)
  close(layer.apply({'params': params}, jnp.asarray(x))[0], want)
  steps(layer, params, jnp.asarray(x), want, heads=2, size=8)


def steps(layer: nn.Module, params, x, want, heads, size):
  cache, found = caches.create(len(x), x.shape[1], heads, size), []
  step = jax.jit(lambda x, cache: layer.apply({'params': params}, x, cache=cache))
  for i in range(x.shape[1]):
    y, cache = step(x[:, i : i + 1], cache)
    found.append(y)
  close(np.concatenate(found, axis=1), want)


def test_attention_is_whispers_to_itself_and_to_the_encoder():
  from transformers.models.whisper import modeling_whisper

  torch.manual_seed(0)
  config = transformers.WhisperConfig(attn_implementation='eager')
  args = dict(embed_dim=32, num_heads=4, is_decoder=True, config=config, layer_idx=0)
  theirs = modeling_whisper.WhisperAttention(**args).eval()
  rng = np.random.default_rng(0)
  x, context = (rng.standard_normal((2, n, 32)).astype(np.float32) for n in (6, 10))
  causal = torch.full((6, 6), float(np.finfo(np.float32).min)).triu(1)[None, None]
  with torch.no_grad():
    itself = theirs(torch.as_tensor(x), attention_mask=causal)[0].numpy()
    across = theirs(torch.as_tensor(x), key_value_states=torch.as_tensor(context))[0].numpy()

  params = {
    'query': projection(theirs.q_proj, 4),
    'key': projection(theirs.k_proj, 4),
    'value': projection(theirs.v_proj, 4),
    'out': joined(theirs.out_proj, 4),
  }
  use = UseBias(key=False)
  layer = MultiHeadAttention(32, 4, use_bias=use, causal=True)
  close(layer.apply({'params': params}, jnp.asarray(x))[0], itself)
  steps(layer, params, jnp.asarray(x), itself, heads=4, size=8)
  cross = MultiHeadAttention(32, 4, use_bias=use)
  memory = cross.apply({'params': params}, jnp.asarray(context), method='remember')
  close(cross.apply({'params': params}, jnp.asarray(x), memory=memory)[0], across)
