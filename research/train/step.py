"""One optimiser step as a pure function, independent of the loop."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from research.nn import adapters as lora
from research.train import flops, hardware, optim
from research.train.health import signals
from research.train.state import State, Tree, path_name, streams, teacher_collections

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Objective = Callable[[dict[str, Any], Batch], tuple[jax.Array, dict[str, Any]]]


def forward(
  model: nn.Module, params: Tree, variables: Tree, batch: Batch, key: jax.Array
) -> tuple[dict[str, Any], Tree]:
  """Applies the model in training mode: (named outputs, updated collections)."""
  out, updated = model.apply(
    {'params': lora.effective(params), **variables},
    batch,
    train=True,
    rngs=streams(key),
    mutable=list(variables),
  )
  return out, {**variables, **updated}


def kept_apart(metrics: Mapping[str, Any], variables: Tree) -> tuple[Metrics, Tree]:
  """(metrics, collections) after an objective that keeps something between steps.

  It reads what it kept from the outputs of the model, whose collection it is, and gives it back as
  metrics['variables'], {collection: tree}. So it is state like that of the model: saved, undone by
  a step that is not finite, and carried from micro-batch to micro-batch.
  """
  metrics = dict(metrics)
  kept = metrics.pop('variables', {})
  if set(kept) - set(variables):
    raise ValueError(f'objective keeps {sorted(kept)}; the model has {sorted(variables)}.')
  return metrics, {**variables, **kept}


def ema_decay(teacher: Mapping[str, Any], step: jax.Array) -> jax.Array:
  """EMA decay of the teacher: `decay`, or linear from it to `decay_end` over `decay_steps`."""
  start = jnp.float32(teacher['decay'])
  if teacher.get('decay_end') is None:
    return start
  t = jnp.clip(step.astype(jnp.float32) / teacher['decay_steps'], 0.0, 1.0)
  return start + (teacher['decay_end'] - start) * t


def _split(batch: Batch, parts: int) -> dict[str, jax.Array]:
  # Interleaved rows: each micro-batch has rows of every device, so no data moves.
  return {k: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for k, x in batch.items()}


def _clips(batch: Batch) -> jax.Array | float:
  """Number of clips that are not fillers, relative to the rows."""
  return batch['valid'].astype(jnp.float32).mean() if 'valid' in batch else 1.0


def make_gradient(
  model: nn.Module,
  objective: Objective,
  accumulate: int,
  teacher_forward: bool,
  adapters: Mapping[str, Any] | None = None,
) -> Callable[[State, Batch, jax.Array], tuple[Tree, Tree, Tree, Metrics]]:
  """`(state, batch, key) -> (gradients, variables, teacher variables, metrics)`.

  With `accumulate` > 1 the batch is split into that many micro-batches, run in sequence. Losses and
  gradients are averaged, weighted by `metrics['sample_size']` if the objective returns one, else by
  the number of clips.
  """

  def loss_fn(params, variables, teacher, batch, key):
    if adapters:  # Gradients of what does not learn are not computed.
      params = jax.tree_util.tree_map_with_path(
        lambda path, x: (
          x if lora.trained(path_name(path), adapters['trained']) else jax.lax.stop_gradient(x)
        ),
        params,
      )
    out, variables = forward(model, params, variables, batch, key)
    if teacher_forward:
      teacher_batch = {**batch, **out.pop('to_teacher', {})}
      teacher_out, teacher_variables = forward(
        model, teacher['params'], teacher['variables'], teacher_batch, key
      )
      out['teacher'] = jax.lax.stop_gradient(teacher_out)
      teacher = {**teacher, 'variables': teacher_variables}
    loss, metrics = objective(out, batch)
    metrics, variables = kept_apart(metrics, variables)
    loss = loss.astype(jnp.float32)
    return loss, (variables, teacher, {'loss': loss, **metrics, **signals(out, batch.get('valid'))})

  value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

  def whole(state: State, batch: Batch, key: jax.Array):
    (_, aux), grads = value_and_grad(state.params, state.variables, state.teacher, batch, key)
    return grads, *aux

  def in_parts(state: State, batch: Batch, key: jax.Array):
    def body(carry, part):
      variables, teacher, total, grads = carry
      index, rows = part
      part_key = jax.random.fold_in(key, index)
      variables = {**variables, **counters}
      (_, aux), g = value_and_grad(state.params, variables, teacher, rows, part_key)
      variables, teacher, metrics = aux
      weight = jnp.asarray(metrics.get('sample_size', _clips(rows)), jnp.float32)
      grads = jax.tree.map(lambda a, b: a + weight * b, grads, g)
      return (variables, teacher, total + weight, grads), (weight, metrics)

    # Counters count optimiser updates, so every micro-batch starts from the same ones.
    counters = {k: v for k, v in state.variables.items() if k == 'counters'}
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    start = (state.variables, state.teacher, jnp.float32(0.0), zeros)
    parts = (jnp.arange(accumulate), _split(batch, accumulate))
    (variables, teacher, total, grads), (weights, metrics) = jax.lax.scan(body, start, parts)
    # A total of 0 is a batch without targets.
    counted = jnp.where(total > 0, total, 1.0)
    grads = jax.tree.map(lambda g: g / counted, grads)
    mean = {k: jnp.sum(weights * v) / counted for k, v in metrics.items()}
    if 'sample_size' in metrics:
      mean['sample_size'] = total
    return grads, variables, teacher, mean

  return whole if accumulate == 1 else in_parts


def make_train_step(
  model: nn.Module,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  *,
  schedule: Callable[[Any], jax.Array],
  augment: Sequence[Callable[[jax.Array, Batch], Batch]] = (),
  accumulate: int = 1,
  teacher: Mapping[str, Any] | None = None,
  adapters: Mapping[str, Any] | None = None,
  groups: Mapping[str, str] | None = None,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
  """`(state, batch) -> (state, metrics)`, to be jitted by the caller with the state donated.

  A step whose loss or gradient is not finite only advances the step counter and reports
  `finite = 0`, so the resulting state can always be saved.

  Args:
    model: `model(batch, train) -> dict`.
    objective: `(out, batch) -> (loss, metrics)`.
    optimizer: from `optim.make_optimizer`.
    schedule: learning rate, for the metrics.
    augment: functions `(key, batch) -> batch`, applied in order.
    accumulate: number of micro-batches.
    teacher: None, or dict(decay, decay_end, decay_steps, forward). With `forward` the teacher is
      applied to the same batch, updated by `out['to_teacher']`, with the same random keys; its
      outputs are `out['teacher']`.
    adapters: None, or `config['adapters']`: only adapters and what `trained` matches learn.
    groups: {name: pattern of its parameters}, see `optim.make_optimizer`. 'grad_norm' is that of
      the parameters in no group, 'grad_norm_NAME' that of a group.
  """
  teacher_forward = bool(teacher and teacher.get('forward'))
  gradient = make_gradient(model, objective, accumulate, teacher_forward, adapters)

  def step(state: State, batch: Batch) -> tuple[State, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    for i, transform in enumerate(augment):
      changed = dict(transform(jax.random.fold_in(key, 1000 + i), batch))
      # Statistics of the original clip do not describe augmented audio.
      unchanged = [changed.get(name) is batch.get(name) for name in ('audio', 'clip_stats')]
      if unchanged == [False, True]:
        changed.pop('clip_stats', None)
      batch = changed
    grads, variables, new_teacher, metrics = gradient(state, batch, key)

    # Update the parameters, then the teacher.
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    if teacher:
      decay = ema_decay(teacher, state.step)
      ema = jax.tree.map(lambda t, p: decay * t + (1 - decay) * p, state.teacher['params'], params)
      own = new_teacher['variables'] if teacher_forward else teacher_collections(variables)
      new_teacher = {'params': ema, 'variables': own}

    # A non-finite step is undone here, on the device, so that it can never be saved.
    norms = optim.group_norms(grads, groups or {})
    finite = jnp.isfinite(metrics['loss'])
    for norm in norms.values():
      finite = finite & jnp.isfinite(norm)
    old = (state.params, state.opt_state, state.teacher, state.variables)
    new = (params, opt_state, new_teacher, variables)
    new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    metrics = {
      **metrics,
      **norms,
      'learning_rate': schedule(state.step),
      'finite': finite.astype(jnp.float32),
    }
    if 'audio_mask' in batch:
      metrics['audio_samples'] = jnp.sum(batch['audio_mask'], dtype=jnp.float32)
    fields = dict(zip(('params', 'opt_state', 'teacher', 'variables'), new))
    return State(step=state.step + 1, key=state.key, **fields), metrics

  return step


def jit(step: Any, state_shardings: Any, mesh: Mesh) -> Any:
  """The step under `jax.jit` for a mesh, with the state donated."""
  return jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(state_shardings, NamedSharding(mesh, PartitionSpec())),
    compiler_options=hardware.compiler_options(mesh.devices.flat[0].platform),
  )


class Steps:
  """Compiled steps by batch shape (length buckets give several), with their model FLOPs.

  Attributes:
    compile_seconds: spent on compiling so far.
    flops: model FLOPs of the steps so far, per device of the mesh; those of padding and of empty
      rows count.
  """

  def __init__(self, step: Any, state_shardings: Any, mesh: Mesh, counted: Any = None):
    """`counted`: the step whose FLOPs are counted, that of the model without rematerialisation;
    None for `step`."""
    self._jit = jit(step, state_shardings, mesh)
    self._counted = None if counted is None else jit(counted, state_shardings, mesh)
    self._devices = mesh.size
    self._compiled: dict[Any, Any] = {}
    self.compile_seconds = 0.0
    self.flops = 0.0

  def __call__(self, state: State, batch: Mapping[str, jax.Array]) -> Any:
    shape = tuple((k, x.shape) for k, x in sorted(batch.items()))
    if shape not in self._compiled:
      start = time.perf_counter()
      traced = self._jit.trace(state, batch)
      # Tracing keeps the caller's promotion mode; lowering 16-bit attention needs 'standard'.
      with jax.numpy_dtype_promotion('standard'):
        compiled = traced.lower().compile()
      counted = traced if self._counted is None else self._counted.trace(state, batch)
      self._compiled[shape] = (compiled, flops.count(counted.jaxpr) / self._devices)
      self.compile_seconds += time.perf_counter() - start
    compiled, spent = self._compiled[shape]
    self.flops += spent
    return compiled(state, batch)
