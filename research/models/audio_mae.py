"""AudioMAE: masked autoencoders that listen (Huang et al. 2022, arXiv 2207.06405).

Pre-training reconstructs the masked patches of a log-mel spectrogram from the few kept ones; under
a head (`models/finetuned.py`) the encoder sees SpecAug and fewer masks. Upstream:
facebookresearch/AudioMAE, commit bd60e29 (models_mae.py, models_vit.py, main_finetune_as.py).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Embedding, Example, audio_example
from research.errors import InputError, unknown
from research.features import augment, masking
from research.features.frontend import Frontend
from research.features.spectral import Array as AnyArray
from research.models import spectrogram as trunk
from research.models import token_masks
from research.models.settings import by_size, check_choices, fill
from research.models.window_decoder import WindowDecoder
from research.nn import kernels, layers
from research.nn.positions import spectrogram_positions


class Size(NamedTuple):
  """Encoder width, depth, heads and patch side; decoder width and heads; depth of both decoders."""

  width: int
  depth: int
  heads: int
  patch: int = 16
  decoder_width: int = 512
  decoder_heads: int = 16
  global_depth: int = 8
  window_depth: int = 16


# models_mae.py of the upstream commit (mae_vit_{small,base,large,huge}_patch*_dec512d8b; the window
# decoder has 16 blocks whatever the name says); tiny is ours, for a laptop.
SIZES = {
  'tiny': Size(
    width=192, depth=6, heads=3, decoder_width=128, decoder_heads=4, global_depth=2, window_depth=4
  ),
  'small': Size(width=384, depth=12, heads=6),
  'base': Size(width=768, depth=12, heads=12),
  'large': Size(width=1024, depth=24, heads=16),
  'huge': Size(width=1280, depth=32, heads=16, patch=14),
}

POSITIONS = ('published', 'time_frequency')
PADDINGS = ('published', 'masked')


class AudioMAE(nn.Module):
  """Masked autoencoder over spectrogram patches.

  Attributes:
    size: a key of SIZES; `width` … `decoder_heads` replace single entries of it.
    frontend: settings of the audio front-end (`features.Frontend`) or the front-end itself.
    frames: length of the spectrogram; shorter audio is padded, longer audio cut.
    stride: of the patches; None for no overlap (upstream's overlapping option is 10).
    final_norm: layer norm at the end of the encoder; published classifiers have theirs behind the
      pooling instead.
    drop_path: drop rate of the last block in training, rising linearly from 0 at the first.
    masking: 'unstructured' drops `mask_ratio` of the patches, 'time' and 'frequency' that share of
      the rows or columns, 'time_frequency' the shares `mask_t_prob` and `mask_f_prob` of both.
      Under a head it is always 'time_frequency', without masks where both are 0.
    freq_mask, time_mask: limits of SpecAug under a head, in bins and frames; 0 for none.
    published_order: with 'time_frequency', order the kept tokens as upstream does, which lets
      masked tokens in where the grid has more than 999 (its own overlapping option); for parity
      only.
    decoder: 'swin' (shifted windows, upstream's default) or 'global'.
    decoder_shift: whether every second window block is shifted.
    positions: 'published' keeps the scrambled table of the released weights, 'time_frequency' the
      right geometry (see `positions.spectrogram_positions`).
    padding: 'published' treats padding as sound that is zero before normalisation: attended to and
      reconstructed. 'masked' keeps it out of attention and loss.
    contextual_depth: `contextual` averages the blocks above this one.
    dtype: of the computation; parameters are float32.
    scan_layers, remat: one compiled layer, and recomputed activations (see `layers.run_blocks`).
    attention: implementation of `jax.nn.dot_product_attention`.
  """

  EMBEDDING: ClassVar[Embedding] = Embedding()
  # main_finetune_as.py and ft_as.sh. SpecAug's limits are those of a task.
  FINETUNING: ClassVar[Mapping[str, Any]] = dict(drop_path=0.1, mask_t_prob=0.2, mask_f_prob=0.2)
  TRAINING: ClassVar[tuple[str, ...]] = (
    'drop_path', 'masking', 'mask_ratio', 'mask_t_prob', 'mask_f_prob', 'published_order',
    'freq_mask', 'time_mask',
  )  # fmt: skip

  size: str = 'base'
  frontend: Any = None
  frames: int = 1024
  width: int = by_size()
  depth: int = by_size()
  heads: int = by_size()
  patch: int = by_size()
  stride: int | None = None
  mlp_ratio: float = 4.0
  final_norm: bool = True
  drop_path: float = 0.0
  masking: str = 'unstructured'
  mask_ratio: float = 0.8
  mask_t_prob: float = 0.7
  mask_f_prob: float = 0.3
  published_order: bool = False
  freq_mask: int = 0
  time_mask: int = 0
  decoder: str = 'swin'
  decoder_width: int = by_size()
  decoder_depth: int = by_size()
  decoder_heads: int = by_size()
  decoder_shift: bool = True
  positions: str = 'published'
  padding: str = 'published'
  contextual_depth: int = 8
  dtype: str = 'float32'
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of AudioMAE', self.size, SIZES)
    table = SIZES[self.size]
    depths = {'swin': table.window_depth, 'global': table.global_depth}
    known = dict(
      positions=POSITIONS, padding=PADDINGS, dtype=layers.DTYPES, decoder=depths,
      masking=token_masks.MASKINGS,
    )  # fmt: skip
    check_choices('AudioMAE', self, known)
    fill(self, {**table._asdict(), 'decoder_depth': depths[self.decoder]})
    if not isinstance(self.frontend, Frontend):
      object.__setattr__(self, 'frontend', Frontend.from_dict(self.frontend or {}))
    self._check_heads('width', self.width, 'heads', self.heads)
    self._check_heads('decoder_width', self.decoder_width, 'decoder_heads', self.decoder_heads)
    if self.stride is not None and self.stride < 1:
      raise InputError(
        f'AudioMAE got stride={self.stride}; it is 1 or more, or None for no overlap.'
      )
    if self.frames < self.patch or self.frontend.num_features < self.patch:
      raise InputError(
        f'AudioMAE got frames={self.frames} and {self.frontend.num_features} mel bins; '
        f'one patch needs {self.patch} of each.'
      )
    ratios = (self.mask_ratio, self.mask_t_prob, self.mask_f_prob)
    object.__setattr__(self, 'counts', token_masks.keep_counts(self.masking, self.grid, *ratios))
    super().__post_init__()

  @staticmethod
  def _check_heads(width_name: str, width: int, heads_name: str, heads: int) -> None:
    """Refuses a width that its heads do not divide, or that the sine-cosine table cannot fill."""
    if width % heads or width % 4:
      raise InputError(
        f'AudioMAE got {width_name}={width} and {heads_name}={heads}; '
        f'{width_name} must be a multiple of {heads_name} and of 4.'
      )

  @property
  def step(self) -> int:
    """Frames (and bins) from one patch to the next."""
    return self.stride or self.patch

  @property
  def grid(self) -> tuple[int, int]:
    """(time rows, frequency columns) of the patches."""
    return trunk.patch_grid(self.frames, self.frontend.num_features, self.patch, self.step)

  @property
  def window(self) -> tuple[int, int]:
    """(rows, columns) of the window decoder's windows, as published without and with overlap."""
    return (4, 4) if self.step == self.patch else (6, 6)

  def example(self) -> Example:
    """A clip of one frame."""
    return audio_example(self.frontend)

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.encoder = trunk.Encoder(
      width=self.width,
      depth=self.depth,
      heads=self.heads,
      grid=self.grid,
      patch=self.patch,
      mlp_ratio=self.mlp_ratio,
      positions=self.positions,
      overlap=self.step != self.patch,
      drop_path=self.drop_path,
      final_norm=self.final_norm,
      dtype=dtype,
      scan_layers=self.scan_layers,
      remat=self.remat,
      attention=self.attention,
    )
    self.decoder_embed = layers.Dense(self.decoder_width, dtype)
    common: dict[str, Any] = dict(
      depth=self.decoder_depth,
      heads=self.decoder_heads,
      pixels=self.patch**2,
      mlp_ratio=self.mlp_ratio,
      dtype=dtype,
      scan_layers=self.scan_layers,
      remat=self.remat,
      name='decoder',
    )
    self.decode: GlobalDecoder | WindowDecoder
    if self.decoder == 'global':
      self.decode = GlobalDecoder(attention=self.attention, **common)
    else:
      shift = 2 if self.decoder_shift else 0
      self.decode = WindowDecoder(grid=self.grid, window=self.window, shift=shift, **common)

  def _decoder_table(self) -> Array:
    table = spectrogram_positions(
      self.grid, self.decoder_width, self.positions, self.step != self.patch
    )
    return jnp.asarray(table)

  # -- Pre-training ----------------------------------------------------------------------------

  @nn.compact
  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Masks, encodes what is kept, reconstructs the rest.

    Args:
      batch: 'audio' [b, t] and 'audio_mask' [b, t], or a normalised 'spectrogram' [b, s, f] with an
        optional 'frame_mask' [b, s]. The noise of the masks can be given as 'mask_noise' [b, n], or
        'mask_noise_t' [b, rows] and 'mask_noise_f' [b, columns], or the order of the patches as
        'ids_restore' [b, n] and 'mask' [b, n]; else it is drawn from rng 'mask'.
      train: whether the decoder's dropout acts (rng 'dropout'; window decoder only).

    Returns:
      'pred', 'target' [b, n, p]: predicted and true patches. 'mask' [b, n]: 1 for the removed
      patches that the loss is about. 'patch_mask' [b, n]: which patches are real. 'ids_keep'
      [b, m], 'ids_restore' [b, n]. 'latent' [b, 1+m, d]: encoded patches, cls first. 'latent_mask'
      [b, m]: which of them are real. 'encoder_in': their
      embeddings. 'decoder_in'. 'frame_mask' [b, s]. 'embedding' [b, d]: mean of the encoded
      patches, whose spread tells a collapse.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    normal = nn.initializers.normal(0.02)
    mask_token = self.param('mask_token', normal, (1, 1, self.decoder_width))
    table = self.variable('buffers', 'decoder_pos_embed', self._decoder_table)
    spectrogram, frame_mask = self._input(batch)
    patches = trunk.patchify(spectrogram, self.patch, self.step)
    valid = self._real_patches(frame_mask)
    choice = self._choose(batch, patches.shape[0], valid)

    # Encode the kept patches only.
    encoded = self.encoder(patches, choice.ids_keep, choice.used, train=train)
    latent = encoded['tokens']

    # A mask token in place of every other one, everything back in order.
    x = self._unshuffle(latent, choice, mask_token, jnp.asarray(table.value))
    pred = self.decode(x, valid, train)
    pred = pred[:, -patches.shape[1] :].astype(jnp.float32)
    used = jnp.ones(choice.ids_keep.shape, bool) if choice.used is None else choice.used
    return {
      'pred': pred,
      'target': patches,
      'mask': choice.mask.astype(jnp.float32),
      'patch_mask': jnp.ones(patches.shape[:2], bool) if valid is None else valid,
      'ids_keep': choice.ids_keep,
      'ids_restore': choice.ids_restore,
      'latent': latent,
      'latent_mask': used,
      'encoder_in': encoded['stem'],
      'decoder_in': x,
      'frame_mask': frame_mask,
      'embedding': trunk.mean_tokens(latent[:, 1:], used),
    }

  def _choose(self, batch: Mapping[str, Any], size: int, valid) -> token_masks.Choice:
    if 'ids_restore' in batch:
      ids = jnp.argsort(batch['ids_restore'], axis=1)[:, : self.counts.patches]
      return token_masks.Choice(ids, batch['ids_restore'], batch['mask'] > 0, None)

    def uniform(shape: tuple[int, ...]) -> Array:
      if not (self.has_rng('mask') or self.is_initializing()):
        raise InputError(
          "AudioMAE draws its masks from rng 'mask', which was not given: "
          "pass rngs={'mask': key}, or the noise in the batch."
        )
      return jax.random.uniform(self.make_rng('mask'), shape)

    return token_masks.choose(
      self.masking, self.counts, self.grid, batch, uniform, size, valid, self.published_order
    )

  def _unshuffle(
    self,
    latent: Float[Array, 'b m d'],
    choice: token_masks.Choice,
    mask_token: Float[Array, '1 1 e'],
    table: Float[Array, 'k e'],
  ) -> Array:
    """Decoder input [b, n, e], with cls first for the global decoder (the window decoder has
    none)."""
    x = self.decoder_embed(latent)
    kept, table = x[:, 1:], table.astype(x.dtype)
    mask_token = mask_token.astype(x.dtype)
    if choice.used is not None:
      kept = jnp.where(choice.used[:, :, None], kept, mask_token)
    b, n = choice.ids_restore.shape
    missing = jnp.broadcast_to(mask_token, (b, n - kept.shape[1], kept.shape[2]))
    full = trunk.take_tokens(jnp.concatenate([kept, missing], axis=1), choice.ids_restore)
    full = full + table[1:]
    if self.decoder == 'swin':
      return full
    return jnp.concatenate([x[:, :1] + table[:1], full], axis=1)

  # -- Other views -----------------------------------------------------------------------------

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Every layer's patch tokens of audio of any length: l = 0 is the stem, the last one is normed.

    Tokens come row by row in time, `grid` columns per row; audio longer than `frames` is encoded in
    chunks. Raises InputError below one frame.
    """
    apart = self.padding == 'masked'

    def encode(x: Array, real: Array) -> Array:
      patches = trunk.patchify(x, self.patch, self.step)
      out = self.encoder(patches, key_mask=real if apart else None, collect=True)
      return trunk.patch_states(out)

    sizes = dict(frames=self.frames, patch=self.patch, stride=self.step)
    return trunk.embed_chunks(encode, self.frontend, audio, audio_mask, trim=apart, **sizes)

  def hidden_states(
    self, batch: Mapping[str, Any], train: bool = False, layers: bool = False
  ) -> dict[str, Any]:
    """What a head sees: fine-tuning's masks act where pre-training's would.

    Args:
      batch: 'audio' and 'audio_mask' [b, t], or a normalised 'spectrogram' [b, s, f] with an
        optional 'frame_mask'. In training the draws can be given: 'spec_augment_u' [b, 4]
        (frequency width and start, time width and start), 'mask_noise_t' [b, rows], 'mask_noise_f'
        [b, columns], 'drop_path_u' [l, 2, b]; else they come from the rngs 'augment', 'mask' and
        'dropout'.
      train: SpecAug, token masking and drop path act.
      layers: give every layer's tokens.

    Returns:
      'tokens' [b, m, d]: patches; 'cls' [b, d]; 'frame_mask' [b, m]: which tokens are real, all
      where padding counts as sound; 'latent' [b, 1+m, d]: cls first; 'encoder_in' [b, 1+m, d];
      'ids_keep' [b, m] or None; 'spectrogram_mask' [b, s]; and 'layers' [l, b, m, d].
    """
    spectrogram, spectrogram_mask = self._input(batch, augmented=train)
    patches = trunk.patchify(spectrogram, self.patch, self.step)
    real = self._real_patches(spectrogram_mask)
    ids_keep = self._keep(batch, patches.shape[0], real) if train else None
    if ids_keep is not None and real is not None:
      real = jnp.take_along_axis(real, ids_keep, axis=1)
    u = batch.get('drop_path_u') if train else None
    encoded = self.encoder(patches, ids_keep, real, drop_path_u=u, train=train, collect=layers)
    latent = encoded['tokens']
    out = {
      'tokens': latent[:, 1:],
      'cls': latent[:, 0],
      'frame_mask': jnp.ones((len(latent), latent.shape[1] - 1), bool) if real is None else real,
      'latent': latent,
      'encoder_in': encoded['stem'],
      'ids_keep': ids_keep,
      'spectrogram_mask': spectrogram_mask,
    }
    return out | ({'layers': trunk.patch_states(encoded)} if layers else {})

  def _keep(self, batch, size: int, real) -> Int[Array, 'b m'] | None:
    if not (self.mask_t_prob or self.mask_f_prob):
      return None
    rows, columns = self.grid
    keep_t = masking.keep_count(rows, self.mask_t_prob)
    keep_f = masking.keep_count(columns, self.mask_f_prob)
    if 'mask_noise_t' in batch:
      u_t, u_f = batch['mask_noise_t'], batch['mask_noise_f']
    else:
      key_t, key_f = jax.random.split(self.make_rng('mask'))
      u_t, u_f = jax.random.uniform(key_t, (size, rows)), jax.random.uniform(key_f, (size, columns))
    valid = None if real is None else real.reshape(-1, rows, columns)[:, :, 0]
    return masking.time_freq_keep(u_t, u_f, keep_t, keep_f, valid=valid)

  def contextual(self, batch: Mapping[str, Any]) -> Float[Array, 'b n d']:
    """Nothing masked: mean of the normed outputs of the blocks above `contextual_depth`, cls
    first."""
    if self.contextual_depth + 1 >= self.depth:
      raise InputError(
        f'contextual_depth={self.contextual_depth} leaves none of the {self.depth} blocks to '
        f'average: give one below {self.depth - 1}.'
      )
    batch = jax.tree.map(jnp.asarray, dict(batch))
    spectrogram, frame_mask = self._input(batch)
    patches = trunk.patchify(spectrogram, self.patch, self.step)
    out = self.encoder(patches, key_mask=self._real_patches(frame_mask), collect=True)
    return out['normed'][self.contextual_depth + 1 :].mean(0)

  def picture(self, batch: Mapping[str, Any], norm_pix: bool = True) -> dict[str, Array]:
    """Spectrograms [b, s, f] before and after: 'original', 'masked', 'reconstructed' (normalised
    log-mel).

    With `norm_pix` the predictions are of patches normalised each by itself, and are scaled back
    with the true patch's statistics. Kept patches are shown as they are.
    """
    out = self(batch)
    target, pred, mask = out['target'], out['pred'], out['mask'][:, :, None]
    if norm_pix:
      std = jnp.sqrt(target.var(-1, keepdims=True, ddof=1) + 1e-6)
      pred = pred * std + target.mean(-1, keepdims=True)
    floor = target.min((1, 2), keepdims=True)
    panels = {
      'original': target,
      'masked': jnp.where(mask > 0, floor, target),
      'reconstructed': jnp.where(mask > 0, pred, target),
    }
    size = (self.frames, self.frontend.num_features, self.patch, self.step)
    return {name: trunk.unpatchify(x, *size) for name, x in panels.items()}

  # -- Input -----------------------------------------------------------------------------------

  def _input(self, batch, augmented: bool = False):
    if 'spectrogram' in batch:
      return trunk.given_spectrogram(batch, self.frames, self.frontend.num_features)
    raw, frame_mask = trunk.model_input(self.frontend, batch, self.frames)
    if augmented:
      limits = dict(freq=self.freq_mask, time=self.time_mask)
      raw = augment.spec_augment_in_training(batch, self.make_rng, raw, **limits)
    return self.frontend.normalise(raw), frame_mask

  def _real_patches(self, frame_mask: Bool[Array, 'b s']) -> Bool[Array, 'b n'] | None:
    """Patches that may be attended to; None for all, as published."""
    if self.padding == 'published':
      return None
    return trunk.patch_mask(frame_mask, self.frontend.num_features, self.patch, self.step)


class GlobalDecoder(nn.Module):
  """Plain ViT blocks over cls and all patches, then norm and prediction of every token's pixels."""

  depth: int
  heads: int
  pixels: int
  mlp_ratio: float = 4.0
  dtype: kernels.Dtype = jnp.float32
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], key_mask: Bool[Array, 'b m'] | None, train: bool
  ) -> Float[Array, 'b n p']:
    if key_mask is not None:
      key_mask = jnp.pad(key_mask, [(0, 0), (1, 0)], constant_values=True)

    def make(name: str, index: int | None) -> nn.Module:
      args = (self.heads, self.mlp_ratio, 1e-6, 0.0, self.dtype, self.attention)
      return layers.Block(*args, name=name)

    def call(block: nn.Module, x: Array, layer: Array) -> Array:
      return block(x, key_mask, train=train)

    x, _, _ = layers.run_blocks(
      make, call, x, jnp.arange(self.depth), scan=self.scan_layers, remat=self.remat
    )
    x = layers.LayerNorm(dtype=self.dtype, name='norm')(x)
    return layers.Dense(self.pixels, self.dtype, name='pred')(x)
