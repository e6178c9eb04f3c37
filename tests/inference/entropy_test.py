"""Codes packed by a language model: frame by frame as all at once, exact round trips, files, and
mistakes in one sentence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.inference import codec, ecdc
from research.inference.entropy import EntropyCoder
from research.models.encodec import Encodec
from research.models.encodec_lm import EncodecLm

jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
LM = dict(width=16, heads=2, depth=1, past_context=5, quantizers=2, codebook_size=1024)


@functools.cache
def packer():
  model = EncodecLm(size='24khz', **LM)
  batch = {'units': np.zeros((1, 1, 2), np.int32)}
  return EntropyCoder(model, jit(model.init)(jax.random.key(0), batch))


@functools.cache
def shapes_of(size, **args):
  """A codec that only packs: its weights are never used."""
  small = dict(n_filters=2, dimension=4, quantizers=2, lstm=1, bandwidths=(0.75, 1.5))
  return Encodec(size=size, **{**small, **args})


def drawn(frames, seed=0):
  return np.random.default_rng(seed).integers(0, 1024, (frames, 2)).astype(np.int32)


@pytest.mark.slow
def test_frame_by_frame_is_all_at_once():
  """Behind the window too."""
  own, codes = packer(), drawn(14)
  apply = functools.partial(own.model.apply, own.variables)
  whole = jit(apply)({'units': codes[None]})['logits'][0]
  step, start = jit(functools.partial(apply, method='step')), jit(lambda: apply(1, method='start'))
  state = start()
  given = np.concatenate([np.full((1, 2), -1, np.int32), codes])
  for i in range(len(codes)):
    logits, state = step(jnp.asarray(given[None, i : i + 1]), state)
    np.testing.assert_allclose(logits[0, 0], whole[i], atol=2e-5)
  # A prompt, and what comes behind it.
  prompt = jnp.asarray(given[None, :9])
  logits, state = step(prompt, start())
  np.testing.assert_allclose(logits[0], whole[:9], atol=2e-5)


def test_packed_codes_come_back():
  own, codes = packer(), drawn(20)
  data = own.pack(codes)
  found, used = own.unpack(data + b'more', 20, 2, 'here')
  np.testing.assert_array_equal(found, codes)
  assert used == len(data)
  # As many bits as the model finds the codes surprising.
  logits = jit(own.model.apply)(own.variables, {'units': codes[None]})['logits'][0]
  p = jax.nn.log_softmax(logits)
  bits = -np.take_along_axis(np.asarray(p), codes[..., None], axis=-1).sum() / np.log(2.0)
  assert bits <= 8 * len(data) <= bits + 32
  # One codebook of the two.
  one, _ = own.unpack(own.pack(codes[:, :1]), 20, 1, 'here')
  np.testing.assert_array_equal(one, codes[:, :1])
  with pytest.raises(InputError, match='here ends before the last code'):
    own.unpack(data[:10], 20, 2, 'here')


def test_files_with_a_language_model(tmp_path):
  own = packer()
  mono = codec.Codec(shapes_of('24khz'), {}, packer=own)
  coded = codec.Coded(drawn(7), 2100, (7,), 24_000)
  path = tmp_path / 'a.ecdc'
  mono.write(coded, path)
  assert ecdc.read_header(path.read_bytes(), 'x')[0].language_model
  again = mono.read(path)
  np.testing.assert_array_equal(again.codes, coded.codes)
  # Segments, each with its loudness.
  model = EncodecLm(size='48khz', **LM)
  batch = {'units': np.zeros((1, 1, 2), np.int32)}
  stereo = EntropyCoder(model, jit(model.init)(jax.random.key(1), batch))
  loud = codec.Codec(shapes_of('48khz', segment=0.1, bandwidths=(1.5, 3.0)), {}, packer=stereo)
  scales = np.array([0.5, 0.25], np.float32)
  coded = codec.Coded(drawn(15 + 2), 4752 + 600, (15, 2), 48_000, scales)
  loud.write(coded, path)
  again = loud.read(path)
  np.testing.assert_array_equal(again.codes, coded.codes)
  np.testing.assert_array_equal(again.scales, scales)
  # A file without a model needs none, one with it needs it.
  plain = codec.Codec(loud.model, {})
  with pytest.raises(InputError, match=r'packed with a language model: give its weights .*--lm'):
    plain.read(path)
  plain.write(coded, path)
  np.testing.assert_array_equal(loud.read(path).codes, coded.codes)
  with pytest.raises(InputError, match=r'2 codebooks of 1024 at 24000 Hz, the codec has 2 .*48000'):
    codec.Codec(loud.model, {}, packer=own)
  with pytest.raises(InputError, match='Encodec is no language model'):
    EntropyCoder(mono.model, {})
  # A header that names more than there is: refused at the end of the bits.
  data = ecdc.write_header(ecdc.Header(mono.name, 10**12, 2, True))
  path.write_bytes(data + bytes(100))
  with pytest.raises(InputError, match='is cut off'):
    mono.read(path)
