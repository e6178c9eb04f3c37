"""AST: audio spectrogram transformer (Gong et al. 2021, arXiv 2104.01778).

A DeiT (class and distillation token, learned positions) over overlapping patches of a log-mel
spectrogram, started from weights of images. The published classifier is the head 'classifier' on
it: `head=dict(name='classifier', args=ast.HEAD | dict(classes=527))`. Upstream: YuanGongND/ast,
commit 31088be (src/models/ast_models.py, src/dataloader.py), timm 0.4.5.

Tokens are time-major here, as in every spectrogram model of ours; the released position tables are
frequency-major and are reordered on the way in and out.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.capabilities import Embedding, Example, audio_example
from research.errors import InputError, unknown
from research.features import augment
from research.features.frontend import Frontend
from research.features.spectral import Array as AnyArray
from research.models import spectrogram as trunk
from research.models.settings import by_size, check_choices, fill
from research.nn import layers
from research.nn.positions import resize_table

# The published head: the mean of both class tokens, layer norm, linear map (ast_models.py).
HEAD: Mapping[str, Any] = dict(pooling='cls', norm=True, norm_epsilon=1e-5, init_std=0.02)
PREFIX = ('cls_token', 'dist_token')
PADDINGS = ('published', 'masked')


class Size(NamedTuple):
  """Width, depth and heads."""

  width: int
  depth: int
  heads: int


# DeiT's sizes ('tiny224', 'small224' and 'base384' of ast_models.py).
SIZES = {
  'tiny': Size(width=192, depth=12, heads=3),
  'small': Size(width=384, depth=12, heads=6),
  'base': Size(width=768, depth=12, heads=12),
}


class AST(nn.Module):
  """Transformer over spectrogram patches, an encoder for heads.

  Attributes:
    size: a key of SIZES; `width`, `depth` and `heads` replace single entries of it.
    frontend: settings of the audio front-end (`features.Frontend`) or the front-end itself.
    frames: length of the spectrogram (AudioSet 1024, ESC-50 512, Speech Commands 128); shorter
      audio is padded, longer audio cut.
    patch: side of a patch, in frames and bins.
    time_stride, frequency_stride: frames and bins from one patch to the next.
    epsilon: of the layer norms; 1e-6 upstream, 1e-12 in transformers' folders.
    drop_path: drop rate of the last block in training, rising linearly from 0 at the first.
    freq_mask, time_mask: limits of SpecAug in training, in bins and frames; 0 for none.
    noise: in training, add uniform noise of random strength to the normalised spectrogram and roll
      it by up to 10 frames (dataloader.py; published for Speech Commands).
    padding: 'published' treats padding as sound that is zero before normalisation. 'masked' keeps
      it out of attention.
    dtype: of the computation; parameters are float32.
    scan_layers, remat: one compiled layer, and recomputed activations (see `layers.run_blocks`).
    attention: implementation of `jax.nn.dot_product_attention`.
  """

  EMBEDDING: ClassVar[Embedding] = Embedding()
  FINETUNING: ClassVar[Mapping[str, Any]] = {}
  TRAINING: ClassVar[tuple[str, ...]] = ('drop_path', 'freq_mask', 'time_mask', 'noise')

  size: str = 'base'
  frontend: Any = None
  frames: int = 1024
  width: int = by_size()
  depth: int = by_size()
  heads: int = by_size()
  patch: int = 16
  time_stride: int = 10
  frequency_stride: int = 10
  mlp_ratio: float = 4.0
  epsilon: float = 1e-6
  drop_path: float = 0.0
  freq_mask: int = 0
  time_mask: int = 0
  noise: bool = False
  padding: str = 'published'
  dtype: str = 'float32'
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of AST', self.size, SIZES)
    check_choices('AST', self, dict(padding=PADDINGS, dtype=layers.DTYPES))
    fill(self, SIZES[self.size]._asdict())
    if not isinstance(self.frontend, Frontend):
      object.__setattr__(self, 'frontend', Frontend.from_dict(self.frontend or {}))
    if self.width % self.heads:
      raise InputError(
        f'AST got width={self.width} and heads={self.heads}; width must be a multiple of heads.'
      )
    if min(self.time_stride, self.frequency_stride) < 1:
      raise InputError(
        f'AST got time_stride={self.time_stride} and frequency_stride={self.frequency_stride}; '
        'both are 1 or more.'
      )
    if self.frames < self.patch or self.frontend.num_features < self.patch:
      raise InputError(
        f'AST got frames={self.frames} and {self.frontend.num_features} mel bins; one patch needs '
        f'{self.patch} of each.'
      )
    super().__post_init__()

  @property
  def step(self) -> tuple[int, int]:
    """Frames and bins from one patch to the next."""
    return self.time_stride, self.frequency_stride

  @property
  def grid(self) -> tuple[int, int]:
    """(time rows, frequency columns) of the patches."""
    return trunk.patch_grid(self.frames, self.frontend.num_features, self.patch, self.step)

  @property
  def columns(self) -> int:
    """Patches of one moment."""
    return self.grid[1]

  def example(self) -> Example:
    """A clip of one frame."""
    return audio_example(self.frontend)

  def setup(self):
    self.encoder = trunk.Encoder(
      width=self.width,
      depth=self.depth,
      heads=self.heads,
      grid=self.grid,
      patch=self.patch,
      mlp_ratio=self.mlp_ratio,
      positions='learned',
      prefix=PREFIX,
      epsilon=self.epsilon,
      drop_path=self.drop_path,
      dtype=jnp.dtype(self.dtype),
      scan_layers=self.scan_layers,
      remat=self.remat,
      attention=self.attention,
    )

  def resized(self, name: str, x: Any, theirs: Any) -> Any:
    """The table of positions of a model of patches with another grid, or with another number of
    class tokens (AudioMAE), for this one; None for every other array."""
    grid = getattr(theirs, 'grid', None)
    if name != 'params/encoder/pos_embed' or grid is None or x.shape[1] != self.width:
      return None
    lack = len(PREFIX) - (len(x) - grid[0] * grid[1])
    if lack not in (0, 1):
      return None
    return resize_table(np.concatenate([x[:1]] * lack + [x]), grid, self.grid, len(PREFIX))

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """`hidden_states` of a batch."""
    return self.hidden_states(batch, train)

  def hidden_states(
    self, batch: Mapping[str, Any], train: bool = False, layers: bool = False
  ) -> dict[str, Any]:
    """What a head sees.

    Args:
      batch: 'audio' and 'audio_mask' [b, t], or a normalised 'spectrogram' [b, s, f] with an
        optional 'frame_mask'. In training the draws can be given: 'spec_augment_u' [b, 4]
        (frequency width and start, time width and start) and 'drop_path_u' [l, 2, b]; else they
        come from the rngs 'augment' and 'dropout'.
      train: SpecAug, noise and drop path act.
      layers: give every layer's tokens.

    Returns:
      'tokens' [b, n, d]: patches, row by row in time; 'cls' [b, d]: mean of class and distillation
      token; 'frame_mask' [b, n]: which patches are real, all where padding counts as sound;
      'latent' [b, 2+n, d]: both tokens first; 'encoder_in' [b, 2+n, d]; 'spectrogram_mask' [b, s];
      and 'layers' [l, b, n, d].
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    spectrogram, spectrogram_mask = self._input(batch, augmented=train)
    patches = trunk.patchify(spectrogram, self.patch, self.step)
    real = self._real_patches(spectrogram_mask) if self.padding == 'masked' else None
    u = batch.get('drop_path_u') if train else None
    encoded = self.encoder(patches, None, real, drop_path_u=u, train=train, collect=layers)
    latent = encoded['tokens']
    out = {
      'tokens': latent[:, len(PREFIX) :],
      'cls': latent[:, : len(PREFIX)].astype(jnp.float32).mean(1),
      'frame_mask': jnp.ones(patches.shape[:2], bool) if real is None else real,
      'latent': latent,
      'encoder_in': encoded['stem'],
      'spectrogram_mask': spectrogram_mask,
    }
    return out | ({'layers': trunk.patch_states(encoded, len(PREFIX))} if layers else {})

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Every layer's patch tokens of audio of any length: l = 0 is the stem, the last one is normed.

    Tokens come row by row in time, `columns` per row; audio longer than `frames` is encoded in
    chunks. Raises InputError below one frame.
    """
    apart = self.padding == 'masked'

    def encode(x: Array, real: Array) -> Array:
      patches = trunk.patchify(x, self.patch, self.step)
      out = self.encoder(patches, key_mask=real if apart else None, collect=True)
      return trunk.patch_states(out, len(PREFIX))

    sizes: dict[str, Any] = dict(frames=self.frames, patch=self.patch, stride=self.step)
    return trunk.embed_chunks(encode, self.frontend, audio, audio_mask, trim=apart, **sizes)

  def _input(self, batch, augmented: bool):
    if 'spectrogram' in batch:
      return trunk.given_spectrogram(batch, self.frames, self.frontend.num_features)
    raw, frame_mask = trunk.model_input(self.frontend, batch, self.frames)
    if augmented:
      limits = dict(freq=self.freq_mask, time=self.time_mask)
      raw = augment.spec_augment_in_training(batch, self.make_rng, raw, **limits)
    x = self.frontend.normalise(raw)
    if augmented and self.noise:
      x = augment.random_noise_and_roll(self.make_rng('noise'), x)
    return x, frame_mask

  def _real_patches(self, frame_mask: Bool[Array, 'b s']) -> Bool[Array, 'b n']:
    return trunk.patch_mask(frame_mask, self.frontend.num_features, self.patch, self.step)
