"""The spectrogram trunk: patches, their grid, and a ViT encoder that only sees the kept ones."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.features.frontend import Frontend, fit_frames
from research.features.spectral import Array as AnyArray
from research.nn import layers
from research.nn.kernels import Dtype
from research.nn.positions import spectrogram_positions

# -- Patches -----------------------------------------------------------------------------------


# Frames and bins from one patch to the next; one number for both.
Stride = int | tuple[int, int]


def strides(stride: Stride) -> tuple[int, int]:
  """(frames, bins) from one patch to the next."""
  return (stride, stride) if isinstance(stride, int) else stride


def patch_grid(frames: int, bins: int, patch: int, stride: Stride) -> tuple[int, int]:
  """(time rows, frequency columns) of square patches that lie wholly inside the spectrogram."""
  down, across = strides(stride)
  return (frames - patch) // down + 1, (bins - patch) // across + 1


def patchify(
  spectrogram: Float[Array, 'b s f'], patch: int, stride: Stride
) -> Float[Array, 'b n p']:
  """Cuts square patches: token n = columns * row + column (time-major), values row by row in time.

  Without overlap this is a reshape; frames and bins that fill no whole patch are left out.
  """
  b, s, f = spectrogram.shape
  rows, columns = patch_grid(s, f, patch, stride)
  down, across = strides(stride)
  if (down, across) == (patch, patch):
    x = spectrogram[:, : rows * patch, : columns * patch]
    x = x.reshape(b, rows, patch, columns, patch)
  else:
    t = down * np.arange(rows)[:, None] + np.arange(patch)
    c = across * np.arange(columns)[:, None] + np.arange(patch)
    x = spectrogram[:, t][:, :, :, c]
  return x.transpose(0, 1, 3, 2, 4).reshape(b, rows * columns, patch * patch)


def unpatchify(
  patches: Float[Array, 'b n p'], frames: int, bins: int, patch: int, stride: int
) -> Float[Array, 'b s f']:
  """Lays patches back on the spectrogram, averaging where they overlap, 0 where none lies."""
  rows, columns = patch_grid(frames, bins, patch, stride)
  x = patches.reshape(-1, rows, columns, patch, patch).transpose(0, 1, 3, 2, 4)
  t = stride * np.arange(rows)[:, None] + np.arange(patch)
  c = stride * np.arange(columns)[:, None] + np.arange(patch)
  # Any: numpy's annotation of `add.at` knows no slices.
  index: Any = (slice(None), t[:, :, None, None], c[None, None])
  count = np.zeros((1, frames, bins), np.float32)
  np.add.at(count, index, 1.0)
  total = jnp.zeros((patches.shape[0], frames, bins), patches.dtype).at[index].add(x)
  return total / jnp.asarray(np.maximum(count, 1.0), patches.dtype)


def patch_mask(
  frame_mask: Bool[Array, 'b s'], bins: int, patch: int, stride: Stride
) -> Bool[Array, 'b n']:
  """True for the patches that hold at least one real frame."""
  rows, columns = patch_grid(frame_mask.shape[1], bins, patch, stride)
  down, _ = strides(stride)
  return jnp.repeat(frame_mask[:, : rows * down : down], columns, axis=1)


# -- Encoder -----------------------------------------------------------------------------------


def drop_path_rates(rate: float, depth: int) -> list[float]:
  """Drop rates rising linearly from 0 at the first layer to `rate` at the last."""
  return [float(r) for r in np.linspace(0.0, rate, depth)]


class Encoder(nn.Module):
  """ViT over the patches of a spectrogram, with class tokens and a table of positions.

  Only the kept patches are embedded and encoded, so masking 80 % of them costs a fifth.

  Attributes:
    width, depth, heads, mlp_ratio: sizes of the transformer.
    grid: (rows, columns) of the position table; a shorter input uses its first rows.
    patch: side of a patch, in frames and in bins.
    positions: 'published' or 'time_frequency', fixed (see `positions.spectrogram_positions`); or
      'learned', the parameter 'pos_embed'.
    overlap: whether patches overlap.
    prefix: class tokens before the patches, which are parameters of these names.
    epsilon: of the layer norms.
    drop_path: drop rate of the last layer.
    final_norm: layer norm at the end.
  """

  width: int
  depth: int
  heads: int
  grid: tuple[int, int]
  patch: int = 16
  mlp_ratio: float = 4.0
  positions: str = 'published'
  overlap: bool = False
  drop_path: float = 0.0
  final_norm: bool = True
  prefix: tuple[str, ...] = ('cls_token',)
  epsilon: float = 1e-6
  dtype: Dtype = jnp.float32
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  @nn.compact
  def __call__(
    self,
    patches: Float[Array, 'b n p'],
    ids_keep: Int[Array, 'b m'] | None = None,
    key_mask: Bool[Array, 'b m'] | None = None,
    drop_path_u: Float[Array, 'l 2 b'] | None = None,
    train: bool = False,
    collect: bool = False,
  ) -> dict[str, Any]:
    """Encodes all patches, or those at `ids_keep`, in that order.

    Args:
      patches: pixel values.
      ids_keep: indices of the patches to encode; None for all.
      key_mask: True for kept patches that may be attended to; None for all.
      drop_path_u: draws of drop path in [0, 1); None to draw them from rng 'dropout'.
      train: whether drop path acts.
      collect: whether to return every layer's output.

    Returns:
      'stem' [b, p+m, d] (p class tokens first), 'tokens' [b, p+m, d] after the last layer and norm,
      and with `collect` 'layers' [l, b, p+m, d] (the last not normed) and 'normed' [l, b, p+m, d].
    """
    table, first = self._positions(), len(self.prefix)
    # Gather the pixels, not the embeddings: a patch that is not kept is never embedded.
    position = table[None, first : patches.shape[1] + first]
    if ids_keep is not None:
      patches = take_tokens(patches, ids_keep)
      position = table[first:][ids_keep]
    init = layers.uniform(1.0 / self.patch)
    embed = layers.Dense(self.width, self.dtype, bias_init=init, name='patch_embed')
    x = embed(patches) + position.astype(self.dtype)
    shape, normal = (1, 1, self.width), nn.initializers.normal(0.02)
    added = [self.param(name, normal, shape) + table[i] for i, name in enumerate(self.prefix)]
    rows = [jnp.broadcast_to(c.astype(self.dtype), (len(x), *shape[1:])) for c in added]
    stem = jnp.concatenate([*rows, x], axis=1)
    if key_mask is not None:
      key_mask = jnp.pad(key_mask, [(0, 0), (first, 0)], constant_values=True)

    x, outputs = self._blocks(stem, key_mask, drop_path_u, train, collect)
    norm = lambda x: x  # noqa: E731
    if self.final_norm:
      norm = layers.LayerNorm(self.epsilon, self.dtype, name='norm')
    out = {'stem': stem, 'tokens': norm(x)}
    if collect:
      out |= {'layers': outputs, 'normed': norm(outputs)}
    return out

  def _positions(self) -> Float[Array, 'n d']:
    if self.positions != 'learned':
      return jnp.asarray(self.variable('buffers', 'pos_embed', self._table).value)
    shape = (len(self.prefix) + self.grid[0] * self.grid[1], self.width)
    return jnp.asarray(self.param('pos_embed', nn.initializers.normal(0.02), shape))

  def _table(self) -> Array:
    return jnp.asarray(spectrogram_positions(self.grid, self.width, self.positions, self.overlap))

  def _blocks(self, x, key_mask, u, train, collect):
    rates = drop_path_rates(self.drop_path, self.depth)
    traced = self.scan_layers and self.drop_path > 0 and train

    def make(name: str, index: int | None) -> nn.Module:
      rate = 0.0 if index is None else rates[index]
      args = (self.heads, self.mlp_ratio, self.epsilon, rate, self.dtype, self.attention)
      return layers.Block(*args, name=name)

    def call(block: nn.Module, x: Array, layer: dict[str, Array]) -> Array:
      return block(x, key_mask, layer.get('rate'), layer.get('u'), train)

    each: dict[str, Array] = {'index': jnp.arange(self.depth)}
    if traced:
      each['rate'] = jnp.asarray(rates, jnp.float32)
    if u is not None:
      each['u'] = u
    x, outputs, _ = layers.run_blocks(
      make, call, x, each, scan=self.scan_layers, remat=self.remat, collect=collect
    )
    return x, outputs


def take_tokens(x: Float[Array, 'b n d'], ids: Int[Array, 'b m']) -> Float[Array, 'b m d']:
  """The rows of x at `ids`, each within its own example; ids are in range."""
  return jnp.take_along_axis(x, ids[:, :, None], axis=1, mode='promise_in_bounds')


# -- From audio to patches ---------------------------------------------------------------------


def mean_tokens(x: Float[Array, 'b n d'], mask: Bool[Array, 'b n']) -> Float[Array, 'b d']:
  """Mean of the tokens where `mask` is True, in float32; 0 where it never is."""
  weight = mask.astype(jnp.float32)[..., None]
  return (x.astype(jnp.float32) * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)


def model_input(
  frontend: Frontend, batch: Mapping[str, Any], frames: int
) -> tuple[Float[Array, 'b s f'], Bool[Array, 'b s']]:
  """The log-mel spectrogram of a batch before normalisation, cut or zero-padded to `frames`.

  Samples beyond the last frame are not even looked at.
  """
  if 'audio_mask' not in batch:
    raise InputError(
      "The batch holds 'audio' without 'audio_mask': give a boolean [b, t] mask, True for real "
      'samples.'
    )
  samples = frontend.samples(frames)
  x, frame_mask = frontend.raw(batch['audio'][:, :samples], batch['audio_mask'][:, :samples])
  return fit_frames(x, frame_mask, frames)


def given_spectrogram(
  batch: Mapping[str, Any], frames: int, bins: int
) -> tuple[Float[Array, 'b s f'], Bool[Array, 'b s']]:
  """A batch's own normalised 'spectrogram' [b, s, f] and its 'frame_mask' (all real if absent)."""
  x = batch['spectrogram'].astype(jnp.float32)
  if x.ndim != 3 or x.shape[1:] != (frames, bins):
    raise InputError(
      f"batch['spectrogram'] has shape {x.shape}; this model takes [batch, {frames}, {bins}]."
    )
  mask = batch.get('frame_mask')
  return x, (jnp.ones(x.shape[:2], bool) if mask is None else mask)


