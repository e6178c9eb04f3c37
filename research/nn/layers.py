"""The parts every transformer of the house is made of: norms, attention, MLP, drop path, blocks.

Parameters are float32; each layer computes in its `dtype`, with norm statistics and softmax in
float32. Attention kernels keep their head axis (`[d, 3, h, k]`, `[h, k, d]`) and are applied as one
product each, so a mesh of accelerators can shard heads without reshaping a sharded axis.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from research.errors import unknown
from research.nn.attention import attend
from research.nn.kernels import Dtype, add_bias, contract, gelu, layer_norm, settled
from research.nn.meshes import keep_rows

# What models compute in.
DTYPES = ('float32', 'bfloat16')
DropRate = float | Float[Array, '']
# What is recomputed in the backward pass, least first, see `run_blocks`.
Remat = bool | str
REMAT: tuple[Remat, ...] = (False, 'products', True)


# -- Initialisers ------------------------------------------------------------------------------


def uniform(limit: float) -> Callable[..., Array]:
  """Uniform in [-limit, limit)."""
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


def unit(key: Array, shape: tuple[int, ...]) -> Array:
  """Uniform in [0, 1), as an initialiser."""
  return jax.random.uniform(key, shape)


def xavier(fan_in: int, fan_out: int) -> Callable[..., Array]:
  """Xavier/Glorot uniform with explicit fans, for kernels that hold several matrices or heads."""
  return uniform(float(np.sqrt(6.0 / (fan_in + fan_out))))


# -- Activations and norms ---------------------------------------------------------------------


class LayerNorm(nn.Module):
  """Layer norm over the last axis: two-pass variance and statistics in float32 whatever comes in.

  Flax's own subtracts E[x]^2 from E[x^2] by default, which costs three digits on inputs with a
  mean.
  """

  epsilon: float = 1e-6
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*batch d']) -> Float[Array, '*batch d']:
    scale = self.param('scale', nn.initializers.ones_init(), (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros_init(), (x.shape[-1],))
    return layer_norm(x, scale, bias, self.epsilon, self.dtype)


class RMSNorm(nn.Module):
  """x / sqrt(mean x^2 + epsilon), times a scale (arXiv 1910.07467); statistics in float32."""

  epsilon: float = 1e-6
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*batch d']) -> Float[Array, '*batch d']:
    scale = self.param('scale', nn.initializers.ones_init(), (x.shape[-1],))
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
    return (wide.astype(self.dtype) * scale.astype(self.dtype)).astype(self.dtype)


def product(
  x: Float[Array, '*batch_and_inputs'],
  kernel: Float[Array, '*inputs_and_outputs'],
  n: int,
  dtype: Dtype,
  bias: Float[Array, '*outputs'] | None = None,
) -> Float[Array, '*batch_and_outputs']:
  """`contract` plus a bias, which `run_blocks` can keep for the backward pass."""
  y = contract(x, kernel, n, dtype)
  return checkpoint_name(y if bias is None else add_bias(y, bias), 'product')


class Dense(nn.Module):
  """`x @ kernel + bias` in `dtype`, Xavier-uniform kernel and zero bias unless told otherwise."""

  features: int
  dtype: Dtype = jnp.float32
  kernel_init: Callable[..., Array] | None = None
  bias_init: Callable[..., Array] = nn.initializers.zeros_init()
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, '*batch d']) -> Float[Array, '*batch e']:
    fans = x.shape[-1], self.features
    kernel = self.param('kernel', self.kernel_init or xavier(*fans), fans)
    if not self.use_bias:
      return product(x, kernel, 1, self.dtype)
    bias = self.param('bias', self.bias_init, (self.features,))
    return product(x, kernel, 1, self.dtype, bias)


class Linear(nn.Module):
  """`Dense` in float32, initialised as torch's Linear: kernel and bias uniform in +- d^-0.5."""

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, '*batch d']) -> Float[Array, '*batch e']:
    init = uniform(x.shape[-1] ** -0.5)
    kernel = self.param('kernel', init, (x.shape[-1], self.features))
    return product(x, kernel, 1, jnp.float32, self.param('bias', init, (self.features,)))


# -- Attention ---------------------------------------------------------------------------------


