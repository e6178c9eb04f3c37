"""EnCodec against encodec, on whatever cases the golden folder holds: every layer, latents, codes
at every bandwidth, decoding, clips shorter than the padding, and the way back of the weights."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import codec
from research.weights import convert, revert
from tests.parity.golden import Case, assert_close, each_case

jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
ARGS = (
  'channels', 'causal', 'norm', 'normalize', 'segment', 'overlap', 'n_filters', 'dimension',
  'ratios', 'n_residual_layers', 'true_skip', 'compress', 'lstm', 'kernel_size',
  'last_kernel_size', 'residual_kernel_size', 'dilation_base', 'trim_right_ratio',
)  # fmt: skip


def is_model(case):
  return 'target_bandwidths' in case.config


def build(case: Case, **args):
  config = case.config
  own = {name: config[name] for name in ARGS} | dict(
    quantizers=config['n_q'], codebook_size=config['bins'],
    bandwidths=tuple(config['target_bandwidths']),
    frontend=dict(sample_rate=config['sample_rate']),
  )  # fmt: skip
  own['ratios'] = tuple(own['ratios'])
  model, variables = convert('encodec', case.weights, **own, **args)
  return model, jax.tree.map(jnp.asarray, variables)


def first(x):
  """[b, n, c] -> [b, c, n]."""
  return np.swapaxes(np.asarray(x), 1, 2)


def last(x):
  return jnp.swapaxes(jnp.asarray(x), 1, 2)


def decoded_of(audio):
  """Decoded audio as [b, a, t]."""
  audio = np.asarray(audio)
  return audio[:, None] if audio.ndim == 2 else np.swapaxes(audio, 1, 2)


@pytest.mark.slow
@each_case('encodec', where=is_model)
def test_layers(case: Case):
  config, want = case.config, case.outputs
  model, variables = build(case)

  def run(part):
    def call(model, x):
      return getattr(model, part)(x, None, stages=True)[2]

    return jit(lambda v, x: model.apply(v, x, method=call))

  inputs = {'encoder': case.inputs['stage_waveform'], 'decoder': want['stage_quantized']}
  for part, x in inputs.items():
    stages = run(part)(variables, last(x))
    found = [k for k in want if k.startswith(f'{part}_stage')]
    assert len(stages) == len(found)
    for i, got in enumerate(stages):
      stride = config[f'{part}_time_stride'][i]
      assert_close(first(got)[..., ::stride], want[f'{part}_stage{i}'], what=f'{part} {i}')


def segments_of(case, prefix, names):
  """Recorded arrays of one clip's segments, in order."""
  found = {int(m[1]): m[0] for m in map(re.compile(rf'{prefix}_seg(\d+)$').match, names) if m}
  return [found[i] for i in sorted(found)]


def check_codes(case, model, found, prefix):
  """Codes of each segment, or of the clip, are the recorded ones."""
  want = case.outputs
  names = segments_of(case, re.escape(prefix), want) or [prefix]
  size = model.segment_frames or found.codes.shape[1]
  codes, mask = np.asarray(found.codes), np.asarray(found.mask)
  for j, name in enumerate(names):
    part = slice(j * size, (j + 1) * size)
    for row, theirs in enumerate(want[name]):
      np.testing.assert_array_equal(codes[row, part][mask[row, part]].T, theirs, err_msg=name)
  assert mask.sum() == sum(want[name][:, 0].size for name in names)


