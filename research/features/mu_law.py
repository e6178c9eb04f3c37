"""Mu-law companding in the three conventions of published WaveNets.

f(x) = sign(x) log(1 + mu |x|) / log(1 + mu), mu one below the number of classes.

| convention | code of x | x of a code q |
|---|---|---|
| `round` (ibab/tensorflow-wavenet) | floor((f + 1) / 2 mu + 1 / 2) | f^-1(2 q / mu - 1) |
| `truncate` (nnmnkwii, r9y9/wavenet_vocoder) | floor((f + 1) / 2 mu) | f^-1(2 q / mu - 1) |
| `floor` (NSynth) | floor(f c / 2) + c / 2 | f^-1((q - c / 2 + 1 / 2) 2 / c), 0 at q = c / 2 |

c is the number of classes. Silence is 128, 127 and 128 of 256. Encoding what was decoded gives the
same code under `round`; under `truncate` it is one below for some codes, as published.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from research.errors import InputError, unknown
from research.features.spectral import Array

CONVENTIONS = ('round', 'truncate', 'floor')


def check(convention: str, classes: int) -> None:
  """Raises InputError for an unknown convention, or classes that no code can have."""
  if convention not in CONVENTIONS:
    raise unknown('mu-law convention', convention, CONVENTIONS)
  if classes < 2 or (convention == 'floor' and classes % 2):
    raise InputError(
      f'Mu-law {convention!r} with {classes} classes was asked for: give at least 2, and an even '
      "number under 'floor'."
    )


def compress(x: Float[Array, '*b'], mu: float) -> Float[jax.Array, '*b']:
  """f(x), [-1, 1] to [-1, 1]."""
  x = jnp.asarray(x)
  return jnp.sign(x) * jnp.log1p(mu * jnp.abs(x)) / jnp.log1p(jnp.float32(mu))


def expand(y: Float[Array, '*b'], mu: float) -> Float[jax.Array, '*b']:
  """The inverse of `compress`."""
  y = jnp.asarray(y)
  size = jnp.expm1(jnp.abs(y) * jnp.log1p(jnp.float32(mu))) / mu
  return jnp.sign(y) * size


def encode(
  x: Float[Array, '*b'], classes: int = 256, convention: str = 'round'
) -> Int[jax.Array, '*b']:
  """Samples, clipped to [-1, 1], as codes 0 to classes - 1.

  Args:
    x: samples.
    classes: number of codes.
    convention: of CONVENTIONS.

  Raises:
    InputError: see `check`.
  """
  check(convention, classes)
  mu = classes - 1
  y = compress(jnp.clip(jnp.asarray(x, jnp.float32), -1.0, 1.0), mu)
  if convention == 'floor':
    found = jnp.floor(y * (classes // 2)) + classes // 2
  else:
    found = jnp.floor((y + 1.0) / 2.0 * mu + (0.5 if convention == 'round' else 0.0))
  # Under 'floor' x = 1 would have a code of its own.
  return jnp.clip(found, 0, classes - 1).astype(jnp.int32)


def decode(
  codes: Int[Array, '*b'], classes: int = 256, convention: str = 'round'
) -> Float[jax.Array, '*b']:
  """Codes as samples in [-1, 1].

  Args:
    codes: 0 to classes - 1.
    classes, convention: as in `encode`.

  Raises:
    InputError: see `check`.
  """
  check(convention, classes)
  q = jnp.asarray(codes).astype(jnp.float32)
  if convention == 'floor':
    half = classes // 2
    return jnp.where(q == half, 0.0, expand((q - half + 0.5) / half, classes - 1))
  return expand(2.0 * q / (classes - 1) - 1.0, classes - 1)


def silence(classes: int = 256, convention: str = 'round') -> int:
  """The code of 0."""
  check(convention, classes)
  if convention == 'truncate':
    return (classes - 1) // 2
  return classes // 2
