"""SIFT-LLM (arXiv 2504.09081): Whisper's encoder as it is, one linear connector, and Qwen2.5.

Figures are those of the paper (table 12 and section 5) with those of openai/whisper-medium and
Qwen/Qwen2.5-7B-Instruct. Neither code nor weights are published. The paper mentions no step that
makes fewer vectors of a window: there are 1500 for 30 seconds, silence behind the clip among them,
as Whisper always hears it. `whole_windows=False` leaves the silence out.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.models.audio_prompts import AudioLanguageModel
from research.models.whisper_parts import STRIDE

SIZES: dict[str, dict[str, Any]] = {
  'medium_7b': dict(
    frontend=dict(name='whisper', num_mel_bins=80),
    audio_width=1024, audio_depth=24, audio_heads=16, audio_hidden=4096,
    n_audio_ctx=1500, max_windows=1, text_width=3584, text_depth=28, text_heads=28, text_kv_heads=4,
    text_hidden=18944, tied=False, vocab_size=152064, max_tokens=32768, rope_base=1e6, epsilon=1e-6,
    audio_token=151665,  # the first row of the embedding that Qwen2.5 leaves free
  ),
  'tiny': dict(  # ours: windows of two seconds
    frontend=dict(name='whisper', num_mel_bins=80),
    audio_width=64, audio_depth=2, audio_heads=2, audio_hidden=256,
    n_audio_ctx=100, max_windows=1, text_width=64, text_depth=2, text_heads=4, text_kv_heads=2,
    text_hidden=128, tied=False, vocab_size=512, max_tokens=1024, rope_base=1e6, epsilon=1e-6,
    audio_token=300,
  ),
}  # fmt: skip


class SiftLLM(AudioLanguageModel):
  """SIFT-LLM.

  Attributes beside those of `AudioLanguageModel`:
    whole_windows: the encoder attends to the silence behind a clip, and its vectors are given too.
  """

  SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
  TITLE: ClassVar[str] = 'SIFT-LLM'
  PROMPT: ClassVar[str] = 'sift_llm'
  POOLED: ClassVar[bool] = False

  size: str = 'medium_7b'
  whole_windows: bool = True

  def vectors_of(self, frames: Any) -> Any:
    """Vectors of windows of N real frames; without a frame there are none."""
    if not self.whole_windows:
      return super().vectors_of(frames)
    if isinstance(frames, int):
      return self.n_audio_ctx if frames > 0 else 0
    return jnp.where(frames > 0, self.n_audio_ctx, 0)

  def _tower(self, mel: Float[Array, 'm s f'], frames: Int[Array, ' m'], collect: bool):
    # A window without audio is none, and has to stay finite.
    heard = jnp.full_like(frames, STRIDE * self.n_audio_ctx) if self.whole_windows else frames
    return super()._tower(mel, heard, collect)
