"""The layers of a frozen encoder, computed before: what a head learns from, in place of audio."""

import dataclasses
import functools
import os
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from research.audio.clips import Source
from research.audio.decode import AudioMismatch, Crop
from research.audio.example import Example
from research.audio.fields import Context, Crops, Field, Rows
from research.audio.frames import Frames
from research.errors import InputError

# Maximum difference between the length of a clip and that of its frames, seconds and frames: a
# last frame that is not whole may be there or not, and some encoders need several to see one.
TOLERANCE, FEW = 0.25, 5


@dataclasses.dataclass(frozen=True)
class Layers(Field):
  """Gives 'layers' f16 or f32 [b, n, l, d], all layers of the frames of a crop, and 'layers_mask'
  bool [b, n]. Crops start at multiples of a frame.

  Attributes:
    path: a folder of frames (`audio/frames.py`), or several that hold the clips together.
    audio: also decode the audio, which is left out otherwise.
  """

  path: Any
  audio: bool = False

  @property
  def silent(self) -> bool:
    """See `Field`."""
    return not self.audio

  def _open(self) -> tuple[Frames, ...]:
    paths = [self.path] if isinstance(self.path, str | os.PathLike) else list(self.path)
    opened = tuple(Frames.open(path) for path in paths)
    for other in opened[1:]:
      for name in ('sample_rate', 'hop', 'layers', 'width'):
        mine, theirs = getattr(opened[0], name), getattr(other, name)
        if mine != theirs:
          raise InputError(
            f'{opened[0].path} has {name} {mine} and {other.path} has {theirs}: frames of one run '
            'are of one encoder.'
          )
    return opened

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have frames; raises InputError if none has."""
    found = _find(source, self._open())[0] >= 0
    if not found.any():
      raise InputError(
        f'No clip of {source.name!r} has frames in {self.path}: compute those of the same clips.'
      )
    return found

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Frames of the sizes on disk."""
    frames = self._open()[0]
    shape = (clips, frames.frames(samples))
    return {
      'layers': np.zeros((*shape, frames.layers, frames.width), frames.values.dtype),
      'layers_mask': np.ones(shape, bool),
    }

  def open(self, source: Source, context: Context) -> 'LayerRows':
    """Finds the frames of all clips.

    Raises:
      InputError: they have another sample rate, or a clip has none.
    """
    opened = self._open()
    if opened[0].sample_rate != context.sample_rate:
      raise InputError(
        f'{opened[0].path} holds frames of audio at {opened[0].sample_rate} Hz, but the data are '
        f'read at {context.sample_rate} Hz: use the same sample rate.'
      )
    folder, rows = _find(source, opened)
    if (folder < 0).any():
      first = source.id(int(np.argmax(folder < 0)))
      raise InputError(
        f'{(folder < 0).sum()} of {len(source)} clips of {source.name!r} have no frames in '
        f'{self.path}, the first is {first!r}: leave out these clips.'
      )
    return LayerRows(opened, folder, rows)


def _find(
  source: Source, opened: tuple[Frames, ...]
) -> tuple[Int[np.ndarray, 'clips'], Int[np.ndarray, 'clips']]:
  """(which folder, which row in it) of every clip; -1 where no folder has it."""
  ids = [source.id(i) for i in range(len(source))]
  folder, rows = np.full((2, len(ids)), -1, np.int64)
  for number, frames in enumerate(opened):
    found = frames.rows(ids)
    new = (found >= 0) & (folder < 0)
    folder[new], rows[new] = number, found[new]
  return folder, rows


@dataclasses.dataclass
class LayerRows(Rows):
  """The frames of the clips of a source.

  Attributes:
    opened: folders of frames.
    folder, rows: the folder of every clip and its row there.
  """

  opened: tuple[Frames, ...]
  folder: Int[np.ndarray, 'clips']
  rows: Int[np.ndarray, 'clips']

  @property
  def step(self) -> int:
    """Crops start at multiples of a frame."""
    return self.opened[0].hop

  @functools.cached_property
  def fingerprint(self) -> str:
    """Fingerprints of all folders."""
    return '+'.join(str(frames.about['fingerprint']) for frames in self.opened)

  def read(self, row: int, example: Example, crop: Crop) -> None:
    """Raises AudioMismatch if the frames of a clip are those of other audio."""
    frames = self.opened[self.folder[row]]
    needed, stored = frames.frames(crop.total), frames.count(self.rows[row])
    if abs(needed - stored) > max(FEW, TOLERANCE * frames.sample_rate / frames.hop):
      raise AudioMismatch(
        example.where,
        f'It has {crop.total} samples, hence {needed} frames, but {frames.path} has {stored}: they '
        'are those of other audio.',
      )

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Frames of crops; zeros and masked behind them."""
    first = self.opened[0]
    shape = (len(crops.index), first.frames(crops.samples))
    out = np.zeros((*shape, first.layers, first.width), first.values.dtype)
    mask = np.zeros(shape, bool)
    for i, row in enumerate(crops.index):
      if crops.valid[i]:
        start = int(crops.starts[i]) // first.hop
        count = min(first.frames(int(crops.lengths[i])), shape[1])
        part = self.opened[self.folder[row]].part(int(self.rows[row]), start, count)
        out[i, : len(part)], mask[i, : len(part)] = part, True
    return {'layers': out, 'layers_mask': mask}
