"""Official LAION-CLAP weights (LAION-AI/CLAP): HTSAT with or without fusion, and RoBERTa.

Tables that a front-end or a window computes are left out, and so are the counters of batch norms
and `audio_branch.head`, which nothing uses.
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
from research.weights.tables import Rule, linear

_SIZES = {96: 'laion', 128: 'laion_base', 256: 'laion_large'}


def rules(model: nn.Module) -> list[Rule]:
  """The key table.

  Raises:
    InputError: the model has other towers or projections.
  """
  own = isinstance(model, CLAP) and (model.audio, model.text, model.projection)
  if own != ('htsat', 'roberta', 'mlp'):
    raise InputError(
      f'{type(model).__name__} is not a CLAP of LAION: that has HTSAT, RoBERTa and projections '
      "'mlp'."
    )
  assert isinstance(model, CLAP)
  rows = [*family.htsat(model, 'audio_branch.'), *family.bert(model, 'text_branch.')]
  for side in ('audio', 'text'):
    for i, name in ((0, 'fc1'), (2, 'fc2')):
      rows += linear(f'{side}_projection.{i}', f'params/{side}_projection/{name}')
    for i, name in ((0, 'fc1'), (3, 'fc2')) if model.transforms else ():
      rows += linear(f'{side}_transform.sequential.{i}', f'params/{side}_transform/{name}')
  scales = ('logit_scale_a', 'logit_scale_t')
  return rows + [Rule(name, f'params/{name}', 'number') for name in scales]


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need."""
  del stated
  layer = 'text_branch.encoder.layer.'
  family.need(arrays, 'audio_projection.0.weight', f'{layer}0.intermediate.dense.weight')
  found = family.htsat_sizes(arrays, 'audio_branch.')
  found |= family.text_sizes(
    arrays, 'text_branch.embeddings.word_embeddings.weight',
    'text_branch.embeddings.position_embeddings.weight', layer,
    len(arrays[f'{layer}0.intermediate.dense.weight']), given,
  )  # fmt: skip
  found['dim'] = len(arrays['audio_projection.0.weight'])
  found['transforms'] = 'audio_transform.sequential.0.weight' in arrays
  found['size'] = _SIZES.get(found['audio_width'], 'laion')
  return 'clap', family.check(found, given)


# By what it is recognised, see `weights/detect.py`.
MARKS = (('audio_branch.', 'text_branch.'),)
RELEASE = Release(
  rules=rules,
  infer=infer,
  ignored=(
    'audio_branch.spectrogram_extractor.*',
    'audio_branch.logmel_extractor.*',
    'audio_branch.head.*',
    '*.attn_mask',
    '*.relative_position_index',
    '*.position_ids',
    '*.num_batches_tracked',
  ),
  renew=tables.without_module,
)
