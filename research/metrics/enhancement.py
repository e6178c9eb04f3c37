"""Enhanced speech against the clean one: PESQ (ITU-T P.862) and STOI, by their libraries; SI-SDR.

The first two are optional: pip install -e '.[enhancement]'. PESQ needs a C compiler to be
installed.
"""

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float

from research.errors import InputError, unknown
from research.metrics.separation import si_sdr

METRICS = ('pesq', 'stoi', 'si_sdr')


def pesq(
  estimate: Float[np.ndarray, ' t'],
  reference: Float[np.ndarray, ' t'],
  sample_rate: int = 16000,
  *,
  wide_band: bool = True,
) -> float:
  """Perceptual evaluation of speech quality, about 1 (bad) to 4.64.

  Args:
    estimate: enhanced speech in [-1, 1].
    reference: clean speech of the same length.
    sample_rate: 16000, or 8000 for narrow band.
    wide_band: P.862.2 (SUPERB's) instead of P.862.

  Raises:
    InputError: the library is missing, the rate is not one of PESQ's, or the reference has no
      speech that PESQ finds.
  """
  library = _library('pesq')
  if sample_rate not in ((16000,) if wide_band else (8000, 16000)):
    raise InputError(
      f'PESQ got {sample_rate} Hz: wide band needs 16000, narrow band 8000 or 16000. Resample.'
    )
  try:
    return float(library.pesq(sample_rate, reference, estimate, 'wb' if wide_band else 'nb'))
  except (library.PesqError, ValueError) as error:
    reason = error.args[0] if error.args else type(error).__name__
    reason = reason.decode() if isinstance(reason, bytes) else reason
    raise InputError(f'PESQ cannot score this pair: {reason}.') from None


def stoi(
  estimate: Float[np.ndarray, ' t'],
  reference: Float[np.ndarray, ' t'],
  sample_rate: int = 16000,
  *,
  extended: bool = False,
) -> float:
  """Short-time objective intelligibility (Taal et al. 2011), about 0 to 1; SUPERB reports it
  times 100.

  Args:
    estimate: enhanced speech.
    reference: clean speech of the same length.
    sample_rate: Hz.
    extended: ESTOI (Jensen and Taal 2016).

  Raises:
    InputError: the library is missing.
  """
  return float(_library('pystoi').stoi(reference, estimate, sample_rate, extended=extended))


def check(names: Sequence[str], sample_rate: int) -> None:
  """Raises InputError for metrics that `scores` cannot give at a rate."""
  for name in names:
    if name not in METRICS:
      raise unknown('metric of enhancement', name, METRICS)
    if name != 'si_sdr':
      _library('pesq' if name == 'pesq' else 'pystoi')
    if name == 'pesq' and sample_rate not in (8000, 16_000):
      raise InputError(f'PESQ needs 8000 or 16000 Hz, not {sample_rate}: leave it out.')


def installed(name: str) -> bool:
  """Whether the library of a metric of METRICS is there."""
  return name == 'si_sdr' or find_spec('pesq' if name == 'pesq' else 'pystoi') is not None


def check_libraries() -> None:
  """Raises InputError where a library of PESQ or STOI is missing."""
  for name in ('pesq', 'pystoi'):
    _library(name)


def _library(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError:
    raise InputError(
      f"This metric needs {name}, which is not installed: pip install -e '.[enhancement]'."
    ) from None


def scores(
  estimate: Float[np.ndarray, ' t'],
  reference: Float[np.ndarray, ' t'],
  sample_rate: int,
  names: Sequence[str] = METRICS,
) -> dict[str, float]:
  """Scores of enhanced speech by name, of METRICS.

  Args:
    estimate: enhanced speech.
    reference: clean speech of the same length.
    sample_rate: Hz.
    names: of the scores; PESQ is wide band at 16 kHz and narrow band at 8 kHz.

  Raises:
    InputError: an unknown name, or as `pesq` and `stoi`.
  """
  found: dict[str, float] = {}
  for name in names:
    if name == 'pesq':
      found[name] = pesq(estimate, reference, sample_rate, wide_band=sample_rate == 16_000)
    elif name == 'stoi':
      found[name] = stoi(estimate, reference, sample_rate)
    elif name == 'si_sdr':
      found[name] = float(si_sdr(estimate, reference))
    else:
      raise unknown('metric of enhancement', name, METRICS)
  return found


def snr(noisy: Float[np.ndarray, ' t'], reference: Float[np.ndarray, ' t']) -> float:
  """Energy of clean speech over that of what is added to it, dB; infinite where nothing is."""
  noise = np.square(noisy.astype(np.float64) - reference).sum()
  speech = np.square(reference, dtype=np.float64).sum()
  with np.errstate(divide='ignore'):
    return float(10.0 * np.log10(speech / noise)) if noise else float('inf')
