"""Signs that a run has collapsed, each with a name, a threshold and a warning."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
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


def signals(out: Mapping[str, Any]) -> dict[str, jax.Array]:
  """Health signals that any model gives by naming `embedding` [b, d] among its outputs."""
  z = out.get('embedding')
  return {} if z is None else {'representation_std': representation_std(jax.lax.stop_gradient(z))}


class Watch:
  """Checks logged metrics against limits and says once, by name, which one was crossed.

  Args:
    limits: {metric: dict(min=…, max=…, after=first step that is checked, stop=end the run)}.
  """

  def __init__(self, limits: Mapping[str, Mapping[str, Any]]):
    for name, limit in limits.items():
      wrong = set(limit) - {'min', 'max', 'after', 'stop'}
      if wrong:
        raise InputError(
          f'config.watch.{name} has {sorted(wrong)[0]!r}; it takes min, max, after and stop.'
        )
      for key in {'min', 'max', 'after'} & set(limit):
        value = limit[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
          raise InputError(f'config.watch.{name}.{key} is {value!r}; it must be a number.')
    self._limits = limits
    self._crossed: set[str] = set()

  def check(self, step: int, metrics: Mapping[str, float]) -> list[str]:
    """Warnings of this step (new ones only).

    Raises:
      InputError: when a limit with `stop` is crossed.
    """
    warnings = []
    for name, limit in self._limits.items():
      if name not in metrics or step < limit.get('after', 0):
        continue
      value = float(metrics[name])
      low, high = limit.get('min'), limit.get('max')
      bad = (low is not None and value < low) or (high is not None and value > high)
      if not bad:
        self._crossed.discard(name)
        continue
      bound = f'below {low:g}' if low is not None and value < low else f'above {high:g}'
      text = f'collapse warning: {name} is {value:.3g} at step {step}, {bound}'
      if limit.get('stop'):
        raise InputError(f'{text}; config.watch.{name}.stop ends the run here.')
      if name not in self._crossed:
        self._crossed.add(name)
        warnings.append(text)
    return warnings
