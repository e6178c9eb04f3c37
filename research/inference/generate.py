"""Writing tokens one after the other, with any model that declares it (`capabilities.Generates`).

  out = generate(model, variables, prompts, Settings(max_tokens=64, stop=(2,)))
  out.best()                                    # a list of token ids for every prompt

A prompt is read at once, then a loop takes one token a step; all of it is one compiled program.
Prompts are padded on the left to a few widths, so that programs are met again: it depends on model,
settings, number of prompts and width. Temperature, keys and limits are values, not programs.
On a mesh, variables and memories are spread by the caller, rows follow their memories.
Letters: b prompts, k candidates of each, r = b k rows, p prompt, n generated tokens, v vocabulary.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from research.capabilities import Generates
from research.errors import InputError, unknown
from research.inference import generate_rules as rules
from research.inference.generate_attainable_beam import attainable_beam_search
from research.inference.generate_beam import beam_search
from research.inference.generate_mean_beam import mean_beam_search
from research.inference.generate_rules import Rule, SoFar

AnyArray = jax.Array | np.ndarray
STYLES = ('whisper', 'fairseq', 'clipcap', 'transformers', 'transformers_4_27')
ATTAINABLE = ('transformers', 'transformers_4_27')
# Widths of prompts: one program each.
WIDTHS = (
  1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to write; equal settings are one program.

  Attributes:
    max_tokens: of a candidate, at most; its stop token counts.
    stop: tokens that end a candidate; it does not hold them. None where only its length ends it.
    beams: hypotheses of a beam search; 1 takes the best token, or draws one.
    patience: a beam search ends with round(beams * patience) finished hypotheses
      (arXiv 2204.05424).
    sample: draw from the distribution instead of taking the best token.
    candidates: draws for each prompt.
    top_k, top_p, min_p: which tokens can be drawn; None for all.
    length_penalty: candidates are ranked by sum of log-probabilities / ((5 + length) / 6)^penalty
      (arXiv 1609.08144), or, None, / length.
    style: of a beam search. 'whisper' and 'fairseq': see `generate_beam`; fairseq keeps a finished
      hypothesis only where it is among the best `beams` of a step, takes log-probabilities before
      the rules, and counts the stop token in the length by which candidates are ranked. 'clipcap':
      by the mean log-probability of the tokens, see `generate_mean_beam`; patience and
      length_penalty do nothing there. 'transformers' and 'transformers_4_27': by sum /
      length^penalty, None is 1, see `generate_attainable_beam`; patience does nothing there.
    rules: see `generate_rules`, in this order.
    exact: prompts have one length and are not padded, a program for each length: for models whose
      positions are places of a window.
  """

  max_tokens: int
  stop: tuple[int, ...]
  beams: int = 1
  patience: float = 1.0
  sample: bool = False
  candidates: int = 1
  top_k: int | None = None
  top_p: float | None = None
  min_p: float | None = None
  length_penalty: float | None = None
  style: str = 'whisper'
  rules: tuple[Rule, ...] = ()
  exact: bool = False

  def __post_init__(self):
    if self.style not in STYLES:
      raise unknown('style of generation', self.style, STYLES)
    lowest = dict(max_tokens=1, beams=1, candidates=1)
    for name, value in lowest.items():
      if getattr(self, name) < value:
        raise InputError(f'{name}={getattr(self, name)} was given: give at least {value}.')
    if not self.stop and (self.beams > 1 or self.style != 'whisper'):
      raise InputError('No stop token was given: give the token that ends a text.')
    if self.beams > 1 and (self.sample or self.candidates > 1):
      raise InputError(
        f'beams={self.beams} was given with sample={self.sample} and candidates='
        f'{self.candidates}: a beam search draws nothing.'
      )
    if self.style != 'whisper' and self.sample:
      raise InputError(f'style={self.style} was given with sample: it is a style of beam search.')
    if self.candidates > 1 and not self.sample:
      raise InputError(
        f'candidates={self.candidates} was given without sample: all of them would be equal.'
      )
    if round(self.beams * self.patience) < 1:
      raise InputError(
        f'patience={self.patience} ends a search of {self.beams} beams before its first '
        'hypothesis: give a larger one.'
      )
    for name in ('top_p', 'min_p'):
      value = getattr(self, name)
      if value is not None and not 0 < value <= 1:
        raise InputError(f'{name}={value} was given: give a probability above 0, up to 1.')
    if self.top_k is not None and self.top_k < 1:
      raise InputError(f'top_k={self.top_k} was given: give at least 1.')


