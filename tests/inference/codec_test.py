"""Codecs on clips of any length: chunks and segments as the model does them at once, files of
codes, mistakes in one sentence, folders."""

import functools
import json

import jax
import numpy as np
import pytest
import soundfile

from research.audio.sources import open_source
from research.errors import InputError
from research.inference import codec, codec_files, ecdc
from research.models.encodec import Encodec
from tests.contract import wave

SMALL = dict(n_filters=2, dimension=4, quantizers=2, lstm=1)
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@functools.cache
def stream():
  """A small codec of 24 kHz, whose names .ecdc files know."""
  model = Encodec(size='24khz', bandwidths=(0.75, 1.5), **SMALL)
  variables = jit(model.init)(jax.random.key(0), batch(np.zeros((1, 320), np.float32)))
  return codec.Codec(model, variables)


@functools.cache
def segments():
  """The same of 48 kHz, with segments of a tenth of a second."""
  model = Encodec(size='48khz', segment=0.1, bandwidths=(1.5, 3.0), **SMALL)
  variables = jit(model.init)(jax.random.key(0), batch(np.zeros((1, 320), np.float32)))
  return codec.Codec(model, variables)


def batch(audio):
  return {'audio': audio, 'audio_mask': np.ones(audio.shape[:2], bool)}


@pytest.mark.slow
def test_chunks_are_the_whole(monkeypatch):
  """Clips of any length, by few programs."""
  own = stream()
  monkeypatch.setattr(codec, 'CHUNK_SECONDS', 16 * 320 / 24_000)
  longest = 16 * 320 * 4 + 123
  encode, decode = (
    jit(functools.partial(own.model.apply, method=method)) for method in ('encode', 'decode')
  )
  codec._encode_chunk.clear_cache()
  for length in (longest, longest - 800, longest - 801, 5000, 4999):
    audio = np.pad(wave(0, length), (0, longest - length))
    codes, mask = encode(own.variables, audio[None], np.arange(longest)[None] < length)
    want, _ = decode(own.variables, codes, mask)
    found = own.encode(audio[:length], 24_000)
    np.testing.assert_array_equal(found.codes, codes[0][mask[0]])
    got = own.decode(found)
    assert got.shape == (length, 1)
    limit = 1e-5 * np.abs(want).max()
    np.testing.assert_allclose(got[:, 0], want[0, :length], atol=limit)
  # The first chunk, others, the last one of the long clips, and the short clips.
  assert codec._encode_chunk._cache_size() == 4


