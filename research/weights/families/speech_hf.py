"""Models of raw speech under transformers' names: Wav2Vec2Model, Wav2Vec2ForPreTraining,
Wav2Vec2ForCTC, HubertModel, HubertForCTC, WavLMModel, WavLMForCTC.

Which kind a file holds is seen from its keys. Weight norm may have the names that older
files have, and an encoder alone the prefix of the others; the way back gives today's names. Of a
folder, what does not show in the arrays is taken from the files beside, see
`transformers_config.describe`.
"""

import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models import settings
from research.models.finetuned import Finetuned, encoder_of
from research.nn.layers import unstack_blocks
from research.weights import tables
from research.weights.families import speech, transformers_config
from research.weights.families.speech import Family
from research.weights.families.transformers_config import EPSILON
from research.weights.release import Release
from research.weights.stated import NOTHING, Stated
from research.weights.tables import Rule

HEADS = ('lm_head.', 'quantizer.', 'project_q.', 'project_hid.')
_WEIGHT_NORM = {
  'weight_g': 'parametrizations.weight.original0',
  'weight_v': 'parametrizations.weight.original1',
}
_POSITIONS = 'encoder.pos_conv_embed.conv.'

# How names begin: (fairseq's, transformers'); '#' is a number, the same on both sides. The first
# that fits counts.
_STEM = 'feature_extractor.conv_layers'
_ENCODER = (
  ('mask_emb', 'masked_spec_embed'),
  (f'{_STEM}.#.0.', f'{_STEM}.#.conv.'),
  (f'{_STEM}.#.2.1.', f'{_STEM}.#.layer_norm.'),
  (f'{_STEM}.#.2.', f'{_STEM}.#.layer_norm.'),
  ('layer_norm.', 'feature_projection.layer_norm.'),
  ('post_extract_proj.', 'feature_projection.projection.'),
  *((f'encoder.pos_conv.0.{old}', f'{_POSITIONS}{today}') for old, today in _WEIGHT_NORM.items()),
  ('encoder.pos_conv.0.', _POSITIONS),
  *(
    (f'encoder.layers.#.self_attn.{theirs}', f'encoder.layers.#.attention.{ours}')
    for theirs, ours in {
      'grep_a': 'gru_rel_pos_const',
      'grep_linear.': 'gru_rel_pos_linear.',
      'relative_attention_bias.': 'rel_attn_embed.',
      '': '',
    }.items()
  ),
  ('encoder.layers.#.self_attn_layer_norm.', 'encoder.layers.#.layer_norm.'),
  ('encoder.layers.#.fc1.', 'encoder.layers.#.feed_forward.intermediate_dense.'),
  ('encoder.layers.#.fc2.', 'encoder.layers.#.feed_forward.output_dense.'),
)
_HEADS = (
  ('proj.', 'lm_head.'),
  ('quantizer.vars', 'quantizer.codevectors'),
  ('final_proj.', 'project_hid.'),
)


def _rename(name: str, table: Sequence[tuple[str, str]]) -> str:
  """`name` with its beginning changed from the left to the right of a table; else as it is."""
  for theirs, ours in table:
    match = re.match(re.escape(theirs).replace(r'\#', r'([0-9]+|\{i\})'), name)
    if match:
      start = ours.replace('#', match[1]) if '#' in ours else ours
      return start + name[match.end() :]
  return name


