"""Releases by name (`weights/releases/<name>.py`): their arrays as models of ours, and back."""

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from research import models
from research.errors import unknown
from research.models import finetuned, settings
from research.weights import detect, read, releases, tables
from research.weights.release import Release

RELEASES = tuple(sorted(m.name for m in pkgutil.iter_modules(releases.__path__)))


def get(name: str) -> Release:
  """What a release declares; raises InputError with the nearest names for an unknown one."""
  if name not in RELEASES:
    raise unknown('release', name, RELEASES)
  return importlib.import_module(f'{releases.__name__}.{name}').RELEASE


def convert(
  release: str, arrays: Mapping[str, np.ndarray], **args: Any
) -> tuple[nn.Module, dict[str, Any]]:
  """A release's weights as one of our models.

  Args:
    release: one of RELEASES.
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
  made = get(release)
  arrays = made.renew(arrays)
  name, found = made.infer(arrays, args, made.describe(files))
  model = build(name, found)
  fitted = made.fit(arrays, model)
  return model, tables.to_ours(made.rules(model), model, fitted, made.ignored, made.derive)


def revert(release: str, model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The inverse of `convert`: {original key: array}, bit for bit what was converted.

  Keys that a release ignores (see its module) do not come back.
  """
  made = get(release)
  return tables.to_theirs(made.rules(model), model, variables, made.derive)


def revert_files(
  release: str, model: nn.Module, variables: Mapping[str, Any], suffix: str = ''
) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
  """(arrays, what belongs beside them, what had to be left out) in the original layout; see
  `write.write_release`.

  Heads of pre-training for which a release, or its loader of files with this suffix, has no model
  are left out; '' where nothing was.
  """
  made, left = get(release), ''
  alone = made.encoder_alone.get('', made.encoder_alone.get(suffix))
  if alone is not None:
    whole = model
    model, variables = alone(model, variables)
    left = '' if model is whole else 'the heads of pre-training'
  left = '; '.join(filter(None, (left, made.lacks(model))))
  files = {} if made.compose is None else made.compose(model)
  return revert(release, model, variables), files, left


def read_files(
  release: str | None, path: Path
) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
  """(release, arrays, what lies beside them) of a file or folder of original weights.

  Args:
    release: whose they are; None: detected, see `detect`.
    path: see `read.read_release`.

  Raises:
    InputError: as `read.read_release` and `detect.release`.
  """
  if release is not None:
    return release, *read.read_release(path, get(release).files)
  every = {name for each in RELEASES for name in get(each).files}
  arrays, files = read.read_release(path, sorted(every))
  release = detect.release(path, arrays, files)
  own = get(release).files
  return release, arrays, {k: v for k, v in files.items() if k not in every or k in own}


def build(name: str, args: Mapping[str, Any]) -> nn.Module:
  """The model of that name; raises InputError for an argument that it does not have."""
  cls = models.get(name)
  known = settings.argument_names(cls)
  for key in args:
    if key not in known:
      raise unknown(f'argument of model {name}', key, known)
  return cls(**args)


def changed(name: str, args: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
  """Arguments of the model of that name with changes, which may be those of its parts."""
  if models.get(name) is finetuned.Finetuned:
    return finetuned.route(args, changes)
  return {**args, **changes}
