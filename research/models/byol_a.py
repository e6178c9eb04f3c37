"""BYOL for Audio: two views of one clip, and a network that foretells what its average sees.

v1 (Niizumi et al. 2021, arXiv 2103.06695) with AudioNTT2020, v2 (2022, arXiv 2204.07402) with
AudioNTT2022. Upstream: nttcslab/byol-a, commit 3e65c92 (byol_a/, v2/byol_a2/), and lucidrains'
byol_pytorch at 2aa84ee. The average is the teacher of the training state.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.capabilities import Embedding, Example, audio_example
from research.errors import InputError, unknown
from research.features import views
from research.features.frontend import Frontend
from research.features.spectral import Array as AnyArray
from research.models.audio_ntt import AudioNTT, linear, pooled, side_by_side
from research.models.settings import by_size, check_choices, fill
from research.nn import layers
from research.nn.batch_norm import BatchNorm


class Size(NamedTuple):
  """Blocks of convolutions; hidden and output width of the layers behind them; whether the
  convolutions' output stands before theirs in the embedding; and what the recipe of the version
  draws: largest share of the past, gain of the fader."""

  hidden: int
  width: int
  blocks: int = 3
  stack: bool = False
  mix_ratio: float = 0.4
  fade_gain: float = 0.0
  frontend: str = 'byol_a_v1_librosa'


# byol_a/models.py and config.yaml; v2/byol_a2/models.py and config_v2.yaml; tiny is ours.
SIZES = {
  'tiny': Size(hidden=128, width=128),
  'v1_d512': Size(hidden=512, width=512),
  'v1_d1024': Size(hidden=1024, width=1024),
  'v1_d2048': Size(hidden=2048, width=2048),
  'v2': Size(
    hidden=2048,
    width=2048,
    blocks=2,
    stack=True,
    mix_ratio=0.2,
    fade_gain=1.0,
    frontend='byol_a_v2',
  ),
}
NORMS = ('running', 'frontend')
PADDINGS = ('both', 'end', 'repeat')


class Mlp(nn.Module):
  """Projector and predictor: linear, batch norm, ReLU, linear."""

  hidden: int
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b d'], train: bool) -> Float[Array, 'b e']:
    y = linear(self.hidden, x, self.dtype, 'fc1')
    y = nn.relu(BatchNorm(dtype=self.dtype, name='norm')(y, train))
    return linear(self.features, y, self.dtype, 'fc2').astype(jnp.float32)


# -- The model ---------------------------------------------------------------------------------


class ByolA(nn.Module):
  """BYOL-A in pre-training, and its encoder.

  Attributes:
    size: a key of SIZES; `blocks` … `fade_gain` replace single entries of it.
    frontend: settings of the audio front-end (`features.Frontend`) or the front-end itself.
    frames: of the log-mel in training: 0.95 s. Longer audio is cut, shorter padded with silence.
    norm: 'running' normalises by statistics of what training has seen, which the model keeps;
      'frontend' by the mean and deviation of the front-end.
    norm_clips: clips after which running statistics stay (upstream: twenty times the number of
      files); None for never.
    padding: silence at the 'end' of a short clip (v2) or on 'both' sides (v1); 'repeat' plays it
      again until the window is full (ours): how long a clip is then tells no clip apart.
    bank: clips that can be mixed in (upstream remembers 2048 inputs, two for a clip).
    crop_freq, crop_time, canvas: see `views.CropSettings`.
    noise_ratio: largest share of Gaussian noise in each view (in v2's code, not in its recipe).
    projection, projection_hidden: widths of projector and predictor; projection=0 is the encoder
      alone.
    predictor: False leaves it out, which is how to make it collapse.
    dtype: of the computation; parameters are float32.
  """

  size: str = 'v1_d2048'
  frontend: Any = None
  frames: int = 96
  blocks: int = by_size()
  hidden: int = by_size()
  width: int = by_size()
  stack: bool = by_size()
  mix_ratio: float = by_size()
  fade_gain: float = by_size()
  channels: int = 64
  norm: str = 'running'
  norm_clips: int | None = None
  padding: str = 'end'
  bank: int = 1024
  canvas: Sequence[float] = (1.0, 1.5)
  crop_freq: Sequence[float] = (0.6, 1.5)
  crop_time: Sequence[float] = (0.6, 1.5)
  noise_ratio: float = 0.0
  projection: int = 256
  projection_hidden: int = 4096
  predictor: bool = True
  dtype: str = 'float32'

  EMBEDDING: ClassVar[Embedding] = Embedding(pool='mean+max')
  FINETUNING: ClassVar[Mapping[str, Any]] = {}
  MIXES_ROWS: ClassVar[bool] = True  # batch norm, the bank, running statistics

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of byol_a', self.size, SIZES)
    table = SIZES[self.size]
    figures = table._asdict()
    del figures['frontend']
    fill(self, figures)
    if not isinstance(self.frontend, Frontend):
      given = {'name': table.frontend, **(self.frontend or {})}
      object.__setattr__(self, 'frontend', Frontend.from_dict(given))
    for name in ('canvas', 'crop_freq', 'crop_time'):
      object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
    known = dict(norm=NORMS, padding=PADDINGS, dtype=layers.DTYPES)
    check_choices('byol_a', self, known)
    self._check_ranges()
    least = 2**self.blocks
    if self.frames < least or self.frontend.num_features < least:
      raise InputError(
        f'byol_a got frames={self.frames} and {self.frontend.num_features} mel bins; {self.blocks} '
        f'blocks need {least} of each.'
      )
    if self.bank < 1:
      raise InputError(f'byol_a got bank={self.bank}; it must hold a clip at least.')
    if not self.projection and self.norm == 'running':
      raise InputError(
        "byol_a got projection=0 with norm='running': an encoder alone has no statistics of its "
        "own; take norm='frontend' and give the front-end mean and std."
      )
    super().__post_init__()

  def _check_ranges(self) -> None:
    for name in ('mix_ratio', 'noise_ratio'):
      if not 0 <= getattr(self, name) <= 1:
        raise InputError(f'byol_a got {name}={getattr(self, name)}; it is a fraction, 0 to 1.')
    for name, least in dict(
      fade_gain=0, projection=0, projection_hidden=1, channels=1, hidden=1, width=1, blocks=1
    ).items():
      if not getattr(self, name) >= least:
        raise InputError(f'byol_a got {name}={getattr(self, name)}; it must be {least} or more.')
    for name in ('crop_freq', 'crop_time'):
      pair = getattr(self, name)
      if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
        raise InputError(f'byol_a got {name}={pair}; it takes (least, most), both above 0.')
    if len(self.canvas) != 2 or min(self.canvas) < 1:
      raise InputError(
        f'byol_a got canvas={self.canvas}; it takes (height, width) relative to the picture, both '
        '1 or more.'
      )

  def example(self) -> Example:
    """A clip of one frame."""
    return audio_example(self.frontend)

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.encoder = AudioNTT(self.blocks, self.hidden, self.width, self.stack, self.channels, dtype)
    if not self.projection:
      return
    self.projector = Mlp(self.projection_hidden, self.projection, dtype)
    if self.predictor:
      self.predict = Mlp(self.projection_hidden, self.projection, dtype, name='predictor')
    if self.norm == 'running' and self._remembers('statistics'):
      self.statistics = self._statistics()

  # -- Memory ----------------------------------------------------------------------------------

  def _remembers(self, name: str) -> bool:
    """Whether there is memory: the teacher has none of its own, it sees the same views."""
    return self.has_variable('memory', name) or self.is_mutable_collection('memory')

  def _statistics(self) -> nn.Variable:
    return self.variable(
      'memory',
      'statistics',
      lambda: {'mean': jnp.zeros(()), 'square': jnp.ones(()), 'clips': jnp.zeros((), jnp.int32)},
    )

  # -- Pre-training ----------------------------------------------------------------------------

  @nn.compact
  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Two views of every clip through encoder, projector and predictor.

    Args:
      batch: 'audio' [b, t] and 'audio_mask' [b, t], or the 'views' [2, b, s, f] themselves,
        augmented and normalised. What is drawn can be given: 'draws' [b, 2, 8] in [0, 1), a view's
        share and choice of the past, height, width, first bin and first frame of the crop, and
        both ends of the fade (else from rng 'augment'); 'dropout_keep' [2, b, n, h].
      train: whether batch norm takes the statistics of the batch, dropout acts, and memory (the
        bank, the running statistics) goes on.

    Returns:
      'prediction', 'projection' [2, b, p] of both views; 'representation' [2, b, d], what is
      projected. 'embedding' [b, d]: of the first view, or, where the views are made here and not
      in training, of the clip as it is. 'to_teacher': the views, for the average of the network.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    x: Any = self._spectrogram(batch) if 'audio' in batch else None
    if not self.projection:
      return {'embedding': pooled(self.encoder(self._normalise(x), train=train)[0])}
    # Memory is there whatever this batch needs of it.
    bank = None
    if self._remembers('bank'):
      shape = (self.bank, self.frames, self.frontend.num_features)
      past = self.variable('memory', 'bank', jnp.zeros, shape)
      bank = past, self.variable('memory', 'seen', jnp.zeros, (), jnp.int32)
      if self.norm != 'running':
        self._statistics()
    if 'views' in batch:
      both = batch['views'].astype(jnp.float32)
    else:
      assert bank is not None
      both = self._views(x, batch, bank, train)

    # One view after the other: batch norm has the statistics of each by itself.
    keep = (None, None)
    if 'dropout_keep' in batch:
      keep = batch['dropout_keep'].astype(jnp.float32)
    found = []
    for view, kept in zip(both, keep):
      representation = pooled(self.encoder(view, train=train, keep=kept)[0])
      z = self.projector(representation, train)
      q = self.predict(z, train) if self.predictor else z
      found.append((representation, z, q))
    representation, projection, prediction = (jnp.stack(a) for a in zip(*found))
    embedding = representation[0]
    if not train and 'views' not in batch:
      embedding = pooled(self.encoder(self._normalise(x))[0])
    return {
      'prediction': prediction,
      'projection': projection,
      'representation': representation,
      'embedding': embedding,
      'to_teacher': {'views': both},
    }

  def _spectrogram(self, batch: Mapping[str, Any]) -> Float[Array, 'b s f']:
    """Log-mel of a training window; silence where the clip is shorter."""
    audio, mask = batch['audio'], batch['audio_mask']
    samples = self.frontend.samples(self.frames)
    extra = max(0, samples - audio.shape[1])
    audio = jnp.where(mask, audio, 0.0)[:, :samples]
    audio = jnp.pad(audio, ((0, 0), (0, extra)))
    length = jnp.minimum(mask.sum(axis=1), samples)
    if self.padding == 'both':
      audio = jax.vmap(jnp.roll)(audio, (samples - length) // 2)
    if self.padding == 'repeat':
      again = jnp.arange(samples) % jnp.maximum(length, 1)[:, None]
      audio = jnp.take_along_axis(audio, again, axis=1)
    raw, _ = self.frontend.raw(audio, jnp.ones(audio.shape, bool))
    return raw

  def _running(self) -> views.Running:
    s = self.statistics.value
    return views.Running(s['mean'], s['square'], s['clips'])

  def _normalise(self, x: Float[Array, 'b s f']) -> Float[Array, 'b s f']:
    """By the statistics as they are."""
    if self.norm == 'frontend':
      return self.frontend.normalise(x)
    mean, square, _ = self._running()
    return (x - mean) / jnp.maximum(jnp.sqrt(square), views.EPS)

  def _views(
    self,
    x: Float[Array, 'b s f'],
    batch: Mapping[str, Any],
    bank: tuple[nn.Variable, nn.Variable],
    train: bool,
  ) -> Float[Array, '2 b s f']:
    """Both views, normalised once more over all of them; memory goes on in training."""
    b, frames, bins = x.shape
    goes_on = train and self.is_mutable_collection('memory') and not self.is_initializing()
    if self.norm == 'running' and train:
      x, after, _ = views.running_normalise(x, self._running(), self.norm_clips)
      if goes_on:
        self.statistics.value = after._asdict()
    else:
      x = self._normalise(x)

    u = self._draws(batch, b)
    crop = views.CropSettings(*(tuple(x) for x in (self.canvas, self.crop_freq, self.crop_time)))  # type: ignore[arg-type]
    past, seen = bank
    memory = views.Bank(past.value, seen.value)
    mixed, memory = views.mix_with_past(x, memory, u[..., 0], u[..., 1], ratio=self.mix_ratio)
    if goes_on:
      past.value, seen.value = memory
    flat = mixed.reshape(2 * b, frames, bins)
    u = u.reshape(2 * b, 8)
    if self.noise_ratio:
      keys = jax.random.split(self.make_rng('augment'))
      noise = jax.random.normal(keys[0], flat.shape)
      share = jax.random.uniform(keys[1], (2 * b, 1, 1))
      flat = views.mix_noise(flat, share, noise, ratio=self.noise_ratio)
    boxes = views.crop_boxes(u[:, 2:4], u[:, 4:6], bins=bins, frames=frames, settings=crop)
    flat = views.resize_crop(flat, boxes, crop)
    if self.fade_gain:
      flat = views.linear_fade(flat, u[:, 6:8], gain=self.fade_gain)
    both = flat.reshape(b, 2, frames, bins).swapaxes(0, 1)
    return jax.lax.stop_gradient(views.normalise_batch(both))

  def _draws(self, batch: Mapping[str, Any], b: int) -> Float[Array, 'b 2 8']:
    if 'draws' in batch:
      return batch['draws']
    if not (self.has_rng('augment') or self.is_initializing()):
      raise InputError(
        "byol_a draws its views from rng 'augment', which was not given: pass rngs={'augment': "
        "key}, or 'draws' or 'views' in the batch."
      )
    key = self.make_rng('augment') if self.has_rng('augment') else jax.random.key(0)
    return jax.random.uniform(key, (b, 2, 8))

  # -- Embeddings ------------------------------------------------------------------------------

  def with_statistics(self, mean: float, std: float) -> 'ByolA':
    """The same model normalised by these, as published for what it is used on."""
    return self.clone(norm='frontend', frontend=self.frontend.replace(mean=mean, std=std))

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Tokens, one for 2^blocks frames, and their mask; a clip's embedding is maximum plus mean.

    A clip of fewer frames gets one token, of its frames and zeros behind them. Where the tokens are
    as wide as the features of every block (d = 2048, v2), these and the first linear layer are
    layers below them, as in upstream's AudioNTT2020Task6X.

    Raises:
      InputError: the audio is too short for one frame.
    """
    levels: list = []
    tokens, mask = self._tokens(audio, audio_mask, False, levels=levels)
    if any(x.shape[2] > tokens.shape[2] for x, _ in levels):
      return tokens[None], mask
    return side_by_side([*levels, (tokens, mask)], *tokens.shape[1:]), mask

  def hidden_states(
    self, batch: Mapping[str, Any], train: bool = False, layers: bool = False
  ) -> dict[str, Array]:
    """What a head sees, of clips of any length. Running statistics stay as pre-training left them.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]; 'dropout_keep' [b, n, h] may be given.
      train: batch norm takes the statistics of the batch, dropout acts.
      layers: there is one.

    Returns:
      'tokens' [b, n, d], 'frame_mask' [b, n], and 'layers' [1, b, n, d].
    """
    keep = batch.get('dropout_keep') if train else None
    tokens, mask = self._tokens(batch['audio'], batch['audio_mask'], train, keep)
    out = {'tokens': tokens, 'frame_mask': mask}
    return out | ({'layers': tokens[None]} if layers else {})

  def _tokens(
    self,
    audio: Float[AnyArray, 'b t'],
    audio_mask: Bool[AnyArray, 'b t'],
    train: bool,
    keep: Float[Array, 'b n h'] | None = None,
    levels: list | None = None,
  ) -> tuple[Float[Array, 'b n d'], Bool[Array, 'b n']]:
    """Tokens, zero where they are not real, and which are."""
    raw, real = self.frontend.raw(jnp.asarray(audio), jnp.asarray(audio_mask))
    least = 2**self.blocks
    extra = max(0, least - raw.shape[1])
    x = jnp.pad(self._normalise(raw), ((0, 0), (0, extra), (0, 0)))
    real = jnp.pad(real, ((0, 0), (0, extra)))
    tokens, mask = self.encoder(x, real, train, keep, levels)
    assert mask is not None
    return jnp.where(mask[:, :, None], tokens, 0.0), mask
