"""The front-end of raw-waveform models: the waveform, optionally normalised per clip."""

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
    normalise: normalise every clip to zero mean and unit variance over its real samples (fairseq's
      task setting `normalize`), as expected by models with layer norm in their convolutions. A crop
      is normalised by the statistics of the whole clip if training provides `clip_stats`.
    epsilon: added to the variance; 1e-5 in fairseq's layer norm, 1e-7 in transformers' extractor.
    window, hop: receptive field and stride of the model's convolutions, samples. Set by the model
      (see `of_stem`); the default is 25 ms and 20 ms at 16 kHz: wav2vec 2.0, HuBERT and WavLM.
  """

  sample_rate: int = 16_000
  normalise: bool = False
  epsilon: float = 1e-5
  window: int = 400
  hop: int = 320
  name = kind = 'waveform'

  @property
  def fields(self) -> tuple[str, ...]:
    """Fields of a batch that it reads: `clip_stats` if it normalises."""
    return ('clip_stats',) if self.normalise else ()

  @property
  def hop_samples(self) -> int:
    """Samples between frames."""
    return self.hop

  @property
  def min_samples(self) -> int:
    """Minimum samples for one frame."""
    return self.window

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> 'Waveform':
    """The inverse of `to_dict`; omitted arguments have their defaults.

    Raises:
      InputError: an unknown argument, or a value of the wrong type.
    """
    values = dict(values)
    if values.pop('name', 'waveform') != 'waveform':
      raise InputError('A raw-waveform model needs the front-end waveform.')
    for key, value in values.items():
      if key not in KINDS:
        raise unknown('argument of front-end waveform', key, KINDS)
      if type(value) is not KINDS[key] or (key != 'normalise' and not value > 0):
        expected = 'True or False' if key == 'normalise' else 'a number above 0'
        raise InputError(f'{key} of front-end waveform is {value!r}: expected {expected}.')
    return cls(**values)

  @classmethod
  def of_stem(
    cls, given: 'Waveform | Mapping[str, Any] | None', window: int, hop: int, **defaults: Any
  ) -> 'Waveform':
    """The front-end of a model whose convolutions have receptive field `window` and stride `hop`.

    Args:
      given: settings or a front-end; None takes the defaults.
      window, hop: receptive field and stride of the convolutions, samples.
      **defaults: defaults of the model for settings not in `given`.

    Raises:
      InputError: see `from_dict`; or `given` has another window or hop.
    """
    if not isinstance(given, Waveform):
      given = cls.from_dict({**defaults, 'window': window, 'hop': hop, **(given or {})})
    if (given.window, given.hop) != (window, hop):
      raise InputError(
        f'The front-end has window={given.window} and hop={given.hop}, but the model has '
        f'window={window} and hop={hop}: leave out frontend.window and frontend.hop.'
      )
    return given

  def to_dict(self) -> dict[str, Any]:
    """Every value, flat."""
    return {'name': self.name, **dataclasses.asdict(self)}

  def differences(self, other: Any) -> dict[str, tuple[Any, Any]]:
    """Differing arguments: {argument: (mine, theirs)}."""
    if self.kind != other.kind:
      return {'name': (self.name, other.name)}
    mine, theirs = self.to_dict(), other.to_dict()
    return {k: (mine[k], theirs[k]) for k in mine if mine[k] != theirs[k]}

  def __call__(
    self,
    audio: Float[Array, 'b t'],
    audio_mask: Bool[Array, 'b t'],
    clip_stats: Float[Array, 'b 2'] | None = None,
  ) -> Float[jax.Array, 'b t']:
    """The waveform, 0 behind the mask; raises InputError below one frame.

    Args:
      audio, audio_mask: clips; real samples come first.
      clip_stats: mean and variance of the clips that crops are from; NaN for whole clips.
    """
    self.check(audio.shape[1])
    x = jnp.where(audio_mask, audio, 0.0)
    if not self.normalise:
      return x
    count = jnp.maximum(audio_mask.astype(jnp.float32).sum(axis=1, keepdims=True), 1.0)
    mean = x.sum(axis=1, keepdims=True) / count
    centred = jnp.where(audio_mask, x - mean, 0.0)
    variance = jnp.square(centred).sum(axis=1, keepdims=True) / count
    if clip_stats is not None:
      given = ~jnp.isnan(clip_stats[:, :1])
      centred = jnp.where(given & audio_mask, x - clip_stats[:, :1], centred)
      variance = jnp.where(given, clip_stats[:, 1:], variance)
    return centred * jax.lax.rsqrt(variance + self.epsilon)

  def frames(self, samples: int) -> int:
    """Number of frames of a clip of N samples; 0 if it is too short."""
    return max(0, (samples - self.window) // self.hop + 1)

  def samples(self, frames: int) -> int:
    """Minimum samples for N frames."""
    return self.window + self.hop * (max(frames, 1) - 1)

  def check(self, samples: int) -> None:
    """Raises InputError, in seconds and samples, if a clip is too short for one frame."""
    spectral.check_samples(samples, self.window, 'the front-end waveform', self.sample_rate)
