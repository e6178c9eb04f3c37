"""Objectives by name: pure functions `(out, batch, **args) -> (loss, metrics)` on arrays."""

import importlib
from collections.abc import Callable

from research.errors import unknown

# name -> 'module:function'
OBJECTIVES = {
  'wav2vec_contrastive': 'research.objectives.contrastive:wav2vec_contrastive',
  'wav2vec2_contrastive': 'research.objectives.contrastive:wav2vec2_contrastive',
  'masked_patch_mse': 'research.objectives.reconstruction:masked_patch_mse',
  'masked_codes': 'research.objectives.prediction:masked_codes',
  'masked_units': 'research.objectives.prediction:masked_units',
  'bootstrap': 'research.objectives.bootstrap:bootstrap',
  'cross_entropy': 'research.objectives.supervised:cross_entropy',
  'binary_cross_entropy': 'research.objectives.supervised:binary_cross_entropy',
  'ctc': 'research.objectives.supervised:ctc',
}


def get(name: str) -> Callable:
  """The objective of that name; for an unknown name raises InputError with the nearest ones."""
  if name not in OBJECTIVES:
    raise unknown('objective', name, OBJECTIVES)
  module, attribute = OBJECTIVES[name].split(':')
  return getattr(importlib.import_module(module), attribute)
