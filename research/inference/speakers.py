"""Vectors of speakers, and how alike two recordings are.

Letters: t samples, d width, w windows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.capabilities import Embeds, compares_speakers
from research.errors import InputError
from research.inference import head_runs, inputs
from research.inference.embedder import Embedder, digest, from_model

# A longer recording is the mean of windows of at most this many seconds.
LONGEST = 60.0


class SpeakerEncoder:
  """Audio to vectors of unit length, by the head x_vector or, without it, by the pooled embedding
  of an encoder.

  from research import weights
  loaded = weights.load('runs/superb/asv/model')
  encoder = SpeakerEncoder(loaded.model, loaded.variables)
  print(encoder.similarity('a.wav', 'b.wav'))
  """

  def __init__(self, model: Any, variables: Any, *, longest: float = LONGEST):
    """Args:
      model: a `capabilities.ComparesSpeakers`, or any that embeds.
      variables: its weights.
      longest: seconds of a window of longer recordings.

    Raises:
      InputError: another model.
    """
    if not compares_speakers(model) and not isinstance(model, Embeds):
      raise InputError(
        f'{type(model).__name__} gives no vectors of speakers: give a model with the head '
        "'x_vector', or an encoder of audio."
      )
    self.model, self.rate = model, model.frontend.sample_rate
    self.longest = min(longest, model.EMBEDDING.max_seconds or longest)
    self.min_samples = model.frontend.min_samples
    self._embedder: Embedder | None = None
    if compares_speakers(model):
      self.min_samples = _shortest(model, variables)
      self._run = head_runs.Runner(model, variables, ('embedding',))
    else:
      self._embedder = from_model(model, variables, type(model).__name__, weights='')

  def vector(
    self, audio: inputs.Audio, sample_rate: float | None = None
  ) -> Float[np.ndarray, ' d']:
    """The voice of a recording, a path or samples at `sample_rate` Hz.

    Raises:
      InputError: it cannot be read, is too short or silent.
    """
    samples = inputs.samples_of(audio, sample_rate, self.model.frontend, 0, None)
    where = str(audio) if not isinstance(audio, np.ndarray) else 'The recording'
    if len(samples) < self.min_samples:
      raise InputError(
        f'{where} is too short for a vector of its speaker: {len(samples) / self.rate:.2f} s, and '
        f'{self.min_samples / self.rate:.2f} s are needed.'
      )
    if not np.any(samples):
      raise InputError(f'{where} is silent: every sample is 0, and nobody speaks in it.')
    count = -(-len(samples) // round(self.longest * self.rate))
    return unit(self.vectors(np.array_split(samples, count)).mean(axis=0))

  def vectors(self, windows: Sequence[np.ndarray]) -> Float[np.ndarray, 'w d']:
    """Those of windows, samples [t] at the model's rate, none below `min_samples`."""
    if self._embedder is not None:
      return unit(np.asarray(self._embedder.embed(list(windows), self.rate), np.float64))
    sizes = {len(window) for window in windows}
    width = sizes.pop() if len(windows) > 1 and len(sizes) == 1 else None  # nothing to pad
    return unit(np.stack([found.astype(np.float64) for (found,) in self._run(windows, width)]))

  def similarity(
    self, first: inputs.Audio, second: inputs.Audio, sample_rate: float | None = None
  ) -> float:
    """Cosine of the vectors of two recordings; errors as of `vector`."""
    rates = [None if not isinstance(x, np.ndarray) else sample_rate for x in (first, second)]
    one, other = (self.vector(x, rate) for x, rate in zip((first, second), rates))
    return float(one @ other)


def _shortest(model: Any, variables: Any) -> int:
  """Samples that the head x_vector needs."""
  hop = head_runs.token_hop(model, variables)
  return model.frontend.min_samples + (model.speaker_frames - 1) * hop


@dataclasses.dataclass(frozen=True)
class VoiceApply:
  """(variables, audio, audio_mask) -> one token a clip, its voice [1, b, 1, d], and its mask; equal
  for equal modules. Clips below `shortest` samples are heard as far as they go."""

  model: Any
  shortest: int

  def __call__(
    self, variables: Any, audio: Float[Array, 'b t'], mask: Bool[Array, 'b t']
  ) -> tuple[Float[Array, '1 b 1 d'], Bool[Array, 'b 1']]:
    more = ((0, 0), (0, max(0, self.shortest - audio.shape[1])))
    batch = {'audio': jnp.pad(audio, more), 'audio_mask': jnp.pad(mask, more)}
    found = self.model.apply(variables, batch)['embedding']
    return found.astype(jnp.float32)[None, :, None], mask.any(axis=1, keepdims=True)


def voice_embedder(pretrained: Any) -> Embedder:
  """The system that embeds the voices of clips, as `SpeakerEncoder` hears them; for files of
  vectors that models learn from.

  Args:
    pretrained: see `weights.load`; a model with the head x_vector.

  Raises:
    InputError: another model.
  """
  if not compares_speakers(pretrained.model):
    raise InputError(
      f"{pretrained.name} has no head 'x_vector': leave --voice out, and pooled embeddings are its "
      'vectors of speakers.'
    )
  own = pretrained.embedder
  apply = VoiceApply(pretrained.model, _shortest(pretrained.model, pretrained.variables))
  return dataclasses.replace(own, apply=apply, weights=digest('voice', own.weights), pool='mean')


def unit(x: Float[np.ndarray, '*batch d']) -> Float[np.ndarray, '*batch d']:
  """Vectors of length 1."""
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
