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


def patch_grid(frames: int, bins: int, patch: int, stride: int) -> tuple[int, int]:
  """(time rows, frequency columns) of square patches that lie wholly inside the spectrogram."""
  return (frames - patch) // stride + 1, (bins - patch) // stride + 1


def patchify(spectrogram: Float[Array, 'b s f'], patch: int, stride: int) -> Float[Array, 'b n p']:
  """Cuts square patches: token n = columns * row + column (time-major), values row by row in time.

  Without overlap this is a reshape; frames and bins that fill no whole patch are left out.
  """
  b, s, f = spectrogram.shape
  rows, columns = patch_grid(s, f, patch, stride)
  if stride == patch:
    x = spectrogram[:, : rows * patch, : columns * patch]
    x = x.reshape(b, rows, patch, columns, patch)
  else:
    t = stride * np.arange(rows)[:, None] + np.arange(patch)
    c = stride * np.arange(columns)[:, None] + np.arange(patch)
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
  frame_mask: Bool[Array, 'b s'], bins: int, patch: int, stride: int
) -> Bool[Array, 'b n']:
  """True for the patches that hold at least one real frame."""
  rows, columns = patch_grid(frame_mask.shape[1], bins, patch, stride)
  return jnp.repeat(frame_mask[:, : rows * stride : stride], columns, axis=1)


# -- Encoder -----------------------------------------------------------------------------------


def drop_path_rates(rate: float, depth: int) -> list[float]:
  """Drop rates rising linearly from 0 at the first layer to `rate` at the last."""
  return [float(r) for r in np.linspace(0.0, rate, depth)]


class Encoder(nn.Module):
  """ViT over the patches of a spectrogram, with a cls token and a fixed position table.

  Only the kept patches are embedded and encoded, so masking 80 % of them costs a fifth.

  Attributes:
    width, depth, heads, mlp_ratio: sizes of the transformer.
    grid: (rows, columns) of the position table; a shorter input uses its first rows.
    patch: side of a patch, in frames and in bins.
    positions: 'published' or 'time_frequency' (see `positions.spectrogram_positions`).
    overlap: whether patches overlap.
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
      'stem' [b, 1+m, d] (cls first), 'tokens' [b, 1+m, d] after the last layer and norm, and with
      `collect` 'layers' [l, b, 1+m, d] (the last not normed) and 'normed' [l, b, 1+m, d].
    """
    table = jnp.asarray(self.variable('buffers', 'pos_embed', self._table).value)
    # Gather the pixels, not the embeddings: a patch that is not kept is never embedded.
    position = table[None, 1 : patches.shape[1] + 1]
    if ids_keep is not None:
      patches = take_tokens(patches, ids_keep)
      position = table[1:][ids_keep]
    init = layers.uniform(1.0 / self.patch)
    embed = layers.Dense(self.width, self.dtype, bias_init=init, name='patch_embed')
    x = embed(patches) + position.astype(self.dtype)
    cls = self.param('cls_token', nn.initializers.normal(0.02), (1, 1, self.width)) + table[0]
    cls = jnp.broadcast_to(cls.astype(self.dtype), (x.shape[0], 1, self.width))
    stem = jnp.concatenate([cls, x], axis=1)
    if key_mask is not None:
      key_mask = jnp.pad(key_mask, [(0, 0), (1, 0)], constant_values=True)

    x, outputs = self._blocks(stem, key_mask, drop_path_u, train, collect)
    norm = layers.LayerNorm(dtype=self.dtype, name='norm') if self.final_norm else lambda x: x
    out = {'stem': stem, 'tokens': norm(x)}
    if collect:
      out |= {'layers': outputs, 'normed': norm(outputs)}
    return out

  def _table(self) -> Array:
    return jnp.asarray(spectrogram_positions(self.grid, self.width, self.positions, self.overlap))

  def _blocks(self, x, key_mask, u, train, collect):
    rates = drop_path_rates(self.drop_path, self.depth)
    traced = self.scan_layers and self.drop_path > 0 and train

    def make(name: str, index: int | None) -> nn.Module:
      rate = 0.0 if index is None else rates[index]
      args = (self.heads, self.mlp_ratio, 1e-6, rate, self.dtype, self.attention)
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


def embed_chunks(
  encode: Callable[[Array, Array], Array],
  frontend: Frontend,
  audio: Float[AnyArray, 'b t'],
  audio_mask: Bool[AnyArray, 'b t'],
  *,
  frames: int,
  patch: int,
  stride: int,
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
    size = min(frames, patch + stride * max(0, -(-(s - patch) // stride)))
  x, mask = fit_frames(raw, frame_mask, chunks * size)
  x = frontend.normalise(x).reshape(b * chunks, size, f)
  mask = patch_mask(mask.reshape(b * chunks, size), f, patch, stride)
  tokens = encode(x, mask).astype(jnp.float32)
  n = mask.shape[1] * chunks
  tokens = tokens.reshape(tokens.shape[0], b, n, tokens.shape[-1])
  mask = mask.reshape(b, n)
  return jnp.where(mask[None, :, :, None], tokens, 0.0), mask
