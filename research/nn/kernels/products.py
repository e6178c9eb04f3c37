"""Matrix products on CPUs.

XLA's CPU library has fast products of bfloat16 if their result is asked for in float32, where it is
summed anyway, and if they sum over the last axis of the first matrix. On a processor with AMX they
do about four times as many operations a second as those of float32; other products of bfloat16 are
done in float32, and slower than it.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float


def dot(x: Float[Array, 'm k'], y: Float[Array, '...'], side: int = 0) -> Float[Array, 'm n']:
  """x y in float32, of y [k, n], or with `side` 1 of y [n, k]."""
  sums = (((1,), (side,)), ((), ()))
  return jax.lax.dot_general(x, y, sums, preferred_element_type=jnp.float32)


def dot_rows(x: Float[Array, 'k *m'], y: Float[Array, 'k *n']) -> Float[Array, '*m_and_n']:
  """The sum over k of x and y in float32."""
  shape = x.shape[1:] + y.shape[1:]
  x, y = (a.reshape(len(a), math.prod(a.shape[1:])) for a in (x, y))
  if x.dtype == jnp.float32:
    product = jax.lax.dot_general(x, y, (((0,), (0,)), ((), ())))
  else:
    # The transpose has to be there in memory, not only in name.
    product = dot(with_layout_constraint(x.T, Layout(major_to_minor=(0, 1))), y)
  return product.reshape(shape)
