"""Key tables and sizes of the towers that releases of CLAP share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.errors import InputError
from research.models.clap import CLAP
from research.weights.tables import Rule, linear, vector

AUDIO, TEXT = 'params/audio_tower', 'params/text_tower'


def batch_norm(theirs: str, ours: str) -> list[Rule]:
  """Rules of a batch norm under params/`ours` and batch_stats/`ours`, without its counter."""
  return [
    *vector(theirs, f'params/{ours}'),
    Rule(f'{theirs}.running_mean', f'batch_stats/{ours}/mean'),
    Rule(f'{theirs}.running_var', f'batch_stats/{ours}/var'),
  ]


def plain(theirs: str, ours: str) -> list[Rule]:
  """Rules of a linear map whose weight lies as ours does (GPT-2's Conv1D)."""
  return [Rule(f'{theirs}.weight', f'{ours}/kernel'), Rule(f'{theirs}.bias', f'{ours}/bias')]


def thirds(theirs: Sequence[str], ours: str, heads: int) -> list[Rule]:
  """Rules of queries, keys and values that are apart in the release."""
  return [
    rule
    for i, name in enumerate(theirs)
    for rule in (
      Rule(f'{name}.weight', f'{ours}/kernel#{i}', 'heads', heads=heads),
      Rule(f'{name}.bias', f'{ours}/bias#{i}', 'heads_bias', heads=heads),
    )
  ]


def joined(theirs: str, ours: str, heads: int) -> list[Rule]:
  """Rules of the map behind the heads."""
  return [
    Rule(f'{theirs}.weight', f'{ours}/kernel', 'heads_out', heads=heads),
    Rule(f'{theirs}.bias', f'{ours}/bias'),
  ]


# -- Towers ------------------------------------------------------------------------------------


def htsat(model: Any, p: str, hf: bool = False) -> list[Rule]:
  """The rules of HTSAT under the prefix `p`, with the names of LAION or of transformers."""
  t = f'{p}patch_embed'
  rows = [
    *batch_norm(f'{p}{"batch_norm" if hf else "bn0"}', 'audio_tower/bn0'),
    Rule(f'{t}.proj.weight', f'{AUDIO}/patch_embed/proj/kernel', 'patch_of_rows', heads=4),
    Rule(f'{t}.proj.bias', f'{AUDIO}/patch_embed/proj/bias'),
    *vector(f'{t}.norm', f'{AUDIO}/patch_norm'),
    *vector(f'{p}norm', f'{AUDIO}/norm'),
  ]
  if model.fusion:
    rows += _fusion(t)
  if model.classes and not hf:
    rows += [
      Rule(f'{p}tscam_conv.weight', f'{AUDIO}/tags_kernel', 'tags'),
      Rule(f'{p}tscam_conv.bias', f'{AUDIO}/tags_bias'),
    ]
  for i, (depth, heads) in enumerate(zip(model.depths, model.audio_heads)):
    for j in range(depth):
      rows += _swin(f'{p}layers.{i}.blocks.{j}', f'{AUDIO}/stage{i}_block{j}', heads, hf)
    if i < len(model.depths) - 1:
      theirs, ours = f'{p}layers.{i}.downsample', f'{AUDIO}/stage{i}_merge'
      rows += [
        *vector(f'{theirs}.norm', f'{ours}/norm'),
        Rule(f'{theirs}.reduction.weight', f'{ours}/reduction', 'linear'),
      ]
  return rows


def _swin(t: str, o: str, heads: int, hf: bool) -> list[Rule]:
  if hf:
    own = f'{t}.attention.self'
    inside = thirds([f'{own}.{n}' for n in ('query', 'key', 'value')], f'{o}/attn/qkv', heads)
    table, out, mlp = own, f'{t}.attention.output.dense', ('intermediate.dense', 'output.dense')
    norms = ('layernorm_before', 'layernorm_after')
  else:
    inside = [
      Rule(f'{t}.attn.qkv.weight', f'{o}/attn/qkv/kernel', 'heads_in', heads=heads),
      Rule(f'{t}.attn.qkv.bias', f'{o}/attn/qkv/bias', 'heads_in_bias', heads=heads),
    ]
    table, out, mlp, norms = (
      f'{t}.attn',
      f'{t}.attn.proj',
      ('mlp.fc1', 'mlp.fc2'),
      ('norm1', 'norm2'),
    )
  return [
    *inside,
    Rule(f'{table}.relative_position_bias_table', f'{o}/attn/bias'),
    *joined(out, f'{o}/attn/proj', heads),
    *vector(f'{t}.{norms[0]}', f'{o}/norm1'),
    *vector(f'{t}.{norms[1]}', f'{o}/norm2'),
    *linear(f'{t}.{mlp[0]}', f'{o}/mlp/fc1'),
    *linear(f'{t}.{mlp[1]}', f'{o}/mlp/fc2'),
  ]


def _fusion(t: str) -> list[Rule]:
  rows = [
    Rule(f'{t}.mel_conv2d.weight', f'{AUDIO}/piece_embed/proj/kernel', 'patch_of_rows', heads=4),
    Rule(f'{t}.mel_conv2d.bias', f'{AUDIO}/piece_embed/proj/bias'),
  ]
  for theirs, ours, first in (('local_att', 'local', 0), ('global_att', 'whole', 1)):
    for place, name in ((first, 'fc1'), (first + 3, 'fc2')):
      key = f'{t}.fusion_model.{theirs}.{place}'
      path = f'{AUDIO}/fuse/{ours}/{name}'
      rows += [
        Rule(f'{key}.weight', f'{path}/kernel', 'conv1x1'),
        Rule(f'{key}.bias', f'{path}/bias'),
      ]
    for place, name in ((first + 1, 'norm1'), (first + 4, 'norm2')):
      key = f'{t}.fusion_model.{theirs}.{place}'
      rows += batch_norm(key, f'audio_tower/fuse/{ours}/{name}')
  return rows


def cnn14(model: CLAP, p: str) -> list[Rule]:
  """The rules of Cnn14 under the prefix `p`."""
  rows = batch_norm(f'{p}bn0', 'audio_tower/bn0')
  for i in range(len(model.channels)):
    t, o = f'{p}conv_block{i + 1}', f'audio_tower/block{i}'
    for j in (1, 2):
      rows += [
        Rule(f'{t}.conv{j}.weight', f'params/{o}/conv{j}', 'conv2d_in_time'),
        *batch_norm(f'{t}.bn{j}', f'{o}/norm{j}'),
      ]
  rows += linear(f'{p}fc1', f'{AUDIO}/fc1')
  return rows + (linear(f'{p}fc_audioset', f'{AUDIO}/tags') if model.classes else [])


def bert(model: CLAP, p: str) -> list[Rule]:
  """The rules of BERT or RoBERTa under the prefix `p`."""
  e = f'{p}embeddings'
  rows = [
    Rule(f'{e}.word_embeddings.weight', f'{TEXT}/tokens'),
    Rule(f'{e}.position_embeddings.weight', f'{TEXT}/positions'),
    Rule(f'{e}.token_type_embeddings.weight', f'{TEXT}/types'),
    *vector(f'{e}.LayerNorm', f'{TEXT}/embed_norm'),
  ]
  for i in range(model.text_depth):
    t, o = f'{p}encoder.layer.{i}', f'{TEXT}/blocks_{i}'
    names = [f'{t}.attention.self.{name}' for name in ('query', 'key', 'value')]
    rows += [
      *thirds(names, f'{o}/qkv', model.text_heads),
      *joined(f'{t}.attention.output.dense', f'{o}/proj', model.text_heads),
      *vector(f'{t}.attention.output.LayerNorm', f'{o}/norm1'),
      *linear(f'{t}.intermediate.dense', f'{o}/fc1'),
      *linear(f'{t}.output.dense', f'{o}/fc2'),
      *vector(f'{t}.output.LayerNorm', f'{o}/norm2'),
    ]
  return rows + (linear(f'{p}pooler.dense', f'{TEXT}/pooler') if model.text == 'roberta' else [])


def gpt2(model: Any, p: str) -> list[Rule]:
  """The rules of GPT-2 under the prefix `p`."""
  heads = model.text_heads
  rows = [
    Rule(f'{p}wte.weight', f'{TEXT}/tokens'),
    Rule(f'{p}wpe.weight', f'{TEXT}/positions'),
    *vector(f'{p}ln_f', f'{TEXT}/norm'),
  ]
  for i in range(model.text_depth):
    t, o = f'{p}h.{i}', f'{TEXT}/blocks_{i}'
    rows += [
      Rule(f'{t}.attn.c_attn.weight', f'{o}/qkv/kernel', 'conv1d_heads_in', heads=heads),
      Rule(f'{t}.attn.c_attn.bias', f'{o}/qkv/bias', 'heads_in_bias', heads=heads),
      Rule(f'{t}.attn.c_proj.weight', f'{o}/proj/kernel', 'conv1d_heads_out', heads=heads),
      Rule(f'{t}.attn.c_proj.bias', f'{o}/proj/bias'),
      *vector(f'{t}.ln_1', f'{o}/norm1'),
      *vector(f'{t}.ln_2', f'{o}/norm2'),
      *plain(f'{t}.mlp.c_fc', f'{o}/fc1'),
      *plain(f'{t}.mlp.c_proj', f'{o}/fc2'),
    ]
  return rows


# -- Sizes -------------------------------------------------------------------------------------


def need(arrays: Mapping[str, np.ndarray], *names: str) -> None:
  """Raises InputError where arrays lack one of these."""
  absent = [name for name in names if name not in arrays]
  if absent:
    raise InputError(f'The file holds no {", ".join(absent)}: it is not this release of CLAP.')


def count(arrays: Mapping[str, Any], prefix: str) -> int:
  """Number of things `prefix0.`, `prefix1.`, … among the keys."""
  starts = {k[len(prefix) :].split('.')[0] for k in arrays if k.startswith(prefix)}
  return sum(start.isdigit() for start in starts)


def htsat_sizes(arrays: Mapping[str, np.ndarray], p: str, hf: bool = False) -> dict[str, Any]:
  """Arguments that the arrays of HTSAT show."""
  need(arrays, f'{p}patch_embed.proj.weight')
  stages = range(count(arrays, f'{p}layers.'))
  table = 'attention.self' if hf else 'attn'
  name = f'{table}.relative_position_bias_table'
  tags = arrays.get(f'{p}tscam_conv.weight')
  return dict(
    audio='htsat',
    audio_width=arrays[f'{p}patch_embed.proj.weight'].shape[0],
    depths=tuple(count(arrays, f'{p}layers.{i}.blocks.') for i in stages),
    audio_heads=tuple(arrays[f'{p}layers.{i}.blocks.0.{name}'].shape[1] for i in stages),
    fusion=f'{p}patch_embed.mel_conv2d.weight' in arrays,
    classes=0 if tags is None else len(tags),
  )


def text_sizes(
  arrays: Mapping[str, np.ndarray], tokens: str, positions: str, layers: str, hidden: int,
  given: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
  """Arguments that the arrays of a text tower show; heads are of 64 where none are given."""
  need(arrays, tokens, positions)
  width = arrays[tokens].shape[1]
  found = dict(
    vocabulary=len(arrays[tokens]),
    positions=len(arrays[positions]),
    text_width=width,
    text_depth=count(arrays, layers),
    text_hidden=hidden,
  )
  if 'text_heads' not in given:
    if width % 64:
      raise InputError(
        f'A text tower of width {width} has no heads of the published size, 64: give text_heads=… '
        '(launch.convert: --args=text_heads=…).'
      )
    found['text_heads'] = width // 64
  return found


def check(found: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
  """What was found and what was given; raises InputError where they contradict each other."""
  for name, value in given.items():
    own = found.get(name, value)
    if (tuple(own) if isinstance(own, list | tuple) else own) != (
      tuple(value) if isinstance(value, list | tuple) else value
    ):
      raise InputError(f'{name}={value!r} was given, but the weights have {name}={own!r}.')
  return {**given, **found}
