"""Kind G: a codec that cannot be read is named, not called damage; with PyAV it is read."""

import struct
import subprocess
import sys

import numpy as np
import pytest

from research.audio.formats import media
from tests.audio.faults import made


def wav(tag):
  """A WAV file of another codec."""
  data = made.file(made.noise(0.1))
  return made.changed(data, (20, struct.pack('<H', tag)))


HEADS = {
  'AMR-NB': b'#!AMR\n',
  'AMR-WB': b'#!AMR-WB\n',
  'WMA': bytes.fromhex('3026b2758e66cf11a6d900aa0062ce6c'),
  'AAC (ADTS)': b'\xff\xf1\x50\x80\x02\x1f\xfc',
  'AAC (LATM)': b'\x56\xe0\x30',
  'Opus in WebM': b'\x1aE\xdf\xa3\x9fB\x86\x81\1webm' + bytes(20) + b'A_OPUS',
  'AAC in Matroska': b'\x1aE\xdf\xa3\x9fB\x86\x81\1matroska' + bytes(20) + b'A_AAC',
  'ALAC in MP4/M4A': b'\0\0\0 ftypM4A ' + bytes(40) + b'stsd' + bytes(12) + b'alac',
  'AC-3': b'\x0bw\x1a\2',
  "Monkey's Audio": b'MAC \x96\x0f',
  'WavPack': b'wvpk\x20',
  'Musepack': b'MPCK',
  'RealAudio': b'.RMF\0',
  'Speex in Ogg': b'OggS\0\2' + bytes(20) + b'\1\x50Speex   ' + bytes(72),
}


@pytest.mark.parametrize('name', HEADS)
def test_codecs_are_named(name, monkeypatch):
  monkeypatch.setattr(media, 'available', lambda: False)
  content = HEADS[name] if name == 'Speex in Ogg' else HEADS[name] + bytes(400)
  told = made.reason(content)
  assert told.startswith(f'{name} cannot be read; convert it to FLAC') and '[media]' in told


@pytest.mark.parametrize(
  ('tag', 'name'),
  [(0x0065, 'G.722'), (0x028F, 'G.722'), (0x00FF, 'AAC'), (0x0161, 'WMA 2'), (0x0057, 'AMR-NB')],
)
def test_codecs_in_wav_are_named(tag, name, monkeypatch):
  monkeypatch.setattr(media, 'available', lambda: False)
  assert made.reason(wav(tag)).startswith(f'{name} in WAV cannot be read')


def test_an_unknown_tag_is_given_as_a_number(monkeypatch):
  monkeypatch.setattr(media, 'available', lambda: False)
  assert 'format tag 0x7ABC in WAV' in made.reason(wav(0x7ABC))


def test_damage_is_still_called_damage():
  data = made.file(made.noise(0.5), format='OGG', subtype='VORBIS')
  assert 'damaged' in made.reason(made.changed(data, (60, bytes(200))))
  assert 'begins with' in made.reason(b'this is a text' * 20)


EIGHT_BITS = ('wavpack', 'tta')
WRITTEN = [
  ('aac', 'adts'), ('aac', 'ipod'), ('libopus', 'webm'), ('alac', 'ipod'), ('g722', 'wav'),
  ('wavpack', 'wv'), ('flac', 'ogg'), ('flac', 'matroska'), ('tta', 'tta'), ('alac', 'caf'),
]  # fmt: skip


@pytest.mark.parametrize(('codec', 'container'), WRITTEN)
@pytest.mark.parametrize('channels', [1, 2])
def test_with_pyav_other_codecs_are_read(codec, container, channels):
  pytest.importorskip('av')
  if codec == 'g722' and channels == 2:
    pytest.skip('G.722 is mono')
  data = made.encoded(codec, container, 1.0, channels=channels)
  rate = 48000 if codec == 'libopus' else 16000
  whole = made.read(data, rate)
  assert abs(len(whole) - rate) <= 0.15 * rate
  expected = np.zeros(len(whole), np.float32)
  audio = made.noise(1.0, 16000, channels)
  mono = audio if channels == 1 else audio.mean(1)
  if codec in ('alac', 'wavpack', 'flac', 'tta'):
    expected[: len(mono)] = mono[: len(whole)]
    # PyAV writes WavPack and TTA with 8 bits.
    np.testing.assert_allclose(whole, expected, atol=2 ** (-6 if codec in EIGHT_BITS else -14))
  else:
    # A lossy codec delays: the level is that of the noise.
    assert np.std(whole) == pytest.approx(np.std(mono), rel=0.35)
  from research.audio.decode import decode

  for start in (0.1, 0.6):
    got = decode(made.example(data), sample_rate=rate, start_seconds=start, seconds=0.2)
    first = round(start * rate)
    np.testing.assert_array_equal(got, whole[first : first + round(0.2 * rate)])


@pytest.mark.parametrize(
  ('codec', 'container'), [('aac', 'adts'), ('aac', 'ipod'), ('flac', 'matroska')]
)
def test_with_pyav_a_file_that_was_cut_is_a_bad_one(codec, container):
  pytest.importorskip('av')
  data = made.encoded(codec, container, 2.0)
  assert made.reason(data[: len(data) * 2 // 3])


def test_mp3_in_wav_is_read_by_its_frames():
  pytest.importorskip('av')
  data = made.encoded('libmp3lame', 'wav', 1.0)
  assert len(made.read(data)) % 576 == 0


def test_research_imports_neither_pyav_nor_torch_nor_tensorflow():
  code = (
    'import sys; from research.audio import decode, sources; from research import weights; '
    'print([m for m in ("av", "torch", "tensorflow") if m in sys.modules])'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == '[]'
