"""Contracts of every model, as checks that take any model.

(1) samples behind the mask may be NaN and change nothing; (2) the same result with and without jit,
and models with equal arguments, also from JSON, are equal and hashable;
(3) gradients reach every trainable parameter; (4) bf16 compute with float32 parameters; (5) the
same loss and gradients on meshes of eight devices; (6) `embed` on any length down to one frame;
(7) where there is a cache, step by step equals all at once.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.capabilities import Embeds
from research.errors import InputError
from research.train import sharding
from research.train.state import STREAMS
from research.weights.conversion import changed
from research.weights.pretrained import model_args

Arrays = dict[str, np.ndarray]

# Most of the time is compiling, and without optimisations it takes 0.57 of that (hubert: padding,
# gradients, bf16). `check_jit` compiles as users' programs do.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: a cache key
class Subject:
  """A small model under test.

  Attributes:
    name: of the model.
    args: model arguments.
    objective: (out, batch) -> (loss, metrics).
    draws: (model, batch size) -> explicit draws, the same for clip i whatever the batch.
    extra: batch size -> labels and other inputs.
    outputs: names of per-clip outputs that padding must not change.
    framed: {name of a per-frame output: name of its frame mask}; padding must not change these
      either.
    untrained: {pattern of a parameter path: why no gradient reaches it}.
    meshes: of MESHES, those on which loss and gradients are compared.
    embeds: whether it embeds audio.
  """

  name: str
  args: Mapping[str, Any]
  objective: Callable[..., Any]
  outputs: tuple[str, ...]
  draws: Callable[[Any, int], Arrays] = lambda model, b: {}
  extra: Callable[[int], Arrays] = lambda b: {}
  framed: Mapping[str, str] = dataclasses.field(default_factory=dict)
  untrained: Mapping[str, str] = dataclasses.field(default_factory=dict)
  meshes: Sequence[Mapping[str, int]] = ()
  embeds: bool = True

  def model(self, **changes: Any) -> Any:
    return models.get(self.name)(**changed(self.name, self.args, changes))

  # There are few subjects, which live as long as the tests.
  @functools.cache  # noqa: B019
  def variables(self, model: Any) -> dict[str, Any]:
    batch = self.batch(model, [model.frontend.min_samples + 3000])
    return jit(model.init)(jax.random.key(0), batch)

  def batch(self, model: Any, lengths: list[int], pad: float = 0.0, width: int = 0) -> Arrays:
    """Clips of the given lengths; clip i is the same in every batch."""
    width = max(width, *lengths)
    audio = np.full((len(lengths), width), pad, np.float32)
    for i, length in enumerate(lengths):
      audio[i, :length] = wave(i, length)
    mask = np.arange(width) < np.asarray(lengths)[:, None]
    b = len(lengths)
    return {'audio': audio, 'audio_mask': mask, **self.draws(model, b), **self.extra(b)}


def wave(seed: int, samples: int) -> np.ndarray:
  """Noise around two tones, so that neither time nor frequency is uniform."""
  rng = np.random.default_rng(seed)
  t = np.arange(200_000) / 16_000
  tones = np.sin(2 * np.pi * (300 + 200 * seed) * t) * np.sin(2 * np.pi * 2 * t)
  return (0.2 * tones + 0.05 * rng.standard_normal(len(t)))[:samples].astype(np.float32)


def rows(arrays: Mapping[str, Any], i: int) -> Arrays:
  return {k: np.asarray(v)[i : i + 1] for k, v in arrays.items()}


def close(got, want, what: str, tolerance: float = 2e-5) -> None:
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape, f'{what}: {got.shape} and {want.shape}'
  assert np.isfinite(got).all(), f'{what} is not finite'
  worst, scale = np.abs(got - want).max(), max(1.0, np.abs(want).max())
  assert worst <= tolerance * scale, f'{what}: max|diff| {worst:.3g}, scale {scale:.3g}'


def flat(tree: Any) -> Arrays:
  return flax.traverse_util.flatten_dict(tree, sep='/')


# -- (1) ---------------------------------------------------------------------------------------


def check_padding(subject: Subject) -> None:
  """Alone, behind NaN, and in a batch: the same outputs and the same embeddings."""
  model = subject.model()
  variables = subject.variables(model)
  call = jit(model.apply)
  embed = jit(lambda v, a, m: model.apply(v, a, m, method='embed'))
  lengths = [model.frontend.samples(30) + 5, model.frontend.samples(57)]
  width = max(lengths) + 1003
  batch = subject.batch(model, lengths, pad=np.nan, width=width)
  together = call(variables, batch)
  assert isinstance(model, Embeds) == subject.embeds
  if subject.embeds:
    tokens, mask = embed(variables, batch['audio'], batch['audio_mask'])
  for i, length in enumerate(lengths):
    padded = rows(batch, i)
    kinds = {'padded': padded}
    if i == 0:  # Every length costs a compilation.
      names = ('audio', 'audio_mask')
      kinds['alone'] = padded | {name: padded[name][:, :length] for name in names}
    for kind, one in kinds.items():
      out = call(variables, one)
      for name in subject.outputs:
        close(out[name], together[name][i : i + 1], f'{name} of clip {i}, {kind}')
      for name, mask_name in subject.framed.items():
        got, want = (
          np.asarray(x[name])[j][np.asarray(x[mask_name])[j]] for x, j in ((out, 0), (together, i))
        )
        assert want.size
        close(got, want, f'{name} of clip {i}, {kind}')
      if not subject.embeds:
        continue
      t, m = embed(variables, one['audio'], one['audio_mask'])
      real = np.asarray(mask[i])
      assert int(m.sum()) == int(real.sum()) > 0
      want = np.asarray(tokens)[:, i, real]
      close(np.asarray(t)[:, 0, np.asarray(m[0])], want, f'tokens of clip {i}, {kind}')


# -- (2) ---------------------------------------------------------------------------------------


def check_jit(subject: Subject) -> None:
  """Compiled and op by op: the same outputs; equal models share compiled programs."""
  model = subject.model()
  variables = subject.variables(model)
  batch = subject.batch(model, [model.frontend.samples(60), model.frontend.samples(40)])
  eager, compiled = model.apply(variables, batch), jax.jit(model.apply)(variables, batch)
  for name in subject.outputs:
    close(compiled[name], eager[name], name)


def check_equality(subject: Subject) -> None:
  """Models of equal arguments, JSON's too, are one to the caches of programs."""
  model = subject.model()
  again = models.get(subject.name)(**json.loads(json.dumps(model_args(model, defaults=True))))
  assert again == model and hash(again) == hash(model)


