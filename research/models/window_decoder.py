"""AudioMAE's shifted-window decoder: residual-post-norm blocks with cosine attention in windows.

Swin-V2 blocks (arXiv 2111.09883) with a continuous position bias, as AudioMAE configures them
(timm_patch/swin_transformer.py): windows shift along time only, features are not normalised by the
window's size, and the temperature divides.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from research.nn import layers
from research.nn.kernels import Dtype
from research.nn.kernels.attention import pair_products

SHIFTED_OUT = -100.0  # added to logits between tokens that only the roll made neighbours


def relative_features(window: tuple[int, int]) -> Float[np.ndarray, 'q k 2']:
  """sign(x) ln(1 + |x|) of the (row, column) offset between every query and key of a window."""
  rows, columns = window
  at = np.stack(np.divmod(np.arange(rows * columns), columns), axis=-1).astype(np.float64)
  offset = at[:, None] - at[None, :]
  return (np.sign(offset) * np.log1p(np.abs(offset))).astype(np.float32)


def shift_bias(rows: int, window: tuple[int, int], shift: int) -> Float[np.ndarray, 'w q k']:
  """-100 between tokens of one window that lie on two sides of the seam after a roll by -shift
  rows.

  Rows are labelled in the rolled frame: 0 up to the last window, 1 up to the seam, 2 behind it.
  """
  row = np.arange(rows)
  label = (row >= rows - window[0]).astype(int) + (row >= rows - shift)
  label = np.repeat(label.reshape(-1, window[0]), window[1], axis=1)
  return np.where(label[:, :, None] != label[:, None, :], SHIFTED_OUT, 0.0).astype(np.float32)


class PositionBias(nn.Module):
  """Attention bias from relative coordinates by a small MLP (2, hidden, heads), in float32.

  In training, dropout acts on the hidden layer and on the output: one draw for all windows.
  """

  heads: int
  hidden: int = 384
  dropout: float = 0.1

  @nn.compact
  def __call__(self, window: tuple[int, int], train: bool) -> Float[Array, 'h q k']:
    x = jnp.asarray(relative_features(window))
    q = x.shape[0]
    x = layers.Dense(self.hidden, name='fc1')(x.reshape(q * q, 2))
    x = nn.Dropout(self.dropout, deterministic=not train)(jax.nn.relu(x))
    x = layers.Dense(self.heads, name='fc2')(x)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return x.reshape(q, q, self.heads).transpose(2, 0, 1)


class WindowAttention(nn.Module):
  """Cosine attention inside windows: q.k / max(|q||k|, 1e-6) / max(tau, 0.01) + bias."""

  heads: int
  window: tuple[int, int]
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b w q d'],
    bias: Float[Array, 'w q q'] | None,
    key_mask: Bool[Array, 'b w q'] | None,
    train: bool,
  ) -> Float[Array, 'b w q d']:
    b, w, n, d = x.shape
    q, k, v = layers.HeadsIn(self.heads, self.dtype, name='qkv')(x.reshape(b * w, n, d))
    tau = self.param('tau', nn.initializers.ones_init(), (self.heads,))
    position = PositionBias(self.heads, name='meta_mlp')(self.window, train)

    # Cosine similarity and softmax in float32 whatever the layers compute in.
    norm_q, norm_k = _norm(q), _norm(k)
    norms = jnp.einsum('bqh,bkh->bhqk', norm_q, norm_k)
    logits = pair_products(q, k)
    logits = logits / jnp.maximum(norms, 1e-6) / jnp.maximum(tau, 0.01)[:, None, None] + position
    logits = logits.reshape(b, w, self.heads, n, n)
    if bias is not None:
      logits = logits + bias[:, None]
    if key_mask is not None:
      logits = jnp.where(key_mask[:, :, None, None, :], logits, -1e30)
    weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
    y = jnp.einsum('bhqk,bkhd->bqhd', weights.reshape(b * w, self.heads, n, n), v)
    return layers.HeadsOut(self.dtype, name='proj')(y).reshape(b, w, n, d)


def _norm(x: Float[Array, 'b q h d']) -> Float[Array, 'b q h']:
  # The floor only keeps the gradient of the square root finite at exactly zero.
  return jnp.sqrt(jnp.maximum(jnp.square(x.astype(jnp.float32)).sum(-1), 1e-30))


class WindowBlock(nn.Module):
  """x + norm1(attention(x)), then x + norm2(mlp(x)): no norm before a branch, one behind it.

  Tokens come in strips of one window's columns, row by row, so windows are consecutive slices and
  shifting them along time is one roll. `shift` rows are rolled, always or, where one program runs
  every layer, when `shifted` says so.
  """

  heads: int
  window: tuple[int, int]
  shift: int
  mlp_ratio: float = 4.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    key_mask: Bool[Array, 'b n'] | None = None,
    shifted: Bool[Array, ''] | None = None,
    train: bool = False,
  ) -> Float[Array, 'b n d']:
    rows, columns = self.window
    b, n, d = x.shape
    step = self.shift * columns

    def roll(x: Array, by: int) -> Array:
      if step == 0:
        return x
      y = jnp.roll(x, by, axis=1)
      return y if shifted is None else jnp.where(shifted, y, x)

    bias = None
    if step:
      bias = jnp.asarray(shift_bias(n // columns, self.window, self.shift))
      bias = bias if shifted is None else jnp.where(shifted, bias, 0.0)
    if key_mask is not None:
      key_mask = roll(key_mask, -step).reshape(b, -1, rows * columns)

    y = roll(x, -step).reshape(b, -1, rows * columns, d)
    attend = WindowAttention(self.heads, self.window, self.dtype, name='attn')
    y = roll(attend(y, bias, key_mask, train).reshape(b, n, d), step)
    x = x + layers.LayerNorm(dtype=self.dtype, name='norm1')(y)
    y = layers.Mlp(int(d * self.mlp_ratio), self.dtype, name='mlp')(x)
    return x + layers.LayerNorm(dtype=self.dtype, name='norm2')(y)


def padded_grid(grid: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
  """The grid extended to whole windows."""
  rows, columns = (-(-g // w) * w for g, w in zip(grid, window))
  return rows, columns


def to_strips(
  x: Shaped[Array, 'b n d'], grid: tuple[int, int], window: tuple[int, int], mode: str
) -> Shaped[Array, 'strips m d']:
  """Tokens of a grid -> strips of one window's columns, row by row, the grid extended to whole
  windows.

  `mode` is `jnp.pad`'s: 'edge' repeats the last row and column, 'constant' fills zeros (False).
  """
  rows, columns = padded_grid(grid, window)
  b, _, d = x.shape
  x = x.reshape(b, *grid, d)
  if (rows, columns) != grid:
    x = jnp.pad(x, [(0, 0), (0, rows - grid[0]), (0, columns - grid[1]), (0, 0)], mode=mode)
  x = x.reshape(b, rows, -1, window[1], d).transpose(0, 2, 1, 3, 4)
  return x.reshape(-1, rows * window[1], d)


def from_strips(
  x: Shaped[Array, 'strips m d'], grid: tuple[int, int], window: tuple[int, int]
) -> Shaped[Array, 'b n d']:
  """The inverse of `to_strips`: back to the order of the grid, extension removed."""
  rows, columns = padded_grid(grid, window)
  d = x.shape[-1]
  x = x.reshape(-1, columns // window[1], rows, window[1], d).transpose(0, 2, 1, 3, 4)
  x = x.reshape(-1, rows, columns, d)[:, : grid[0], : grid[1]]
  return x.reshape(-1, grid[0] * grid[1], d)


class WindowDecoder(nn.Module):
  """Rows of window blocks, every second one shifted by `shift` time rows, then norm and prediction.

  A grid that the window does not divide is extended by repeating its last row and column, which are
  removed again before the norm (AudioMAE does so for the 101 rows of overlapping patches).
  """

  depth: int
  heads: int
  grid: tuple[int, int]
  window: tuple[int, int]
  shift: int
  pixels: int
  mlp_ratio: float = 4.0
  dtype: Dtype = jnp.float32
  scan_layers: bool = False
  remat: bool | str = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], key_mask: Bool[Array, 'b n'] | None, train: bool
  ) -> Float[Array, 'b n p']:
    x = to_strips(x, self.grid, self.window, mode='edge')
    if key_mask is not None:
      key_mask = to_strips(key_mask[:, :, None], self.grid, self.window, mode='constant')[:, :, 0]

    # A single window has nothing to be shifted against.
    shifts = padded_grid(self.grid, self.window)[0] > self.window[0]

    def make(name: str, index: int | None) -> nn.Module:
      shift = self.shift if shifts and (index is None or index % 2) else 0
      return WindowBlock(self.heads, self.window, shift, self.mlp_ratio, self.dtype, name=name)

    def call(block: nn.Module, x: Array, layer: Array) -> Array:
      return block(x, key_mask, layer % 2 == 1 if self.scan_layers else None, train)

    x, _, _ = layers.run_blocks(
      make, call, x, jnp.arange(self.depth), scan=self.scan_layers, remat=self.remat
    )
    x = layers.LayerNorm(dtype=self.dtype, name='norm')(from_strips(x, self.grid, self.window))
    return layers.Dense(self.pixels, self.dtype, name='pred')(x)
