"""Mel spectrograms of another voice from features: Taco2-AR of S3PRL-VC (arXiv 2110.06280), as
SUPERB-SG's voice conversion has it (s3prl downstream/a2o-vc-vcc2020): Tacotron 2's encoder and an
autoregressive decoder of LSTMs, one frame a step, without attention.

Letters: b batch, n tokens, i their width, m frames, f mel bins, d width, j layers of the prenet.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.errors import InputError
from research.models.waveform import drop
from research.nn import layers
from research.nn.batch_norm import BatchNorm
from research.nn.recurrent import LSTM

# Frames a token: 24000 Hz in steps of 256 samples, over 16000 Hz in steps of 320.
RATIO = 24000 / 256 * 320 / 16000


class Voice(nn.Module):
  """Tokens, repeated to the rate of frames, to mel frames.

  With targets, 'mel' [b, s, f] and 'mel_mask' [b, s] of the batch, every step sees the frame before
  its own (teacher forcing), and there are no more steps than targets; without, it sees what it
  gave. The prenet's dropout always acts, as published: by the batch's 'prenet_keep' [m, j, b, k],
  by rng 'dropout', or in evaluation without one by a fixed key.

  Attributes:
    bins: f.
    width: d, of encoder and decoder.
    channels: of the convolutions.
    convolutions: of the encoder.
    taps: of each, odd.
    prenet: width of its layers.
    prenet_layers: j.
    prenet_dropout: rate.
    cells: LSTMs of the decoder, each with a projection.
    cell_dropout: before a projection, in training.
    dropout: after a convolution, in training.
    ratio: frames a token.
    target_mean, target_scale: of every bin of the target voice's training frames, which the buffers
      of these names begin with; None for 0 and 1.
    masked: what lies behind a clip's end is hidden from convolutions and norms, so that it is the
      same alone and in a batch; s3prl's see it.
  """

  PARAMETERS: ClassVar[tuple[str, ...]] = (
    'input', *(f'conv_{i}' for i in range(8)), *(f'norm_{i}' for i in range(8)), 'blstm',
    *(f'prenet_{i}' for i in range(8)), *(f'cell_{i}' for i in range(8)),
    *(f'project_{i}' for i in range(8)), 'output',
  )  # fmt: skip
  TRAINING: ClassVar[tuple[str, ...]] = ('cell_dropout', 'dropout')
  encoder_args: ClassVar[Mapping[str, Any]] = {}

  bins: int = 80
  width: int = 1024
  channels: int = 512
  convolutions: int = 3
  taps: int = 5
  prenet: int = 256
  prenet_layers: int = 2
  prenet_dropout: float = 0.5
  cells: int = 2
  cell_dropout: float = 0.2
  dropout: float = 0.5
  ratio: float = RATIO
  target_mean: tuple[float, ...] | None = None
  target_scale: tuple[float, ...] | None = None
  masked: bool = True

  def __post_init__(self):
    for name in ('target_mean', 'target_scale'):
      given = getattr(self, name)
      if given is not None:
        object.__setattr__(self, name, tuple(given))  # JSON has lists
        if len(given) != self.bins:
          raise InputError(
            f'head voice got {len(given)} values as {name} and bins={self.bins}: give one a bin.'
          )
    if self.width % 2 or self.ratio <= 0 or self.taps % 2 == 0:
      raise InputError(
        f'head voice got width={self.width}, taps={self.taps} and ratio={self.ratio}: an even '
        'width, of two directions, odd taps, and a ratio above 0 are expected.'
      )
    super().__post_init__()

  def setup(self):
    uniform = layers.uniform(float(self.taps * self.channels) ** -0.5)
    self.input = layers.Linear(self.channels)
    shape = (self.taps, self.channels, self.channels)
    self.conv = [self.param(f'conv_{i}', uniform, shape) for i in range(self.convolutions)]
    self.norm = [BatchNorm() for _ in range(self.convolutions)]
    self.blstm = LSTM(self.width // 2, bidirectional=True)
    self.net = [layers.Linear(self.prenet, name=f'prenet_{i}') for i in range(self.prenet_layers)]
    self.cell = [LSTM(self.width) for _ in range(self.cells)]
    self.project = [layers.Linear(self.width) for _ in range(self.cells)]
    self.output = layers.Linear(self.bins)
    for name, field, usual in (('target_mean', 'mean', 0.0), ('target_scale', 'scale', 1.0)):
      given = getattr(self, name)
      first = np.full(self.bins, usual) if given is None else np.array(given)
      setattr(self, field, self.variable('buffers', name, jnp.asarray, first, jnp.float32))

  def __call__(
    self,
    tokens: Float[Array, 'b n i'],
    mask: Bool[Array, 'b n'],
    encoded: Mapping[str, Any],
    train: bool,
  ) -> dict[str, Array]:
    """'mel' [b, m, f] and its mask 'mel_frames' [b, m]; 'voice_encoder' [b, m, d]; 'target_mean',
    'target_scale' [f], by which objectives and the decoder normalise frames."""
    batch = encoded.get('batch', {})
    mean, scale = jnp.asarray(self.mean.value), jnp.asarray(self.scale.value)
    heard, real = self.encode(tokens, mask, train)
    targets = batch.get('mel')
    if targets is not None:
      heard, real = (x[:, : targets.shape[1]] for x in (heard, real))
      # Silence behind the end of a clip's targets is 0 before it is normalised, as in s3prl.
      known = jnp.where(jnp.asarray(batch['mel_mask'])[:, :, None], jnp.asarray(targets), 0.0)
      before = (known[:, : heard.shape[1] - 1] - mean) / scale
      given = jnp.pad(before, ((0, 0), (1, 0), (0, 0))).swapaxes(0, 1)
    else:
      given = None
    mel = self._decode(heard, given, batch.get('prenet_keep'), train)
    out = {'mel': mel, 'mel_frames': real, 'voice_encoder': heard}
    return out | {'target_mean': mean, 'target_scale': scale}

  def encode(
    self, tokens: Float[Array, 'b n i'], mask: Bool[Array, 'b n'], train: bool = False
  ) -> tuple[Float[Array, 'b m d'], Bool[Array, 'b m']]:
    """What every frame is made of, and which frames are real."""
    x = tokens.astype(jnp.float32)
    x = jnp.where(mask[:, :, None], x, 0.0) if self.masked else x
    x = resample(x, self.ratio)
    counts = jnp.floor(mask.sum(axis=1).astype(jnp.float32) * self.ratio).astype(jnp.int32)
    real = jnp.arange(x.shape[1]) < counts[:, None]
    x = self.input(x)
    side = self.taps // 2
    for kernel, norm in zip(self.conv, self.norm):
      x = jnp.where(real[:, :, None], x, 0.0) if self.masked else x
      x = jax.lax.conv_general_dilated(
        x, kernel, (1,), [(side, side)], dimension_numbers=('NWC', 'WIO', 'NWC')
      )
      x = jax.nn.relu(norm(x, train, real if self.masked else None))
      x = drop(self, x, self.dropout, train)
    return self.blstm(x, real)[0], real

  def _decode(self, heard: Array, given: Array | None, keep: Array | None, train: bool) -> Array:
    b, m, _ = heard.shape
    rates = self.prenet_dropout, self.cell_dropout if train else 0.0
    shapes = (m, self.prenet_layers, b, self.prenet), (m, self.cells, b, self.width)
    key, drawn = self._key(train)
    keys = jax.random.split(key, 2)
    kept = [_keep(k, shape, rate, drawn) for k, shape, rate in zip(keys, shapes, rates)]
    if keep is not None:
      kept[0] = jnp.asarray(keep)[:m].astype(jnp.float32) / (1.0 - self.prenet_dropout)

    def step(head: 'Voice', carry: Any, xs: Any) -> Any:
      heard, given, prenet, cells = xs
      last, states = carry
      y = last if given is None else given
      for layer, mask in zip(head.net, prenet):
        y = jax.nn.relu(layer(y)) * mask
      y, after = jnp.concatenate([heard, y], axis=-1), []
      for cell, project, state, mask in zip(head.cell, head.project, states, cells):
        h, state = cell.step(y, state)
        y = jnp.tanh(project(h * mask))
        after.append((y, state[1]))  # the projected output is what comes back
      mel = head.output(y)
      return ((mel - head.mean.value) / head.scale.value, tuple(after)), mel

    states = tuple(cell.initial(b) for cell in self.cell)
    scan = nn.scan(
      step, variable_broadcast=('params', 'buffers'), split_rngs={'params': False},
      in_axes=0, out_axes=0,
    )  # fmt: skip
    xs = heard.swapaxes(0, 1), given, *kept
    _, mel = scan(self, (jnp.zeros((b, self.bins)), states), xs)
    return mel.swapaxes(0, 1)

  def _key(self, train: bool) -> tuple[Array, bool]:
    """A key, and whether it is of rng 'dropout'."""
    known = self.has_rng('dropout') and not self.is_initializing()
    if train and not known and not self.is_initializing():
      raise InputError("head voice needs rng 'dropout' in training: pass rngs={'dropout': key}.")
    return (self.make_rng('dropout'), True) if known else (jax.random.key(0), False)


def resample(x: Float[Array, 'b n i'], ratio: float) -> Float[Array, 'b m i']:
  """The nearest frame before: frame j of floor(n * ratio) is frame floor(j / ratio)."""
  count = int(x.shape[1] * ratio)
  at = np.minimum((np.arange(count) / ratio).astype(np.int64), x.shape[1] - 1)
  return x[:, at]


def _keep(key: Array, shape: tuple[int, ...], rate: float, by_row: bool) -> Array:
  """Factors of a dropout, [m, layers, b, k].

  Where they are not of each row, all rows have the same, and a step has its own whatever the number
  of steps: a clip is the same alone and in a batch.
  """
  m, count, b, k = shape
  if rate == 0.0:
    return jnp.ones((m, count, 1, 1))
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(m))
  one = (count, b if by_row else 1, k)
  kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, one))(keys)
  return kept.astype(jnp.float32) / (1.0 - rate)
