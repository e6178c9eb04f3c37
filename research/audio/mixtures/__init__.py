"""Mixtures of speech: data sets for separation, diarization, enhancement and spoken commands, made
from clips by published or seeded recipes, in the layouts that `datasets/superb/` reads.

`RECIPES` is the full list. A recipe is given as 'module:function' and imported on use. It takes the
clips (`source`, for some also `noise`) and its own arguments, and returns a `Recipe`;
`writing.write` carries it out.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from research.audio.clips import Source
from research.audio.mixtures.writing import Recipe
from research.errors import InputError, unknown

RECIPES = {
  'libri2mix': 'libri2mix:libri2mix',
  'voxceleb1': 'pauses:voxceleb1',
  'small_mixtures': 'small:small_mixtures',
  'small_noisy': 'noisy:small_noisy',
  'small_commands': 'commands:small_commands',
}
# Recipes of published data sets: they take the folders of clips, not clips.
FOLDERS = ('libri2mix', 'voxceleb1')


def recipe(
  name: str, source: Source | str | None = None, noise: Source | str | None = None, **args: Any
) -> Recipe:
  """A recipe with its clips and arguments.

  Args:
    name: one of RECIPES.
    source: the speech; a folder for recipes of FOLDERS.
    noise: the noise, for recipes that take it.
    args: further arguments of the recipe.

  Raises:
    InputError: an unknown recipe or argument, clips that are needed and missing, or not needed.
  """
  if name not in RECIPES:
    raise unknown('recipe', name, RECIPES)
  module, attribute = RECIPES[name].split(':')
  function: Callable[..., Recipe] = getattr(
    importlib.import_module(f'{__name__}.{module}'), attribute
  )
  accepted = inspect.signature(function).parameters
  for key in args:
    if key not in accepted or key in ('source', 'noise'):
      raise unknown(f'argument of recipe {name}', key, set(accepted) - {'source', 'noise'})
  for key, parameter in accepted.items():
    own = key not in ('source', 'noise') and parameter.default is inspect.Parameter.empty
    if own and key not in args:
      raise InputError(f'Recipe {name} needs the argument {key!r}: --args=\'{{"{key}": …}}\'.')
  given = {'source': source, 'noise': noise}
  for key, clips in given.items():
    if clips is None and key in accepted and accepted[key].default is inspect.Parameter.empty:
      raise InputError(f'Recipe {name} needs --{key}: a folder, a manifest or a named data set.')
    if clips is not None and key not in accepted:
      raise InputError(f'Recipe {name} takes no --{key}.')
  return function(**{k: v for k, v in given.items() if v is not None}, **args)
