"""Noise beside the clips, for augmentations that mix it in."""

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

# N rows of a batch have the same noise beside them: few rows are mixed with noise, and decoding is
# what input costs.
SHARED = 8


@dataclasses.dataclass(frozen=True)
class Noise(Field):
  """Gives 'noise' f32 [b, t] and 'noise_mask' bool [b, t]: a random clip of another data set,
  cropped at random, for every 8 rows. Only in training.

  Bad clips are listed in bad_noise.jsonl beside the list of bad files.

  Attributes:
    source: a data set as `config.data.source`, or a source.
  """

  source: Any

  TRAIN_ONLY: ClassVar[bool] = True

  def check_config(self, config: Mapping[str, Any]) -> None:
    """Noise is read only where an augmentation mixes it in."""
    if not any(item['args'].get('noise_prob') for item in config['augment']):
      raise InputError(
        f'config.data.fields.{self.key} is {self.source!r}, but no augmentation mixes it in: give '
        'mix_utterances a noise_prob.'
      )

  def open(self, source: Source, context: Context) -> 'NoiseRows':
    """Opens the data set."""
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
        shared=SHARED,
        bad_files=BadFiles(listed, bad.max_fraction, len(noise)),
      )
    )


@dataclasses.dataclass
class NoiseRows(Rows):
  """A loader of noise, in an order of its own."""

  loader: Loader

  @property
  def fingerprint(self) -> str:
    """That of the data set."""
    return self.loader.source.fingerprint()

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Noise for the rows of a batch."""
    beside = self.loader.batches[crops.number]
    beside = dataclasses.replace(beside, rows=beside.rows[: crops.size], samples=crops.samples)
    shared = self.loader.read(beside, crops.number)
    mine = np.searchsorted(self.loader.slots(crops.size), crops.slots, side='right') - 1
    return {'noise': shared['audio'][mine], 'noise_mask': shared['audio_mask'][mine]}
