"""WaveNet: audio one sample after the other (van den Oord et al. 2016, arXiv 1609.03499).

Three published networks are settings of one: ibab/tensorflow-wavenet 3c973c0, r9y9/wavenet_vocoder
a35fff7 and the decoder of magenta's NSynth 526d3eb; see `wavenet_parts.SIZES`. Letters: b batch, t
samples, s frames, f bins or channels of a condition, v outputs of the network.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.capabilities import Embedding, Example, Generation, audio_example
from research.errors import InputError, unknown
from research.features import mu_law
from research.features.spectral import Array as AnyArray
from research.features.waveform import Waveform
from research.models import wavenet_parts as parts
from research.models.settings import by_size, check_choices, fill, frozen
from research.models.wavenet_parts import SIZES, Kernel, Layer, Upsample
from research.nn import dilated as causal
from research.nn.layers import DTYPES

INPUTS = ('codes', 'wave', 'companded')
OUTPUTS = ('categorical', 'logistics')
LOCAL = ('mel', 'units', 'none')
UPSAMPLINGS = ('nearest', 'transposed', 'repeat')


class WaveNet(nn.Module):
  """A network that gives the distribution of every sample, given those before it.

  Attributes:
    size: of SIZES; the arguments below that are left out take its figures.
    frontend: sample rate, as dict(sample_rate=…); a frame of an embedding is 10 ms.
    layers, stacks: number of layers, and of times that dilations go 1, 2, 4, ….
    dilations: of the layers; by layers and stacks where left out.
    kernel_size: taps of a dilated convolution.
    residual_channels, gate_channels, skip_channels: widths; gates have two halves, tanh, sigmoid.
    input: `codes` (one-hot), `wave` (samples) or `companded` (codes scaled to [-1, 1)).
    output: `categorical` over mu-law codes, or mixtures of `logistics` over samples.
    mu_law: convention of codes, see `features.mu_law`.
    quantize_channels: number of codes.
    mixtures: components of a mixture.
    first_taps, first_bias: of the first convolution.
    use_bias: of all others.
    weight_norm: of all convolutions but the first one over conditions.
    scaled: residuals times sqrt(1 / 2), the sum of skips times sqrt(1 / layers), as r9y9's.
    skip_start: whether the skip connections begin with a product of the first convolution.
    head_local: whether the condition is added in the head too.
    shift: the network sees the samples before t at t, and predicts the first one too (NSynth);
      otherwise it sees those up to t and predicts the next one. Conditions differ by a sample.
    full_context: only samples behind a whole receptive field are learned (ibab).
    local: what conditions the samples: `mel` frames, `units`, or `none`.
    local_channels: f; width of the embedding of units.
    local_pad: frames of context on both sides of a clip, in the batch.
    local_units: number of units.
    upsample, scales, conv_in, upsample_bands: see `wavenet_parts.Upsample`.
    local_mean, local_scale: of every bin, or one for all: what is taken off and divided by.
    mel: settings of the spectrogram (`audio.log_mel`), which go with the weights.
    speakers: rows of the table of speakers; 0 for none.
    speaker_channels: its width.
    speaker_names: in the order of the table; empty where they are not known.
    gain, preemphasis: of audio before the network; undone behind it.
    dtype: of the products.
  """

  TRAINING: ClassVar[tuple[str, ...]] = ('full_context',)
  EMBEDDING: ClassVar[Embedding] = Embedding()
  GENERATOR: ClassVar[str] = 'sample_by_sample'

  size: str = 'ibab'
  frontend: Any = None
  layers: int = by_size()
  stacks: int = by_size()
  dilations: Any = None
  kernel_size: int = by_size()
  residual_channels: int = by_size()
  gate_channels: int = by_size()
  skip_channels: int = by_size()
  input: str = by_size()
  output: str = by_size()
  mu_law: str = by_size()
  quantize_channels: int = by_size()
  mixtures: int = by_size()
  first_taps: int = by_size()
  first_bias: bool = by_size()
  use_bias: bool = by_size()
  weight_norm: bool = by_size()
  scaled: bool = by_size()
  skip_start: bool = by_size()
  head_local: bool = by_size()
  shift: bool = by_size()
  full_context: bool = by_size()
  local: str | None = None
  local_channels: int = by_size()
  local_pad: int = by_size()
  local_units: int = 0
  upsample: str = by_size()
  scales: Any = by_size()
  conv_in: bool = by_size()
  upsample_bands: int = 1
  local_mean: Any = 0.0
  local_scale: Any = 1.0
  mel: Any = None
  speakers: int = 0
  speaker_channels: int = by_size()
  speaker_names: Any = ()
  gain: float = by_size()
  preemphasis: float = by_size()
  dtype: str = 'float32'

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of wavenet', self.size, SIZES)
    figures = SIZES[self.size]
    if self.dilations is not None and self.layers is None:
      object.__setattr__(self, 'layers', len(self.dilations))
    fill(self, figures._asdict())
    if self.local is None:
      object.__setattr__(self, 'local', 'mel' if self.local_channels else 'none')
    for name in ('scales', 'speaker_names', 'local_mean', 'local_scale', 'mel', 'dilations'):
      object.__setattr__(self, name, frozen(getattr(self, name)))
    if not isinstance(self.frontend, Waveform):
      given = dict(self.frontend or {})
      rate = given.get('sample_rate') or figures.sample_rate
      frame = max(rate // 100, 1) if isinstance(rate, int) else 1
      object.__setattr__(self, 'frontend', Waveform.of_stem(given, frame, frame, sample_rate=rate))
    self._check()
    if self.dilations is None:
      each = self.layers // self.stacks
      object.__setattr__(self, 'dilations', tuple(2 ** (i % each) for i in range(self.layers)))
    super().__post_init__()

  def _check(self) -> None:
    check_choices('wavenet', self, dict(
      input=INPUTS, output=OUTPUTS, local=LOCAL, upsample=UPSAMPLINGS, dtype=DTYPES,
      mu_law=mu_law.CONVENTIONS,
    ))  # fmt: skip
    mu_law.check(self.mu_law, self.quantize_channels)
    names = ('layers', 'stacks', 'kernel_size', 'residual_channels', 'gate_channels', 'first_taps')
    for name in (*names, 'skip_channels', 'mixtures'):
      if getattr(self, name) < 1:
        raise InputError(f'wavenet got {name}={getattr(self, name)}: give at least 1.')
    if self.kernel_size < 2 or self.gate_channels % 2 or self.upsample_bands % 2 == 0:
      raise InputError(
        f'wavenet got kernel_size={self.kernel_size}, gate_channels={self.gate_channels} and '
        f'upsample_bands={self.upsample_bands}: give at least 2 taps, an even number of gate '
        'channels (two halves), and an odd number of bands.'
      )
    known = len(self.dilations) if self.dilations is not None else self.layers
    if known != self.layers or (self.dilations is None and self.layers % self.stacks):
      raise InputError(
        f'wavenet got layers={self.layers}, stacks={self.stacks} and dilations='
        f'{self.dilations}: layers are a multiple of stacks, or one for each dilation.'
      )
    if self.output == 'logistics' and self.input != 'wave':
      raise InputError(
        f"wavenet got output='logistics' and input={self.input!r}: mixtures of logistics are over "
        "samples, take input='wave'."
      )
    if self.local != 'none' and (not self.local_channels or not self.scales):
      raise InputError(
        f'wavenet got local={self.local!r}, local_channels={self.local_channels} and scales='
        f'{self.scales}: a condition needs its width, and scales that make samples of its frames.'
      )
    if (self.local == 'units') != bool(self.local_units) or self.speakers < 0:
      raise InputError(
        f'wavenet got local={self.local!r}, local_units={self.local_units} and speakers='
        f"{self.speakers}: give local_units with local='units' alone, and at least 0 speakers."
      )
    if len(self.speaker_names) not in (0, self.speakers):
      raise InputError(
        f'wavenet got speakers={self.speakers} and {len(self.speaker_names)} speaker_names: '
        'expected a name for each, or none.'
      )
    for name in ('local_mean', 'local_scale'):
      given = getattr(self, name)
      if isinstance(given, tuple) and len(given) != self.local_channels:
        raise InputError(
          f'wavenet got {len(given)} values as {name} and local_channels={self.local_channels}: '
          'give one for each bin, or one for all.'
        )
    if self.mel and self.mel.get('hop', self.hop) != self.hop:
      raise InputError(
        f'wavenet got mel.hop={self.mel["hop"]} and scales={self.scales}, whose product is '
        f'{self.hop}: let them be equal.'
      )

  @property
  def hop(self) -> int:
    """Samples of a frame of the condition."""
    return int(np.prod(self.scales)) if self.scales else 1

  @property
  def receptive_field(self) -> int:
    """Samples before the predicted one that it depends on."""
    return (self.kernel_size - 1) * sum(self.dilations) + self.first_taps

  @property
  def outputs(self) -> int:
    """v."""
    return self.quantize_channels if self.output == 'categorical' else 3 * self.mixtures

  @property
  def NEEDS(self) -> dict[str, str]:
    """Fields that a batch must hold."""
    found = {}
    if self.speakers:
      found['speaker'] = (
        f'wavenet has speakers={self.speakers} and the config no field of them: set '
        "config.data.fields.speaker={'name': 'label', 'args': {'column': 'speaker'}}."
      )
    if self.local == 'mel':
      found['mel'] = (
        f'wavenet is conditioned on mel frames and the config has none: set config.data.fields.mel '
        f"to {{'name': 'mel', 'args': {{'hop': {self.hop}, 'context': {self.local_pad}, …}}}}."
      )
    if self.local == 'units':
      found['units'] = (
        'wavenet is conditioned on units and the config has none: set config.data.fields.units to '
        'a folder of units (launch.label_kmeans).'
      )
    return found

  @property
  def label_counts(self) -> Mapping[str, int]:
    """Speakers that have a row."""
    return {'speaker': self.speakers} if self.speakers else {}

  @property
  def generation(self) -> Generation:
    """What it can be asked for."""
    labels = {'speaker': self.speaker_names or self.speakers} if self.speakers else {}
    source = {'none': 'none', 'mel': 'audio', 'units': 'units'}[str(self.local)]
    return Generation(prompt=self.local == 'none', source=source, labels=labels)

  def example(self) -> Example:
    """One clip of one frame."""
    found = audio_example(self.frontend)
    frames = -(-self.frontend.min_samples // self.hop) + 2 * self.local_pad
    shape = jax.ShapeDtypeStruct
    if self.speakers:
      found['speaker'] = shape((1,), jnp.int32)
    if self.local == 'mel':
      found['mel'] = shape((1, frames, self.local_channels), jnp.float32)
      found['mel_mask'] = shape((1, frames), jnp.bool_)
    if self.local == 'units':
      found['units'] = shape((1, frames, 1), jnp.int32)
    return found

  def setup(self):
    r, g, k = self.residual_channels, self.gate_channels, self.skip_channels
    norm: Any = dict(use_bias=self.use_bias, weight_norm=self.weight_norm)
    plain: Any = dict(use_bias=False, weight_norm=self.weight_norm)
    every: Any = dict(layers=self.layers)
    inputs = self.quantize_channels if self.input == 'codes' else 1
    self.first = Kernel(self.first_taps, inputs, r, self.first_bias, self.weight_norm)
    self.dilated = Kernel(self.kernel_size, r, g, **norm, **every)
    self.out = Kernel(1, g // 2, r, **norm, **every)
    self.skip = Kernel(1, g // 2, k, **norm, **every)
    if self.local != 'none':
      f = self.local_channels
      # NSynth's have biases; r9y9's have none.
      self.local_in = Kernel(1, f, g, **(norm if self.head_local else plain), **every)
      self.upsampler = Upsample(
        self.upsample, self.scales, f, self.upsample_bands, self.local_pad, self.conv_in
      )
      if self.head_local:
        self.head_in = Kernel(1, f, k, **norm)
      if self.local == 'units':
        self.units = self.param(
          'unit_embedding', nn.initializers.normal(0.1), (self.local_units, f)
        )
    if self.speakers:
      e = self.speaker_channels
      self.table = self.param('speaker_embedding', nn.initializers.normal(0.1), (self.speakers, e))
      self.speaker_in = Kernel(1, e, g, **plain, **every)
    if self.skip_start:
      self.start_in = Kernel(1, r, k, **norm)
    self.head_0 = Kernel(1, k, k, **norm)
    self.head_1 = Kernel(1, k, self.outputs, **norm)

  def weights(self) -> dict[str, Any]:
    """All kernels, ready for products: what `wavenet_parts.run` takes."""
    kernel, first_bias = self.dilated()
    (out, out_bias), (skip, skip_bias) = self.out(), self.skip()
    local, more = self.local_in() if self.local != 'none' else (None, None)
    bias: Any = first_bias
    bias = bias if more is None else bias + more
    mix = jnp.concatenate([out[:, 0], skip[:, 0]], axis=-1)
    pair: Any = (out_bias, skip_bias)
    both = None if out_bias is None else jnp.concatenate(pair, axis=-1)
    kernel = kernel.reshape(self.layers, -1, self.gate_channels)
    found = [
      Layer(
        kernel[i],
        0.0 if bias is None else bias[i],
        mix[i],
        0.0 if both is None else both[i],
        None if local is None else local[i, 0],
      )
      for i in range(self.layers)
    ]
    return {
      'first': self.first(),
      'layers': found,
      'speaker': list(self.speaker_in()[0][:, 0]) if self.speakers else None,
      'skip_start': self.start_in() if self.skip_start else None,
      'head': (self.head_0(), self.head_1()),
      'head_local': self.head_in() if self.local != 'none' and self.head_local else None,
    }

  def emphasised(self, audio: Float[Array, 'b t']) -> Float[Array, 'b t']:
    """Audio as the network has it; `inference.generators` inverts it on the host."""
    x = audio * self.gain if self.gain != 1.0 else audio
    if self.preemphasis:
      x = x - self.preemphasis * jnp.pad(x[:, :-1], ((0, 0), (1, 0)))
    return jnp.clip(x, -1.0, 1.0)

  def encode_samples(self, x: Float[Array, 'b t']) -> Array:
    """Samples of the network as its inputs, and as its targets where those are codes."""
    return (
      x if self.output == 'logistics' else mu_law.encode(x, self.quantize_channels, self.mu_law)
    )

  def inputs_of(self, x: Any, codes: Any) -> Array:
    """Inputs of the network, from samples and their codes."""
    if self.input == 'codes':
      return codes
    if self.input == 'companded':
      half = self.quantize_channels // 2
      return (codes.astype(jnp.float32) - half) / half
    return x

  def silence(self, rows: int) -> Array:
    """The input that stands before the first sample."""
    code = jnp.full((rows,), mu_law.silence(self.quantize_channels, self.mu_law), jnp.int32)
    return self.inputs_of(jnp.zeros((rows,)), code)

  def speaker_vectors(self, batch: Mapping[str, Any]) -> Array | None:
    """[b, e] of the speakers of a batch; None where the model has none.

    Raises:
      InputError: the batch has none.
    """
    if not self.speakers:
      return None
    if 'speaker' not in batch:
      raise InputError(self.NEEDS['speaker'])
    return jnp.asarray(self.table)[jnp.clip(jnp.asarray(batch['speaker']), 0, self.speakers - 1)]

  def frames(self, batch: Mapping[str, Any]) -> tuple[Array | None, Array | None]:
    """Frames [b, s, f] of the condition of a batch, and how many of each row are real.

    Raises:
      InputError: the batch has none.
    """
    if self.local == 'none':
      return None, None
    if self.local not in batch:
      raise InputError(self.NEEDS[str(self.local)])
    if self.local == 'units':
      units = jnp.asarray(batch['units'])[:, :, 0]
      x = jnp.where((units >= 0)[:, :, None], jnp.asarray(self.units)[jnp.maximum(units, 0)], 0.0)
      return x, (units >= 0).sum(axis=1)
    x = (jnp.asarray(batch['mel']) - jnp.asarray(self.local_mean)) / jnp.asarray(self.local_scale)
    mask = batch.get('mel_mask')
    if mask is None:
      return x, None
    mask = jnp.asarray(mask)
    return jnp.where(mask[:, :, None], x, 0.0), mask.sum(axis=1)

  def upsampled(
    self, frames: Array, counts: Array | None = None, offset: Any = 0
  ) -> Float[Array, 'b t f']:
    """Frames with their context, at the rate of samples; see `wavenet_parts.Upsample`."""
    return self.upsampler(frames, counts, offset)

  def _local(self, batch: Mapping[str, Any], samples: int) -> Array | None:
    frames, counts = self.frames(batch)
    if frames is None:
      return None
    x = self.upsampler(frames, counts)
    if self.local == 'units' and x.shape[1] < samples:
      # Units end a window before the clip does: the last one holds on.
      x = jnp.pad(x, ((0, 0), (0, samples - x.shape[1]), (0, 0)), mode='edge')
    if x.shape[1] < samples:
      raise InputError(
        f'A batch of {samples} samples has {frames.shape[1]} frames of {self.local} with '
        f'{self.local_pad} of context on each side, enough for {x.shape[1]} samples: set '
        f'context={self.local_pad} and hop={self.hop} of the field.'
      )
    return x[:, :samples]

  def _run(self, weights: Any, x: Array, state: Any, **args: Any) -> Any:
    how = dict(dilations=self.dilations, scaled=self.scaled, dtype=jnp.dtype(self.dtype))
    return parts.run(weights, x, state, **how, **args)

  def network(
    self,
    x: AnyArray,
    local: Float[AnyArray, 'b t f'] | None = None,
    speakers: Float[AnyArray, 'b e'] | None = None,
    keep: bool = False,
  ) -> tuple[Float[Array, 'b t v'], list[tuple[Array, Array]]]:
    """Outputs behind each of t inputs, zeros before the first in every layer; and with `keep` the
    first convolution twice and the (residual, skip) outputs of every layer.

    Args:
      x: codes or samples [b, t], as `input` says.
      local: condition at the rate of samples, see `upsampled`.
      speakers: rows of the table, see `speaker_vectors`.
      keep: whether outputs of the layers are returned.
    """
    weights = parts.with_speakers(self.weights(), speakers)
    out, _, found = self._run(weights, jnp.asarray(x), None, local=local, keep=keep)
    return out, found

  def start(self, rows: int, dtype: str = 'float32') -> causal.Rings:
    """The state before the first input of N rows."""
    shapes = [(self.kernel_size, d, self.residual_channels) for d in self.dilations]
    made = causal.rings(rows, shapes, dtype)
    kind = jnp.int32 if self.input == 'codes' else jnp.float32
    one = jnp.zeros((self.first_taps - 1, rows, 1), kind)
    return causal.Rings((one, *made.inputs), made.position)

  def step(
    self,
    x: AnyArray,
    state: causal.Rings,
    real: Bool[AnyArray, 'b t'] | None = None,
    local: Float[AnyArray, 'b t f'] | None = None,
    speakers: Float[AnyArray, 'b e'] | None = None,
  ) -> tuple[Float[Array, 'b t v'], causal.Rings]:
    """Outputs behind each of t inputs that come next, one or several, and the state after them.

    Args:
      x: codes or samples [b, t].
      state: after the inputs before.
      real: False for padding on the left of rows that begin later; None for none.
      local, speakers: as in `network`.
    """
    weights = parts.with_speakers(self.weights(), speakers)
    out, state, _ = self._run(weights, jnp.asarray(x), state, local=local, real=real)
    return out, state

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """'logits' [b, t, v] with 'targets' [b, t] (-1 where none), or 'logistics' [b, t, v] with
    'samples' [b, t]; 'predicted' [b, t], True where there is a target; 'embedding' [b, d]."""
    del train
    mask = jnp.asarray(batch['audio_mask'])
    audio = jnp.where(mask, jnp.asarray(batch['audio']), 0.0)
    x = self.emphasised(audio)
    codes = self.encode_samples(x)
    inputs = self.inputs_of(x, codes)
    local = self._local(batch, audio.shape[1])
    speakers = self.speaker_vectors(batch)
    if self.shift:
      inputs = jnp.concatenate([self.silence(len(x))[:, None], inputs[:, :-1]], axis=1)
      targets, predicted = codes, mask
    else:
      targets = jnp.pad(codes[:, 1:], ((0, 0), (0, 1)))
      predicted = jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
    if self.full_context:
      known = self.receptive_field - (0 if self.shift else 1)
      predicted = predicted & (jnp.arange(x.shape[1]) >= known)[None]
    out, kept = self.network(inputs, local, speakers, keep=True)
    weight = mask[:, :, None].astype(jnp.float32)
    last = jnp.where(mask[:, :, None], kept[-1][0].astype(jnp.float32), 0.0)
    found = {
      'predicted': predicted,
      'embedding': last.sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1.0),
    }
    if self.output == 'categorical':
      return found | {'logits': out, 'targets': jnp.where(predicted, targets, -1)}
    return found | {'logistics': out, 'samples': targets}

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """The first convolution and the residual output of every layer, as means over 10 ms (as the
    paper has it for phones, section 3.4), without conditions; and which frames are real.

    Raises:
      InputError: less than one frame.
    """
    mask = jnp.asarray(audio_mask)
    x = self.emphasised(self.frontend(jnp.asarray(audio), mask))
    _, kept = self.network(self.inputs_of(x, self.encode_samples(x)), keep=True)
    frame = self.frontend.hop
    n = audio.shape[1] // frame
    real = mask[:, : n * frame].reshape(len(mask), n, frame).all(axis=-1)
    found = jnp.stack([y[:, : n * frame].astype(jnp.float32) for y, _ in kept])
    found = found.reshape(*found.shape[:2], n, frame, found.shape[-1]).mean(axis=3)
    return jnp.where(real[None, :, :, None], found, 0.0), real
