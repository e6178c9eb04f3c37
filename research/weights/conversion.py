"""Releases by name: whose key table turns whose arrays into which of our models."""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.linen as nn
import numpy as np

from research import models
from research.errors import unknown
from research.weights import read, tables

# name -> module with IGNORED (patterns), infer(arrays, args) -> (model name, args), rules(model).
# A module may have renew(arrays) -> arrays under the names of its table; and describe(files) ->
# Stated, infer's third argument, for what lies beside the arrays: a checkpoint's 'cfg' and the
# .json files that it names in FILES. compose(model) -> {name: content} of both for the way back,
# encoder_alone(model, variables) where it has no model with heads of pre-training, and
# lacks(model), what the way back does not say of a model.
RELEASES = {
  'audio_mae': 'research.weights.releases.audio_mae',
  'byol_a': 'research.weights.releases.byol_a',
  'hubert': 'research.weights.releases.hubert',
  'hubert_hf': 'research.weights.releases.hubert_hf',
  'timm_vit': 'research.weights.releases.timm_vit',
  'wav2vec': 'research.weights.releases.wav2vec',
  'vq_wav2vec': 'research.weights.releases.wav2vec',
  'wav2vec2': 'research.weights.releases.wav2vec2',
  'wav2vec2_hf': 'research.weights.releases.wav2vec2_hf',
  'wavlm': 'research.weights.releases.wavlm',
  'wavlm_hf': 'research.weights.releases.wavlm_hf',
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
  return convert_files(release, arrays, {}, args)


def convert_files(
  release: str,
  arrays: Mapping[str, np.ndarray],
  files: Mapping[str, Any],
  args: Mapping[str, Any],
) -> tuple[nn.Module, dict[str, Any]]:
  """`convert` of arrays with what lies beside them, see `read_files`.

  What the files say of the model must not be contradicted by the arrays or by `args`; their rates
  of training are only where `args` has none.
  """
  module = get(release)
  if hasattr(module, 'renew'):
    arrays = module.renew(arrays)
  beside = (module.describe(files),) if hasattr(module, 'describe') else ()
  name, found = module.infer(arrays, args, *beside)
  model = build(name, found)
  return model, tables.to_ours(module.rules(model), model, arrays, module.IGNORED)


def revert(release: str, model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The inverse of `convert`: {original key: array}, bit for bit what was converted.

  Keys that a release ignores (see its module) do not come back.
  """
  return tables.to_theirs(get(release).rules(model), model, variables)


def revert_files(
  release: str, model: nn.Module, variables: Mapping[str, Any], suffix: str = ''
) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
  """(arrays, what belongs beside them, what had to be left out) in the original layout; see
  `write.write_release`.

  Heads of pre-training for which a release, or its loader of files with this suffix, has no model
  are left out; '' where nothing was.
  """
  module, left = get(release), ''
  alone = getattr(module, 'encoder_alone', getattr(module, 'ALONE', {}).get(suffix))
  if alone is not None:
    whole = model
    model, variables = alone(model, variables)
    left = '' if model is whole else 'the heads of pre-training'
  if hasattr(module, 'lacks'):
    left = '; '.join(filter(None, (left, module.lacks(model))))
  files = module.compose(model) if hasattr(module, 'compose') else {}
  return revert(release, model, variables), files, left


def read_files(release: str, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """(arrays, what lies beside them) of a file or folder of a release, see `read.read_release`."""
  return read.read_release(path, getattr(get(release), 'FILES', ()))


def build(name: str, args: Mapping[str, Any]) -> nn.Module:
  """The model of that name; raises InputError for an argument that it does not have."""
  cls = models.get(name)
  known = [f.name for f in dataclasses.fields(cls) if f.name not in ('parent', 'name')]
  for key in args:
    if key not in known:
      raise unknown(f'argument of model {name}', key, known)
  return cls(**args)
