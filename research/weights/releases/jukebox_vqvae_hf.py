"""The VQ-VAE of Jukebox under the names of transformers 4: that of a `JukeboxModel`
(`load(…, release='jukebox_vqvae_hf')`; without, such files are the top prior), or a `JukeboxVQVAE`
by itself. See `jukebox_hf`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.weights.families import jukebox, jukebox_names
from research.weights.release import Release
from research.weights.releases import jukebox_vqvae
from research.weights.stated import NOTHING, Stated
from research.weights.tables import Rule

Arrays = Mapping[str, np.ndarray]
WHOLE = 'vqvae.'


def rules(model: Any) -> list[Rule]:
  """The key table."""
  found = []
  for rule in jukebox.vqvae_rules(model):
    name = jukebox_names.transformers(rule.theirs, jukebox_names.VQVAE)
    assert name is not None, rule.theirs
    found.append(rule._replace(theirs=WHOLE + name))
  return found


def renew(arrays: Arrays) -> dict[str, np.ndarray]:
  """The arrays of the VQ-VAE, under their names in the whole."""
  if any(key.startswith(WHOLE) for key in arrays):
    return {key: x for key, x in arrays.items() if key.startswith(WHOLE)}
  return {WHOLE + key: x for key, x in arrays.items()}


def infer(
  arrays: Arrays, given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need."""
  own = jukebox_names.part(arrays, WHOLE, jukebox_names.VQVAE)
  return jukebox_vqvae.infer(own, given, stated)


# By what it is recognised, see `weights/detect.py`.
MODEL_TYPE = 'jukebox_vqvae'
RELEASE = Release(
  rules=rules, infer=infer, files=('config.json',), renew=renew, derive=jukebox.vqvae_derived
)
