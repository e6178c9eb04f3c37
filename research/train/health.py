"""Signs that a run has collapsed, each with a name, a threshold and a warning."""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research.errors import InputError


def representation_std(z: Float[Array, 'b d']) -> Float[Array, '']:
  """Mean over dimensions of the standard deviation over the batch of the l2-normalised rows.

  It is 1/sqrt(d) for rows spread evenly over the sphere and 0 when all rows are one (SimSiam, §4.1:
  https://arxiv.org/abs/2011.10566); given here as a fraction of that, so 1 is healthy for any
  width.
  """
  z = z.astype(jnp.float32)
  z = z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
  return jnp.std(z, axis=0).mean() * jnp.sqrt(jnp.float32(z.shape[-1]))


def effective_rank(z: Float[Array, 'b d']) -> Float[Array, '']:
  """How many directions the rows spread over: (sum of l)^2 / sum of l^2, l the eigenvalues of
  their covariance.

  exp of the second Renyi entropy of the spectrum (of Roy and Vetterli's effective rank, 2007, the
  first), which needs no eigenvalues: 1 when all rows are on a line, at most min(b - 1, d).
  """
  z = z.astype(jnp.float32)
  z = z - z.mean(axis=0)
  z = z / jnp.maximum(jnp.sqrt(jnp.square(z).sum()), 1e-12)
  smaller = z @ z.T if z.shape[0] < z.shape[1] else z.T @ z
  return jnp.square(jnp.trace(smaller)) / jnp.maximum(jnp.square(smaller).sum(), 1e-12)


def signals(out: Mapping[str, Any]) -> dict[str, jax.Array]:
  """Health signals that any model gives by naming `embedding` [b, d] among its outputs, and
  `projection` [r, b, p] if it compares projections of r views: these collapse first."""
  found = {}
  if 'embedding' in out:
    z = jax.lax.stop_gradient(out['embedding'])
    found = {'representation_std': representation_std(z), 'effective_rank': effective_rank(z)}
  if 'projection' in out:
    z = jax.lax.stop_gradient(out['projection'][0])
    found |= {'projection_std': representation_std(z), 'projection_rank': effective_rank(z)}
  return found


# What a limit may say, and of which type it is.
LIMIT = dict(
  min=float, max=float, after=int, stop=bool, trace=str, least=float, most=float, patience=int
)


class Limit:
  """What is healthy for one metric.

  Args:
    name: of the metric.
    spec: `min`, `max`: bounds. `trace`: the metrics.jsonl of a healthy run, of which the metric
      must keep at least the share `least` and at most `most` at the same step (interpolated; its
      last value from its last step on). `after`: the first step that is checked. `patience`: for
      so many lines in a row a bound must be crossed. `stop`: end the run.

  Raises:
    InputError: naming the setting that cannot be, or the trace that cannot be read.
  """

  def __init__(self, name: str, spec: Mapping[str, Any]):
    where = f'config.watch.{name}'
    for key, value in spec.items():
      if key not in LIMIT:
        raise InputError(f'{where} has {key!r}; it takes {", ".join(LIMIT)}.')
      if value is None or LIMIT[key] in (bool, str):
        continue
      if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f'{where}.{key} is {value!r}; it must be a number.')
    self.name, self.spec = name, {k: v for k, v in spec.items() if v is not None}
    self.after, self.stop = self.spec.get('after', 0), bool(self.spec.get('stop'))
    self.patience = max(int(self.spec.get('patience', 1)), 1)
    shares = [k for k in ('least', 'most') if k in self.spec]
    if bool(shares) != ('trace' in self.spec):
      raise InputError(f'{where}: trace and least or most go together.')
    self._trace = read_trace(self.spec['trace'], name) if 'trace' in self.spec else None
    self._crossed = 0

  def crossed(self, step: int, value: float) -> str:
    """What is wrong at this step, for long enough; '' if nothing is."""
    if step < self.after:
      return ''
    found = [] if math.isfinite(value) else ['not finite']
    found += [
      f'below {low:g}{why}' for low, why in self._bounds(step, 'min', 'least') if value < low
    ]
    found += [
      f'above {top:g}{why}' for top, why in self._bounds(step, 'max', 'most') if value > top
    ]
    self._crossed = self._crossed + 1 if found else 0
    return found[0] if self._crossed >= self.patience else ''

  def _bounds(self, step: int, bound: str, share: str) -> list[tuple[float, str]]:
    bounds = [(self.spec[bound], '')] if bound in self.spec else []
    if share in self.spec and self._trace is not None:
      healthy = float(np.interp(step, *self._trace))
      why = f' ({self.spec[share]:g} of the {healthy:.3g} of the healthy run)'
      bounds.append((self.spec[share] * healthy, why))
    return bounds


def read_trace(path: str, name: str) -> tuple[np.ndarray, np.ndarray]:
  """(steps, values) of a metric in a run's metrics.jsonl."""
  try:
    with open(path, encoding='utf-8') as file:
      rows = [json.loads(line) for line in file if line.strip()]
  except (OSError, ValueError) as error:
    raise InputError(
      f'config.watch.{name}.trace: {path} cannot be read as the metrics.jsonl of a run ({error}).'
    ) from None
  found = [(row['step'], row[name]) for row in rows if name in row and 'step' in row]
  if not found:
    raise InputError(f'config.watch.{name}.trace: {path} has no {name!r} in any line.')
  steps, values = zip(*sorted(found))
  return np.asarray(steps, float), np.asarray(values, float)


class Watch:
  """Checks logged metrics against limits and says once, by name, which one was crossed.

  Args:
    limits: {metric: what `Limit` takes}.
  """

  def __init__(self, limits: Mapping[str, Mapping[str, Any]]):
    self._limits = [Limit(name, spec) for name, spec in limits.items()]
    self._warned: set[str] = set()

  def check(self, step: int, metrics: Mapping[str, float]) -> list[str]:
    """Warnings of this step (new ones only).

    Raises:
      InputError: when a limit with `stop` is crossed.
    """
    warnings = []
    for limit in self._limits:
      name = limit.name
      if name not in metrics:
        continue
      wrong = limit.crossed(step, float(metrics[name]))
      if not wrong:
        self._warned.discard(name)
        continue
      text = f'collapse warning: {name} is {float(metrics[name]):.3g} at step {step}, {wrong}'
      if limit.stop:
        raise InputError(f'{text}; config.watch.{name}.stop ends the run here.')
      if name not in self._warned:
        self._warned.add(name)
        warnings.append(text)
    return warnings
