"""One pre-training step of AudioMAE (forward, backward, AdamW) against a PyTorch counterpart.

Both take the same spectrograms and mask noise, without the front-end, which has its own benchmark.
On a GPU both compute in bf16, and the peer is compiled (torch.compile, fused attention).
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
import optax

from launch.benchmarks import timing
from research.models import audio_mae
from research.objectives.reconstruction import masked_patch_mse
from research.train import flops, hardware


def _make_step(
  model: audio_mae.AudioMAE, batch: dict[str, np.ndarray]
) -> tuple[Callable[[], float], float]:
  """(() -> loss, FLOPs of a step); the state stays on the device and is donated to each step."""
  optimizer = optax.adamw(1e-4, b1=0.9, b2=0.95, weight_decay=1e-4)

  def init(key):
    variables = model.init({'params': key}, batch)
    params = variables.pop('params')
    return params, optimizer.init(params), variables

  def step(params, moments, variables, batch, key):
    def loss_fn(params):
      out = model.apply({**variables, 'params': params}, batch, train=True, rngs={'dropout': key})
      return masked_patch_mse(cast(dict[str, Any], out), batch)[0]

    loss, gradients = jax.value_and_grad(loss_fn)(params)
    updates, moments = optimizer.update(gradients, moments, params)
    return optax.apply_updates(params, updates), moments, loss

  state = jax.jit(init)(jax.random.key(0))
  batch = jax.device_put(batch)
  key = jax.random.key(1)
  arguments = (*state, batch, key)
  jitted = jax.jit(
    step, donate_argnums=(0, 1), compiler_options=hardware.compiler_options(jax.default_backend())
  )
  traced = jitted.trace(*arguments)
  compiled = traced.lower().compile()
  held = {'params': state[0], 'moments': state[1]}

  def run() -> float:
    held['params'], held['moments'], loss = compiled(
      held['params'], held['moments'], state[2], batch, key
    )
    return float(loss)

  return run, flops.count(traced.jaxpr)


def _model(size: str, decoder: str) -> audio_mae.AudioMAE:
  gpu = jax.devices()[0].platform == 'gpu'
  return audio_mae.AudioMAE(size=size, decoder=decoder, dtype='bfloat16' if gpu else 'float32')


def _batch(model: audio_mae.AudioMAE, size: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  rows, columns = model.grid
  spectrogram = rng.standard_normal((size, model.frames, 128), np.float32)
  return {
    'spectrogram': spectrogram,
    'mask_noise': rng.random((size, rows * columns), np.float32),
  }


def make_ours(size: str, decoder: str, batch: int) -> tuple[Callable[[], float], dict[str, Any]]:
  """(() -> loss, {'step_flops', 'dtype'}) of our step."""
  model = _model(size, decoder)
  run, counted = _make_step(model, _batch(model, batch))
  return run, {'step_flops': counted, 'dtype': model.dtype}


def make_theirs(size: str, decoder: str, batch: int) -> tuple[Callable[[], float], None]:
  """(() -> loss, None) of the peer's step."""
  from launch.benchmarks import torch_mae

  model = _model(size, decoder)
  given = _batch(model, batch)
  grid, keep = model.grid, model.counts.patches
  step = torch_mae.make_step(size, decoder, given['spectrogram'], given['mask_noise'], grid, keep)
  return step, None


def compare_training(
  size: str = 'base', batch: int = 4, repeats: int = 7, decoder: str = 'swin'
) -> list[dict[str, Any]]:
  """Median step times of oido and torch, alternating in separate processes.

  Args:
    size: a key of `audio_mae.SIZES`.
    batch: clips of 10 s (1024 frames) per batch.
    repeats: number of rounds; medians are reported.
    decoder: 'swin' or 'global'.

  Returns:
    One row: seconds of both, `ratio` torch / ours (above 1: ours is faster), audio-seconds per
    second, FLOPs of a step (`train.flops`), MFU if the chip's peak is known.
  """
  arguments = dict(size=size, decoder=decoder, batch=batch)
  with (
    # The peer first, so that a missing package is reported at once.
    timing.Worker(make_theirs, **arguments) as theirs,
    timing.Worker(make_ours, **arguments) as ours,
  ):
    seconds = timing.rounds({'oido': ours, 'torch': theirs}, repeats, warmup=3)
    facts = dict(ours.facts)
  device = jax.devices()[0].device_kind
  rows = timing.compare(seconds, 'oido', **arguments, device=device, **facts)
  frames = _model(size, decoder).frames
  for row in rows:
    row['audio_seconds_per_second'] = batch * frames / 100 / row['ours_seconds']
    row['mfu'] = hardware.mfu(row['step_flops'], row['ours_seconds'])
  return rows
