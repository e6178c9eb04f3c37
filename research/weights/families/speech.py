"""Models of raw speech under fairseq's names: pre-trained ones, encoders without heads, letters by
CTC.

What wav2vec 2.0, HuBERT and WavLM share; a family says what differs. Which of the three a file
holds is seen from its keys. Of a checkpoint with a configuration that is plain data, what does not
show in the arrays is taken from there, see `fairseq_config.describe`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research import models
from research.errors import InputError
from research.models import settings
from research.models.finetuned import Finetuned, encoder_of, route
from research.models.speech import Size
from research.text.characters import CHARACTERS
from research.weights.stated import NOTHING, Stated, settle
from research.weights.tables import Rule, linear, vector

PREFIX, HEAD = 'w2v_encoder.w2v_model.', 'w2v_encoder.'
_LAYER = 'encoder.layers.{i}'
_OURS = 'params/encoder/blocks_{i}'
_GATE = f'{_LAYER}.self_attn.grep_linear'
_BIAS = 'encoder.layers.0.self_attn.relative_attention_bias.weight'


@dataclasses.dataclass(frozen=True)
class Family:
  """Where the models of a paper differ.

  Attributes:
    title: of the paper.
    name: of our model in pre-training, which is the encoder under a head.
    sizes: the published ones.
    marks: how keys of heads of pre-training begin.
    head_rules: model in pre-training -> the key table of its heads.
    head_args: (arrays, given, stated) -> arguments that the heads need.
    relative: whether there may be a relative position bias.
  """

  title: str
  name: str
  sizes: Mapping[str, Size]
  marks: tuple[str, ...]
  head_rules: Callable[[Any], list[Rule]]
  head_args: Callable[[Mapping[str, np.ndarray], Mapping[str, Any], Stated], dict[str, Any]]
  relative: bool = False


# -- Key table ---------------------------------------------------------------------------------


def projections(theirs: str, ours: str) -> list[Rule]:
  """Rules of one attention: separate q, k, v there, one fused array here."""
  made = []
  for part, name in enumerate(('q_proj', 'k_proj', 'v_proj')):
    weight, bias = f'{theirs}.{name}.weight', f'{theirs}.{name}.bias'
    made.append(Rule(weight, f'{ours}/attn/qkv/kernel#{part}', 'heads', 'depth', 'heads'))
    made.append(Rule(bias, f'{ours}/attn/qkv/bias#{part}', 'heads_bias', 'depth', 'heads'))
  out = f'{theirs}.out_proj'
  return [
    *made,
    Rule(f'{out}.weight', f'{ours}/attn/proj/kernel', 'heads_out', 'depth', 'heads'),
    Rule(f'{out}.bias', f'{ours}/attn/proj/bias', layers='depth'),
  ]


def encoder_rules(model: nn.Module) -> list[Rule]:
  """The key table of the encoder."""
  stem = []
  for i in range(7):
    theirs, ours = f'feature_extractor.conv_layers.{i}', f'params/feature_extractor/conv_{i}'
    stem.append(Rule(f'{theirs}.0.weight', f'{ours}/kernel', 'conv1d'))
    if model.conv_bias:
      stem.append(Rule(f'{theirs}.0.bias', f'{ours}/bias'))
    if model.norm == 'layer':
      stem += vector(f'{theirs}.2.1', f'{ours}/norm')
    elif i == 0:
      stem.append(Rule(f'{theirs}.2.weight', f'{ours}/norm_scale'))
      stem.append(Rule(f'{theirs}.2.bias', f'{ours}/norm_bias'))
  return [
    *stem,
    *([Rule('mask_emb', 'params/mask_token')] if model.mask_embedding else []),
    *vector('layer_norm', 'params/feature_norm'),
    *linear('post_extract_proj', 'params/project'),
    Rule('encoder.pos_conv.0.bias', 'params/encoder/positions/bias'),
    Rule('encoder.pos_conv.0.weight_g', 'params/encoder/positions/kernel_scale', 'taps'),
    Rule('encoder.pos_conv.0.weight_v', 'params/encoder/positions/kernel', 'conv1d'),
    *projections(f'{_LAYER}.self_attn', _OURS),
    *vector(f'{_LAYER}.self_attn_layer_norm', f'{_OURS}/norm1', 'depth'),
    *linear(f'{_LAYER}.fc1', f'{_OURS}/fc1', 'depth'),
    *linear(f'{_LAYER}.fc2', f'{_OURS}/fc2', 'depth'),
    *vector(f'{_LAYER}.final_layer_norm', f'{_OURS}/norm2', 'depth'),
    *vector('encoder.layer_norm', 'params/encoder/norm'),
    *(_bias_rules() if model.buckets else []),
  ]


def _bias_rules() -> list[Rule]:
  """WavLM's relative position bias: one table, in the first layer there, and a gate a layer."""
  gate = f'{_OURS}/attn/gate'
  return [
    Rule(_BIAS, 'params/encoder/relative_bias/table'),
    Rule(f'{_LAYER}.self_attn.grep_a', f'{gate}/scale', 'per_head', 'depth'),
    *linear(_GATE, gate, 'depth'),
  ]


