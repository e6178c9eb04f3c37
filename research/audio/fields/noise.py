"""Noise clips and room responses for augmentations."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from research.audio import batching, sources
from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.audio.fields import Context, Crops, Field, Rows
from research.audio.loader import Loader
from research.errors import InputError

# N rows of a batch share a noise clip: few rows are mixed with noise, and decoding is expensive.
ROWS_PER_CLIP = 8


@dataclasses.dataclass(frozen=True)
class Noise(Field):
  """Gives '<key>' f32 [b, t] and '<key>_mask' bool [b, t]: random crops of random clips of another
  data set. Training only.

  Bad clips are listed in bad_<key>.jsonl, next to the list of bad files. Impulse responses of rooms
  are such clips too, from their beginning:
  `fields=dict(responses=dict(name='noise', args=dict(source=FOLDER, crop='start')))`.

  Attributes:
    source: a data spec, as `config.data.source`, or a source.
    rows_per_clip: rows of a batch that share a clip.
    crop: 'random' or 'start'.
  """

  source: Any
  rows_per_clip: int = ROWS_PER_CLIP
  crop: str = 'random'

  TRAIN_ONLY: ClassVar[bool] = True

  def check_config(self, config: Mapping[str, Any]) -> None:
    """Raises InputError if no augmentation uses the clips, or for settings that cannot be."""
    if self.rows_per_clip < 1 or self.crop not in ('random', 'start'):
      raise InputError(
        f'config.data.fields.{self.key} has rows_per_clip={self.rows_per_clip} and '
        f"crop={self.crop!r}: expected 1 or more, and 'random' or 'start'."
      )
    given = config['augment']
    used = any(item['args'].get('responses') == self.key for item in given)
    if self.key == 'noise':
      used |= any(item['args'].get('noise_prob', item['name'] == 'add_noise') for item in given)
    if not used:
      raise InputError(
        f'config.data.fields.{self.key} is {self.source!r}, but no augmentation uses it: set '
        "noise_prob of mix_utterances or add_noise and call the field 'noise', or responses="
        f'{self.key!r} of reverberate.'
      )

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Clips as long as the batch."""
    shape = (clips, samples)
    return {self.key: np.zeros(shape, np.float32), f'{self.key}_mask': np.zeros(shape, bool)}

  def open(self, source: Source, context: Context) -> 'NoiseRows':
    """Opens the noise data set."""
    noise = self.source
    if not isinstance(noise, Source):
      noise = sources.open_source(noise, root=context.root)
    bad = context.bad_files
    listed = None if bad.path is None else bad.path.with_name(f'bad_{self.key}.jsonl')
    seed = int(2**32 * batching.uniform(context.seed, 0, self.key))
    order = batching.Stream(len(noise), batch_size=context.batch_size, samples=0, seed=seed)
    return NoiseRows(
      self.key,
      Loader(
        source=noise,
        batches=order,
        sample_rate=context.sample_rate,
        crop=self.crop,
        process=context.process,
        stride=self.rows_per_clip,
        bad_files=BadFiles(listed, bad.max_fraction, len(noise), context.process[0]),
      ),
    )


@dataclasses.dataclass
class NoiseRows(Rows):
  """A loader of noise clips in their own random order."""

  key: str
  loader: Loader

  @property
  def fingerprint(self) -> str:
    """Fingerprint of the noise data set."""
    return self.loader.source.fingerprint()

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Noise clips for the rows of a batch."""
    batch = self.loader.batches[crops.number]
    batch = dataclasses.replace(batch, rows=batch.rows[: crops.size], samples=crops.samples)
    batch = batching.fill(batch, crops.size)
    noise = self.loader.read(batch, crops.number)
    mine = np.searchsorted(self.loader.slots(crops.size), crops.slots, side='right') - 1
    return {self.key: noise['audio'][mine], f'{self.key}_mask': noise['audio_mask'][mine]}
