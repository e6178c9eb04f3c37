"""Kind B: a window is the slice of the whole, bit for bit, in every format."""

import numpy as np
import pytest

from research.audio.decode import decode
from tests.audio.faults import made

LONG = 42.0
FORMATS = {
  'wav': {},
  'adpcm': dict(subtype='MS_ADPCM'),
  'flac': dict(format='FLAC'),
  'vorbis': dict(format='OGG', subtype='VORBIS'),
  'opus': dict(format='OGG', subtype='OPUS'),
  'mp3': dict(format='MP3'),
  'mp3 vbr': dict(format='MP3', bitrate_mode='VARIABLE', compression_level=0.9),
  'mp3 cbr': dict(format='MP3', bitrate_mode='CONSTANT', compression_level=0.99),
}


def check(data, rate, count, seed=0):
  whole = decode(made.example(data), sample_rate=rate)
  for first in np.random.default_rng(seed).integers(len(whole) - 2000, size=count).tolist():
    got = decode(made.example(data), sample_rate=rate, start_seconds=first / rate, seconds=0.1)
    first = round(first / rate * rate)
    np.testing.assert_array_equal(got, whole[first : first + round(0.1 * rate)])


@pytest.mark.parametrize('name', FORMATS)
def test_windows_at_random_places(name):
  check(made.file(made.noise(LONG), **FORMATS[name]), 16000, 20)


@pytest.mark.slow
@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize(('rate', 'channels'), [(8000, 1), (22050, 2), (44100, 2), (48000, 1)])
def test_windows_at_40_places(name, rate, channels):
  if name == 'opus' and rate in (22050, 44100):
    pytest.skip('Opus has no such rate')
  check(made.file(made.noise(LONG, rate, channels), rate, **FORMATS[name]), rate, 40)


@pytest.mark.parametrize(('layer', 'format'), [('mp2', 'mp2'), ('libmp3lame', 'mp3')])
def test_windows_of_what_other_encoders_write(layer, format):
  pytest.importorskip('av')
  check(made.encoded(layer, format, 5.0), 16000, 20)


def test_an_mp3_whole_is_what_libsndfile_gives():
  import io

  import soundfile

  for rate in (16000, 44100):
    data = made.file(made.noise(3.0, rate), rate, 'MP3')
    expected, _ = soundfile.read(io.BytesIO(data), dtype='float32')
    np.testing.assert_array_equal(decode(made.example(data), sample_rate=rate), expected)
