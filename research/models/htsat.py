"""HTSAT: a Swin transformer over a folded log-mel spectrogram (Chen et al. 2022, arXiv 2202.00874),
as CLAP has it, with the feature fusion of LAION-CLAP (arXiv 2211.06687, section 3.2).

The spectrogram is stretched to 1,024 frames and cut into four pieces of time, which are laid under
each other: an image of 256 x 256, row = 64 piece + bin. Upstream: LAION-AI/CLAP, commit 1fd4c37
(src/laion_clap/clap_module/htsat.py, feature_fusion.py).
Letters: b batch, s frames, f bins, n tokens, d width, w windows, q tokens of a window.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.nn import layers
from research.nn.batch_norm import BatchNorm
from research.nn.kernels import Dtype

EPSILON = 1e-5
SIDE, PIECES, PATCH, WINDOW = 256, 4, 4, 8
FRAMES, BINS = SIDE * PIECES, SIDE // PIECES
# Between tokens of one window that only the roll made neighbours.
SHIFTED_OUT = -100.0

# -- Images ------------------------------------------------------------------------------------


def bicubic_table(have: int, want: int) -> Float[np.ndarray, 'want have']:
  """Bicubic interpolation as a matrix: a = -0.75, corners aligned, edges repeated (torch's
  interpolate)."""
  at = np.arange(want, dtype=np.float64) * (have - 1) / max(want - 1, 1)
  low = np.floor(at).astype(int)
  table = np.zeros((want, have))
  for tap in range(-1, 3):
    x = np.abs(at - (low + tap))
    a = -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    weight = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    np.add.at(table, (np.arange(want), np.clip(low + tap, 0, have - 1)), weight)
  return table.astype(np.float32)


def folded(x: Float[Array, 'b c s f']) -> Float[Array, 'b c 256 256']:
  """Spectrograms of up to 1,024 frames of 64 bins as images, row = 64 piece + bin.

  Raises:
    InputError: more frames, or another number of bins.
  """
  b, c, s, f = x.shape
  if s > FRAMES or f != BINS:
    raise InputError(
      f'HTSAT got a spectrogram of {s} frames and {f} bins; it takes up to {FRAMES} frames of '
      f'{BINS} bins.'
    )
  if s < FRAMES:
    table = jnp.asarray(bicubic_table(s, FRAMES))
    x = jnp.einsum('ts,bcsf->bctf', table, x, precision='highest')
  x = x.reshape(b, c, PIECES, SIDE, f)
  return x.swapaxes(3, 4).reshape(b, c, SIDE, SIDE)


class PatchEmbed(nn.Module):
  """Patches of 4 x 4 (or 4 x 12, which three pieces of a long clip are put together from)."""

  width: int
  across: int = PATCH
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, image: Float[Array, 'b y x']) -> Float[Array, 'b rows columns d']:
    b, y, x = image.shape
    columns = x // self.across
    cut = image[:, :, : columns * self.across].reshape(b, y // PATCH, PATCH, columns, self.across)
    patches = cut.transpose(0, 1, 3, 2, 4).reshape(b, y // PATCH, columns, -1)
    fan = PATCH * self.across
    dense = layers.Dense(self.width, self.dtype, bias_init=layers.uniform(fan**-0.5), name='proj')
    return dense(patches)


class Attentional(nn.Module):
  """One of the two gates of `Fusion`: 1 x 1, batch norm, ReLU, 1 x 1, batch norm."""

  hidden: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b y x d'], train: bool) -> Float[Array, 'b y x d']:
    y = layers.Dense(self.hidden, self.dtype, name='fc1')(x)
    y = nn.relu(BatchNorm(dtype=self.dtype, name='norm1')(y, train))
    y = layers.Dense(x.shape[-1], self.dtype, name='fc2')(y)
    return BatchNorm(dtype=self.dtype, name='norm2')(y, train)


class Fusion(nn.Module):
  """Attentional feature fusion (arXiv 2009.14082): 2 x w + 2 y (1 - w), w the logistic function of
  gates of each place and of the whole image.

  In training its batch norms take the statistics of all clips; upstream those of the long ones,
  which alone go through it.
  """

  reduction: int = 4
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b y x d'], y: Float[Array, 'b y x d'], train: bool
  ) -> Float[Array, 'b y x d']:
    both, hidden = x + y, x.shape[-1] // self.reduction
    place = Attentional(hidden, self.dtype, name='local')(both, train)
    whole = Attentional(hidden, self.dtype, name='whole')(both.mean((1, 2), keepdims=True), train)
    weight = jax.nn.sigmoid(place + whole)
    return 2 * x * weight + 2 * y * (1 - weight)


# -- Windows -----------------------------------------------------------------------------------


def relative_index(window: int) -> Int[np.ndarray, 'q q']:
  """Row of the bias table for every pair of tokens of a window (Swin)."""
  at = np.stack(np.divmod(np.arange(window**2), window), axis=-1)
  offset = at[:, None] - at[None, :] + window - 1
  return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def shift_bias(side: int, window: int, shift: int) -> Float[np.ndarray, 'w q q']:
  """-100 between tokens of one window that lie on two sides of a seam after the roll."""
  at = np.arange(side)
  label = (at >= side - window).astype(int) + (at >= side - shift)
  label = cut_windows(3 * label[:, None] + label[None, :], window)
  return np.where(label[:, :, None] != label[:, None, :], SHIFTED_OUT, 0.0).astype(np.float32)


def cut_windows(x: Any, window: int) -> Any:
  """[side, side, …] or [b, side, side, d] to windows [w, q] or [b, w, q, d], row by row."""
  lead, rest = (x.shape[:1], x.shape[3:]) if x.ndim == 4 else ((), x.shape[2:])
  rows, columns = x.shape[len(lead) : len(lead) + 2]
  x = x.reshape(*lead, rows // window, window, columns // window, window, *rest)
  axis = len(lead)
  return x.swapaxes(axis + 1, axis + 2).reshape(*lead, -1, window**2, *rest)


def join_windows(x: Float[Array, 'b w q d'], side: int, window: int) -> Float[Array, 'b y x d']:
  """The inverse of `cut_windows`."""
  b, _, _, d = x.shape
  each = side // window
  x = x.reshape(b, each, each, window, window, d).swapaxes(2, 3)
  return x.reshape(b, side, side, d)


class WindowAttention(nn.Module):
  """Attention inside of windows with a learned bias for every offset."""

  heads: int
  window: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b w q d'], seams: Float[np.ndarray, 'w q q'] | None
  ) -> Float[Array, 'b w q d']:
    b, w, n, d = x.shape
    q, k, v = layers.HeadsIn(self.heads, self.dtype, name='qkv')(x.reshape(b * w, n, d))
    rows = (2 * self.window - 1) ** 2
    table = self.param('bias', nn.initializers.truncated_normal(0.02), (rows, self.heads))
    bias = jnp.asarray(table)[relative_index(self.window)].transpose(2, 0, 1)[None]
    if seams is not None:
      bias = jnp.tile(bias + jnp.asarray(seams)[:, None], (b, 1, 1, 1))
    y = biased_attention(q, k, v, bias)
    return layers.HeadsOut(self.dtype, name='proj')(y).reshape(b, w, n, d)


def biased_attention(
  q: Float[Array, 'b n h k'],
  k: Float[Array, 'b n h k'],
  v: Float[Array, 'b n h k'],
  bias: Float[Array, '#b h n n'],
) -> Float[Array, 'b n h k']:
  """softmax(q.k / sqrt(size) + bias) v, products and softmax in float32."""
  scale = np.float32(q.shape[-1] ** -0.5)
  logits = jnp.einsum('bqhd,bkhd->bhqk', q.astype(jnp.float32) * scale, k.astype(jnp.float32))
  weights = jax.nn.softmax(logits + bias).astype(v.dtype)
  return jnp.einsum('bhqk,bkhd->bqhd', weights, v)


class SwinBlock(nn.Module):
  """x + attention(norm1(x)) in windows, shifted or not, then x + mlp(norm2(x))."""

  heads: int
  shifted: bool
  drop_path: float
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b y x d'], train: bool) -> Float[Array, 'b y x d']:
    b, side, _, d = x.shape
    window = min(WINDOW, side)
    # A window that is the whole image has nothing to shift into.
    shift = window // 2 if self.shifted and side > WINDOW else 0
    y = layers.LayerNorm(EPSILON, self.dtype, name='norm1')(x)
    if shift:
      y = jnp.roll(y, (-shift, -shift), (1, 2))
    seams = shift_bias(side, window, shift) if shift else None
    y = WindowAttention(self.heads, window, self.dtype, name='attn')(cut_windows(y, window), seams)
    y = join_windows(y, side, window)
    if shift:
      y = jnp.roll(y, (shift, shift), (1, 2))
    x = x + self._drop(y, 'drop_attn', train)
    y = layers.LayerNorm(EPSILON, self.dtype, name='norm2')(x).reshape(b, side * side, d)
    y = layers.Mlp(4 * d, self.dtype, name='mlp')(y).reshape(b, side, side, d)
    return x + self._drop(y, 'drop_mlp', train)

  def _drop(self, y, name: str, train: bool):
    b, side, _, d = y.shape
    flat = layers.DropPath(name=name)(y.reshape(b, side * side, d), self.drop_path, train)
    return flat.reshape(b, side, side, d)


class Merge(nn.Module):
  """Four neighbours become one token of twice the width."""

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b y x d']) -> Float[Array, 'b y2 x2 e']:
    corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    y = layers.LayerNorm(EPSILON, self.dtype, name='norm')(jnp.concatenate(corners, axis=-1))
    d = x.shape[-1]
    kernel = self.param('reduction', layers.xavier(4 * d, 2 * d), (4 * d, 2 * d))
    return layers.product(y, kernel, 1, self.dtype)


class HTSAT(nn.Module):
  """Log-mel spectrograms to tokens.

  Attributes:
    width: of the first stage; that of the tokens is 8 times it.
    depths, heads: blocks and heads of the four stages.
    fusion: whether it takes four spectrograms of a clip (the whole one shrunk, and three pieces).
    classes: of the tagging head of AudioSet, which CLAP's weights still hold; 0 leaves it out.
    drop_path: drop rate of the last block in training.
    masks: whether two stripes of up to 64 frames and two of up to 8 bins are removed in training.
  """

  width: int
  depths: Sequence[int]
  heads: Sequence[int]
  fusion: bool = False
  classes: int = 0
  drop_path: float = 0.1
  masks: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b c s f'],
    longer: Bool[Array, 'b'] | None = None,
    train: bool = False,
  ) -> dict[str, Any]:
    """Args:
      x: log-mel in dB; one spectrogram a clip, or with `fusion` four.
      longer: with `fusion`, clips whose pieces count.
      train: whether batch norm takes the statistics of the batch, and masks and drop path act.

    Returns:
      'tokens' [b, n, 2, d] in time, two bands each; 'embedding' [b, d]: their mean; 'stem'
      [b, 64, 64, w]; 'stages', the outputs of the four; and with classes 'frame_scores'
      [b, n, c] and 'class_scores' [b, c].
    """
    norm = BatchNorm(name='bn0')(x, train)
    if train and self.masks:
      norm = stripes(self.make_rng('augment'), norm)
    images = folded(norm)
    x = PatchEmbed(self.width, dtype=self.dtype, name='patch_embed')(images[:, 0])
    if self.fusion:
      x = self._fused(x, images[:, 1:], longer, train)
    x = stem = layers.LayerNorm(EPSILON, self.dtype, name='patch_norm')(x)

    rates = np.linspace(0.0, self.drop_path, sum(self.depths))
    stages, blocks, done = [], [], 0
    for i, (depth, heads) in enumerate(zip(self.depths, self.heads)):
      for j in range(depth):
        rate = float(rates[done])
        block = SwinBlock(heads, j % 2 == 1, rate, self.dtype, name=f'stage{i}_block{j}')
        x = block(x, train)
        blocks.append(x)
        done += 1
      if i < len(self.depths) - 1:
        x = Merge(self.dtype, name=f'stage{i}_merge')(x)
      stages.append(x)
    x = layers.LayerNorm(EPSILON, self.dtype, name='norm')(x)

    # The pieces of time one after the other again: rows are (piece, band), columns time.
    b, side, _, d = x.shape
    bands = side // PIECES
    tokens = x.reshape(b, PIECES, bands, side, d).swapaxes(2, 3).reshape(b, -1, bands, d)
    out = {
      'tokens': tokens,
      'embedding': tokens.astype(jnp.float32).mean((1, 2)),
      'stem': stem,
      'norm': norm,
      'normed': x,
      'blocks': blocks,
      'stages': stages,
    }
    return out | (self._tagged(tokens) if self.classes else {})

  def _fused(self, x, pieces, longer, train):
    b, c, side, _ = pieces.shape
    embed = PatchEmbed(self.width, 3 * PATCH, self.dtype, name='piece_embed')
    local = embed(pieces.reshape(b * c, side, side))
    rows, columns, d = local.shape[1:]
    local = local.reshape(b, c, rows, columns, d).swapaxes(1, 2).reshape(b, rows, -1, d)
    lack = x.shape[2] - local.shape[2]
    local = jnp.pad(local, ((0, 0), (0, 0), (0, max(lack, 0)), (0, 0)))[:, :, : x.shape[2]]
    fused = Fusion(dtype=self.dtype, name='fuse')(x, local, train)
    if longer is None:
      return fused
    return jnp.where(longer[:, None, None, None], fused, x)

  def _tagged(self, tokens: Float[Array, 'b n m d']) -> dict[str, Array]:
    """Scores of AudioSet's classes: a convolution over three tokens of time and both bands."""
    n, bands, d = tokens.shape[1:]
    shape = (3, bands, d, self.classes)
    kernel = self.param('tags_kernel', layers.xavier(3 * bands * d, self.classes), shape)
    bias = self.param('tags_bias', nn.initializers.zeros_init(), (self.classes,))
    padded = jnp.pad(tokens, ((0, 0), (1, 1), (0, 0), (0, 0)))
    near = jnp.stack([padded[:, i : i + n] for i in range(3)], axis=2)
    logits = jnp.einsum('bntmd,tmdc->bnc', near.astype(jnp.float32), kernel) + bias
    return {
      'frame_scores': jax.nn.sigmoid(logits),
      'class_scores': jax.nn.sigmoid(logits.mean(1)),
    }


def stripes(
  key: Array, x: Float[Array, 'b c s f'], frames: int = 64, bins: int = 8, count: int = 2
) -> Float[Array, 'b c s f']:
  """Zeros in stripes of time and of frequency, of U[0, limit) frames and bins (torchlibrosa's
  SpecAugmentation, htsat.py)."""
  b, _, s, f = x.shape
  for axis, (size, limit) in enumerate(((s, frames), (f, bins))):
    for i in range(count):
      width_key, start_key = jax.random.split(jax.random.fold_in(key, 2 * axis + i))
      width = jax.random.randint(width_key, (b, 1), 0, limit)
      start = jax.random.uniform(start_key, (b, 1)) * (size - width).astype(jnp.float32)
      at = jnp.arange(size)[None]
      hole = (at >= start.astype(jnp.int32)) & (at < start.astype(jnp.int32) + width)
      hole = hole[:, None, :, None] if axis == 0 else hole[:, None, None, :]
      x = jnp.where(hole, 0.0, x)
  return x
