"""Who speaks when: frame labels of the speakers of a recording (diarization)."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from research.audio.clips import Source
from research.audio.example import Value
from research.audio.fields import Context, Crops, Field, Rows
from research.errors import InputError, unknown
from research.text import targets

# One turn: speaker, start and end in seconds of the recording.
Turn = tuple[str, float, float]


@dataclasses.dataclass(frozen=True)
class Activity(Field):
  """Gives '<key>' i32 [b, n, speakers]: 1 where a speaker is active in a frame, 0 where not, -1
  behind the end of a clip; and '<key>_mask' bool [b, n]. Speakers are those of the recording in
  sorted order. Crops start at multiples of `frame_shift`; a crop of N samples has N // frame_shift
  frames.

  A turn covers the frames from rint(start * rate / frame_shift) up to rint(end * rate /
  frame_shift), without the last (s3prl/downstream/diarization/dataset.py).

  Attributes:
    column: column of turns, lists of 'SPEAKER START END' with seconds of the audio file.
    frame_shift: samples per frame: the hop of the model.
    speakers: maximum number of speakers in a recording, the width of the labels.
    spanning: whether a turn is labelled that begins before a crop and ends behind it. SUPERB's
      numbers were made without.
  """

  column: str = 'turns'
  frame_shift: int = 320
  speakers: int = 2
  spanning: bool = False

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """All clips: one without turns is silent.

    Raises:
      InputError: there is no such column.
    """
    if self.column not in source.column_names:
      raise unknown(f'column of turns of {source.name!r}', self.column, source.column_names)
    return np.ones(len(source), bool)

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Nobody speaks."""
    frames = samples // self.frame_shift
    label = np.zeros((clips, frames, self.speakers), np.int32)
    return {self.key: label, f'{self.key}_mask': np.ones((clips, frames), bool)}

  def open(self, source: Source, context: Context) -> 'ActivityRows':
    """The turns of all clips.

    Raises:
      InputError: no such column, a value that is not a turn, or a recording of more speakers.
    """
    self.known(source)
    for name in ('frame_shift', 'speakers'):
      if getattr(self, name) < 1:
        raise InputError(
          f'config.data.fields.{self.key}.args.{name} is {getattr(self, name)}; give 1 or more.'
        )
    turns = []
    for row, value in enumerate(source.column(self.column)):
      where = f'Clip {source.id(row)!r} of {source.name!r}'
      found = read_turns(value, where)
      names = sorted({speaker for speaker, _, _ in found})
      if len(names) > self.speakers:
        raise InputError(
          f'{where} has {len(names)} speakers ({", ".join(names)}), but '
          f'config.data.fields.{self.key}.args.speakers is {self.speakers}.'
        )
      turns.append(found)
    # Windows of recordings begin behind the start of their file.
    offsets = np.rint(source.starts() * context.sample_rate).astype(np.int64)
    return ActivityRows(self, turns, offsets, context.sample_rate)


def read_turns(value: Value, where: str = '') -> list[Turn]:
  """The turns of a value of the column.

  Raises:
    InputError: it is not a list of 'SPEAKER START END'; `where` names the clip.
  """
  found = []
  for text in [value] if isinstance(value, str) else value:
    if not text:
      continue
    speaker, *times = text.rsplit(' ', 2)
    try:
      start, end = map(float, times)
      good = bool(speaker) and 0 <= start <= end < np.inf
    except ValueError:
      good = False
    if not good:
      raise InputError(f"{where}: the turn {text!r} is not 'SPEAKER START END' with seconds.")
    found.append((speaker, start, end))
  return found


def frame_labels(
  turns: Sequence[Turn],
  first: int,
  frames: int,
  *,
  speakers: Sequence[str],
  sample_rate: int = 16000,
  frame_shift: int = 320,
  spanning: bool = False,
) -> Int[np.ndarray, 'n s']:
  """The labels of frames `first` to `first + frames` of a recording, see `Activity`: those of
  `targets.speaker_frames`, and with `spanning` those of turns that begin before the first frame and
  end behind the last."""
  last = first + frames
  labels = targets.speaker_frames(
    turns, (first, last), frame_shift=frame_shift, sample_rate=sample_rate, speakers=speakers
  )
  for speaker, *times in turns if spanning else ():
    low, high = (int(np.rint(t * sample_rate / frame_shift)) for t in times)
    if low < first and high > last:
      labels[:, speakers.index(speaker)] = True
  return labels.astype(np.int32)


@dataclasses.dataclass
class ActivityRows(Rows):
  """The turns of every clip.

  Attributes:
    field: the settings.
    turns: of every clip, with seconds of its file.
    offsets: where every clip begins in its file, samples.
    sample_rate: Hz.
  """

  field: Activity
  turns: list[list[Turn]]
  offsets: Int[np.ndarray, 'clips']
  sample_rate: int

  @property
  def step(self) -> int:
    """Crops start at multiples of a frame."""
    return self.field.frame_shift

  def check_lengths(self, shortest: int, longest: int) -> None:
    """Raises InputError if the shortest batches have no frame."""
    if shortest < self.step:
      raise InputError(
        f'A frame of config.data.fields.{self.field.key} has {self.step} samples, but the shortest '
        f'batches have {shortest}: use longer batches, or leave out shorter clips.'
      )

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Labels of crops; -1 behind their ends and in invalid rows."""
    field = self.field
    shape = (len(crops.index), crops.samples // self.step, field.speakers)
    out = np.full(shape, -1, np.int32)
    for i, row in enumerate(crops.index):
      if crops.valid[i]:
        frames = int(crops.lengths[i]) // self.step
        names = sorted({speaker for speaker, _, _ in self.turns[row]})
        out[i, :frames] = 0
        out[i, :frames, : len(names)] = frame_labels(
          self.turns[row],
          (int(self.offsets[row]) + int(crops.starts[i])) // self.step,
          frames,
          speakers=names,
          sample_rate=self.sample_rate,
          frame_shift=self.step,
          spanning=field.spanning,
        )
    return {field.key: out, f'{field.key}_mask': out[:, :, 0] >= 0}
