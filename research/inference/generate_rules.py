"""What may come next: rules that change the logits of the next token.

A rule is a pure function (what was written so far, logits) -> logits, and a value: equal rules are
one program. Forbidden tokens get -inf. Rules come before the draw: `generate` takes
log-probabilities behind the rules and before temperature, top-k, top-p and min-p.
Letters: r rows, w places of the buffer, v vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

FORBIDDEN = -np.inf


class SoFar(NamedTuple):
  """What was written.

  Attributes:
    tokens: [r, w], prompts padded on the left, then what was generated; -1 where there is nothing.
    prompt: width of the prompts.
    written: tokens generated, the same for all rows; those that have ended go on with a stop token.
  """

  tokens: Int[Array, 'r w']
  prompt: int
  written: Int[Array, '']

  def last(self, back: int = 1) -> Int[Array, ' r']:
    """The token `back` places before the next one; -1 where there is none."""
    place = self.prompt + self.written - back
    found = jax.lax.dynamic_index_in_dim(self.tokens, place, axis=1, keepdims=False)
    return jnp.where(place >= 0, found, -1)

  def generated(self) -> Int[Array, 'r n']:
    """The part behind the prompts, -1 where nothing is yet."""
    return self.tokens[:, self.prompt :]


Rule = Callable[[SoFar, Float[Array, 'r v']], Float[Array, 'r v']]


def chosen(tokens: Int[Array, 'r w'], size: int) -> Bool[Array, 'r v']:
  """Which tokens of the vocabulary are among those of each row; negative ones are none."""
  places = jnp.where(tokens < 0, size, tokens)
  rows = jnp.arange(len(tokens))[:, None]
  return jnp.zeros((len(tokens), size), bool).at[rows, places].set(True, mode='drop')


def listed(tokens: tuple[int, ...], size: int) -> Bool[np.ndarray, ' v']:
  """Which tokens of the vocabulary are listed."""
  mask = np.zeros(size, bool)
  mask[[t for t in tokens if 0 <= t < size]] = True
  return mask


@dataclasses.dataclass(frozen=True)
class Suppress:
  """Tokens that never come, or, `first`, not as the first one."""

  tokens: tuple[int, ...]
  first: bool = False

  def __call__(self, so_far: SoFar, logits: Float[Array, 'r v']) -> Float[Array, 'r v']:
    mask = jnp.asarray(listed(self.tokens, logits.shape[1]))[None]
    if self.first:
      mask = mask & (so_far.written == 0)
    return jnp.where(mask, FORBIDDEN, logits)


@dataclasses.dataclass(frozen=True)
class Force:
  """The first tokens are these; None leaves one free."""

  tokens: tuple[int | None, ...]

  def __call__(self, so_far: SoFar, logits: Float[Array, 'r v']) -> Float[Array, 'r v']:
    wanted = np.asarray([-1 if t is None else t for t in self.tokens], np.int32)
    inside = so_far.written < len(wanted)
    token = jnp.where(inside, jnp.asarray(wanted)[jnp.minimum(so_far.written, len(wanted) - 1)], -1)
    others = jnp.arange(logits.shape[1])[None] != token
    return jnp.where(others & (token >= 0), FORBIDDEN, logits)


@dataclasses.dataclass(frozen=True)
class MinTokens:
  """No stop token before N tokens are there."""

  count: int
  stop: tuple[int, ...]

  def __call__(self, so_far: SoFar, logits: Float[Array, 'r v']) -> Float[Array, 'r v']:
    mask = jnp.asarray(listed(self.stop, logits.shape[1]))[None]
    return jnp.where(mask & (so_far.written < self.count), FORBIDDEN, logits)


@dataclasses.dataclass(frozen=True)
class StopAt:
  """Nothing but a stop token once N tokens are there."""

  count: int
  stop: tuple[int, ...]

  def __call__(self, so_far: SoFar, logits: Float[Array, 'r v']) -> Float[Array, 'r v']:
    others = ~jnp.asarray(listed(self.stop, logits.shape[1]))[None]
    return jnp.where(others & (so_far.written >= self.count), FORBIDDEN, logits)


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
  """Logits of tokens that are there already, prompts included, are divided by the penalty where
  positive and multiplied where negative (CTRL, arXiv 1909.05858)."""

  penalty: float

  def __call__(self, so_far: SoFar, logits: Float[Array, 'r v']) -> Float[Array, 'r v']:
    seen = chosen(so_far.tokens, logits.shape[1])
    lower = jnp.where(logits < 0, logits * self.penalty, logits / self.penalty)
    return jnp.where(seen, lower, logits)


@dataclasses.dataclass(frozen=True)
class BlockNgrams:
  """No n tokens in a row come twice, prompts included (fairseq's no_repeat_ngram_size)."""

  size: int

  def __call__(self, so_far: SoFar, logits: Float[Array, 'r v']) -> Float[Array, 'r v']:
    tokens, n = so_far.tokens, self.size
    windows = tokens.shape[1] - n + 1
    if windows < 1:
      return logits
    ends = tokens[:, n - 1 :]
    same = ends >= 0
    for i in range(n - 1):
      earlier = tokens[:, i : i + windows]
      same = same & (earlier >= 0) & (earlier == so_far.last(n - 1 - i)[:, None])
    banned = chosen(jnp.where(same, ends, -1), logits.shape[1])
    return jnp.where(banned, FORBIDDEN, logits)


# -- Filters of draws --------------------------------------------------------------------------


def top_k(logits: Float[Array, 'r v'], k: int) -> Float[Array, 'r v']:
  """Only the k highest stay, and those equal to the lowest of them."""
  lowest = jax.lax.top_k(logits, min(k, logits.shape[1]))[0][:, -1:]
  return jnp.where(logits < lowest, FORBIDDEN, logits)


def top_p(logits: Float[Array, 'r v'], p: float) -> Float[Array, 'r v']:
  """Only the most probable stay whose predecessors have less than p together (arXiv 1904.09751)."""
  order = jnp.argsort(-logits, axis=1)
  ranked = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=1))
  before = jnp.cumsum(ranked, axis=1) - ranked
  rows = jnp.arange(len(logits))[:, None]
  keep = jnp.zeros(logits.shape, bool).at[rows, order].set(before < p)
  keep = keep.at[rows[:, 0], order[:, 0]].set(True)
  return jnp.where(keep, logits, FORBIDDEN)


def min_p(logits: Float[Array, 'r v'], p: float) -> Float[Array, 'r v']:
  """Only those with at least p times the highest probability stay (arXiv 2407.01082)."""
  probabilities = jax.nn.softmax(logits)
  lowest = p * probabilities.max(axis=1, keepdims=True)
  return jnp.where(probabilities < lowest, FORBIDDEN, logits)
