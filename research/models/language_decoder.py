"""The trunk of causal language models: Qwen, Qwen2 and 2.5, OPT and GPT-2 as one with options.

Sources: Qwen (QwenLM/Qwen-Audio, modeling_qwen.py), Qwen2 (arXiv 2407.10671, modeling_qwen2.py of
transformers), OPT (2205.01068, modeling_opt.py). Padding may be on either side: positions count the
real tokens of a row. It takes embeddings, so that vectors of audio can be among those of tokens.
Letters: r rows, u tokens, p places, d width, h heads, k size of a head, l layers, v vocabulary.
"""

from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError, unknown
from research.nn import cache as caches
from research.nn import layers
from research.nn.kernels import Dtype, gelu, similarities
from research.nn.multihead import MultiHeadAttention, UseBias
from research.nn.positions import (
  LearnedPositions,
  Rotary,
  logn_scale,
  ntk_factor,
  ntk_frequencies,
)

NORMAL = nn.initializers.normal(0.02)
NORMS = {'rms': layers.RMSNorm, 'layer': layers.LayerNorm}
ACTIVATIONS: dict[str, Callable[..., Any]] = {
  'swiglu': nn.silu,  # of a gate, times a second projection
  'relu': nn.relu,
  'gelu': gelu,
  'tanh_gelu': lambda x: jax.nn.gelu(x, approximate=True),
}
_PLAIN: dict[str, Any] = dict(
  norm='layer', epsilon=1e-5, use_bias=UseBias(), mlp_bias=True, rotary=None, tied=True
)
# {kind: arguments of LanguageModel beside the sizes}
KINDS: dict[str, dict[str, Any]] = {
  'qwen2': dict(),
  'qwen': dict(epsilon=1e-5, dynamic_ntk=True, logn=True),
  'opt': dict(_PLAIN, mlp='relu', offset=2),
  'gpt2': dict(_PLAIN, mlp='tanh_gelu'),
}


class Mlp(nn.Module):
  """Dense, activation, Dense; of 'swiglu' the activation of a gate is multiplied by the first."""

  hidden: int
  activation: str
  use_bias: bool
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'r u d']) -> Float[Array, 'r u d']:
    act = ACTIVATIONS[self.activation]

    def dense(features: int, name: str) -> nn.Module:
      return layers.Dense(features, self.dtype, NORMAL, use_bias=self.use_bias, name=name)

    y = dense(self.hidden, 'fc1')(x)
    y = act(dense(self.hidden, 'gate')(x)) * y if self.activation == 'swiglu' else act(y)
    return dense(x.shape[-1], 'fc2')(y)


class Block(nn.Module):
  """x + attention, + MLP, each behind a norm; what `before` makes comes first.

  Attributes:
    attention: arguments of `MultiHeadAttention` beside the width.
    hidden, mlp, mlp_bias, norm, epsilon, dropout, before: see `LanguageModel`.
  """

  attention: Any
  hidden: int
  mlp: str
  mlp_bias: bool
  norm: str
  epsilon: float
  dropout: float = 0.0
  before: Callable[[str], nn.Module] | None = None
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'r u d'],
    real: Bool[Array, 'r u'] | None = None,
    cache: caches.Cache | None = None,
    how: Any = None,
    context: Any = None,
    own_context: Any = None,
    train: bool = False,
  ) -> tuple[Float[Array, 'r u d'], caches.Cache | None]:
    """(x, the next cache). `how`: positions, frequencies and query_scale of the attention."""
    if self.before is not None and context is not None:
      x = self.before('before')(x, context, own_context)
    drop = nn.Dropout(self.dropout, deterministic=not train)
    attend = MultiHeadAttention(
      x.shape[-1], causal=True, kernel_init=NORMAL, dtype=self.dtype, name='attn', **self.attention
    )
    y = NORMS[self.norm](self.epsilon, self.dtype, name='attn_norm')(x)
    y, cache = attend(y, real, cache=cache, **(how or {}))
    x = x + drop(y)
    y = NORMS[self.norm](self.epsilon, self.dtype, name='mlp_norm')(x)
    return x + drop(Mlp(self.hidden, self.mlp, self.mlp_bias, self.dtype, name='mlp')(y)), cache