@pytest.mark.slow
def test_segments_are_the_whole():
  own = segments()
  audio = np.stack([wave(0, 50_000), wave(1, 50_000)], axis=1)
  found = own.encode(audio, 48_000)
  assert len(found.frames) == len(found.scales) == -(-50_000 // own.model.segment_stride) > 8
  mask = np.ones((1, 50_000), bool)
  parts = jit(functools.partial(own.model.apply, method='coded'))(own.variables, audio[None], mask)
  real = np.asarray(parts.mask[0])
  np.testing.assert_array_equal(found.codes, np.asarray(parts.codes[0])[real])
  np.testing.assert_allclose(found.scales, parts.scales[0], rtol=1e-5)
  want, _ = jit(functools.partial(own.model.apply, method='decode'))(own.variables, *parts)
  got = own.decode(found)
  np.testing.assert_allclose(got, want[0, :50_000], atol=1e-5 * np.abs(want).max())


# The entropy coder of .ecdc compiles its own model.
@pytest.mark.parametrize(
  'suffix',
  [pytest.param(s, marks=pytest.mark.slow) if s == '.ecdc' else s for s in codec.SUFFIXES],
)
def test_files_of_codes(tmp_path, suffix):
  rng = np.random.default_rng(0)
  one = codec.Coded(rng.integers(0, 1024, (7, 2)).astype(np.int32), 2100, (7,), 24_000)
  scales = rng.random(2).astype(np.float32)
  codes = rng.integers(0, 1024, (15 + 2, 1)).astype(np.int32)
  two = codec.Coded(codes, 4752 + 600, (15, 2), 48_000, scales)
  for own, coded in ((stream(), one), (segments(), two)):
    path = tmp_path / f'{coded.sample_rate}{suffix}'
    own.write(coded, path)
    again = own.read(path)
    np.testing.assert_array_equal(again.codes, coded.codes)
    assert (again.samples, again.frames) == (coded.samples, coded.frames)
    if coded.scales is not None:
      np.testing.assert_array_equal(again.scales, coded.scales)


def test_header_and_bits():
  header = ecdc.Header('encodec_24khz', 3, 2, False)
  text = b'{"m": "encodec_24khz", "al": 3, "nc": 2, "lm": false}'
  data = ecdc.write_header(header)
  assert data == b'ECDC\x00\x00\x00\x00' + bytes([len(text)]) + text
  assert ecdc.read_header(data, 'x') == (header, len(data))
  # 1 and 1023 of ten bits: the low bits come first.
  assert ecdc.pack(np.array([1, 1023]), 10) == bytes([0b00000001, 0b11111100, 0b00001111])


def test_arithmetic_coder():
  rng = np.random.default_rng(0)
  logits = 3.0 * rng.standard_normal((300, 64))
  p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  codes = [int(rng.choice(64, p=row)) for row in p]
  ends = [ecdc.cumulative(row) for row in p.astype(np.float32)]
  coder = ecdc.Coder()
  for code, each in zip(codes, ends, strict=True):
    coder.push(code, each)
  data = coder.finish()
  entropy = -sum(np.log2(row[code]) for row, code in zip(p, codes, strict=True))
  assert entropy / 8 <= len(data) <= entropy / 8 + 4
  decoder = ecdc.Decoder(data)
  assert [decoder.pull(each) for each in ends] == codes
  assert decoder.used == len(data)


def test_mistakes(tmp_path):
  own = stream()
  coded = codec.Coded(np.zeros((7, 2), np.int32), 2100, (7,), 24_000)
  path = tmp_path / 'a.ecdc'
  own.write(coded, path)
  data = path.read_bytes()
  for cut in (data[:-1], data[:20], data[:6]):
    path.write_bytes(cut)
    with pytest.raises(InputError, match=r'a\.ecdc is cut off'):
      own.read(path)
  path.write_bytes(b'RIFF' + data)
  with pytest.raises(InputError, match='does not begin with ECDC'):
    own.read(path)
  path.write_bytes(data)
  with pytest.raises(InputError, match='made by encodec_24khz, the codec is encodec_48khz'):
    segments().read(path)
  for code, words in ((1024, 'A code is 1024'), (-1, 'A code is -1')):
    with pytest.raises(InputError, match=f'{words}: those of this codec are 0 to 1023'):
      own.decode(codec.Coded(np.full((7, 2), code, np.int32), 2100, (7,), 24_000))
  with pytest.raises(InputError, match='at 16000 Hz, the codec has 24000 Hz'):
    own.decode(codec.Coded(coded.codes, 2100, (7,), 16_000))
  with pytest.raises(InputError, match='loudness of every segment is missing'):
    segments().decode(codec.Coded(coded.codes, 2100, (7,), 48_000))
  with pytest.raises(InputError, match=r'shape \(4, 3\)'):
    own.encode(np.zeros((4, 3), np.float32), 24_000)
  with pytest.raises(InputError, match='comes without sample_rate'):
    own.encode(np.zeros(400, np.float32))
  with pytest.raises(InputError, match=r'bandwidth=6 kbit/s: this codec has 0\.75, 1\.5'):
    codec.Codec(own.model, own.variables, 6.0)


@pytest.mark.slow
def test_a_header_of_a_giant_clip_is_refused_at_once(tmp_path):
  # A few bytes that name 10^15 samples: nothing of that length is made.
  for own in (stream(), segments()):
    header = ecdc.write_header(ecdc.Header(own.name, 10**15, 2, False))
    path = tmp_path / f'{own.name}.ecdc'
    path.write_bytes(header + bytes(100))
    with pytest.raises(InputError, match='is cut off'):
      own.read(path)


def test_folders(tmp_path):
  """Any rate and number of channels; a second call of a finished folder is refused."""
  own = stream()
  soundfile.write(tmp_path / 'a.wav', wave(0, 4000), 16_000)
  soundfile.write(tmp_path / 'b.wav', np.stack([wave(1, 9000)] * 2, axis=1), 48_000)
  out = tmp_path / 'codes'
  source = open_source(str(tmp_path))
  rows = codec_files.encode_source(own, source, out)
  assert [row['file'] for row in rows] == ['a.ecdc', 'b.ecdc']
  assert own.read(out / 'a.ecdc').samples == 6000 and own.read(out / 'b.ecdc').samples == 4500
  listed = [json.loads(line) for line in (out / 'files.jsonl').read_text().splitlines()]
  assert listed == rows
  with pytest.raises(InputError, match='is there already'):
    codec_files.encode_source(own, source, out)
  sound = tmp_path / 'sound'
  assert codec_files.decode_folder(own, out, sound) == 2
  assert codec_files.decode_folder(own, out, sound) == 0
  audio, rate = soundfile.read(sound / 'a.wav')
  assert (len(audio), rate) == (6000, 24_000)
  want = own.decode(own.encode(tmp_path / 'a.wav'))
  np.testing.assert_allclose(audio, want[:, 0], atol=1e-6)
