"""Releases by name: whose key table turns whose arrays into which of our models."""

import dataclasses
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import flax.linen as nn
import numpy as np

from research import models
from research.errors import unknown
from research.weights import tables

# name -> module with IGNORED (patterns), infer(arrays, args) -> (model name, args), rules(model).
RELEASES = {
  'audio_mae': 'research.weights.audio_mae',
  'timm_vit': 'research.weights.timm_vit',
  'wav2vec': 'research.weights.wav2vec',
  'vq_wav2vec': 'research.weights.wav2vec',
  'wav2vec2': 'research.weights.wav2vec2',
  'wav2vec2_hf': 'research.weights.wav2vec2_hf',
}


def get(name: str) -> ModuleType:
  """The module of a release; raises InputError with the nearest names for an unknown one."""
  if name not in RELEASES:
    raise unknown('release', name, RELEASES)
  return importlib.import_module(RELEASES[name])


def convert(
  release: str, arrays: Mapping[str, np.ndarray], **args: Any
) -> tuple[nn.Module, dict[str, Any]]:
  """A release's weights as one of our models.

  Args:
    release: a key of RELEASES.
    arrays: {original key: array}, in the original layout.
    **args: model arguments that do not show in the arrays (heads of an unpublished size, frontend,
      decoder_shift, padding, dtype, …). What does show is inferred, and must not be contradicted.

  Returns:
    (model, variables).

  Raises:
    InputError: unknown release or argument, missing or unexpected keys (all listed),
      contradictions.
  """
  module = get(release)
  name, args = module.infer(arrays, args)
  model = build(name, args)
  return model, tables.to_ours(module.rules(model), model, arrays, module.IGNORED)


def revert(release: str, model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The inverse of `convert`: {original key: array}, bit for bit what was converted.

  Keys that a release ignores (see its module) do not come back.
  """
  return tables.to_theirs(get(release).rules(model), model, variables)


def build(name: str, args: Mapping[str, Any]) -> nn.Module:
  """The model of that name; raises InputError for an argument that it does not have."""
  cls = models.get(name)
  known = [f.name for f in dataclasses.fields(cls) if f.name not in ('parent', 'name')]
  for key in args:
    if key not in known:
      raise unknown(f'argument of model {name}', key, known)
  return cls(**args)
