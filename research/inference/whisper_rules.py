"""Whisper's rule of timestamps (openai/whisper, decoding.py: ApplyTimestampRules)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.inference.generate_rules import FORBIDDEN, SoFar


@dataclasses.dataclass(frozen=True)
class Timestamps:
  """Timestamps come in pairs around text, and never go back.

  Attributes:
    begin: token of 0.00 s; later timestamps have higher ones.
    end: end of text; text tokens have lower ones.
    no_timestamps: the token that asks for none.
    max_initial: steps of the first timestamp, at most; None for any.
  """

  begin: int
  end: int
  no_timestamps: int
  max_initial: int | None = None

  def __call__(self, so_far: SoFar, logits: Float[Array, 'r v']) -> Float[Array, 'r v']:
    token = jnp.arange(logits.shape[1])[None]
    stamp = token >= self.begin
    text = token < self.end

    # Which of the last two tokens are timestamps: a pair, and a single one at the start, is
    # followed by text, one behind text by another timestamp or the end.
    some, two = so_far.written >= 1, so_far.written >= 2
    last = (some & (so_far.last() >= self.begin))[:, None]
    paired = (~two | (so_far.last(2) >= self.begin))[:, None]
    banned = (token == self.no_timestamps) | (last & paired & stamp) | (last & ~paired & text)

    # Not before the last one; equal to it only where it closes a segment.
    written = so_far.generated()
    place = jnp.where(written >= self.begin, jnp.arange(written.shape[1])[None], -1).max(axis=1)
    latest = jnp.take_along_axis(written, jnp.maximum(place, 0)[:, None], axis=1)
    lowest = jnp.where(last & ~paired, latest, latest + 1)
    banned = banned | ((place >= 0)[:, None] & stamp & (token < lowest))

    # The first token is a timestamp.
    first = ~stamp
    if self.max_initial is not None:
      first = first | (token > self.begin + self.max_initial)
    banned = banned | (first & ~some)
    logits = jnp.where(banned, FORBIDDEN, logits)

    # Where a timestamp is more probable than every single token of text, it comes.
    stamps = jax.nn.logsumexp(logits[:, self.begin :], axis=1)
    words = logits[:, : self.begin].max(axis=1)
    return jnp.where((stamps > words)[:, None] & ~stamp, FORBIDDEN, logits)
