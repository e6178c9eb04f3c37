"""Masked prediction of discrete units, the pre-training of HuBERT (arXiv 2106.07447) and WavLM
(2110.13900).

Figures are those of fairseq's models/hubert/hubert.py and examples/hubert/config/pretrain.
Letters: b batch, t samples, n frames, m places, d width, f width of the comparison, u units,
g sets of units, k units of a set.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.errors import InputError
from research.models import speech, waveform
from research.models.settings import by_size
from research.nn import layers

EPSILON = 1e-8  # torch.cosine_similarity


class MaskedUnits(speech.SpeechEncoder):
  """The encoder and, for every set of units, a vector a unit that projected frames are compared
  with.

  Attributes (those of SpeechEncoder, and):
    final_dim: of the space in which frames and units are compared.
    num_clusters: how many units there are; of several sets, how many each has.
    specials: rows before the units that never are right: fairseq's dictionaries have four.
    label_rate: units a second, a whole multiple of the frames': 100 for MFCC's, 50 for those of
      models.
    untied: a projection for every set of units, not one for all.
    predict_unmasked: compare frames that were not masked too, for losses that weigh them.
  """

  BLOCKS: ClassVar[bool] = True
  TRAINING: ClassVar[tuple[str, ...]] = (*speech.SpeechEncoder.TRAINING, 'predict_unmasked')
  NEEDS: ClassVar[Mapping[str, str]] = {
    'units': 'The model learns from units: set config.data.fields.units to a folder of them, which '
    'python -m launch.label_kmeans makes.'
  }

  mask_prob: float = 0.8
  final_dim: int = by_size()
  num_clusters: int | Sequence[int] = 500
  specials: int = 4
  label_rate: float = 50.0
  untied: bool = True
  predict_unmasked: bool = False

  def __post_init__(self):
    if not isinstance(self.num_clusters, int):
      object.__setattr__(self, 'num_clusters', tuple(self.num_clusters))
    if not self.sets or min(self.sets) < 1:
      raise InputError(
        f'{self.TITLE} got num_clusters={self.num_clusters}: every set of units needs some.'
      )
    super().__post_init__()

  def _check(self) -> None:
    if self.ratio < 1 or self.ratio != int(self.ratio):
      raise InputError(
        f'{self.TITLE} got label_rate={self.label_rate:g}, but has '
        f'{self.frontend.sample_rate / self.frontend.hop:g} frames a second: give a whole multiple.'
      )

  @property
  def sets(self) -> tuple[int, ...]:
    """How many units every set has."""
    return (self.num_clusters,) if isinstance(self.num_clusters, int) else tuple(self.num_clusters)

  @property
  def ratio(self) -> float:
    """Units a frame."""
    return self.label_rate * self.frontend.hop / self.frontend.sample_rate

  def setup(self):
    super().setup()
    torch = waveform.torch_linear(self.width)
    outputs = self.final_dim * (len(self.sets) if self.untied else 1)
    self.project_context = layers.Dense(outputs, jnp.float32, torch, torch)

  @nn.compact
  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Masks spans, encodes, and compares the frames with every unit.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]; 'units' int [b, u, g] at label_rate, -1 where
        there is none: frame i has unit ratio * i. 'span_mask' [b, n] may be given (shorter or
        longer is as good; m is n then), else rng 'mask' gives it.
      train: dropout and the update counter act.

    Returns:
      what `objectives.prediction.masked_units` takes, and 'features' [b, n, c], 'frame_mask',
      'span_mask' [b, n], 'tokens' [b, n, d], 'layers', 'positions', 'embedding' [b, d]: mean of
      the real frames, whose spread tells a collapse.

    Raises:
      InputError: the batch has no units, or not as many sets as the model.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    rows = sum(self.sets) + self.specials * len(self.sets)
    vectors = self.param('unit_vectors', layers.unit, (rows, self.final_dim))
    units = self._units(batch)
    # As published, clips end with their units; else frames without one are no targets.
    most = units.shape[1] // int(self.ratio) if self.padding == 'published' else None
    features, real, normed = self._frames(
      batch['audio'], batch['audio_mask'], most, batch.get('clip_stats')
    )
    mask = self._spans(batch, real)
    encoded = self._encode(normed, real, mask, train, self._channels(batch, len(mask)))
    layers.next_update(self, layers.count_updates(self), train)

    n = real.shape[1]
    units = units[:, :: int(self.ratio)][:, :n]
    units = jnp.pad(units, ((0, 0), (0, n - units.shape[1]), (0, 0)), constant_values=-1)
    known = (units >= 0).all(axis=2) & real
    hidden, shown = mask & known, ~mask & known
    if self.predict_unmasked:
      places = jnp.broadcast_to(jnp.arange(n), mask.shape)
    else:
      places, _ = self._masked_places(batch, mask)
    out = {
      'similarities': self._compare(speech.take(encoded['tokens'], places), vectors),
      'unit_targets': jnp.take_along_axis(units, places[:, :, None], axis=1) + self.specials,
      'masked': jnp.take_along_axis(hidden, places, axis=1),
    }
    if self.predict_unmasked:
      out['unmasked'] = jnp.take_along_axis(shown, places, axis=1)
    return out | {
      'feature_penalty': self._penalty(features, real),
      'features': features,
      'frame_mask': real,
      'span_mask': mask,
      'embedding': waveform.mean_frames(encoded['tokens'], real),
      **encoded,
    }

  def _units(self, batch: Mapping[str, Any]) -> Int[Array, 'b u g']:
    if 'units' in batch:
      units = batch['units']
      if units.shape[2] != len(self.sets):
        raise InputError(
          f'{self.TITLE} has {len(self.sets)} sets of units '
          f'(num_clusters={self.num_clusters}), but the batch has '
          f'{units.shape[2]}: set model.args.num_clusters and data.fields.units alike.'
        )
      return units
    if self.is_initializing():
      n = self.frontend.frames(batch['audio'].shape[1])
      return jnp.zeros((len(batch['audio']), n * int(self.ratio), len(self.sets)), jnp.int32)
    raise InputError(
      f'{self.TITLE} learns from units, and the batch has none: make some with '
      'launch.label_kmeans and set data.fields.units to their folder.'
    )

  def _compare(
    self, x: Float[Array, 'b m d'], unit_vectors: Float[Array, 'r f']
  ) -> tuple[Float[Array, 'b m k'], ...]:
    """Cosine of every frame and every unit, the specials first, for every set; float32."""
    x = self.project_context(x.astype(jnp.float32))
    parts = jnp.split(x, len(self.sets), axis=2) if self.untied else [x] * len(self.sets)
    found, start = [], 0
    for part, count in zip(parts, self.sets):
      stop = start + count + self.specials
      vectors = unit_vectors[start:stop]
      norms = jnp.linalg.norm(part, axis=-1)[:, :, None] * jnp.linalg.norm(vectors, axis=-1)
      products = jnp.einsum('bmf,kf->bmk', part, vectors, precision='highest')
      found.append(products / jnp.maximum(norms, EPSILON))
      start = stop
    return tuple(found)
