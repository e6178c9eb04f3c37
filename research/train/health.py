"""Health signals of a run, and limits that warn of or stop a collapse."""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.errors import InputError


def representation_std(
  z: Float[Array, 'b d'], valid: Bool[Array, 'b'] | None = None
) -> Float[Array, '']:
  """Standard deviation over the batch of l2-normalised rows, averaged over dimensions.

  It is 1/sqrt(d) for rows uniform on the sphere and 0 if all rows are equal (SimSiam, §4.1:
  https://arxiv.org/abs/2011.10566). It is returned times sqrt(d), so 1 is healthy for any width.
  Rows that are not valid do not count.
  """
  z = z.astype(jnp.float32)
  z = z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
  where = None if valid is None else valid[:, None]
  return jnp.std(z, axis=0, where=where).mean() * jnp.sqrt(jnp.float32(z.shape[-1]))


def effective_rank(
  z: Float[Array, 'b d'], valid: Bool[Array, 'b'] | None = None
) -> Float[Array, '']:
  """Effective rank of the rows: (sum of l)^2 / sum of l^2, with l the eigenvalues of their
  covariance.

  The exponential of the second-order Renyi entropy of the spectrum. (Roy and Vetterli, 2007, use
  the first order.) The second order needs no eigenvalues. It is 1 if all rows are on a line, and
  at most min(b - 1, d). Rows that are not valid do not count.
  """
  z = z.astype(jnp.float32)
  where = None if valid is None else valid[:, None]
  z = z - z.mean(axis=0, where=where)
  z = z if where is None else jnp.where(where, z, 0.0)
  z = z / jnp.maximum(jnp.sqrt(jnp.square(z).sum()), 1e-12)
  smaller = z @ z.T if z.shape[0] < z.shape[1] else z.T @ z
  return jnp.square(jnp.trace(smaller)) / jnp.maximum(jnp.square(smaller).sum(), 1e-12)


# Fractions of the codes in use, and perplexities: means over codebooks, and the lowest.
CODEBOOKS = ('code_usage', 'min_code_usage', 'code_perplexity', 'min_code_perplexity')


def signals(out: Mapping[str, Any], valid: Bool[Array, 'b'] | None = None) -> dict[str, jax.Array]:
  """Health signals of a model's outputs.

  Args:
    out: model outputs. Signals are computed from `embedding` [b, d] and, for models that compare r
      views, from `projection` [r, b, p], which collapses first; those of codebooks (CODEBOOKS) are
      taken as they are. All are optional.
    valid: False for fillers, which do not count.
  """
  found = {}
  if 'embedding' in out:
    z = jax.lax.stop_gradient(out['embedding'])
    found = {
      'representation_std': representation_std(z, valid),
      'effective_rank': effective_rank(z, valid),
    }
  if 'projection' in out:
    z = jax.lax.stop_gradient(out['projection'][0])
    found |= {
      'projection_std': representation_std(z, valid),
      'projection_rank': effective_rank(z, valid),
    }
  return found | {name: jax.lax.stop_gradient(out[name]) for name in CODEBOOKS if name in out}


# Settings of a limit and their types.
LIMIT = dict(
  min=float, max=float, after=int, stop=bool, trace=str, min_fraction=float, max_fraction=float,
  patience=int, says=str,
)  # fmt: skip


class Limit:
  """Healthy range of one metric.

  Args:
    name: name of the metric.
    spec: `min`, `max`: absolute bounds. `trace`: metrics.jsonl of a healthy run; `min_fraction`,
      `max_fraction`: bounds relative to its value at the same step (interpolated; constant after
      its last step). `after`: first step to check. `patience`: number of consecutive log lines
      outside the bounds before it counts. `says`: what it means, for the warning. `stop`: end the
      run.

  Raises:
    InputError: an invalid setting, or a trace that cannot be read.
  """

  def __init__(self, name: str, spec: Mapping[str, Any]):
    where = f'config.watch.{name}'
    for key, value in spec.items():
      if key not in LIMIT:
        raise InputError(f'{where} has {key!r}; expected one of {", ".join(LIMIT)}.')
      if value is None or LIMIT[key] in (bool, str):
        continue
      if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f'{where}.{key} is {value!r}; it must be a number.')
    self.name, self.spec = name, {k: v for k, v in spec.items() if v is not None}
    self.after, self.stop = self.spec.get('after', 0), bool(self.spec.get('stop'))
    self.patience = max(int(self.spec.get('patience', 1)), 1)
    fractions = [k for k in ('min_fraction', 'max_fraction') if k in self.spec]
    if bool(fractions) != ('trace' in self.spec):
      raise InputError(
        f'{where}: trace and min_fraction or max_fraction go together; give both or neither.'
      )
    self._trace = read_trace(self.spec['trace'], name) if 'trace' in self.spec else None
    self._crossed = 0

  def crossed(self, step: int, value: float) -> str:
    """The violated bound, in words, once it was violated for `patience` calls; otherwise ''."""
    if step < self.after:
      return ''
    wrong = [] if math.isfinite(value) else ['not finite']
    wrong += [f'below {low:g}{why}' for low, why in self._bounds(step, 'min') if value < low]
    wrong += [f'above {top:g}{why}' for top, why in self._bounds(step, 'max') if value > top]
    self._crossed = self._crossed + 1 if wrong else 0
    return wrong[0] if self._crossed >= self.patience else ''

  def _bounds(self, step: int, side: str) -> list[tuple[float, str]]:
    """(bound, explanation) pairs of one side, 'min' or 'max'."""
    bounds = [(self.spec[side], '')] if side in self.spec else []
    fraction = self.spec.get(f'{side}_fraction')
    if fraction is not None and self._trace is not None:
      healthy = float(np.interp(step, *self._trace))
      why = f' ({fraction:g} x {healthy:.3g} of the healthy run)'
      bounds.append((fraction * healthy, why))
    return bounds


def read_trace(path: str, name: str) -> tuple[np.ndarray, np.ndarray]:
  """(steps, values) of a metric in the metrics.jsonl of a run."""
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
  """Checks logged metrics against limits; warns once each time a limit is crossed.

  Args:
    limits: {metric: settings of its `Limit`}.
  """

  def __init__(self, limits: Mapping[str, Mapping[str, Any]]):
    self._limits = [Limit(name, spec) for name, spec in limits.items()]
    self._warned: set[str] = set()

  def check(self, step: int, metrics: Mapping[str, float]) -> list[str]:
    """New warnings of this step.

    Raises:
      InputError: a limit with `stop` is crossed.
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
      text += f': {limit.spec["says"]}' if 'says' in limit.spec else ''
      if limit.stop:
        raise InputError(f'{text}; config.watch.{name}.stop ends the run here.')
      if name not in self._warned:
        self._warned.add(name)
        warnings.append(text)
    return warnings