@dataclasses.dataclass(frozen=True)
class Generated:
  """What was written. Arrays of host memory.

  Attributes:
    tokens: [b, k, n], behind `lengths` anything.
    lengths: [b, k], without the stop token.
    logprobs: [b, k, n] of every token, behind the rules, before temperature and filters; the stop
      token's is at its place.
    sums: [b, k] sum of log-probabilities, the stop token's included where there is one.
    filled: [b, k], False where there are fewer candidates.
    probed: [b, v] logits behind the prompt's token `probe`, before the rules, or None.
    steps: of the loop: tokens of the longest candidate, its stop token included.
    length_penalty: of the settings.
    counts: [b, k] tokens by which sums are divided for a rank, where they are not `lengths`.
    exponent: of that number.
  """

  tokens: Int[np.ndarray, 'b k n']
  lengths: Int[np.ndarray, 'b k']
  logprobs: Float[np.ndarray, 'b k n']
  sums: Float[np.ndarray, 'b k']
  filled: Bool[np.ndarray, 'b k']
  probed: Float[np.ndarray, 'b v'] | None
  steps: int
  length_penalty: float | None
  counts: Int[np.ndarray, 'b k'] | None = None
  exponent: float = 1.0

  def scores(self) -> Float[np.ndarray, 'b k']:
    """By which candidates are ranked; -inf where there is none."""
    counts = self.lengths if self.counts is None else self.counts
    length = np.maximum(counts, 1).astype(np.float64) ** self.exponent
    if self.length_penalty is not None:
      length = ((5.0 + self.lengths) / 6.0) ** self.length_penalty
    return np.where(self.filled, self.sums / length, -np.inf)

  def chosen(self) -> Int[np.ndarray, ' b']:
    """The candidate with the highest score; of equal ones the first."""
    return self.scores().argmax(axis=1)

  def text(self, prompt: int, candidate: int) -> list[int]:
    """The tokens of a candidate."""
    return self.tokens[prompt, candidate, : self.lengths[prompt, candidate]].tolist()

  def best(self) -> list[list[int]]:
    """The tokens of the best candidate of every prompt."""
    return [self.text(i, int(j)) for i, j in enumerate(self.chosen())]


# -- Prompts -----------------------------------------------------------------------------------


def pad_prompts(prompts: Sequence[Sequence[int]], exact: bool = False) -> Int[np.ndarray, 'b p']:
  """Prompts padded on the left with -1, to one of WIDTHS; `exact` ones as they are.

  Raises:
    InputError: a prompt without tokens, or none at all; exact ones of several lengths.
  """
  longest = max((len(p) for p in prompts), default=0)
  if not longest or min(len(p) for p in prompts) < 1:
    raise InputError('A prompt without tokens was given: give at least one, to start with.')
  if exact and any(len(p) != longest for p in prompts):
    raise InputError('exact prompts of several lengths were given: give them in several calls.')
  width = longest if exact else next((w for w in WIDTHS if w >= longest), longest)
  padded = np.full((len(prompts), width), -1, np.int32)
  for row, prompt in zip(padded, prompts):
    row[width - len(prompt) :] = prompt
  return padded


def _check(model: Any, prompts: Sequence[Sequence[int]], settings: Settings) -> None:
  if not isinstance(model, Generates):
    raise InputError(f'{type(model).__name__} writes no tokens: give a model that does.')
  longest = max(len(p) for p in prompts)
  if longest > model.max_tokens:
    raise InputError(
      f'A prompt of {longest} tokens was given, and {type(model).__name__} has '
      f'{model.max_tokens} positions: cut it.'
    )
  over = [t for p in prompts for t in p if not 0 <= t < model.vocab_size]
  over += [t for t in settings.stop if not 0 <= t < model.vocab_size]
  if over:
    raise InputError(
      f'Token {over[0]} was given; {type(model).__name__} has tokens 0 to {model.vocab_size - 1}.'
    )


# -- One call ----------------------------------------------------------------------------------


