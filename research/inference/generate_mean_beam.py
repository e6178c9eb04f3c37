"""Beam search as ClipCap (arXiv 2111.09734) and Microsoft's captioner do it, in one compiled loop.

Hypotheses are ranked by the mean log-probability of their tokens at every step, and those that have
ended stay among the k best while no other one has a higher mean. Source: microsoft/CLAP, commit
e8a6467 (msclap/CLAPWrapper.py, `_generate_beam`).
Letters: b prompts, k beams, n generated tokens, w places of the buffer, v vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.inference.generate_rules import SoFar


class Beams(NamedTuple):
  """What the loop carries."""

  tokens: Int[Array, 'b k w']
  logprobs: Float[Array, 'b k n']
  sums: Float[Array, 'b k']
  counts: Int[Array, 'b k']  # tokens of which `sums` is the sum, a stop token among them
  stopped: Bool[Array, 'b k']
  written: Int[Array, '']
  state: Any


def mean_beam_search(
  settings: Any,
  step: Callable[[Array, Any], tuple[Array, Any]],
  prompts: Int[Array, 'b p'],
  limits: Int[Array, ' b'],
  state: Any,
  logits: Float[Array, 'b v'],
  temperature: Float[Array, ''],
) -> tuple[Array, ...]:
  """(tokens, lengths, logprobs, sums, counts, steps) of the hypotheses, see `generate.Generated`.

  Args:
    settings: `generate.Settings`.
    step: (tokens [r], state) -> (logits [r, v], state), r = b k.
    prompts: padded on the left with -1.
    limits: tokens of a hypothesis, at most.
    state: of r rows behind the prompts.
    logits: of the first token.
    temperature: logits are divided by it.
  """
  b, p = prompts.shape
  k, n = settings.beams, settings.max_tokens
  start = jnp.broadcast_to(jnp.asarray(prompts)[:, None], (b, k, p))
  room = jnp.full((b, k, n), -1, jnp.int32)
  limits = jnp.asarray(limits)[:, None]
  # All hypotheses are the prompt: one of them goes on.
  beams = Beams(
    jnp.concatenate([start, room], axis=2),
    jnp.zeros((b, k, n)),
    jnp.broadcast_to(jnp.where(jnp.arange(k) == 0, 0.0, -jnp.inf)[None], (b, k)),
    jnp.zeros((b, k), jnp.int32),
    jnp.zeros((b, k), bool),
    jnp.zeros((), jnp.int32),
    state,
  )

  def ended(beams: Beams) -> Array:
    return beams.stopped | (beams.written >= limits)

  def going(beams: Beams) -> Array:
    return ~ended(beams).all() & (beams.written < n)

  def body(beams: Beams) -> Beams:
    place = p + beams.written - 1
    last = jax.lax.dynamic_index_in_dim(beams.tokens, place, axis=2, keepdims=False)
    logits, state = step(jnp.maximum(last, 0).reshape(-1), beams.state)
    return _write(settings, p, temperature, ended(beams), beams._replace(state=state), logits)

  beams = _write(settings, p, temperature, ended(beams), beams, jnp.repeat(logits, k, axis=0))
  beams = jax.lax.while_loop(going, body, beams)
  lengths = beams.counts - beams.stopped.astype(jnp.int32)
  return (
    beams.tokens[:, :, p:], lengths, beams.logprobs, beams.sums, beams.counts, beams.written
  )  # fmt: skip


def _write(
  settings: Any, prompt: int, temperature: Array, ended: Bool[Array, 'b k'], beams: Beams,
  logits: Float[Array, 'r v'],
) -> Beams:  # fmt: skip
  """One more token of every hypothesis that goes on; the others get one that does not count."""
  b, k, w = beams.tokens.shape
  so_far = SoFar(beams.tokens.reshape(b * k, w), prompt, beams.written)
  for rule in settings.rules:
    logits = rule(so_far, logits)
  each = jax.nn.log_softmax(logits / temperature).reshape(b, k, -1)
  wide = min(k, each.shape[-1])
  logprob, token = jax.lax.top_k(each, wide)
  # One way to go on for what has ended: as it is.
  once = jnp.where(jnp.arange(wide) == 0, 0.0, -jnp.inf)
  logprob = jnp.where(ended[:, :, None], once, logprob)
  token = jnp.where(ended[:, :, None], settings.stop[0], token.astype(jnp.int32))
  total = beams.sums[:, :, None] + logprob
  counts = beams.counts + (~ended).astype(jnp.int32)
  mean = total / jnp.maximum(counts, 1)[:, :, None].astype(total.dtype)
  best = jax.lax.top_k(mean.reshape(b, -1), k)[1]
  rows = best // wide

  def of_best(x: Array) -> Array:
    return jnp.take_along_axis(x.reshape(b, -1), best, axis=1)

  def of_rows(x: Array) -> Array:
    return jnp.take_along_axis(x, rows.reshape(b, k, *[1] * (x.ndim - 2)), axis=1)

  token, before = of_best(token), of_rows(ended)
  stops = jnp.isin(token, jnp.asarray(settings.stop, jnp.int32))
  put = jax.lax.dynamic_update_slice_in_dim
  tokens = put(of_rows(beams.tokens), token[:, :, None], prompt + beams.written, axis=2)
  logprobs = put(of_rows(beams.logprobs), of_best(logprob)[:, :, None], beams.written, axis=2)
  flat = (rows + k * jnp.arange(b)[:, None]).reshape(-1)
  return Beams(
    tokens,
    logprobs,
    of_best(total),
    of_rows(counts),
    of_rows(beams.stopped) | (stops & ~before),
    beams.written + 1,
    beams.state.reorder(flat),
  )
