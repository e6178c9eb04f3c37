"""Noise clips for augmentations."""

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
  """Gives 'noise' f32 [b, t] and 'noise_mask' bool [b, t]: random crops of random clips of another
  data set, one for every 8 rows. Training only.

  Bad clips are listed in bad_noise.jsonl, next to the list of bad files.

  Attributes:
    source: a data spec, as `config.data.source`, or a source.
  """

  source: Any

  TRAIN_ONLY: ClassVar[bool] = True

  def check_config(self, config: Mapping[str, Any]) -> None:
    """Raises InputError if no augmentation uses the noise."""
    if not any(item['args'].get('noise_prob') for item in config['augment']):
      raise InputError(
        f'config.data.fields.{self.key} is {self.source!r}, but no augmentation uses noise: set '
        'noise_prob of mix_utterances.'
      )

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Noise as long as the batch."""
    shape = (clips, samples)
    return {'noise': np.zeros(shape, np.float32), 'noise_mask': np.zeros(shape, bool)}

  def open(self, source: Source, context: Context) -> 'NoiseRows':
    """Opens the noise data set."""
    noise = self.source
    if not isinstance(noise, Source):
      noise = sources.open_source(noise, root=context.root)
    bad = context.bad_files
    listed = None if bad.path is None else bad.path.with_name('bad_noise.jsonl')
    seed = int(2**32 * batching.uniform(context.seed, 0, 'noise'))
    order = batching.Stream(len(noise), batch_size=context.batch_size, samples=0, seed=seed)
    return NoiseRows(
      Loader(
        source=noise,
        batches=order,
        sample_rate=context.sample_rate,
        crop='random',
        process=context.process,
        stride=ROWS_PER_CLIP,
        bad_files=BadFiles(listed, bad.max_fraction, len(noise), context.process[0]),
      )
    )


@dataclasses.dataclass
class NoiseRows(Rows):
  """A loader of noise clips in their own random order."""

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
    return {'noise': noise['audio'][mine], 'noise_mask': noise['audio_mask'][mine]}
