"""What a run of the heads of SUPERB may change."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from research.evals import superb
from research.evals.superb import Recipe, Task


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a run may change.

  Attributes:
    steps: optimiser steps; None for the published number.
    lrs: learning rates that are tried; the best on the validation clips is reported. None for the
      published one.
    seeds: runs of every learning rate, each with a seed of its own; scores are their mean.
    frames: 'cache', the layers of all clips on disk, or 'stream', computed in every step.
    dtype: of the layers on disk.
    buckets: lengths to which clips are padded, where they are not all alike.
    normalize: every layer is layer-normed before the mix (not on the public board).
    evaluations: the least number of evaluations in a run; the published interval is shortened to
      it where a run has few steps.
    head_args: {recipe: arguments of its head that differ from the published ones}.
    batch_size: clips of a micro-batch; None for the published number.
    lm: an n-gram of words with which the texts of ASR are searched too.
    lexicon: its words.
    debug: a trial run: few steps, narrow heads.
  """

  steps: int | None = None
  lrs: Sequence[float] | None = None
  seeds: int = 1
  frames: str = 'cache'
  dtype: str = 'float16'
  buckets: int = 4
  normalize: bool = False
  evaluations: int = 10
  head_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  batch_size: int | None = None
  lm: str | None = None
  lexicon: str | None = None
  debug: bool = False

  def total(self, recipe: Recipe) -> int:
    """Steps of a run."""
    return self.steps or (superb.DEBUG_STEPS if self.debug else recipe.steps)

  def heads(self, task: Task) -> dict[str, Any]:
    """Arguments of a task's head that are not those of the task."""
    narrow = superb.DEBUG_HEADS.get(task.how.head, {}) if self.debug else {}
    return {**narrow, **self.head_args.get(task.recipe, {})}
