"""Music from Jukebox: codes of the top level, upsampled level by level, decoded to audio.

  music = System(vqvae, priors)                         # priors of all levels, the lowest first
  out = music.sample([Song('…', 'jazz', '…', total_length)], seconds=20.0, seed=0)
  out.audio                                             # float32 [songs, samples]

Ancestral, from a prompt of audio, going on from codes, or upsampling codes of the top level
(openai/jukebox, sample.py; its defaults). A window of a level is sampled by `generate`, with the
caches of `models.jukebox`; a program is made for each number of codes that are given.
Letters: b songs, t samples, n codes, k given ones, u codes of the level above, l labels.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from research.errors import InputError
from research.inference.generate import Settings, generate
from research.inference.jukebox_windows import Piece, pieces
from research.models.jukebox_parts import check_labels
from research.text.jukebox import Labeller, Song

Codes = Int[np.ndarray, 'b _']  # levels have different lengths
Progress = Callable[[int, int, int], None]
HOP_FRACTION = (0.5, 0.5, 0.125)


@dataclasses.dataclass(frozen=True)
class Drawing:
  """How codes are drawn.

  Attributes:
    temperature: logits are divided by it.
    top_k, top_p: which codes can be drawn; not both.
    max_batch: songs at once.
  """

  temperature: float = 0.99
  top_k: int | None = None
  top_p: float | None = None
  max_batch: int = 16

  def __post_init__(self):
    if self.top_k is not None and self.top_p is not None:
      raise InputError('top_k and top_p were given: choose one.')
    if not self.temperature > 0 or self.max_batch < 1:
      raise InputError(
        f'temperature={self.temperature} and max_batch={self.max_batch} were given: both are '
        'above 0.'
      )


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
  """A model and its weights."""

  model: Any
  variables: Any


@dataclasses.dataclass(frozen=True)
class Sampled:
  """What was sampled.

  Attributes:
    codes: of every level, the lowest first.
    audio: float32 [b, t], decoded from the lowest level that was sampled.
    level: that level.
    sample_rate: Hz.
  """

  codes: tuple[Codes, ...]
  audio: Float[np.ndarray, 'b t']
  level: int
  sample_rate: int


@functools.partial(jax.jit, static_argnames=('model',))
def _remember(model, variables, y, above):
  return model.apply(variables, y, above, method='remember')


def sample_window(
  prior: Part,
  given: Int[np.ndarray, 'b k'],
  total: int,
  y: Int[np.ndarray, 'b l'] | None,
  above: Int[np.ndarray, 'b u'] | None,
  drawing: Drawing,
  key: Key[jax.Array, ''] | None,
  uniform: Float[np.ndarray, 'm b'] | None = None,
) -> Codes:
  """The first `total` codes of a window, of which some are given; greedy without a key or numbers.

  Args:
    prior: of the level.
    given: codes, maybe none.
    total: codes afterwards.
    y: labels of the window, where the prior takes them.
    above: codes of the level above, of the whole window.
    drawing: see `Drawing`.
    key, uniform: see `generate`.
  """
  model, ahead = prior.model, prior.model.lyrics_ahead
  shift = model.n_vocab if ahead else 0
  start = np.zeros((len(given), 1), np.int64)
  lyrics = [] if y is None or not ahead else [y[:, y.shape[1] - ahead :]]
  prompts = np.concatenate([start, *lyrics, given + shift], axis=1)
  draws = key is not None or uniform is not None
  settings = Settings(
    max_tokens=total - given.shape[1],
    stop=(),
    sample=draws,
    top_k=drawing.top_k if draws else None,
    top_p=drawing.top_p if draws else None,
    exact=True,
  )
  memories = _remember(model, prior.variables, y, above)
  how: dict[str, Any] = dict(temperature=drawing.temperature, key=key, uniform=uniform)
  out = generate(model, prior.variables, prompts.tolist(), settings, memories=memories, **how)
  # Lyrics may be drawn where they share a vocabulary: they count as code 0.
  new = np.maximum(out.tokens[:, 0].astype(np.int64) - shift, 0)
  return np.concatenate([given, new], axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """All of Jukebox.

  Attributes:
    vqvae: `models.jukebox_vqvae`.
    priors: of its levels, the lowest first; None for levels that are not sampled.
    artists, genres: {name: number} by version v3 or not, see `text.jukebox.read_ids`.
  """

  vqvae: Part
  priors: Sequence[Part | None]
  artists: Mapping[bool, Mapping[str, int]] = dataclasses.field(default_factory=dict)
  genres: Mapping[bool, Mapping[str, int]] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    codes = self.vqvae.model
    if len(self.priors) != codes.levels:
      raise InputError(
        f'{len(self.priors)} priors were given for {codes.levels} levels: give one each, None for '
        'levels that are not sampled.'
      )
    for level, prior in enumerate(self.priors):
      if prior is None:
        continue
      own = prior.model.own_level, prior.model.hop, prior.model.l_bins
      if own != (level, codes.hops[level], codes.l_bins):
        raise InputError(
          f'The prior in the place of level {level} is of level {own[0]}, {own[1]} samples a code, '
          f'{own[2]} codes; the VQ-VAE has {codes.hops[level]} and {codes.l_bins} there.'
        )

  @property
  def sample_rate(self) -> int:
    """Hz."""
    return self.vqvae.model.frontend.sample_rate

  def labeller(self, level: int) -> Labeller | None:
    """From songs to labels of a level; None where its prior takes none."""
    prior = self.priors[level]
    if prior is None or not prior.model.labels:
      return None
    model, v3 = prior.model, prior.model.labels_v3
    sizes = model.max_bow_genre_size, model.n_tokens, model.sample_length
    return Labeller(*sizes, v3, self.artists.get(v3, {}), self.genres.get(v3, {}))

  # -- Sampling --------------------------------------------------------------------------------

  def sample(
    self,
    songs: Sequence[Song],
    seconds: float,
    *,
    prompt: Float[np.ndarray, 'b t'] | None = None,
    codes: Sequence[Codes] | None = None,
    levels: Sequence[int] | None = None,
    hop_fraction: Sequence[float] = HOP_FRACTION,
    drawing: Drawing | Sequence[Drawing] = Drawing(),
    seed: int = 0,
    progress: Progress | None = None,
  ) -> Sampled:
    """Samples songs of that length.

    Args:
      songs: what they are told, one each.
      seconds: of audio, rounded down to whole codes of the top level.
      prompt: audio that they begin with, at the sample rate.
      codes: of every level that they begin with, the lowest first, maybe none of some: to go on
        from them, or, with `levels` below the top, to upsample those of the top level.
      levels: that are sampled; None for all.
      hop_fraction: of every level, the lowest first: window to window / window.
      drawing: of all levels, or of each.
      seed: equal seeds give equal music.
      progress: called with (level, windows that are done, windows) before and behind each.

    Raises:
      InputError: settings that do not fit each other or the models.
    """
    model, b = self.vqvae.model, len(songs)
    if not b:
      raise InputError('No songs were given: give at least one.')
    top = model.hops[-1]
    samples = int(seconds * self.sample_rate) // top * top
    have = self._begin(b, samples, prompt, codes)
    chosen = range(model.levels) if levels is None else sorted(levels)
    if not samples or not chosen:
      raise InputError(f'{seconds} s of levels {list(chosen)} were asked for, which is nothing.')
    each = [drawing] * model.levels if isinstance(drawing, Drawing) else list(drawing)
    root = jax.random.key(seed)
    for level in reversed(chosen):
      total = samples // model.hops[level]
      part = self._level(level)
      hop = int(hop_fraction[level] * part.model.n_ctx)
      key = jax.random.fold_in(root, level)
      have[level] = self._sample_level(
        level, songs, have, total, hop, each[level], key, progress or (lambda *_: None)
      )
    lowest = min(chosen)
    audio = self.decode(have[lowest], lowest)
    return Sampled(tuple(have), audio, lowest, self.sample_rate)

  def _level(self, level: int) -> Part:
    prior = self.priors[level]
    if prior is None:
      raise InputError(f'Level {level} is to be sampled, and has no prior.')
    return prior

  def _begin(self, b: int, samples: int, prompt: Any, codes: Any) -> list[Codes]:
    """Codes that are there, of every level."""
    model, top = self.vqvae.model, self.vqvae.model.hops[-1]
    if prompt is not None and codes is not None:
      raise InputError('A prompt and codes were given: choose one.')
    if prompt is not None:
      audio = np.asarray(prompt, np.float32)[:, : min(prompt.shape[1], samples) // top * top]
      if len(audio) != b:
        raise InputError(f'{len(audio)} prompts were given for {b} songs: give one each.')
      if audio.shape[1]:
        return self.encode(audio)
    if codes is None:
      return [np.zeros((b, 0), np.int64) for _ in model.hops]
    found = [np.asarray(x, np.int64) for x in codes]
    shapes = [x.shape for x in found]
    if len(found) != model.levels or any(len(s) != 2 or s[0] != b for s in shapes):
      raise InputError(
        f'Codes of shapes {shapes} were given: expected {model.levels} levels, the lowest first, '
        f'of {b} songs each.'
      )
    return found

  def encode(self, audio: Float[np.ndarray, 'b t']) -> list[Codes]:
    """Codes of every level of audio, a multiple of the top level's hop."""
    mask, found = np.ones(audio.shape, bool), []
    for level in range(self.vqvae.model.levels):
      codes, _ = _encode(self.vqvae.model, level, self.vqvae.variables, audio, mask)
      found.append(np.asarray(codes, np.int64))
    return found

  def decode(self, codes: Codes, level: int) -> Float[np.ndarray, 'b t']:
    """Audio of the codes of a level, one song after the other."""
    rows = [
      _decode(self.vqvae.model, level, self.vqvae.variables, jnp.asarray(row[None], jnp.int32))
      for row in codes
    ]
    return np.concatenate([np.asarray(row) for row in rows])

  def _sample_level(
    self, level: int, songs, have: list[Codes], total: int, hop: int, drawing: Drawing, key,
    progress: Progress,
  ) -> Codes:  # fmt: skip
    prior, labeller = self._level(level), self.labeller(level)
    model, codes = prior.model, have[level]
    above = have[level + 1] if model.upsamples else None
    if above is not None and above.shape[1] < total // model.ratio:
      raise InputError(
        f'Level {level} needs {total // model.ratio} codes of the level above, and there are '
        f'{above.shape[1]}: sample that level too, or fewer seconds.'
      )
    todo: list[Piece] = pieces(total, model.n_ctx, hop, codes.shape[1], model.ratio)
    for done, piece in enumerate(todo):
      progress(level, done, len(todo))
      y = None if labeller is None else labeller.windows(songs, piece.start * model.hop)
      if y is not None and not model.upsamples:
        check_labels(y, model.limits)
      given = codes[:, piece.start : piece.start + piece.given]
      cond = None if piece.above is None or above is None else above[:, slice(*piece.above)]
      rows = []
      for i in range(0, len(songs), drawing.max_batch):
        part = slice(i, i + drawing.max_batch)
        own = jax.random.fold_in(jax.random.fold_in(key, piece.start), i)
        rows.append(
          sample_window(
            prior, given[part], piece.total, None if y is None else y[part],
            None if cond is None else cond[part].astype(np.int32), drawing, own,
          )
        )  # fmt: skip
      window = np.concatenate(rows)
      codes = np.concatenate([codes, window[:, piece.given :]], axis=1)
    progress(level, len(todo), len(todo))
    return codes


@functools.partial(jax.jit, static_argnames=('model', 'level'))
def _encode(model, level, variables, audio, mask):
  return model.apply(variables, audio, mask, level, method='encode_level')


@functools.partial(jax.jit, static_argnames=('model', 'level'))
def _decode(model, level, variables, codes):
  return model.apply(variables, codes, level, method='decode')
