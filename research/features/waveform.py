"""The front-end of raw-waveform models: the waveform itself, clips normalised or as they are."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from research.errors import InputError, unknown
from research.features import spectral
from research.features.spectral import Array

KINDS: dict[str, Any] = {
  'sample_rate': int, 'normalise': bool, 'epsilon': float, 'window': int, 'hop': int,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Waveform:
  """Audio at a sample rate, hashable and JSON-able like the spectrogram front-ends.

  Attributes:
    sample_rate: Hz.
    normalise: every clip to zero mean and unit variance over its real samples, as models with layer
      norm in their convolutions expect (fairseq's `normalize`, fairseq_cli's task setting). A crop
      is normalised by the whole clip, where training gives its moments.
    epsilon: added to the variance; fairseq's layer norm has 1e-5, transformers' extractor 1e-7.
    window, hop: samples that a frame of the model's convolutions sees, and samples from one frame
      to the next. The model sets them (see `of_stem`); the default is 25 ms and 20 ms at 16 kHz:
      wav2vec 2.0, HuBERT and WavLM.
  """

  sample_rate: int = 16_000
  normalise: bool = False
  epsilon: float = 1e-5
  window: int = 400
  hop: int = 320
  name = kind = 'waveform'

  @property
  def fields(self) -> tuple[str, ...]:
    """Fields of a batch that it reads: statistics of whole clips where it normalises."""
    return ('moments',) if self.normalise else ()

  @property
  def hop_samples(self) -> int:
    """Samples from one frame to the next."""
    return self.hop

  @property
  def min_samples(self) -> int:
    """Fewest samples that give a frame."""
    return self.window

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> 'Waveform':
    """The inverse of `to_dict`; what is left out has its default.

    Raises:
      InputError: an unknown argument, or a value of the wrong kind.
    """
    values = dict(values)
    if values.pop('name', 'waveform') != 'waveform':
      raise InputError('A raw-waveform model has the front-end waveform and no other.')
    for key, value in values.items():
      if key not in KINDS:
        raise unknown('argument of front-end waveform', key, KINDS)
      if type(value) is not KINDS[key] or (key != 'normalise' and not value > 0):
        raise InputError(f'{key} of front-end waveform is {value!r}: that cannot be.')
    return cls(**values)

  @classmethod
  def of_stem(
    cls, given: 'Waveform | Mapping[str, Any] | None', window: int, hop: int, **defaults: Any
  ) -> 'Waveform':
    """The front-end of a model whose convolutions see `window` samples a frame, `hop` apart.

    Args:
      given: settings or a front-end; None takes the defaults.
      window, hop: of the convolutions.
      **defaults: settings that the model has where `given` says nothing.

    Raises:
      InputError: as `from_dict`, and when `given` states another window or hop.
    """
    if not isinstance(given, Waveform):
      given = cls.from_dict({**defaults, 'window': window, 'hop': hop, **(given or {})})
    if (given.window, given.hop) != (window, hop):
      raise InputError(
        f'The front-end states window={given.window} and hop={given.hop}, but the convolutions of '
        f'this model see {window} samples, {hop} apart: leave out frontend.window and frontend.hop.'
      )
    return given

  def to_dict(self) -> dict[str, Any]:
    """Every value, flat."""
    return {'name': self.name, **dataclasses.asdict(self)}

  def differences(self, other: Any) -> dict[str, tuple[Any, Any]]:
    """Where two front-ends differ: {argument: (mine, theirs)}."""
    if self.kind != other.kind:
      return {'name': (self.name, other.name)}
    mine, theirs = self.to_dict(), other.to_dict()
    return {k: (mine[k], theirs[k]) for k in mine if mine[k] != theirs[k]}

  def __call__(
    self,
    audio: Float[Array, 'b t'],
    audio_mask: Bool[Array, 'b t'],
    moments: Float[Array, 'b 2'] | None = None,
  ) -> Float[jax.Array, 'b t']:
    """The waveform, 0 behind the mask; raises InputError below one frame.

    Args:
      audio, audio_mask: clips; real samples come first.
      moments: mean and variance of the clips that crops are from; NaN where a row is its own.
    """
    self.check(audio.shape[1])
    x = jnp.where(audio_mask, audio, 0.0)
    if not self.normalise:
      return x
    count = jnp.maximum(audio_mask.astype(jnp.float32).sum(axis=1, keepdims=True), 1.0)
    mean = x.sum(axis=1, keepdims=True) / count
    centred = jnp.where(audio_mask, x - mean, 0.0)
    variance = jnp.square(centred).sum(axis=1, keepdims=True) / count
    if moments is not None:
      given = ~jnp.isnan(moments[:, :1])
      centred = jnp.where(given & audio_mask, x - moments[:, :1], centred)
      variance = jnp.where(given, moments[:, 1:], variance)
    return centred * jax.lax.rsqrt(variance + self.epsilon)

  def frames(self, samples: int) -> int:
    """Frames of a clip of so many samples; 0 when it is too short."""
    return max(0, (samples - self.window) // self.hop + 1)

  def samples(self, frames: int) -> int:
    """Fewest samples that give at least so many frames."""
    return self.window + self.hop * (max(frames, 1) - 1)

  def check(self, samples: int) -> None:
    """Raises InputError, in seconds and samples, when a clip is too short for one frame."""
    spectral.demand_samples(samples, self.window, 'the front-end waveform', self.sample_rate)
