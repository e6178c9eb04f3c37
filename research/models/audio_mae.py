"""AudioMAE: masked autoencoders that listen (Huang et al. 2022, arXiv 2207.06405).

Pre-training reconstructs the masked patches of a log-mel spectrogram from the few kept ones;
`AudioMAEClassifier` (audio_mae_classifier.py) fine-tunes the encoder. Upstream:
facebookresearch/AudioMAE, commit bd60e29 (models_mae.py).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError, unknown
from research.features.frontend import Frontend
from research.features.spectral import Array as AnyArray
from research.models import spectrogram as trunk
from research.models import token_masks
from research.models.window_decoder import WindowDecoder
from research.nn import kernels, layers
from research.nn.positions import spectrogram_positions


class Size(NamedTuple):
  """Encoder width, depth, heads and patch side; decoder width and heads; depth of both decoders."""

  width: int
  depth: int
  heads: int
  patch: int
  decoder_width: int
  decoder_heads: int
  global_depth: int
  window_depth: int


# models_mae.py of the upstream commit (mae_vit_{small,base,large,huge}_patch*_dec512d8b; the window
# decoder has 16 blocks whatever the name says); tiny is ours, for a laptop.
SIZES = {
  'tiny': Size(192, 6, 3, 16, 128, 4, 2, 4),
  'small': Size(384, 12, 6, 16, 512, 16, 8, 16),
  'base': Size(768, 12, 12, 16, 512, 16, 8, 16),
  'large': Size(1024, 24, 16, 16, 512, 16, 8, 16),
  'huge': Size(1280, 32, 16, 14, 512, 16, 8, 16),
}

# AudioSet statistics of the kaldi filter bank: main_pretrain.py of the upstream commit.
FRONTEND = {'name': 'kaldi_fbank'}

POSITIONS = ('published', 'time_frequency')
PADDINGS = ('published', 'masked')


# -- What pre-training and fine-tuning share ---------------------------------------------------


def resolve(model: nn.Module) -> None:
  """Fills in a model's sizes and front-end from its arguments, and refuses impossible ones."""
  if model.size not in SIZES:
    raise unknown('size of AudioMAE', model.size, SIZES)
  table = SIZES[model.size]
  fill(model, width=table.width, depth=table.depth, heads=table.heads, patch=table.patch)
  if not isinstance(model.frontend, Frontend):
    object.__setattr__(model, 'frontend', Frontend.from_dict(model.frontend or {}))
  demand_heads('width', model.width, 'heads', model.heads)
  for name, known in {'positions': POSITIONS, 'padding': PADDINGS, 'dtype': layers.DTYPES}.items():
    if getattr(model, name) not in known:
      raise unknown(f'{name} of AudioMAE', getattr(model, name), known)
  if model.stride is not None and model.stride < 1:
    raise InputError(
      f'AudioMAE got stride={model.stride}; it is 1 or more, or None for no overlap.'
    )
  if model.frames < model.patch or model.frontend.num_features < model.patch:
    raise InputError(
      f'AudioMAE got frames={model.frames} and {model.frontend.num_features} mel bins; '
      f'one patch needs {model.patch} of each.'
    )


def fill(model: nn.Module, **values: Any) -> None:
  """Sets the attributes that were left None."""
  for name, value in values.items():
    if getattr(model, name) is None:
      object.__setattr__(model, name, value)


def demand_heads(width_name: str, width: int, heads_name: str, heads: int) -> None:
  """Refuses a width that its heads do not divide, or that the sine-cosine table cannot fill."""
  if width % heads or width % 4:
    raise InputError(
      f'AudioMAE got {width_name}={width} and {heads_name}={heads}; '
      f'{width_name} must be a multiple of {heads_name} and of 4.'
    )


def stride(model: nn.Module) -> int:
  """Frames (and bins) from one patch to the next."""
  return model.stride or model.patch


def grid(model: nn.Module) -> tuple[int, int]:
  """(time rows, frequency columns) of the model's patches."""
  bins = model.frontend.num_features
  return trunk.patch_grid(model.frames, bins, model.patch, stride(model))


