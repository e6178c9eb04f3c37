"""Weights in the precision in which they are read."""

from typing import Any

import jax
import jax.numpy as jnp

# Parameters that a layer casts to its dtype before anything else is done with them.
CAST = ('kernel', 'token_embedding')


def held(params: Any, dtype: Any) -> Any:
  """Parameters as inference holds them: matrices of products and token tables in the dtype of the
  model, others as they are.

  Layers cast these to their dtype before they use them, so that outputs are the same bits; with
  bfloat16, the weights need half of the memory, and a step of decoding reads half of the bytes.

  Args:
    params: arrays, or shapes with a dtype, as a model has them, or all of its variables.
    dtype: of the model.
  """
  kind = jnp.dtype(dtype)

  def cast(path: Any, x: Any) -> Any:
    if path[-1].key not in CAST or x.dtype != jnp.float32:
      return x
    shape = isinstance(x, jax.ShapeDtypeStruct)
    return jax.ShapeDtypeStruct(x.shape, kind) if shape else x.astype(kind)

  return params if kind == jnp.float32 else jax.tree_util.tree_map_with_path(cast, params)
