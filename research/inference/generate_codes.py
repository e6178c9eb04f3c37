"""Codes of audio from a language model of codes (`models/code_lm.py`): all codebooks of a step at
once, from nothing or behind the codes of a clip.

Steps that are known are read at once, then a loop writes one step after the other; all of it is one
compiled program a batch size, width of prompts and length. Draws of a row come from its own key and
the number of the step: a row is the same whatever else is in the batch.
Letters: r rows, n frames, s steps, g codebooks, v outputs, u symbols, w width of a vector.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from research.errors import InputError
from research.inference import generate_rules as rules
from research.nn import code_patterns

# Texts are padded to multiples of this, so that few programs are compiled.
TEXT_STEP = 32


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How codes are drawn; equal settings are one program.

  Attributes:
    sample: draw; else the best codes are taken.
    top_k, top_p: which codes of a codebook can be drawn; None for all.
    guidance: s of classifier-free guidance, logits = none + s (conditioned - none); 1 for none
      (arXiv 2207.12598; MusicGen takes 3).
    ends: clips may end before they have all their frames.
  """

  sample: bool = True
  top_k: int | None = None
  top_p: float | None = None
  guidance: float = 1.0
  ends: bool = True

  def __post_init__(self):
    if self.top_k is not None and self.top_k < 1:
      raise InputError(f'top_k={self.top_k} was given: give at least 1.')
    if self.top_p is not None and not 0 < self.top_p <= 1:
      raise InputError(f'top_p={self.top_p} was given: give a probability above 0, up to 1.')
    if self.guidance < 1:
      raise InputError(f'guidance={self.guidance} was given: give 1 for none, or more.')


def generate_codes(
  model: Any,
  variables: Any,
  prompts: Sequence[Int[np.ndarray, '_ g']],
  frames: int,
  how: Sampling = Sampling(),
  *,
  conditions: Mapping[str, Any] | None = None,
  temperature: float = 1.0,
  seeds: Sequence[int] | None = None,
) -> list[Int[np.ndarray, '_ g']]:
  """Codes [n, g] of every row, those of its prompt included, until a row ends or has `frames`.

  Args:
    model: a `models.code_lm.CodeLM`.
    variables: its weights.
    prompts: codes that clips begin with, [n, g]; of no frames to begin with nothing.
    frames: that each row has at most, its prompt included.
    how: see `Sampling`.
    conditions: {name: class of each row}, -1 for none; {name: vectors [r, w]}, NaN for none; and
      'text': ids int [u] of each row, or states [u, w].
    temperature: logits are divided by it before a draw.
    seeds: of the rows; None for 0, 1, ….

  Raises:
    InputError: codes that there are not, a prompt that leaves nothing to write, more steps than the
      model has, or other conditions than it has.
  """
  g = model.codebooks
  given = [_checked(model, i, p, frames) for i, p in enumerate(prompts)]
  steps = code_patterns.steps(model.pattern, frames, g)
  if steps > model.max_steps:
    raise InputError(
      f'{frames} frames are {steps} steps of codes, and the model has max_steps={model.max_steps}: '
      'ask for fewer seconds.'
    )
  conditioned = padded_conditions(model, conditions or {}, len(given))
  if how.guidance != 1 and not conditioned:
    raise InputError(f'guidance={how.guidance} was given, and the model has no conditions.')
  # What is known: the codes of the prompts, and which codebooks have none at a step.
  whole = np.full((len(given), frames, g), -1, np.int32)
  for row, codes in zip(whole, given):
    row[: len(codes)] = codes
  known = code_patterns.lay_out(whole, model.pattern, model.end)
  read = min(code_patterns.known_steps(model.pattern, len(p), g) for p in given)
  own = np.arange(len(given)) if seeds is None else np.asarray(seeds)
  keys = jax.vmap(jax.random.key)(jnp.asarray(own, jnp.uint32))
  laid, lengths = jax.device_get(
    _write(
      model, how, read, variables, known, conditioned, keys, jnp.float32(max(temperature, 1e-6))
    )
  )
  codes = code_patterns.gather(laid, model.pattern, frames)
  return [row[:count] for row, count in zip(codes, lengths)]