def window(model: nn.Module) -> tuple[int, int]:
  """(rows, columns) of the window decoder's windows, as published without and with overlap."""
  return (4, 4) if stride(model) == model.patch else (6, 6)


def encoder(model: nn.Module, **changes: Any) -> trunk.Encoder:
  """The ViT of a model's arguments."""
  return trunk.Encoder(
    width=model.width,
    depth=model.depth,
    heads=model.heads,
    grid=grid(model),
    patch=model.patch,
    mlp_ratio=model.mlp_ratio,
    positions=model.positions,
    overlap=stride(model) != model.patch,
    dtype=jnp.dtype(model.dtype),
    scan_layers=model.scan_layers,
    remat=model.remat,
    attention=model.attention,
    **changes,
  )


def real_patches(model: nn.Module, frame_mask: Bool[Array, 'b s']) -> Bool[Array, 'b n'] | None:
  """Patches that may be attended to; None for all, as published."""
  if model.padding == 'published':
    return None
  return trunk.patch_mask(frame_mask, model.frontend.num_features, model.patch, stride(model))


def embed(
  model: nn.Module,
  vit: trunk.Encoder,
  audio: Float[AnyArray, 'b t'],
  audio_mask: Bool[AnyArray, 'b t'],
) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
  """Stem and every block of a ViT over chunks of audio (see `spectrogram.embed_chunks`)."""
  apart = model.padding == 'masked'

  def encode(x: Array, real: Array) -> Array:
    patches = trunk.patchify(x, model.patch, stride(model))
    out = vit(patches, key_mask=real if apart else None, collect=True)
    layers = [out['stem'][None], out['layers'][:-1], out['tokens'][None]]
    return jnp.concatenate(layers)[:, :, 1:]

  sizes = dict(frames=model.frames, patch=model.patch, stride=stride(model), trim=apart)
  return trunk.embed_chunks(encode, model.frontend, audio, audio_mask, **sizes)


# -- Pre-training ------------------------------------------------------------------------------


