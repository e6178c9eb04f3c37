"""Language models that hear: vectors of an audio tower among the tokens of a prompt.

Qwen-Audio, Qwen2-Audio and Audio Flamingo 3 share this; their files hold what is their own.

Batches. `b` prompts; every array has one row a prompt.
  'tokens' int [b, u]: ids with one placeholder for each audio vector, negative for padding, which
    may be on either side. The n-th placeholder of a row gets the n-th vector of its clips, in the
    order of the clips; text may stand between them. Placeholders beyond the last vector stay
    tokens.
  'audio' float32 [b, c, t] in [-1, 1] and 'audio_mask' bool [b, c, t], True for samples: c clips a
    prompt, in the order of their placeholders. A clip without a sample is none: prompts may have
    none, one or several. [b, t] is one clip a prompt.
  or 'spectrogram' float32 [b, c, s, f], log-mels of whole windows (s a multiple of
    `window_frames`), and 'frame_mask' bool [b, c, s]; [b, s, f] is one clip a prompt.
  'answer_mask' bool [b, u]: tokens that are learned, for `objectives.autoregressive.answer_tokens`.

Prompts. `model.placeholders(samples)` says how many ids a clip takes in 'tokens', and
`model.places` which ids these are: all of one id, or in Qwen-Audio the tag that opens a clip, pads,
and the tag that closes it. What is behind `model.max_samples` of a clip is not used;
`check_prompts(batch)` raises where placeholders and vectors differ in number.

Generation: `inference.generate.generate(model, variables, prompts, settings, memories=m)` with
prompts that hold their placeholders and m = model.apply(variables, batch, method='remember').
Letters: b prompts, c clips, t samples, w windows, s mel frames, f mel bins, n slots of a window, d
width, k = c w, r rows of text, u tokens, p places, v vocabulary, l layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Example
from research.errors import InputError
from research.features import augment
from research.features.spectral import Array as AnyArray
from research.models.answering import AnsweringModel, Kept
from research.models.language_decoder import LanguageModel
from research.models.settings import by_size
from research.models.whisper_parts import STRIDE, Encoder, pool_pairs, window_log_mel
from research.nn import cache as caches
from research.nn import layers

# Parts that can be frozen.
PARTS = ('audio_tower', 'projector', 'language_model')


@flax.struct.dataclass
class Heard:
  """Audio of prompts: `vectors` [b, k n, d] of k windows, n each, of which the first `counts` int32
  [b, k] are real."""

  vectors: Any
  counts: Any


class AudioLanguageModel(AnsweringModel):
  """An audio tower, a projector and a language model.

  Attributes beside those of `AnsweringModel`, whose `audio_…` are of the tower:
    n_audio_ctx: tokens of a window in the tower, two mel frames each; a vector is of two of them.
    freq_mask, time_mask: limits of SpecAug in training, bins and frames; 0 for none.
  """

  TRAINING: ClassVar[tuple[str, ...]] = ('freeze', 'freq_mask', 'time_mask')
  NEEDS: ClassVar[Mapping[str, str]] = {
    'tokens': 'give the tokens of prompts and answers, with a placeholder for each audio vector',
  }
  KIND: ClassVar[str] = 'qwen2'
  FREEZABLE: ClassVar[Mapping[str, str]] = {part: f'^{part}/' for part in PARTS}
  COUNTS: ClassVar[Sequence[str]] = ('n_audio_ctx', *AnsweringModel.COUNTS)
  POOLED: ClassVar[bool] = True  # a vector is of two tokens of the tower
  ZERO_PADDING: ClassVar[bool] = False  # see `whisper_parts.Encoder`

  size: str = '7b'
  n_audio_ctx: int = by_size()
  freq_mask: int = 0
  time_mask: int = 0

  # -- Parts -----------------------------------------------------------------------------------

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.audio_tower = Encoder(
      self.n_audio_ctx, self.audio_width, self.audio_depth, self.audio_heads, dtype,
      self.scan_layers, self.remat, self.attention, self.audio_hidden, self.POOLED,
      self.ZERO_PADDING,
    )  # fmt: skip
    self.projector = self._projector()
    self.language_model = LanguageModel(**self._language())

  def _projector(self) -> nn.Module:
    """From the width of the tower to that of the language model."""
    return layers.Dense(self.text_width, jnp.dtype(self.dtype))

  def example(self) -> Example:
    """A clip of one frame and one token."""
    t = self.frontend.min_samples
    return {
      'audio': jax.ShapeDtypeStruct((1, t), jnp.float32),
      'audio_mask': jax.ShapeDtypeStruct((1, t), jnp.bool_),
      'tokens': jax.ShapeDtypeStruct((1, 1), jnp.int32),
    }

  # -- Prompts ---------------------------------------------------------------------------------

  @property
  def window_frames(self) -> int:
    """Mel frames of a window."""
    return STRIDE * self.n_audio_ctx

  @property
  def window_samples(self) -> int:
    """Samples of a window."""
    return self.window_frames * self.frontend.hop_samples

  @property
  def max_samples(self) -> int:
    """Samples of a clip that are heard; what is behind them is left out."""
    return self.max_windows * self.window_samples

  def frames_of(self, samples: Any) -> Any:
    """Mel frames of windows of N samples that are real: every begun hop."""
    return -(-samples // self.frontend.hop_samples)

  def vectors_of(self, frames: Any) -> Any:
    """Vectors of windows of N real frames."""
    return (frames + 1) // STRIDE // (1 + self.POOLED)

  def placeholders(self, samples: int) -> int:
    """Ids that a clip of N samples, at the rate of the front-end, takes in a prompt.

    Raises:
      InputError: a clip so short that it has no vector.
    """
    whole, rest = divmod(min(samples, self.max_samples), self.window_samples)
    pieces = [self.window_samples] * whole + [rest] * (rest > 0)
    found = sum(int(self.vectors_of(self.frames_of(n))) for n in pieces)
    if found < 1:
      raise InputError(
        f'{self.TITLE} got a clip of {samples} samples, which is too short for one audio vector: '
        f'give at least {self._shortest()}.'
      )
    return found

  def _shortest(self) -> int:
    return next(n for n in range(1, 10**6) if self.vectors_of(self.frames_of(n)) > 0)

  def check_prompts(self, batch: Mapping[str, Any]) -> None:
    """Raises InputError where a row has not as many placeholders as its clips have vectors."""
    audio_mask = np.asarray(batch['audio_mask'])
    audio_mask = audio_mask.reshape(len(audio_mask), -1, audio_mask.shape[-1])
    tokens = np.asarray(batch['tokens'])
    for i, (row, mask) in enumerate(zip(tokens, audio_mask, strict=True)):
      wanted = sum(self.placeholders(int(n)) for n in mask.sum(axis=-1) if n)
      found = int(np.isin(row, self.places).sum())
      if found != wanted:
        raise InputError(
          f'Prompt {i} has {found} placeholders ({", ".join(map(str, self.places))}) and its clips '
          f'have {wanted} audio vectors: write as many as `placeholders` says for each clip.'
        )

  # -- Audio -----------------------------------------------------------------------------------

  def windows(
    self, batch: Mapping[str, Any]
  ) -> tuple[Float[Array, 'b c w s f'], Int[Array, 'b c w']]:
    """Log-mels of the windows of all clips, and their real frames.

    Raises:
      InputError: a spectrogram that is not of whole windows; audio below one frame.
    """
    if 'spectrogram' in batch:
      mel, mask = jnp.asarray(batch['spectrogram']), jnp.asarray(batch['frame_mask'])
      if mask.ndim == 2:
        mel, mask = mel[:, None], mask[:, None]
      (b, c, s, f), size = mel.shape, self.window_frames
      if s % size or f != self.frontend.num_mel_bins:
        raise InputError(
          f'{self.TITLE} got a spectrogram of {s} frames and {f} bins: give whole windows of '
          f'{size} frames and {self.frontend.num_mel_bins} bins.'
        )
      frames = mask.reshape(b, c, s // size, size).sum(axis=-1, dtype=jnp.int32)
      return mel.reshape(b, c, s // size, size, f).astype(jnp.float32), frames
    audio, mask = jnp.asarray(batch['audio']), jnp.asarray(batch['audio_mask'])
    if mask.ndim == 2:
      audio, mask = audio[:, None], mask[:, None]
    return self._cut(audio[..., : self.max_samples], mask[..., : self.max_samples])

  def _cut(self, audio, mask):
    """`windows` of audio of any length."""
    (b, c, t), size = audio.shape, self.window_samples
    self.frontend.check(t)
    w = -(-t // size)
    pad = ((0, 0), (0, 0), (0, w * size - t))
    audio, mask = (jnp.pad(x, pad).reshape(b * c * w, size) for x in (audio, mask))
    mel = window_log_mel(self.frontend, audio, mask, self.window_frames)
    frames = self.frames_of(mask.sum(axis=-1, dtype=jnp.int32))
    return mel.reshape(b, c, w, *mel.shape[1:]), frames.reshape(b, c, w)

  def _tower(self, mel: Float[Array, 'm s f'], frames: Int[Array, ' m'], collect: bool):
    """Outputs of the tower, which attends to real frames alone."""
    real = jnp.arange(self.n_audio_ctx)[None] < ((frames + 1) // STRIDE)[:, None]
    return self.audio_tower(mel, collect, real)

  def hear(
    self, batch: Mapping[str, Any], train: bool = False, collect: bool = False
  ) -> tuple[Heard, dict[str, Any]]:
    """The audio of a batch as vectors of the language model.

    Returns:
      what was heard, and with `collect` intermediates of the b c w windows: those of the tower
      ('audio_layers' for its 'layers'), 'audio_states' [b c w, n, d], its output, 'placed', what
      the projector takes, and 'projected'.
    """
    mel, frames = self.windows(batch)
    b, c, w = frames.shape
    mel = mel.reshape(b * c * w, *mel.shape[3:])
    if train:
      limits = dict(freq=self.freq_mask, time=self.time_mask)
      mel = augment.spec_augment_in_training(batch, self.make_rng, mel, **limits)
    out = self._tower(mel, frames.reshape(-1), collect)
    states = out.pop('tokens')
    if 'audio_tower' in self.freeze:
      states = jax.lax.stop_gradient(states)
    placed = self._placed(states.reshape(b, c, w, *states.shape[1:]))
    projected = self.projector(placed)
    vectors, counts = self._vectors(projected, frames)
    n, d = vectors.shape[-2:]
    real = jnp.arange(n) < counts[..., None]
    vectors = jnp.where(real[..., None], vectors, jnp.zeros((), vectors.dtype))
    heard = Heard(vectors.reshape(b, c * w * n, d), counts.reshape(b, c * w))
    if not collect:
      return heard, {}
    flat = [x.reshape(b * c * w, *x.shape[3:]) for x in (placed, projected)]
    out['audio_layers'] = out.pop('layers')
    return heard, {**out, 'audio_states': states, 'placed': flat[0], 'projected': flat[1]}

  def _placed(self, states: Float[Array, 'b c w n d']) -> Float[Array, 'b c w n d']:
    """Outputs of the tower as the projector takes them."""
    return states

  def _vectors(self, projected: Float[Array, 'b c w n d'], frames: Int[Array, 'b c w']):
    """(vectors of each window, real ones first, and how many are real)."""
    return projected, self.vectors_of(frames)

  # -- Training --------------------------------------------------------------------------------

  def __call__(
    self, batch: Mapping[str, Any], train: bool = False, collect: bool = False
  ) -> dict[str, Any]:
    """Logits behind every token, with teacher forcing.

    Args:
      batch: see above; without audio it is text alone.
      train: SpecAug acts (rng 'augment').
      collect: also intermediates, see `hear` and `LanguageModel`.

    Returns:
      'logits' [b, u, v] float32 of the token that follows, 'token_mask' [b, u]; where there is
      audio 'audio_vectors' [b, k n, d] and 'audio_counts' [b, k], see `Heard`.

    Raises:
      InputError: more tokens than `max_tokens`.
    """
    tokens = jnp.asarray(batch['tokens'])
    if tokens.shape[1] > self.max_tokens:
      raise InputError(
        f'{self.TITLE} got {tokens.shape[1]} tokens a prompt and has {self.max_tokens} positions: '
        'cut the text, or give less audio.'
      )
    real, heard = tokens >= 0, None
    found: dict[str, Any] = {}
    if 'audio' in batch or 'spectrogram' in batch:
      heard, found = self.hear(batch, train, collect)
      found |= {'audio_vectors': heard.vectors, 'audio_counts': heard.counts}
    x, _ = self._merge(tokens, real, heard, jnp.zeros(len(tokens), jnp.int32))
    out, _ = self.language_model(x, real, train=train, collect=collect)
    return {**out, 'token_mask': real, **found}

  def _merge(self, tokens, real, heard, before):
    """(embeddings of tokens with audio vectors in their places, how many were heard so far)."""
    x = self.language_model.words(jnp.maximum(tokens, 0))
    if heard is None:
      return x, before
    (r, u), (b, k) = tokens.shape, heard.counts.shape
    place = jnp.isin(tokens, jnp.asarray(self.places, tokens.dtype)) & real
    number = jnp.cumsum(place, axis=1, dtype=jnp.int32) - 1 + before[:, None]
    # Rows of one prompt are neighbours, so that they are read as one row of it.
    number = number.reshape(b, -1)
    ends = jnp.cumsum(heard.counts, axis=1)
    window = (number[:, :, None] >= ends[:, None]).sum(axis=-1, dtype=jnp.int32)
    here = place.reshape(b, -1) & (window < k)
    window = jnp.minimum(window, k - 1)
    start = jnp.take_along_axis(ends - heard.counts, window, axis=1)
    index = window * (heard.vectors.shape[1] // k) + number - start
    index = jnp.where(here, index, 0)[:, :, None]
    vectors = jnp.take_along_axis(heard.vectors, index, axis=1).reshape(r, u, -1)
    merged = jnp.where(here.reshape(r, u)[:, :, None], vectors.astype(x.dtype), x)
    return merged, before + place.sum(axis=1, dtype=jnp.int32)

  # -- Embeddings ------------------------------------------------------------------------------

  def hidden_states(
    self, batch: Mapping[str, Any], train: bool = False, layers: bool = True
  ) -> dict[str, Array]:
    """What a head sees: the tower alone, clips [b, t] of any length, window by window.

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
    """Tokens of the tower, 40 ms apart, window by window: l = 0 is the input of the first layer,
    each the mean of two, the last one is what the projector takes. Raises InputError below one
    frame. A clip that is too short for a vector has one token."""
    states, mask = self._states(audio, audio_mask)
    return states.astype(jnp.float32), mask

  def _states(self, audio, audio_mask):
    self.frontend.check(audio.shape[1])
    mel, frames = self._cut(jnp.asarray(audio)[:, None], jnp.asarray(audio_mask)[:, None])
    b, _, w = frames.shape
    out = self._tower(mel.reshape(b * w, *mel.shape[3:]), frames.reshape(-1), True)
    before = jnp.concatenate([out['stem'][None], out['layers'][:-1]])
    whole = jnp.concatenate([pool_pairs(before) if self.POOLED else before, out['tokens'][None]])
    each = 1 + self.POOLED
    n = -(-audio.shape[1] // (each * STRIDE * self.frontend.hop_samples))
    whole = whole.reshape(len(whole), b, -1, whole.shape[-1])[:, :, :n]
    count = ((frames + 1) // STRIDE // each).sum(axis=(1, 2))
    count = jnp.maximum(count, (frames.sum(axis=(1, 2)) > 0).astype(count.dtype))
    mask = jnp.arange(whole.shape[2])[None] < count[:, None]
    return jnp.where(mask[None, :, :, None], whole, jnp.zeros((), whole.dtype)), mask

  # -- Generation: `capabilities.Generates` ----------------------------------------------------

  def remember(self, batch: Mapping[str, Any]) -> Heard:
    """The audio of a batch, heard once: `memories` of `inference.generate`."""
    return self.hear(batch)[0]

  def step(
    self,
    tokens: Int[AnyArray, 'r u'],
    state: caches.State,
    real: Bool[AnyArray, 'r u'] | None = None,
    at: Int[AnyArray, 'r p'] | None = None,
  ) -> tuple[Float[Array, 'r p v'], caches.State]:
    """Further tokens: logits behind each, or behind those `at`, and the next state."""
    tokens, kept = jnp.asarray(tokens), state.caches
    real, at = (None if x is None else jnp.asarray(x) for x in (real, at))
    there = jnp.ones(tokens.shape, bool) if real is None else real
    x, heard = self._merge(tokens, there, state.memories, kept.places)
    out, language = self.language_model(x, real, kept.language, at)
    return out['logits'], state.after(Kept(language, heard))
