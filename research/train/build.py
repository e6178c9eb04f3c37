"""The one place where names become objects: a config of plain values in, models, objectives and
data out."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optax
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh

from research import models, objectives
from research.audio import fields, pipeline, sources
from research.audio.bad_files import BadFiles
from research.capabilities import Freezes, Hears, NeedsFields, mixes_rows
from research.errors import InputError
from research.features import augment
from research.features.waveform import Waveform
from research.models.finetuned import encoder_place, flat_arguments, replaced
from research.train import optim, sharding, step


def model(config: Mapping[str, Any]) -> nn.Module:
  """The model that `config['model']` describes."""
  spec = config['model']
  made = models.get(spec['name'])(**spec['args'])
  rate = made.frontend.sample_rate if isinstance(made, Hears) else None
  if rate is not None and rate != config['data']['sample_rate']:
    raise InputError(
      f'config.data.sample_rate is {config["data"]["sample_rate"]} Hz and the front-end of the '
      f'model takes {rate} Hz: set both alike (config.{encoder_place(made)}.frontend.sample_rate).'
    )
  return made


def optimizer(
  config: Mapping[str, Any], model: nn.Module, schedule: optim.Schedule
) -> optax.GradientTransformation:
  """The optimiser that `config['optim']` describes; what the model freezes stays as it is."""
  frozen = (*config['optim']['frozen'], *(model.frozen if isinstance(model, Freezes) else ()))
  if adapters := config.get('adapters'):
    learned = '|'.join(filter(None, (r'/lora_[ab]$', adapters['trained'])))
    frozen += (f'^(?!.*({learned}))',)
  return optim.make_optimizer({**config['optim'], 'frozen': frozen}, schedule)


def objective(config: Mapping[str, Any]) -> Callable[..., Any]:
  """`(out, batch) -> (loss, metrics)`."""
  spec = config['objective']
  function = objectives.get(spec['name'])
  args = dict(spec['args'])

  def loss(out, batch):
    try:
      return function(out, batch, **args)
    except KeyError as error:
      raise InputError(
        f'Objective {spec["name"]} reads {error}, which neither the model gives ({_named(out)}) '
        f'nor the batch holds ({_named(batch)}): set config.data.fields, or another objective.'
      ) from error

  return loss


def _named(arrays: Mapping[str, Any]) -> str:
  return ', '.join(sorted(arrays))


def augmentations(config: Mapping[str, Any]) -> list[Callable[..., Any]]:
  """Functions `(key, batch) -> batch` in the order of the config."""

  def bind(spec):
    function, args = augment.AUGMENTATIONS[spec['name']], dict(spec['args'])
    return lambda key, batch: function(key, batch, **args)

  return [bind(spec) for spec in config['augment']]


def train_step(
  config: Mapping[str, Any],
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  schedule: optim.Schedule,
  total: int,
) -> Callable[..., Any]:
  """The step of a run of `total` steps, see `step.make_train_step`."""
  teacher = config['teacher']
  if teacher and teacher['decay_end'] is not None and not teacher['decay_steps']:
    teacher = {**teacher, 'decay_steps': total}
  return step.make_train_step(
    model,
    objective(config),
    optimizer,
    schedule=schedule,
    augment=augmentations(config),
    accumulate=config['optim']['accumulate'],
    teacher=teacher,
    adapters=config.get('adapters'),
    groups={name: group['match'] for name, group in config['optim']['groups'].items()},
  )


def without_remat(model: nn.Module) -> nn.Module:
  """The model that keeps its activations, whose FLOPs count; the same where it does anyway."""
  return replaced(model, remat=False) if flat_arguments(model).get('remat') else model


def fields_for(data: Mapping[str, Any], model: Any) -> tuple[fields.Field, ...]:
  """The fields that `config['data']` names, and those that the front-end of a model reads.

  Raises:
    InputError: the model needs a field that is not there.
  """
  given = {k: v for k, v in data['fields'].items() if v is not None}
  if isinstance(model, NeedsFields):
    for key, told in model.NEEDS.items():
      if key not in given:
        raise InputError(told)
  frontend = model.frontend if isinstance(model, Hears) else None
  asked = frontend.fields if isinstance(frontend, Waveform) else ()
  return fields.make({**given, **{key: {} for key in asked}})


def example_batch(
  config: Mapping[str, Any], model: nn.Module, clips: int, seconds: float
) -> dict[str, np.ndarray]:
  """Zeros of the shapes of a training batch of N clips of that length, without data.

  A field that the model needs and the config does not set yet is there all the same.
  """
  data = config['data']
  needed = model.NEEDS if isinstance(model, NeedsFields) else {}
  unset = {key: '' for key in needed if data['fields'].get(key) is None}
  samples = round(seconds * data['sample_rate'])
  batch: dict[str, np.ndarray] = {
    'audio': np.zeros((clips, samples), np.float32),
    'audio_mask': np.ones((clips, samples), bool),
    'index': np.zeros(clips, np.int32),
    'valid': np.ones(clips, bool),
  }
  context = fields.Context(data['sample_rate'], model, data['root'])
  for field in fields_for({**data, 'fields': {**data['fields'], **unset}}, model):
    batch |= field.example(context, clips, samples)
  return batch


def fill_to(config: Mapping[str, Any], model: nn.Module, mesh: Mesh | AbstractMesh) -> int:
  """Devices x micro-batches that split a batch: rows are filled up to a multiple.

  Raises:
    InputError: the model cannot have empty rows in its batches.
  """
  parts = sharding.batch_devices(mesh) * config['optim']['accumulate']
  key = 'batch_size' if config['data']['batch_seconds'] is None else 'batch_multiple'
  if config['data'][key] % parts and mixes_rows(model):
    raise InputError(
      f'config.data.{key} is {config["data"][key]}; it must be a multiple of {parts} (devices that '
      f'split a batch x optim.accumulate): {config["model"]["name"]} computes statistics over all '
      'rows, so a batch cannot be filled up with empty ones.'
    )
  return parts


def train_batches(
  data: Mapping[str, Any],
  clips: sources.Source,
  *,
  process: tuple[int, int] = (0, 1),
  fill_to: int = 1,
  bad_files: BadFiles | None = None,
  model: nn.Module | None = None,
) -> pipeline.Batches:
  """The training batches that `config['data']` describes, for a model.

  Args:
    data: `config['data']`.
    clips: the clips.
    process: which part of every batch to read, and number of parts (`sharding.batch_part`).
    fill_to: rows are filled up to a multiple of it.
    bad_files: counts bad files.
    model: the model to train.

  Raises:
    InputError: fields that do not suit the clips or the model.
  """
  names = (
    'batch_size', 'batch_seconds', 'batch_multiple', 'sample_rate', 'seconds', 'crop', 'buckets',
    'fill', 'weights', 'seed', 'shuffle', 'num_threads', 'num_workers', 'prefetch', 'root',
  )  # fmt: skip
  return pipeline.train_batches(
    clips,
    fields=fields_for(data, model),
    model=model,
    process_index=process[0],
    process_count=process[1],
    fill_to=fill_to,
    bad_files=bad_files,
    **{name: data[name] for name in names},
  )


def length(
  config: Mapping[str, Any], rows: int, batch_rows: float | None = None
) -> tuple[int, float]:
  """(total steps, steps in an epoch) of a run over `rows` clips (`data.epoch_size` overrides),
  `batch_rows` of them a step on average (None: the batch size)."""
  data = config['data']
  epoch = (data['epoch_size'] or rows) / (data['batch_size'] if batch_rows is None else batch_rows)
  if config['total_steps'] is not None:
    return config['total_steps'], epoch
  # As DistributedSampler with drop_last only whole batches count; of unequal ones every batch does,
  # see `mean_rows` of the pipeline.
  whole = max(int(epoch + 1e-6), 1)
  return whole * config['epochs'], whole
