"""The log-mel spectrogram of a clip at its own rate: the target of a voice (voice conversion), or
the condition of a vocoder."""

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

  With `context` frames are those of the whole clip, so that a crop sees what the clip around it
  makes of its ends: a frame for every hop that the crop begins, and `context` more on each side, at
  the ends of the clip its first and last ones again. Crops then start at multiples of the hop.

  Attributes:
    sample_rate, n_fft, hop, bands, lowest, highest: see `LogMel`.
    context: frames on each side, or None for the spectrogram of the crop by itself.
  """

  sample_rate: int = 24_000
  n_fft: int = 1024
  hop: int = 256
  bands: int = 80
  lowest: float = 80.0
  highest: float = 7600.0
  context: int | None = None

  @property
  def how(self) -> LogMel:
    """The settings of the spectrogram."""
    names = ('sample_rate', 'n_fft', 'hop', 'bands', 'lowest', 'highest')
    return LogMel(**{name: getattr(self, name) for name in names})

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Frames of clips that fill the batch."""
    frames = self.frames(samples, context.sample_rate)
    shape = (clips, frames)
    return {
      self.key: np.zeros((*shape, self.bands), np.float32),
      f'{self.key}_mask': np.ones(shape, bool),
    }

  def frames(self, samples: int, sample_rate: int) -> int:
    """Frames of a crop of N samples at a rate, context included."""
    if self.context is None:
      return self.how.frames(samples * self.sample_rate // sample_rate)
    return -(-samples // self.hop) + 2 * self.context

  def open(self, source: Source, context: Context) -> 'MelRows':
    """Checks the settings; spectrograms are computed batch by batch.

    Raises:
      InputError: bands that no spectrum has; with context another rate than that of the batches.
    """
    if self.context is not None and (self.context < 0 or self.sample_rate != context.sample_rate):
      raise InputError(
        f'config.data.fields.{self.key} has context={self.context} and sample_rate='
        f'{self.sample_rate}, and the data are read at {context.sample_rate} Hz: with a context, '
        'of at least 0 frames, both rates are equal.'
      )
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

  @property
  def step(self) -> int:
    """With context, crops start at whole frames."""
    return 1 if self.field.context is None else self.field.hop

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Spectrograms of crops; zeros and masked behind them."""
    how, rows = self.field.how, len(crops.index)
    frames = self.field.frames(crops.samples, self.sample_rate)
    out = np.zeros((rows, frames, how.bands), np.float32)
    mask = np.zeros((rows, frames), bool)
    for i, row in enumerate(crops.index):
      if crops.valid[i] and self.field.context is not None:
        found = self._around(int(row), crops, i)
        out[i, : len(found)], mask[i, : len(found)] = found, True
      elif crops.valid[i]:
        audio = decode.decode(
          self.source[int(row)],
          sample_rate=how.sample_rate,
          start_seconds=crops.starts[i] / self.sample_rate,
          seconds=crops.lengths[i] / self.sample_rate,
        )
        found = how.spectrogram(audio)[:frames]
        out[i, : len(found)], mask[i, : len(found)] = found, True
    return {self.field.key: out, f'{self.field.key}_mask': mask}

  def _around(self, row: int, crops: Crops, i: int) -> np.ndarray:
    """Frames of the whole clip at a crop, with their context."""
    how, context = self.field.how, self.field.context or 0
    total, first = int(crops.totals[i]), int(crops.starts[i]) // how.hop
    count = -(-int(crops.lengths[i]) // how.hop)
    wanted = np.arange(first - context, first + count + context)
    wanted = np.clip(wanted, 0, max(-(-total // how.hop) - 1, 0))
    # A piece wide enough that its own mirrored ends are not looked at.
    side = -(-how.n_fft // (2 * how.hop))
    start = max(int(wanted[0]) - side, 0)
    stop = min((int(wanted[-1]) + side + 1) * how.hop, total)
    audio = decode.decode(
      self.source[row],
      sample_rate=how.sample_rate,
      start_seconds=start * how.hop / how.sample_rate,
      seconds=(stop - start * how.hop) / how.sample_rate,
    )
    found = how.spectrogram(audio)
    return found[np.minimum(wanted - start, len(found) - 1)]