class HeadsIn(nn.Module):
  """One fused projection to queries, keys and values: kernel `[d, 3, h, k]`, bias `[3, h, k]`.

  Unless told otherwise it is initialised as the one fused matrix it is: Xavier fans (d, 3 d).
  """

  heads: int
  dtype: Dtype = jnp.float32
  kernel_init: Callable[..., Array] | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> tuple[Float[Array, 'b n h k'], ...]:
    d = x.shape[-1]
    shape = (3, self.heads, d // self.heads)
    kernel = self.param('kernel', self.kernel_init or xavier(d, 3 * d), (d, *shape))
    bias = self.param('bias', nn.initializers.zeros_init(), shape)
    qkv = product(x, kernel, 1, self.dtype, bias)
    # A split, whose derivative is one concatenation; that of slices is three padded sums.
    q, k, v = (part.squeeze(2) for part in jax.lax.split(qkv, (1, 1, 1), axis=2))
    return q, k, v


class HeadProjection(nn.Module):
  """A projection to heads of a size of their own: kernel `[d, h, k]`, bias `[h, k]`."""

  heads: int
  size: int
  use_bias: bool = True
  dtype: Dtype = jnp.float32
  kernel_init: Callable[..., Array] | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n h k']:
    d = x.shape[-1]
    shape = self.heads, self.size
    kernel = self.param(
      'kernel', self.kernel_init or xavier(d, self.heads * self.size), (d, *shape)
    )
    if not self.use_bias:
      return product(x, kernel, 1, self.dtype)
    bias = self.param('bias', nn.initializers.zeros_init(), shape)
    return product(x, kernel, 1, self.dtype, bias)


class HeadsOut(nn.Module):
  """Joins the heads back into a width, theirs if it is None: kernel `[h, k, d]`, bias `[d]`."""

  dtype: Dtype = jnp.float32
  kernel_init: Callable[..., Array] | None = None
  width: int | None = None
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, 'b n h k']) -> Float[Array, 'b n d']:
    heads, size = x.shape[-2:]
    d = self.width or heads * size
    kernel = self.param('kernel', self.kernel_init or xavier(heads * size, d), (heads, size, d))
    if not self.use_bias:
      return product(x, kernel, 2, self.dtype)
    bias = self.param('bias', nn.initializers.zeros_init(), (d,))
    return product(x, kernel, 2, self.dtype, bias)


class Attention(nn.Module):
  """Multi-head self-attention of encoders, scale k^-0.5; for decoders see `multihead`.

  `implementation`: see `attention.attend`. `key_mask` is True where a token may be attended to.
  """

  heads: int
  dtype: Dtype = jnp.float32
  implementation: str | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], key_mask: Bool[Array, 'b n'] | None = None
  ) -> Float[Array, 'b n d']:
    q, k, v = HeadsIn(self.heads, self.dtype, name='qkv')(x)
    y = attend(q, k, v, key_mask, self.implementation)
    return HeadsOut(self.dtype, name='proj')(y)


class Mlp(nn.Module):
  """Dense, exact GELU, Dense."""

  hidden: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    y = gelu(Dense(self.hidden, self.dtype, name='fc1')(x))
    return Dense(x.shape[-1], self.dtype, name='fc2')(y)


# -- Stochastic depth --------------------------------------------------------------------------


def drop_path(
  x: Float[Array, 'b n d'], rate: DropRate, u: Float[Array, 'b']
) -> Float[Array, 'b n d']:
  """Drops a residual branch per example: kept where floor(1 - rate + u) is 1, then over 1 -
  rate."""
  keep = 1.0 - jnp.asarray(rate, jnp.float32)
  scale = jnp.floor(keep + u) / keep
  return x * scale[:, None, None].astype(x.dtype)


class DropPath(nn.Module):
  """`drop_path` with draws from rng 'dropout', or with the given draws `u` in [0, 1)."""

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    rate: DropRate,
    train: bool,
    u: Float[Array, 'b'] | None = None,
  ) -> Float[Array, 'b n d']:
    if not train or (isinstance(rate, float) and rate == 0.0):
      return x
    if u is None:
      u = jax.random.uniform(self.make_rng('dropout'), (x.shape[0],))
    return drop_path(x, rate, u)


# -- Block -------------------------------------------------------------------------------------


class Block(nn.Module):
  """Pre-norm ViT block: x + attn(norm1(x)), then x + mlp(norm2(x)), each branch under drop path.

  The drop rate is the field `drop_path`, or the argument `rate` where one program runs every layer.
  """

  heads: int
  mlp_ratio: float = 4.0
  epsilon: float = 1e-6
  drop_path: float = 0.0
  dtype: Dtype = jnp.float32
  attention: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    key_mask: Bool[Array, 'b n'] | None = None,
    rate: Float[Array, ''] | None = None,
    u: Float[Array, '2 b'] | None = None,
    train: bool = False,
  ) -> Float[Array, 'b n d']:
    drop = self.drop_path if rate is None else rate
    u_attn, u_mlp = (None, None) if u is None else (u[0], u[1])
    y = LayerNorm(self.epsilon, self.dtype, name='norm1')(x)
    y = Attention(self.heads, self.dtype, self.attention, name='attn')(y, key_mask)
    x = x + DropPath(name='drop_attn')(y, drop, train, u_attn)
    y = LayerNorm(self.epsilon, self.dtype, name='norm2')(x)
    y = Mlp(int(x.shape[-1] * self.mlp_ratio), self.dtype, name='mlp')(y)
    return x + DropPath(name='drop_mlp')(y, drop, train, u_mlp)


