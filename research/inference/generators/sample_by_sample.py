"""Audio of a WaveNet, one sample after the other: rings of inputs under `lax.scan`.

Compiled chunks of a fixed number of samples follow each other, so memory does not grow with the
length. Weights are put together once: weight norm, all taps of a layer, its two outputs, and what a
speaker adds. What frames add to all layers is one product for a block of samples. Draws of a sample
come from the seed of its row and its position alone. Letters: b rows, t samples, s frames.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import signal

from research.audio.log_mel import LogMel
from research.errors import InputError
from research.features import mu_law
from research.inference import generators
from research.inference.generators import Report, Request
from research.models import wavenet_parts as parts

# Samples of a compiled chunk, and of a block whose conditions are projected at once.
CHUNK, BLOCK = 2048, 64
# Frames on both sides of a chunk that smoothing needs: stages of 2 scale + 1 taps see 4 / 3 frames.
MARGIN = 2
# Draws stay this far from 0 and 1, as wavenet_vocoder's.
EDGE = 1e-5


class Generator:
  """Audio of a WaveNet.

  from research import weights
  loaded = weights.load('runs/wavenet')
  audio, = Generator(loaded.model, loaded.variables)([Request(samples=16_000)])
  """

  PARTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

  def __init__(
    self,
    model: Any,
    variables: Any,
    *,
    temperature: float = 1.0,
    batch_size: int = 16,
    fold_seconds: float = 0.0,
    overlap_seconds: float = 0.05,
  ):
    """Args:
      model: a `models.wavenet.WaveNet`.
      variables: its weights.
      temperature: logits, and noise of logistics, are divided and multiplied by it; 0 takes the
        likeliest.
      batch_size: rows that are generated at once.
      fold_seconds: sources that are longer are cut into folds, which are generated side by side; 0
        for no folds.
      overlap_seconds: of neighbouring folds, which fade into each other.

    Raises:
      InputError: options that cannot be.
    """
    if temperature < 0 or batch_size < 1 or fold_seconds < 0 or overlap_seconds < 0:
      raise InputError(
        f'temperature={temperature}, batch_size={batch_size}, fold_seconds={fold_seconds} and '
        f'overlap_seconds={overlap_seconds} were given: nothing may be below 0, and a batch has at '
        'least one row.'
      )
    self.model, self.variables, self.size = model, variables, batch_size
    self.generation = model.generation
    self.temperature = float(temperature)
    rate, hop = model.frontend.sample_rate, model.hop
    self.fold, self.overlap = (round(x * rate / hop) for x in (fold_seconds, overlap_seconds))
    if self.fold and not 0 < self.overlap < self.fold:
      raise InputError(
        f'Folds of {fold_seconds:g} s that share {overlap_seconds:g} s cannot be: the overlap is '
        'above 0 and below the fold.'
      )
    self._plain = jax.jit(functools.partial(model.apply, method='weights'))(variables)

  @functools.cached_property
  def spectrogram(self) -> LogMel:
    """What the frames of a source are.

    Raises:
      InputError: the weights do not say.
    """
    if not self.model.mel:
      raise InputError(
        'The weights do not say which spectrogram they are conditioned on: give mel={…} with '
        'sample_rate, n_fft, hop, bands, lowest and highest, as published.'
      )
    return LogMel(**{'sample_rate': self.model.frontend.sample_rate, **self.model.mel})

  def __call__(
    self, requests: Sequence[Request], report: Report | None = None
  ) -> list[Float[np.ndarray, ' t']]:
    """Audio of each request, a prompt included.

    Args:
      requests: what is asked for.
      report: called with the number of samples that were made.

    Raises:
      InputError: what the model cannot be asked for.
    """
    generators.check(self.generation, requests)
    return self.made(requests, report)

  def made(
    self, requests: Sequence[Request], report: Report | None = None
  ) -> list[Float[np.ndarray, ' t']]:
    """Audio of requests that were checked, or that have frames of their own."""
    rows = [row for i, request in enumerate(requests) for row in self._rows(i, request)]
    # Rows of like length are together, as all go on until the longest has ended.
    order = sorted(range(len(rows)), key=lambda i: -rows[i].samples)
    made: dict[int, np.ndarray] = {}
    for start in range(0, len(order), self.size):
      some = order[start : start + self.size]
      for i, signal_ in zip(some, self._batch([rows[i] for i in some], report)):
        made[i] = signal_
    found = []
    for i, request in enumerate(requests):
      mine = [j for j, row in enumerate(rows) if row.request == i]
      x = self._joined([made[j] for j in mine])
      if request.prompt is not None:
        x = np.concatenate([self._network(request.prompt), x])
      length = request.samples if request.source is None else len(request.source)
      found.append(self.audible(x)[:length])
    return found

  # -- Rows --------------------------------------------------------------------------------------

  def _network(self, audio: np.ndarray) -> np.ndarray:
    return np.asarray(self.model.emphasised(jnp.asarray(audio, jnp.float32)[None]))[0]

  def audible(self, x: Float[np.ndarray, ' t']) -> Float[np.ndarray, ' t']:
    """Samples of the network as audio: without pre-emphasis and gain."""
    if self.model.preemphasis:
      x = signal.lfilter([1.0], [1.0, -self.model.preemphasis], x.astype(np.float64))
    return np.asarray(x / self.model.gain, np.float32)

  def _rows(self, number: int, request: Request) -> list['_Row']:
    model, pad = self.model, self.model.local_pad
    if request.source is not None:
      audio = np.asarray(request.source, np.float32)
      count = -(-len(audio) // model.hop)
      frames = self.spectrogram.spectrogram(audio)[:count]
      batch = {'mel': np.pad(frames, ((pad, pad), (0, 0)), mode='edge')[None]}
    elif request.frames is not None:
      batch, count = {'mel': np.asarray(request.frames)[None]}, len(request.frames)
    elif request.units is not None:
      batch = {'units': np.asarray(request.units, np.int32)[None, :, None]}
      count = len(request.units)
    else:
      prompt = 0 if request.prompt is None else len(request.prompt)
      left = int(request.samples or 0) - prompt
      if left < 1:
        raise InputError(
          f'{request.samples} samples were asked for, and the prompt alone has {prompt}: ask for '
          'more, as the length of a result counts its prompt.'
        )
      start = None if request.prompt is None else self._network(request.prompt)
      return [_Row(number, request, left, None, start, 0)]
    whole = np.asarray(model.apply(self.variables, batch, method='frames')[0])[0]
    if not self.fold or count <= self.fold + self.overlap:
      return [_Row(number, request, count * model.hop, whole, None, 0)]
    found, step = [], self.fold
    for i, first in enumerate(range(0, count - self.overlap, step)):
      last = min(first + step + self.overlap, count)
      part = whole[first : last + 2 * pad]
      found.append(_Row(number, request, (last - first) * model.hop, part, None, i))
    return found

  def _joined(self, folds: Sequence[np.ndarray]) -> np.ndarray:
    """Folds that fade into each other with equal power, as their phases are not alike."""
    shared, step = self.overlap * self.model.hop, self.fold * self.model.hop
    if len(folds) == 1:
      return folds[0]
    rise = np.sqrt((np.arange(shared) + 0.5) / shared).astype(np.float32)
    whole = np.zeros(step * (len(folds) - 1) + len(folds[-1]), np.float32)
    for i, fold in enumerate(folds):
      fold = fold.copy()
      if i:
        fold[:shared] *= rise[: len(fold)]
      if i < len(folds) - 1:
        fold[step:] *= rise[::-1][: len(fold) - step]
      whole[i * step : i * step + len(fold)] += fold
    return whole

  # -- Sampling ----------------------------------------------------------------------------------

  def _batch(self, rows: Sequence['_Row'], report: Report | None) -> list[np.ndarray]:
    """Samples of the network of some rows; the last ones of a smaller batch are fillers."""
    model, size = self.model, self.size
    filled = [*rows, *[rows[-1]] * (size - len(rows))]
    weights = self._plain
    if model.speakers:
      numbers = np.array([row.request_.labels['speaker'] for row in filled], np.int32)
      vectors = model.apply(self.variables, {'speaker': numbers}, method='speaker_vectors')
      weights = parts.with_speakers(weights, vectors)
    state, last = self._after_prompts(weights, filled)
    keys = _keys(
      np.array([row.request_.seed for row in filled]), np.array([row.fold for row in filled])
    )
    longest = max(row.samples for row in rows)
    chunk = CHUNK if model.local == 'none' else max(CHUNK // model.hop, 1) * model.hop
    block = _block(chunk)
    conditions = _Conditions(self, filled, chunk)
    found = []
    for start in range(0, longest, chunk):
      draws = make_draws(model, keys, start, chunk)
      made, state, last = advance(
        model, block, self.temperature, weights, state, last, draws, conditions(start)
      )
      found.append(np.asarray(made))
      if report is not None:
        report(sum(min(max(row.samples - start, 0), chunk) for row in rows))
    whole = np.concatenate(found, axis=1)
    return [whole[i, : row.samples] for i, row in enumerate(rows)]

  def _after_prompts(self, weights: Any, rows: Sequence['_Row']) -> tuple[Any, Array]:
    """(state, next input) after the prompts of all rows, which end together."""
    model = self.model
    state = model.start(len(rows))
    silent = model.silence(len(rows))
    longest = max((len(row.prompt) for row in rows if row.prompt is not None), default=0)
    if not longest:
      return state, silent
    width = -(-(longest - 1) // CHUNK) * CHUNK + 1
    x, real = np.zeros((len(rows), width), np.float32), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
      if row.prompt is not None:
        x[i, width - len(row.prompt) :], real[i, width - len(row.prompt) :] = row.prompt, True
    samples = jnp.asarray(x)
    inputs = model.inputs_of(samples, model.encode_samples(samples))
    for start in range(0, width - 1, CHUNK):
      piece = slice(start, start + CHUNK)
      state = _feed(model, weights, state, inputs[:, piece], jnp.asarray(real[:, piece]))
    # A row without a prompt begins with silence.
    return state, jnp.where(jnp.asarray(real[:, -1]), inputs[:, -1], silent)


class _Row(NamedTuple):
  """One row of a batch: a request, or a fold of it.

  Attributes:
    request: its number.
    request_: it.
    samples: to be made.
    frames: of the condition with their context, or None.
    prompt: samples of the network before it, or None.
    fold: number of the fold.
  """

  request: int
  request_: Request
  samples: int
  frames: np.ndarray | None
  prompt: np.ndarray | None
  fold: int


class _Conditions:
  """Conditions of a batch, chunk by chunk: what upsampling the whole at once gives."""

  def __init__(self, generator: Generator, rows: Sequence[_Row], chunk: int):
    self.model, self.variables = generator.model, generator.variables
    self.frames = None
    if rows[0].frames is None:
      return
    pad, hop = self.model.local_pad, self.model.hop
    counts = [len(row.frames) for row in rows if row.frames is not None]
    self.each, self.counts = chunk // hop, jnp.asarray(counts, jnp.int32)
    steps = -(-(max(counts) - 2 * pad) // self.each)
    width = steps * self.each + 2 * (pad + MARGIN)
    self.frames = np.zeros((len(rows), width, self.model.local_channels), np.float32)
    for mine, row in zip(self.frames, rows):
      if row.frames is not None:
        mine[MARGIN : MARGIN + len(row.frames)] = row.frames

  def __call__(self, start: int) -> Array | None:
    """[b, t, f] of the chunk that begins at a sample."""
    if self.frames is None:
      return None
    first = start // self.model.hop
    width = self.each + 2 * (self.model.local_pad + MARGIN)
    part = jnp.asarray(self.frames[:, first : first + width])
    return _upsampled(self.model, self.variables, part, self.counts, jnp.int32(first - MARGIN))


@functools.partial(jax.jit, static_argnames=('model',))
def _upsampled(model, variables, frames, counts, offset):
  x = model.apply(variables, frames, counts, offset, method='upsampled')
  cut = MARGIN * model.hop
  return x[:, cut : x.shape[1] - cut]


@functools.partial(jax.jit, static_argnames=('model',), donate_argnames=('state',))
def _feed(model, weights, state, inputs, real):
  return _run(model, weights, inputs, state, real=real)[1]


def _run(model: Any, weights: Any, x: Array, state: Any, **args: Any) -> Any:
  how = dict(dilations=model.dilations, scaled=model.scaled, dtype=jnp.dtype(model.dtype))
  return parts.run(weights, x, state, **how, **args)


def _block(chunk: int) -> int:
  return next(n for n in range(min(BLOCK, chunk), 0, -1) if chunk % n == 0)


# -- Draws -------------------------------------------------------------------------------------


def _keys(seeds: np.ndarray, folds: np.ndarray) -> Array:
  one = lambda seed, fold: jax.random.fold_in(jax.random.key(seed), fold)  # noqa: E731
  return jax.vmap(one)(jnp.asarray(seeds, jnp.uint32), jnp.asarray(folds, jnp.uint32))


def make_draws(model: Any, keys: Array, start: int, samples: int) -> Float[Array, 't b m']:
  """Uniform draws of samples from `start` on: one for a code, or one a component and one more."""
  count = 1 if model.output == 'categorical' else model.mixtures + 1
  return _draws(keys, jnp.int32(start), samples, count)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draws(keys, start, samples, count):
  def one(key, t):
    return jax.random.uniform(jax.random.fold_in(key, t), (count,), minval=EDGE, maxval=1 - EDGE)

  at = start + jnp.arange(samples)
  return jax.vmap(lambda t: jax.vmap(lambda key: one(key, t))(keys))(at)


def draw_codes(
  logits: Float[Array, 'b v'], uniform: Float[Array, ' b'], temperature: float
) -> Int[Array, ' b']:
  """Codes by given draws: the number of codes whose cumulative probability is not above the
  draw."""
  if temperature == 0:
    return logits.argmax(-1).astype(jnp.int32)
  p = jax.nn.softmax(logits / temperature, axis=-1)
  below = _cumulative(p) <= uniform[:, None]
  return jnp.minimum(below.sum(axis=-1), p.shape[-1] - 1).astype(jnp.int32)


def _cumulative(p: Float[Array, 'b v']) -> Float[Array, 'b v']:
  """Cumulative sums, of rows of 16 and of their sums: a scan over 256 numbers takes longer than
  the network on a CPU."""
  b, v = p.shape
  rows = -(-v // 16)
  grid = jnp.pad(p, ((0, 0), (0, rows * 16 - v))).reshape(b, rows, 16)
  upper = np.triu(np.ones((16, 16), np.float32))
  within = jnp.einsum('brk,kj->brj', grid, upper, precision='highest')
  before = np.triu(np.ones((rows, rows), np.float32), 1)
  ahead = jnp.einsum('br,rj->bj', within[:, :, -1], before, precision='highest')
  return (within + ahead[:, :, None]).reshape(b, -1)[:, :v]


def draw_logistics(
  params: Float[Array, 'b k'], uniform: Float[Array, 'b m'], temperature: float
) -> Float[Array, ' b']:
  """Samples by given draws: one a component (Gumbel's), and one of the logistic.

  Log scales have no floor here, as in wavenet_vocoder.
  """
  logits, means, scales = jnp.split(params, 3, axis=-1)
  if temperature == 0:
    chosen = logits.argmax(-1, keepdims=True)
  else:
    gumbel = -jnp.log(-jnp.log(uniform[:, :-1]))
    chosen = (logits / temperature + gumbel).argmax(-1, keepdims=True)
  mean, scale = (jnp.take_along_axis(x, chosen, axis=-1)[:, 0] for x in (means, scales))
  u = uniform[:, -1]
  noise = jnp.exp(scale) * (jnp.log(u) - jnp.log1p(-u)) * temperature
  return jnp.clip(mean + noise, -1.0, 1.0)


@functools.partial(
  jax.jit, static_argnames=('model', 'block', 'temperature'), donate_argnames=('state',)
)
def advance(
  model: Any,
  block: int,
  temperature: float,
  weights: Any,
  state: Any,
  last: Array,
  draws: Float[Array, 't b m'],
  local: Float[Array, 'b t f'] | None,
) -> tuple[Float[Array, 'b t'], Any, Array]:
  """(samples [b, t] of the network, the state after them, the next input).

  Args:
    model: a `models.wavenet.WaveNet`; static.
    block: samples whose conditions are projected at once, a divisor of t; static.
    temperature: static.
    weights: of `WaveNet.weights`, with speakers.
    state: after the inputs before the next one.
    last: [b], the next input.
    draws: see `make_draws`.
    local: conditions at the rate of samples.
  """
  dtype = jnp.dtype(model.dtype)

  def one(carry, xs):
    state, x = carry
    draw, projected, beside = xs
    args = dict(
      projected=None if projected is None else projected[:, None],
      local=None if beside is None else beside[:, None],
    )
    out, state, _ = _run(model, weights, x[:, None], state, **args)
    if model.output == 'categorical':
      code = draw_codes(out[:, 0], draw[:, 0], temperature)
      return (state, _next(model, code)), code
    y = draw_logistics(out[:, 0], draw, temperature)
    return (state, y), y

  def some(carry, xs):
    draw, local = xs
    projected = None if local is None else parts.project(weights, local, dtype)
    beside = local if weights['head_local'] is not None else None
    return jax.lax.scan(one, carry, (draw, projected, beside))

  blocks = lambda x: x.reshape(-1, block, *x.shape[1:])  # noqa: E731
  xs = blocks(draws), None if local is None else blocks(local.swapaxes(0, 1))
  (state, last), made = jax.lax.scan(some, (state, last), xs)
  made = made.reshape(-1, made.shape[-1]).T
  if model.output == 'categorical':
    made = mu_law.decode(made, model.quantize_channels, model.mu_law)
  return made, state, last


def _next(model: Any, code: Int[Array, ' b']) -> Array:
  """The input that a code makes of itself."""
  if model.input == 'wave':
    return mu_law.decode(code, model.quantize_channels, model.mu_law)
  return model.inputs_of(None, code)