@flax.struct.dataclass
class Kept:
  """What the model keeps of earlier tokens; `nn.cache.State` holds it as `caches`.

  Attributes:
    layers: caches, see `nn.cache.create_layers`.
    ntk: float32 [r], the factor of each row's prompt, where `dynamic_ntk`; else None.
  """

  layers: Any
  ntk: Any = None


class LanguageModel(nn.Module):
  """A causal language model.

  Attributes:
    vocabulary, width, depth, heads, hidden: sizes; `hidden` of one projection of the MLP.
    kv_heads: key and value heads, which divide `heads`; None for as many.
    head_dim: size of a head; None for width / heads.
    norm, epsilon: 'rms' or 'layer', and what it adds to the variance.
    mlp: a key of ACTIVATIONS.
    use_bias, mlp_bias: which projections have a bias.
    rotary: turns queries and keys; None for no turn.
    positions, offset: learned positions, and rows of their table before that of position 0 (OPT:
      2); 0 for none.
    trained_length: tokens beyond which `dynamic_ntk` and `logn` act, not in training.
    dynamic_ntk: the base of the turn grows with the prompt of a row, see `ntk_factor`.
    logn: queries grow with their position, see `logn_scale`.
    count_padding: positions count padding too, as Qwen's code does. Only `logn` shows it.
    tied: the output's weights are those of the embedding.
    dropout: rate of both branches in training.
    before: name -> a module for each layer, called before it with (x, context, its own slice of
      `layer_context`): gated cross attention (Flamingo). Without a context it is not called.
    before_every: layers i with i + 1 divisible by it have one.
    others: see `layers.run_blocks` and `attention.attend`.
  """

  vocabulary: int
  width: int
  depth: int
  heads: int
  hidden: int
  kv_heads: int | None = None
  head_dim: int | None = None
  norm: str = 'rms'
  epsilon: float = 1e-6
  mlp: str = 'swiglu'
  use_bias: UseBias = UseBias(out=False)
  mlp_bias: bool = False
  rotary: Rotary | None = Rotary()
  positions: int = 0
  offset: int = 0
  trained_length: int = 0
  dynamic_ntk: bool = False
  logn: bool = False
  count_padding: bool = False
  tied: bool = False
  dropout: float = 0.0
  before: Callable[[str], nn.Module] | None = None
  before_every: int = 1
  dtype: Dtype = jnp.float32
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  def __post_init__(self):
    for what, known in (('norm', NORMS), ('mlp', ACTIVATIONS)):
      if getattr(self, what) not in known:
        raise unknown(f'{what} of a language model', getattr(self, what), known)
    if (self.dynamic_ntk or self.logn) and self.trained_length < 2:
      raise InputError(
        f'A language model with dynamic_ntk or logn got trained_length={self.trained_length}: give '
        'the tokens of its training texts.'
      )
    if self.scan_layers and self.before is not None and self.before_every > 1:
      raise InputError(
        f'scan_layers needs equal layers, and before_every={self.before_every} makes them differ: '
        'leave out scan_layers.'
      )
    super().__post_init__()

  @property
  def size(self) -> int:
    """Of a head."""
    return self.head_dim or self.width // self.heads

  def setup(self):
    self.token_embedding = self.param('token_embedding', NORMAL, (self.vocabulary, self.width))

  def words(self, ids: Int[Array, 'r u']) -> Float[Array, 'r u d']:
    """Embeddings of tokens; ids outside of the vocabulary get its first or last one."""
    return jnp.take(self.token_embedding, ids, axis=0, mode='clip').astype(self.dtype)

  def start(self, rows: int, slots: int) -> Kept:
    """What is kept before the first token of rows that take up to `slots`, padding included."""
    made = caches.create_layers(
      self.depth, self.scan_layers, rows, slots, self.kv_heads or self.heads, self.size,
      jnp.dtype(self.dtype),
    )  # fmt: skip
    return Kept(made, jnp.ones(rows, jnp.float32) if self.dynamic_ntk else None)

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'r u d'],
    real: Bool[Array, 'r u'] | None = None,
    kept: Kept | None = None,
    at: Int[Array, 'r p'] | None = None,
    *,
    context: Any = None,
    layer_context: Any = None,
    train: bool = False,
    collect: bool = False,
  ) -> tuple[dict[str, Any], Kept | None]:
    """Logits behind tokens.

    Args:
      x: embeddings, of `words` or in their place.
      real: True for real tokens; None for all.
      kept: of the tokens before.
      at: places whose logits are wanted; None for all.
      context: what the modules `before` attend to, the same for all layers.
      layer_context: the same of each layer, with a leading axis of layers.
      train: dropout acts, `dynamic_ntk` and `logn` do not.
      collect: also 'embedded' [r, u, d], the input of the first layer, and 'layers' [l, r, u, d].

    Returns:
      {'logits' [r, u or p, v] float32, 'states' [r, u or p, d] behind the last norm}, and what is
      kept (None without `kept`).
    """
    first = None if kept is None else caches.first_cache(kept.layers)
    order = caches.token_positions(first, x.shape[1], real)
    x = x.astype(self.dtype)
    if self.positions:
      table = LearnedPositions(
        self.positions, self.width, self.offset, self.dtype, name='positions'
      )
      x = x + table(order)
    how, ntk = self._beyond(x, real, order, first, kept, train)
    heads = dict(
      heads=self.heads, kv_heads=self.kv_heads, head_dim=self.size, use_bias=self.use_bias,
      rotary=self.rotary, implementation=self.attention,
    )  # fmt: skip

    def make(name: str, index: int | None) -> nn.Module:
      own = self.before if index is None or (index + 1) % self.before_every == 0 else None
      return Block(
        heads, self.hidden, self.mlp, self.mlp_bias, self.norm, self.epsilon, self.dropout, own,
        self.dtype, name=name,
      )  # fmt: skip

    def call(block: nn.Module, x: Array, layer: Any, cache: Any = None) -> Any:
      x, after = block(x, real, cache, how, context, layer[1], train)
      return x if cache is None else (x, after)

    embedded = x
    x, outputs, after = layers.run_blocks(
      make, call, x, (jnp.arange(self.depth), layer_context), scan=self.scan_layers,
      remat=self.remat, collect=collect, cache=None if kept is None else kept.layers,
    )  # fmt: skip
    if at is not None:
      x = jnp.take_along_axis(x, at[:, :, None], axis=1)
    x = NORMS[self.norm](self.epsilon, self.dtype, name='norm')(x)
    if self.tied:
      logits = similarities(x, self.token_embedding, self.dtype)
    else:
      head = layers.Dense(self.vocabulary, self.dtype, NORMAL, use_bias=False, name='lm_head')
      logits = head(x).astype(jnp.float32)
    out: dict[str, Any] = {'logits': logits, 'states': x}
    if collect:
      out |= {'embedded': embedded, 'layers': outputs}
    return out, None if kept is None else Kept(after, ntk)

  def _beyond(self, x, real, order, first, kept, train):
    """Arguments of the attention by positions, and the factor of the prompts."""
    if self.count_padding:
      order = (0 if first is None else first.slots) + jnp.arange(x.shape[1], dtype=jnp.int32)[None]
    how: dict[str, Any] = {'positions': order} if self.rotary is not None else {}
    ntk = None if kept is None else kept.ntk
    if self.dynamic_ntk and not train and self.rotary is not None:
      count = jnp.full(len(x), x.shape[1]) if real is None else real.sum(axis=1)
      now = ntk_factor(count, self.trained_length)
      # Later tokens keep the factor of their prompt.
      ntk = now if first is None or kept is None else jnp.where(first.slots == 0, now, kept.ntk)
      how['frequencies'] = ntk_frequencies(self.rotary, self.size, ntk)
    if self.logn and not train:
      how['query_scale'] = logn_scale(order, self.trained_length)
    return how, ntk if kept is not None else None