def generate(
  model: Any,
  variables: Any,
  prompts: Sequence[Sequence[int]],
  settings: Settings,
  *,
  memories: Any = None,
  temperature: float = 1.0,
  key: Key[Array, ''] | None = None,
  noise: Float[AnyArray, 'n r v'] | None = None,
  uniform: Float[AnyArray, 'n r'] | None = None,
  limits: Sequence[int] | None = None,
  probe: Sequence[int] | None = None,
) -> Generated:
  """Goes on from every prompt.

  Args:
    model: that generates.
    variables: its weights.
    prompts: token ids, at least one each.
    settings: see `Settings`.
    memories: what the model attends to besides its tokens, of b inputs (Whisper: `remember`).
    temperature: logits are divided by it before a draw, where `settings.sample`, and in a beam
      search with the style 'clipcap'.
    key: of the draws, needed where `settings.sample`.
    noise: Gumbel noise instead of a key: row i of step j takes the token with the largest sum of
      logit / temperature and noise[j, i].
    uniform: numbers in [0, 1) instead of both: row i of step j takes the first token whose
      cumulative probability is above uniform[j, i].
    limits: tokens of each prompt's candidates, at most `settings.max_tokens`; never more than the
      model has positions for: the last one needs none.
    probe: place in each prompt, from its end (1 is the last token), whose logits are returned.

  Raises:
    InputError: the model does not generate, or a prompt does not fit it.
  """
  args = _arguments(model, prompts, settings, key, noise, limits, uniform)
  at = None if probe is None else np.asarray(probe, np.int32)
  out = _generate(
    model, settings, variables, memories, *args, at, jnp.float32(max(temperature, 1e-6)), key,
    noise, uniform,
  )  # fmt: skip
  tokens, lengths, logprobs, sums, filled, steps, counts, probed = jax.device_get(out)
  penalty, power = settings.length_penalty, settings.style in ATTAINABLE
  return Generated(
    tokens, lengths, logprobs, sums, filled, probed, int(steps),
    None if power or settings.style == 'clipcap' else penalty,
    lengths + 1 if settings.style == 'fairseq' else counts,
    penalty if power and penalty is not None else 1.0,
  )  # fmt: skip


def _arguments(model, prompts, settings, key, noise, limits, uniform=None):
  """Padded prompts, and how many tokens each may get."""
  _check(model, prompts, settings)
  if settings.sample and key is None and noise is None and uniform is None:
    raise InputError('Draws need a random key: give key=jax.random.key(…).')
  padded = pad_prompts(prompts, settings.exact)
  room = [model.max_tokens + 1 - len(p) for p in prompts]
  wanted = [settings.max_tokens] * len(prompts) if limits is None else list(limits)
  return padded, np.minimum(np.minimum(wanted, room), settings.max_tokens).astype(np.int32)


@functools.partial(jax.jit, static_argnames=('model', 'settings'))
def _generate(
  model, settings, variables, memories, prompts, limits, probe, temperature, key, noise, uniform
):
  state, logits, probed = _prefill(model, settings, variables, memories, prompts, probe)

  def step(tokens, state):
    logits, state = model.apply(variables, tokens[:, None], state, method='step')
    return logits[:, 0], state

  if settings.beams > 1 and settings.style == 'clipcap':
    *found, counts, steps = mean_beam_search(
      settings, step, prompts, limits, state, logits, temperature
    )
    return *found, jnp.ones(counts.shape, bool), steps, counts, probed
  if settings.beams > 1 and settings.style in ATTAINABLE:
    return *attainable_beam_search(settings, step, prompts, limits, state, logits), probed
  if settings.beams > 1 or settings.style == 'fairseq':
    return *beam_search(settings, step, prompts, limits, state, logits), None, probed
  draw = _Draw(settings, temperature, key, noise, uniform)
  rows = _advance(settings, step, draw, _first_rows(settings, prompts, limits, state), logits)
  shape = len(prompts), settings.candidates
  tokens = rows.so_far.generated().reshape(*shape, -1)
  logprobs = rows.logprobs.reshape(*shape, -1)
  lengths, sums = rows.lengths.reshape(shape), rows.sums.reshape(shape)
  filled = jnp.ones(shape, bool)
  return tokens, lengths, logprobs, sums, filled, rows.so_far.written, None, probed


