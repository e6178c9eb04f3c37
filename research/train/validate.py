"""Evaluations during training: validation loss and scores, transcription error rates, pictures."""

import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from research.audio import pipeline
from research.audio.fields import transcript
from research.audio.fields.transcript import Transcript
from research.audio.fields.whisper import TIMES, Whisper
from research.capabilities import Draws, spells
from research.errors import InputError, listed, unknown
from research.evals import judges
from research.inference import ctc
from research.metrics import asr, classification
from research.nn import adapters as lora
from research.report import players
from research.text import characters, normalize
from research.train import build, selection, sharding
from research.train.config import DATA
from research.train.judging import Judging
from research.train.state import State, streams


@dataclasses.dataclass(frozen=True)
class Run:
  """The parts of a run that evaluators use; `held`: clips given to evaluations by their names."""

  config: Mapping[str, Any]
  model: Any
  objective: Callable[..., Any]
  mesh: Mesh
  workdir: Path
  writer: Any
  held: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def rows(self, name: str, data: Mapping[str, Any], batches: int | None) -> Any:
    """The clips of an evaluation that have all fields: those that were given under its name, else
    those that its data select; `batches` of them."""
    given = self.held.get(name)
    found = selection.known(selection.source(data) if given is None else given, data)
    return _subset(found, self, data, batches)


Evaluator = Callable[[int, State], dict[str, float]]


def _data(run: Run, spec: Mapping[str, Any]) -> dict[str, Any]:
  """The training data config, overridden by the settings of the evaluation."""
  known = set(DATA)
  for key in spec['data']:
    if key not in known:
      raise unknown('setting of an evaluation', f'data.{key}', known)
  data = {**run.config['data'], **spec['data']}
  data['fields'] = {**run.config['data']['fields'], **(spec['data'].get('fields') or {})}
  if data['batch_seconds'] is not None and 'batch_size' not in spec['data']:
    # Clips of all lengths are batched together: as many as a training batch has of the longest.
    lengths = data['buckets'] if isinstance(data['buckets'], list | tuple) else ()
    longest = max((data['seconds'] or 0.0, *lengths))
    if longest > 0:
      data['batch_size'] = max(1, min(data['batch_size'], int(data['batch_seconds'] / longest)))
  return data


