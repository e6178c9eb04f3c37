"""Official weights of Microsoft's CLAP: 2022 (Cnn14 and BERT) and 2023 (HTSAT and GPT-2).

Tables that a front-end or a window computes are left out, and so are the counters of batch norms,
the classifier of HTSAT's head and BERT's pooler, which nothing uses.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.clap import CLAP
from research.weights import tables
from research.weights.families import clap as family
from research.weights.release import Release
from research.weights.stated import NOTHING, Stated
from research.weights.tables import Rule, vector

_AUDIO, _TEXT = 'audio_encoder.base.', 'caption_encoder.base.'


def rules(model: nn.Module) -> list[Rule]:
  """The key table.

  Raises:
    InputError: the model has other towers or projections.
  """
  own = isinstance(model, CLAP) and (model.audio, model.text, model.projection)
  if own not in (('htsat', 'gpt2', 'residual'), ('cnn14', 'bert', 'residual')):
    raise InputError(
      f'{type(model).__name__} is not a CLAP of Microsoft: that has HTSAT and GPT-2 or Cnn14 and '
      "BERT, and projections 'residual'."
    )
  assert isinstance(model, CLAP)
  if model.audio == 'htsat':
    rows = [*family.htsat(model, f'{_AUDIO}htsat.'), *family.gpt2(model, _TEXT)]
  else:
    rows = [*family.cnn14(model, _AUDIO), *family.bert(model, _TEXT)]
  for theirs, ours in (('audio_encoder', 'audio'), ('caption_encoder', 'text')):
    p, o = f'{theirs}.projection', f'params/{ours}_projection'
    rows += [
      Rule(f'{p}.linear1.weight', f'{o}/fc1', 'linear'),
      Rule(f'{p}.linear2.weight', f'{o}/fc2', 'linear'),
      *vector(f'{p}.layer_norm', f'{o}/norm'),
    ]
  return [*rows, Rule('logit_scale', 'params/logit_scale_a', 'number')]


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need."""
  del stated
  family.need(arrays, 'audio_encoder.projection.linear1.weight')
  if f'{_AUDIO}conv_block1.conv1.weight' in arrays:
    blocks = range(sum(f'{_AUDIO}conv_block{i}.conv1.weight' in arrays for i in range(1, 20)))
    channels = tuple(len(arrays[f'{_AUDIO}conv_block{i + 1}.conv2.weight']) for i in blocks)
    hidden = f'{_TEXT}encoder.layer.0.intermediate.dense.weight'
    family.need(arrays, hidden, f'{_AUDIO}fc1.weight')
    tags = arrays.get(f'{_AUDIO}fc_audioset.weight')
    found: dict[str, Any] = dict(
      size='microsoft_2022', audio='cnn14', text='bert', channels=channels,
      audio_width=len(arrays[f'{_AUDIO}fc1.weight']), classes=0 if tags is None else len(tags),
    )  # fmt: skip
    found |= family.text_sizes(
      arrays, f'{_TEXT}embeddings.word_embeddings.weight',
      f'{_TEXT}embeddings.position_embeddings.weight', f'{_TEXT}encoder.layer.',
      len(arrays[hidden]), given,
    )  # fmt: skip
  else:
    hidden = f'{_TEXT}h.0.mlp.c_fc.weight'
    family.need(arrays, hidden)
    found = dict(
      size='microsoft_2023', text='gpt2', **family.htsat_sizes(arrays, f'{_AUDIO}htsat.')
    )
    found |= family.text_sizes(
      arrays, f'{_TEXT}wte.weight', f'{_TEXT}wpe.weight', f'{_TEXT}h.', arrays[hidden].shape[1],
      given,
    )  # fmt: skip
  found['dim'] = len(arrays['audio_encoder.projection.linear1.weight'])
  return 'clap', family.check(found, given)


# By what it is recognised, see `weights/detect.py`.
MARKS = (('audio_encoder.base.', 'caption_encoder.base.'),)
RELEASE = Release(
  rules=rules,
  infer=infer,
  ignored=(
    '*.spectrogram_extractor.*',
    '*.logmel_extractor.*',
    f'{_AUDIO}htsat.head.*',
    f'{_TEXT}pooler.*',
    f'{_TEXT}h.*.attn.bias',
    f'{_TEXT}h.*.attn.masked_bias',
    '*.attn_mask',
    '*.relative_position_index',
    '*.position_ids',
    '*.num_batches_tracked',
  ),
  renew=tables.without_module,
)
