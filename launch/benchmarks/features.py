"""Front-ends on a batch of waveforms against the feature extractors in common use.

Each pair computes the same spectrogram, which is checked before timing. All start from NumPy arrays
in host memory.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from launch.benchmarks import timing
from research.features.frontend import Frontend


def _ours(frontend: Frontend, audio: np.ndarray, frames: int | None = None) -> Callable[[], Any]:
  """() -> spectrogram [b, s, f] on the device, ready."""
  mask = np.ones(audio.shape, bool)
  run = jax.jit(lambda audio, mask: frontend(audio, mask, frames)[0])
  return lambda: jax.block_until_ready(run(audio, mask))


def _pairs(audio: np.ndarray) -> dict[str, dict[str, Callable[[], Any]]]:
  """{spectrogram: {implementation: () -> spectrogram}}; ours is 'oido'."""
  import librosa
  from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

  clips = list(audio)
  seconds = audio.shape[1] / 16000
  ast = ASTFeatureExtractor()
  whisper = WhisperFeatureExtractor(chunk_length=int(np.ceil(seconds)))
  kaldi = Frontend.create('kaldi_fbank')
  byol: dict[str, Any] = {
    'n_fft': 1024,
    'hop_length': 160,
    'n_mels': 64,
    'fmin': 60.0,
    'fmax': 7800.0,
  }

  def by_ast():
    return ast(clips, sampling_rate=16000, return_tensors='np')['input_values']

  def by_whisper():
    return whisper(clips, sampling_rate=16000, return_tensors='np')['input_features']

  def by_whisper_numpy():
    return whisper._np_extract_fbank_features(audio, 'cpu')

  def by_librosa():
    return np.log(
      librosa.feature.melspectrogram(y=audio, sr=16000, pad_mode='reflect', **byol) + 1.1920929e-07
    )

  return {
    'Kaldi log-mel, 128 bins, 1024 frames, normalised': {
      'oido': _ours(kaldi, audio, frames=1024),
      f'transformers AST ({"torchaudio" if _has_torchaudio() else "NumPy"})': by_ast,
    },
    'Whisper log-mel, 80 bins': {
      'oido': _ours(Frontend.create('whisper'), audio),
      'transformers Whisper (torch.stft)': by_whisper,
      'transformers Whisper (NumPy)': by_whisper_numpy,
    },
    'log-mel, FFT of 1024, 64 bins': {
      'oido': _ours(Frontend.create('byol_a_v2'), audio),
      'librosa': by_librosa,
    },
  }


def _has_torchaudio() -> bool:
  from transformers.utils import is_torchaudio_available

  return is_torchaudio_available()


def _check_equal(what: str, runs: dict[str, Callable[[], Any]]) -> None:
  """Checks that all implementations give the same spectrogram; otherwise times are meaningless."""
  ours = np.asarray(runs['oido']())
  for name, run in runs.items():
    theirs = np.asarray(run())
    theirs = theirs if theirs.shape == ours.shape else np.swapaxes(theirs, 1, 2)
    worst = np.abs(theirs - ours).max()
    if not worst < 0.01:
      raise AssertionError(f'{what}: oido and {name} differ by {worst:.3g}')


def compare_features(
  repeats: int = 7, batch: int = 16, seconds: float = 10.0
) -> list[dict[str, Any]]:
  """Median times of our jitted front-ends and their peers, alternating in one run.

  Args:
    repeats: number of rounds; medians are reported.
    batch: clips per batch.
    seconds: length of each clip.

  Returns:
    A row per peer: seconds of both and `ratio`, peer / ours (above 1: ours is faster).
  """
  audio = 0.1 * np.random.default_rng(0).standard_normal((batch, int(16000 * seconds)))
  rows = []
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # transformers warns about the empty Kaldi filter
    for what, runs in _pairs(audio.astype(np.float32)).items():
      _check_equal(what, runs)
      facts = {'what': what, 'batch': batch, 'clip_seconds': seconds}
      rows += timing.compare(timing.rounds(runs, repeats, warmup=2), 'oido', **facts)
  return rows
