"""Key tables and figures of Jukebox, under openai's names; `jukebox_names` has transformers'."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from research.errors import InputError
from research.models.jukebox_attention import LYRICS, attn_functions
from research.models.jukebox_sizes import SIZES
from research.nn import codebooks
from research.weights.stated import NOTHING, Stated, settle
from research.weights.tables import Rule, expected, vector

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
        rules += conv(f'{t}.{j + 1}.1', f'{o}/up_{i}_{j}', 'conv1d_transposed')
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


# -- Priors ------------------------------------------------------------------------------------


def conv1d(theirs: str, ours: str) -> list[Rule]:
  """Rules of the original's Conv1D, whose `w` is [in, out]."""
  return [Rule(f'{theirs}.w', f'{ours}/kernel'), Rule(f'{theirs}.b', f'{ours}/bias')]


def transformer_rules(
  theirs: str, ours: str, functions: Sequence[int], heads: int, starts: bool
) -> list[Rule]:
  """Rules of a ConditionalAutoregressive2D without its output."""
  rules = [
    Rule(f'{theirs}.x_emb.weight', f'{ours}/embedding'),
    Rule(f'{theirs}.pos_emb.pos_emb', f'{ours}/positions_embedding'),
  ]
  if starts:
    rules.append(Rule(f'{theirs}.start_token', f'{ours}/start_token'))
  for i, function in enumerate(functions):
    t, o = f'{theirs}.transformer._attn_mods.{i}', f'{ours}/blocks_{i}'
    parts = [('c_attn', 'qkv', 'conv1d_heads_in', 'heads_in_bias')]
    if function == LYRICS:
      parts = [
        ('c_attn', 'q', 'conv1d_heads', 'conv1d_heads_bias'),
        ('c_enc_kv', 'kv', 'conv1d_pair', 'conv1d_pair_bias'),
      ]
    for name, part, kernel, bias in parts:
      rules += [
        Rule(f'{t}.attn.{name}.w', f'{o}/attn/{part}/kernel', kernel, heads=heads),
        Rule(f'{t}.attn.{name}.b', f'{o}/attn/{part}/bias', bias, heads=heads),
      ]
    rules += [
      Rule(f'{t}.attn.c_proj.w', f'{o}/attn/proj/kernel', 'conv1d_heads_out', heads=heads),
      Rule(f'{t}.attn.c_proj.b', f'{o}/attn/proj/bias'),
      *vector(f'{t}.ln_0', f'{o}/norm1'),
      *vector(f'{t}.ln_1', f'{o}/norm2'),
      *conv1d(f'{t}.mlp.c_fc', f'{o}/fc1'),
      *conv1d(f'{t}.mlp.c_proj', f'{o}/fc2'),
    ]
  return rules


def prior_rules(model: Any) -> list[Rule]:
  """The key table of a prior."""
  rules = transformer_rules('prior', 'params/prior', model.functions, model.heads, not model.labels)
  if model.merged_decoder:
    rules.append(Rule('prior.x_out.weight', 'params/prior/output_embedding'))
  if model.labels:
    names = {'bow_genre_emb': 'genre', 'artist_emb': 'artist'}
    if not model.upsamples:
      times = ('total_length', 'absolute_pos', 'relative_pos')
      names |= {f'{name}_emb': name for name in times}
    rules += [
      Rule(f'y_emb.{theirs}.emb.weight', f'params/y_emb/{ours}_embedding')
      for theirs, ours in names.items()
    ]
  if model.upsamples:
    t, o = 'conditioner_blocks.0', 'params/conditioner'
    down = model._vq().downs_t[model.own_level + 1]
    rules.append(Rule(f'{t}.x_emb.weight', f'{o}/embedding'))
    rules += conv(f'{t}.cond.model.0', f'{o}/in')
    for j in range(down):
      stack = f'{t}.cond.model.{j + 1}.0.blocks.{{j}}'
      rules += residual_stack(stack, f'{o}/stack_{j}', model.cond_depth)
      rules += conv(f'{t}.cond.model.{j + 1}.1', f'{o}/up_{j}', 'conv1d_transposed')
    rules += vector(f'{t}.ln', f'{o}/norm')
  if model.n_tokens and not model.single_enc_dec:
    functions = attn_functions(model.prime_attn_order, model.prime_depth)
    own = 'prime_prior', 'params/prime_prior', functions, model.prime_heads, True
    rules += transformer_rules(*own)
    rules += conv1d('prime_state_proj', 'params/prime_proj')
    rules += vector('prime_state_ln', 'params/prime_norm')
    rules.append(Rule('prime_x_out.weight', 'params/prime_out_embedding'))
  return rules