def patch_states(encoded: Mapping[str, Array], prefix: int = 1) -> Float[Array, 'l b n d']:
  """Patch tokens of the stem and of every block, those of the last as the encoder gives them;
  `prefix` tokens in front of them are left out."""
  states = [encoded['stem'][None], encoded['layers'][:-1], encoded['tokens'][None]]
  return jnp.concatenate(states)[:, :, prefix:]


def embed_chunks(
  encode: Callable[[Array, Array], Array],
  frontend: Frontend,
  audio: Float[AnyArray, 'b t'],
  audio_mask: Bool[AnyArray, 'b t'],
  *,
  frames: int,
  patch: int,
  stride: Stride,
  trim: bool,
) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
  """Token embeddings of audio of any length, encoded in chunks of at most `frames` frames.

  Args:
    encode: (normalised spectrogram chunks [b, s, f], mask of real patches [b, n]) -> tokens
      [l, b, n, d] without cls.
    frontend: audio -> spectrogram.
    audio, audio_mask: the clips.
    frames: the most the encoder takes; longer audio is cut into chunks of this length.
    patch, stride: of the patches.
    trim: encode an input shorter than one chunk at its own length. Only for encoders that do not
      attend to padding; the others see it padded to `frames`, as in training.

  Returns:
    tokens, zero behind the mask, and the mask of tokens that hold at least one real frame.
  """
  raw, frame_mask = frontend.raw(audio, audio_mask)
  b, s, f = raw.shape
  chunks = -(-s // frames)
  size = frames
  if trim and chunks == 1:
    down, _ = strides(stride)
    # Every patch that begins in a real frame, as in a clip that is padded.
    size = min(frames, patch + down * (-(-s // down) - 1))
  x, mask = fit_frames(raw, frame_mask, chunks * size)
  x = frontend.normalise(x).reshape(b * chunks, size, f)
  mask = patch_mask(mask.reshape(b * chunks, size), f, patch, stride)
  tokens = encode(x, mask).astype(jnp.float32)
  n = mask.shape[1] * chunks
  tokens = tokens.reshape(tokens.shape[0], b, n, tokens.shape[-1])
  mask = mask.reshape(b, n)
  return jnp.where(mask[None, :, :, None], tokens, 0.0), mask
