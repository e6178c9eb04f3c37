"""What is decoded against ffmpeg, over formats, rates, widths, channels and headers."""

import io
import shutil
import struct
import subprocess

import numpy as np
import pytest

from research.audio.decode import AudioError, decode, duration
from tests.audio.faults import made

RATES = (8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000)
FORMS = [
  ('WAV', 'PCM_U8'), ('WAV', 'PCM_16'), ('WAV', 'PCM_24'), ('WAV', 'PCM_32'), ('WAV', 'FLOAT'),
  ('WAV', 'DOUBLE'), ('WAV', 'ULAW'), ('WAV', 'ALAW'), ('WAV', 'IMA_ADPCM'), ('WAV', 'MS_ADPCM'),
  ('WAVEX', 'PCM_16'), ('RF64', 'PCM_16'), ('W64', 'PCM_16'), ('AIFF', 'PCM_16'),
  ('AIFF', 'PCM_S8'), ('AIFF', 'FLOAT'), ('AU', 'PCM_16'), ('AU', 'ULAW'), ('CAF', 'PCM_16'),
  ('CAF', 'FLOAT'),
  ('FLAC', 'PCM_16'), ('FLAC', 'PCM_24'), ('OGG', 'VORBIS'), ('OGG', 'OPUS'), ('MP3', None),
]  # fmt: skip
HEADERS = ('right', 'unknown', 'half', 'cut', 'joined')
# Of a lossy codec two decoders differ in the last bits of float32; those of Microsoft's ADPCM round
# the prediction in two ways, by a step of its 4 bits.
ATOL = {'VORBIS': 2e-5, 'OPUS': 2e-3, None: 2e-5, 'MS_ADPCM': 5e-2}


def by_ffmpeg(data, channels):
  """All samples as ffmpeg decodes them, float32 [t]: by the program, or by its libraries."""
  if shutil.which('ffmpeg'):
    command = ['ffmpeg', '-v', 'quiet', '-i', '-', '-f', 'f32le', '-acodec', 'pcm_f32le', '-']
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    return np.frombuffer(done.stdout, '<f4').reshape(-1, channels).mean(1)
  av = pytest.importorskip('av', reason='neither ffmpeg nor PyAV is installed')
  from research.audio.formats import media

  with av.open(io.BytesIO(data)) as container:
    return np.concatenate([media._mono(frame) for frame in container.decode(audio=0)])


def with_header(data, format, header):
  """The file with a header of that kind; None if this format has no such."""
  if header == 'right':
    return data
  if header == 'joined':
    return data + data if format in ('WAV', 'FLAC', 'MP3', 'OGG') else None
  if header == 'cut':
    return data[: len(data) * 2 // 3]
  if format == 'FLAC':
    bits = int.from_bytes(data[21:26], 'big')
    total = 0 if header == 'unknown' else (bits & (1 << 36) - 1) // 2
    return made.changed(data, (21, (bits >> 36 << 36 | total).to_bytes(5, 'big')))
  if format == 'WAV' and header == 'unknown':
    at = data.index(b'data') + 4
    return made.changed(data, (at, struct.pack('<I', 0xFFFFFFFF)))
  return None


def files():
  """200 of (format, subtype, rate, channels, header)."""
  rng, found = np.random.default_rng(0), []
  while len(found) < 200:
    format, subtype = FORMS[len(found) % len(FORMS)]
    rate, channels = int(rng.choice(RATES)), int(rng.choice((1, 2)))
    header = str(rng.choice(HEADERS, p=(0.5, 0.15, 0.1, 0.15, 0.1)))
    if subtype == 'OPUS':
      rate = int(rng.choice((8000, 16000, 48000)))
    if format == 'MP3' and rate == 96000:
      rate = 44100
    found.append((format, subtype, rate, channels, header))
  return found


@pytest.mark.slow
def test_decoding_agrees_with_ffmpeg_on_200_files():
  compared = refused = 0
  for number, (format, subtype, rate, channels, header) in enumerate(files()):
    name = f'{number}: {format} {subtype} {rate} Hz, {channels} channels, {header}'
    audio = made.noise(0.6 + 0.01 * number, rate, channels, seed=number)
    right = made.file(audio, rate, format, subtype)
    data = with_header(right, format, header)
    if data is None:
      data, header = right, 'right'
    if header == 'cut':
      with pytest.raises(AudioError, match=r'truncated|malformed|several'):
        decode(made.example(data), sample_rate=rate)
      refused += 1
      continue
    own = 48000 if subtype == 'OPUS' else rate
    got = decode(made.example(data), sample_rate=rate)
    assert duration(made.example(data)) == pytest.approx(len(got) / rate), name
    if header == 'joined':
      one = decode(made.example(right), sample_rate=rate)
      # ffmpeg keeps what the encoder added between two parts; the parts are what it is held to.
      np.testing.assert_array_equal(got, np.tile(one, 2), err_msg=name)
      got, data = one, right
    theirs = by_ffmpeg(data, channels)
    if own != rate:
      # libsndfile lets the decoder give the rate of the input, ffmpeg always 48 kHz.
      assert abs(len(got) / rate - len(theirs) / own) < 0.02, name
      compared += 1
      continue
    assert len(got) == len(theirs), name
    np.testing.assert_allclose(got, theirs, atol=ATOL.get(subtype, 1e-7), err_msg=name)
    compared += 1
  assert compared + refused == 200 and refused > 15
