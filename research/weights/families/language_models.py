"""Key tables of causal language models (`models.language_decoder`), under the names of their
releases."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.weights.tables import Rule

# Names of the parts; `qkv`: queries, keys and values are one matrix.
STYLES: dict[str, dict[str, Any]] = {
  'qwen2': dict(
    prefix='model.', tokens='embed_tokens', blocks='layers', attn='self_attn', query='q_proj',
    key='k_proj', value='v_proj', out='o_proj', attn_norm='input_layernorm',
    mlp_norm='post_attention_layernorm', fc1='mlp.up_proj', gate='mlp.gate_proj',
    fc2='mlp.down_proj', norm='norm',
  ),
  'qwen': dict(
    prefix='transformer.', tokens='wte', blocks='h', attn='attn', qkv='c_attn', out='c_proj',
    attn_norm='ln_1', mlp_norm='ln_2', fc1='mlp.w1', gate='mlp.w2', fc2='mlp.c_proj', norm='ln_f',
  ),
  'opt': dict(
    prefix='model.decoder.', tokens='embed_tokens', positions='embed_positions', blocks='layers',
    attn='self_attn', query='q_proj', key='k_proj', value='v_proj', out='out_proj',
    attn_norm='self_attn_layer_norm', mlp_norm='final_layer_norm', fc1='fc1', fc2='fc2',
    norm='final_layer_norm', biases=True,
  ),
}  # fmt: skip


def rules(
  style: str,
  prefix: str = '',
  ours: str = 'params/language_model',
  tied: bool = False,
  figures: str = 'text_',
) -> list[Rule]:
  """The key table of a language model.

  Args:
    style: a key of STYLES.
    prefix: before every key.
    ours: path of the `LanguageModel`.
    tied: whether the output has the weights of the embedding.
    figures: before the names of the attributes `depth`, `heads` and `kv_heads` of the model.
  """
  names = STYLES[style]
  biases, base = names.get('biases', False), f'{prefix}{names["prefix"]}'
  depth, heads, groups = (f'{figures}{x}' for x in ('depth', 'heads', 'kv_heads'))
  found = [
    Rule(f'{base}{names["tokens"]}.weight', f'{ours}/token_embedding'),
    *_norm(f'{base}{names["norm"]}', f'{ours}/norm', '', biases),
  ]
  if 'positions' in names:
    found.append(Rule(f'{base}{names["positions"]}.weight', f'{ours}/positions/embedding'))
  if not tied:
    found.append(Rule(f'{prefix}lm_head.weight', f'{ours}/lm_head/kernel', 'linear'))
  t, o = f'{base}{names["blocks"]}.{{i}}', f'{ours}/blocks_{{i}}'
  for number, part in enumerate(('query', 'key', 'value')):
    key = f'{t}.{names["attn"]}.{names.get(part, names.get("qkv"))}'
    piece = f'#{number}' if 'qkv' in names else ''
    own = heads if part == 'query' else groups
    found += [
      Rule(f'{key}.weight{piece}', f'{o}/attn/{part}/kernel', 'heads', depth, own),
      Rule(f'{key}.bias{piece}', f'{o}/attn/{part}/bias', 'heads_bias', depth, own),
    ]
  out = f'{t}.{names["attn"]}.{names["out"]}'
  found.append(Rule(f'{out}.weight', f'{o}/attn/out/kernel', 'heads_out', depth, heads))
  if biases:
    found.append(Rule(f'{out}.bias', f'{o}/attn/out/bias', layers=depth))
  for norm in ('attn_norm', 'mlp_norm'):
    found += _norm(f'{t}.{names[norm]}', f'{o}/{norm}', depth, biases)
  for part in ('fc1', 'gate', 'fc2'):
    if part in names:
      found.append(Rule(f'{t}.{names[part]}.weight', f'{o}/mlp/{part}/kernel', 'linear', depth))
      if biases:
        found.append(Rule(f'{t}.{names[part]}.bias', f'{o}/mlp/{part}/bias', layers=depth))
  return found


def _norm(theirs: str, ours: str, layers: str, bias: bool) -> list[Rule]:
  found = [Rule(f'{theirs}.weight', f'{ours}/scale', layers=layers)]
  return found + ([Rule(f'{theirs}.bias', f'{ours}/bias', layers=layers)] if bias else [])


def depth(arrays: Mapping[str, np.ndarray], style: str, prefix: str = '') -> int:
  """Number of layers."""
  names = STYLES[style]
  before = f'{prefix}{names["prefix"]}{names["blocks"]}.'
  found = {int(k[len(before) :].split('.')[0]) for k in arrays if k.startswith(before)}
  return max(found) + 1 if found else 0


def words(style: str) -> str:
  """Key of the embedding."""
  names = STYLES[style]
  return f'{names["prefix"]}{names["tokens"]}.weight'
