"""The mean of the weights of several checkpoints of a run (weight averaging)."""

import dataclasses
import os

import jax.numpy as jnp
import numpy as np

from research.errors import InputError
from research.jobs import paths
from research.weights import read, tables
from research.weights.pretrained import Pretrained, load


def average(
  workdir: str | os.PathLike, first: int = 0, last: int | None = None, *, teacher: bool = False
) -> Pretrained:
  """The mean of all kept checkpoints of a run, in float64; counters and tables of whole numbers are
  those of the last one.

  AST averages the weights of the ends of epochs (arXiv 2104.01778, section 3.1); a run keeps those
  with `config.checkpoint.keep` of their number.

  Args:
    workdir: of the run.
    first, last: steps of the first and of the last checkpoint that counts; None for the newest.
    teacher: take the EMA teachers.

  Raises:
    InputError: there are fewer than two such checkpoints, or one cannot be read.
  """
  place = paths.path(workdir)
  if not read.is_workdir(place):
    raise InputError(f'{str(place)!r} is no run: expected config.json and checkpoints/.')
  steps = sorted(int(p.name) for p in (place / 'checkpoints').iterdir() if p.name.isdigit())
  chosen = [s for s in steps if s >= first and (last is None or s <= last)]
  if len(chosen) < 2:
    raise InputError(
      f'{str(place)!r} keeps checkpoints of steps {steps or "none"}, fewer than two of them in the '
      'range: set config.checkpoint.keep to the number of checkpoints that are averaged.'
    )
  total: dict[str, np.ndarray] = {}
  for step in chosen:
    folder = place / 'checkpoints' / str(step)
    for name, x in tables.flatten(read.read_checkpoint(folder, teacher)).items():
      if jnp.issubdtype(x.dtype, jnp.floating):
        total[name] = total.get(name, np.zeros(x.shape, np.float64)) + x.astype(np.float64)
  newest = load(place / 'checkpoints' / str(chosen[-1]), teacher=teacher)
  flat = {
    name: (total[name] / len(chosen)).astype(x.dtype) if name in total else x
    for name, x in tables.flatten(newest.variables).items()
  }
  origin = f'{newest.origin}, the mean of steps {", ".join(map(str, chosen))}'
  return dataclasses.replace(newest, variables=tables.nest(flat, newest.model), origin=origin)