def head_rules(model: nn.Module, family: Family) -> list[Rule]:
  """The key table of what stands on the encoder: heads of pre-training, letters, or nothing."""
  if isinstance(model, Finetuned):
    _check_head(model)
    return linear('proj', 'params/head') if model.head else []
  return family.head_rules(model)


def _check_head(model: Finetuned) -> None:
  """Raises InputError for what no release has a model for."""
  if model.layer != 'output' or (model.head and model.head['name'] != 'ctc'):
    raise InputError(
      f'finetuned with head={model.head and model.head["name"]!r} and layer={model.layer!r} has no '
      "original layout: models with the head 'ctc' on the encoder's output have one, and encoders "
      'alone (head=None).'
    )


def rules(model: nn.Module, family: Family) -> list[Rule]:
  """The key table of a model."""
  encoder, head = encoder_rules(encoder_of(model)), head_rules(model, family)
  if isinstance(model, Finetuned) and model.head:
    encoder = [rule._replace(theirs=PREFIX + rule.theirs) for rule in encoder]
    head = [rule._replace(theirs=HEAD + rule.theirs) for rule in head]
  return encoder + head


# -- Arguments ---------------------------------------------------------------------------------


def infer(
  arrays: Mapping[str, np.ndarray],
  given: Mapping[str, Any],
  stated: Stated = NOTHING,
  *,
  family: Family,
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need.

  Heads come from the files or from the table of published sizes. Whether norms come first and
  whether clips are normalised does not show in the arrays either: where no file says it, both are
  as published, that is where every convolution has a layer norm; give pre_norm and frontend
  otherwise. A head of 32 rows is taken to be of fairseq's letters, in their order.
  """
  prefixed = any(k.startswith(HEAD) for k in arrays)
  if prefixed and f'{HEAD}proj.weight' not in arrays:
    raise InputError(
      f'The file holds {HEAD}… without {HEAD}proj.weight: it is no CTC model of fairseq. For its '
      f'encoder alone, take {PREFIX!r} off the keys.'
    )
  plain = {k.removeprefix(PREFIX).removeprefix(HEAD): x for k, x in arrays.items()}
  return infer_plain(plain, given, stated, family, 'fairseq', lambda key: PREFIX * prefixed + key)


def infer_plain(
  arrays: Mapping[str, np.ndarray],
  given: Mapping[str, Any],
  stated: Stated,
  family: Family,
  whose: str,
  named: Callable[[str], str],
  epsilon: float | None = None,
) -> tuple[str, dict[str, Any]]:
  """`infer` of arrays under fairseq's names without prefixes; `named` is their name in the file,
  `epsilon` that of the normalisation of clips where it is not the front-end's own."""
  need = (
    'post_extract_proj.weight', 'encoder.layers.0.fc1.weight', 'encoder.pos_conv.0.weight_v',
    'feature_extractor.conv_layers.0.0.weight',
  )  # fmt: skip
  absent = [named(k) for k in need if k not in arrays]
  if absent:
    raise InputError(
      f'The file holds no {", ".join(absent)}: these are no {family.title} weights of {whose}.'
    )
  found = _encoder_args(arrays)
  if family.relative:
    found['buckets'] = len(arrays[_BIAS]) if _BIAS in arrays else 0
  if 'proj.weight' in arrays or not any(k.startswith(family.marks) for k in arrays):
    name = 'finetuned'
    given = {**given}
    if isinstance(given.get('vocabulary'), list):
      given['vocabulary'] = tuple(given['vocabulary'])
    found |= _letter_args(arrays, given, stated)
    if not found['vocabulary']:
      # Files of encoders name a blank too, of no symbols.
      facts = {k: v for k, v in stated.facts.items() if k not in ('vocabulary', 'blank')}
      stated = stated._replace(facts=facts)
  else:
    name = family.name
    if isinstance(given.get('num_clusters'), list):
      given = {**given, 'num_clusters': tuple(given['num_clusters'])}
    found |= family.head_args(arrays, given, stated)

  # Files speak of the parts of other models too.
  own = settings.argument_names(models.get(family.name))
  if name == 'finetuned':
    own |= {'vocabulary', 'blank', 'head_dropout', 'freeze_updates'}
  stated = stated._replace(
    facts={k: v for k, v in stated.facts.items() if k in own},
    training={k: v for k, v in stated.training.items() if k in own},
  )
  layered = found['norm'] == 'layer'
  args = settle(found, given, stated, {'pre_norm': layered, 'frontend': {'normalise': layered}})
  if epsilon is not None and args['frontend']['normalise']:
    args['frontend'] = {'epsilon': epsilon, **args['frontend']}
  if 'heads' not in args:
    heads = {s.heads for s in family.sizes.values() if s.width == found['width']}
    if len(heads) != 1:
      raise InputError(
        f'An encoder of width {found["width"]} is in no table: give its number of heads, heads=… '
        '(launch.convert: --args=heads=…).'
      )
    args['heads'] = heads.pop()
  args = {'size': _size(args, family.sizes), **args}
  if name != 'finetuned':
    return name, args
  head = {'name': 'ctc'} if args['vocabulary'] else None
  if head is None:
    args = {k: v for k, v in args.items() if k not in ('vocabulary', 'blank')}
  return name, route({'encoder': {'name': family.name}, 'head': head}, args)


def _size(args: Mapping[str, Any], sizes: Mapping[str, Size]) -> str:
  """The published size with these figures, which gives the rates of training; else 'base'."""
  for name, size in sizes.items():
    row = size._asdict()
    names = ('width', 'depth', 'heads', 'hidden', 'norm', 'conv_bias', 'pre_norm')
    if all(args[k] == row[k] for k in names):
      return name
  return 'base'


def _encoder_args(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  width, channels = arrays['post_extract_proj.weight'].shape
  _, per_group, taps = arrays['encoder.pos_conv.0.weight_v'].shape
  layers = [k.split('.')[2] for k in arrays if k.startswith('encoder.layers.')]
  found: dict[str, Any] = dict(
    width=width,
    channels=channels,
    depth=1 + max(int(i) for i in layers if i.isdigit()),
    hidden=arrays['encoder.layers.0.fc1.weight'].shape[0],
    norm='layer' if 'feature_extractor.conv_layers.0.2.1.weight' in arrays else 'group',
    conv_bias='feature_extractor.conv_layers.0.0.bias' in arrays,
    conv_pos=taps,
    conv_pos_groups=width // per_group,
    mask_embedding='mask_emb' in arrays,
  )
  return found if found['mask_embedding'] else {**found, 'mask_prob': 0.0}


def _letter_args(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated
) -> dict[str, Any]:
  if 'proj.weight' not in arrays:
    return {'vocabulary': ()}
  rows = arrays['proj.weight'].shape[0]
  said = stated.facts.get('vocabulary')
  blank = stated.facts.get('blank')
  vocabulary = given.get('vocabulary', said.value if said else None)
  if vocabulary is None:
    if rows != len(CHARACTERS):
      raise InputError(
        f'The head has {rows} rows and nothing says which symbols they are: give '
        'vocabulary=["…", …], in the order of the rows, and blank=… unless it is the first '
        "(launch.convert: --args='vocabulary=[…]')."
      )
    vocabulary = CHARACTERS
    index = given.get('blank', blank.value if blank else 0)
    if index != 0:
      raise InputError(
        f"The head has {rows} rows, as fairseq's letters have, but the blank is {index} and not 0: "
        'give the symbols, vocabulary=["…", …], in the order of the rows.'
      )
  if not isinstance(vocabulary, tuple) or not all(isinstance(s, str) for s in vocabulary):
    raise InputError(f'vocabulary is {vocabulary!r}; expected a list of strings.')
  if len(vocabulary) != rows:
    where = 'was given' if 'vocabulary' in given or not said else f'is in {said.where}'
    raise InputError(
      f'A vocabulary of {len(vocabulary)} symbols {where}, but the head has {rows} rows.'
    )
  return {'vocabulary': vocabulary}
