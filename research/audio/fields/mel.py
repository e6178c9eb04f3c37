"""The log-mel spectrogram of a clip at its own rate: the target of a voice (voice conversion)."""

import dataclasses

import numpy as np

from research.audio import decode
from research.audio.clips import Source
from research.audio.fields import Context, Crops, Field, Rows
from research.audio.log_mel import LogMel
from research.errors import InputError


@dataclasses.dataclass(frozen=True)
class Mel(Field):
  """Gives '<key>' f32 [b, s, f], the log-mel spectrogram of the crops (`audio/log_mel.py`), and
  '<key>_mask' bool [b, s]. Files are read at the rate of the spectrogram, whatever that of the
  batches is.

  Attributes:
    sample_rate, n_fft, hop, bands, lowest, highest: see `LogMel`.
  """

  sample_rate: int = 24_000
  n_fft: int = 1024
  hop: int = 256
  bands: int = 80
  lowest: float = 80.0
  highest: float = 7600.0

  @property
  def how(self) -> LogMel:
    """The settings of the spectrogram."""
    names = ('sample_rate', 'n_fft', 'hop', 'bands', 'lowest', 'highest')
    return LogMel(**{name: getattr(self, name) for name in names})

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Frames of clips that fill the batch."""
    frames = self.how.frames(samples * self.sample_rate // context.sample_rate)
    shape = (clips, frames)
    return {
      self.key: np.zeros((*shape, self.bands), np.float32),
      f'{self.key}_mask': np.ones(shape, bool),
    }

  def open(self, source: Source, context: Context) -> 'MelRows':
    """Checks the settings; spectrograms are computed batch by batch.

    Raises:
      InputError: bands that no spectrum has.
    """
    if not 0 <= self.lowest < self.highest <= self.sample_rate / 2 or self.hop < 1:
      raise InputError(
        f'config.data.fields.{self.key} has hop={self.hop} and bands from {self.lowest} to '
        f'{self.highest} Hz: expected 0 <= lowest < highest <= {self.sample_rate / 2:g}.'
      )
    return MelRows(self, source, context.sample_rate)


@dataclasses.dataclass
class MelRows(Rows):
  """The clips, and the sample rate of the batches, Hz."""

  field: Mel
  source: Source
  sample_rate: int

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Spectrograms of crops; zeros and masked behind them."""
    how, rows = self.field.how, len(crops.index)
    frames = how.frames(crops.samples * how.sample_rate // self.sample_rate)
    out = np.zeros((rows, frames, how.bands), np.float32)
    mask = np.zeros((rows, frames), bool)
    for i, row in enumerate(crops.index):
      if crops.valid[i]:
        audio = decode.decode(
          self.source[int(row)],
          sample_rate=how.sample_rate,
          start_seconds=crops.starts[i] / self.sample_rate,
          seconds=crops.lengths[i] / self.sample_rate,
        )
        found = how.spectrogram(audio)[:frames]
        out[i, : len(found)], mask[i, : len(found)] = found, True
    return {self.field.key: out, f'{self.field.key}_mask': mask}