def _prefill(model, settings, variables, memories, prompts, probe):
  """(state of all rows behind the prompts, logits [b, v] of the next token, those of `probe`)."""
  b, p = prompts.shape
  state = model.start(b, p + settings.max_tokens, memories)
  real = None if settings.exact else prompts >= 0
  last = jnp.full((b, 1), p - 1, jnp.int32)
  at = last if probe is None else jnp.concatenate([p - probe[:, None], last], axis=1)
  tokens = jnp.maximum(prompts, 0)
  logits, state = model.apply(variables, tokens, state, real, at, method='step')
  copies = settings.beams if settings.beams > 1 else settings.candidates
  if copies > 1:
    state = state.reorder(jnp.repeat(jnp.arange(b), copies))
  return state, logits[:, -1], None if probe is None else logits[:, 0]


# -- Best tokens and draws ---------------------------------------------------------------------


class Rows(NamedTuple):
  """What the loop carries; between programs `so_far` is (tokens, count), for the width of the
  prompts is no array."""

  so_far: Any
  logprobs: Float[Array, 'r n']
  sums: Float[Array, ' r']
  lengths: Int[Array, ' r']
  done: Bool[Array, ' r']
  limits: Int[Array, ' r']
  state: Any


class _Draw(NamedTuple):
  """How the next token comes from logits [r, v]."""

  settings: Settings
  temperature: Float[Array, '']
  key: Any
  noise: Any
  uniform: Any = None

  def __call__(self, logits, count):
    if not self.settings.sample:
      return logits.argmax(axis=-1).astype(jnp.int32)
    x = logits / self.temperature
    if self.settings.top_k is not None:
      x = rules.top_k(x, self.settings.top_k)
    if self.settings.top_p is not None:
      x = rules.top_p(x, self.settings.top_p)
    if self.settings.min_p is not None:
      x = rules.min_p(x, self.settings.min_p)
    if self.uniform is not None:
      u = jax.lax.dynamic_index_in_dim(self.uniform, count, keepdims=False)[:, None]
      up = jnp.cumsum(jax.nn.softmax(x), axis=-1)
      # Rounded, the sum may end below 1.
      u = jnp.where(u < up[:, -1:], u, jnp.nextafter(up[:, -1:], 0.0))
      return (up <= u).sum(axis=-1, dtype=jnp.int32)
    if self.noise is None:
      noise = jax.random.gumbel(jax.random.fold_in(self.key, count), x.shape)
    else:
      noise = jax.lax.dynamic_index_in_dim(self.noise, count, keepdims=False)
    return (x + noise).argmax(axis=-1).astype(jnp.int32)


def _first_rows(settings: Settings, prompts, limits, state) -> Rows:
  repeated = jnp.repeat(jnp.asarray(prompts), settings.candidates, axis=0)
  r, p = repeated.shape
  room = jnp.full((r, settings.max_tokens), -1, jnp.int32)
  so_far = SoFar(jnp.concatenate([repeated, room], axis=1), p, jnp.zeros((), jnp.int32))
  limits = jnp.repeat(jnp.asarray(limits), settings.candidates)
  sums, lengths = jnp.zeros(r), jnp.zeros(r, jnp.int32)
  return Rows(so_far, jnp.zeros(room.shape), sums, lengths, limits < 1, limits, state)


def _write(settings: Settings, draw: _Draw, rows: Rows, logits: Float[Array, 'r v']) -> Rows:
  """The rows with one more token; rows that have ended get a stop token that does not count."""
  so_far = rows.so_far
  for rule in settings.rules:
    logits = rule(so_far, logits)
  token = draw(logits, so_far.written)
  logprob = jax.nn.log_softmax(logits)[jnp.arange(len(token)), token]
  token = jnp.where(rows.done, settings.stop[0] if settings.stop else 0, token)
  logprob = jnp.where(rows.done, 0.0, logprob)
  ends = jnp.zeros_like(rows.done)
  if settings.stop:
    ends = jnp.isin(token, jnp.asarray(settings.stop, jnp.int32))
  count = so_far.written + 1
  put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
  tokens = put(so_far.tokens, token[:, None], so_far.prompt + so_far.written)
  return rows._replace(
    so_far=SoFar(tokens, so_far.prompt, count),
    logprobs=put(rows.logprobs, logprob[:, None], so_far.written),
    sums=rows.sums + logprob,
    lengths=rows.lengths + (~rows.done & ~ends).astype(jnp.int32),
    done=rows.done | ends | (count >= rows.limits),
  )


