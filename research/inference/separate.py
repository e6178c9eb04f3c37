"""Signals of a recording by a model that separates: one, cleaned of noise, or several speakers.

A long recording goes through in windows that share an overlap, over which they fade into each
other. The signals of a window are in no order: they are first matched to those before it, in the
order in which both are most alike over the overlap. Memory holds a few windows, whatever the
length. Letters: k signals, a channels, t, s samples.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize

from research.capabilities import separates
from research.errors import InputError, unknown
from research.inference import head_runs, inputs, lengths, separation

# Seconds. Utterances of LibriMix and Voicebank, on which SUPERB trains, are mostly shorter.
WINDOW, OVERLAP = 16.0, 4.0
# Of recordings with several channels: their mean, each by itself, or each by the mask of the mean.
CHANNELS = ('mean', 'each', 'common')


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
        f"{type(model).__name__} gives no signals of mixtures: give a model with the head 'masks' "
        '(launch.superb trains one on the tasks se and ss), a gcrn or a conv_tasnet.'
      )
    self.model, self.rate, self.signals = model, model.frontend.sample_rate, model.signals
    self.hop = model.mask_hop or model.frontend.hop_samples
    # Whole frames, so that those of a window lie on those of the recording.
    self.size, self.shared = (round(x * self.rate / self.hop) * self.hop for x in (window, overlap))
    if not 0 < self.shared < self.size or self.size - self.shared < self.hop:
      raise InputError(
        f'Windows of {window:g} s that share {overlap:g} s cannot be: the overlap is above 0 and '
        'below the window.'
      )
    names = ('masks', 'mixture') if model.mask_hop else ('estimates',)
    self._run = head_runs.Runner(model, variables, names)

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
    return np.concatenate(list(self.stream([samples[:, None]])), axis=-1)[:, 0]

  def stream(
    self, blocks: Iterable[Float[np.ndarray, '_ a']], channels: str = 'mean'
  ) -> Iterator[Float[np.ndarray, 'k a _']]:
    """The signals of a recording that comes in blocks at the rate of the model, in pieces as they
    are done; `channels` is one of CHANNELS, 'mean' gives one.

    Raises:
      InputError: an unknown way, or a recording below one frame.
    """
    if channels not in CHANNELS:
      raise unknown('way of channels', channels, CHANNELS)
    found = joined(self._windows(blocks, channels))
    # Spectra of a clip's end are in one window alone where masks end with the clip.
    return separation.cleared(found) if self.model.mask_hop else found

  def _windows(
    self, blocks: Iterable[Float[np.ndarray, '_ a']], channels: str
  ) -> Iterator[tuple[int, Float[np.ndarray, 'k a _']]]:
    """(first sample, signals) of every window; those of a few windows are computed at once."""
    cuts = self._cuts(blocks)
    first = list(itertools.islice(cuts, 2))
    width = self.size if len(first) > 1 else None
    seconds = head_runs.BATCH_SECONDS * self.rate
    todo, number = itertools.chain(first, cuts), 0
    while True:
      a = first[0].shape[1] if channels == 'each' else 1
      group = list(itertools.islice(todo, max(1, lengths.rows(self.size, seconds) // a)))
      if not group:
        return
      pieces = [p for cut in group for p in (cut.T if channels == 'each' else [cut.mean(axis=1)])]
      heard = iter(self._signals(pieces, width))
      for cut in group:
        each = [next(heard) for _ in range(a)]
        if channels == 'common':
          own = separation.common_mask(each[0], cut.mean(axis=1), cut.T)
        else:  # Of the first channel is the order of the signals of all.
          own = np.stack([x[order(each[0], x)] if i else x for i, x in enumerate(each)], axis=1)
        yield number * (self.size - self.shared), own
        number += 1

  def _cuts(self, blocks: Iterable[Float[np.ndarray, '_ a']]) -> Iterator[np.ndarray]:
    """Windows [s, a] of a recording; the last one is longer than the overlap, or the only one."""
    held: np.ndarray | None = None
    for block in blocks:
      held = block if held is None else np.concatenate([held, block])
      while len(held) > self.size:
        yield held[: self.size]
        held = held[self.size - self.shared :]
    least = self.model.frontend.min_samples
    if held is None or len(held) < least:
      given = 0 if held is None else len(held)
      raise InputError(f'It {inputs.too_short(given, self.model.frontend)}.')
    yield held

  def _signals(
    self, pieces: list[np.ndarray], width: int | None
  ) -> Iterator[Float[np.ndarray, 'k _']]:
    make = functools.partial(separation.signals, hop=self.hop, clear_ends=False)
    for piece, found in zip(pieces, self._run(pieces, width)):
      if self.model.mask_hop:
        masks, mixture = found
        yield make(masks[None], mixture[None], [len(piece)])[0]
      else:
        yield found[0][:, : len(piece)]


def joined(parts: Iterable[tuple[int, np.ndarray]]) -> Iterator[Float[np.ndarray, 'k *a _']]:
  """Signals of overlapping windows as those of the whole, faded linearly over each overlap, in
  pieces as they are done.

  Args:
    parts: (first sample, signals [k, …, s]) of every window, in order.

  Raises:
    InputError: neighbours have no sample in common.
  """
  held, first = None, 0  # what may still change, and its first sample
  for start, signals in parts:
    if held is None:
      held, first = signals.astype(np.float32), start
      continue
    end = first + held.shape[-1]
    common = min(end - start, signals.shape[-1])
    if common < 1:
      raise InputError(
        f'A window ends at sample {end}, and the next starts at {start}: they share no sample.'
      )
    yield held[..., : start - first]
    before = held[..., start - first :]
    signals = signals[order(before[..., :common], signals[..., :common])]
    fade = ((np.arange(common) + 0.5) / common).astype(np.float32)
    mixed = (1 - fade) * before[..., :common] + fade * signals[..., :common]
    longer = signals if signals.shape[-1] > common else before
    held = np.concatenate([mixed, longer[..., common:]], axis=-1).astype(np.float32)
    first = start
  if held is not None:
    yield held


def join(parts: Sequence[tuple[int, np.ndarray]]) -> Float[np.ndarray, 'k t']:
  """The whole of `joined`."""
  return np.concatenate(list(joined(parts)), axis=-1)


def order(first: Float[np.ndarray, 'k *s'], second: Float[np.ndarray, 'k *s']) -> list[int]:
  """The order of the signals of `second` in which the sum of products with those of `first` is
  highest."""
  x, y = (np.asarray(each, np.float64).reshape(len(each), -1) for each in (first, second))
  return optimize.linear_sum_assignment(-(x @ y.T))[1].tolist()
