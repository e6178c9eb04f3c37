"""Beam search as transformers does it (early_stopping=False), in one compiled loop.

Of every hypothesis the best tokens go on. What ends among the k best of a step is finished; the k
finished hypotheses with the best scores are kept, and a search ends when no hypothesis that goes on
could reach the worst of them. A score is the sum of log-probabilities / length^length_penalty, the
stop token counts. Source: transformers 5.23, generation/utils.py, `_beam_search`. In the style
'transformers_4_27' a length is that of the prompt and of the text, without the stop token, as in
transformers 4.27 (generation/beam_search.py), by which Audio Flamingo 1 was published.
Letters: b prompts, k beams, c candidates of a step, n generated tokens, w places of the buffer, v
vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.inference.generate_rules import SoFar


class Found(NamedTuple):
  """Finished hypotheses, best first; `counts` of tokens that `sums` is the sum of, a stop token
  among them."""

  tokens: Int[Array, 'b c n']
  logprobs: Float[Array, 'b c n']
  sums: Float[Array, 'b c']
  counts: Int[Array, 'b c']
  lengths: Int[Array, 'b c']
  scores: Float[Array, 'b c']


class Beams(NamedTuple):
  """What the loop carries."""

  tokens: Int[Array, 'b k w']
  logprobs: Float[Array, 'b k n']
  sums: Float[Array, 'b k']
  found: Found
  going: Bool[Array, ' b']
  written: Int[Array, '']
  state: Any


def attainable_beam_search(
  settings: Any,
  step: Callable[[Array, Any], tuple[Array, Any]],
  prompts: Int[Array, 'b p'],
  limits: Int[Array, ' b'],
  state: Any,
  logits: Float[Array, 'b v'],
) -> tuple[Array, ...]:
  """(tokens, lengths, logprobs, sums, filled, steps, counts) of the candidates, see
  `generate.Generated`; arguments as of `generate_beam.beam_search`."""
  b, p = prompts.shape
  k, n = settings.beams, settings.max_tokens
  start = jnp.broadcast_to(jnp.asarray(prompts)[:, None], (b, k, p))
  none, zeros = jnp.full((b, k), -jnp.inf), jnp.zeros((b, k), jnp.int32)
  room = jnp.zeros((b, k, n), jnp.int32)
  beams = Beams(
    jnp.concatenate([start, room - 1], axis=2),
    jnp.zeros((b, k, n)),
    # All hypotheses are the prompt: one of them goes on.
    jnp.broadcast_to(jnp.where(jnp.arange(k) == 0, 0.0, -jnp.inf)[None], (b, k)),
    Found(room, jnp.zeros((b, k, n)), none, zeros, zeros, none),
    jnp.asarray(limits) > 0,
    jnp.zeros((), jnp.int32),
    state,
  )

  def body(beams: Beams) -> Beams:
    place = p + beams.written - 1
    last = jax.lax.dynamic_index_in_dim(beams.tokens, place, axis=2, keepdims=False)
    logits, state = step(jnp.maximum(last, 0).reshape(-1), beams.state)
    return _write(settings, p, limits, beams._replace(state=state), logits)

  beams = _write(settings, p, limits, beams, jnp.repeat(logits, k, axis=0))
  beams = jax.lax.while_loop(lambda beams: beams.going.any() & (beams.written < n), body, beams)
  found = beams.found
  filled = found.scores > -jnp.inf
  return (
    found.tokens, found.lengths, found.logprobs, jnp.where(filled, found.sums, 0.0), filled,
    beams.written, found.counts,
  )  # fmt: skip


def _write(settings, prompt, limits, beams: Beams, logits: Float[Array, 'r v']) -> Beams:
  """One more token of every hypothesis that goes on."""
  b, k, w = beams.tokens.shape
  so_far = SoFar(beams.tokens.reshape(b * k, w), prompt, beams.written)
  each = jax.nn.log_softmax(logits)
  for rule in settings.rules:
    each = rule(so_far, each)
  each = each.reshape(b, k, -1)
  # Enough that k remain whatever of them ends.
  wide = min(k * max(2, 1 + len(settings.stop)), each.shape[-1])
  logprob, token = jax.lax.top_k(each, wide)
  total, best = jax.lax.top_k((beams.sums[:, :, None] + logprob).reshape(b, -1), wide)
  rows = best // wide

  def of_best(x: Array) -> Array:
    return jnp.take_along_axis(x.reshape(b, -1), best, axis=1)

  token, logprob = of_best(token).astype(jnp.int32), of_best(logprob)
  count = beams.written + 1
  stops = jnp.isin(token, jnp.asarray(settings.stop, jnp.int32))
  ends = stops | (count >= limits)[:, None]
  put = jax.lax.dynamic_update_slice_in_dim

  def grown(which: Int[Array, 'b c']) -> tuple[Array, Array, Array, Array]:
    """(tokens, log-probabilities, sums, row) of candidates with their new token."""
    row, own, last = (jnp.take_along_axis(x, which, axis=1) for x in (rows, token, logprob))
    tokens = jnp.take_along_axis(beams.tokens, row[:, :, None], axis=1)
    tokens = put(tokens, own[:, :, None], prompt + beams.written, axis=2)
    logprobs = jnp.take_along_axis(beams.logprobs, row[:, :, None], axis=1)
    logprobs = put(logprobs, last[:, :, None], beams.written, axis=2)
    return tokens, logprobs, jnp.take_along_axis(total, which, axis=1), row

  # What ends among the k best, beside what is kept.
  power = 1.0 if settings.length_penalty is None else settings.length_penalty
  early = settings.style == 'transformers_4_27'
  before = (beams.tokens[:, :1, :prompt] >= 0).sum(axis=2, dtype=jnp.int32) if early else 0
  norm = jnp.asarray(count + before, jnp.float32) ** power
  at = jnp.broadcast_to(jnp.arange(wide if early else k)[None], (b, wide if early else k))
  tokens, logprobs, sums, _ = grown(at)
  stopped, ended = (jnp.take_along_axis(x, at, axis=1) for x in (stops, ends))
  if early:  # at its limit a search ends with the k best that did not stop
    ended = jnp.where(stopped, at < k, ended & (jnp.cumsum(~stopped, axis=1) <= k))
  ended &= beams.going[:, None] & (sums > -jnp.inf)
  lengths = count - stopped.astype(jnp.int32)
  counts = lengths + before if early else jnp.full(at.shape, count, jnp.int32)
  scores = sums / counts.astype(jnp.float32) ** power
  new = Found(
    tokens[:, :, prompt:], logprobs, sums, counts, lengths, jnp.where(ended, scores, -jnp.inf)
  )
  both = Found(*(jnp.concatenate(pair, axis=1) for pair in zip(beams.found, new, strict=True)))
  scores, kept = jax.lax.top_k(both.scores, k)

  def of_kept(x: Array) -> Array:
    return jnp.take_along_axis(x, kept.reshape(b, k, *[1] * (x.ndim - 2)), axis=1)

  found = Found(*(of_kept(x) for x in both))

  # The k best that go on.
  on = jnp.argsort(ends, axis=1, stable=True)[:, :k]
  tokens, logprobs, sums, row = grown(on)
  sums = jnp.where(jnp.take_along_axis(ends, on, axis=1), -jnp.inf, sums)
  attainable = (total if early else sums)[:, :1] / norm
  going = beams.going & (attainable[:, 0] > scores.min(axis=1)) & (sums[:, 0] > -jnp.inf)
  flat = (row + k * jnp.arange(b)[:, None]).reshape(-1)
  return Beams(tokens, logprobs, sums, found, going, count, beams.state.reorder(flat))
