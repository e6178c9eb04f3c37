"""Audio Flamingo 3 (arXiv 2507.08128) and Music Flamingo: AF-Whisper, an adaptor, and Qwen2.5.

Figures are those of nvidia/audio-flamingo-3-hf and nvidia/music-flamingo-hf in transformers
(modeling_audioflamingo3.py, modeling_musicflamingo.py). A clip is heard in windows of 30 seconds
that do not overlap, up to 10 minutes (Music Flamingo: 20).
Letters: b prompts, c clips, w windows, n vectors of a window, d width, k turning dimensions.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research.errors import InputError
from research.models.audio_prompts import AudioLanguageModel
from research.models.settings import by_size
from research.models.whisper_parts import STRIDE
from research.nn import layers
from research.nn.kernels import Dtype, gelu
from research.nn.positions import Rotary, rotary_frequencies

_7B: dict[str, Any] = dict(
  frontend=dict(name='whisper', num_mel_bins=128),
  audio_width=1280, audio_depth=32, audio_heads=20, audio_hidden=5120,
  n_audio_ctx=1500, max_windows=20, text_width=3584, text_depth=28, text_heads=28, text_kv_heads=4,
  text_hidden=18944, tied=False, vocab_size=151672, max_tokens=32768, rope_base=1e6, epsilon=1e-6,
  audio_token=151669, time_rotary_base=0.0, time_rotary_factor=0.2, frame_seconds=0.01,
)  # fmt: skip
_TINY: dict[str, Any] = dict(  # ours: windows of five seconds
  _7B, frontend=dict(name='whisper', num_mel_bins=80),
  audio_width=64, audio_depth=2, audio_heads=2, audio_hidden=256,
  n_audio_ctx=250, text_width=64, text_depth=2, text_heads=4, text_kv_heads=2, text_hidden=128,
  vocab_size=512, max_tokens=4096, audio_token=300,
)  # fmt: skip
_MUSIC = dict(time_rotary_base=1200.0, max_windows=40)
SIZES: dict[str, dict[str, Any]] = {
  '7b': _7B,
  'music_7b': dict(_7B, **_MUSIC),
  'tiny': _TINY,
  'music_tiny': dict(_TINY, **_MUSIC),
}


class Adaptor(nn.Module):
  """Dense, exact GELU, Dense; parameters `linear_1` and `linear_2`."""

  width: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b e']:
    y = layers.Dense(self.width, self.dtype, name='linear_1')(x)
    return layers.Dense(self.width, self.dtype, name='linear_2')(gelu(y))


class AudioFlamingo3(AudioLanguageModel):
  """Audio Flamingo 3; with `time_rotary_base` Music Flamingo.

  Attributes beside those of `AudioLanguageModel`:
    time_rotary_base: outputs of the tower turn with their time (see `time_angles`); 0 for no turn.
    time_rotary_factor: part of the width that turns with the window, and as much with the vector.
    frame_seconds: between mel frames, as published: the turn was trained with it.
  """

  SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
  TITLE: ClassVar[str] = 'Audio Flamingo 3'

  time_rotary_base: float = by_size()
  time_rotary_factor: float = by_size()
  frame_seconds: float = by_size()

  def _check(self) -> None:
    super()._check()
    if self.time_rotary_base and int(self.audio_width * self.time_rotary_factor) % 2:
      raise InputError(
        f'{self.TITLE} got audio_width={self.audio_width} and time_rotary_factor='
        f'{self.time_rotary_factor:g}: their product must be an even number of dimensions.'
      )

  @property
  def prompt(self) -> str:
    """How it is spoken to: a file of `text.prompts`."""
    return 'music_flamingo' if self.time_rotary_base else 'audio_flamingo3'

  def _projector(self) -> nn.Module:
    return Adaptor(self.text_width, jnp.dtype(self.dtype))

  def _placed(self, states: Float[Array, 'b c w n d']) -> Float[Array, 'b c w n d']:
    if not self.time_rotary_base:
      return states
    cos, sin = self.time_table(states.shape[2])
    k = cos.shape[-1]
    turned, rest = states[..., :k].astype(jnp.float32), states[..., k:]
    a, b = turned[..., ::2], turned[..., 1::2]
    crossed = jnp.stack([-b, a], axis=-1).reshape(turned.shape)
    turned = (turned * cos + crossed * sin).astype(states.dtype)
    return jnp.concatenate([turned, rest], axis=-1)

  def time_table(
    self, windows: int
  ) -> tuple[Float[np.ndarray, 'w n k'], Float[np.ndarray, 'w n k']]:
    """Cosines and sines of the vectors of a clip's windows, see `time_angles`."""
    base, dims = self.time_rotary_base, int(self.audio_width * self.time_rotary_factor)
    rates = rotary_frequencies(Rotary(base, dims), dims)
    angles = time_angles(windows, self.n_audio_ctx // STRIDE, rates, base, self.frame_seconds)
    return np.cos(angles), np.sin(angles)


def time_angles(
  windows: int,
  vectors: int,
  rates: Float[np.ndarray, ' pairs'],
  base: float,
  frame_seconds: float,
) -> Float[np.ndarray, 'w n k']:
  """Angles of Music Flamingo's turn of the vectors of a clip, float32.

  The first half of the dimensions turns with the number of the window, the second with that of the
  vector in it, both relative to the base; both are multiplied by the vector's time in seconds.
  Computed in float32 in the order of transformers, as rounding shows at many windows: there a last
  bit of one of the `rates` (see `rotary_frequencies`) moves a cosine by 1e-4.
  """
  one = np.float32
  step = one(frame_seconds * 4)
  starts = np.arange(windows, dtype=one) * one(vectors) * step
  times = starts[:, None] + np.arange(vectors, dtype=one) * step
  numbers = np.round(times[:, 0] / one(frame_seconds * 4 * vectors)) / one(base)
  by_window = np.repeat(numbers[:, None] * rates, 2, axis=-1)
  at = np.arange(vectors, dtype=one) / one(base) * one(2 * np.pi)
  by_vector = np.repeat(at[:, None] * rates, 2, axis=-1)
  shape = windows, vectors, by_window.shape[-1]
  both = np.concatenate(
    [np.broadcast_to(by_window[:, None], shape), np.broadcast_to(by_vector, shape)], axis=-1
  )
  turns = -times * one(2) * one(np.pi)
  return both * turns[..., None]
