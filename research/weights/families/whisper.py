"""Key table and figures of Whisper, under the names of every release of it.

Half-precision checkpoints become float32 variables: the way back gives float32 of equal values.
The encoder's positions are taken as they are: those of half-precision files are not the table of
sines in float32.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.features.frontend import Frontend
from research.models.whisper import SIZES, Whisper
from research.weights.stated import Stated, check_agreement
from research.weights.tables import Rule, linear, vector

_BINS = ('num_mel_bins',)


def _heads(theirs: str, ours: str, layers: str, heads: str, names: Mapping[str, str]) -> list[Rule]:
  """Rules of one attention; keys have no bias."""
  rules = [
    Rule(f'{theirs}.{names["out"]}.weight', f'{ours}/out/kernel', 'heads_out', layers, heads),
    Rule(f'{theirs}.{names["out"]}.bias', f'{ours}/out/bias', layers=layers),
  ]
  for part in ('query', 'key', 'value'):
    t, o = f'{theirs}.{names[part]}', f'{ours}/{part}'
    rules.append(Rule(f'{t}.weight', f'{o}/kernel', 'heads', layers, heads))
    if part != 'key':
      rules.append(Rule(f'{t}.bias', f'{o}/bias', 'heads_bias', layers, heads))
  return rules


def rules(model: nn.Module, names: Mapping[str, str]) -> list[Rule]:
  """The key table, with the names that a release has for the parts."""
  check_model(model)
  prefix = names['prefix']
  encoder, decoder = f'{prefix}encoder', f'{prefix}decoder'
  rules = [
    Rule(f'{encoder}.{names["positions"]}', 'buffers/encoder/positions'),
    Rule(f'{decoder}.{names["positions"]}', 'params/decoder/positions/embedding'),
    Rule(f'{decoder}.{names["tokens"]}', 'params/decoder/token_embedding'),
    *vector(f'{encoder}.{names["encoder_norm"]}', 'params/encoder/norm'),
    *vector(f'{decoder}.{names["decoder_norm"]}', 'params/decoder/norm'),
  ]
  for conv in ('conv1', 'conv2'):
    rules += [
      Rule(f'{encoder}.{conv}.weight', f'params/encoder/{conv}/kernel', 'conv1d'),
      Rule(f'{encoder}.{conv}.bias', f'params/encoder/{conv}/bias'),
    ]
  for side, layers, heads in (
    ('encoder', 'depth', 'heads'),
    ('decoder', 'decoder_depth', 'decoder_heads'),
  ):
    t = f'{prefix}{side}.{names["blocks"]}.{{i}}'
    o = f'params/{side}/blocks_{{i}}'
    rules += _heads(f'{t}.{names["attn"]}', f'{o}/attn', layers, heads, names)
    norms = ['attn_norm', 'mlp_norm']
    if side == 'decoder':
      rules += _heads(f'{t}.{names["cross"]}', f'{o}/cross_attn', layers, heads, names)
      norms.append('cross_norm')
    for norm in norms:
      rules += vector(f'{t}.{names[norm]}', f'{o}/{norm}', layers)
    for part in ('fc1', 'fc2'):
      rules += linear(f'{t}.{names[part]}', f'{o}/mlp/{part}', layers)
  return rules


def check_model(model: nn.Module) -> None:
  """Raises InputError for a model that is no Whisper."""
  if not isinstance(model, Whisper):
    raise InputError(f'{type(model).__name__} has no layout of Whisper: give a whisper.')


# -- Figures -----------------------------------------------------------------------------------


def infer(
  arrays: Mapping[str, np.ndarray],
  given: Mapping[str, Any],
  stated: Stated,
  names: Mapping[str, str],
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that arrays under these names need."""
  prefix = names['prefix']
  positions, tokens = names['positions'], names['tokens']
  keys = dict(
    audio=f'{prefix}encoder.{positions}',
    text=f'{prefix}decoder.{positions}',
    vocabulary=f'{prefix}decoder.{tokens}',
    conv=f'{prefix}encoder.conv1.weight',
  )
  absent = [key for key in keys.values() if key not in arrays]
  if absent:
    raise InputError(f'The file holds no {", ".join(absent)}: it is no Whisper.')
  width, bins, _ = arrays[keys['conv']].shape
  found = dict(
    width=width,
    depth=_count(arrays, f'{prefix}encoder.{names["blocks"]}.'),
    decoder_depth=_count(arrays, f'{prefix}decoder.{names["blocks"]}.'),
    n_vocab=len(arrays[keys['vocabulary']]),
    n_audio_ctx=len(arrays[keys['audio']]),
    n_text_ctx=len(arrays[keys['text']]),
  )
  found = {k: int(v) for k, v in found.items()}
  front = given.get('frontend') or {}
  front = front.to_dict() if isinstance(front, Frontend) else dict(front)
  facts = dict(stated.facts)
  mel = {'num_mel_bins': facts.pop('num_mel_bins')} if 'num_mel_bins' in facts else {}
  check_agreement({'num_mel_bins': int(bins)}, {k: front[k] for k in front if k in _BINS}, mel)
  check_agreement(found, given, facts)
  said = {name: fact.value for name, fact in facts.items()}
  args = {**stated.training, **said, **given, **found}
  args['frontend'] = {**front, 'num_mel_bins': int(bins)}
  args.setdefault('size', _size(args, bins))
  if args['size'] is None:
    del args['size']
    for name in ('heads', 'decoder_heads'):
      if name not in args:
        raise InputError(
          f'A Whisper of width {width} and depth {found["depth"]} is in no table: give {name}=… '
          f'(launch.convert: --args={name}=…).'
        )
  return 'whisper', args


def _count(arrays: Mapping[str, np.ndarray], prefix: str) -> int:
  numbers = {int(k[len(prefix) :].split('.')[0]) for k in arrays if k.startswith(prefix)}
  return max(numbers) + 1 if numbers else 0


def _size(args: Mapping[str, Any], bins: int) -> str | None:
  """The published size with these figures; of large-v1 and large-v2, which have the same, v2."""
  for name in reversed(SIZES):
    size = SIZES[name]._asdict()
    size.pop('alignment_heads')
    if size.pop('num_mel_bins') == bins and all(args.get(k, v) == v for k, v in size.items()):
      return name
  return None


def alignment(config: Mapping[str, Any], where: str) -> dict[str, Any]:
  """The argument `alignment_heads`, of a file that may hold it as pairs (layer, head)."""
  pairs = config.get('alignment_heads')
  if pairs is None:
    return {}
  try:
    return {'alignment_heads': tuple((int(layer), int(head)) for layer, head in pairs)}
  except (TypeError, ValueError) as error:
    raise InputError(f'The alignment_heads of {where} are no pairs (layer, head).') from error