class AudioMAE(nn.Module):
  """Masked autoencoder over spectrogram patches.

  Attributes:
    size: a key of SIZES; `width` … `decoder_heads` replace single entries of it.
    frontend: settings of the audio front-end (`features.Frontend`) or the front-end itself.
    frames: length of the spectrogram; shorter audio is padded, longer audio cut.
    stride: of the patches; None for no overlap (upstream's overlapping option is 10).
    masking: 'unstructured' drops `mask_ratio` of the patches, 'time' and 'frequency' that share of
      the rows or columns, 'time_frequency' the shares `mask_t_prob` and `mask_f_prob` of both.
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

  size: str = 'base'
  frontend: Any = None
  frames: int = 1024
  # None takes the size's figure: `resolve` fills it in before anything reads it.
  width: int = None  # type: ignore[assignment]
  depth: int = None  # type: ignore[assignment]
  heads: int = None  # type: ignore[assignment]
  patch: int = None  # type: ignore[assignment]
  stride: int | None = None
  mlp_ratio: float = 4.0
  masking: str = 'unstructured'
  mask_ratio: float = 0.8
  mask_t_prob: float = 0.7
  mask_f_prob: float = 0.3
  published_order: bool = False
  decoder: str = 'swin'
  # Likewise, by `__post_init__`.
  decoder_width: int = None  # type: ignore[assignment]
  decoder_depth: int = None  # type: ignore[assignment]
  decoder_heads: int = None  # type: ignore[assignment]
  decoder_shift: bool = True
  positions: str = 'published'
  padding: str = 'published'
  contextual_depth: int = 8
  dtype: str = 'float32'
  scan_layers: bool = False
  remat: bool = False
  attention: str | None = None

  def __post_init__(self):
    resolve(self)
    if self.decoder not in ('swin', 'global'):
      raise unknown('decoder of model audio_mae', self.decoder, ('swin', 'global'))
    if self.masking not in token_masks.MASKINGS:
      raise unknown('masking of model audio_mae', self.masking, token_masks.MASKINGS)
    table = SIZES[self.size]
    fill(
      self,
      decoder_width=table.decoder_width,
      decoder_depth=table.window_depth if self.decoder == 'swin' else table.global_depth,
      decoder_heads=table.decoder_heads,
    )
    demand_heads('decoder_width', self.decoder_width, 'decoder_heads', self.decoder_heads)
    ratios = (self.mask_ratio, self.mask_t_prob, self.mask_f_prob)
    object.__setattr__(self, 'counts', token_masks.keep_counts(self.masking, grid(self), *ratios))
    super().__post_init__()

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.encoder = encoder(self)
    self.decoder_embed = layers.Dense(self.decoder_width, dtype)
    normal = nn.initializers.normal(0.02)
    self.mask_token = self.param('mask_token', normal, (1, 1, self.decoder_width))
    self.decoder_pos_embed = self.variable('buffers', 'decoder_pos_embed', self._decoder_table)
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
      self.decode = WindowDecoder(grid=grid(self), window=window(self), shift=shift, **common)

  def _decoder_table(self) -> Array:
    table = spectrogram_positions(
      grid(self), self.decoder_width, self.positions, stride(self) != self.patch
    )
    return jnp.asarray(table)

  # -- Pre-training ----------------------------------------------------------------------------

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
      patches that the loss is about. 'ids_keep' [b, m], 'ids_restore' [b, n]. 'latent' [b, 1+m, d]:
      encoded patches, cls first. 'latent_mask' [b, m]: which of them are real. 'encoder_in': their
      embeddings. 'decoder_in'. 'frame_mask' [b, s]. 'embedding' [b, d]: mean of the encoded
      patches, whose spread tells a collapse.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    spectrogram, frame_mask = self._input(batch)
    patches = trunk.patchify(spectrogram, self.patch, stride(self))
    valid = real_patches(self, frame_mask)
    choice = self._choose(batch, patches.shape[0], valid)

    # Encode the kept patches only.
    encoded = self.encoder(patches, choice.ids_keep, choice.used, train=train)
    latent = encoded['tokens']

    # A mask token in place of every other one, everything back in order.
    x = self._unshuffle(latent, choice)
    pred = self.decode(x, valid, train)
    pred = pred[:, -patches.shape[1] :].astype(jnp.float32)
    used = jnp.ones(choice.ids_keep.shape, bool) if choice.used is None else choice.used
    return {
      'pred': pred,
      'target': patches,
      'mask': choice.mask.astype(jnp.float32),
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
      self.masking, self.counts, grid(self), batch, uniform, size, valid, self.published_order
    )

  def _unshuffle(self, latent: Float[Array, 'b m d'], choice: token_masks.Choice) -> Array:
    """Decoder input [b, n, e], with cls first for the global decoder (the window decoder has
    none)."""
    x = self.decoder_embed(latent)
    kept, table = x[:, 1:], jnp.asarray(self.decoder_pos_embed.value).astype(x.dtype)
    mask_token = self.mask_token.astype(x.dtype)
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
    return embed(self, self.encoder, audio, audio_mask)

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
    patches = trunk.patchify(spectrogram, self.patch, stride(self))
    out = self.encoder(patches, key_mask=real_patches(self, frame_mask), collect=True)
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
    size = (self.frames, self.frontend.num_features, self.patch, stride(self))
    return {name: trunk.unpatchify(x, *size) for name, x in panels.items()}

  # -- Input -----------------------------------------------------------------------------------

  def _input(self, batch):
    if 'spectrogram' in batch:
      return trunk.given_spectrogram(batch, self.frames, self.frontend.num_features)
    raw, frame_mask = trunk.model_input(self.frontend, batch, self.frames)
    return self.frontend.normalise(raw), frame_mask


class GlobalDecoder(nn.Module):
  """Plain ViT blocks over cls and all patches, then norm and prediction of every token's pixels."""

  depth: int
  heads: int
  pixels: int
  mlp_ratio: float = 4.0
  dtype: kernels.Dtype = jnp.float32
  scan_layers: bool = False
  remat: bool = False
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
