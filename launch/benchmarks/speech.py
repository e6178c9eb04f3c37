"""wav2vec 2.0, HuBERT and WavLM against transformers on torch: encoder forward pass, forward and
backward pass, and a pre-training step with AdamW. Also WavLM against HuBERT, for the cost of the
position bias.

Both sides get the same audio. By default both compute in float32 on a CPU and in bf16 on a GPU
(torch under autocast), where the peer is compiled with fused attention. Dropout is 0 on both sides,
so that random number generation is not part of the comparison.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from launch.benchmarks import timing
from research import models
from research.objectives.contrastive import wav2vec2_contrastive
from research.objectives.prediction import masked_units
from research.train import flops, hardware

RATE = 16_000
NO_DROPOUT: dict[str, Any] = dict(
  dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layerdrop=0.0
)
PARTS = ('forward', 'backward', 'pretraining')
UNITS = 500


def _audio(batch: int, seconds: float) -> np.ndarray:
  return 0.1 * np.random.default_rng(0).standard_normal((batch, int(seconds * RATE)), np.float32)


def make_ours(
  part: str,
  size: str,
  batch: int,
  clip_seconds: float,
  model: str = 'wav2vec2',
  dtype: str = 'float32',
) -> tuple[Callable[[], float], dict[str, Any]]:
  """(() -> loss or a checksum, {'step_flops', 'dtype'}) of one part of ours."""
  module = models.get(model)(size=size, dtype=dtype, **NO_DROPOUT)
  audio = _audio(batch, clip_seconds)
  inputs = {'audio': audio, 'audio_mask': np.ones(audio.shape, bool)}
  if model != 'wav2vec2':
    shape = batch, module.frontend.frames(audio.shape[1]), 1
    inputs['units'] = np.random.default_rng(0).integers(0, UNITS, shape).astype(np.int32)
  variables = jax.jit(module.init)(jax.random.key(0), inputs)
  params, rest = variables['params'], {'counters': variables['counters']}
  inputs = jax.device_put(inputs)

  def encode(params: Any, inputs: Any) -> jax.Array:
    args = inputs['audio'], inputs['audio_mask']
    tokens, _ = cast(Any, module.apply({'params': params, **rest}, *args, method='embed'))
    return jnp.square(tokens[-1]).mean()

  def loss(params: Any, inputs: Any) -> jax.Array:
    rngs = {name: jax.random.key(1) for name in ('mask', 'noise', 'dropout')}
    out = module.apply({'params': params, **rest}, inputs, train=True, rngs=rngs)
    objective = wav2vec2_contrastive if model == 'wav2vec2' else masked_units
    return objective(cast(dict[str, Any], out), inputs)[0]

  options = hardware.compiler_options(jax.default_backend())
  if part == 'pretraining':
    optimizer = optax.adamw(5e-4, b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01)

    def step(params, moments, inputs):
      value, gradients = jax.value_and_grad(loss)(params, inputs)
      updates, moments = optimizer.update(gradients, moments, params)
      return optax.apply_updates(params, updates), moments, value

    held = {'params': params, 'moments': jax.jit(optimizer.init)(params)}
    jitted = jax.jit(step, donate_argnums=(0, 1), compiler_options=options)
    traced = jitted.trace(*held.values(), inputs)
    compiled = traced.lower().compile()

    def run() -> float:
      held['params'], held['moments'], value = compiled(*held.values(), inputs)
      return float(value)

  elif part == 'backward':
    jitted = jax.jit(jax.value_and_grad(encode), compiler_options=options)
    traced = jitted.trace(params, inputs)
    compiled = traced.lower().compile()

    def run() -> float:
      return float(jax.block_until_ready(compiled(params, inputs))[0])

  else:
    traced = jax.jit(encode).trace(params, inputs)
    compiled = traced.lower().compile()

    def run() -> float:
      return float(compiled(params, inputs))

  return run, {'step_flops': flops.count(traced.jaxpr), 'dtype': module.dtype}


def make_theirs(
  part: str,
  size: str,
  batch: int,
  clip_seconds: float,
  model: str = 'wav2vec2',
  dtype: str = 'float32',
) -> tuple[Callable[[], float], None]:
  """(() -> loss or a checksum, None) of one part of transformers."""
  from launch.benchmarks import torch_speech

  sizes = cast(Any, models.get(model)).SIZES
  audio = _audio(batch, clip_seconds)
  run = torch_speech.make_run(model, part, sizes[size], audio, UNITS, dtype == 'bfloat16')
  return run, None


def compare_speech(
  size: str = 'base',
  batch: int = 1,
  clip_seconds: float = 10.0,
  repeats: int = 7,
  model: str = 'wav2vec2',
  dtype: str | None = None,
) -> list[dict[str, Any]]:
  """Median times of oido and transformers, alternating in separate processes.

  For WavLM also the time of HuBERT, which differs from it only in the position bias.

  Args:
    size: a size of the model.
    batch: clips per batch.
    clip_seconds: length of each clip.
    repeats: number of rounds; medians are reported.
    model: 'wav2vec2', 'hubert' or 'wavlm'.
    dtype: compute dtype of both; None for 'bfloat16' on a GPU and 'float32' elsewhere.

  Returns:
    A row for each of PARTS: seconds of both, `ratio` torch / ours (above 1: ours is faster),
    audio-seconds per second, FLOPs (`train.flops`), MFU if the chip's peak is known. One
    more row for WavLM, where `ratio` is HuBERT / WavLM.
  """
  if dtype is None:
    dtype = 'bfloat16' if jax.devices()[0].platform == 'gpu' else 'float32'
  settings = dict(size=size, batch=batch, clip_seconds=clip_seconds, dtype=dtype)
  peers: list[tuple[str, str, Callable[..., Any], str]] = [
    (part, 'transformers', make_theirs, model) for part in PARTS
  ]
  if model == 'wavlm':
    peers.append(('backward', 'hubert', make_ours, 'hubert'))
  rows = []
  for part, name, make, theirs_model in peers:
    arguments = dict(settings, part=part)
    with (
      timing.Worker(make, **arguments, model=theirs_model) as theirs,
      timing.Worker(make_ours, **arguments, model=model) as ours,
    ):
      taken = timing.rounds({'oido': ours, name: theirs}, repeats, warmup=2)
      facts = dict(ours.facts)
    device = jax.devices()[0].device_kind
    about = {**arguments, **facts, 'model': model, 'device': device}
    for row in timing.compare(taken, 'oido', **about):
      row['audio_seconds_per_second'] = batch * clip_seconds / row['ours_seconds']
      row['mfu'] = hardware.mfu(row['step_flops'], row['ours_seconds'])
      rows.append(row)
  return rows
