"""Signals of a recording by a head of masks: one, cleaned of noise, or several speakers.

A long recording goes through in windows that share an overlap, over which they fade into each
other. The signals of a window are in no order: they are first matched to those before it, in the
order in which both are most alike over the overlap. Letters: k signals, t, s samples.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize

from research.capabilities import separates
from research.errors import InputError
from research.inference import head_runs, inputs, separation

# Seconds. Utterances of LibriMix and Voicebank, on which SUPERB trains, are mostly shorter.
WINDOW, OVERLAP = 16.0, 4.0


class Separator:
  """The signals of recordings of any length.

  from research import weights
  loaded = weights.load('runs/superb/ss/model')
  voices = Separator(loaded.model, loaded.variables)('two_at_once.wav')
  """

  def __init__(
    self, model: Any, variables: Any, *, window: float = WINDOW, overlap: float = OVERLAP
  ):
    """Args:
      model: a `capabilities.Separates`.
      variables: its weights.
      window: seconds; longer recordings are cut.
      overlap: seconds that neighbouring windows share.

    Raises:
      InputError: another model, or a window that does not fit the overlap.
    """
    if not separates(model):
      raise InputError(
        f"{type(model).__name__} has no masks of signals: give a model with the head 'masks' "
        '(launch.superb trains one on the tasks se and ss).'
      )
    self.model, self.rate, self.hop = model, model.frontend.sample_rate, model.mask_hop
    # Whole frames, so that those of a window lie on those of the recording.
    self.size, self.shared = (round(x * self.rate / self.hop) * self.hop for x in (window, overlap))
    if not 0 < self.shared < self.size or self.size - self.shared < self.hop:
      raise InputError(
        f'Windows of {window:g} s that share {overlap:g} s cannot be: the overlap is above 0 and '
        'below the window.'
      )
    self._run = head_runs.Runner(model, variables, ('masks', 'mixture'))

  def about(self) -> dict[str, Any]:
    """What its result depends on beside the weights, JSON-able."""
    return {'window': self.size / self.rate, 'overlap': self.shared / self.rate}

  def __call__(
    self, audio: inputs.Audio, sample_rate: float | None = None
  ) -> Float[np.ndarray, 'k t']:
    """Signals of a recording, a path or samples at `sample_rate` Hz, at the rate of the model.

    Raises:
      InputError: it cannot be read, or is below one frame.
    """
    samples = inputs.samples_of(audio, sample_rate, self.model.frontend, 0, None)
    starts = [0]
    while len(samples) - starts[-1] > self.size:
      starts.append(starts[-1] + self.size - self.shared)
    pieces = [samples[start : start + self.size] for start in starts]
    width = self.size if len(pieces) > 1 else None
    found = join(list(zip(starts, self._signals(pieces, width))))
    return np.stack([separation.clear_end(signal) for signal in found])

  def _signals(
    self, pieces: list[np.ndarray], width: int | None
  ) -> Iterator[Float[np.ndarray, 'k s']]:
    make = functools.partial(separation.signals, hop=self.hop, clear_ends=False)
    for piece, (masks, mixture) in zip(pieces, self._run(pieces, width)):
      yield make(masks[None], mixture[None], [len(piece)])[0]


def join(parts: Sequence[tuple[int, np.ndarray]]) -> Float[np.ndarray, 'k t']:
  """Signals of overlapping windows as those of the whole, faded linearly over each overlap.

  Args:
    parts: (first sample, signals [k, s]) of every window, in order.

  Raises:
    InputError: neighbours have no sample in common.
  """
  total = max(start + signals.shape[1] for start, signals in parts)
  first = parts[0][1]
  whole = np.zeros((len(first), total), np.float32)
  whole[:, : first.shape[1]] = first
  end = first.shape[1]
  for start, signals in parts[1:]:
    common = min(end - start, signals.shape[1])
    if common < 1:
      raise InputError(
        f'A window ends at sample {end}, and the next starts at {start}: they share no sample.'
      )
    before = whole[:, start : start + common]
    signals = signals[order(before, signals[:, :common])]
    fade = ((np.arange(common) + 0.5) / common).astype(np.float32)
    whole[:, start : start + common] = (1 - fade) * before + fade * signals[:, :common]
    whole[:, start + common : start + signals.shape[1]] = signals[:, common:]
    end = start + signals.shape[1]
  return whole


def order(first: Float[np.ndarray, 'k s'], second: Float[np.ndarray, 'k s']) -> list[int]:
  """The order of the signals of `second` in which the sum of products with those of `first` is
  highest."""
  alike = np.asarray(first, np.float64) @ np.asarray(second, np.float64).T
  return optimize.linear_sum_assignment(-alike)[1].tolist()
