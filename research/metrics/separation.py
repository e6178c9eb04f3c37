"""Separated signals against their sources: SI-SDR (arXiv 1811.02508), BSS eval 3 (Vincent et al.
2006), permutations of outputs.

Arrays are float [k, t]: k sources, t samples. Values are in dB.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg

from research.errors import InputError

EPS = 1e-8  # asteroid's, of energies and of the ratio
TAPS = 512  # of the distortion filters of BSS eval


def si_sdr(
  estimate: np.ndarray, reference: np.ndarray, *, zero_mean: bool = True, eps: float = EPS
) -> np.ndarray | np.float64:
  """Scale-invariant signal-to-distortion ratio along the last axis; others broadcast.

  Args:
    estimate: […, t].
    reference: […, t].
    zero_mean: whether both lose their mean first, as asteroid and SUPERB do.
    eps: added to energies and to the ratio.
  """
  estimate, reference = (np.asarray(x, np.float64) for x in (estimate, reference))
  if zero_mean:
    estimate, reference = (x - x.mean(-1, keepdims=True) for x in (estimate, reference))
  energy = (reference**2).sum(-1, keepdims=True) + eps
  target = (estimate * reference).sum(-1, keepdims=True) / energy * reference
  noise = ((estimate - target) ** 2).sum(-1) + eps
  with np.errstate(divide='ignore'):
    return 10.0 * np.log10((target**2).sum(-1) / noise + eps)


def best_permutation(matrix: Float[np.ndarray, 'k k']) -> tuple[int, ...]:
  """Which estimate belongs to each reference so that the mean of matrix[reference, estimate] is
  largest; the first of equal ones."""
  sources = range(len(matrix))
  return max(
    itertools.permutations(sources),
    key=lambda order: sum(matrix[i, j] for i, j in enumerate(order)),
  )


class BssEval(NamedTuple):
  """BSS eval of the best order: sdr, sir and sar [k] by reference, and the estimate of each."""

  sdr: np.ndarray
  sir: np.ndarray
  sar: np.ndarray
  permutation: tuple[int, ...]


def bss_eval(
  estimate: Float[np.ndarray, 'k t'], reference: Float[np.ndarray, 'k t'], taps: int = TAPS
) -> BssEval:
  """BSS eval 3 with time-invariant distortion filters; the order with the best mean SIR, as
  mir_eval's bss_eval_sources.

  Raises:
    InputError: shapes differ, or a signal is silent, for which it is not defined.
  """
  if estimate.shape != reference.shape or estimate.ndim != 2:
    raise InputError(
      f'bss_eval got estimates {estimate.shape} and references {reference.shape}: [sources, '
      'samples] of both is expected.'
    )
  if not (np.any(estimate, axis=1).all() and np.any(reference, axis=1).all()):
    raise InputError('bss_eval got a silent signal: it is defined for signals with energy.')
  estimate, reference = (np.asarray(x, np.float64) for x in (estimate, reference))
  k = len(reference)
  project_all = _Projection(reference, taps)
  project_one = [_Projection(reference[i : i + 1], taps) for i in range(k)]
  values = np.empty((3, k, k))  # sdr, sir, sar of [reference, estimate]
  for j in range(k):
    heard = np.pad(estimate[j], (0, taps - 1))
    spanned = project_all(estimate[j])
    artifacts = heard - spanned
    for i in range(k):
      target = project_one[i](estimate[j])
      interference = spanned - target
      values[:, i, j] = (
        _ratio(target, interference + artifacts),
        _ratio(target, interference),
        _ratio(target + interference, artifacts),
      )
  order = best_permutation(values[1])
  chosen = values[:, np.arange(k), order]
  return BssEval(*chosen, permutation=order)


def assigned_si_sdr(
  estimate: Float[np.ndarray, 'k t'], reference: Float[np.ndarray, 'k t'], mixture: np.ndarray
) -> tuple[Any, Any, tuple[int, ...]]:
  """SI-SDR as SUPERB's separation task has it: outputs are assigned by `bss_eval`, then scored.

  Args:
    estimate: of the network, in its order.
    reference: sources.
    mixture: [t].

  Returns:
    SI-SDR of each reference [k], that of the mixture [k], and the estimate of each reference. The
    improvement is the difference; its mean is reported.
  """
  order = bss_eval(estimate, reference).permutation if len(reference) > 1 else (0,)
  return si_sdr(estimate[list(order)], reference), si_sdr(mixture, reference), order


def _ratio(signal: np.ndarray, noise: np.ndarray) -> float:
  energy = (noise**2).sum()
  return 10.0 * np.log10((signal**2).sum() / energy) if energy else np.inf


class _Projection:
  """Least squares on the delayed versions (0 … taps - 1) of some signals."""

  def __init__(self, signals: np.ndarray, taps: int):
    k, t = signals.shape
    self.taps, self.length = taps, t + taps - 1
    self.size = 1 << (2 * self.length - 1).bit_length()
    self.spectra = np.fft.rfft(signals, self.size)
    gram = np.empty((k, taps, k, taps))
    for i, j in itertools.product(range(k), repeat=2):
      cross = np.fft.irfft(self.spectra[i] * self.spectra[j].conj(), self.size)
      gram[i, :, j] = linalg.toeplitz(np.r_[cross[0], cross[-1:-taps:-1]], cross[:taps])
    self.gram = gram.reshape(k * taps, k * taps)

  def __call__(self, heard: np.ndarray) -> np.ndarray:
    """The nearest filtered sum to a signal [t]; [t + taps - 1]."""
    spectrum = np.fft.rfft(heard, self.size)
    cross = np.fft.irfft(self.spectra.conj() * spectrum, self.size)[:, : self.taps]
    try:
      filters = np.linalg.solve(self.gram, cross.ravel())
    except np.linalg.LinAlgError:
      filters = np.linalg.lstsq(self.gram, cross.ravel(), rcond=None)[0]
    response = np.fft.rfft(filters.reshape(len(self.spectra), self.taps), self.size)
    return np.fft.irfft((response * self.spectra).sum(0), self.size)[: self.length]
