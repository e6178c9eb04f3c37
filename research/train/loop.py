"""The training loop, for any model, objective and mesh; a resumed run gives the same bits."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from research.audio.bad_files import BadFiles
from research.audio.sources import Source
from research.errors import InputError
from research.jobs import locks, mirror, paths
from research.train import build, hardware, optim, selection, sharding, validate
from research.train import step as step_lib
from research.train.checkpoint import Checkpointer
from research.train.config import complete
from research.train.console import Console
from research.train.feed import Feed
from research.train.health import Watch
from research.train.preemption import Stop
from research.train.state import State, count, init_state
from research.train.warm_parts import started
from research.train.workdir import make_workdir
from research.train.writer import Writer


@dataclasses.dataclass
class Result:
  """Final state, last metrics, and whether the run reached its last step."""

  state: State
  metrics: dict[str, float]
  finished: bool


def _window_metrics(
  window: list[Any], seconds: float, waited: float, flops: float, rate: int
) -> dict[str, float]:
  """Metrics of the steps since the last log line: means, throughput, current learning rate."""
  rows = jax.device_get(window)
  mean = {k: float(np.mean([r[k] for r in rows])) for k in rows[-1]}
  mean['learning_rate'] = float(rows[-1]['learning_rate'])
  samples = mean.pop('audio_samples', None)
  mean.pop('finite')
  step_seconds = seconds / len(rows)
  mean['step_seconds'] = step_seconds
  if samples is not None:
    mean['audio_seconds_per_second_per_chip'] = samples / rate / step_seconds / jax.device_count()
  mean['input_wait_fraction'] = min(waited / seconds, 1.0)
  mean['flops_per_second_per_chip'] = flops / seconds
  used = hardware.mfu(flops, seconds)
  if used is not None:
    mean['mfu'] = used
  return mean


@selection.opening_once()
def train(
  config: Mapping[str, Any] | ConfigDict,
  workdir: str | os.PathLike,
  quiet: bool = False,
  clips: Source | None = None,
  held: Mapping[str, Source] = {},
) -> Result:
  """Trains the model of `config` in `workdir`; resumes from the newest checkpoint if there is one.

  Args:
    config: config of an experiment; completed and checked here.
    workdir: folder of the run, of a disk or gs:// or s3://; the README lists its files.
    quiet: print nothing.
    clips: training clips that replace `config.data.source` (with its split and where).
    held: held-out clips that replace those of an evaluation, by its name.

  Raises:
    InputError: an invalid config, or the run must stop (bad files above the limit, a loss that is
      not finite, a full disk).
  """
  config = complete(config)
  workdir = paths.path(workdir, 'workdir')
  mesh = sharding.make_mesh(config['mesh'])
  with jax.set_mesh(mesh):
    return _Run(config, workdir, mesh, quiet, clips, held).run()


def _batch_text(data: Mapping[str, Any]) -> str:
  if data['batch_seconds'] is None:
    return f'{data["batch_size"]} clips'
  return f'at most {data["batch_seconds"]:g} s or {data["batch_size"]} clips'


class _Run:
  """One run: its setup and its loop."""

  def __init__(
    self,
    config: dict[str, Any],
    workdir: Any,
    mesh: Any,
    quiet: bool,
    clips: Source | None,
    held: Mapping[str, Source],
  ):
    self.config, self.mesh, self.held = config, mesh, held
    self.first = jax.process_index() == 0
    self.model = build.model(config)
    rows = selection.source(config['data']) if clips is None else clips
    rows = selection.usable(rows, config['data'])
    # Input: batches of this process.
    # Files that grow or are rewritten: in the workdir, or on their way to an object store.
    self.files = mirror.Mirror(workdir, ('bad_files*.jsonl',))
    bad_files = self.files.folder / 'bad_files.jsonl'
    limit = config['data']['max_bad_fraction']
    self.bad_files = BadFiles(bad_files, limit, process=jax.process_index())
    dataset = build.train_batches(
      config['data'],
      rows,
      process=sharding.batch_part(mesh),
      fill_to=build.fill_to(config, self.model, mesh),
      bad_files=self.bad_files,
      model=self.model,
    )
    self.iterator = iter(dataset)
    self.start_position = self.iterator.get_state()

    self.total, epoch = build.length(config, len(rows), dataset.mean_rows)
    schedule = optim.make_schedule(config['optim'], self.total, epoch)
    optimizer = build.optimizer(config, self.model, schedule)

    self.workdir = make_workdir(workdir, config)

    # State: shapes first, then shardings, then values created in place.
    batch = next(self.iterator)
    example = {k: np.zeros((1, *x.shape[1:]), x.dtype) for k, x in batch.items()}

    def fresh() -> State:
      teacher, adapters = bool(config['teacher']), config['adapters']
      return init_state(self.model, optimizer, example, config['seed'], teacher, adapters)

    shapes = jax.eval_shape(fresh)
    self.shardings = sharding.shardings(shapes, mesh)
    self.target = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.shardings
    )
    once = hardware.runs_once()
    self.fresh = jax.jit(fresh, out_shardings=self.shardings, compiler_options=once)
    options = {k: v for k, v in config['checkpoint'].items() if k != 'every'}
    self.checkpoints = Checkpointer(self.workdir / 'checkpoints', **options)
    args = (optimizer, schedule, self.total)
    step = build.train_step(config, self.model, *args)
    plain = build.without_remat(self.model)
    counted = None if plain is self.model else build.train_step(config, plain, *args)
    self.steps = step_lib.Steps(step, self.shardings, mesh, counted)
    self.objective, self.quiet = build.objective(config), quiet

  def start(self) -> tuple[State, Any]:
    """(state, input position): from the newest checkpoint, pretrained weights, or initialised."""
    restored = self.checkpoints.restore_newest(self.target)
    if restored is not None:
      return restored
    state = self.fresh()
    if self.config['init']:
      state = started(state, self.config['init'], self.model)
    return state, self.start_position

  def run(self) -> Result:
    state, position = self.start()
    self.step = int(state.step)
    if self.first:
      self.files.pull('metrics*.jsonl')
    self.writer = Writer(self.files.folder, self.step, self.first, parts=self.files.remote)
    self.console = Console(self.total, self.step, active=self.first and not self.quiet)
    run = validate.Run(
      self.config, self.model, self.objective, self.mesh, self.files.folder, self.writer, self.held
    )
    self.evaluations = validate.Evaluations(run, self.total, self.console.log)
    self.watch = Watch(self.config['watch'])
    verb = f'resumes from step {self.step}' if self.step else 'starts'
    self.console.log(
      f'{self.config["model"]["name"]}: {count(state.params):,} parameters, {self.total} steps of '
      f'{_batch_text(self.config["data"])} on {jax.device_count()} '
      f'{jax.devices()[0].platform} device(s); {verb} in {self.workdir}'
    )
    self.feed = Feed(self.iterator, lambda b: sharding.to_devices(b, self.mesh), position=position)
    try:
      with Stop() as stop:
        state, metrics = self.run_steps(state, stop)
      if self.step >= self.total:
        self.evaluations(self.step, state, at_end=True)
      self.checkpoints.wait(self.step)
    except KeyboardInterrupt:
      self.checkpoints.wait(self.step)
      raise
    except InputError:
      # A save that is under way is brought to its end. Others may never come to theirs.
      if jax.process_count() == 1:
        with contextlib.suppress(Exception):
          self.checkpoints.wait(self.step)
      raise
    finally:
      self.feed.close()
      self.writer.close()
      self.console.close()
      if self.first:
        self.bad_files.merge()
      self.files.close()
    self.checkpoints.close()
    locks.release(self.workdir)
    return Result(state, {**metrics, **self.evaluations.scores}, self.step >= self.total)

  def run_steps(self, state: State, stop: Stop) -> tuple[State, dict[str, float]]:
    config, last = self.config, {}
    window: list[Any] = []
    rewinds, saved = 0, self.step if self.step else None
    begin, waited, flops = time.perf_counter(), 0.0, 0.0
    compiled = self.steps.compile_seconds
    while self.step < self.total:
      self._profile()
      state, metrics = self.steps(state, next(self.feed))
      previous = window[-1] if window else None
      window.append(metrics)
      self.step += 1
      save = self.step % config['checkpoint']['every'] == 0 or self.step == self.total
      log = self.step % config['log_every'] == 0 or save
      # Check the previous step (already computed, so nothing blocks), and this one before it is
      # saved or logged.
      checked = [m for m in (previous, metrics if log else None) if m is not None]
      if any(not float(m['finite']) for m in checked):
        state, rewinds = self._not_finite(state, rewinds, saved)
        window = []
        continue
      self.console.step(self.step)
      if log:
        seconds = time.perf_counter() - begin - (self.steps.compile_seconds - compiled)
        waits, flop = self.feed.wait_seconds - waited, self.steps.flops - flops
        last = _window_metrics(window, seconds, waits, flop, config['data']['sample_rate'])
        self._log(last, seconds / len(window))
        window, waited, flops = [], self.feed.wait_seconds, self.steps.flops
      self.bad_files.check()
      self.evaluations(self.step, state)
      leave = stop.agreed(self.step)
      if save or leave:
        # What is logged up to here is there before the checkpoint from which a run goes on.
        self.writer.flush()
        self.files.push()
        locks.check(self.workdir)
        ranking = self.evaluations.metrics_at(self.step)
        self.checkpoints.save(self.step, state, self.feed.position, ranking)
        saved = self.step
      if log:
        begin, compiled = time.perf_counter(), self.steps.compile_seconds
      if leave:
        self.console.log(
          f'Stopped by a signal: step {self.step} is saved. Run the same command to resume.'
        )
        break
    return state, last

  def _log(self, metrics: dict[str, float], step_seconds: float) -> None:
    metrics['compile_seconds'] = self.steps.compile_seconds
    self.writer.scalars(self.step, metrics)
    self.console.metrics(self.step, metrics, (self.total - self.step) * step_seconds)
    for warning in self.watch.check(self.step, metrics):
      self.console.log(warning)
      self.writer.scalars(self.step, {'warning': warning})

  def _not_finite(self, state: State, rewinds: int, saved: int | None) -> tuple[State, int]:
    """Stops, or restores the newest checkpoint while the input continues past the bad batch."""
    text = f'The loss or its gradient was not finite near step {self.step}'
    good = f'the last good checkpoint is step {saved}' if saved else 'there is no checkpoint yet'
    advice = 'lower optim.lr, set optim.clip_norm, or check the data'
    if self.config['on_nan'] == 'stop':
      raise InputError(f"{text}; {good}. Try: {advice}; on_nan='rewind' skips such batches.")
    if rewinds >= self.config['max_rewinds']:
      raise InputError(f'{text}, after {rewinds} rewinds; {good}. Try: {advice}.')
    self.checkpoints.wait()
    restored = self.checkpoints.restore_newest(self.target)
    # A non-finite step does not change the state, so without a checkpoint it is still good.
    state = restored[0] if restored else state
    self.step = int(state.step)
    self.console.log(f'{text}: back to step {self.step}; the input continues.')
    return state, rewinds + 1

  def _profile(self) -> None:
    spec = self.config['profile']
    if spec and self.first:
      if self.step == spec['start']:
        jax.profiler.start_trace(str(self.files.folder / 'profile'))
      elif self.step == spec['start'] + spec['steps']:
        jax.profiler.stop_trace()
