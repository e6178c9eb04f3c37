"""A system that embeds audio: a model with its weights and its front-end, and the baselines.

A model is seen only as `embed(audio, audio_mask) -> (tokens [l, b, n, d], mask [b, n])` and the
sample rate of its front-end; log-mel statistics and random weights look the same from here.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.capabilities import Embeds, TakesStatistics
from research.errors import InputError, unknown
from research.features.frontend import Frontend
from research.inference import inputs, lengths
from research.nn import pooling

Embed = Callable[[Any, Array, Array], tuple[Array, Array]]

# Times of tokens are found by trying lengths, which takes time quadratic in this one, in seconds.
LONGEST_TIMED = 60.0


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder:
  """A system that embeds audio.

  Attributes:
    name: what tables call it.
    apply: (variables, audio [b, t], audio_mask [b, t]) -> (tokens [l, b, n, d], mask [b, n]).
    variables: its weights; {} for a system without any.
    frontend: its `features.Frontend`.
    weights: hash of the weights; '' where nothing is kept that would depend on it.
    kind: 'model', 'random' or 'logmel'.
    pool: the pooling that belongs to it and that options do not change; None for any.
    usual_pool: the pooling where options name none.
    max_seconds: longest clip that it takes in one piece; None for any.
  """

  name: str
  apply: Embed
  variables: Any
  frontend: Any
  weights: str
  kind: str = 'model'
  pool: str | None = None
  usual_pool: str = 'mean'
  max_seconds: float | None = None

  @property
  def takes_statistics(self) -> bool:
    """Whether it is normalised by the statistics of what it is used on."""
    return isinstance(self.apply, ModelApply) and isinstance(self.apply.model, TakesStatistics)

  def with_statistics(self, mean: float, std: float) -> 'Embedder':
    """The same system normalised by these; only where `takes_statistics`."""
    assert isinstance(self.apply, ModelApply)
    model = self.apply.model.with_statistics(mean, std)
    return dataclasses.replace(self, apply=ModelApply(model), frontend=model.frontend)

  def pooling(self, asked: str | None) -> str:
    """The pooling that is used where `asked` is asked for; None asks for the usual one."""
    return self.pool or asked or self.usual_pool

  @property
  def sample_rate(self) -> int:
    """Hz of the audio it takes."""
    return self.frontend.sample_rate

  def fingerprint(self) -> str:
    """Hash of weights and front-end: equal for equal embeddings."""
    return digest(self.kind, self.weights, self.frontend.to_dict())

  def num_layers(self) -> int:
    """l, the stem included."""
    return self._num_layers

  @functools.cached_property
  def _num_layers(self) -> int:
    samples = max(self.sample_rate, self.frontend.min_samples)
    shapes = (
      jax.ShapeDtypeStruct((1, samples), jnp.float32),
      jax.ShapeDtypeStruct((1, samples), jnp.bool_),
    )
    return jax.eval_shape(self.apply, self.variables, *shapes)[0].shape[0]

  def embed(
    self,
    audio: inputs.Audio | Sequence[inputs.Audio],
    sample_rate: float | None = None,
    *,
    layers: str | int = 'last',
    pool: str | None = None,
    batch_size: int = 16,
  ) -> np.ndarray | list[np.ndarray]:
    """Embeddings of one clip or many, of any length.

    Args:
      audio: samples in [-1, 1] ([t] for one clip, [b, t] for several), a path, or a list of either.
      sample_rate: of arrays, Hz; they are resampled to the front-end's. Files know theirs.
      layers: 'last', 'all', or one by number (0 is the stem, negative from the end).
      pool: over a clip's tokens, one of `pooling.NAMES`, or 'none' for every token; None for the
        usual one of the system: 'mean', or 'mean+max' for BYOL-A.
      batch_size: clips embedded at once, at most.

    Returns:
      float32. One clip: [k] (k = d, or 2 d for 'mean_std') or [n, d] (pool 'none'); several:
      [b, k], or a list of [n, d], in the order given. With layers='all' each has a leading layer
      axis per clip: [l, k], [b, l, k] ….

    Raises:
      InputError: a clip is too short for one frame (with both numbers), not finite, not readable,
        or an array comes without its sample rate.
    """
    pool = self.pooling(pool)
    check_pooling(pool)
    if layers == 'mean':
      raise unknown('choice of layers', layers, ('all', 'last', 'a number'))
    wanted = layer_indices(layers, self.num_layers())
    single, given = inputs.several(audio, sample_rate)
    clips = [
      inputs.samples_of(clip, sample_rate, self.frontend, i, self.max_seconds)
      for i, clip in enumerate(given)
    ]
    results: list[Any] = [None] * len(clips)
    order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
    for start in range(0, len(order), batch_size):
      rows = order[start : start + batch_size]
      size = lengths.few_rows(len(rows), batch_size)
      for row, value in zip(rows, self._batch([clips[i] for i in rows], size, wanted, pool)):
        results[row] = value if layers == 'all' else value[0]
    if single:
      return results[0]
    return np.stack(results) if pool != 'none' and results else results

  def _batch(
    self, clips: list[np.ndarray], size: int, layers: tuple[int, ...], pool: str
  ) -> Iterator[np.ndarray]:
    """[l, k] or [l, n, d] of each clip."""
    width = lengths.next_length(max(map(len, clips)), self.frontend.min_samples)
    audio, mask = inputs.padded(clips, size, width)
    how = (self.apply, layers, pool, self.bands_of(pool))
    values, real = map(np.asarray, embed_batch(*how, self.variables, audio, mask))
    for row in range(len(clips)):
      yield values[:, row] if pool != 'none' else values[:, row][:, real[row]]

  def bands_of(self, pool: str) -> int:
    """What `embed_batch` has to know of bands for a pooling; 1 where it pools none."""
    return self.bands() if pool in pooling.BAND_POOLS else 1

  def reached(self, samples: np.ndarray, width: int) -> np.ndarray:
    """How many tokens clips of `samples` [clips] have, in a batch padded to `width`.

    Only the token mask is computed: what it does not depend on is never run.
    """
    counts, samples = [], np.asarray(samples, np.int32)
    size = max(1, min(64, 16_000_000 // width))
    for start in range(0, len(samples), size):
      part = np.resize(samples[start : start + size], size)  # one shape; repeats are cut off again
      found = _count_tokens(self.apply, width, self.variables, jnp.asarray(part))
      counts.append(np.asarray(found)[: len(samples) - start])
    return np.concatenate(counts)

  def bands(self) -> int:
    """Tokens of one time: what a clip gains when it grows by a little."""
    low, hop = self.frontend.min_samples, self.frontend.hop_samples
    samples = max(self.sample_rate, low + hop)
    counts = self.reached(np.arange(low, samples + 1, hop), samples)
    gains = np.diff(counts)
    return int(gains[gains > 0].min()) if gains.any() else int(counts[0])

  def token_seconds(self, samples: int) -> np.ndarray:
    """When the audio of each token starts, seconds [n], in a batch padded to `samples`.

    A token starts with the last frame of the shortest clip that has it, whatever the model is.

    Raises:
      InputError: the batch is longer than LONGEST_TIMED.
    """
    if samples > LONGEST_TIMED * self.sample_rate:
      raise InputError(
        f'Clips of {samples / self.sample_rate:.0f} s are too long for the times of their tokens '
        f'(at most {LONGEST_TIMED:.0f} s): cut them with --window=30.'
      )
    low, hop = self.frontend.min_samples, self.frontend.hop_samples
    length = lambda place: np.minimum(low + np.asarray(place) * hop, samples)  # noqa: E731
    # Token counts rise with the length: halve every span of lengths whose ends differ.
    ends = np.array([0, -(-(samples - low) // hop)])
    known = dict(zip(ends.tolist(), self.reached(length(ends), samples).tolist()))
    while True:
      places = sorted(known)
      spans = itertools.pairwise(places)
      middles = [(a + b) // 2 for a, b in spans if b - a > 1 and known[a] != known[b]]
      if not middles:
        break
      known |= dict(zip(middles, self.reached(length(middles), samples).tolist()))
    counts = np.array([known[p] for p in places])
    frames = np.array([self.frontend.frames(int(length(p))) for p in places])
    start = frames[np.searchsorted(counts, np.arange(1, counts[-1] + 1))] - 1
    # The shortest clip may have several frames already, and several rows of tokens in them.
    rows = max(1, counts[0] // self.bands())
    start[: counts[0]] = np.arange(counts[0]) * rows // counts[0] * frames[0] // rows
    return start * hop / self.sample_rate


@dataclasses.dataclass(frozen=True)
class ModelApply:
  """`embed` of a module; equal for equal modules, so that their programs are compiled once."""

  model: Any

  def __call__(self, variables: Any, audio: Array, mask: Array) -> tuple[Array, Array]:
    return self.model.apply(variables, audio, mask, method='embed')


@dataclasses.dataclass(frozen=True)
class _LogMel:
  frontend: Any

  def __call__(self, variables: Any, audio: Array, mask: Array) -> tuple[Array, Array]:
    spectrogram, frame_mask = self.frontend(audio, mask)
    return jnp.where(frame_mask[..., None], spectrogram, 0.0)[None], frame_mask


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def embed_batch(
  apply: Embed,
  layers: tuple[int, ...],
  pool: str,
  bands: int,
  variables: Any,
  audio: Float[Array, 'b t'],
  mask: Bool[Array, 'b t'],
) -> tuple[Float[Array, 'l b *rest'], Bool[Array, 'b n']]:
  """Some layers pooled [l, b, k], or with pool 'none' their tokens [l, b, n, d], and the token
  mask. The one program that runs a model for its embeddings; `bands`: see `Embedder.bands_of`."""
  tokens, real = apply(variables, audio, mask)
  tokens = tokens[np.asarray(layers)].astype(jnp.float32)
  if pool in pooling.BAND_POOLS:
    tokens = pooling.bands(pool, tokens, real, bands)
  elif pool != 'none':
    tokens = pooling.POOLS[pool](tokens, real)
  return tokens, real


def check_pooling(pool: str) -> None:
  """Raises InputError where there is no such pooling."""
  if pool not in pooling.NAMES and pool != 'none':
    raise unknown('pooling', pool, (*pooling.NAMES, 'none'))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _count_tokens(apply: Embed, samples: int, variables: Any, lengths: Array) -> Array:
  mask = jnp.arange(samples) < lengths[:, None]
  return apply(variables, jnp.zeros(mask.shape), mask)[1].sum(axis=1)


def from_model(
  model: Any, variables: Mapping[str, Any], name: str, weights: str | None = None
) -> Embedder:
  """A Flax model that embeds (`capabilities.Embeds`).

  Args:
    model: the module.
    variables: its weights.
    name: what tables call it.
    weights: hash of the weights and of the arguments that matter; made here if None.
  """
  if not isinstance(model, Embeds):
    raise InputError(
      f'{type(model).__name__} gives no embeddings: it declares no frontend, EMBEDDING and `embed` '
      '(see capabilities.Embeds).'
    )
  # The arguments count: the same tensors read with other settings are other embeddings.
  if weights is None:
    weights = digest(repr(model), weights_hash(variables))
  return Embedder(
    name,
    ModelApply(model),
    variables,
    model.frontend,
    weights,
    usual_pool=model.EMBEDDING.pool,
    max_seconds=model.EMBEDDING.max_seconds,
  )


def random_init(model: Any, seed: int = 0) -> Embedder:
  """The same architecture with fresh weights, the floor that pre-training has to beat."""
  samples = max(model.frontend.sample_rate, model.frontend.min_samples)
  audio, mask = jnp.zeros((1, samples)), jnp.ones((1, samples), bool)
  rngs = {n: jax.random.fold_in(jax.random.key(seed), i) for i, n in enumerate(('params', 'mask'))}
  variables = jax.jit(lambda rngs: model.init(rngs, audio, mask, method='embed'))(rngs)
  fresh = from_model(model, jax.device_get(variables), 'random init')
  return dataclasses.replace(fresh, kind='random')


def log_mel(frontend: Any) -> Embedder:
  """Mean and standard deviation over time of the front-end's own bins: no weights at all.

  Beside a model of raw waveforms the bins are those of the Kaldi filter bank.
  """
  if frontend.name == 'waveform':
    frontend = Frontend.create('kaldi_fbank', sample_rate=frontend.sample_rate)
  return Embedder(
    'log-mel statistics', _LogMel(frontend), {}, frontend, 'none', 'logmel', 'mean_std'
  )


def mfcc() -> Embedder:
  """The same of 13 MFCC with two orders of deltas."""
  statistics = log_mel(Frontend.create('mfcc'))
  return dataclasses.replace(statistics, name='MFCC statistics')


def weights_hash(variables: Any) -> str:
  """Hash of every array's path, type, shape and bytes."""
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    array = np.ascontiguousarray(leaf)
    found.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'.encode())
    found.update(array.tobytes())
  return found.hexdigest()[:16]


def digest(*parts: Any) -> str:
  """Short hash of plain values."""
  text = json.dumps(parts, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def layer_indices(layers: str | int, count: int) -> tuple[int, ...]:
  """The layers that 'last', 'all', 'mean' or an index (negative from the end) asks for.

  Raises:
    InputError: not one of those, or no such layer.
  """
  if layers in ('all', 'mean'):
    return tuple(range(count))
  if layers == 'last':
    return (count - 1,)
  try:
    index = int(layers)
  except ValueError:
    raise unknown('choice of layers', layers, ('all', 'last', 'mean', f'0 … {count - 1}')) from None
  if not -count <= index < count:
    raise InputError(
      f'layers={index}: this model has layers 0 (stem) to {count - 1} (negative from the end), '
      "'last' and 'all'."
    )
  return (index % count,)