def _advance(settings, step, draw, rows, logits=None, until=None):
  """Writes until all rows have ended, or `until` tokens are there.

  Args:
    logits: of the next token, where the last one was read already.
  """
  prompt, until = rows.so_far.prompt, settings.max_tokens if until is None else until
  if logits is not None:
    rows = _write(settings, draw, rows, jnp.repeat(logits, settings.candidates, axis=0))

  # The width of the prompts stays out of what is traced.
  def pack(rows):
    return rows._replace(so_far=(rows.so_far.tokens, rows.so_far.written))

  def unpack(carry):
    tokens, count = carry.so_far
    return carry._replace(so_far=SoFar(tokens, prompt, count))

  def going(carry):
    return ~carry.done.all() & (carry.so_far[1] < until)

  def body(carry):
    rows = unpack(carry)
    logits, state = step(rows.so_far.last(), rows.state)
    return pack(_write(settings, draw, rows._replace(state=state), logits))

  return unpack(jax.lax.while_loop(going, body, pack(rows)))


# -- As it comes -------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=('model', 'settings'))
def _begin(model, settings, variables, memories, prompts, limits, temperature, key, uniform):
  state, logits, _ = _prefill(model, settings, variables, memories, prompts, None)
  draw = _Draw(settings, temperature, key, None, uniform)
  rows = _first_rows(settings, prompts, limits, state)
  rows = _write(settings, draw, rows, jnp.repeat(logits, settings.candidates, axis=0))
  return rows._replace(so_far=(rows.so_far.tokens, rows.so_far.written))


@functools.partial(
  jax.jit, static_argnames=('model', 'settings', 'prompt'), donate_argnames=('carry',)
)
def _continue(model, settings, prompt, variables, carry, until, temperature, key, uniform):
  def step(tokens, state):
    logits, state = model.apply(variables, tokens[:, None], state, method='step')
    return logits[:, 0], state

  tokens, count = carry.so_far
  rows = carry._replace(so_far=SoFar(tokens, prompt, count))
  draw = _Draw(settings, temperature, key, None, uniform)
  rows = _advance(settings, step, draw, rows, until=until)
  return rows._replace(so_far=(rows.so_far.tokens, rows.so_far.written))


def stream(
  model: Any,
  variables: Any,
  prompts: Sequence[Sequence[int]],
  settings: Settings,
  *,
  memories: Any = None,
  temperature: float = 1.0,
  key: Key[Array, ''] | None = None,
  uniform: Float[AnyArray, 'n r'] | None = None,
  limits: Sequence[int] | None = None,
  every: int = 1,
) -> Iterator[list[list[int]]]:
  """The tokens of `generate` as they come: for every prompt those that are new, `every` at a time.

  The loop returns to the host for each part; a caller that stops asking ends it.

  Raises:
    InputError: as `generate`; a beam search or several candidates, whose text can change.
  """
  if settings.beams > 1 or settings.candidates > 1:
    raise InputError(
      f'A stream of beams={settings.beams} and candidates={settings.candidates} was asked for: '
      'the text of several can change to its end. Give one of each.'
    )
  if every < 1:
    raise InputError(f'every={every} was given: give at least 1.')
  padded, room = _arguments(model, prompts, settings, key, None, limits, uniform)
  heat = jnp.float32(max(temperature, 1e-6))
  carry = _begin(model, settings, variables, memories, padded, room, heat, key, uniform)
  given, stops = 0, set(settings.stop)
  ended = [False] * len(prompts)
  while True:
    tokens, count, done = jax.device_get((*carry.so_far, carry.done))
    part = tokens[:, padded.shape[1] + given : padded.shape[1] + int(count)]
    new: list[list[int]] = [[] for _ in prompts]
    for i, row in enumerate(part.tolist()):
      for j, token in enumerate(row):
        ended[i] = ended[i] or token in stops or given + j >= room[i]
        if not ended[i]:
          new[i].append(token)
    given = int(count)
    if any(new):
      yield new
    if done.all() or given >= settings.max_tokens:
      return
    until = jnp.int32(min(given + every, settings.max_tokens))
    carry = _continue(model, settings, padded.shape[1], variables, carry, until, heat, key, uniform)
