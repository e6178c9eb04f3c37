"""Audio files of many formats, made in memory; and their headers changed."""

import io

import numpy as np
import soundfile

from research.audio.decode import AudioError, decode, duration
from research.audio.example import Example


def example(data, **fields):
  """A clip of bytes."""
  return Example(id='x', columns={}, data=bytes(data), **fields)


def noise(seconds=1.0, rate=16000, channels=1, seed=0):
  """Noise whose level comes and goes, a multiple of 2^-15; [t] or [t, channels]."""
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * rate))[:, None] / rate
  audio = 0.2 * rng.standard_normal((len(t), channels)) * np.sin(2 * t + 0.5) ** 2
  audio = (np.round(audio * 32768) / 32768).astype(np.float32)
  return audio[:, 0] if channels == 1 else audio


def file(audio, rate=16000, format='WAV', subtype=None, **options):
  """The bytes of an audio file; long ones are written in blocks."""
  buffer = io.BytesIO()
  channels = 1 if audio.ndim == 1 else audio.shape[1]
  with soundfile.SoundFile(
    buffer, 'w', rate, channels, subtype=subtype, format=format, **options
  ) as written:
    for start in range(0, len(audio), 4096):
      written.write(audio[start : start + 4096])
  return buffer.getvalue()


def changed(data, *places):
  """Bytes with others at some places: (offset, bytes)."""
  data = bytearray(data)
  for at, content in places:
    data[at : at + len(content)] = content
  return bytes(data)


def read(data, rate=16000):
  """All samples of a file, whose duration agrees with their number."""
  audio = decode(example(data), sample_rate=rate)
  assert duration(example(data)) == len(audio) / rate
  return audio


def reason(data):
  """Why a file is a bad one."""
  try:
    decode(example(data), sample_rate=16000)
  except AudioError as error:
    assert '\n' not in error.reason and error.reason.endswith('.')
    return error.reason
  raise AssertionError('it was read')


def encoded(codec, format, seconds=1.0, rate=16000, channels=1):
  """The bytes of a file that PyAV writes."""
  import av

  buffer = io.BytesIO()
  layout = 'mono' if channels == 1 else 'stereo'
  with av.open(buffer, 'w', format=format) as container:
    stream = container.add_stream(codec, rate=rate, layout=layout)
    samples = noise(seconds, rate, channels).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16), 's16', layout)
    frame.sample_rate, frame.pts = rate, 0
    context = stream.codec_context
    context.open()
    resampler = av.AudioResampler(context.format, context.layout, rate, context.frame_size or 1024)
    for piece in (*resampler.resample(frame), *resampler.resample(None)):
      container.mux(stream.encode(piece))
    container.mux(stream.encode(None))
  return buffer.getvalue()
