"""Whisper (arXiv 2212.04356): an encoder of 30 seconds of log-mel, and a decoder that writes text.

Figures are those of openai/whisper (model.py, __init__.py, release 20250625).
Letters: b batch, t samples, s mel frames, f mel bins, n audio tokens, u text tokens, d width,
h heads, l layers, v vocabulary.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Embedding, Example, audio_example
from research.errors import InputError, unknown
from research.features import augment
from research.features.frontend import Frontend
from research.models.settings import by_size, check_choices, fill
from research.models.whisper_parts import STRIDE, Decoder, Encoder, window_log_mel
from research.nn import cache as caches
from research.nn import layers

AnyArray = jax.Array | np.ndarray
SECONDS = 30.0  # of one window
ENGLISH, LANGUAGES_99, LANGUAGES_100 = 51864, 51865, 51866


class Size(NamedTuple):
  """Figures of a published size; `alignment_heads` are (layer, head) of the decoder whose attention
  follows the audio."""

  width: int
  heads: int
  depth: int
  decoder_heads: int
  decoder_depth: int
  n_vocab: int
  alignment_heads: tuple[tuple[int, int], ...]
  num_mel_bins: int = 80
  n_audio_ctx: int = 1500
  n_text_ctx: int = 448


def _size(width: int, depth: int, n_vocab: int, heads: str, decoder_depth: int = 0, bins: int = 80):
  """A published size: all heads have 64 dimensions; `heads` is 'layer.head layer.head …'."""
  pairs = [pair.split('.') for pair in heads.split()]
  aligned = tuple((int(layer), int(head)) for layer, head in pairs)
  n = width // 64
  return Size(width, n, depth, n, decoder_depth or depth, n_vocab, aligned, bins)


# Alignment heads: the masks of openai/whisper, __init__.py.
SIZES = {
  'nano': Size(  # ours
    width=64,
    heads=2,
    depth=2,
    decoder_heads=2,
    decoder_depth=2,
    n_vocab=ENGLISH,
    alignment_heads=((1, 0), (1, 1)),
    n_audio_ctx=250,
    n_text_ctx=96,
  ),
  'tiny.en': _size(384, 4, ENGLISH, '1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4'),
  'tiny': _size(384, 4, LANGUAGES_99, '2.2 3.0 3.2 3.3 3.4 3.5'),
  'base.en': _size(512, 6, ENGLISH, '3.3 4.7 5.1 5.5 5.7'),
  'base': _size(512, 6, LANGUAGES_99, '3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6'),
  'small.en': _size(
    768, 12, ENGLISH,
    '6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4',
  ),
  'small': _size(768, 12, LANGUAGES_99, '5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5'),
  'medium.en': _size(
    1024, 24, ENGLISH,
    '11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 20.9 20.14 '
    '21.12',
  ),
  'medium': _size(1024, 24, LANGUAGES_99, '13.15 15.4 15.15 16.1 20.0 23.4'),
  'large-v1': _size(
    1280, 32, LANGUAGES_99, '9.19 11.2 11.4 11.17 22.7 22.11 22.17 23.2 23.15'
  ),
  'large-v2': _size(
    1280, 32, LANGUAGES_99,
    '10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 21.3 22.3 22.9 22.12 '
    '23.5 23.7 23.13 25.5 26.1 26.12 27.15',
  ),
  'large-v3': _size(
    1280, 32, LANGUAGES_100, '7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6', bins=128
  ),
  'turbo': _size(
    1280, 32, LANGUAGES_100, '2.4 2.11 3.3 3.6 3.11 3.14', decoder_depth=4, bins=128
  ),
}  # fmt: skip


# -- The model ---------------------------------------------------------------------------------


class Whisper(nn.Module):
  """Whisper, in fine-tuning with teacher forcing and in decoding.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: settings of `features.Frontend` 'whisper', or the front-end itself.
    width, depth, heads, decoder_depth, decoder_heads: of the transformers.
    n_vocab, n_audio_ctx, n_text_ctx: rows of the token embedding, audio tokens of a window, text
      tokens that have a position.
    alignment_heads: (layer, head) of the decoder that word timestamps are taken from.
    freq_mask, time_mask: limits of SpecAug in fine-tuning, bins and frames; 0 for none.
    dtype: of the computation; parameters are float32.
    scan_layers, remat, attention: see `layers.run_blocks` and `attention.attend`.
  """

  EMBEDDING: ClassVar[Embedding] = Embedding()
  FINETUNING: ClassVar[Mapping[str, Any]] = {}
  TRAINING: ClassVar[tuple[str, ...]] = ('freq_mask', 'time_mask')
  NEEDS: ClassVar[Mapping[str, str]] = {
    'tokens': 'name the tokens of the transcripts, as data.fields.tokens',
  }

  size: str = 'tiny'
  frontend: Any = None
  width: int = by_size()
  depth: int = by_size()
  heads: int = by_size()
  decoder_depth: int = by_size()
  decoder_heads: int = by_size()
  n_vocab: int = by_size()
  n_audio_ctx: int = by_size()
  n_text_ctx: int = by_size()
  alignment_heads: Any = by_size()
  freq_mask: int = 0
  time_mask: int = 0
  dtype: str = 'float32'
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of whisper', self.size, SIZES)
    figures = SIZES[self.size]._asdict()
    bins = figures.pop('num_mel_bins')
    for name in ('decoder_depth', 'decoder_heads'):
      if getattr(self, name) not in (None, figures[name]):
        figures['alignment_heads'] = None  # they are of the published decoder
    fill(self, figures)
    if not isinstance(self.frontend, Frontend):
      given = {'name': 'whisper', 'num_mel_bins': bins, **(self.frontend or {})}
      object.__setattr__(self, 'frontend', Frontend.from_dict(given))
    check_choices('whisper', self, {'dtype': layers.DTYPES})
    for name in ('heads', 'decoder_heads'):
      if getattr(self, name) < 1 or self.width % getattr(self, name):
        raise InputError(
          f'whisper got width={self.width} and {name}={getattr(self, name)}; width must be a '
          f'multiple of {name}.'
        )
    object.__setattr__(self, 'alignment_heads', self._alignment_heads())
    super().__post_init__()

  def _alignment_heads(self) -> tuple[tuple[int, int], ...]:
    """The given ones as tuples; else all heads of the upper half of the decoder, as upstream."""
    if self.alignment_heads is None:
      upper = range(self.decoder_depth // 2, self.decoder_depth)
      return tuple((layer, head) for layer in upper for head in range(self.decoder_heads))
    pairs = tuple(tuple(int(x) for x in pair) for pair in self.alignment_heads)
    limits = self.decoder_depth, self.decoder_heads
    if any(len(p) != 2 or not 0 <= p[0] < limits[0] or not 0 <= p[1] < limits[1] for p in pairs):
      raise InputError(
        f'whisper got alignment_heads={pairs}; expected (layer, head) below {limits}.'
      )
    return pairs  # type: ignore[return-value]

  def setup(self):
    how = jnp.dtype(self.dtype), self.scan_layers, self.remat, self.attention
    self.encoder = Encoder(self.n_audio_ctx, self.width, self.depth, self.heads, *how)
    self.decoder = Decoder(
      self.n_vocab, self.n_text_ctx, self.width, self.decoder_depth, self.decoder_heads, *how
    )

  # -- What it is ------------------------------------------------------------------------------

  def example(self) -> Example:
    """A clip of one frame and one token."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return audio_example(self.frontend) | {'tokens': tokens}

  @property
  def multilingual(self) -> bool:
    """Whether the vocabulary has languages and tasks."""
    return self.n_vocab >= LANGUAGES_99

  @property
  def num_languages(self) -> int:
    """Languages of the vocabulary."""
    return self.n_vocab - 51765 - int(self.multilingual)

  @property
  def window_frames(self) -> int:
    """Mel frames of a window."""
    return STRIDE * self.n_audio_ctx

  @property
  def token_samples(self) -> int:
    """Samples of an audio token."""
    return STRIDE * self.frontend.hop_samples

  # -- Training --------------------------------------------------------------------------------

  def __call__(
    self, batch: Mapping[str, Any], train: bool = False, collect: bool = False
  ) -> dict[str, Any]:
    """Logits behind every token, with teacher forcing.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t], of which the first window counts, zeros behind it
        as in `log_mel`; or 'spectrogram' [b, s, f], the log-mel itself. 'tokens' int [b, u]: prompt
        and text, negative behind the end.
      train: SpecAug acts (rng 'augment'); there is no dropout in Whisper.
      collect: also intermediates, see `Encoder` and `Decoder`.

    Returns:
      'logits' [b, u, v] float32 of the token that follows, 'token_mask' [b, u], 'audio_tokens'
      [b, n, d] of the encoder.
    """
    if 'spectrogram' in batch:
      mel = jnp.asarray(batch['spectrogram']).astype(jnp.float32)
    else:
      mel = self.log_mel(batch['audio'], batch['audio_mask'])
    if train:
      limits = dict(freq=self.freq_mask, time=self.time_mask)
      mel = augment.spec_augment_in_training(batch, self.make_rng, mel, **limits)
    tokens = jnp.asarray(batch['tokens'])
    if tokens.shape[1] > self.n_text_ctx:
      raise InputError(
        f'whisper got {tokens.shape[1]} tokens a clip and has {self.n_text_ctx} positions: cut '
        'the text, or its prompt.'
      )
    encoded = self.encoder(mel, collect)
    heard = encoded.pop('tokens')
    logits, _, found = self.decoder(jnp.maximum(tokens, 0), heard, collect=collect)
    return {
      'logits': logits,
      'token_mask': tokens >= 0,
      'audio_tokens': heard,
      **encoded,
      **found,
    }

  # -- Audio -----------------------------------------------------------------------------------

  def log_mel(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> Float[Array, 'b s f']:
    """Log-mel of the first window of every clip; silence behind its end counts as audio, and the
    floor is 8 below the maximum of each clip (`pad_or_trim` and `log_mel_spectrogram` upstream)."""
    self.frontend.check(audio.shape[1])
    return window_log_mel(self.frontend, audio, audio_mask, self.window_frames)

  def encode(self, mel: Float[AnyArray, 'b s f']) -> Float[Array, 'b n d']:
    """Log-mel of windows, `window_frames` long, to audio tokens."""
    return self.encoder(jnp.asarray(mel))['tokens']

  def hidden_states(
    self, batch: Mapping[str, Any], train: bool = False, layers: bool = True
  ) -> dict[str, Array]:
    """What a head sees: the encoder alone, clips of any length, window by window.

    Returns:
      'tokens' [b, n, d], 'frame_mask' [b, n], with `layers` 'layers' [l, b, n, d] as `embed`'s.
    """
    del train
    states, mask = self._states(batch['audio'], batch['audio_mask'])
    out = {'tokens': states[-1], 'frame_mask': mask}
    return out | ({'layers': states} if layers else {})

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Every layer's audio tokens, 20 ms apart, window by window: l = 0 is the input of the first
    layer, the last one is what the decoder sees. Raises InputError below one frame."""
    states, mask = self._states(audio, audio_mask)
    return states.astype(jnp.float32), mask

  def _states(self, audio, audio_mask):
    self.frontend.check(audio.shape[1])
    audio, audio_mask = jnp.asarray(audio), jnp.asarray(audio_mask)
    (b, t), size = audio.shape, self.window_frames * self.frontend.hop_samples
    windows = -(-t // size)
    pad = ((0, 0), (0, windows * size - t))
    cut = [jnp.pad(x, pad).reshape(b * windows, size) for x in (audio, audio_mask)]
    encoded = self.encoder(self.log_mel(*cut), True)
    states = [encoded['stem'][None], encoded['layers'][:-1], encoded['tokens'][None]]
    whole = jnp.concatenate(states)
    n = -(-t // self.token_samples)
    whole = whole.reshape(len(whole), b, windows * self.n_audio_ctx, self.width)[:, :, :n]
    count = -(-audio_mask.sum(axis=1) // self.token_samples)
    mask = jnp.arange(n)[None] < count[:, None]
    return jnp.where(mask[None, :, :, None], whole, 0), mask

  # -- Decoding: `capabilities.Generates` ------------------------------------------------------

  @property
  def vocab_size(self) -> int:
    """Number of tokens that have logits."""
    return self.n_vocab

  @property
  def max_tokens(self) -> int:
    """Tokens that have a position."""
    return self.n_text_ctx

  def remember(self, encoded: Float[AnyArray, 'b n d']) -> Any:
    """Memories of what `encode` gave: keys and values of every layer, computed once."""
    return self.decoder(None, jnp.asarray(encoded))

  def start(self, rows: int, slots: int, memories: Any = None) -> caches.State:
    """The state before the first token of N rows that take up to N tokens, padding included."""
    size = self.width // self.decoder_heads
    made = caches.create_layers(
      self.decoder_depth, self.scan_layers, rows, slots, self.decoder_heads, size,
      jnp.dtype(self.dtype),
    )  # fmt: skip
    return caches.State(made, memories)

  def step(
    self,
    tokens: Int[AnyArray, 'r u'],
    state: caches.State,
    real: Bool[AnyArray, 'r u'] | None = None,
    at: Int[AnyArray, 'r p'] | None = None,
  ) -> tuple[Float[Array, 'r p v'], caches.State]:
    """Further tokens: logits behind each, or behind those `at`, and the next state."""
    real, at = (None if x is None else jnp.asarray(x) for x in (real, at))
    logits, state, _ = self.decoder(jnp.asarray(tokens), None, state, real, at)
    return logits, state
