"""Whisper's log-mel of a whole recording, in pieces: memory holds the log-mel and little more.

Upstream computes it of the whole recording, with a window of silence behind, because its floor goes
by the maximum of all of it (openai/whisper, audio.py). Pieces give the same frames: each has the
samples that its frames see, and the floor is put in when all of them are known. An hour takes
115 MB with 80 mel bins, 184 MB with 128.
"""

import functools

import jax
import numpy as np
from jaxtyping import Array, Float

from research.features.frontend import Frontend
from research.features.spectral import log_mel

# Frames of a piece, 30 s: one length, one program.
PIECE = 3000
# Of log10 mel (audio.py): values are kept down to so much below the maximum.
RANGE = 8.0


@functools.partial(jax.jit, static_argnames=('frontend',))
def _logs(frontend: Frontend, audio: Float[Array, 'b t']) -> Float[Array, 'b s f']:
  """log10 mel of frames that lie in the audio whole."""
  settings = dict(frontend.settings)
  logs, _ = log_mel(
    audio,
    jax.numpy.ones(audio.shape, bool),
    sample_rate=frontend.sample_rate,
    num_mel_bins=frontend.num_mel_bins,
    n_fft=settings['n_fft'],
    hop_length=settings['hop_length'],
    log='log10_floor',
    floor=1e-10,
    center=False,
  )
  return logs


def whole_log_mel(
  frontend: Frontend, audio: Float[np.ndarray, ' t'], silence: int
) -> tuple[Float[np.ndarray, 's f'], int]:
  """Log-mel of a recording with silence behind it; and the number of frames of the recording alone.

  Args:
    frontend: 'whisper', at the rate of the audio.
    audio: one channel, finite.
    silence: frames of it, at least one FFT long.
  """
  hop, size = frontend.hop_samples, dict(frontend.settings)['n_fft']
  edge = size // 2
  frames = len(audio) // hop + silence
  # The first frames see the beginning mirrored, the last ones silence.
  begin = np.zeros(edge + 1, np.float32)
  begin[: len(audio[: edge + 1])] = audio[: edge + 1]
  mel = np.empty((frames, frontend.num_mel_bins), np.float32)
  for first in range(0, frames, PIECE):
    start = first * hop - edge
    part = np.zeros((1, (PIECE - 1) * hop + size), np.float32)
    if start < 0:
      part[0, :edge] = begin[:0:-1]
    own = audio[max(start, 0) : start + part.shape[1]]
    offset = max(-start, 0)
    part[0, offset : offset + len(own)] = own
    logs = np.asarray(_logs(frontend, part))[0]
    mel[first : first + PIECE] = logs[: frames - first]
  np.maximum(mel, mel.max() - np.float32(RANGE), out=mel)
  mel += np.float32(4.0)
  mel /= np.float32(4.0)
  mel -= np.float32(frontend.mean)
  mel /= np.float32(frontend.std_factor * frontend.std)
  return mel, frames - silence
