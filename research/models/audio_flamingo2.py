"""Audio Flamingo 2 (arXiv 2503.03983): all vectors of AF-CLAP's HTSAT, gates, and Qwen2.5-3B.

Figures are those of NVIDIA/audio-flamingo, branch audio_flamingo_2, commit 7684e9c (released
inference). A clip is heard in windows of 10 s that do not overlap; a window is 64 vectors, those of
the lower band in time, then those of the upper one. Every token hears every vector.
Letters: b prompts, c clips, w windows, m windows of all, n vectors of a window, d width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from research.errors import InputError
from research.models.gated_audio import GatedAudioModel
from research.models.gated_parts import Sound
from research.nn.positions import Rotary

_3B: dict[str, Any] = dict(
  # torchaudio's mel of factory.py: htk scale, no norm.
  frontend={
    'name': 'laion_clap_fusion', 'sample_rate': 16000, 'hop_length': 160, 'f_max': 8000.0
  },
  clap_width=256, clap_depths=(2, 2, 12, 2), clap_heads=(4, 8, 16, 32), seconds=10.0,
  hop_seconds=10.0, max_windows=12, max_clips=1, audio_width=2048, audio_depth=3, audio_heads=8,
  audio_hidden=2048, text_width=2048, text_depth=36, text_heads=16, text_kv_heads=2,
  text_hidden=11008, tied=True, vocab_size=151669, max_tokens=32768, rope_base=1e6, epsilon=1e-6,
  audio_token=151665,
)  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
  '3b': _3B,
  '3b_long': dict(_3B, max_windows=30),  # of the third stage: five minutes
  'tiny': dict(  # ours
    _3B, clap_width=16, clap_depths=(1, 1, 1, 1), clap_heads=(2, 4, 4, 8), max_windows=4,
    max_clips=2, audio_width=128, audio_depth=2, audio_heads=2, audio_hidden=128, text_width=64,
    text_depth=2, text_heads=4, text_kv_heads=2, text_hidden=128, vocab_size=512, max_tokens=512,
    audio_token=300,
  ),
}  # fmt: skip


class AudioFlamingo2(GatedAudioModel):
  """Audio Flamingo 2. Windows of several clips follow one another; it was trained with one."""

  SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
  TITLE: ClassVar[str] = 'Audio Flamingo 2'
  PROMPT: ClassVar[str] = 'audio_flamingo2'
  KIND: ClassVar[str] = 'qwen2'
  FUSION: ClassVar[bool] = True

  size: str = '3b'

  def _check(self) -> None:
    super()._check()
    times = 2 ** (len(self.clap_depths) - 1)
    if self.encoder and self.audio_width != times * self.clap_width:
      raise InputError(
        f'{self.TITLE} got audio_width={self.audio_width} and clap_width={self.clap_width}: '
        f'vectors of the tower are {times} times as wide.'
      )

  def _places_of_vectors(self) -> dict[str, Any]:
    dims = max(self.audio_width // self.audio_heads // 2, 32)
    return {'rotary': Rotary(4096.0, dims)}

  def _vectors(self, tower: Mapping[str, Any], train: bool) -> Float[Array, 'm n d']:
    tokens = tower['tokens']
    return tokens.swapaxes(1, 2).reshape(len(tokens), -1, tokens.shape[-1])

  def _sound(self, batch, train: bool, collect: bool) -> tuple[Sound, dict[str, Any]]:
    vectors, there, _ = self._features(batch, train)
    b, c, w, n, d = vectors.shape
    if c > self.max_clips or w > self.max_windows:
      raise InputError(
        f'{self.TITLE} got {c} clips of {w} windows: it takes up to {self.max_clips} clips of '
        f'{self.max_windows}.'
      )
    mask = jnp.repeat(there.reshape(b, -1), n, axis=1)
    vectors = jnp.where(mask[:, :, None], vectors.reshape(b, -1, d), 0.0)
    order = jnp.maximum(jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)
    out = self.audio_transformer(vectors, mask, order)
    found = {'audio_normed': out['normed'], 'audio_layers': out['layers']} if collect else {}
    return Sound(out['states'], mask), found
