"""The heads of HuBERT's and WavLM's pre-training under fairseq's names."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.weights.stated import Stated
from research.weights.tables import Rule, linear

MARKS = ('label_embs_concat', 'final_proj')
SPECIALS = 4  # of fairseq's dictionaries: bos, pad, eos, unk


def head_rules(model: nn.Module) -> list[Rule]:
  """The key table of unit vectors and projection."""
  del model
  return [
    Rule('label_embs_concat', 'params/unit_vectors'),
    *linear('final_proj', 'params/project_context'),
  ]


def head_args(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated
) -> dict[str, Any]:
  """Arguments of the heads. How many sets of units there are does not show in the arrays: as many
  as the file has dictionaries, or else one, unless `num_clusters` is given as a list."""
  absent = [k for k in ('label_embs_concat', 'final_proj.weight') if k not in arrays]
  if absent:
    raise InputError(f'The file holds a head of pre-training without {", ".join(absent)}.')
  rows, width = arrays['label_embs_concat'].shape
  outputs = arrays['final_proj.weight'].shape[0]
  said = {
    name: stated.facts[name].value for name in ('num_clusters', 'specials') if name in stated.facts
  }
  specials = given.get('specials', said.get('specials', SPECIALS))
  codes = given.get('num_clusters', said.get('num_clusters'))
  sets = [rows - specials] if codes is None else [codes] if isinstance(codes, int) else list(codes)
  if sum(sets) + specials * len(sets) != rows or min(sets) < 1:
    raise InputError(
      f'The file has {rows} vectors of units, which are not those of num_clusters={sets} with '
      f'specials={specials} a set.'
    )
  if outputs not in (width, width * len(sets)):
    raise InputError(
      f'final_proj has {outputs} outputs, units have vectors of {width}: that is no projection for '
      f'{len(sets)} sets of units. Give num_clusters=[…], how many units every set has.'
    )
  found: dict[str, Any] = dict(final_dim=width)
  found['num_clusters'] = sets[0] if len(sets) == 1 else tuple(sets)
  if len(sets) > 1:
    found['untied'] = outputs != width
  return found