@each_case('encodec', where=is_model)
def test_codes_and_audio(case: Case):
  config, want = case.config, case.outputs
  waveform = case.inputs['waveform']
  audio, mask = last(waveform), np.ones((len(waveform), waveform.shape[2]), bool)
  model, variables = build(case)

  @jit
  def code(variables, audio, mask):
    tokens, _ = model.apply(variables, audio, mask, method='embed')
    return model.apply(variables, audio, mask, method='coded'), tokens

  decode = jit(functools.partial(model.apply, method='decode'))
  whole, tokens = code(variables, audio, mask)
  for bandwidth in config['target_bandwidths']:
    # A bandwidth has the first of the codebooks; those that are left out are -1 to the decoder.
    n_q, key = model.codebooks_for(bandwidth), f'{bandwidth:g}'
    found = whole._replace(codes=whole.codes[..., :n_q])
    check_codes(case, model, found, f'codes_bw{key}')
    left = -jnp.ones_like(whole.codes[..., n_q:])
    codes = jnp.concatenate([found.codes, left], axis=-1)
    decoded, there = decode(variables, codes, *found[1:])
    count = int(there[0].sum())
    assert np.asarray(there).all(axis=0)[:count].all()
    got = decoded_of(decoded)[..., :count]
    (stride,) = {
      s for s in (config['decoded_stride'], config['decoded_stride_last'])
      if -(-count // s) == want[f'decoded_bw{key}'].shape[-1]
    }  # fmt: skip
    assert_close(got[..., ::stride], want[f'decoded_bw{key}'], what=f'decoded at {key}')
    assert count == config['decoded_lengths']['bw']
  if 'latent' in want:
    assert_close(first(tokens[0]), want['latent'], what='latents')
  for j, name in enumerate(segments_of(case, 'scale', want)):
    assert_close(whole.scales[:, j : j + 1], want[name], what=name)


@pytest.mark.slow
@each_case('encodec', where=is_model)
def test_clips_of_edge_lengths(case: Case):
  """Shorter than the padding, or exactly a segment; also padded and in a batch."""
  want = case.outputs
  model, variables = build(case)
  names = [name for name in case.inputs if name.startswith('waveform_extra')]
  width = max(case.inputs[name].shape[-1] for name in names) + 321

  @jit
  def both(variables, audio, mask):
    found = model.apply(variables, audio, mask, method='coded')
    return found, *model.apply(variables, *found, method='decode')

  for name in names:
    waveform, key = case.inputs[name], name.removeprefix('waveform_')
    n = waveform.shape[-1]
    audio = np.full((2, width, model.channels), np.nan, np.float32)
    audio[0, :n] = waveform[0].T
    audio[1] = 0.1
    mask = np.arange(width) < np.array([[n], [width]])
    for rows, stop in ((slice(0, 1), n), (slice(0, 2), width)):
      found, decoded, there = both(variables, audio[rows, :stop], mask[rows, :stop])
      one = jax.tree.map(lambda x: None if x is None else x[:1], found)
      check_codes_of_first(case, model, one, f'{key}_codes')
      got = decoded_of(decoded)[:1, :, : int(there[0].sum())]
      theirs = want[f'{key}_decoded']
      stride = case.config['extra_stride']
      assert_close(got[..., ::stride], theirs, what=f'{key} of {stop} samples')


def check_codes_of_first(case, model, found, prefix):
  names = segments_of(case, prefix, case.outputs)
  size = model.segment_frames or found.codes.shape[1]
  codes, mask = np.asarray(found.codes[0]), np.asarray(found.mask[0])
  assert mask.sum() == sum(case.outputs[name].shape[-1] for name in names)
  for j, name in enumerate(names):
    part = slice(j * size, (j + 1) * size)
    np.testing.assert_array_equal(codes[part][mask[part]].T, case.outputs[name][0], err_msg=name)


@pytest.mark.slow
@each_case('encodec', where=lambda case: is_model(case) and case.config['causal'])
def test_chunks(case: Case):
  """Chunk by chunk: the codes and the audio of the whole clip."""
  model, variables = build(case)
  waveform = case.inputs['waveform'][:, 0]
  mask = np.ones(waveform.shape, bool)
  codes, _ = jit(functools.partial(model.apply, method='encode'))(variables, waveform, mask)
  decoded, _ = jit(functools.partial(model.apply, method='decode'))(variables, codes)
  hop, least = model.hop, codec.first_frames(model.seanet)
  encode = jit(
    lambda v, x, s, last: model.apply(v, x, s, last, method='encode_chunk'), static_argnums=3
  )
  decode = jit(
    lambda v, x, s, last: model.apply(v, x, s, last, method='decode_chunk'), static_argnums=3
  )
  for sizes in ((least, 1, 1),):
    states, back, parts, sound, start = None, None, [], [], 0
    steps = [*sizes, 10_000]
    for i, frames in enumerate(steps):
      end = min(start + frames * hop, waveform.shape[1])
      part, states = encode(variables, waveform[:, start:end], states, i == len(steps) - 1)
      audio, back = decode(variables, part, back, i == len(steps) - 1)
      parts.append(part)
      sound.append(audio)
      start = end
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), codes)
    assert_close(np.concatenate(sound, axis=1), decoded, relative=1e-5, what='chunks')


@each_case('encodec', where=is_model)
def test_weights_come_back(case: Case):
  model, variables = build(case)
  back = revert('encodec', model, jax.tree.map(np.asarray, variables))
  assert set(back) == set(case.weights)
  for key, x in case.weights.items():
    assert back[key].dtype == x.dtype
    np.testing.assert_array_equal(back[key], x, err_msg=key)


def test_released_numbers_of_parameters():
  """The published sizes have the published numbers of parameters."""
  from research.models.encodec import Encodec

  for size, count in {'24khz': 14_851_810, '48khz': 14_856_294}.items():
    own = Encodec(size=size)
    shapes = jax.eval_shape(own.init, jax.random.key(0), own.example())['params']
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count
