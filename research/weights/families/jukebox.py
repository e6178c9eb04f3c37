"""Key tables and figures of Jukebox, under openai's names and under transformers'.

Keys are openai's; `renamed` turns transformers' names into them and back.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from research.errors import InputError
from research.nn import codebooks
from research.weights.tables import Rule

Arrays = Mapping[str, np.ndarray]


def conv(theirs: str, ours: str, layout: str = 'conv1d') -> list[Rule]:
  """Rules of a convolution: weight and bias."""
  return [
    Rule(f'{theirs}.weight', f'{ours}/kernel', layout),
    Rule(f'{theirs}.bias', f'{ours}/bias'),
  ]


def residual_stack(theirs: str, ours: str, blocks: int) -> list[Rule]:
  """Rules of a row of residual blocks, `theirs` with {j} for the block."""
  rules = []
  for j in range(blocks):
    t, o = theirs.replace('{j}', str(j)), f'{ours}/blocks_{j}'
    rules += [*conv(f'{t}.model.1', f'{o}/conv3'), *conv(f'{t}.model.3', f'{o}/conv1')]
  return rules


# -- VQ-VAE ------------------------------------------------------------------------------------


def vqvae_rules(model: Any) -> list[Rule]:
  """The key table of a VQ-VAE."""
  rules = []
  for level, coder in enumerate(model.coders):
    depth = len(coder.dilations)
    for i, down in enumerate(coder.downs):
      t, o = f'encoders.{level}.level_blocks.{i}.model', f'params/encoders_{level}'
      for j in range(down):
        rules += conv(f'{t}.{j}.0', f'{o}/down_{i}_{j}')
        rules += residual_stack(f'{t}.{j}.1.model.{{j}}', f'{o}/stack_{i}_{j}', depth)
      rules += conv(f'{t}.{down}', f'{o}/out_{i}')
      t, o = f'decoders.{level}.level_blocks.{i}.model', f'params/decoders_{level}'
      rules += conv(f'{t}.0', f'{o}/in_{i}')
      for j in range(down):
        rules += residual_stack(f'{t}.{j + 1}.0.model.{{j}}', f'{o}/stack_{i}_{j}', depth)
        rules += conv(f'{t}.{j + 1}.1', f'{o}/up_{i}_{j}', 'conv_transpose1d')
    rules += conv(f'decoders.{level}.out', f'params/decoders_{level}/out')
    vectors = f'codebooks/codebooks_{level}/vectors'
    rules.append(Rule(f'bottleneck.level_blocks.{level}.k', vectors, 'row'))
  return rules


def vqvae_derived(model: Any, flat: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """What codebooks keep besides their vectors: files hold no running numbers, and official training
  begins anew from the expected ones (make_models.py, make_vqvae)."""
  found: dict[str, np.ndarray] = {}
  for level, hop in enumerate(model.hops):
    path = f'codebooks/codebooks_{level}'
    usage = model.restored_samples // hop / model.l_bins
    state = codebooks.restore(jnp.asarray(flat[f'{path}/vectors'][0]), usage)
    parts = {name: np.asarray(value)[None] for name, value in state._asdict().items()}
    found |= {f'{path}/{name}': x for name, x in parts.items() if name != 'vectors'}
    found[f'{path}/begun'] = np.ones(1, bool)
  return found


def vqvae_figures(arrays: Arrays) -> dict[str, Any]:
  """Arguments of `jukebox_vqvae` that show in the arrays of a VQ-VAE.

  Raises:
    InputError: it is none.
  """
  levels = count(arrays, 'encoders.')
  top = f'encoders.{levels - 1}.level_blocks'
  if not levels or f'{top}.0.model.0.0.weight' not in arrays:
    raise InputError('The file holds no encoders.0.level_blocks: it is no VQ-VAE of Jukebox.')
  downs, strides = [], []
  for i in range(levels):
    downs.append(count(arrays, f'{top}.{i}.model.') - 1)
    strides.append(arrays[f'{top}.{i}.model.0.0.weight'].shape[2] // 2)
  firsts = [f'encoders.{i}.level_blocks.0.model.0' for i in range(levels)]
  widths = [arrays[f'{first}.0.weight'].shape[0] for first in firsts]
  depths = [count(arrays, f'{first}.1.model.') for first in firsts]
  # The level with the least of both has a multiplier of 1.
  width, depth = min(widths), min(depths)
  multipliers = [w // width for w in widths]
  if [width * m for m in multipliers] != widths or [depth * m for m in multipliers] != depths:
    raise InputError(
      f'Levels of width {widths} and depth {depths} were found, which are no multiples of one pair.'
    )
  hidden = arrays[f'{firsts[-1]}.1.model.0.model.1.weight'].shape[0]
  bins, emb_width = arrays['bottleneck.level_blocks.0.k'].shape
  return dict(
    downs_t=tuple(downs), strides_t=tuple(strides), emb_width=emb_width, l_bins=bins,
    multipliers=tuple(multipliers), width=width, depth=depth, m_conv=hidden / widths[-1],
  )  # fmt: skip


def count(arrays: Arrays, prefix: str) -> int:
  """Of names that begin with the prefix and a number, the largest number + 1; 0 for none."""
  numbers = {
    int(key[len(prefix) :].split('.')[0])
    for key in arrays
    if key.startswith(prefix) and key[len(prefix) :].split('.')[0].isdecimal()
  }
  return max(numbers) + 1 if numbers else 0


# -- Names of transformers ---------------------------------------------------------------------


def renamed(arrays: Arrays, changes: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
  """Arrays with patterns in their names replaced, one after the other."""
  found = {}
  for key, x in arrays.items():
    for pattern, new in changes:
      key = re.sub(pattern, new, key)
    found[key] = x
  return found
