"""Low-rank adapters (LoRA, arXiv 2106.09685) for any kernel of any model.

An adapter is two arrays beside a kernel in the tree of parameters, `lora_a` [i, r] and `lora_b`
[r, o], and the number `lora_scale` = alpha / r. The kernel counts as the matrix [i, o] that is
nearest to a square, whatever its shape ([d, 3, h, k] and [h, k, d] of attention, [i, o] of a Dense,
[i, o] of every layer under `blocks`), so a model need not know of adapters: `effective` gives it
kernel + scale a b. What the paper has beyond this, dropout on the adapter's input, is left out.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.errors import InputError

A, B, SCALE = 'lora_a', 'lora_b', 'lora_scale'
# Layers in one array, the first axis of which is the layer: `layers.run_blocks`.
STACKED = 'blocks'

Tree = Any  # dicts of arrays


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
  """(i, o) of a kernel of that shape: the split nearest to a square, the first of equal ones."""
  splits = [(int(np.prod(shape[:k])), int(np.prod(shape[k:]))) for k in range(1, len(shape))]
  return min(splits, key=lambda io: abs(io[0] - io[1]))


def add(
  params: Tree, key: jax.Array, *, rank: int = 8, alpha: float = 16.0, targets: str
) -> dict[str, Any]:
  """The parameters with adapters beside every kernel whose path `targets` matches.

  `lora_a` is uniform within sqrt(3 / i), `lora_b` is zero: the model computes what it did.

  Args:
    params: of a model.
    key: random key.
    rank: r; each matrix is changed by a sum of r products.
    alpha: scale times rank.
    targets: regular expression of paths, as 'attn/(query|value)/kernel$'.

  Raises:
    InputError: a rank below 1, or no kernel with such a path.
  """
  if rank < 1:
    raise InputError(f'adapters.rank={rank} was given: give 1 or more.')
  seen: list[str] = []
  found: list[str] = []

  def walk(tree: Tree, path: str) -> dict[str, Any]:
    made = {k: walk(v, f'{path}{k}/') if isinstance(v, Mapping) else v for k, v in tree.items()}
    name, kernel = f'{path}kernel', tree.get('kernel')
    if kernel is None or isinstance(kernel, Mapping):
      return made
    layers = kernel.shape[:1] if f'/{STACKED}/' in f'/{path}' else ()
    if kernel.ndim - len(layers) < 2:
      return made
    seen.append(name)
    if not re.search(targets, name):
      return made
    found.append(name)
    i, o = matrix(kernel.shape[len(layers) :])
    bound = (3.0 / i) ** 0.5
    drawn = jax.random.fold_in(key, len(found))
    made[A] = jax.random.uniform(drawn, (*layers, i, rank), jnp.float32, -bound, bound)
    made[B] = jnp.zeros((*layers, rank, o), jnp.float32)
    made[SCALE] = jnp.full(layers, alpha / rank, jnp.float32)
    return made

  made = walk(params, '')
  if not found:
    kernels = sorted({re.sub(r'_\d+/', '_0/', name) for name in seen})
    raise InputError(
      f'adapters.targets={targets!r} matches no kernel: those of this model are '
      f'{", ".join(kernels[:8])} …'
    )
  return made


def effective(params: Tree) -> Any:
  """The parameters that the model computes with: kernels with their adapters added, nothing else
  beside them. Parameters without adapters are given back as they are."""
  if not isinstance(params, Mapping):
    return params
  made = {k: effective(v) for k, v in params.items() if k not in (A, B, SCALE)}
  if A not in params:
    return made if any(made[k] is not params[k] for k in made) else params
  kernel, a, b, scale = (params[k] for k in ('kernel', A, B, SCALE))
  change = scale[..., None, None] * (a @ b)
  return made | {'kernel': kernel + change.reshape(kernel.shape).astype(kernel.dtype)}


def merged(variables: Tree) -> dict[str, Any]:
  """The variables of the plain model: `effective` of all collections, as saved weights have it."""
  return {name: effective(tree) for name, tree in variables.items()}


def trained(path: str, others: str | None = None) -> bool:
  """Whether a parameter learns: those of adapters, and those that the pattern `others` matches."""
  return path.endswith((f'/{A}', f'/{B}')) or bool(others and re.search(others, path))
