"""Language models that listen through gates: Audio Flamingo 1 and 2 share this.

Before a layer of the language model its tokens attend to vectors of audio (gated cross attention,
arXiv 2204.14198); the vectors are those of windows of clips, behind a small transformer. A prompt
holds one placeholder for each clip, which stays a token.

Batches. `b` prompts; every array has one row a prompt.
  'tokens' int [b, u]: ids with one placeholder a clip, negative for padding on either side.
  'audio' float32 [b, c, t] in [-1, 1] and 'audio_mask' bool [b, c, t], True for samples: c clips a
    prompt, in the order of their placeholders; [b, t] is one clip a prompt. A clip without a sample
    is none; those that are come first.
  or 'features' float32 [b, c, w, n, d], what the audio tower makes of windows, and 'window_mask'
    bool [b, c, w], True for windows of a clip.
  'answer_mask' bool [b, u]: tokens that are learned, for `objectives.autoregressive.answer_tokens`.
A row without a clip reads as text alone.

Generation: `inference.generate.generate(model, variables, prompts, settings, memories=m)` with
m = model.apply(variables, batch, method='remember').
Letters: b prompts, c clips, t samples, w windows of a clip, m windows, n vectors of a window, k
vectors of a prompt, d width, r rows of text, u tokens, p places, v vocabulary, l layers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Example
from research.errors import InputError
from research.features.clips import full_scale, int16_round_trip
from research.features.spectral import Array as AnyArray
from research.models.answering import AnsweringModel, Kept
from research.models.clap import embed_pieces
from research.models.gated_parts import (
  AudioTransformer,
  Gate,
  Heard,
  Sound,
  cross_attention,
)
from research.models.htsat import HTSAT
from research.models.language_decoder import LanguageModel
from research.models.settings import by_size
from research.nn import cache as caches

# {part that can be frozen: paths of its parameters}.
FREEZABLE = {
  'clap': '^clap_',
  'audio_transformer': '^audio_transformer/',
  'gates': r'^language_model/blocks(_\d+)?/before/',
  'language_model': r'^language_model/(?!blocks(_\d+)?/before/)',
  'embeddings': '^language_model/(token_embedding|positions/)',
  'language_layers': r'^language_model/(?!blocks(_\d+)?/before/|token_embedding|positions/)',
}


class GatedAudioModel(AnsweringModel):
  """An audio tower (HTSAT), a transformer over its vectors, a language model with gates.

  Attributes beside those of `AnsweringModel`, whose `audio_…` are of the transformer over vectors:
    encoder: whether the audio tower is part of the model; without it batches hold 'features'.
    clap_width, clap_depths, clap_heads, classes, drop_path: of the tower, see `HTSAT`.
    seconds, hop_seconds: of a window, and between the starts of two.
    max_clips: clips that a prompt can have.
    gate_every: layers i with i + 1 divisible by it have a gate.
    gate_heads, gate_head_dim, gate_mult: heads of the gates, their size, and the hidden width of
      their MLPs over that of the language model.
    gate_init: both gates of a layer before training; at 0 the model is its language model.
  """

  TRAINING: ClassVar[tuple[str, ...]] = ('freeze', 'gate_init', 'drop_path')
  NEEDS: ClassVar[Mapping[str, str]] = {
    'tokens': 'give the tokens of prompts and answers, with a placeholder for each clip',
  }
  FREEZABLE: ClassVar[Mapping[str, str]] = FREEZABLE
  COUNTS: ClassVar[Sequence[str]] = (*AnsweringModel.COUNTS, 'max_clips', 'gate_every')
  FUSION: ClassVar[bool] = False  # see `HTSAT`

  encoder: bool = True
  clap_width: int = by_size()
  clap_depths: Any = by_size()
  clap_heads: Any = by_size()
  classes: int = 0
  drop_path: float = 0.1
  seconds: float = by_size()
  hop_seconds: float = by_size()
  max_clips: int = by_size()
  gate_every: int = 1
  gate_heads: int = 8
  gate_head_dim: int = 64
  gate_mult: int = 4
  gate_init: float = 0.0
  freeze: Any = ('clap',)

  def _check(self) -> None:
    for name in ('clap_depths', 'clap_heads'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    super()._check()

  # -- Parts -----------------------------------------------------------------------------------

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    if self.encoder:
      self.clap_tower = HTSAT(
        self.clap_width, self.clap_depths, self.clap_heads, self.FUSION, self.classes,
        self.drop_path, dtype=dtype,
      )  # fmt: skip
    self.audio_transformer = AudioTransformer(
      self.audio_depth, self.audio_heads, self.audio_hidden, dtype=dtype,
      implementation=self.attention, **self._places_of_vectors(),
    )  # fmt: skip
    self.language_model = LanguageModel(**self._language())

  def _places_of_vectors(self) -> dict[str, Any]:
    """How the transformer over vectors knows their order."""
    raise NotImplementedError

  def _gate(self) -> Callable[[str], nn.Module]:
    args: dict[str, Any] = dict(
      heads=self.gate_heads, size=self.gate_head_dim, mult=self.gate_mult,
      initial=self.gate_init, dtype=jnp.dtype(self.dtype), implementation=self.attention,
    )  # fmt: skip
    return lambda name: Gate(**args, name=name)

  def _language(self) -> dict[str, Any]:
    gates = {'before': self._gate(), 'before_every': self.gate_every}
    return super()._language() | gates

  @property
  def MIXES_ROWS(self) -> bool:
    """Whether batch norm of the audio tower takes statistics over the rows of a batch."""
    return self.encoder and 'clap' not in self.freeze

  def example(self) -> Example:
    """A clip of one frame, or all windows of a vector each, and one token."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    windows = self.max_clips, self.max_windows
    if not self.encoder:
      return {
        'features': jax.ShapeDtypeStruct((1, *windows, 1, self.audio_width), jnp.float32),
        'window_mask': jax.ShapeDtypeStruct((1, *windows), jnp.bool_),
        'tokens': tokens,
      }
    t = self.frontend.min_samples
    return {
      'audio': jax.ShapeDtypeStruct((1, t), jnp.float32),
      'audio_mask': jax.ShapeDtypeStruct((1, t), jnp.bool_),
      'tokens': tokens,
    }

  # -- Windows ---------------------------------------------------------------------------------

  @property
  def samples(self) -> int:
    """Samples of a window."""
    return int(self.seconds * self.frontend.sample_rate)

  @property
  def hop(self) -> int:
    """Samples between the starts of two windows."""
    shared = int((self.seconds - self.hop_seconds) * self.frontend.sample_rate)
    return self.samples - shared

  @property
  def window_samples(self) -> int:
    """Samples by which a clip has a further window."""
    return self.hop

  @property
  def max_samples(self) -> int:
    """Samples of a clip that are heard; what is behind them is left out."""
    return self.samples + (self.max_windows - 1) * self.hop

  def placeholders(self, samples: int) -> int:
    """Ids that a clip of N samples takes in a prompt: one.

    Raises:
      InputError: a clip without a sample.
    """
    if samples < 1:
      raise InputError(f'{self.TITLE} got a clip of {samples} samples: give at least one.')
    return 1

  def windows_of(self, samples: Any) -> Any:
    """Windows of clips of N samples; 0 without a sample."""
    further = (samples - self.samples + self.hop - 1) // self.hop
    lib = np if isinstance(samples, int) else jnp
    return lib.where(samples > 0, lib.clip(1 + further, 1, self.max_windows), 0)

  def check_prompts(self, batch: Mapping[str, Any]) -> None:
    """Raises InputError where a row has not as many placeholders as it has clips."""
    mask, tokens = np.asarray(batch['audio_mask']), np.asarray(batch['tokens'])
    clips = np.asarray(mask.reshape(len(mask), -1, mask.shape[-1]).any(axis=-1))
    for i, (row, own) in enumerate(zip(tokens, clips, strict=True)):
      found = int((row == self.audio_token).sum())
      if found != own.sum() or not own[: own.sum()].all():
        raise InputError(
          f'Prompt {i} has {found} placeholders ({self.audio_token}) and clips at the places '
          f'{np.flatnonzero(own).tolist()}: write one placeholder for each clip, and put the clips '
          'first.'
        )

  def _cut(self, audio, mask):
    """Windows [b, c, w, samples] of clips [b, c, t], and which there are [b, c, w]."""
    self.frontend.check(audio.shape[-1])
    audio, mask = audio[..., : self.max_samples], mask[..., : self.max_samples]
    audio = int16_round_trip(full_scale(audio, mask))
    w = int(self.windows_of(audio.shape[-1]))
    lack = max(self.samples + (w - 1) * self.hop - audio.shape[-1], 0)
    audio = jnp.pad(audio, ((0, 0), (0, 0), (0, lack)))
    starts = range(0, w * self.hop, self.hop)
    windows = jnp.stack([audio[..., i : i + self.samples] for i in starts], axis=-2)
    count = self.windows_of(mask.sum(axis=-1, dtype=jnp.int32))
    return windows, jnp.arange(w) < count[..., None]

  def _tower(self, windows: Float[Array, 'm t'], train: bool) -> dict[str, Any]:
    """Outputs of the audio tower for windows."""
    acts = train and 'clap' not in self.freeze
    raw, _ = self.frontend.raw(windows, jnp.ones(windows.shape, bool))
    if not self.FUSION:
      return self.clap_tower(raw[:, None], train=acts)
    # No window is longer than the tower takes; in training one counts as such, so that its fusion
    # learns (LAION's htsat.py).
    longer = (jnp.arange(len(raw)) == 0) & acts
    return self.clap_tower(jnp.repeat(raw[:, None], 4, axis=1), longer, train=acts)

  def _vectors(self, tower: Mapping[str, Any], train: bool) -> Float[Array, 'm n d']:
    """What of the tower's outputs is heard."""
    raise NotImplementedError

  def _features(
    self, batch: Mapping[str, Any], train: bool, silence: bool = False
  ) -> tuple[Float[Array, 'b c w n d'], Bool[Array, 'b c w'], Float[Array, 'b n d'] | None]:
    """(vectors of windows, which there are, with `silence` those of a silent one unless vectors are
    given)."""
    if 'features' in batch:
      features, mask = jnp.asarray(batch['features']), jnp.asarray(batch['window_mask'])
      if features.ndim != 5 or features.shape[-1] != self.audio_width:
        raise InputError(
          f'{self.TITLE} got features {features.shape}: give [prompts, clips, windows, vectors, '
          f'{self.audio_width}].'
        )
      return features.astype(jnp.float32), mask, None
    if not self.encoder:
      raise InputError(
        f"{self.TITLE} without its audio tower got 'audio': give 'features', or the weights of the "
        'tower too (encoder=True).'
      )
    audio, mask = jnp.asarray(batch['audio']), jnp.asarray(batch['audio_mask'])
    if mask.ndim == 2:
      audio, mask = audio[:, None], mask[:, None]
    windows, there = self._cut(audio, mask)
    b, size = len(windows), windows.shape[-1]
    # A silent window a prompt, so that a mesh divides them evenly.
    flat = jnp.pad(windows.reshape(b, -1, size), ((0, 0), (0, int(silence)), (0, 0)))
    vectors = self._vectors(self._tower(flat.reshape(-1, size), train), train)
    if 'clap' in self.freeze:
      vectors = jax.lax.stop_gradient(vectors)
    vectors = vectors.reshape(b, -1, *vectors.shape[1:])
    own = vectors[:, : vectors.shape[1] - int(silence)].reshape(*there.shape, *vectors.shape[2:])
    return own, there, vectors[:, -1] if silence else None

  def _sound(self, batch, train: bool, collect: bool) -> tuple[Sound, dict[str, Any]]:
    """What gates attend to; `Sound.clip` of a vector is the number of its clip."""
    raise NotImplementedError

  # -- Training --------------------------------------------------------------------------------

  def __call__(
    self, batch: Mapping[str, Any], train: bool = False, collect: bool = False
  ) -> dict[str, Any]:
    """Logits behind every token, with teacher forcing.

    Args:
      batch: see above; without audio it is text alone.
      train: the audio tower takes statistics of the batch, if it learns.
      collect: also intermediates: of `AudioTransformer` ('audio_normed' and 'audio_layers') and of
        `LanguageModel`.

    Returns:
      'logits' [b, u, v] float32 of the token that follows, 'token_mask' [b, u]; where there is
      audio 'audio_vectors' [b, k, d] and 'vector_mask' [b, k].

    Raises:
      InputError: more tokens than `max_tokens`, more clips than `max_clips`.
    """
    tokens = jnp.asarray(batch['tokens'])
    if tokens.shape[1] > self.max_tokens:
      raise InputError(
        f'{self.TITLE} got {tokens.shape[1]} tokens a prompt and has {self.max_tokens} positions: '
        'cut the text.'
      )
    real, context = tokens >= 0, None
    found: dict[str, Any] = {}
    if 'audio' in batch or 'features' in batch:
      context, found = self._sound(batch, train, collect)
      found |= {'audio_vectors': context.states, 'vector_mask': context.mask}
      places, _ = self._count(tokens, real, jnp.zeros(len(tokens), jnp.int32))
      context = self._seen(context, places)
    x = self.language_model.words(jnp.maximum(tokens, 0))
    out, _ = self.language_model(x, real, context=context, train=train, collect=collect)
    return {**out, 'token_mask': real, **found}

  def _count(self, tokens, real, before):
    """(placeholders up to each token [r, u], those of rows so far)."""
    place = (tokens == self.audio_token) & real
    counts = jnp.cumsum(place, axis=1, dtype=jnp.int32) + before[:, None]
    return counts, counts[:, -1]

  def _seen(self, sound: Sound, counts: Int[Array, 'r u']) -> Sound:
    """The sound as tokens behind N placeholders may hear it."""
    return sound

  # -- Embeddings ------------------------------------------------------------------------------

  def embed_clips(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs of the audio tower for windows [m, t]."""
    windows = jnp.where(batch['audio_mask'], batch['audio'], 0.0)
    return {'audio_tower': self._tower(windows, False)}

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Tokens of the audio tower, in windows that do not overlap, silent behind the end of a clip.

    Raises InputError below one frame, and without the audio tower.
    """
    if not self.encoder:
      raise InputError(f'{self.TITLE} without its audio tower embeds nothing: give its weights.')
    self.frontend.check(audio.shape[1])
    audio, mask = jnp.asarray(audio), jnp.asarray(audio_mask)
    return embed_pieces(self, int16_round_trip(full_scale(audio, mask)), mask)

  # -- Generation: `capabilities.Generates` ----------------------------------------------------

  def remember(self, batch: Mapping[str, Any]) -> Heard:
    """The audio of a batch, heard once: `memories` of `inference.generate`."""
    sound, _ = self._sound(batch, False, False)
    params = self.variables['params']['language_model']
    attention = cross_attention(
      self.text_width, self.gate_heads, self.gate_head_dim, jnp.dtype(self.dtype), None, parent=None
    )

    def keys_and_values(own):
      return attention.apply({'params': own}, sound.states, method='remember')

    if self.scan_layers:
      made = jax.vmap(keys_and_values)(params['blocks']['before']['attn'])
      return Heard(made, sound.mask)
    gated = [f'blocks_{i}' for i in range(self.text_depth) if (i + 1) % self.gate_every == 0]
    each = {name: keys_and_values(params[name]['before']['attn']) for name in gated}
    empty = jax.tree.map(jnp.zeros_like, next(iter(each.values())))
    rows = [each.get(f'blocks_{i}', empty) for i in range(self.text_depth)]
    return Heard(jax.tree.map(lambda *x: jnp.stack(x), *rows), sound.mask)

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
    counts, places = self._count(tokens, there, kept.places)
    context, own = None, None
    if state.memories is not None:
      own = state.memories.layers
      first = caches.first_cache(kept.language.layers).slots == 0
      context = self._seen_in_step(Sound(None, state.memories.mask), counts, first)
    x = self.language_model.words(tokens)
    out, language = self.language_model(
      x, real, kept.language, at, context=context, layer_context=own
    )
    return out['logits'], state.after(Kept(language, places))

  def _seen_in_step(self, sound: Sound, counts: Int[Array, 'r u'], first: Bool[Array, '']) -> Sound:
    """`_seen` where the tokens before are in a cache; `first`: there are none."""
    return self._seen(sound, counts)
