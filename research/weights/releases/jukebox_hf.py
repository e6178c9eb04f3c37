"""Priors of Jukebox under the names of transformers 4 (`JukeboxModel`: openai/jukebox-1b-lyrics,
-5b-lyrics), which holds them all: the top level, or `level=0` and `level=1`. The VQ-VAE of the same
files is `jukebox_vqvae_hf`; both go back to the names that are theirs in the whole.

The key lists of the published sizes are those of transformers 4.57.6, and a small VQ-VAE of its
gives the same codes and audio (4e-8); files of the hub have not been loaded.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.errors import InputError
from research.weights.families import jukebox, jukebox_names
from research.weights.release import Release
from research.weights.stated import NOTHING, Stated
from research.weights.tables import Rule

Arrays = Mapping[str, np.ndarray]


def prefix(model: Any) -> str:
  """Where the arrays of a prior lie: levels are numbered from the top."""
  return f'priors.{model.levels - 1 - model.own_level}.'


def rules(model: Any) -> list[Rule]:
  """The key table of a prior."""
  found = []
  for rule in jukebox.prior_rules(model):
    name = jukebox_names.transformers(rule.theirs, jukebox_names.PRIOR)
    assert name is not None, rule.theirs
    found.append(rule._replace(theirs=prefix(model) + name))
  return found


def infer(
  arrays: Arrays, given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) of the prior of `level` in `given`, or of the top.

  Raises:
    InputError: there is no such prior; as `families.jukebox.prior_infer`.
  """
  count = jukebox_names.priors(arrays)
  if not count:
    raise InputError('The file holds no priors.0: it is no Jukebox of transformers.')
  level = given.get('level', count - 1)
  if level not in range(-1, count):
    raise InputError(f'level={level!r} was given: expected 0 to {count - 1}, the top.')
  top = level in (-1, count - 1)
  own = f'priors.{0 if top else count - 1 - level}.'
  # Of the top, sizes say -1.
  rest = {k: v for k, v in given.items() if not top or k != 'level'}
  return jukebox.prior_infer(jukebox_names.part(arrays, own, jukebox_names.PRIOR), rest, stated)


def fit(arrays: Arrays, model: Any) -> dict[str, np.ndarray]:
  """Arrays of the prior alone, without the output of a tied model."""
  own = {key: x for key, x in arrays.items() if key.startswith(prefix(model))}
  output, embedding = (
    f'{prefix(model)}prior.{name}.weight' for name in ('fc_proj_out', 'embed_tokens')
  )
  if model.merged_decoder or output not in own:
    return own
  if not np.array_equal(own.pop(output), own[embedding]):
    raise InputError(f'{output} is not the embedding: give merged_decoder=True.')
  return own


# By what it is recognised, see `weights/detect.py`.
MARKS = (('priors.0.prior.transformer._attn_mods.0.', 'priors.0.prior.embed_tokens.weight'),)
MODEL_TYPE = 'jukebox'
RELEASE = Release(
  rules=rules, infer=infer, files=('config.json',), fit=fit, derive=jukebox.prior_derived
)
