"""The VQ-VAE of Jukebox under openai's names (vqvae.pth.tar).

Of the figures, dilations and the sample rate do not show: `size` 'jukebox' (44.1 kHz), or for two
levels 'small' (22.05 kHz), stands for them unless it is given.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.weights.families import jukebox
from research.weights.release import Release
from research.weights.stated import NOTHING, Stated, settle
from research.weights.tables import without_module


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need."""
  found = jukebox.vqvae_figures(arrays)
  lists = {k: tuple(given[k]) for k in ('downs_t', 'strides_t', 'multipliers') if k in given}
  size = 'small' if len(found['downs_t']) == 2 else 'jukebox'
  return 'jukebox_vqvae', settle(found, {**given, **lists}, stated, {'size': size})


# By what it is recognised, see `weights/detect.py`.
MARKS = (('bottleneck.level_blocks.0.k', 'encoders.0.level_blocks.'),)
RELEASE = Release(
  rules=jukebox.vqvae_rules,
  infer=infer,
  renew=without_module,
  derive=jukebox.vqvae_derived,
)
