"""Parts of WaveNet: its sizes, kernels with and without weight norm, upsampling of conditions, and
the network as functions of arrays, which training, chunks and single samples share.

Letters: b rows, t samples, s frames, c channels of a condition, g gate channels, r residual
channels, k skip channels, l layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.nn import dilated
from research.nn.kernels import Dtype, contract
from research.nn.layers import xavier

Weights = Mapping[str, Any]


class Size(NamedTuple):
  """The figures of a published network; see `WaveNet` for what they are."""

  layers: int
  stacks: int
  kernel_size: int
  residual_channels: int
  gate_channels: int
  skip_channels: int
  sample_rate: int
  input: str = 'codes'
  output: str = 'categorical'
  mu_law: str = 'truncate'
  quantize_channels: int = 256
  mixtures: int = 10
  first_taps: int = 1
  first_bias: bool = True
  use_bias: bool = True
  weight_norm: bool = True
  scaled: bool = True
  skip_start: bool = False
  head_local: bool = False
  shift: bool = False
  full_context: bool = False
  local_channels: int = 0
  local_pad: int = 0
  upsample: str = 'repeat'
  scales: tuple[int, ...] = ()
  conv_in: bool = False
  speaker_channels: int = 0
  gain: float = 1.0
  preemphasis: float = 0.0


_IBAB = Size(
  layers=50, stacks=5, kernel_size=2, residual_channels=32, gate_channels=64, skip_channels=512,
  sample_rate=16_000, mu_law='round', first_taps=2, first_bias=False, weight_norm=False,
  scaled=False, full_context=True, speaker_channels=32,
)  # fmt: skip
_MOL = Size(
  layers=24, stacks=4, kernel_size=3, residual_channels=128, gate_channels=256, skip_channels=128,
  sample_rate=22_050, input='wave', output='logistics', local_channels=80, local_pad=2,
  upsample='nearest', scales=(4, 4, 4, 4), conv_in=True, gain=0.55, preemphasis=0.85,
)  # fmt: skip
_WIDE: dict[str, Any] = dict(
  residual_channels=512, gate_channels=512, skip_channels=256, gain=1.0, preemphasis=0.0
)
_MU_LAW: dict[str, Any] = dict(layers=30, stacks=3, input='codes', output='categorical')

# ibab/tensorflow-wavenet 3c973c0, wavenet_params.json (speakers: --gc_channels=32 of its README);
# r9y9/wavenet_vocoder a35fff7, egs/{mol,mulaw256}/conf; its older ones, 447e29d, are `_wide`;
# magenta 526d3eb, nsynth/wavenet/h512_bo16.py, the decoder. `laptop` and `tiny` are ours.
SIZES = {
  'ibab': _IBAB,
  'r9y9_mol': _MOL,
  'r9y9_mulaw': _MOL._replace(**_MU_LAW),
  'r9y9_mol_wide': _MOL._replace(**_WIDE),
  'r9y9_mulaw_wide': _MOL._replace(**_MU_LAW, **_WIDE),
  'nsynth_decoder': Size(
    layers=30, stacks=3, kernel_size=3, residual_channels=512, gate_channels=1024,
    skip_channels=256, sample_rate=16_000, input='companded', mu_law='floor', first_taps=3,
    weight_norm=False, scaled=False, skip_start=True, head_local=True, shift=True,
    local_channels=16, scales=(512,),
  ),
  'laptop': _IBAB._replace(
    layers=18, stacks=2, gate_channels=64, skip_channels=128, sample_rate=8000,
  ),
  'tiny': _IBAB._replace(
    layers=6, stacks=2, residual_channels=8, gate_channels=16, skip_channels=12, sample_rate=8000,
  ),
}  # fmt: skip


# -- Parameters --------------------------------------------------------------------------------


class Kernel(nn.Module):
  """The kernel [p, i, o] of a convolution and its bias [o] or None; or those of l layers in one
  array each, [l, p, i, o] and [l, o], as their random numbers take long to compile one by one.

  Under weight norm kernel = kernel_scale * v / |v|, the norm over taps and inputs of each output.
  As published it starts from N(0, 2 / (p i)) under weight norm, else Xavier-uniform.
  """

  taps: int
  inputs: int
  features: int
  use_bias: bool = True
  weight_norm: bool = False
  layers: int | None = None

  @nn.compact
  def __call__(self) -> tuple[Float[Array, '*l p i o'], Float[Array, '*l o'] | None]:
    lead = () if self.layers is None else (self.layers,)
    shape = (*lead, self.taps, self.inputs, self.features)
    if self.weight_norm:
      init = nn.initializers.normal(float(np.sqrt(2.0 / (self.taps * self.inputs))))
    else:
      init = xavier(self.taps * self.inputs, self.taps * self.features)
    # Variables of files are NumPy arrays.
    v = jnp.asarray(self.param('kernel', init, shape))
    if self.weight_norm:
      size = jnp.sqrt(jnp.square(v).sum((-3, -2)))
      # |v| where the network begins, so that the kernel begins as v.
      scale = self.param('kernel_scale', lambda key: size)
      v = v * (scale / size)[..., None, None, :]
    bias = None
    if self.use_bias:
      zeros = nn.initializers.zeros_init()
      bias = jnp.asarray(self.param('bias', zeros, (*lead, self.features)))
    return v, bias


class Smooth(nn.Module):
  """A kernel over bands and time, [p, f, 1, 1], that begins as a mean."""

  taps: int
  bands: int
  weight_norm: bool = True

  @nn.compact
  def __call__(self) -> Float[Array, 'p f 1 1']:
    shape = (self.taps, self.bands, 1, 1)
    init = nn.initializers.constant(1.0 / (self.taps * self.bands))
    v = jnp.asarray(self.param('kernel', init, shape))
    if not self.weight_norm:
      return v
    size = jnp.sqrt(jnp.square(v).sum((0, 1, 2)))
    return v * (self.param('kernel_scale', lambda key: size) / size)


class Upsample(nn.Module):
  """Frames of a condition to samples.

  `nearest` (r9y9): every stage repeats frames, then smooths over time and bands; `transposed`:
  every stage is a transposed convolution whose taps are its stride; `repeat` repeats.

  Attributes:
    how: `nearest`, `transposed` or `repeat`.
    scales: frames that each stage makes of one.
    bands: width of the kernels over bands, odd.
    pad: frames of context on each side: `conv_in` uses them up, or their samples are cut off.
    conv_in: whether a convolution over 2 pad + 1 frames comes first.
    weight_norm: of the smoothing kernels.
  """

  how: str
  scales: tuple[int, ...]
  channels: int
  bands: int = 1
  pad: int = 0
  conv_in: bool = False
  weight_norm: bool = True

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b s c'],
    counts: Int[Array, ' b'] | None,
    offset: Int[Array, ''] | int = 0,
  ) -> Float[Array, 'b t c']:
    """Frames with their context -> samples, (s - 2 pad) times the product of the scales.

    Args:
      x: frames; 0 behind the end of a clip.
      counts: real frames of each clip, context included; None for all.
      offset: frames of the clip before x, where x is a part of it; below 0 where x begins with
        frames that do not exist.
    """
    used = 2 * self.pad if self.conv_in else 0
    left = None if counts is None else jnp.maximum(counts - used, 0)

    def real(x: Array, scale: int) -> Array:
      if left is None:
        return x
      at = jnp.arange(x.shape[1]) + offset * scale
      mask = (at >= 0) & (at < left[:, None] * scale)
      return jnp.where(mask[:, :, None], x, 0.0)

    if self.conv_in:
      kernel, _ = Kernel(2 * self.pad + 1, self.channels, self.channels, False, name='conv_in')()
      dims = ('NWC', 'WIO', 'NWC')
      x = jax.lax.conv_general_dilated(x, kernel, (1,), 'VALID', dimension_numbers=dims)
    x, done = real(x, 1), 1
    for i, scale in enumerate(self.scales):
      done *= scale
      if self.how == 'transposed':
        x = self._transposed(x, scale, f'up_{i}')
      else:
        x = jnp.repeat(x, scale, axis=1)
      if self.how == 'nearest':
        kernel = Smooth(2 * scale + 1, self.bands, self.weight_norm, name=f'up_{i}')()
        side = (self.bands - 1) // 2
        x = jax.lax.conv_general_dilated(
          x[..., None], kernel, (1, 1), [(scale, scale), (side, side)],
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )[..., 0]  # fmt: skip
      x = real(x, done)
    cut = 0 if self.conv_in else self.pad * done
    return x[:, cut : x.shape[1] - cut]

  def _transposed(self, x: Array, scale: int, name: str) -> Array:
    kernel = Smooth(scale, self.bands, False, name=name)()[:, :, 0, 0] * scale
    side = (self.bands - 1) // 2
    wide = jnp.pad(x, ((0, 0), (0, 0), (side, side)))
    near = jnp.stack([wide[:, :, j : j + x.shape[2]] for j in range(self.bands)], axis=-1)
    y = jnp.einsum('bscf,pf->bspc', near, kernel)
    return y.reshape(x.shape[0], -1, x.shape[2])


# -- The network -------------------------------------------------------------------------------


class Layer(NamedTuple):
  """Kernels of one layer, ready for products.

  Attributes:
    kernel: [p r, g], of all taps; the first half of g goes through tanh, the second through a
      sigmoid.
    bias: [g] or, with what speakers add, [b, 1, g]; or 0.
    mix: [g / 2, r + k], to the residual and to the skip connection.
    mix_bias: [r + k].
    local: [c, g] or None.
  """

  kernel: Any
  bias: Any
  mix: Any
  mix_bias: Any
  local: Any


def first(
  weights: Weights, x: Array, ring: Array | None, position: Any, real: Array | None, dtype: Dtype
) -> tuple[Float[Array, 'b t r'], Array | None]:
  """The first convolution, over codes [b, t] (rows of a table stand for products with one-hot
  vectors) or over samples."""
  kernel, bias = weights['first']
  count = kernel.shape[0]
  codes = jnp.issubdtype(x.dtype, jnp.integer)
  y: Any = x[:, :, None]
  if codes:
    # A row of its own stands for no code: zeros.
    y = jnp.where(real[:, :, None], y + 1, 0) if real is not None else y + 1
  elif real is not None:
    y = jnp.where(real[:, :, None], y, 0.0)
  if ring is None:
    seen = dilated.causal(y, count, 1)
  else:
    seen, ring = dilated.taps(ring, position, y, count, 1)
  if codes:
    table = jnp.pad(kernel, ((0, 0), (1, 0), (0, 0))).astype(dtype)
    total: Any = sum(table[j][seen[..., j]] for j in range(count))
  else:
    total = contract(seen.astype(dtype), kernel.reshape(count, -1), 1, dtype)
  return (total if bias is None else total + bias.astype(dtype)), ring


def layer(
  own: Layer, x: Array, seen: Array, local: Array | None, scaled: bool, dtype: Dtype
) -> tuple[Float[Array, 'b t r'], Float[Array, 'b t k']]:
  """(residual output, skip output) of a layer.

  Args:
    own: its kernels.
    x: [b, t, r], its input.
    seen: [b, t, p r], what its taps see of it.
    local: [b, t, g], what conditions add; None for nothing.
    scaled: whether the residual output is times sqrt(1 / 2).
  """
  z = contract(seen, own.kernel, 1, dtype) + jnp.asarray(own.bias).astype(dtype)
  if local is not None:
    z = z + local
  a, b = jnp.split(z, 2, axis=-1)
  y = contract(jnp.tanh(a) * jax.nn.sigmoid(b), own.mix, 1, dtype)
  y = y + jnp.asarray(own.mix_bias).astype(dtype)
  r = x.shape[-1]
  out = x + y[..., :r]
  return (out * np.float32(np.sqrt(0.5)).astype(dtype) if scaled else out), y[..., r:]


def head(
  weights: Weights, skips: Array, local: Array | None, dtype: Dtype
) -> Float[Array, 'b t v']:
  """ReLU, product, ReLU, product: float32."""
  (one, bias), (two, last) = weights['head']
  y = contract(jax.nn.relu(skips), one[0], 1, dtype)
  y = y if bias is None else y + bias.astype(dtype)
  if local is not None and weights['head_local'] is not None:
    kernel, more = weights['head_local']
    y = y + contract(local.astype(dtype), kernel[0], 1, dtype)
    y = y if more is None else y + more.astype(dtype)
  y = contract(jax.nn.relu(y), two[0], 1, dtype).astype(jnp.float32)
  return y if last is None else y + last


def with_speakers(weights: Weights, speakers: Any) -> dict[str, Any]:
  """Weights whose biases hold what speakers add to every layer."""
  if speakers is None:
    return dict(weights)
  found = []
  for own, kernel in zip(weights['layers'], weights['speaker']):
    more = jnp.matmul(speakers, kernel, precision='highest')[:, None]
    found.append(own._replace(bias=own.bias + more))
  return dict(weights) | {'layers': found}


def run(
  weights: Weights,
  x: Array,
  state: dilated.Rings | None,
  *,
  dilations: Sequence[int],
  scaled: bool,
  dtype: Dtype,
  local: Float[Array, 'b t c'] | None = None,
  projected: Float[Array, 'b t lg'] | None = None,
  real: Bool[Array, 'b t'] | None = None,
  keep: bool = False,
) -> tuple[Float[Array, 'b t v'], dilated.Rings | None, list[tuple[Array, Array]]]:
  """The network over t inputs.

  Args:
    weights: of `WaveNet.weights`, with speakers.
    x: [b, t], codes (int) or samples.
    state: rings after the inputs before; None: these are the first, and no state is made.
    dilations: of the layers.
    scaled: residuals times sqrt(1 / 2), the sum of skips times sqrt(1 / l).
    local: condition of every input.
    projected: it, projected for all layers at once (`project`); instead of `local` in the layers.
    real: False where there is no input: it stands for none, in every layer.
    keep: whether outputs of the layers are returned.

  Returns:
    outputs, the rings after them, and (residual, skip) outputs of every layer.
  """
  before: Any = None if state is None else iter(state.inputs)
  position: Any = None if state is None else state.position
  y, ring = first(weights, x, None if before is None else next(before), position, real, dtype)
  after = [ring]
  layers = weights['layers']
  p = layers[0].kernel.shape[0] // y.shape[-1]
  g = layers[0].kernel.shape[-1]
  start = weights['skip_start']
  skips: Any = (
    None if start is None else contract(y, start[0][0], 1, dtype) + start[1].astype(dtype)
  )
  found = [(y, y)] if keep else []
  for i, (own, d) in enumerate(zip(layers, dilations)):
    if real is not None:
      y = jnp.where(real[:, :, None], y, jnp.zeros((), y.dtype))
    if before is None:
      seen = dilated.causal(y, p, d)
    else:
      seen, ring = dilated.taps(next(before), position, y, p, d)
      after.append(ring)
    more = None
    if projected is not None:
      more = projected[..., i * g : (i + 1) * g]
    elif local is not None:
      more = contract(local.astype(dtype), own.local, 1, dtype)
    y, skip = layer(own, y, seen, more, scaled, dtype)
    skips = skip if skips is None else skips + skip
    if keep:
      found.append((y, skip))
  if scaled:
    skips = skips * np.float32(np.sqrt(1.0 / len(layers))).astype(dtype)
  out = head(weights, skips, local, dtype)
  if state is not None:
    state = dilated.Rings(tuple(after), state.position + x.shape[1])
  return out, state, found


def project(weights: Weights, local: Float[Array, '*b c'], dtype: Dtype) -> Float[Array, '*b lg']:
  """What a condition adds to every layer, in one product."""
  kernel = jnp.concatenate([own.local for own in weights['layers']], axis=-1)
  return contract(local.astype(dtype), kernel, 1, dtype)
