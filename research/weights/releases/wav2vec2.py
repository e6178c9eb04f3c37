"""wav2vec 2.0 under fairseq's names, see `speech`."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.wav2vec2 import SIZES
from research.weights.families import fairseq_config, speech
from research.weights.release import Release
from research.weights.stated import Stated
from research.weights.tables import Rule, linear


def head_rules(model: nn.Module) -> list[Rule]:
  """The key table of quantiser and projections."""
  quantizer = [
    Rule('quantizer.vars', 'params/quantizer/codebook', 'codebook', heads='groups'),
    *linear('quantizer.weight_proj', 'params/quantizer/logits'),
  ]
  return [
    *(quantizer if model.quantise else []),
    *linear('project_q', 'params/project_targets'),
    *linear('final_proj', 'params/project_context'),
  ]


def head_args(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated
) -> dict[str, Any]:
  """Arguments of quantiser and projections."""
  found: dict[str, Any] = {'quantise': 'quantizer.vars' in arrays}
  if 'final_proj.weight' in arrays:
    found['final_dim'] = arrays['final_proj.weight'].shape[0]
  if found['quantise']:
    # Groups do not show in the arrays; all published models have two.
    said = stated.facts.get('groups')
    groups = given.get('groups', said.value if said else 2)
    _, rows, part = arrays['quantizer.vars'].shape
    if not isinstance(groups, int) or groups < 1 or rows % groups:
      raise InputError(f'The codebook has {rows} rows, which are not groups={groups!r} alike.')
    found |= dict(codebook_size=rows // groups, latent_dim=part * groups)
  return found


FAMILY = speech.Family(
  'wav2vec 2.0', 'wav2vec2', SIZES, ('final_proj', 'project_q'), head_rules, head_args
)
# By what it is recognised, see `weights/detect.py`.
MARKS = (('quantizer.vars', 'project_q.'), ('feature_extractor.conv_layers.0.0.',))
FAIRSEQ = ('wav2vec2', 'wav2vec_ctc')
RELEASE = Release(
  rules=functools.partial(speech.rules, family=FAMILY),
  infer=functools.partial(speech.infer, family=FAMILY),
  describe=fairseq_config.describe,
  compose=functools.partial(fairseq_config.compose, family=FAMILY.name),
  lacks=fairseq_config.lacks,
)
