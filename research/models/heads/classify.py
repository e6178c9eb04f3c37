"""Fine-tuning AudioMAE (arXiv 2207.06405): the pre-trained encoder with a linear head.

Upstream: facebookresearch/AudioMAE, commit bd60e29 (models_vit.py, main_finetune_as.py).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError, unknown
from research.features import augment, masking
from research.features.spectral import Array as AnyArray
from research.models import audio_mae
from research.models import spectrogram as trunk
from research.nn import layers

POOLINGS = ('mean', 'cls')
HEAD_STD = 2e-5  # main_finetune_as.py


class AudioMAEClassifier(nn.Module):
  """ViT encoder, pooling, norm, linear head.

  Attributes (those of AudioMAE's encoder, and):
    classes: number of logits; 0 leaves the head out.
    pooling: 'mean' of the patch tokens, then `fc_norm` (published); 'cls' takes the normed cls
      token.
    mask_t_prob, mask_f_prob: shares of time rows and frequency columns left out in training
      (published: 0.2 and 0.2).
    drop_path: drop rate of the last block, rising linearly from 0 at the first.
    freq_mask, time_mask: SpecAug limits in training, in bins and frames (AudioSet: 48 and 192).
  """

  classes: int
  size: str = 'base'
  frontend: Any = None
  frames: int = 1024
  # None takes the size's figure: `audio_mae.resolve` fills it in before anything reads it.
  width: int = None  # type: ignore[assignment]
  depth: int = None  # type: ignore[assignment]
  heads: int = None  # type: ignore[assignment]
  patch: int = None  # type: ignore[assignment]
  stride: int | None = None
  mlp_ratio: float = 4.0
  pooling: str = 'mean'
  mask_t_prob: float = 0.0
  mask_f_prob: float = 0.0
  drop_path: float = 0.1
  freq_mask: int = 0
  time_mask: int = 0
  positions: str = 'published'
  padding: str = 'published'
  dtype: str = 'float32'
  scan_layers: bool = False
  remat: bool = False
  attention: str | None = None

  def __post_init__(self):
    audio_mae.resolve(self)
    if self.pooling not in POOLINGS:
      raise unknown('pooling of model audio_mae_classifier', self.pooling, POOLINGS)
    if self.classes < 0:
      raise InputError(
        f'AudioMAEClassifier got classes={self.classes}; 0 (no head) or more is needed.'
      )
    super().__post_init__()

  def setup(self):
    cls = self.pooling == 'cls'
    self.encoder = audio_mae.encoder(self, drop_path=self.drop_path, final_norm=cls)
    if not cls:
      self.fc_norm = layers.LayerNorm()
    if self.classes:
      self.head = layers.Dense(self.classes, kernel_init=nn.initializers.normal(HEAD_STD))

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Classifies a batch.

    Args:
      batch: 'audio' and 'audio_mask' [b, t], or a normalised 'spectrogram' [b, s, f] with an
        optional 'frame_mask'. In training the draws can be given: 'spec_augment_u' [b, 4]
        (frequency width and start, time width and start), 'mask_noise_t' [b, rows], 'mask_noise_f'
        [b, columns], 'drop_path_u' [l, 2, b]; else they come from the rngs 'augment', 'mask' and
        'dropout'.
      train: SpecAug, token masking and drop path act.

    Returns:
      'logits' [b, c] (float32), 'pooled' [b, d] (normed), 'tokens' [b, 1+m, d] (cls first),
      'encoder_in' [b, 1+m, d], 'ids_keep' [b, m] or None, 'frame_mask' [b, s].
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    spectrogram, frame_mask = self._input(batch, train)
    patches = trunk.patchify(spectrogram, self.patch, audio_mae.stride(self))
    real = audio_mae.real_patches(self, frame_mask)
    ids_keep = self._keep(batch, patches.shape[0], real) if train else None
    if ids_keep is not None and real is not None:
      real = jnp.take_along_axis(real, ids_keep, axis=1)
    u = batch.get('drop_path_u') if train else None
    encoded = self.encoder(patches, ids_keep, real, drop_path_u=u, train=train)
    tokens = encoded['tokens']
    pooled = self._pool(tokens, real)
    logits = {'logits': self.head(pooled)} if self.classes else {}
    return logits | {
      'pooled': pooled,
      'tokens': tokens,
      'encoder_in': encoded['stem'],
      'ids_keep': ids_keep,
      'frame_mask': frame_mask,
    }

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Every layer's patch tokens, as `AudioMAE.embed`; with pooling 'mean' the last is not normed,
    because this model norms only the pooled vector."""
    return audio_mae.embed(self, self.encoder, audio, audio_mask)

  def _input(self, batch, train):
    bins = self.frontend.num_features
    if 'spectrogram' in batch:
      return trunk.given_spectrogram(batch, self.frames, bins)
    raw, frame_mask = trunk.model_input(self.frontend, batch, self.frames)
    if train and (self.freq_mask or self.time_mask):
      limits = dict(freq=self.freq_mask, time=self.time_mask)
      if 'spec_augment_u' in batch:
        raw = augment.spec_augment(raw, batch['spec_augment_u'], **limits)
      else:
        raw = augment.random_spec_augment(self.make_rng('augment'), raw, **limits)
    return self.frontend.normalise(raw), frame_mask

  def _keep(self, batch, size: int, real) -> Int[Array, 'b m'] | None:
    if not (self.mask_t_prob or self.mask_f_prob):
      return None
    rows, columns = audio_mae.grid(self)
    keep_t = masking.keep_count(rows, self.mask_t_prob)
    keep_f = masking.keep_count(columns, self.mask_f_prob)
    if 'mask_noise_t' in batch:
      u_t, u_f = batch['mask_noise_t'], batch['mask_noise_f']
    else:
      key_t, key_f = jax.random.split(self.make_rng('mask'))
      u_t, u_f = jax.random.uniform(key_t, (size, rows)), jax.random.uniform(key_f, (size, columns))
    valid = None if real is None else real.reshape(-1, rows, columns)[:, :, 0]
    return masking.time_freq_keep(u_t, u_f, keep_t, keep_f, valid=valid)

  def _pool(
    self, tokens: Float[Array, 'b m d'], real: Bool[Array, 'b n'] | None
  ) -> Float[Array, 'b d']:
    tokens = tokens.astype(jnp.float32)
    if self.pooling == 'cls':
      return tokens[:, 0]
    x = tokens[:, 1:]
    if real is None:
      return self.fc_norm(x.mean(1))
    weight = real.astype(jnp.float32)[:, :, None]
    return self.fc_norm((x * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0))