# -- Layers in a row ---------------------------------------------------------------------------


def run_blocks(
  make: Callable[[str, int | None], nn.Module],
  call: Callable[..., Any],
  x: Float[Array, 'b n d'],
  layers: Any,
  *,
  scan: bool,
  remat: Remat,
  collect: bool = False,
  cache: Any = None,
) -> tuple[Float[Array, 'b n d'], Float[Array, 'l b n d'] | None, Any]:
  """Runs a row of equal layers, unrolled or as one scan, inside a compact method.

  Unrolled (fastest) the parameters are `blocks_0`, `blocks_1`, …; scanned (compiles once for all
  layers) they are `blocks` with a leading layer axis. `stack_blocks` turns one into the other.

  Args:
    make: (name, index or None for all at once) -> block module.
    call: (block, x, slice of `layers`) -> x; with a cache (block, x, slice of `layers`, the
      layer's cache) -> (x, its next cache).
    x: the input of the first layer.
    layers: pytree of arrays with a leading layer axis: what differs from layer to layer.
    scan: one scan instead of unrolled layers.
    remat: what the backward pass recomputes of a layer instead of keeping it: False nothing, True
      everything, 'products' all but matrix products and attention, which costs few FLOPs.
    collect: also return every layer's output.
    cache: what layers keep from call to call: a tuple of one tree a layer, or, scanned, one tree
      with a leading layer axis.

  Returns:
    x, with `collect` the outputs of all layers, and the next cache (None without one).

  Raises:
    InputError: no such `remat`.
  """
  if remat not in REMAT:
    raise unknown('remat', remat, [str(each) for each in REMAT])
  depth = jax.tree.leaves(layers)[0].shape[0]
  x = keep_rows(x)

  def once(block: nn.Module, x: Array, layer: Any, kept: Any) -> tuple[Array, Any]:
    if cache is None:
      return keep_rows(call(block, x, layer)), None
    x, kept = call(block, x, layer, kept)
    return keep_rows(x), kept

  step = once
  if remat:
    kept_names = jax.checkpoint_policies.save_only_these_names('product', 'attention')
    policy = kept_names if remat == 'products' else None
    step = nn.remat(once, prevent_cse=not scan, policy=policy)
  if scan:

    def body(block, x, layer, kept):
      x, kept = step(block, x, layer, kept)
      return x, (x if collect else None, kept)

    lifted = nn.scan(
      body,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      length=depth,
    )
    x, (outputs, cache) = lifted(make('blocks', None), x, layers, cache)
    return x, outputs, cache
  outputs, after = [], []
  for i in range(depth):
    layer = jax.tree.map(lambda a, i=i: a[i], layers)
    kept = None if cache is None else cache[i]
    x, kept = step(make(f'blocks_{i}', i), x, layer, kept)
    x = settled(x)
    outputs.append(x)
    after.append(kept)
  return x, (jnp.stack(outputs) if collect else None), (None if cache is None else tuple(after))


def stack_blocks(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters of unrolled layers (`blocks_0`, `blocks_1`, …) -> of scanned ones (`blocks`)."""
  tree = {k: stack_blocks(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
  rows = sorted((int(k[7:]), k) for k in tree if re.fullmatch(r'blocks_\d+', k))
  if not rows:
    return tree
  blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(tree[k] for _, k in rows))
  names = {k for _, k in rows}
  return {k: v for k, v in tree.items() if k not in names} | {'blocks': blocks}


def unstack_blocks(tree: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `stack_blocks`."""
  tree = {k: unstack_blocks(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
  if 'blocks' not in tree:
    return tree
  blocks = tree.pop('blocks')
  depth = jax.tree.leaves(blocks)[0].shape[0]
  return tree | {f'blocks_{i}': jax.tree.map(lambda a, i=i: a[i], blocks) for i in range(depth)}


# -- Counting updates --------------------------------------------------------------------------


def count_updates(module: nn.Module) -> nn.Variable:
  """The counter 'counters/updates' of a module; call it in setup."""
  return module.variable('counters', 'updates', lambda: jnp.zeros((), jnp.int32))


def next_update(module: nn.Module, updates: nn.Variable, train: bool) -> Int[Array, '']:
  """Updates done before this one; every training forward pass of the module counts one up."""
  done = jnp.asarray(updates.value)
  if train and not module.is_initializing() and module.is_mutable_collection('counters'):
    updates.value = done + 1
  return done
