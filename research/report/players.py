"""Sounds on a page: short clips as data URLs, beside the arrays of pictures and maps."""

import base64
import io
import wave
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int16

MAX_SECONDS = 10.0


class Player(NamedTuple):
  """A clip to be heard: its name, and a data URL."""

  name: str
  source: str


def arrays(
  clips: Sequence[Float[np.ndarray, '_']], sample_rate: int, names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Clips [t] in [-1, 1] as arrays of an .npz: 'audio' int16 [b, t], 'audio_samples' [b],
  'audio_names' [b] and 'sample_rate'. Each is cut to MAX_SECONDS. Nothing where there are none."""
  if not clips:
    return {}
  cut = [clip[: int(MAX_SECONDS * sample_rate)] for clip in clips]
  audio = np.zeros((len(cut), max(map(len, cut))), np.int16)
  for row, clip in zip(audio, cut):
    row[: len(clip)] = np.clip(np.round(clip * 32767), -32768, 32767)
  return {
    'audio': audio,
    'audio_samples': np.array([len(clip) for clip in cut]),
    'audio_names': np.array([str(name) for name in names]),
    'sample_rate': np.array(sample_rate),
  }


def players(found: Mapping[str, Any], prefix: str = '') -> list[Player]:
  """The clips of an .npz, as `arrays` wrote them (with `prefix` before each name)."""
  if f'{prefix}audio' not in found:
    return []
  audio, samples, names, rate = (
    found[prefix + k] for k in ('audio', 'audio_samples', 'audio_names', 'sample_rate')
  )
  return [
    Player(str(name), wav(clip[:n], int(rate))) for clip, n, name in zip(audio, samples, names)
  ]


def wav(samples: Int16[np.ndarray, '_'], sample_rate: int) -> str:
  """A data URL that every browser plays."""
  file = io.BytesIO()
  with wave.open(file, 'wb') as out:
    out.setnchannels(1)
    out.setsampwidth(2)
    out.setframerate(sample_rate)
    out.writeframes(samples.astype('<i2').tobytes())
  return f'data:audio/wav;base64,{base64.b64encode(file.getvalue()).decode()}'
