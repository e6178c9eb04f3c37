"""wav2vec (arXiv 1904.05862) and vq-wav2vec (1910.05453): the frames to come are told apart from
other frames of the clip.

Convolutions make a frame z of every 10 ms, in vq-wav2vec a codebook replaces it by its nearest
vectors, causal convolutions gather frames to context c, and linear maps of c predict what comes.
Figures are those of fairseq's models/wav2vec/wav2vec.py and examples/wav2vec/README.md.
Letters: b batch, t samples, n frames, c or d channels, s prediction steps, k distractors, g groups.
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
from research.features.waveform import Waveform
from research.models import waveform
from research.models.settings import by_size, check_choices, fill
from research.nn import layers, quantizers
from research.nn.convolutions import receptive_field
from research.nn.kernels import add_bias, contract

AnyArray = jax.Array | np.ndarray


class Size(NamedTuple):
  """A published size."""

  channels: int
  encoder_layers: int  # convolutions before the context
  kernels: tuple[int, ...]  # of the context's convolutions
  negatives: int = 10
  skip: bool = True
  log_compression: bool = False
  activation: str = 'relu'
  vq_type: str = 'none'


LARGE = tuple(range(2, 14))
SIZES = {
  'tiny': Size(channels=128, encoder_layers=6, kernels=(2, 3, 4, 5), log_compression=True),  # ours
  # Defaults of 2019.
  'base': Size(channels=512, encoder_layers=5, kernels=(3,) * 9, negatives=1, skip=False),
  'large': Size(channels=512, encoder_layers=7, kernels=LARGE, log_compression=True),
  'vq_gumbel': Size(
    channels=512, encoder_layers=8, kernels=LARGE, activation='gelu', vq_type='gumbel'
  ),
  'vq_kmeans': Size(
    channels=512, encoder_layers=8, kernels=LARGE, activation='gelu', vq_type='kmeans'
  ),
}
VQ_TYPES = ('none', 'gumbel', 'kmeans')


def stem_layers(channels: int, count: int) -> waveform.Stem:
  """`count` convolutions: five that see 465 samples, a frame every 160, then ones of kernel 1."""
  shapes = [(10, 5), (8, 4), *[(4, 2)] * 3, *[(1, 1)] * max(count - 5, 0)]
  return tuple((channels, kernel, stride) for kernel, stride in shapes[:count])


class Aggregator(nn.Module):
  """Causal convolutions in a row: frames [b, n, c] to context.

  Attributes:
    kernels: frames that each convolution sees: one and those before it.
    conv_bias: whether convolutions have a bias.
    zero_pad: zeros before the first frame; else copies of it.
    skip: adds a convolution's input to its output, times the root of `residual_scale`.
    activation: a key of `waveform.ACTIVATIONS`.
    dropout: between convolution and norm, in training.
  """

  kernels: tuple[int, ...]
  conv_bias: bool = True
  zero_pad: bool = False
  skip: bool = True
  residual_scale: float = 0.5
  activation: str = 'relu'
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n c'], counted: Bool[Array, 'b n'], train: bool = False
  ) -> Float[Array, 'l b n c']:
    """Output of every layer; norms count the frames that are `counted`."""
    x = x.astype(self.dtype)
    channels = x.shape[-1]
    scale = np.asarray(self.residual_scale**0.5, self.dtype)
    outputs = []
    for i, kernel in enumerate(self.kernels):
      edges = ((0, 0), (kernel - 1, 0), (0, 0))
      padded = jnp.pad(x, edges) if self.zero_pad else jnp.pad(x, edges, mode='edge')
      start = waveform.torch_linear(kernel * channels)
      how = (channels, kernel, 1), 'clip', self.conv_bias, self.dtype, self.activation, start
      y = waveform.ConvLayer(*how, self.dropout, name=f'conv_{i}')(padded, counted, train)
      x = (y + x) * scale if self.skip else y
      outputs.append(x)
    return jnp.stack(outputs)


class Predictor(nn.Module):
  """A linear map of the context for every step, and one bias for all: kernel `[c, s, c]`, which is
  fairseq's transposed convolution over a single frame."""

  steps: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, context: Float[Array, 'b n c']) -> Float[Array, 'b n s c']:
    channels = context.shape[-1]
    start = waveform.torch_linear(channels * self.steps)
    kernel = self.param('kernel', start, (channels, self.steps, channels))
    bias = self.param('bias', start, (channels,))
    return add_bias(contract(context, kernel, 1, self.dtype), bias)


