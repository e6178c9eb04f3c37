"""What sampling with the model of a config would need on a slice: memory, and a bound on its speed.

A model that writes tokens one by one reads all of its weights and caches for each. So the bound is
that of memory, and with `fsdp` of the links, over which a chip has to get the weights of the others
at every step; `tensor` leaves them where they are. Nothing is compiled: units of a chip work at the
peak of the data sheet and overlap, and latencies of links are not counted. A real run is slower.
Letters: r rows, v vocabulary.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from research.capabilities import Answers, Generates, GeneratesAudio
from research.errors import InputError
from research.nn import precision
from research.train import flops, sharding
from research.train.planning import program
from research.train.planning.plan import gigabytes
from research.train.planning.topology import Topology

# Tokens of an answer, as the published evaluations allow.
ANSWER = 256


class Sampling:
  """Sampling of N rows at once.

  Attributes:
    rows: at once, over all chips.
    weights, caches: bytes that each chip holds.
    seconds: of a step, by unit: 'memory', 'links', 'compute'.
    step: the longest of them.
    tokens: of a window.
    audio: seconds of a window; nan of a model that answers.
  """

  def __init__(self, config: Mapping[str, Any], topology: Topology, rows: int | None = None):
    """
    Args:
      config: completed; its mesh fits the slice.
      topology: the slice.
      rows: windows at once; None: one for each part of the batch.

    Raises:
      InputError: the model does not write audio token by token, or rows that the mesh does not
        divide.
    """
    trained = program.Program(config)
    self.topology, self.params, model = topology, trained.params, trained.model
    if not (isinstance(model, Generates) and isinstance(model, GeneratesAudio | Answers)):
      raise InputError(
        f'{type(model).__name__} writes neither audio nor answers token by token, for which to '
        'plan: take a prior of Jukebox (experiments/jukebox) or an audio language model.'
      )
    mesh = program.abstract_mesh(config['mesh'], topology.chips)
    sizes = dict(mesh.shape)
    parts = sizes['data'] * sizes['fsdp']
    self.mesh, self.rows = sizes, parts if rows is None else rows
    if self.rows % parts:
      raise InputError(
        f'{self.rows} rows were given: expected a multiple of data x fsdp = {parts}.'
      )
    each, chip = self.rows // parts, topology.chip

    # Weights and caches. Answers come of weights in the model's dtype; priors hold float32, and
    # read it in the dtype of their products.
    self.answers = isinstance(model, Answers)
    params = trained.state.params
    held = precision.held(params, model.dtype) if self.answers else params
    self.weights = program.local_bytes(held, sharding.shardings(held, mesh))
    read = self.weights * (1.0 if self.answers else jnp.dtype(model.dtype).itemsize / 4)
    variables = {'params': params, **trained.state.variables}
    state = _state(model, variables, each)
    self.caches = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))

    # A step: `fsdp` brings the weights of the other chips.
    token = jax.ShapeDtypeStruct((each, 1), jnp.int32)
    step = jax.jit(lambda *given: model.apply(*given, method='step')[0])
    self.flops = parts * flops.count(step.trace(variables, token, state).jaxpr)
    others = read * (sizes['fsdp'] - 1)
    self.seconds = {
      'memory': (read * sizes['fsdp'] + self.caches) / chip.hbm_rate,
      'links': others / chip.link_rate,
      'compute': self.flops / topology.chips / chip.flops,
    }
    self.step = max(self.seconds.values())
    self.tokens = model.max_tokens
    self.audio = model.EMBEDDING.max_seconds or math.nan

  @property
  def error(self) -> str | None:
    """Why this would not run; None where nothing is known against it."""
    held, room = self.weights + self.caches, self.topology.chip.hbm_bytes
    if held <= room:
      return None
    return f'weights and caches have {gigabytes(held)} a chip, of {gigabytes(room)}'

  def rows_of_table(self) -> list[tuple[str, str]]:
    """(what, how much) of the table that `launch.plan` prints."""
    topology, room = self.topology, self.topology.chip.hbm_bytes
    mesh = ' x '.join(f'{axis} {size}' for axis, size in self.mesh.items() if size > 1)
    held = f'{gigabytes(self.weights + self.caches)} of {gigabytes(room)}'
    found = [
      ('slice', f'{topology.name}: {topology.chips} chips, {topology.hosts} hosts, {mesh}'),
      self._windows(),
      ('parameters', f'{self.params:,}'),
      ('held a chip', f'{held} (weights {gigabytes(self.weights)}, caches '
                      f'{gigabytes(self.caches)}); activations are not counted'),
      ('a token', f'{self.flops / 1e9:.4g} GFLOP over all rows'),
    ]  # fmt: skip
    if self.error:
      return [*found, ('does not run', self.error)]
    each = ', '.join(f'{name} {1e3 * s:.3g} ms' for name, s in self.seconds.items())
    bound = max(self.seconds, key=lambda name: self.seconds[name])
    whole = self.tokens * self.step
    return [
      *found,
      ('estimate: token', f'>= {1e3 * self.step:.3g} ms ({each}): {bound}-bound'),
      ('estimate: speed', f'<= {1 / self.step:.4g} tokens/s a row, {self.rows / self.step:.4g} in '
                          'all'),
      ('estimate: answer', f'>= {ANSWER * self.step:.4g} s for {ANSWER} tokens of each row')
      if self.answers
      else ('estimate: window', f'>= {whole:.4g} s for {self.audio:.4g} s of each row'),
    ]  # fmt: skip

  def _windows(self) -> tuple[str, str]:
    if self.answers:
      return 'prompts', f'{self.rows} at once, of up to {self.tokens:,} tokens with their answers'
    return 'windows', f'{self.rows} at once, of {self.tokens:,} tokens and {self.audio:.4g} s'


def _state(model: Any, variables: Any, rows: int) -> Any:
  """The state of windows of a prior of Jukebox, or of prompts with a window of audio each, with
  what they depend on, as shapes."""
  answers = isinstance(model, Answers)
  if answers:
    shape = rows, 1, model.window_samples
    batch = {
      'audio': jax.ShapeDtypeStruct(shape, jnp.float32),
      'audio_mask': jax.ShapeDtypeStruct(shape, jnp.bool_),
    }

    def heard(variables: Any, batch: Any) -> Any:
      memories = model.apply(variables, batch, method='remember')
      return model.start(rows, model.max_tokens, memories)

    return jax.eval_shape(heard, variables, batch)
  y = jax.ShapeDtypeStruct((rows, model.label_width), jnp.int32) if model.labels else None
  above = None
  if model.upsamples:
    above = jax.ShapeDtypeStruct((rows, model.n_ctx // model.ratio), jnp.int32)

  def start(variables: Any, y: Any, above: Any) -> Any:
    memories = model.apply(variables, y, above, method='remember')
    return model.start(rows, model.max_tokens, memories)

  return jax.eval_shape(start, variables, y, above)
