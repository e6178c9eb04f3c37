"""Qwen2-Audio (arXiv 2407.10759): Whisper's encoder, one linear projection, and a Qwen2 decoder.

Figures are those of the published configuration and of the defaults of transformers that it leaves
out (Qwen/Qwen2-Audio-7B and -Instruct, which have the same; modeling_qwen2_audio.py). Clips are of
30 seconds, what is behind them is left out; a prompt may hold any number of them.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from research.models.audio_prompts import AudioLanguageModel

SIZES: dict[str, dict[str, Any]] = {
  '7b': dict(
    frontend=dict(name='whisper', num_mel_bins=128),
    audio_width=1280, audio_depth=32, audio_heads=20, audio_hidden=5120,
    n_audio_ctx=1500, max_windows=1, text_width=4096, text_depth=32, text_heads=32,
    text_kv_heads=32, text_hidden=11008, tied=False, vocab_size=156032, max_tokens=8192,
    rope_base=10000.0, epsilon=1e-5, audio_token=151646,
  ),
  'tiny': dict(  # ours: windows of five seconds
    frontend=dict(name='whisper', num_mel_bins=80),
    audio_width=64, audio_depth=2, audio_heads=2, audio_hidden=256,
    n_audio_ctx=250, max_windows=1, text_width=64, text_depth=2, text_heads=2, text_kv_heads=2,
    text_hidden=128, tied=False, vocab_size=512, max_tokens=1024, rope_base=10000.0, epsilon=1e-5,
    audio_token=300,
  ),
}  # fmt: skip


class Qwen2Audio(AudioLanguageModel):
  """Qwen2-Audio. Tokens of prompts: <|audio_bos|>, a placeholder for each vector, <|audio_eos|>."""

  SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
  TITLE: ClassVar[str] = 'Qwen2-Audio'
  PROMPT: ClassVar[str] = 'qwen2_audio'
