"""BYOL-A v1 against a PyTorch counterpart: a training step with augmentations, and embeddings.

Ours computes the views of a batch on the device, inside the step. The peer computes them clip by
clip on the CPU, as upstream does; upstream uses data loader processes, here the main process does
it, since data loader processes gain nothing on two cores.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import librosa
import numpy as np
import optax

from launch.benchmarks import timing
from research.models.byol_a import ByolA
from research.objectives.bootstrap import bootstrap
from research.train import flops, hardware

RATE, SAMPLES = 16_000, 15_200
PROJECTION, HIDDEN = 256, 4096


def _audio(batch: int, seconds: float | None = None) -> np.ndarray:
  samples = SAMPLES if seconds is None else round(seconds * RATE)
  return 0.1 * np.random.default_rng(0).standard_normal((batch, samples), np.float32)


def _filters() -> np.ndarray:
  return librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=64, fmin=60, fmax=7800)


def make_ours(part: str, size: str, batch: int, seconds: float) -> tuple[Callable[[], float], Any]:
  """(() -> loss or a checksum, facts) of our training step or embeddings."""
  model = ByolA(size=size, projection=PROJECTION, projection_hidden=HIDDEN)
  keys = dict(zip(('params', 'dropout', 'augment'), jax.random.split(jax.random.key(0), 3)))
  if part == 'embedding':
    audio = _audio(batch, seconds)
    mask = np.ones(audio.shape, bool)
    variables = jax.jit(lambda: model.init(keys, audio, mask, method='embed'))()

    @jax.jit
    def embed(audio, mask):
      tokens, _ = cast(Any, model.apply(variables, audio, mask, method='embed'))
      return (tokens[-1].max(axis=1) + tokens[-1].mean(axis=1)).sum()

    return lambda: float(embed(audio, mask)), {}

  audio = _audio(batch)
  data = dict(audio=audio, audio_mask=np.ones(audio.shape, bool))
  optimizer = optax.adam(3e-4)

  def loss_of(params, rest, teacher, teacher_rest, key):
    rngs = dict(zip(('dropout', 'augment'), jax.random.split(key)))
    out, kept = cast(
      Any,
      model.apply({'params': params, **rest}, data, train=True, rngs=rngs, mutable=list(rest)),
    )
    teacher_out, teacher_kept = cast(
      Any,
      model.apply(
        {'params': teacher, **teacher_rest},
        out['to_teacher'],
        train=True,
        rngs={'dropout': jax.random.fold_in(key, 1)},
        mutable=list(teacher_rest),
      ),
    )
    return bootstrap({**out, 'teacher': teacher_out}, data)[0], (kept, teacher_kept)

  def step(state, key):
    params, rest, teacher, teacher_rest, moments = state
    gradient = jax.value_and_grad(loss_of, has_aux=True)
    (loss, (rest, teacher_rest)), grads = gradient(params, rest, teacher, teacher_rest, key)
    with jax.numpy_dtype_promotion('standard'):
      updates, moments = optimizer.update(grads, moments, params)
    params = optax.apply_updates(params, updates)
    teacher = jax.tree.map(lambda t, p: 0.99 * t + 0.01 * p, teacher, params)
    return (params, rest, teacher, teacher_rest, moments), loss

  variables = dict(jax.jit(lambda: model.init(keys, data))())
  params = variables.pop('params')
  copy = lambda tree: jax.tree.map(lambda x: x.copy(), tree)  # noqa: E731
  of_teacher = {k: v for k, v in variables.items() if k != 'memory'}
  state = (params, variables, copy(params), copy(of_teacher), optimizer.init(params))
  jitted = jax.jit(
    step, donate_argnums=0, compiler_options=hardware.compiler_options(jax.default_backend())
  )
  traced = jitted.trace(state, jax.random.key(1))
  compiled = traced.lower().compile()
  held: dict[str, Any] = {'state': state, 'key': jax.random.key(1)}

  def run() -> float:
    held['key'], key = jax.random.split(held['key'])
    held['state'], loss = compiled(held['state'], key)
    return float(loss)

  return run, {'step_flops': flops.count(traced.jaxpr)}


def make_theirs(part: str, size: str, batch: int, seconds: float) -> tuple[Any, None]:
  """(() -> loss or a checksum, None) of the peer."""
  from launch.benchmarks import torch_byol

  width = ByolA(size=size).width
  if part == 'embedding':
    return torch_byol.make_embed(_audio(batch, seconds), _filters(), width), None
  step = torch_byol.make_step(
    _audio(batch), _filters(), width=width, projection=PROJECTION, hidden=HIDDEN
  )
  return step, None


def compare_byol(
  size: str = 'v1_d512', batch: int = 64, repeats: int = 7, seconds: float = 5.0
) -> list[dict[str, Any]]:
  """Median times of oido and torch, alternating in separate processes.

  Args:
    size: a key of `byol_a.SIZES` that begins with v1.
    batch: clips per training step (of 0.95 s each), and per batch of embeddings.
    repeats: number of rounds; medians are reported.
    seconds: length of the embedded clips.

  Returns:
    Two rows, 'training' and 'embedding': seconds of both, `ratio` torch / ours (above 1: ours is
    faster), audio-seconds per second.
  """
  rows = []
  for part in ('training', 'embedding'):
    arguments = dict(part=part, size=size, batch=batch, seconds=seconds)
    with (
      timing.Worker(make_theirs, **arguments) as theirs,
      timing.Worker(make_ours, **arguments) as ours,
    ):
      taken = timing.rounds({'oido': ours, 'torch': theirs}, repeats, warmup=3)
      facts = dict(ours.facts or {})
    length = seconds if part == 'embedding' else SAMPLES / RATE
    for row in timing.compare(taken, 'oido', part=part, size=size, batch=batch, **facts):
      row['audio_seconds_per_second'] = batch * length / row['ours_seconds']
      rows.append(row)
  return rows
