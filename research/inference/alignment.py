"""Whether speech that a model wrote says its text: attention of steps to symbols, judged.

A language model of codes may skip symbols, say some again, stay at one or not end. Where its
attention follows the text (`models.code_lm`, objective `next_codes` with `alignment`), the way
through the text shows it. Letters: s steps of codes, u symbols.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from research.inference.generate_codes import padded_conditions
from research.inference.whisper_words import warp
from research.nn import code_patterns

# Codes are padded to multiples of this, so that few programs are compiled.
STEP = 64


class Limits(NamedTuple):
  """What a good alignment keeps to.

  Attributes:
    skipped: fraction of sounds that no step attends to.
    back: symbols that the way goes back at once.
    stall: seconds at one symbol.
    weight: of a sound at the step that attends to it the strongest: below, it is skipped.
    straight: mean weight on the best monotonic way through the text: below, attention follows no
      text, and the other figures say nothing.
  """

  skipped: float = 0.1
  back: int = 3
  stall: float = 1.0
  weight: float = 0.2
  straight: float = 0.2


LIMITS = Limits()


class Verdict(NamedTuple):
  """What was found; see `Limits`.

  Attributes:
    ended: whether the clip ended by itself.
    straight: mean weight on the best monotonic way.
    skipped: fraction of sounds.
    back: symbols.
    stall: seconds.
    problems: the limits that are not kept, in words; none for a good one.
  """

  ended: bool
  straight: float
  skipped: float
  back: int
  stall: float
  problems: tuple[str, ...]

  @property
  def good(self) -> bool:
    """Whether all limits are kept."""
    return not self.problems

  def said(self) -> dict[str, Any]:
    """As a row of a list has it."""
    found = {'straight': round(self.straight, 3), 'skipped': round(self.skipped, 3)}
    found |= {'back': self.back, 'stall': round(self.stall, 3)}
    return {'aligned': self.good, **found, 'problems': list(self.problems)}


def judge(
  weights: Float[np.ndarray, 's u'],
  sounding: Bool[np.ndarray, ' u'],
  step_seconds: float,
  ended: bool,
  limits: Limits = LIMITS,
) -> Verdict:
  """Judges the attention of the steps of a clip to its text.

  Args:
    weights: of the symbols at every step; rows sum to one.
    sounding: which symbols are sounds: spaces and marks may be skipped, and pauses last there.
    step_seconds: of a step.
    ended: whether the clip ended by itself.
    limits: see `Limits`.
  """
  s, u = weights.shape
  if not s or not sounding.any():
    return Verdict(ended, 0.0, 1.0, 0, 0.0, ('says nothing',))
  symbols, steps = warp(-np.log(weights.T + 1e-8))
  straight = float(weights[steps, symbols].mean())
  strongest = weights.max(axis=0)[sounding]
  skipped = float((strongest < limits.weight).mean())
  # The place of a step is where half of its weight lies to each side: single outliers count little.
  place = (np.cumsum(weights, axis=1) < 0.5).sum(axis=1).clip(0, u - 1)
  back = int((np.maximum.accumulate(place) - place).max())
  best = weights.argmax(axis=1)
  cuts = np.flatnonzero(np.diff(best)) + 1
  lengths = [(len(run), run[0]) for run in np.split(best, cuts)]
  stall = step_seconds * max((n for n, symbol in lengths if sounding[symbol]), default=0)
  problems = []
  if not ended:
    problems.append('does not end')
  if straight < limits.straight:
    problems.append('does not follow the text')
  if skipped > limits.skipped:
    problems.append(f'skips {skipped:.0%} of the sounds')
  if back > limits.back:
    problems.append(f'goes back by {back} symbols')
  if stall > limits.stall:
    problems.append(f'stays {stall:.1f} s at one symbol')
  return Verdict(ended, straight, skipped, back, stall, tuple(problems))


def attention(
  model: Any,
  variables: Any,
  codes: Sequence[np.ndarray],
  conditions: Mapping[str, Any],
) -> list[Float[np.ndarray, 's u']]:
  """How much the steps of clips attend to the symbols of their texts.

  Args:
    model: a `models.code_lm.CodeLM` with texts.
    variables: its weights.
    codes: of the clips, [n, g], without ends.
    conditions: as of `generate_codes`.
  """
  longest = max(1, *map(len, codes))
  width = -(-longest // STEP) * STEP
  room = model.max_steps - model.codebooks + 1 if model.pattern == 'delay' else model.max_steps
  room = room // model.codebooks if model.pattern == 'flat' else room
  units = np.full((len(codes), max(longest, min(width, room)), model.codebooks), -1, np.int32)
  for row, each in zip(units, codes):
    row[: len(each)] = each
  given = padded_conditions(model, conditions, len(codes))
  found = jax.device_get(_attention(model, variables, {'units': units, **given}))
  mask = given['text_mask'] if model.texts.states else given['text'] >= 0
  # Of the steps those that predict a code of the first codebook.
  order = code_patterns.step_of(model.pattern, units.shape[1], model.codebooks)[:, 0]
  return [np.exp(x[order[: len(c)]][:, seen]) for x, c, seen in zip(found, codes, mask)]


@functools.partial(jax.jit, static_argnames=('model',))
def _attention(model, variables, batch):
  return model.apply(variables, batch)['alignment']