def _inverse(table: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
  return [(right, left) for left, right in table]


def rules(model: nn.Module, family: Family) -> list[Rule]:
  """The key table of a model.

  Raises:
    InputError: transformers has no such model.
  """
  if not isinstance(model, Finetuned) and family.name != 'wav2vec2':
    raise InputError(
      f'transformers has no {family.title} with heads of pre-training: take the encoder alone '
      '(encoder_alone).'
    )
  head = speech.head_rules(model, family)
  prefix = f'{family.name}.' if head else ''
  return [
    *(
      rule._replace(theirs=prefix + _rename(rule.theirs, _ENCODER))
      for rule in speech.encoder_rules(encoder_of(model))
    ),
    *(rule._replace(theirs=_rename(rule.theirs, _HEADS)) for rule in head),
  ]


def encoder_alone(
  model: nn.Module, variables: Mapping[str, Any], family: Family
) -> tuple[nn.Module, dict[str, Any]]:
  """A model without the heads of its pre-training, and its variables; others as they are."""
  if isinstance(model, Finetuned) or family.name == 'wav2vec2':
    return model, dict(variables)
  args = {**settings.arguments(model), 'scan_layers': False}
  plain = Finetuned(encoder={'name': family.name, 'args': args})
  flat = tables.flatten(unstack_blocks(nn.meta.unbox(variables)))
  return plain, tables.nest({key: flat[key] for key in tables.expected_shapes(plain)}, plain)


def renew(arrays: Mapping[str, np.ndarray], family: Family) -> dict[str, np.ndarray]:
  """The same arrays under today's names, those of an encoder alone without prefix."""
  alone = not any(k.startswith(HEADS) for k in arrays)
  renewed = {}
  for key, x in arrays.items():
    name = key.removeprefix(f'{family.name}.') if alone else key
    for old, today in _WEIGHT_NORM.items():
      if name.endswith(f'{_POSITIONS}{old}'):
        name = name.removesuffix(old) + today
    if name in renewed:
      raise InputError(f'The file holds {name} twice, once as {key}: one of them has to go.')
    renewed[name] = x
  return renewed


def infer(
  arrays: Mapping[str, np.ndarray],
  given: Mapping[str, Any],
  stated: Stated = NOTHING,
  *,
  family: Family,
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need, under today's names; see `speech.infer`."""
  # The norm of the first convolution has one name for both kinds; the second's tells them apart.
  layered = any(k.endswith(f'{_STEM}.1.layer_norm.weight') for k in arrays)
  other = f'{_STEM}.#.2.' if layered else f'{_STEM}.#.2.1.'
  encoder = [pair for pair in _inverse(_ENCODER) if pair[1] != other]
  heads = _inverse(_HEADS)

  def plain(key: str) -> str:
    if key.startswith(HEADS):
      return _rename(key, heads)
    short = key.removeprefix(f'{family.name}.')
    name = _rename(short, encoder)
    # A name of fairseq's is none here, though many begin alike.
    return name if _rename(name, _ENCODER) == short else f'? {key}'

  prefix = f'{family.name}.' * any(k.startswith(HEADS) for k in arrays)
  rows = stated.facts.get('rows')
  head = arrays.get('lm_head.weight')
  if rows and head is not None and rows.value != len(head):
    raise InputError(f'{rows.where} is {rows.value}, but lm_head.weight has {len(head)} rows.')
  if rows and head is not None and not {'blank'} & (set(stated.facts) | set(given)):
    raise InputError('config.json says no pad_token_id, which is the blank of CTC: give blank=….')
  fairseq = {plain(k): x for k, x in arrays.items()}
  bias = stated.facts.get('conv_bias')
  has = 'feature_extractor.conv_layers.0.0.bias' in fairseq
  if family.name == 'hubert' and bias and bias.value != has:
    # Folders of HuBERT large have a config.json that says so, and no such arrays.
    warnings.warn(
      f'{bias.where} says conv_bias={bias.value!r}, but the file has '
      f'{"some" if has else "none"}: the arrays count.',
      stacklevel=3,
    )
    stated = stated._replace(facts={k: v for k, v in stated.facts.items() if k != 'conv_bias'})
  return speech.infer_plain(
    fairseq,
    given,
    stated,
    family,
    'transformers',
    lambda key: prefix + _rename(key, _ENCODER),
    EPSILON,
  )


def release(family: Family) -> Release:
  """The release of a family."""
  return Release(
    rules=functools.partial(rules, family=family),
    infer=functools.partial(infer, family=family),
    files=transformers_config.FILES,
    describe=functools.partial(transformers_config.describe, family=family.name),
    renew=functools.partial(renew, family=family),
    compose=functools.partial(transformers_config.compose, family=family.name),
    encoder_alone={'': functools.partial(encoder_alone, family=family)},
  )
