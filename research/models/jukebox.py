"""Jukebox's priors (arXiv 2005.00341, §4 and §5): transformers over the codes of music.

One model is the prior of one level: of the top level, told of artist, genres, the place in the song
and maybe lyrics, or an upsampler, told of artist, genres and the codes of the level above. Lyrics
stand in front of the codes in one vocabulary (`single_enc_dec`), or have an encoder of their own.
A frozen VQ-VAE inside turns audio into codes; its weights are in the collection 'frozen'
(`config.init = dict(path=…, under='frozen/vqvae')`). Names of arguments and figures are those of
openai/jukebox, hparams.py. Sampling is in `inference.jukebox`.
Letters: b batch, t samples, n codes, u codes of the level above, s lyrics, d width, v vocabulary.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Embedding, Example, Generation, audio_example
from research.errors import InputError, unknown
from research.models import jukebox_attention as attention
from research.models import jukebox_parts as parts
from research.models import waveform
from research.models.jukebox_sizes import SIZES
from research.models.jukebox_vqvae import JukeboxVQVAE
from research.models.settings import argument_names, by_size, check_choices, fill, frozen, thawed
from research.nn import layers
from research.nn.kernels import similarities

AnyArray = jax.Array | np.ndarray
FROZEN = 'frozen/vqvae'
# What codes depend on and weights do not show.
HEARD = ('downs_t', 'strides_t', 'dilation_growth_rate', 'dilation_cycle')


class Jukebox(nn.Module):
  """The prior of one level.

  Attributes:
    size: a key of `jukebox_sizes.SIZES`; the attributes that are None take its figures.
    frontend: `features.Waveform` or its settings.
    vqvae: arguments of the frozen `JukeboxVQVAE`, a dict.
    level: whose codes are predicted; -1 is the top level, below it are upsamplers.
    n_ctx: codes of a window, without lyrics.
    prior_width, prior_depth, heads, attn_order, blocks, init_scale, m_attn, m_mlp: of the
      transformer, see `jukebox_parts.Autoregressive`.
    merged_decoder: the output has weights of its own, and conditions are not added before it.
    labels: there are labels: artist, genres, times, lyrics.
    labels_v3: how names and lyrics become numbers, see `text.jukebox`.
    y_bins: genres and artists that there are.
    t_bins, min_duration, max_duration: of times, seconds.
    max_bow_genre_size: genres of a song.
    n_tokens, n_vocab: lyrics of a window (0 for none), and their vocabulary.
    single_enc_dec: lyrics stand in front of the codes.
    prime_width, prime_depth, prime_heads, prime_attn_order, prime_blocks, prime_init_scale: of the
      encoder of lyrics, otherwise.
    cond_width, cond_depth, cond_dilation_growth_rate, cond_dilation_cycle, cond_res_scale: of an
      upsampler's conditioner.
    alignment_layer, alignment_head: attention by which lyrics are found in the music.
    remat: the backward pass computes layers anew.
  """

  TRAINING: ClassVar[tuple[str, ...]] = ('remat',)
  GENERATOR: ClassVar[str] = 'level_by_level'

  size: str = 'prior_1b_lyrics'
  frontend: Any = None
  vqvae: Any = by_size()
  level: int = by_size()
  n_ctx: int = by_size()
  prior_width: int = by_size()
  prior_depth: int = by_size()
  heads: int = by_size()
  attn_order: int = by_size()
  blocks: int = by_size()
  init_scale: float = by_size()
  m_attn: float = 0.25
  m_mlp: float = 1.0
  merged_decoder: bool = by_size()
  labels: bool = by_size()
  labels_v3: bool = by_size()
  y_bins: tuple | list = by_size()
  t_bins: int = by_size()
  min_duration: float = by_size()
  max_duration: float = by_size()
  max_bow_genre_size: int = by_size()
  n_tokens: int = by_size()
  n_vocab: int = by_size()
  single_enc_dec: bool = by_size()
  prime_width: int = by_size()
  prime_depth: int = by_size()
  prime_heads: int = by_size()
  prime_attn_order: int = by_size()
  prime_blocks: int = by_size()
  prime_init_scale: float = by_size()
  cond_width: int = by_size()
  cond_depth: int = by_size()
  cond_dilation_growth_rate: int = by_size()
  cond_dilation_cycle: int | None = by_size()
  cond_res_scale: bool = by_size()
  alignment_layer: int | None = by_size()
  alignment_head: int | None = by_size()
  dtype: str = 'float32'
  remat: bool = False

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of jukebox', self.size, SIZES)
    fill(self, SIZES[self.size]._asdict())
    object.__setattr__(self, 'y_bins', tuple(self.y_bins))
    object.__setattr__(self, 'vqvae', frozen(self.vqvae))
    known = argument_names(JukeboxVQVAE) - {'frontend', 'level'}
    for name in self.vqvae:
      if name not in known:
        raise unknown('argument of the VQ-VAE of jukebox', name, known)
    check_choices('jukebox', self, dict(dtype=layers.DTYPES))
    vq = self._vq()
    if not -vq.levels <= self.level < vq.levels:
      raise InputError(f'The VQ-VAE has levels 0 to {vq.levels - 1}, not {self.level}.')
    if self.single_enc_dec and not (self.labels and self.n_tokens):
      raise InputError(
        'single_enc_dec puts lyrics in front of the codes: give it labels=True and n_tokens.'
      )
    if self.n_tokens and (self.upsamples or not self.labels):
      raise InputError(
        f'n_tokens={self.n_tokens} was given: lyrics are of the top level, with labels=True.'
      )
    object.__setattr__(self, 'frontend', vq.frontend)
    super().__post_init__()

  # -- Figures ---------------------------------------------------------------------------------

  def _vq(self) -> JukeboxVQVAE:
    """The VQ-VAE, whose front-end hears whole codes of the highest level that this prior reads."""
    args, front = thawed(self.vqvae), self.frontend
    top = JukeboxVQVAE(**args, parent=None).levels - 1
    own = self.level % (top + 1) if -top <= self.level + 1 <= top + 1 else top
    return JukeboxVQVAE(**args, frontend=front, level=min(own + 1, top), parent=None)

  def vqvae_alone(self) -> JukeboxVQVAE:
    """The frozen VQ-VAE, of which 'frozen/vqvae' has the variables."""
    return self._vq()

  @property
  def upsamples(self) -> bool:
    """Whether there is a level above."""
    return self.level % self._vq().levels < self._vq().levels - 1

  @property
  def own_level(self) -> int:
    """The level, from 0."""
    return self.level % self._vq().levels

  @property
  def levels(self) -> int:
    """Levels of the VQ-VAE."""
    return self._vq().levels

  @property
  def hop(self) -> int:
    """Samples of a code (raw_to_tokens)."""
    return self._vq().hops[self.own_level]

  @property
  def ratio(self) -> int:
    """Codes for one of the level above; 1 at the top."""
    return self._vq().hops[self.own_level + 1] // self.hop if self.upsamples else 1

  @property
  def sample_length(self) -> int:
    """Samples of a window."""
    return self.n_ctx * self.hop

  @property
  def l_bins(self) -> int:
    """Codes of a level."""
    return self._vq().l_bins

  @property
  def lyrics_ahead(self) -> int:
    """Lyrics in front of the codes of a window."""
    return self.n_tokens if self.single_enc_dec else 0

  @property
  def limits(self) -> tuple[float, float]:
    """Lengths of songs, samples."""
    rate = self.frontend.sample_rate
    return self.min_duration * rate, self.max_duration * rate

  @property
  def label_width(self) -> int:
    """Numbers of a label: total length, offset and window in samples, artist, genres, lyrics."""
    return 4 + self.max_bow_genre_size + self.n_tokens if self.labels else 0

  @property
  def functions(self) -> tuple[int, ...]:
    """What each layer attends to, see `jukebox_attention`."""
    return attention.attn_functions(self.attn_order, self.prior_depth)

  @property
  def EMBEDDING(self) -> Embedding:
    """A window at a time."""
    return Embedding(max_seconds=self.sample_length / self.frontend.sample_rate)

  @property
  def generation(self) -> Generation:
    """Texts about the song, and the place in it where a sample begins."""
    texts = dict(parts.SONG_TEXTS) if self.labels else {}
    if not self.n_tokens:
      texts.pop('lyrics', None)
    return Generation(texts=texts)

  @property
  def NEEDS(self) -> dict[str, str]:
    """Fields without which it cannot learn."""
    if not self.labels:
      return {}
    field = 'config.data.fields.labels=dict(name="song_labels")'
    return {
      'labels': f'jukebox learns from labels of songs, and there are none: set {field}, or '
      'config.model.args.labels=False.'
    }

  @property
  def borrowed(self) -> dict[str, dict[str, Any]]:
    """What weights for the frozen part must have been trained with: see `train/warm_start.py`."""
    return {FROZEN: {name: getattr(self._vq(), name) for name in HEARD}}

  def example(self) -> Example:
    """A clip of one code of the highest level that is read."""
    found = audio_example(self.frontend)
    if self.labels:
      found['labels'] = jax.ShapeDtypeStruct((1, self.label_width), jnp.int32)
    return found

  def _transformer(self, **place: Any) -> parts.Autoregressive:
    ahead = self.lyrics_ahead
    return parts.Autoregressive(
      self.l_bins + (self.n_vocab if ahead else 0),
      attention.Window(self.n_ctx + ahead, self.blocks, ahead),
      self.prior_width, self.prior_depth, self.heads, self.attn_order, self.init_scale,
      starts=not self.labels, tied=not self.merged_decoder, m_attn=self.m_attn, m_mlp=self.m_mlp,
      dtype=jnp.dtype(self.dtype), remat=self.remat, **place,
    )  # fmt: skip

  def setup(self):
    dtype, d, scale = jnp.dtype(self.dtype), self.prior_width, self.init_scale
    vq = self._vq()

    def start():
      silence = jnp.zeros((1, max(vq.hops)))
      heard = {'audio': silence, 'audio_mask': jnp.ones(silence.shape, bool)}
      return vq.init(self.make_rng('params'), heard)

    collection, name = FROZEN.split('/')
    self.frozen = self.variable(collection, name, start)
    self.prior = self._transformer()
    if self.labels:
      positions = 0 if self.upsamples else self.n_ctx
      self.y_emb = parts.LabelConditioner(
        self.y_bins[0],
        self.y_bins[1],
        self.max_bow_genre_size,
        d,
        positions,
        self.t_bins,
        self.limits,
        scale,
      )
    if self.upsamples:
      above = self.own_level + 1
      self.conditioner = parts.Conditioner(
        vq.l_bins, vq.downs_t[above], vq.strides_t[above], d, self.cond_width, self.cond_depth,
        self.cond_dilation_growth_rate, self.cond_dilation_cycle, self.cond_res_scale, scale,
        dtype, self.remat,
      )  # fmt: skip
    if self.n_tokens and not self.single_enc_dec:
      self.prime_prior = parts.Autoregressive(
        self.n_vocab, attention.Window(self.n_tokens, self.prime_blocks), self.prime_width,
        self.prime_depth, self.prime_heads, self.prime_attn_order, self.prime_init_scale,
        starts=True, tied=True, predicts=False, dtype=dtype, remat=self.remat,
      )  # fmt: skip
      self.prime_proj = layers.Dense(d, dtype, attention.normal(self.prime_init_scale))
      self.prime_norm = layers.LayerNorm(parts.EPSILON, jnp.float32)
      rows = self.n_vocab, d
      self.prime_out = self.param('prime_out_embedding', attention.normal(scale), rows)

  # -- Training --------------------------------------------------------------------------------

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Predicts the codes of clips that begin a window.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t] of up to a window, or the codes themselves:
        'codes' int [b, n], maybe 'code_mask', of an upsampler 'codes_above' int [b, u]; with
        `labels` 'labels' int [b, label_width].
      train: nothing depends on it.

    Returns:
      what `objectives.jukebox.jukebox_prior` takes: 'gen_logits' [b, n, v], 'gen_targets' [b, n],
      'code_mask' [b, n]; with lyrics 'prime_logits' [b, s, v], 'prime_targets' [b, s];
      'embedding' [b, d], the mean of the last states.
    """
    del train
    codes, real, above, above_real = self._codes(batch)
    found = self.forward(codes, batch.get('labels'), above, above_real)
    ahead, names = self.lyrics_ahead, ('gen_logits', 'prime_logits', 'prime_targets')
    return {
      **{name: found[name] for name in names if name in found},
      'gen_targets': codes + (self.n_vocab if ahead else 0),
      'code_mask': real,
      'embedding': waveform.mean_frames(found['states'][-1][:, ahead:], real),
    }

  def _codes(self, batch: Mapping[str, Any]):
    """(codes [b, n], which are real, those of the level above [b, u] or None, which are real)."""
    if 'codes' in batch:
      codes = jnp.asarray(batch['codes'])
      real = batch.get('code_mask')
      real = jnp.ones(codes.shape, bool) if real is None else jnp.asarray(real)
      above = batch.get('codes_above')
      return codes, real, above, None if above is None else real[:, :: self.ratio]
    audio, mask = jnp.asarray(batch['audio']), jnp.asarray(batch['audio_mask'])
    vq, hop = self._vq(), self.hop * self.ratio
    variables = jax.lax.stop_gradient(self.frozen.value)
    audio = audio[:, : max(audio.shape[1] // hop, 1) * hop]
    # Only whole codes of the level above count.
    whole = mask.sum(axis=1) // hop * hop
    mask = jnp.arange(audio.shape[1]) < whole[:, None]

    def of(level: int) -> Any:
      return vq.apply(variables, audio, mask, level, method='encode_level')

    codes, real = of(self.own_level)
    return codes, real, *(of(self.own_level + 1) if self.upsamples else (None, None))

  def forward(
    self,
    codes: Int[AnyArray, 'b n'],
    y: Int[AnyArray, 'b l'] | None = None,
    above: Int[AnyArray, 'b u'] | None = None,
    above_real: Bool[AnyArray, 'b u'] | None = None,
  ) -> dict[str, Any]:
    """Everything on the way: 'x_cond' [b, n, d] and 'y_cond' [b, d] (None where there is none),
    'lyrics' [b, s, d] of an encoder, 'states' of every layer (lyrics in front where they are),
    'gen_logits', 'prime_logits', 'prime_targets'."""
    codes = jnp.asarray(codes)
    x_cond, y_cond, lyrics, tokens = self._conditions(y, above, above_real)
    n, ahead = codes.shape[1], self.lyrics_ahead
    out: dict[str, Any] = {'y_cond': y_cond, 'lyrics': lyrics}
    out['x_cond'] = None if x_cond is None else x_cond[:, ahead : ahead + n]
    inputs = codes
    if ahead:
      inputs = jnp.concatenate([tokens, codes + self.n_vocab], axis=1)
    x_cond = None if x_cond is None else x_cond[:, : inputs.shape[1]]
    last, out['states'] = self.prior(inputs, x_cond, y_cond, lyrics)
    out['gen_logits'] = self.prior.logits(last[:, ahead:])
    if tokens is not None:
      out['prime_targets'] = tokens
      out['prime_logits'] = (
        self.prior.logits(last[:, :ahead])
        if ahead
        else similarities(lyrics, self.prime_out, jnp.float32)
      )
    return out

  def _conditions(self, y, above, above_real):
    """(x_cond of all positions of a window, y_cond, lyric states, lyric tokens), each or None."""
    x_cond: Any = None
    y_cond, lyrics, tokens = None, None, None
    if self.labels:
      if y is None or y.shape[1] != self.label_width:
        given = 'none' if y is None else f'labels of {y.shape[1]} numbers'
        raise InputError(f'jukebox takes labels of {self.label_width} numbers a clip, not {given}.')
      y = jnp.asarray(y)
      y_cond, x_cond = self.y_emb(y)
      if self.n_tokens:
        tokens = y[:, -self.n_tokens :]
    if self.upsamples:
      if above is None:
        raise InputError('An upsampler needs the codes of the level above.')
      x_cond = self.conditioner(jnp.asarray(above), above_real)
    if self.lyrics_ahead:
      x_cond = jnp.pad(x_cond, ((0, 0), (self.n_tokens, 0), (0, 0)))
    elif tokens is not None:
      states, _ = self.prime_prior(tokens)
      lyrics = self.prime_norm(self.prime_proj(states).astype(jnp.float32))
    return x_cond, y_cond, lyrics, tokens

  # -- Sampling: `capabilities.Generates` ------------------------------------------------------

  @property
  def vocab_size(self) -> int:
    """Codes, and lyrics before them where they share a vocabulary."""
    return self.l_bins + (self.n_vocab if self.single_enc_dec else 0)

  @property
  def max_tokens(self) -> int:
    """Positions of a window."""
    return self.n_ctx + self.lyrics_ahead

  def remember(
    self, y: Int[AnyArray, 'b l'] | None = None, above: Int[AnyArray, 'b u'] | None = None
  ) -> dict[str, Any]:
    """What a window depends on besides its codes, computed once."""
    x_cond, y_cond, lyrics, _ = self._conditions(y, above, None)
    return {'lyrics': self.prior.remember(lyrics), 'x_cond': x_cond, 'y_cond': y_cond}

  def start(self, rows: int, slots: int, memories: Any = None) -> parts.WindowState:
    """The state before the first position of a window."""
    del slots  # layers know what they keep
    if memories is None:
      none = (None,) * self.prior_depth
      memories = {'lyrics': none, 'x_cond': None, 'y_cond': None}
    return parts.WindowState(self._transformer(parent=None).empty(rows), memories)

  def step(
    self,
    tokens: Int[Array, 'r n'],
    state: parts.WindowState,
    real: Bool[Array, 'r n'] | None = None,
    at: Int[Array, 'r p'] | None = None,
  ) -> tuple[Float[Array, 'r p v'], parts.WindowState]:
    """Logits of the position behind each token, or behind those `at`, and the next state. The first
    token of a window stands for its beginning, whatever it is."""
    if real is not None:
      raise InputError('Windows of jukebox begin alike: give prompts of one length (exact=True).')
    x, made = self.prior.further(tokens, state)
    if at is not None:
      x = jnp.take_along_axis(x, at[:, :, None], axis=1)
    return self.prior.logits(x), state.after(made)

  # -- Embeddings ------------------------------------------------------------------------------

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """States of every code, of a song of that length by an unknown artist, without lyrics: l = 0 is
    what enters the first layer. What is longer than a window goes window by window. Raises
    InputError below one code."""
    self.frontend.check(audio.shape[1])
    codes, real, *above = self._codes({'audio': audio, 'audio_mask': audio_mask})
    y = self.unknown(jnp.asarray(audio_mask).sum(axis=1)) if self.labels else None
    b, n = codes.shape
    count, size = -(-n // self.n_ctx), min(n, self.n_ctx)

    def windows(x: Any, size: int) -> Any:
      if x is None:
        return None
      x = jnp.pad(x, ((0, 0), (0, count * size - x.shape[1])))
      return x.reshape(b * count, size)

    above = [windows(x, size // self.ratio) for x in above]
    if y is not None:
      offsets = jnp.arange(count, dtype=y.dtype) * self.sample_length
      y = jnp.repeat(y[:, None], count, axis=1).at[:, :, 1].set(offsets).reshape(b * count, -1)
    found = self.forward(windows(codes, size), y, *above)
    states = jnp.stack([x[:, self.lyrics_ahead :].astype(jnp.float32) for x in found['states']])
    return states.reshape(len(states), b, count * size, -1)[:, :, :n], real

  def unknown(self, samples: Int[Array, ' b']) -> Int[Array, 'b l']:
    """Labels of songs of these lengths of which nothing else is known."""
    low, high = (int(limit) for limit in self.limits)
    total = jnp.clip(samples, low, high - 1).astype(jnp.int32)
    y = jnp.zeros((len(total), self.label_width), jnp.int32)
    y = y.at[:, 0].set(total).at[:, 2].set(self.sample_length)
    return y.at[:, 5 : 4 + self.max_bow_genre_size].set(-1)
