"""Audio Flamingo (arXiv 2402.01831): Microsoft CLAP's vectors of sliding windows, gates, and OPT.

Figures are those of NVIDIA/audio-flamingo, branch legacy_audio_flamingo_1, commit 5ea6f6d (clapcap
of 2023, facebook/opt-iml-max-1.3b). A clip is heard in windows of 7 s, 1.75 s apart, up to 33.25 s;
a window is one vector. Prompts can have several clips, of examples and of a question: a token
hears the clips whose placeholders are before it, and before the first one the first clip.
Letters: b prompts, c clips, w windows, m windows of all, d width, k vectors of a prompt, r rows, u
tokens.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.models.clap import ResidualProjection
from research.models.gated_audio import GatedAudioModel
from research.models.gated_parts import Sound
from research.models.settings import by_size, check_choices

CACHED = ('faithful', 'corrected')
_BASE: dict[str, Any] = dict(
  frontend={'name': 'msclap_2023'}, clap_width=96, clap_depths=(2, 2, 6, 2),
  clap_heads=(4, 8, 16, 32), seconds=7.0, hop_seconds=1.75, max_windows=16, max_clips=8,
  max_media=128, audio_width=1024, audio_depth=3, audio_heads=8, audio_hidden=2048,
  text_width=2048, text_depth=24, text_heads=32, text_kv_heads=32, text_hidden=8192, tied=True,
  vocab_size=50268, max_tokens=2048, rope_base=0.0, epsilon=1e-5, audio_token=50265,
)  # fmt: skip
# The same weights take prompts of another number of clips, see `max_clips`.
SIZES: dict[str, dict[str, Any]] = {
  'foundation': dict(_BASE, max_clips=1),
  'chat': dict(_BASE, max_clips=4),
  'few_shot': _BASE,
  'tiny': dict(  # ours
    _BASE, clap_width=16, clap_depths=(1, 1, 1, 1), clap_heads=(2, 4, 4, 8), max_windows=4,
    max_clips=2, max_media=8, audio_width=64, audio_depth=2, audio_heads=2, audio_hidden=128,
    text_width=64, text_depth=2, text_heads=2, text_kv_heads=2, text_hidden=128, vocab_size=512,
    max_tokens=512, audio_token=300,
  ),
}  # fmt: skip


class AudioFlamingo(GatedAudioModel):
  """Audio Flamingo.

  Attributes beside those of `GatedAudioModel`:
    max_clips: prompts are filled up to it with silent windows, which the transformer over vectors
      hears as it does others (8 in pre-training and with 8 examples, 4 with 4 examples and in chat,
      1 without examples).
    max_media: rows of its table of positions.
    cached: what tokens behind a prompt hear, where it has several clips: 'corrected' all clips
      before them, as in training; 'faithful' the first one alone, as upstream's decoding with a
      cache does from its second token on.
  """

  SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
  TITLE: ClassVar[str] = 'Audio Flamingo'
  PROMPT: ClassVar[str] = 'audio_flamingo'
  KIND: ClassVar[str] = 'opt'

  size: str = 'foundation'
  max_media: int = by_size()
  cached: str = 'corrected'

  def _check(self) -> None:
    super()._check()
    check_choices(self.TITLE, self, {'cached': CACHED})
    if self.max_clips * self.max_windows > self.max_media:
      raise InputError(
        f'{self.TITLE} got max_clips={self.max_clips}, max_windows={self.max_windows} and '
        f'max_media={self.max_media}: the product of the first two is at most the third.'
      )

  def setup(self):
    super().setup()
    if self.encoder:
      self.clap_projection = ResidualProjection(self.audio_width)

  def _places_of_vectors(self) -> dict[str, Any]:
    return {'table': self.max_media}

  def _language(self) -> dict[str, Any]:
    return super()._language() | {'positions': self.max_tokens}

  def _vectors(self, tower: Mapping[str, Any], train: bool) -> Float[Array, 'm n d']:
    acts = train and 'clap' not in self.freeze
    return self.clap_projection(tower['embedding'], acts)[:, None]

  def _sound(self, batch, train: bool, collect: bool) -> tuple[Sound, dict[str, Any]]:
    vectors, there, silent = self._features(batch, train, silence=True)
    b, c, w, n, d = vectors.shape
    if c > self.max_clips or w > self.max_windows or n != 1:
      raise InputError(
        f'{self.TITLE} got {c} clips of {w} windows of {n} vectors: it takes up to '
        f'{self.max_clips} clips of {self.max_windows} windows of one vector.'
      )
    if silent is None:
      # What windows that are none hold is not known here: they are given.
      if w != self.max_windows or c != self.max_clips:
        raise InputError(
          f'{self.TITLE} got features of {c} clips of {w} windows: give {self.max_clips} of '
          f'{self.max_windows}, silent ones among them.'
        )
    else:
      room = (b, self.max_clips, self.max_windows)
      lack = ((0, 0), (0, room[1] - c), (0, room[2] - w))
      there = jnp.pad(there, lack)
      vectors = jnp.pad(vectors, (*lack, (0, 0), (0, 0)))
      vectors = jnp.where(there[..., None, None], vectors, silent[:, None, None])
    out = self.audio_transformer(vectors.reshape(b, -1, d))
    found = {'audio_normed': out['normed'], 'audio_layers': out['layers']} if collect else {}
    return Sound(out['states'], there.reshape(b, -1)), found

  def _seen(self, sound: Sound, counts: Int[Array, 'r u']) -> Sound:
    b, k = sound.mask.shape
    clip = jnp.arange(k) // self.max_windows
    seen = clip < jnp.maximum(counts, 1)[:, :, None]
    return dataclasses.replace(sound, seen=seen.reshape(b, 1, -1, k))

  def _seen_in_step(self, sound: Sound, counts: Int[Array, 'r u'], first: Bool[Array, '']) -> Sound:
    if self.cached == 'faithful':
      counts = jnp.where(first, counts, 1)
    return self._seen(sound, counts)
