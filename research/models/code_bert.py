"""BERT over the codes of vq-wav2vec (arXiv 1910.05453, section 4): masked spans of frames are
predicted from the others.

A frozen vq-wav2vec inside turns audio into codes, which are input and target. Its weights are in
the collection 'frozen', not among the parameters: no gradient, decay or optimiser state touches
them. `config.init = dict(path=…, under='frozen/vq_wav2vec')` takes them from a trained model.

The official recipe writes every frame as one word "g0-g1" and trains fairseq's RoBERTa on a
dictionary of the words that occur (some 13,500 of 320 x 320). Here the groups stay apart: an
embedding a group, summed, and a softmax a group, whose log-probabilities add up. No dictionary has
to be collected, all 102,400 words have a code, and the head has 640 outputs; but given the context
the groups are predicted independently, and the released RoBERTa cannot be loaded. Nor are there
RoBERTa's words for beginning and end.
Letters: b batch, t samples, n frames, d width, l layers, g groups, k codes a group.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Embedding, Example, audio_example
from research.errors import InputError, unknown
from research.features.span_masks import span_mask
from research.models import waveform
from research.models.settings import argument_names, by_size, check_choices, fill
from research.models.wav2vec import Wav2Vec
from research.nn import kernels, layers, quantizers

AnyArray = jax.Array | np.ndarray
FROZEN = 'frozen/vq_wav2vec'
# What codes depend on and weights do not show.
HEARD = ('vq_type', 'activation', 'log_compression', 'combine_groups')


class Size(NamedTuple):
  """Transformer, and what makes its codes."""

  width: int
  depth: int
  heads: int
  hidden: int
  tokenizer: dict[str, Any]


SIZES = {
  'tiny': Size(  # ours
    width=192,
    depth=4,
    heads=3,
    hidden=768,
    tokenizer=dict(size='tiny', vq_type='kmeans', codebook_size=64),
  ),
  'base': Size(  # BERT base
    width=768, depth=12, heads=12, hidden=3072, tokenizer=dict(size='vq_kmeans')
  ),
}


class Trunk(nn.Module):
  """Summed embeddings [b, n, d] to context: learned positions, a norm, post-norm layers.

  Attributes:
    frames: that have a position of their own.
    others: see `waveform.Encoder`.
  """

  frames: int
  depth: int
  heads: int
  hidden: int
  dropout: waveform.Dropout = waveform.Dropout()
  dtype: Any = jnp.float32
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None
  pre_norm = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], real: Bool[Array, 'b n'], train: bool = False
  ) -> Float[Array, 'l b n d']:
    """What enters the first layer, and every layer's output."""
    table = self.param('positions', waveform.bert, (self.frames, x.shape[-1]))
    x = x + table[: x.shape[1]].astype(self.dtype)
    x = layers.LayerNorm(waveform.EPSILON, self.dtype, name='norm')(x)
    x = waveform.drop(self, x, self.dropout.residual, train)
    # A window of padding alone has nothing to attend to: it may look at itself.
    real = real | ~real.any(axis=1, keepdims=True)
    return waveform.run_transformer(self, x, real, train)