# -- (3) ---------------------------------------------------------------------------------------


def loss_and_gradients(subject: Subject, model: Any) -> Callable[..., Any]:
  """(params, other variables, batch) -> (loss, gradients), in training mode."""

  def loss(params, variables, batch):
    rngs = {name: jax.random.key(i) for i, name in enumerate(STREAMS)}
    out = model.apply({**variables, 'params': params}, batch, train=True, rngs=rngs)
    return subject.objective(out, batch)[0]

  return jax.value_and_grad(loss)


def split(variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
  rest = dict(variables)
  return rest.pop('params', {}), rest  # a front-end alone has none


@functools.cache
def _trained(subject: Subject) -> tuple[Any, Any]:
  """(loss, gradients) of two clips."""
  model = subject.model()
  batch = subject.batch(model, [model.frontend.samples(90), model.frontend.samples(50)])
  return jit(loss_and_gradients(subject, model))(*split(subject.variables(model)), batch)


def check_gradients(subject: Subject) -> None:
  """A finite, non-zero gradient for every parameter, except those listed."""
  loss, gradients = _trained(subject)
  assert np.isfinite(loss)
  dead = set()
  for path, gradient in flat(gradients).items():
    assert np.isfinite(gradient).all(), f'gradient of {path} is not finite'
    if not np.any(gradient):
      dead.add(path)
  listed = {p for p in flat(gradients) if any(re.search(r, p) for r in subject.untrained)}
  assert dead == listed, f'without gradient: {dead - listed}; listed but trained: {listed - dead}'


# -- (4) ---------------------------------------------------------------------------------------


def check_bfloat16(subject: Subject) -> None:
  """bf16 compute: float32 parameters, gradients and losses; about the same loss."""
  half = subject.model(dtype='bfloat16')
  params, rest = split(subject.variables(half))
  assert {x.dtype for x in jax.tree.leaves(params)} <= {jnp.dtype('float32')}
  batch = subject.batch(half, [half.frontend.samples(90), half.frontend.samples(50)])
  want, _ = _trained(subject)
  got, gradients = jit(loss_and_gradients(subject, half))(params, rest, batch)
  assert got.dtype == jnp.float32 and abs(float(got) - float(want)) < 0.02 * float(want)
  for path, gradient in flat(gradients).items():
    assert gradient.dtype == jnp.float32 and np.isfinite(gradient).all(), path
  text = jax.jit(half.apply).lower({'params': params, **rest}, batch).as_text()
  assert 'bf16' in text, 'nothing is computed in bf16'


# -- (5) ---------------------------------------------------------------------------------------

MESHES = (
  dict(data=8, fsdp=1, tensor=1),
  dict(data=1, fsdp=8, tensor=1),
  dict(data=4, fsdp=1, tensor=2),
  dict(data=2, fsdp=2, tensor=2),
)


@functools.cache
def _on_one_device(subject: Subject) -> tuple[Any, ...]:
  """(compiled function, parameters, other variables, batch, loss, gradients) of a subject."""
  model = subject.model()
  params, rest = split(subject.variables(model))
  batch = subject.batch(model, [model.frontend.samples(20 + 9 * i) for i in range(8)])
  function = jit(loss_and_gradients(subject, model))
  return function, params, rest, batch, *function(params, rest, batch)


def check_mesh(subject: Subject, mesh_shape: Mapping[str, int]) -> None:
  """Parameters and batch sharded over eight devices: the same loss and gradients as on one."""
  function, params, rest, batch, want, wanted = _on_one_device(subject)
  mesh = sharding.make_mesh(mesh_shape)
  spread = jax.device_put((params, rest), sharding.shardings((params, rest), mesh))
  specs = [x.sharding.spec for x in jax.tree.leaves(spread)]
  if mesh_shape['fsdp'] * mesh_shape['tensor'] > 1:
    assert any(any(spec) for spec in specs), 'no parameter is spread'
  with jax.set_mesh(mesh):
    got, gradients = function(*spread, sharding.to_devices(batch, mesh))
  close(got, want, 'loss')
  for path, gradient in flat(gradients).items():
    close(gradient, flat(wanted)[path], f'gradient of {path}')


# -- (6) ---------------------------------------------------------------------------------------


def check_embed_lengths(subject: Subject) -> None:
  """One frame, less than one chunk, several chunks; a clear error below one frame."""
  model = subject.model()
  variables = subject.variables(model)
  least = model.frontend.min_samples
  widths = set()
  embed = jit(lambda v, a, m: model.apply(v, a, m, method='embed'))
  for samples in (least, model.frontend.samples(250)):
    audio = wave(0, samples)[None]
    tokens, mask = embed(variables, audio, np.ones(audio.shape, bool))
    layers, b, n, width = tokens.shape
    widths.add((layers, width))
    assert b == 1 and mask.shape == (1, n) and mask.any() and np.isfinite(tokens).all()
    assert tokens.dtype == jnp.float32
  assert len(widths) == 1
  audio = wave(0, least - 1)[None]
  with pytest.raises(InputError, match=rf'{least - 1}\b.*\b{least}\b'):
    model.apply(variables, audio, np.ones(audio.shape, bool), method='embed')


# -- (7) ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Stepper:
  """What takes tokens one by one or all at once, small.

  Attributes:
    variables: of the model.
    tokens: int32 [b, n], at least 3 rows of 12; 8 rows for `check_steps_on_mesh`.
    inputs: {name: array [b, …]}: what a row has besides, such as what an encoder made of audio.
    full: (variables, tokens [b, n], real [b, n] or None, inputs) -> logits [b, n, c].
    start: (batch, dtype of the cache) -> state before the first token.
    prefill: (variables, state, tokens [b, t], real [b, t] or None, inputs) -> (logits, state).
    step: (variables, state, tokens [b, t], real [b, t] or None) -> (logits, state).
    padding: sides on which prompts may be padded.
  """

  variables: Any
  tokens: np.ndarray
  inputs: Mapping[str, np.ndarray]
  full: Callable[..., Any]
  start: Callable[..., Any]
  prefill: Callable[..., Any]
  step: Callable[..., Any]
  padding: tuple[str, ...] = ('left', 'right')

  def rows(self, rows: Any) -> dict[str, np.ndarray]:
    return {name: value[rows] for name, value in self.inputs.items()}


@dataclasses.dataclass
class Traced:
  """A compiled step that counts how often it is traced."""

  function: Callable[..., Any]
  count: int = 0

  def __post_init__(self):
    def counted(*args):
      self.count += 1
      return self.function(*args)

    self.call = jax.jit(counted)


def run_steps(stepper: Stepper, state: Any, tokens: np.ndarray, step: Traced) -> tuple[Any, Any]:
  """(logits [b, n, c] of tokens given one by one, the state after them)."""
  found = []
  for i in range(tokens.shape[1]):
    logits, state = step.call(stepper.variables, state, tokens[:, i : i + 1], None)
    found.append(logits)
  return np.concatenate(found, axis=1), state


def check_steps(stepper: Stepper) -> None:
  """Token by token, a prompt and then tokens, and chunks: the logits of all tokens at once. All
  steps of one size are one program."""
  tokens, inputs = stepper.tokens[:3], stepper.rows(slice(3))
  want = stepper.full(stepper.variables, tokens, None, inputs)
  n, step, chunk = tokens.shape[1], Traced(stepper.step), Traced(stepper.step)
  for prompt, chunks in ((1, 0), (5, 0), (5, 2)):
    state = stepper.start(3, 'float32')
    first = tokens[:, :prompt]
    logits, state = jax.jit(stepper.prefill)(stepper.variables, state, first, None, inputs)
    found, end = [logits], prompt
    for _ in range(chunks):
      part = tokens[:, end : end + 2]
      logits, state = chunk.call(stepper.variables, state, part, None)
      found.append(logits)
      end += 2
    logits, state = run_steps(stepper, state, tokens[:, end:], step)
    got = np.concatenate([*found, logits], axis=1)
    close(got, want, f'logits behind a prompt of {prompt} and {chunks} chunks of {n} tokens')
  assert (step.count, chunk.count) == (1, 1), 'a step was compiled more than once'


def check_padded_steps(stepper: Stepper) -> None:
  """Prompts of several lengths in one batch: each row as if it were alone, without padding."""
  lengths, width, n = (6, 3, 1), 6, stepper.tokens.shape[1]
  for side in stepper.padding:
    tokens, real = np.zeros((3, width), np.int32), np.zeros((3, width), bool)
    for i, length in enumerate(lengths):
      places = slice(width - length, width) if side == 'left' else slice(length)
      tokens[i, places], real[i, places] = stepper.tokens[i, :length], True
    rest = np.stack([x[k : k + n - width] for x, k in zip(stepper.tokens, lengths, strict=False)])
    inputs, step = stepper.rows(slice(3)), Traced(stepper.step)
    at_once = stepper.full(stepper.variables, tokens, real, inputs)
    state = stepper.start(3, 'float32')
    prompt, state = jax.jit(stepper.prefill)(stepper.variables, state, tokens, real, inputs)
    behind, _ = run_steps(stepper, state, rest, step)
    assert step.count == 1
    for i, length in enumerate(lengths):
      alone = stepper.tokens[i : i + 1, : length + n - width]
      want = stepper.full(stepper.variables, alone, None, stepper.rows(slice(i, i + 1)))[0]
      what = f'padding on the {side}, row {i}'
      close(np.asarray(at_once)[i, real[i]], want[:length], f'{what}, all at once')
      close(np.asarray(prompt)[i, real[i]], want[:length], f'{what}, prompt')
      close(behind[i], want[length:], f'{what}, steps')


def check_reordered_steps(stepper: Stepper, reorder: Callable[[Any, Any], Any]) -> None:
  """Rows that go on from other rows, some twice, some not at all, as in a beam search."""
  rows, step = np.asarray([2, 0, 2, 1]), Traced(stepper.step)
  tokens = stepper.tokens[:3]
  state = stepper.start(3, 'float32')
  inputs = stepper.rows(slice(3))
  _, state = jax.jit(stepper.prefill)(stepper.variables, state, tokens[:, :4], None, inputs)
  _, state = run_steps(stepper, state, tokens[:, 4:7], step)
  others = np.roll(tokens[rows, 7:], 1, axis=0)
  got, _ = run_steps(stepper, jax.jit(reorder)(state, rows), others, Traced(stepper.step))
  whole = np.concatenate([tokens[rows, :7], others], axis=1)
  want = stepper.full(stepper.variables, whole, None, stepper.rows(rows))
  close(got, np.asarray(want)[:, 7:], 'logits of reordered rows')


def check_bfloat16_steps(stepper: Stepper) -> None:
  """A cache in bf16: about the same logits, and not the same."""
  found = []
  for dtype in ('float32', 'bfloat16'):
    state = stepper.start(3, dtype)
    assert {str(x.dtype) for x in jax.tree.leaves(state)} <= {dtype, 'int32'}
    prompt, inputs = stepper.tokens[:3, :4], stepper.rows(slice(3))
    _, state = jax.jit(stepper.prefill)(stepper.variables, state, prompt, None, inputs)
    found.append(run_steps(stepper, state, stepper.tokens[:3, 4:], Traced(stepper.step))[0])
  assert np.any(found[0] != found[1])
  close(found[1], found[0], 'logits by a cache in bf16', tolerance=0.02)


def check_steps_on_mesh(stepper: Stepper, mesh_shape: Mapping[str, int]) -> None:
  """Parameters and rows spread over eight devices: the logits of one."""
  tokens, inputs = stepper.tokens[:8], stepper.rows(slice(8))
  want = stepper.full(stepper.variables, tokens, None, inputs)
  mesh = sharding.make_mesh(mesh_shape)
  variables = jax.device_put(stepper.variables, sharding.shardings(stepper.variables, mesh))
  spread = sharding.batch_sharding(mesh)
  here = dataclasses.replace(stepper, variables=variables)
  with jax.set_mesh(mesh):
    tokens, inputs = jax.device_put((tokens, inputs), spread)
    state = jax.jit(stepper.start, static_argnums=(0, 1))(8, 'float32')
    prompt = tokens[:, :4]
    logits, state = jax.jit(stepper.prefill)(variables, state, prompt, None, inputs)
    behind, _ = run_steps(here, state, tokens[:, 4:], Traced(stepper.step))
  close(np.concatenate([logits, behind], axis=1), want, f'logits on a mesh of {mesh_shape}')
