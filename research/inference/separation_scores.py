"""Separated voices against clean ones: SI-SDR, its improvement over the mixture, PESQ and STOI.

Voices come out in no order: each clean one is held against that of the order in which the mean
SI-SDR is highest. Letters: k voices.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.audio.clips import Source
from research.errors import InputError
from research.inference import enhance
from research.inference.clip_rows import Row
from research.metrics import enhancement, separation


class Judge:
  """Scores of the voices of a mixture, and of the mixture itself in their place."""

  def __init__(
    self,
    source: Source,
    given: Sequence[str | os.PathLike],
    sample_rate: int,
    voices: int,
    *,
    metrics: Sequence[str] | None = None,
  ):
    """Args:
      source: mixtures.
      given: a folder or a column for each voice, see `enhance.references`; or one folder with
        NAME_1, NAME_2, … of a mixture NAME, as `launch.separate` writes them.
      sample_rate: at which all are compared, Hz.
      voices: k.
      metrics: of `enhancement.METRICS`; None for SI-SDR, and STOI where it is installed.

    Raises:
      InputError: another number of voices, a mixture without one of them, or the library of a
        metric is missing.
    """
    if metrics is None:
      metrics = [name for name in ('si_sdr', 'stoi') if enhancement.installed(name)]
    enhancement.check(metrics, sample_rate)
    self.source, self.rate, self.metrics = source, sample_rate, tuple(metrics)
    if len(given) == 1 and voices > 1 and Path(given[0]).expanduser().is_dir():
      each = [enhance.references(source, given[0], f'_{k + 1}') for k in range(voices)]
    elif len(given) == voices:
      each = [enhance.references(source, one) for one in given]
    else:
      raise InputError(
        f'--reference={",".join(map(str, given))} names {len(given)} of {voices} voices: give '
        f'{voices} folders or columns with commas between them, or a folder with NAME_1.wav to '
        f'NAME_{voices}.wav of every NAME.wav.'
      )
    self.paths = list(zip(*each, strict=True))

  def about(self) -> dict[str, Any]:
    """What scores depend on, JSON-able."""
    return {'metrics': list(self.metrics), 'clean': [list(paths) for paths in self.paths]}

  def __call__(self, row: int, files: Sequence[Path]) -> Row:
    """{'order': the file of each clean voice, from 1, 'scores': {system: {metric: value}}} of the
    files made of a mixture: means over voices.

    Raises:
      InputError: lengths differ, a clean voice is silent, or it cannot be scored.
    """
    paths, rate = self.paths[row], self.rate
    clean = [enhance.read(path, rate) for path in paths]
    mixture = enhance.read(self.source[row], rate)
    found = [enhance.read(file, rate) for file in files]
    n = enhance.common_length([*clean, mixture, *found], rate, paths)
    for path, voice in zip(paths, clean):
      if not voice[:n].any():
        raise InputError(f'Its clean voice {path} is silent: no ratio is defined.')
    truth, made = (np.stack([x[:n] for x in each]) for each in (clean, found))
    pairs = np.asarray(separation.si_sdr(made[None], truth[:, None]))
    order = separation.best_permutation(pairs)
    before = separation.si_sdr(mixture[:n], truth)
    scores = {}
    for name, signals in (
      ('mixture', [mixture[:n]] * len(truth)),
      ('separated', made[list(order)]),
    ):
      each = [enhancement.scores(*pair, rate, self.metrics) for pair in zip(signals, truth)]
      scores[name] = {metric: float(np.mean([x[metric] for x in each])) for metric in self.metrics}
    scores['mixture']['si_sdri'] = 0.0
    scores['separated']['si_sdri'] = float(np.mean(pairs[range(len(order)), order] - before))
    return {
      'order': [place + 1 for place in order],
      'scores': {name: enhance.rounded(each) for name, each in scores.items()},
    }