class Wav2Vec(nn.Module):
  """wav2vec, and with a codebook vq-wav2vec.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: `features.Waveform` or its settings.
    channels: of all convolutions, and of the codebook's vectors side by side.
    encoder_layers: convolutions that make frames: 5, and ones of kernel 1.
    kernels: of the context's convolutions.
    skip, residual_scale, conv_bias, zero_pad: of the context, see `Aggregator`.
    log_compression: z = log(1 + |z|).
    activation: 'relu' or 'gelu', also of the Gumbel quantiser's head.
    steps: predictions of every context.
    offset: frames to the first predicted one; None: as many as the encoder sees (3).
    negatives: distractors of every frame, shared by all steps.
    published_negatives: fairseq's sampler to the letter: it avoids each frame's own place for draws
      in the order (frame, distractor) and then reads them as (distractor, frame), so that a frame
      may be its own distractor (1.3 to 2.1 % of draws at 50 frames).
    vq_type: 'none', 'gumbel' or 'kmeans'.
    groups, codebook_size, combine_groups, head_depth, gamma: of the quantiser: parts of a vector,
      codes a group, one codebook for all groups, layers that give the Gumbel logits, weight of the
      k-means commitment. The README's recipe combines groups; the released Gumbel model has
      34,145,408 parameters, which do not.
    temperature_start, temperature_end, temperature_decay: of the Gumbel softmax, by updates.
    dropout, input_dropout, context_dropout: in training: inside the context's layers and on
      predictions, on z before the context, on c. No published recipe has any.
    padding: 'masked' or 'published', see `models/waveform.py`; here every convolution has a norm
      over time, so a clip is padded as published only at a price.
  """

  EMBEDDING: ClassVar[Embedding] = Embedding(max_seconds=waveform.MAX_SECONDS)
  FINETUNING: ClassVar[Mapping[str, Any]] = {}

  size: str = 'large'
  frontend: Any = None
  channels: int = by_size()
  encoder_layers: int = by_size()
  kernels: tuple | list = by_size()
  skip: bool = by_size()
  residual_scale: float = 0.5
  conv_bias: bool = True
  zero_pad: bool = False
  log_compression: bool = by_size()
  activation: str = by_size()
  steps: int = 12
  offset: int | None = None
  negatives: int = by_size()
  published_negatives: bool = False
  vq_type: str = by_size()
  groups: int = 2
  codebook_size: int = 320
  combine_groups: bool = False
  head_depth: int = 2
  gamma: float = 0.25
  temperature_start: float = 2.0
  temperature_end: float = 0.5
  temperature_decay: float = 0.999995
  dropout: float = 0.0
  input_dropout: float = 0.0
  context_dropout: float = 0.0
  padding: str = 'masked'
  dtype: str = 'float32'

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of wav2vec', self.size, SIZES)
    fill(self, SIZES[self.size]._asdict())
    kernels = self.kernels if isinstance(self.kernels, tuple | list) else ()
    if not kernels or any(type(k) is not int or k < 1 for k in kernels):
      raise InputError(
        f'wav2vec got kernels={self.kernels!r}; give a list of whole numbers of at least 1, the '
        "frames that the context's convolutions see."
      )
    # JSON has lists; a module's attributes are hashable.
    object.__setattr__(self, 'kernels', tuple(kernels))
    choices = dict(
      vq_type=VQ_TYPES,
      activation=waveform.ACTIVATIONS,
      padding=waveform.PADDINGS,
      dtype=layers.DTYPES,
    )
    check_choices('wav2vec', self, choices)
    counts = dict(
      encoder_layers=(self.encoder_layers, 5), groups=(self.groups, 1),
      codebook_size=(self.codebook_size, 1), steps=(self.steps, 1), negatives=(self.negatives, 1),
      head_depth=(self.head_depth, 1),
      offset=(1 if self.offset is None else self.offset, 1),
    )  # fmt: skip
    for name, (value, least) in counts.items():
      if value < least:
        raise InputError(
          f'wav2vec got {name}={getattr(self, name)!r}; it must be at least {least}.'
        )
    if self.vq_type != 'none' and self.channels % self.groups:
      raise InputError(
        f'wav2vec got channels={self.channels} and groups={self.groups}; channels must be a '
        'multiple of groups.'
      )
    frontend = Waveform.of_stem(self.frontend, *receptive_field(self._stem))
    object.__setattr__(self, 'frontend', frontend)
    super().__post_init__()

  @property
  def _stem(self) -> waveform.Stem:
    return stem_layers(self.channels, self.encoder_layers)

  @property
  def depth(self) -> int:
    """Convolutions of the context."""
    return len(self.kernels)

  @property
  def codebooks(self) -> int:
    """Codebooks that there are: one a group, or one for all."""
    return 1 if self.combine_groups else self.groups

  @property
  def first_step(self) -> int:
    """Frames from a context to the first one that it predicts."""
    window, hop = receptive_field(self._stem)
    return -(-window // hop) if self.offset is None else self.offset

  @property
  def code_sizes(self) -> tuple[int, ...]:
    """Codes of every group; none without a quantiser."""
    return () if self.vq_type == 'none' else (self.codebook_size,) * self.groups

  def example(self) -> Example:
    """A clip of one frame."""
    return audio_example(self.frontend)

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.feature_extractor = waveform.FeatureExtractor(
      self._stem, 'clip', False, self.padding, 1.0, dtype, self.activation, torch_init=True
    )
    if self.vq_type == 'gumbel':
      self.quantizer: nn.Module = quantizers.GumbelQuantizer(
        self.groups, self.codebook_size, self.channels, jnp.float32, self.combine_groups,
        self.head_depth, waveform.ACTIVATIONS[self.activation],
      )  # fmt: skip
    elif self.vq_type == 'kmeans':
      self.quantizer = quantizers.KMeansQuantizer(
        self.groups, self.codebook_size, self.gamma, self.combine_groups
      )
    self.aggregator = Aggregator(
      tuple(self.kernels), self.conv_bias, self.zero_pad, self.skip, self.residual_scale,
      self.activation, self.dropout, dtype,
    )  # fmt: skip
    self.predictor = Predictor(self.steps, dtype)

  # -- Pre-training ----------------------------------------------------------------------------

  @nn.compact
  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Frames, context and predictions.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]. Draws may be given: 'negative_draws' int [b, n or
        more, k] below (real frames of the clip - 1), 'gumbel_noise' [b, n, g, codebook_size];
        else they come from rngs 'mask' and 'noise'.
      train: dropout, Gumbel noise and the update counter act.

    Returns:
      what `objectives.contrastive.wav2vec_contrastive` takes: 'predictions' [b, n, s, d] of every
      frame by the contexts before it, 'used' [b, n, s], 'targets' [b, n, d], 'negatives' [b, n, k];
      and 'features' z [b, n, d] before the quantiser, 'layers' [l, b, n, d] of the context,
      'frame_mask' [b, n], 'embedding' [b, d]: mean of the real contexts. With a quantiser
      'quantiser_loss', 'code_perplexity', 'min_code_perplexity', 'codes', 'best_codes' [b, n, g];
      Gumbel's 'code_logits', 'prob_perplexity', 'min_prob_perplexity', 'temperature'; k-means'
      'encoded' [b, n, d].
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    features, real = self._frames(batch['audio'], batch['audio_mask'], batch.get('clip_stats'))
    out: dict[str, Any] = {'features': features, 'frame_mask': real}

    # Codes instead of frames: what the context hears, and what is to be predicted.
    targets = features
    if self.vq_type != 'none':
      temperature = None
      if self.vq_type == 'gumbel':
        updates = layers.next_update(self, layers.count_updates(self), train)
        falling = self.temperature_start, self.temperature_end, self.temperature_decay
        temperature = quantizers.falling_temperature(updates, *falling)
      found = self._quantise(features, real, temperature, batch.get('gumbel_noise'), train)
      targets = found.vectors
      named = {
        'quantiser_loss': found.loss,
        'code_perplexity': found.code_perplexity,
        'min_code_perplexity': found.min_code_perplexity,
        'codes': found.codes,
        'best_codes': found.best,
        'code_logits': found.logits,
        'prob_perplexity': found.prob_perplexity,
        'min_prob_perplexity': found.min_prob_perplexity,
        'temperature': temperature,
        'encoded': found.encoded,
      }
      out |= {name: x for name, x in named.items() if x is not None}

    hidden = waveform.drop(self, targets, self.input_dropout, train)
    states = self.aggregator(hidden, self._counted(real), train)
    context = waveform.drop(self, states[-1], self.context_dropout, train)
    predictions, used = self._predict(context, real, train)
    return out | {
      'predictions': predictions,
      'used': used,
      'targets': targets,
      'negatives': self._negatives(batch, real),
      'layers': states,
      'embedding': waveform.mean_frames(states[-1], real),
    }

  def _frames(
    self,
    audio: Float[AnyArray, 'b t'],
    audio_mask: Bool[AnyArray, 'b t'],
    clip_stats: Float[AnyArray, 'b 2'] | None = None,
  ):
    """z, and which frames are real."""
    audio, audio_mask = jnp.asarray(audio), jnp.asarray(audio_mask)
    z, real = self.feature_extractor(self.frontend(audio, audio_mask, clip_stats), audio_mask)
    return (jnp.log1p(jnp.abs(z)) if self.log_compression else z), real

  def _counted(self, real: Bool[Array, 'b n']) -> Bool[Array, 'b n']:
    return jnp.ones_like(real) if self.padding == 'published' else real

  def _quantise(
    self,
    features: Float[Array, 'b n d'],
    real: Bool[Array, 'b n'],
    temperature: Float[Array, ''] | None = None,
    noise: Float[Array, 'b n g k'] | None = None,
    train: bool = False,
  ) -> quantizers.Quantized:
    features = features.astype(jnp.float32)
    if self.vq_type == 'kmeans':
      return self.quantizer(features, real, self._counted(real))
    return self.quantizer(features, real, 1.0 if temperature is None else temperature, noise, train)

  def _predict(self, context: Float[Array, 'b n d'], real: Bool[Array, 'b n'], train: bool):
    """Of every frame what the contexts `first_step`, `first_step` + 1, … before it predict."""
    made = waveform.drop(self, self.predictor(context), self.dropout, train)
    n = real.shape[1]
    late = [self.first_step + i for i in range(self.steps)]
    moved = [
      jnp.pad(made[:, :, i], ((0, 0), (after, 0), (0, 0)))[:, :n] for i, after in enumerate(late)
    ]
    used = jnp.arange(n)[:, None] >= jnp.asarray(late)
    return jnp.stack(moved, axis=2), real[:, :, None] & used

  def _negatives(self, batch: Mapping[str, Any], real: Bool[Array, 'b n']) -> Int[Array, 'b n k']:
    """Other real frames of the same clip."""
    drawn = waveform.draw_others(self, batch, real, self.negatives)
    if self.published_negatives:
      b, n = real.shape
      return drawn.reshape(b, -1, n).swapaxes(1, 2)
    return drawn

  # -- Other views -----------------------------------------------------------------------------

  def encode(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Int[Array, 'b n g'], Bool[Array, 'b n']]:
    """The codes of every frame, one a group, and which frames are real.

    Raises:
      InputError: the model has no codebook, or the audio is below one frame.
    """
    if self.vq_type == 'none':
      raise InputError("wav2vec has no codebook: set vq_type to 'gumbel' or 'kmeans'.")
    features, real = self._frames(audio, audio_mask)
    return self._quantise(features, real).best, real

  def hidden_states(
    self, batch: Mapping[str, Any], train: bool = False, layers: bool = True
  ) -> dict[str, Array]:
    """What a head sees: the context; codes, where there are any, are the most probable ones.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t].
      train: dropout acts.
      layers: they come at no cost.

    Returns:
      'tokens' [b, n, d], 'frame_mask' [b, n], 'layers' [l, b, n, d] as `embed`'s.
    """
    del layers
    features, real = self._frames(batch['audio'], batch['audio_mask'], batch.get('clip_stats'))
    quantised = features if self.vq_type == 'none' else self._quantise(features, real).vectors
    hidden = waveform.drop(self, quantised, self.input_dropout, train)
    states = self.aggregator(hidden, self._counted(real), train)
    tokens = jnp.concatenate([features[None].astype(jnp.float32), states.astype(jnp.float32)])
    context = waveform.drop(self, states[-1], self.context_dropout, train)
    return {'tokens': context, 'frame_mask': real, 'layers': tokens}

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Frames, 10 ms apart: l = 0 is z (of vq-wav2vec before it is quantised, as s3prl has it), then
    come the context's layers. The last one is c, which s3prl's users and SUPERB take. Raises
    InputError below one frame."""
    out = self.hidden_states({'audio': audio, 'audio_mask': audio_mask})
    return out['layers'], out['frame_mask']
