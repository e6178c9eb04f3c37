"""Qwen-Audio (arXiv 2311.07919): Whisper's encoder with pooled tokens, and Qwen-7B (the first).

Figures are those of QwenLM/Qwen-Audio (config.json, audio.py, modeling_qwen.py, commit b50fb95),
the same for Qwen-Audio-Chat. A clip stands between the tags <audio> and </audio>, whose own places
get two learned vectors: a prompt holds the opening tag, pads, and the closing one.
Letters: b prompts, c clips, w windows, n vectors of a window, s mel frames, f mel bins, d width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.models.audio_prompts import AudioLanguageModel
from research.models.language_decoder import NORMAL
from research.models.settings import by_size, check_choices
from research.models.whisper_parts import STRIDE

TAGS = 2  # of a clip
PADDINGS = ('own', 'batch')
SIZES: dict[str, dict[str, Any]] = {
  '7b': dict(
    frontend=dict(name='whisper', num_mel_bins=80),
    audio_width=1280, audio_depth=32, audio_heads=20, audio_hidden=5120,
    n_audio_ctx=1500, max_windows=1, text_width=4096, text_depth=32, text_heads=32,
    text_kv_heads=32, text_hidden=11008, tied=False, vocab_size=155947, max_tokens=8192,
    rope_base=10000.0, epsilon=1e-5, audio_token=151851, audio_start=155163, head_dim=128,
    seq_length=2048, use_dynamic_ntk=True, use_logn_attn=True,
  ),
  'tiny': dict(  # ours: windows of five seconds
    frontend=dict(name='whisper', num_mel_bins=80),
    audio_width=64, audio_depth=2, audio_heads=2, audio_hidden=256,
    n_audio_ctx=250, max_windows=1, text_width=64, text_depth=2, text_heads=2, text_kv_heads=2,
    text_hidden=128, tied=False, vocab_size=512, max_tokens=1024, rope_base=10000.0, epsilon=1e-5,
    audio_token=300, audio_start=301, head_dim=32, seq_length=512, use_dynamic_ntk=True,
    use_logn_attn=True,
  ),
}  # fmt: skip


class QwenAudio(AudioLanguageModel):
  """Qwen-Audio.

  Attributes beside those of `AudioLanguageModel`:
    audio_start: id of <audio>; the next one is </audio>.
    head_dim: of the language model.
    seq_length: tokens of its training texts.
    use_dynamic_ntk, use_logn_attn: how it reads longer ones, see `LanguageModel`.
    count_padding: positions count padding of prompts too, as upstream's do: only tokens beyond
      `seq_length` differ, by `use_logn_attn`.
    mel_padding: silence behind a clip is heard by the last frames of the convolutions only up to
      the end of the longest clip of a batch: 'batch' is that, as upstream; 'own' cuts each clip as
      if it were alone, so that it does not depend on others.
  """

  SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
  TITLE: ClassVar[str] = 'Qwen-Audio'
  KIND: ClassVar[str] = 'qwen'
  PROMPT: ClassVar[str] = 'qwen_audio'
  ZERO_PADDING: ClassVar[bool] = True

  audio_start: int = by_size()
  head_dim: int = by_size()
  seq_length: int = by_size()
  use_dynamic_ntk: bool = by_size()
  use_logn_attn: bool = by_size()
  count_padding: bool = False
  mel_padding: str = 'own'

  def _check(self) -> None:
    super()._check()
    check_choices(self.TITLE, self, {'mel_padding': PADDINGS})

  def setup(self):
    super().setup()
    self.audio_bos_eos = self.param('audio_bos_eos', NORMAL, (TAGS, self.text_width))

  def _language(self) -> dict[str, Any]:
    return super()._language() | {
      'head_dim': self.head_dim,
      'trained_length': self.seq_length,
      'dynamic_ntk': self.use_dynamic_ntk,
      'logn': self.use_logn_attn,
      'count_padding': self.count_padding,
    }

  @property
  def places(self) -> tuple[int, ...]:
    """The pad, and the two tags."""
    return (self.audio_token, self.audio_start, self.audio_start + 1)

  def frames_of(self, samples: Any) -> Any:
    """Mel frames of clips of N samples that are real: every whole hop."""
    return samples // self.frontend.hop_samples

  def vectors_of(self, frames: Any) -> Any:
    """Vectors of clips of N real frames, those of the tags too; without a frame there is no
    clip."""
    found = (frames + 1) // STRIDE // 2 + TAGS
    if isinstance(frames, int):
      return found if frames > 0 else 0
    return jnp.where(frames > 0, found, 0)

  def _tower(self, mel: Float[Array, 'm s f'], frames: Int[Array, ' m'], collect: bool):
    limit = STRIDE * ((frames + 1) // STRIDE)
    if self.mel_padding == 'batch':
      limit = jnp.broadcast_to(limit.max(), limit.shape)
    heard = jnp.arange(mel.shape[1])[None] < limit[:, None]
    mel = jnp.where(heard[:, :, None], mel, jnp.zeros((), mel.dtype))
    return super()._tower(mel, frames, collect)

  def _vectors(self, projected: Float[Array, 'b c w n d'], frames: Int[Array, 'b c w']):
    counts = self.vectors_of(frames)
    first, last = (jnp.asarray(x).astype(projected.dtype) for x in self.audio_bos_eos)
    pad = [(0, 0)] * 3 + [(1, 1), (0, 0)]
    at = jnp.arange(projected.shape[3] + TAGS)[:, None]
    inner = jnp.where(at == 0, first, jnp.pad(projected, pad))
    closing = at == counts[..., None, None] - 1
    return jnp.where(closing, last, inner), counts
