"""The recurrence of an LSTM, with its derivative written out.

Left to JAX, the gradient of the recurrent kernel is a sum of small products, one a step; written
out, it is one product over all steps at the end.
Letters: n steps, k directions, b batch, h units; gates are i, f, g, o, side by side, as torch has
them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def gates(
  z: Float[Array, '*axes h4'], c: Float[Array, '*axes h']
) -> tuple[Float[Array, '*axes h4'], Float[Array, '*axes h'], Float[Array, '*axes h']]:
  """(activated gates, next c, next h) of pre-activations z and cell state c."""
  i, f, g, o = jnp.split(z, 4, axis=-1)
  i, f, o = (jax.nn.sigmoid(x) for x in (i, f, o))
  g = jnp.tanh(g)
  c = f * c + i * g
  return jnp.concatenate([i, f, g, o], axis=-1), c, o * jnp.tanh(c)


@jax.custom_vjp
def lstm(
  z: Float[Array, 'n k b h4'],
  kernel: Float[Array, 'k h h4'],
  mask: Bool[Array, 'n k b'],
  state: tuple[Float[Array, 'k b h'], Float[Array, 'k b h']],
) -> tuple[Float[Array, 'n k b h'], tuple[Float[Array, 'k b h'], Float[Array, 'k b h']]]:
  """Outputs of all steps, 0 where the mask is False, and the last state (h, c).

  Args:
    z: what inputs and biases give to the gates.
    kernel: what the last output gives to them.
    mask: steps that are there; the others leave the state as it is.
    state: the first h and c.
  """
  (y, _, _), last = _forward(z, kernel, mask, state)
  return y, last


def _forward(z, kernel, mask, state):
  def step(state, given):
    z, real = given
    h, c = state
    active, new_c, new_h = gates(z + _product(h, kernel), c)
    real = real[..., None]
    y = jnp.where(real, new_h, 0.0)
    state = jnp.where(real, new_h, h), jnp.where(real, new_c, c)
    return state, (y, active, state)

  last, kept = jax.lax.scan(step, state, (z, mask))
  return kept, last


def _product(h, kernel):
  return jnp.einsum('kbh,khg->kbg', h, kernel)


def _save(z, kernel, mask, state):
  (y, active, states), last = _forward(z, kernel, mask, state)
  return (y, last), (kernel, mask, state, active, states)


def _derive(saved, cotangents):
  kernel, mask, first, active, states = saved
  dy, last = cotangents
  # The state before each step, and the cell state after it.
  before = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y[:-1]]), first, states)
  turned = kernel.swapaxes(1, 2)

  def step(carry, given):
    dh, dc = carry
    dy, active, c, c_before, real = given
    real = real[..., None]
    i, f, g, o = jnp.split(active, 4, axis=-1)
    own_h, tanh = dy + dh, jnp.tanh(c)
    own_c = dc + own_h * o * (1.0 - tanh * tanh)
    dz = jnp.concatenate(
      [
        own_c * g * i * (1.0 - i),
        own_c * c_before * f * (1.0 - f),
        own_c * i * (1.0 - g * g),
        own_h * tanh * o * (1.0 - o),
      ],
      axis=-1,
    )
    dz = jnp.where(real, dz, 0.0)
    carry = jnp.where(real, _product(dz, turned), dh), jnp.where(real, own_c * f, dc)
    return carry, dz

  given = (dy, active, states[1], before[1], mask)
  state, dz = jax.lax.scan(step, last, given, reverse=True)
  return dz, jnp.einsum('nkbh,nkbg->khg', before[0], dz), None, state


lstm.defvjp(_save, _derive)