def _checked(model: Any, i: int, prompt: Any, frames: int) -> Int[np.ndarray, 'n g']:
  codes = np.asarray(prompt, np.int32).reshape(-1, model.codebooks)
  if np.ndim(prompt) != 2 or np.shape(prompt)[1] != model.codebooks:
    raise InputError(
      f'Prompt {i} has shape {np.shape(prompt)}: expected frames of {model.codebooks} codes each.'
    )
  if codes.size and ((codes < 0) | (codes >= np.array(model.sets))).any():
    sizes = ', '.join(map(str, model.sets))
    raise InputError(
      f'Prompt {i} has codes from {codes.min()} to {codes.max()}, and the codebooks of the model '
      f'have {sizes} codes: take codes of the codec that it learned from.'
    )
  if len(codes) >= frames:
    raise InputError(
      f'Prompt {i} has {len(codes)} frames of codes and {frames} were asked for: nothing is left '
      'to write.'
    )
  return codes


def padded_conditions(model: Any, given: Mapping[str, Any], rows: int) -> dict[str, np.ndarray]:
  """Conditions of rows as arrays of a batch; texts are padded.

  Raises:
    InputError: other conditions than the model has, or none of their values.
  """
  wanted = {*model.conditions, *model.vectors, *(['text'] if model.text else [])}
  if set(given) != wanted:
    raise InputError(
      f'The model is conditioned on {sorted(wanted) or "nothing"}, and '
      f'{sorted(given) or "nothing"} was given.'
    )
  found = {name: np.asarray(given[name], np.int32) for name in model.conditions}
  for name, values in found.items():
    last = model.label_counts[name] - 1
    if values.shape != (rows,) or (values > last).any():
      raise InputError(f'{name}={values.tolist()}: expected {rows} classes from 0 to {last}.')
  for name, width in model.vectors.items():
    found[name] = np.asarray(given[name], np.float32)
    if found[name].shape != (rows, width):
      raise InputError(
        f'{name} has shape {found[name].shape}: expected {rows} vectors of {width} numbers.'
      )
  return found | (_texts(model.texts, given['text'], rows) if model.text else {})