def _batch_size(run: Run, data: Mapping[str, Any], rows: Any) -> int:
  parts = sharding.batch_devices(run.mesh)
  return -(-min(data['batch_size'], len(rows)) // parts) * parts


def _subset(rows: Any, run: Run, data: Mapping[str, Any], batches: int | None) -> Any:
  """Clips for N = `batches` batches, spread evenly over durations (None or 0: all clips)."""
  count = (batches or 0) * _batch_size(run, data, rows)
  if not 0 < count < len(rows):
    return rows
  by_length = np.argsort(rows.durations(), kind='stable')
  places = (2 * np.arange(count) + 1) * len(rows) // (2 * count)
  return rows.select(np.sort(by_length[places]).tolist())


def _batches(run: Run, data: Mapping[str, Any], rows: Any) -> Any:
  chosen = build.fields_for(data, run.model)
  index, count = sharding.batch_part(run.mesh)
  return pipeline.eval_batches(
    rows,
    batch_size=_batch_size(run, data, rows),
    sample_rate=data['sample_rate'],
    # A cropped clip does not match its transcript.
    max_seconds=None if any(field.WHOLE for field in chosen) else data['seconds'],
    fields=chosen,
    model=run.model,
    root=data['root'],
    process_index=index,
    process_count=count,
    num_threads=data['num_threads'],
  )


def validation(run: Run, name: str, spec: Mapping[str, Any]) -> Evaluator:
  """The objective on validation clips with fixed random keys; also accuracy or mAP if the model
  returns logits."""
  data = _data(run, spec)
  rows = run.rows(name, data, spec['batches'])
  teacher_forward = bool((run.config['teacher'] or {}).get('forward'))
  replicated = NamedSharding(run.mesh, PartitionSpec())

  def evaluate(state: State, batch: Mapping[str, jax.Array], index: jax.Array) -> Any:
    rngs = streams(jax.random.fold_in(jax.random.key(0), index))
    variables = state.weights()
    out = run.model.apply(variables, batch, train=False, rngs=rngs)
    if teacher_forward:
      teacher = {'params': lora.effective(state.teacher['params']), **state.teacher['variables']}
      teacher_batch = {**batch, **out.pop('to_teacher', {})}
      out['teacher'] = run.model.apply(teacher, teacher_batch, train=False, rngs=rngs)
    loss, metrics = run.objective(out, batch)
    metrics.pop('variables', None)  # what it keeps between steps of training
    # Weight by the number of terms in the mean loss, as for micro-batches in training.
    weight = metrics.get('sample_size', jnp.sum(batch['valid'], dtype=jnp.float32))
    logits = out.get('logits')  # of clips; others are of tokens
    of_clips = logits is not None and logits.ndim == 2
    return {'loss': loss, **metrics}, weight, logits if of_clips else None

  jitted = jax.jit(evaluate, out_shardings=replicated)

  def run_once(step: int, state: State) -> dict[str, float]:
    del step
    totals: dict[str, float] = {}
    weight_sum = 0.0
    logits_all, labels_all = [], []
    for i, batch in enumerate(_batches(run, data, rows)):
      on_devices = sharding.to_devices(batch, run.mesh)
      metrics, weight, logits = jax.device_get(jitted(state, on_devices, jnp.int32(i)))
      weight_sum += float(weight)
      for k, v in metrics.items():
        totals[k] = totals.get(k, 0.0) + float(v) * float(weight)
      if logits is not None and 'label' in batch:
        gather = jax.jit(lambda b: (b['label'], b['valid']), out_shardings=replicated)
        labels, valid = jax.device_get(gather(on_devices))
        logits_all.append(logits[valid])
        labels_all.append(labels[valid])
    result = {f'{name}/{k}': v / max(weight_sum, 1.0) for k, v in totals.items()}
    if 'sample_size' in totals:
      result[f'{name}/sample_size'] = weight_sum
    if logits_all:
      logits, labels = np.concatenate(logits_all), np.concatenate(labels_all)
      if labels.ndim == 1:
        result[f'{name}/accuracy'] = classification.accuracy(logits, labels)
      else:
        result[f'{name}/mAP'] = classification.mean_average_precision(logits, labels)
    return result

  return run_once


def transcription(run: Run, name: str, spec: Mapping[str, Any]) -> Evaluator:
  """Word and character error rates, in percent, of greedy decoding on validation clips."""
  data = _data(run, spec)
  chosen = build.fields_for(data, run.model)
  written = next((f for f in chosen if isinstance(f, Whisper)), None)
  if written is not None:
    return _whisper_transcription(run, name, spec, data, written)
  field = next((f for f in chosen if isinstance(f, Transcript)), None)
  if field is None or not spells(run.model):
    raise InputError(
      f'config.evals.{name} is a transcription: it needs config.data.fields.transcript, the '
      'column of the transcripts, and a model with a vocabulary.'
    )
  rows = run.rows(name, data, spec['batches'])
  texts = transcript.texts(rows, field.column)
  symbols, blank = run.model.vocabulary, run.model.blank
  replicated = NamedSharding(run.mesh, PartitionSpec())

  def decode(state: State, batch: Mapping[str, jax.Array]) -> Any:
    variables = state.weights()
    out = run.model.apply(variables, batch, train=False)
    codes = jnp.where(out['frame_mask'], out['logits'].argmax(-1), blank)
    return codes, batch['index'], batch['valid']

  jitted = jax.jit(decode, out_shardings=replicated)

  def run_once(step: int, state: State) -> dict[str, float]:
    del step
    references, hypotheses = [], []
    for batch in _batches(run, data, rows):
      decoded = jax.device_get(jitted(state, sharding.to_devices(batch, run.mesh)))
      for codes, index, valid in zip(*decoded):
        if valid:
          hypotheses.append(characters.spell(ctc.collapse(codes, blank).ids, symbols))
          references.append(characters.in_case(texts[index], symbols))
    wer = asr.word_errors(references, hypotheses).rate
    cer = asr.character_errors(references, hypotheses).rate
    return {f'{name}/wer': 100 * wer, f'{name}/cer': 100 * cer}

  return run_once


def _whisper_transcription(
  run: Run, name: str, spec: Mapping[str, Any], data: Mapping[str, Any], field: Whisper
) -> Evaluator:
  """The same of a Whisper: without timestamps, of normalised texts."""
  from research.inference.whisper_decoding import Options, WhisperDecoder

  if jax.process_count() > 1:
    raise InputError(
      f'config.evals.{name} decodes with Whisper, which one process does alone: leave it out of '
      'runs of several, and evaluate their checkpoints with launch.transcribe.'
    )
  rows = run.rows(name, data, spec['batches'])
  texts = transcript.texts(rows, field.column)
  tokenizer = field.reader(run.model)
  normalized = normalize.normalize_english if tokenizer.language in (None, 'en') else (
    normalize.normalize_basic
  )  # fmt: skip
  options = Options(language=field.language, task=field.task, without_timestamps=True)

  def run_once(step: int, state: State) -> dict[str, float]:
    del step
    decoder = WhisperDecoder(run.model, state.weights(), tokenizer)
    references, hypotheses = [], []
    for batch in _batches(run, data, rows):
      found = decoder.decode(decoder.listen(batch['audio'], batch['audio_mask']), options)
      for result, index, valid in zip(found, batch['index'], batch['valid']):
        if valid:
          hypotheses.append(normalized(result.text))
          references.append(normalized(TIMES.sub(' ', texts[index])))
    wer = asr.word_errors(references, hypotheses).rate
    cer = asr.character_errors(references, hypotheses).rate
    return {f'{name}/wer': 100 * wer, f'{name}/cer': 100 * cer}

  return run_once


def pictures(run: Run, name: str, spec: Mapping[str, Any]) -> Evaluator:
  """The model's `picture` of a few clips, in pictures.npz (for the report) and TensorBoard."""
  if not isinstance(run.model, Draws):
    raise InputError(
      f'config.evals.{name} draws pictures, but model {run.config["model"]["name"]} has none. '
      'Remove this evaluation.'
    )
  data = {**_data(run, spec), 'batch_size': spec['args'].get('count', 4)}
  rows = selection.known(selection.source(data), data)
  count = min(spec['args'].get('count', 4), len(rows))
  chosen = rows.select(np.linspace(0, len(rows) - 1, count).round().astype(int).tolist())
  # The objective defines what is predicted, so the picture takes the arguments they share.
  objective_args = run.config['objective'].get('args') or {}
  accepted = inspect.signature(run.model.picture).parameters
  shared = {k: v for k, v in dict(objective_args).items() if k in accepted}

  def draw(state: State, batch: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
    variables = state.weights()
    rngs = streams(jax.random.key(0))
    drawn = run.model.apply(variables, batch, rngs=rngs, method='picture', **shared)
    return drawn, batch['valid']

  jitted = jax.jit(draw, out_shardings=NamedSharding(run.mesh, PartitionSpec()))

  def run_once(step: int, state: State) -> dict[str, float]:
    panels: dict[str, list[np.ndarray]] = {}
    sounds: list[np.ndarray] = []
    for batch in _batches(run, data, chosen):
      drawn, valid = jax.device_get(jitted(state, sharding.to_devices(batch, run.mesh)))
      for panel, values in drawn.items():
        panels.setdefault(panel, []).extend(values[valid])
      if jax.process_count() == 1:  # else a process has some of the clips only
        sounds += [x[m] for x, m in zip(batch['audio'][valid], batch['audio_mask'][valid])]
    if jax.process_index() == 0:
      arrays: dict[str, Any] = {k: _stacked(v[:count]) for k, v in panels.items()}
      partial = run.workdir / 'pictures.partial.npz'
      rate, names = run.model.frontend.sample_rate, [chosen.id(i) for i in range(count)]
      heard: dict[str, Any] = players.arrays(sounds[:count], rate, names)
      np.savez_compressed(partial, **arrays, **heard)
      partial.replace(run.workdir / 'pictures.npz')
      for panel, values in arrays.items():
        run.writer.picture(step, f'{name}/{panel}', np.flipud(values[0].T))
    return {}

  return run_once


def _stacked(panels: list[np.ndarray]) -> np.ndarray:
  """Panels [s, f] of unequal lengths as one array [b, s, f], ends at the lowest value of each."""
  longest = max(len(x) for x in panels)
  ends = [((0, longest - len(x)), (0, 0)) for x in panels]
  return np.stack([np.pad(x, end, constant_values=x.min()) for x, end in zip(panels, ends)])


def judged(run: Run, name: str, spec: Mapping[str, Any]) -> Evaluator:
  """The metrics of a task on held-out clips, by the judge that `args.judge` describes."""
  data = _data(run, spec)
  rows = run.rows(name, data, spec['batches'])
  if 'judge' not in spec['args']:
    raise InputError(f'config.evals.{name} is judged: set config.evals.{name}.args.judge.name.')
  judging = Judging(run.model, data, rows, judges.get(spec['args']['judge']), run.mesh)

  def run_once(step: int, state: State) -> dict[str, float]:
    del step
    return {f'{name}/{k}': v for k, v in judging(state.weights()).items()}

  return run_once


EVALUATORS: dict[str, Callable[[Run, str, Mapping[str, Any]], Evaluator]] = dict(
  validation=validation, transcription=transcription, pictures=pictures, judged=judged
)


def make_evaluators(run: Run) -> dict[str, tuple[int | None, Evaluator]]:
  """{name: (interval in steps or None for the end only, evaluator)} from `config.evals`."""
  made = {}
  for name, spec in run.config['evals'].items():
    kind = spec['name'] or name
    if kind not in EVALUATORS:
      raise unknown('evaluation', kind, EVALUATORS)
    made[name] = (spec['every'], EVALUATORS[kind](run, name, spec))
  return made


class Evaluations:
  """Runs the evaluations when they are due and keeps their latest scores.

  Args:
    run: the run to evaluate.
    total: the last step.
    log: prints a line.
  """

  def __init__(self, run: Run, total: int, log: Callable[[str], None]):
    self.run, self.total, self.log = run, total, log
    self.evaluators = make_evaluators(run)
    self.best = run.config['checkpoint']['best'] or ''
    self.scores: dict[str, float] = {}
    self._newest: tuple[int, dict[str, float]] = (0, {})

  def metrics_at(self, step: int) -> dict[str, float] | None:
    """Metrics computed at this step; used to rank the checkpoint. None if there are none."""
    return self._newest[1] if self._newest[0] == step else None

  def __call__(self, step: int, state: State, at_end: bool = False) -> None:
    """Runs the evaluations that are due; at the end, those that the last step did not run.

    The evaluation that ranks checkpoints is also due at the last step, before it is saved.
    """
    for name, (every, evaluator) in self.evaluators.items():
      ranks = name == self.best.split('/')[0]
      due = bool(every and step % every == 0) or (ranks and step == self.total)
      if due == at_end:
        continue
      start = time.perf_counter()
      found = evaluator(step, state)
      if ranks and self.best not in found:
        self.log(
          f'warning: config.checkpoint.best is {self.best!r}, which is not among the metrics of '
          f'the evaluation ({listed(found)}). No checkpoint is kept as the best.'
        )
      self.scores.update(found)
      self._newest = step, {**(self.metrics_at(step) or {}), **found}
      if found:
        seconds = {f'{name}/seconds': time.perf_counter() - start}
        self.run.writer.scalars(step, {**found, **seconds})
        self.log(f'step {step}: ' + ' '.join(f'{k}={v:.4g}' for k, v in found.items()))
