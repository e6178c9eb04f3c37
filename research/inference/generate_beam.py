"""Beam search as openai/whisper (decoding.py) does it, in one compiled loop, for any model.

Of every hypothesis the best tokens go on. What ends with a stop token before the k-th best that
goes on is finished and kept; a search ends when enough are kept. What was not finished by then
fills up the candidates to k.
Letters: b prompts, k beams, m kept hypotheses, n generated tokens, v vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.inference.generate_rules import SoFar


class Kept(NamedTuple):
  """Finished hypotheses of every prompt, in the order in which they were found."""

  tokens: Int[Array, 'b m n']
  lengths: Int[Array, 'b m']
  logprobs: Float[Array, 'b m n']
  sums: Float[Array, 'b m']
  number: Int[Array, ' b']


class Beams(NamedTuple):
  """What the loop carries."""

  tokens: Int[Array, 'b k w']
  logprobs: Float[Array, 'b k n']
  sums: Float[Array, 'b k']
  written: Int[Array, '']
  ends: Int[Array, ' b']  # tokens of the hypotheses that go on: fewer where a search has ended
  done: Bool[Array, ' b']
  kept: Kept
  state: Any


def beam_search(
  settings: Any,
  step: Callable[[Array, Any], tuple[Array, Any]],
  prompts: Int[Array, 'b p'],
  limits: Int[Array, ' b'],
  state: Any,
  logits: Float[Array, 'b v'],
) -> tuple[Array, ...]:
  """(tokens, lengths, logprobs, sums, filled, steps) of the candidates, see `generate.Generated`.

  Args:
    settings: `generate.Settings`.
    step: (tokens [r], state) -> (logits [r, v], state), r = b k.
    prompts: padded on the left with -1.
    limits: tokens of a hypothesis, at most.
    state: of r rows behind the prompts.
    logits: of the first token.
  """
  b, p = prompts.shape
  k, n = settings.beams, settings.max_tokens
  enough = round(k * settings.patience)
  m = max(enough, k)
  room = jnp.full((b, k, n), -1, jnp.int32)
  start = jnp.broadcast_to(jnp.asarray(prompts)[:, None], (b, k, p))
  kept = Kept(
    jnp.zeros((b, m, n), jnp.int32),
    jnp.zeros((b, m), jnp.int32),
    jnp.zeros((b, m, n)),
    jnp.full((b, m), -jnp.inf),
    jnp.zeros(b, jnp.int32),
  )
  limits = jnp.asarray(limits)
  # All hypotheses are the prompt: one of them goes on.
  sums = jnp.where(jnp.arange(k) == 0, 0.0, -jnp.inf)[None]
  beams = Beams(
    jnp.concatenate([start, room], axis=2),
    jnp.zeros((b, k, n)),
    jnp.broadcast_to(sums, (b, k)),
    jnp.zeros((), jnp.int32),
    jnp.zeros(b, jnp.int32),
    limits < 1,
    kept,
    state,
  )

  def write(beams: Beams, logits: Array) -> Beams:
    return _write(settings, enough, p, limits, beams, logits)

  def going(beams: Beams) -> Array:
    return ~beams.done.all() & (beams.written < n)

  def body(beams: Beams) -> Beams:
    place = p + beams.written - 1
    last = jax.lax.dynamic_index_in_dim(beams.tokens, place, axis=2, keepdims=False)
    logits, state = step(last.reshape(-1), beams.state)
    return write(beams._replace(state=state), logits)

  beams = write(beams, jnp.repeat(logits, k, axis=0))
  beams = jax.lax.while_loop(going, body, beams)
  return _fill(beams, k, p)


def _write(settings, enough, prompt, limits, beams: Beams, logits: Float[Array, 'r v']) -> Beams:
  """One more token of every hypothesis that goes on."""
  b, k, w = beams.tokens.shape
  so_far = SoFar(beams.tokens.reshape(b * k, w), prompt, beams.written)
  fairseq = settings.style == 'fairseq'
  logits = jax.nn.log_softmax(logits) if fairseq else logits
  for rule in settings.rules:
    logits = rule(so_far, logits)
  each = (logits if fairseq else jax.nn.log_softmax(logits)).reshape(b, k, -1)
  # Enough that k remain whatever of them ends.
  wide = min(k + len(settings.stop), each.shape[-1])
  logprob, token = jax.lax.top_k(each, wide)
  total = (beams.sums[:, :, None] + logprob).reshape(b, -1)
  order = jnp.argsort(-total, axis=1, stable=True)

  def ranked(x):
    return jnp.take_along_axis(x.reshape(b, -1), order, axis=1)

  total, logprob, token = ranked(total), ranked(logprob), ranked(token).astype(jnp.int32)
  source = order // wide
  stops = jnp.isin(token, jnp.asarray(settings.stop, jnp.int32))
  before = jnp.cumsum((~stops).astype(jnp.int32), axis=1) - (~stops).astype(jnp.int32)
  if fairseq:
    before = jnp.broadcast_to(jnp.arange(total.shape[1]), total.shape)
  found = stops & (before < k) & ~beams.done[:, None] & (total > -jnp.inf)
  kept = _keep(beams, found, source, logprob, total, prompt, enough)

  # The k best that go on.
  best = jnp.argsort(stops, axis=1, stable=True)[:, :k]

  def of_best(x):
    return jnp.take_along_axis(x, best, axis=1)

  rows, token, logprob, total = map(of_best, (source, token, logprob, total))
  tokens = jnp.take_along_axis(beams.tokens, rows[:, :, None], axis=1)
  tokens = jax.lax.dynamic_update_slice_in_dim(
    tokens, token[:, :, None], prompt + beams.written, axis=2
  )
  logprobs = jnp.take_along_axis(beams.logprobs, rows[:, :, None], axis=1)
  logprobs = jax.lax.dynamic_update_slice_in_dim(
    logprobs, logprob[:, :, None], beams.written, axis=2
  )

  # What a search had when it ended stays.
  def stay(old, new):
    return jnp.where(beams.done.reshape(b, *[1] * (new.ndim - 1)), old, new)

  count = beams.written + 1
  flat = (rows + k * jnp.arange(b)[:, None]).reshape(-1)
  return Beams(
    stay(beams.tokens, tokens),
    stay(beams.logprobs, logprobs),
    stay(beams.sums, total),
    count,
    stay(beams.ends, jnp.broadcast_to(count, (b,))),
    beams.done | (kept.number >= enough) | (count >= limits),
    kept,
    beams.state.reorder(flat),
  )


def _keep(beams: Beams, found, source, logprob, total, prompt, enough) -> Kept:
  """Finished hypotheses behind those that are kept, best first, while there are fewer than
  enough."""
  kept, m = beams.kept, beams.kept.sums.shape[1]
  place = kept.number[:, None] + jnp.cumsum(found.astype(jnp.int32), axis=1) - 1
  place = jnp.where(found & (place < enough), place, m)
  rows = jnp.arange(len(place))[:, None]
  tokens = jnp.take_along_axis(beams.tokens[:, :, prompt:], source[:, :, None], axis=1)
  logprobs = jnp.take_along_axis(beams.logprobs, source[:, :, None], axis=1)
  logprobs = jax.lax.dynamic_update_slice_in_dim(
    logprobs, logprob[:, :, None], beams.written, axis=2
  )
  lengths = jnp.broadcast_to(beams.written, total.shape)

  def put(old, new):
    return old.at[rows, place].set(new, mode='drop')

  return Kept(
    put(kept.tokens, tokens),
    put(kept.lengths, lengths),
    put(kept.logprobs, logprobs),
    put(kept.sums, total),
    jnp.minimum(kept.number + found.sum(axis=1, dtype=jnp.int32), enough),
  )


def _fill(beams: Beams, k: int, prompt: int) -> tuple[Array, ...]:
  """The kept hypotheses, and the best of those that went on until there are k."""
  kept, m = beams.kept, beams.kept.sums.shape[1]
  order = jnp.argsort(-beams.sums, axis=1, stable=True)
  place = kept.number[:, None] + jnp.arange(k)[None]
  place = jnp.where(place < k, place, m)
  rows = jnp.arange(len(place))[:, None]

  def put(old, new):
    new = jnp.take_along_axis(new, order.reshape(*order.shape, *[1] * (new.ndim - 2)), axis=1)
    return old.at[rows, place].set(new, mode='drop')

  lengths = jnp.broadcast_to(beams.ends[:, None], order.shape)
  filled = jnp.arange(m)[None] < jnp.maximum(kept.number, k)[:, None]
  return (
    put(kept.tokens, beams.tokens[:, :, prompt:]),
    put(kept.lengths, lengths),
    put(kept.logprobs, beams.logprobs),
    put(kept.sums, beams.sums),
    filled,
    beams.written,
  )