def prior_fit(arrays: Arrays, model: Any) -> dict[str, np.ndarray]:
  """Arrays without the output of a tied model, which a state dict holds a second time.

  Raises:
    InputError: it is not the embedding.
  """
  found = dict(arrays)
  output = found.pop('prior.x_out.weight', None)
  if model.merged_decoder and output is not None:
    return {**found, 'prior.x_out.weight': output}
  if output is not None and not np.array_equal(output, found['prior.x_emb.weight']):
    raise InputError('prior.x_out.weight is not the embedding: give merged_decoder=True.')
  return found


def prior_derived(model: Any, flat: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The VQ-VAE inside, which the file of a prior does not hold: zeros."""
  del flat
  return {
    name: np.zeros(x.shape, x.dtype)
    for name, x in expected(model).items()
    if name.startswith('frozen/')
  }


def prior_infer(
  arrays: Arrays, given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) of a prior: the published one with these figures, or `size` and what
  differs from it.

  Raises:
    InputError: no published prior has these figures and no size is given.
  """
  if 'prior.x_emb.weight' not in arrays:
    raise InputError('The file holds no prior.x_emb.weight: it is no prior of Jukebox.')
  found = prior_figures(arrays)
  size = given.get('size')
  if size is None:
    same = [
      name
      for name, one in SIZES.items()
      if all(getattr(one, key) == value for key, value in found.items())
    ]
    # Upsamplers differ in their level alone, which does not show.
    levels = {SIZES[name].level for name in same}
    if 'level' in given:
      same = [name for name in same if SIZES[name].level == given['level']]
    elif len(levels) > 1:
      raise InputError(
        'The two upsamplers of Jukebox have arrays alike: say which it is, as level=1 or level=0 '
        '(launch.convert: --args=level=1).'
      )
    if not same:
      raise InputError(
        f'No published prior has prior_width={found["prior_width"]} and prior_depth='
        f'{found["prior_depth"]}: give size=…, and heads=…, blocks=… and what else differs from it.'
      )
    size = same[0]
  lists = {'y_bins': tuple(given['y_bins'])} if 'y_bins' in given else {}
  return 'jukebox', settle(found, {**given, **lists}, stated, {'size': size})


def prior_figures(arrays: Arrays) -> dict[str, Any]:
  """Arguments of `jukebox` that show in the arrays of a prior."""
  width = arrays['prior.x_emb.weight'].shape[1]
  depth = count(arrays, 'prior.transformer._attn_mods.')
  positions = len(arrays['prior.pos_emb.pos_emb'])
  labels = 'y_emb.artist_emb.emb.weight' in arrays
  found: dict[str, Any] = dict(prior_width=width, prior_depth=depth, labels=labels)
  output = arrays.get('prior.x_out.weight')
  tied = output is None or np.array_equal(output, arrays['prior.x_emb.weight'])
  found['merged_decoder'] = not tied
  if labels:
    names = ('bow_genre_emb', 'artist_emb')
    found['y_bins'] = tuple(len(arrays[f'y_emb.{name}.emb.weight']) for name in names)
    if 'y_emb.total_length_emb.emb.weight' in arrays:
      found['t_bins'] = len(arrays['y_emb.total_length_emb.emb.weight'])
  if 'prime_prior.x_emb.weight' in arrays:
    found['n_vocab'], found['prime_width'] = arrays['prime_prior.x_emb.weight'].shape
    found['n_tokens'] = len(arrays['prime_prior.pos_emb.pos_emb'])
    found['prime_depth'] = count(arrays, 'prime_prior.transformer._attn_mods.')
    found['n_ctx'] = positions
  if 'conditioner_blocks.0.x_emb.weight' in arrays:
    found['cond_width'] = len(arrays['conditioner_blocks.0.cond.model.0.weight'])
    found['cond_depth'] = count(arrays, 'conditioner_blocks.0.cond.model.1.0.blocks.')
    found['n_ctx'] = positions
  return found