def _texts(kind: Any, given: Sequence[Any], rows: int) -> dict[str, np.ndarray]:
  texts = [np.asarray(each) for each in given]
  shape = (kind.states,) if kind.states else ()
  wrong = [x.shape for x in texts if x.shape[1:] != shape or not len(x)]
  if len(texts) != rows or wrong:
    what = f'states of {kind.states} numbers' if kind.states else 'ids'
    raise InputError(f'text has shapes {wrong or len(texts)}: expected {what} of {rows} texts.')
  longest = max(map(len, texts))
  if longest > kind.max_tokens:
    raise InputError(
      f'A text has {longest} symbols, and the model takes {kind.max_tokens}: say it in parts.'
    )
  width = min(-(-longest // TEXT_STEP) * TEXT_STEP, kind.max_tokens)
  mask = np.arange(width) < np.array([len(x) for x in texts])[:, None]
  padded = np.stack([np.pad(x, [(0, width - len(x))] + [(0, 0)] * len(shape)) for x in texts])
  if kind.states:
    return {'text': padded.astype(np.float32), 'text_mask': mask}
  if padded.min() < 0 or padded.max() >= kind.symbols:
    raise InputError(
      f'text has ids from {padded.min()} to {padded.max()}: expected 0 to {kind.symbols - 1}.'
    )
  return {'text': np.where(mask, padded, -1).astype(np.int32)}


class _Rows(NamedTuple):
  """What the loop carries."""

  laid: Int[Array, 'r s g']
  written: Int[Array, '']
  lengths: Int[Array, ' r']
  last: Int[Array, 'r g']
  state: Any


@functools.partial(jax.jit, static_argnames=('model', 'how', 'read'))
def _write(model, how, read, variables, known, conditions, keys, temperature):
  r, s, g = known.shape
  frames = {'flat': s // g, 'delay': s - g + 1}.get(model.pattern, s)
  guided = how.guidance != 1

  def conditioned(dropped=None):
    return model.apply(variables, conditions, dropped, method='condition')

  memories = conditioned()
  if guided:
    none = conditioned(jnp.ones((r,), bool))
    memories = jax.tree.map(lambda *x: jnp.concatenate(x), memories, none)

  def step(codes, state):
    codes = jnp.concatenate([codes, codes]) if guided else codes
    logits, state = model.apply(variables, codes, state, method='step')
    if guided:
      own, none = jnp.split(logits, 2)
      # Outputs that are not there stay so.
      logits = jnp.where(jnp.isfinite(own), none + how.guidance * (own - none), own)
    return logits, state

  # The start, and what is known of all rows.
  first = jnp.pad(jnp.asarray(known)[:, :read], ((0, 0), (1, 0), (0, 0)))
  state = model.start(2 * r if guided else r, s, memories)
  logits, state = step(first, state)
  at = jnp.asarray(code_patterns.frame_of(model.pattern, frames, g))

  def chosen(logits, count):
    if not how.ends:
      logits = logits.at[:, :, model.end].set(-jnp.inf)
    # A clip has a frame at least.
    first = jnp.where(at[count, 0] == 0, -jnp.inf, 0.0)
    logits = logits.at[:, 0, model.end].add(first)
    if not how.sample:
      return logits.argmax(axis=-1).astype(jnp.int32)
    x = (logits / temperature).reshape(r * g, -1)
    if how.top_k is not None:
      x = rules.top_k(x, min(how.top_k, x.shape[-1]))
    if how.top_p is not None:
      x = rules.top_p(x, how.top_p)
    own = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, count), (g, x.shape[-1])))
    return (x.reshape(r, g, -1) + own(keys)).argmax(axis=-1).astype(jnp.int32)

  def write(rows: _Rows, logits) -> _Rows:
    drawn = chosen(logits, rows.written)
    given = jax.lax.dynamic_index_in_dim(rows.laid, rows.written, axis=1, keepdims=False)
    codes = jnp.where(given >= 0, given, drawn)
    # Only the first codebook ends a clip; what others write behind the end is left out.
    here = at[rows.written]
    ends = (given[:, 0] < 0) & (codes[:, 0] == model.end) & (here[0] >= 0)
    lengths = jnp.where(ends & (rows.lengths == frames), here[0], rows.lengths)
    over = (here[None] >= lengths[:, None]) | (here[None] < 0)
    codes = jnp.where(over, model.end, codes)
    laid = jax.lax.dynamic_update_index_in_dim(rows.laid, codes, rows.written, axis=1)
    return rows._replace(laid=laid, written=rows.written + 1, lengths=lengths, last=codes)

  def going(rows: _Rows):
    left = at[jnp.minimum(rows.written, s - 1)]
    some = ((left[None] >= 0) & (left[None] < rows.lengths[:, None])).any()
    # A step of a delayed codebook may come behind one where nothing is left.
    return (rows.written < s) & (some | (rows.lengths.max() == frames))

  def body(rows: _Rows):
    logits, state = step(rows.last[:, None], rows.state)
    return write(rows._replace(state=state), logits[:, -1])

  lengths = jnp.full((r,), frames, jnp.int32)
  rows = _Rows(jnp.asarray(known), jnp.int32(read), lengths, first[:, -1], state)
  rows = jax.lax.while_loop(going, body, write(rows, logits[:, -1]))
  return rows.laid, rows.lengths
