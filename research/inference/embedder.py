"""What evaluation sees of a system: `embed(audio, audio_mask)` and a front-end, and the baselines.

A model is seen only as `embed(audio, audio_mask) -> (tokens [l, b, n, d], mask [b, n])` and the
sample rate of its front-end; log-mel statistics and random weights look the same from here.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from research.capabilities import TakesStatistics
from research.errors import InputError, unknown
from research.features.frontend import Frontend

Embed = Callable[[Any, Array, Array], tuple[Array, Array]]

# Times of tokens are found by trying lengths, which takes time quadratic in this one, in seconds.
LONGEST_TIMED = 60.0


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder:
  """What evaluation sees of a system.

  Attributes:
    name: what tables call it.
    apply: (variables, audio [b, t], audio_mask [b, t]) -> (tokens [l, b, n, d], mask [b, n]).
    variables: its weights; {} for a system without any.
    frontend: its `features.Frontend`.
    weights: hash of the weights.
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
    samples = max(self.sample_rate, self.frontend.min_samples)
    shapes = (
      jax.ShapeDtypeStruct((1, samples), jnp.float32),
      jax.ShapeDtypeStruct((1, samples), jnp.bool_),
    )
    return jax.eval_shape(self.apply, self.variables, *shapes)[0].shape[0]

  def reached(self, lengths: np.ndarray, samples: int) -> np.ndarray:
    """How many tokens clips of so many samples have, in a batch padded to `samples`.

    Only the token mask is computed: what it does not depend on is never run.
    """
    counts, lengths = [], np.asarray(lengths, np.int32)
    size = max(1, min(64, 16_000_000 // samples))
    for start in range(0, len(lengths), size):
      part = np.resize(lengths[start : start + size], size)  # one shape; repeats are cut off again
      found = _count_tokens(self.apply, samples, self.variables, jnp.asarray(part))
      counts.append(np.asarray(found)[: len(lengths) - start])
    return np.concatenate(counts)

  def bands(self) -> int:
    """Tokens of one time: what a clip gains when it grows by a little."""
    low, hop = self.frontend.min_samples, self.frontend.hop_samples
    samples = max(self.sample_rate, low + hop)
    lengths = np.arange(low, samples + 1, hop)
    counts = self.reached(lengths, samples)
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
  # The arguments count: the same tensors read with other settings are other embeddings.
  weights = weights or digest(repr(model), weights_hash(variables))
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
  if getattr(frontend, 'kind', None) == 'waveform':
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
      f'layers={index}: this model has layers 0 (stem) to {count - 1}, or negative from the end.'
    )
  return (index % count,)