class CodeBert(nn.Module):
  """BERT over codes.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: `features.Waveform` or its settings.
    tokenizer: arguments of the frozen vq-wav2vec (`models/wav2vec.py`), a dict; kept as pairs.
    frames: number of learned positions; longer clips are encoded in windows of this length, one by
      one, as s3prl does (RoBERTa's number is 512; that of the released model is not published).
    mask_prob, mask_length: fraction of the frames that spans would cover if they did not overlap,
      and frames a span: spans of 10 start at 5 % of the frames.
    random_prob, keep_prob: fractions of the masked frames that get random codes, or keep theirs,
      instead of the mask's vector (fairseq's defaults for masked language models).
    dropout, attention_dropout: RoBERTa's.
  """

  EMBEDDING: ClassVar[Embedding] = Embedding(max_seconds=waveform.MAX_SECONDS)
  FINETUNING: ClassVar[Mapping[str, Any]] = {}

  size: str = 'base'
  frontend: Any = None
  tokenizer: Any = by_size()
  width: int = by_size()
  depth: int = by_size()
  heads: int = by_size()
  hidden: int = by_size()
  frames: int = 2048
  mask_prob: float = 0.5
  mask_length: int = 10
  random_prob: float = 0.1
  keep_prob: float = 0.1
  dropout: float = 0.1
  attention_dropout: float = 0.1
  dtype: str = 'float32'
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of code_bert', self.size, SIZES)
    fill(self, SIZES[self.size]._asdict())
    # Pairs, because a module's attributes are hashable; JSON has them as lists.
    given = sorted(dict(self.tokenizer).items())
    pairs = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in given)
    object.__setattr__(self, 'tokenizer', pairs)
    known = argument_names(Wav2Vec) - {'frontend'}
    for name, _ in pairs:
      if name not in known:
        raise unknown('argument of the tokenizer of code_bert', name, known)
    vq = self._vq()
    if vq.vq_type == 'none':
      raise InputError(
        f'code_bert got a tokenizer without codes ({dict(pairs)}): give it a vq_type, gumbel or '
        'kmeans, or the size vq_gumbel or vq_kmeans.'
      )
    object.__setattr__(self, 'frontend', vq.frontend)
    check_choices('code_bert', self, {'dtype': layers.DTYPES})
    if self.width % self.heads:
      raise InputError(
        f'code_bert got width={self.width} and heads={self.heads}; width must be a multiple of '
        'heads.'
      )
    super().__post_init__()

  def _vq(self) -> Wav2Vec:
    return Wav2Vec(**dict(self.tokenizer), frontend=self.frontend, parent=None)

  @property
  def borrowed(self) -> dict[str, dict[str, Any]]:
    """What weights for the frozen part must have been trained with: see `train/warm_start.py`."""
    vq = self._vq()
    return {FROZEN: {name: getattr(vq, name) for name in HEARD}}

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    vq = self._vq()

    def start():
      silence = jnp.zeros((1, self.frontend.min_samples))
      heard = silence, jnp.ones(silence.shape, bool)
      return vq.init(self.make_rng('params'), *heard, method='encode')

    collection, name = FROZEN.split('/')
    self.frozen = self.variable(collection, name, start)
    self.embedding = self.param(
      'embedding', waveform.bert, (vq.groups, vq.codebook_size, self.width)
    )
    rates = waveform.Dropout(self.dropout, self.attention_dropout)
    self.trunk = Trunk(
      self.frames, self.depth, self.heads, self.hidden, rates, dtype, self.scan_layers,
      self.remat, self.attention,
    )  # fmt: skip

  def example(self) -> Example:
    """A clip of one frame."""
    return audio_example(self.frontend)

  # -- Pre-training ----------------------------------------------------------------------------

  @nn.compact
  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Makes codes, masks spans, encodes, scores the codes.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]. Draws may be given, each [b, n or more, …]:
        'span_mask' bool, 'replace_draws' in [0, 1) and 'random_codes' int [b, n, g]; else they come
        from rng 'mask'.
      train: dropout acts. Masks are drawn in evaluation too.

    Returns:
      what `objectives.prediction.masked_codes` takes: 'code_logits' [b, n, g, k], 'codes'
      [b, n, g], 'span_mask' [b, n], 'code_perplexity' of the codes that are in use, and
      'min_code_perplexity', that of the group with the least; and 'frame_mask', 'layers'
      [l, b, n, d], 'embedding' [b, d]: mean of the real frames.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    codes, real = self._codes(batch['audio'], batch['audio_mask'])
    token = self.param('mask_token', waveform.bert, (self.width,))
    mask, x = self._masked(batch, codes, real, token)
    states = self._encode(x, real, train)

    # RoBERTa's head; its outputs are the embeddings.
    dtype = jnp.dtype(self.dtype)
    hidden = kernels.gelu(layers.Dense(self.width, dtype, waveform.bert, name='head')(states[-1]))
    hidden = layers.LayerNorm(waveform.EPSILON, dtype, name='head_norm')(hidden)
    bias = self.param('head_bias', nn.initializers.zeros_init(), self.embedding.shape[:2])
    logits = jnp.einsum('bnd,gkd->bngk', hidden, self.embedding.astype(hidden.dtype))
    weight = real.astype(jnp.float32) / jnp.maximum(real.sum().astype(jnp.float32), 1.0)
    usage = jnp.einsum('bngk,bn->gk', jax.nn.one_hot(codes, self.embedding.shape[1]), weight)
    each = quantizers.perplexities(usage)
    return {
      'code_logits': logits.astype(jnp.float32) + bias,
      'codes': codes,
      'span_mask': mask,
      'code_perplexity': each.sum(),
      'min_code_perplexity': each.min(),
      'frame_mask': real,
      'layers': states,
      'embedding': waveform.mean_frames(states[-1], real),
    }

  def _codes(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Int[Array, 'b n g'], Bool[Array, 'b n']]:
    """What the frozen model hears; it computes in its own dtype, whatever this one does."""
    frozen = jax.lax.stop_gradient(self.frozen.value)
    found: Any = self._vq().apply(frozen, audio, audio_mask, method='encode')
    return found

  def _embedded(self, codes: Int[Array, 'b n g']) -> Float[Array, 'b n d']:
    parts = [self.embedding[g][codes[..., g]] for g in range(codes.shape[-1])]
    return sum(parts[1:], parts[0]).astype(jnp.dtype(self.dtype))

  def _masked(
    self,
    batch: Mapping[str, Any],
    codes: Int[Array, 'b n g'],
    real: Bool[Array, 'b n'],
    token: Float[Array, 'd'],
  ):
    """Which frames are to be predicted, and embeddings that hide most of them."""
    b, n, _ = codes.shape
    names = ('span_mask', 'replace_draws', 'random_codes')
    draws = {name: batch[name][:, :n] for name in names if name in batch}
    if len(draws) < len(names):
      spans, replace, random = jax.random.split(waveform.draw_key(self, 'mask'), 3)
      drawn = dict(
        span_mask=span_mask(
          spans, real, prob=self.mask_prob, length=self.mask_length, min_masks=0,
          cut=True,
        ),
        replace_draws=jax.random.uniform(replace, (b, n)),
        random_codes=jax.random.randint(random, codes.shape, 0, self.embedding.shape[1]),
      )  # fmt: skip
      draws = drawn | draws
    mask, u = draws['span_mask'] & real, draws['replace_draws']
    shown = mask & (u >= 1.0 - self.keep_prob)
    random = mask & ~shown & (u >= 1.0 - self.keep_prob - self.random_prob)
    x = self._embedded(jnp.where(random[:, :, None], draws['random_codes'], codes))
    hidden = (mask & ~shown & ~random)[:, :, None]
    return mask, jnp.where(hidden, token.astype(x.dtype), x)

  def _encode(
    self, x: Float[Array, 'b n d'], real: Bool[Array, 'b n'], train: bool
  ) -> Float[Array, 'l b n d']:
    """Every layer's frames; what is longer than `frames` goes window by window."""
    b, n, d = x.shape
    if n <= self.frames:
      return self.trunk(x, real, train)
    windows = -(-n // self.frames)
    more = windows * self.frames - n
    x = jnp.pad(x, ((0, 0), (0, more), (0, 0))).reshape(b * windows, self.frames, d)
    seen = jnp.pad(real, ((0, 0), (0, more))).reshape(b * windows, self.frames)
    states = self.trunk(x, seen, train)
    return states.reshape(len(states), b, windows * self.frames, d)[:, :, :n]

  # -- Other views -----------------------------------------------------------------------------

  def hidden_states(
    self, batch: Mapping[str, Any], train: bool = False, layers: bool = True
  ) -> dict[str, Array]:
    """What a head sees: no frame is masked, dropout acts in training.

    Returns:
      'tokens' [b, n, d], 'frame_mask' [b, n], 'layers' [l, b, n, d].
    """
    del layers  # they come at no cost
    codes, real = self._codes(batch['audio'], batch['audio_mask'])
    states = self._encode(self._embedded(codes), real, train)
    return {'tokens': states[-1], 'frame_mask': real, 'layers': states}

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Every layer's frames, 10 ms apart: l = 0 is the input of the first layer. Raises InputError
    below one frame."""
    codes, real = self._codes(audio, audio_mask)
    states = self._encode(self._embedded(codes), real, False)
    return states.astype(jnp.float32), real
