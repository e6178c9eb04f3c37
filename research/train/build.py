"""The one place where names become objects: a config of plain values in, models, objectives and
data out."""

from collections.abc import Callable, Mapping
from typing import Any

import optax
from flax import linen as nn

from research import models, objectives
from research.audio import pipeline, sources
from research.audio.bad_files import BadFiles
from research.audio.fields import transcripts
from research.audio.fields.units import open_sets
from research.capabilities import Freezes, Hears
from research.errors import InputError
from research.features import augment
from research.features.waveform import Waveform
from research.models.finetuned import encoder_place
from research.text import characters
from research.train import optim


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
  return optim.make_optimizer({**config['optim'], 'frozen': frozen}, schedule)


def objective(config: Mapping[str, Any]) -> Callable[..., Any]:
  """`(out, batch) -> (loss, metrics)`."""
  spec = config['objective']
  function = objectives.get(spec['name'])
  args = dict(spec['args'])
  return lambda out, batch: function(out, batch, **args)


def augmentations(config: Mapping[str, Any]) -> list[Callable[..., Any]]:
  """Functions `(key, batch) -> batch` in the order of the config."""

  def bind(spec):
    function, args = augment.AUGMENTATIONS[spec['name']], dict(spec['args'])
    return lambda key, batch: function(key, batch, **args)

  return [bind(spec) for spec in config['augment']]


def train_batches(
  data: Mapping[str, Any],
  clips: sources.Source,
  *,
  process_index: int,
  process_count: int,
  bad_files: BadFiles | None,
  model: nn.Module | None = None,
) -> pipeline.Batches:
  """The training batches that `config['data']` describes, for a model.

  Raises:
    InputError: the model learns from other units.
  """
  if hasattr(model, 'sets'):
    _demand_units(model, data)
  names = (
    'batch_size', 'batch_seconds', 'batch_multiple', 'sample_rate', 'seconds', 'crop', 'buckets',
    'fill', 'label', 'transcript', 'units', 'weights', 'seed', 'shuffle', 'num_threads',
    'num_workers', 'prefetch',
  )  # fmt: skip
  noise = data['noise']
  batches = pipeline.train_batches(
    clips,
    noise=None if noise is None else sources.open_source(noise, root=data['root']),
    process_index=process_index,
    process_count=process_count,
    bad_files=bad_files,
    symbols=getattr(model, 'vocabulary', characters.LETTERS),
    moments=normalises(model),
    **{name: data[name] for name in names},
  )
  tokens, symbols = batches.loader.tokens, getattr(model, 'vocabulary', ())
  if tokens is not None and symbols:
    transcripts.demand_letters(transcripts.texts(clips, data['transcript']), symbols)
    frontend = getattr(model, 'frontend', None)
    if isinstance(frontend, Waveform):
      tokens.demand_room(lambda seconds: frontend.frames(round(seconds * data['sample_rate'])))
  return batches


def normalises(model: Any) -> bool:
  """Whether a model normalises the waveform."""
  frontend = getattr(model, 'frontend', None)
  return isinstance(frontend, Waveform) and frontend.normalise


def _demand_units(model: Any, data: Mapping[str, Any]) -> None:
  """Raises InputError where the units of the data are not those that the model expects."""
  if data['units'] is None:
    raise InputError(
      f'{model.TITLE} learns from units: set config.data.units to a folder of them, which '
      'python -m launch.label_kmeans makes.'
    )
  sets = open_sets(data['units'])
  counts = tuple(units.clusters for units in sets)
  if counts != model.sets:
    codes = counts[0] if len(counts) == 1 else list(counts)
    raise InputError(
      f'config.model.args.codes is {model.codes}, but the units of config.data.units have '
      f'{" and ".join(map(str, counts))} clusters: set --config.model.args.codes={codes}.'
    )
  if sets[0].rate != model.label_rate:
    raise InputError(
      f'config.model.args.label_rate is {model.label_rate:g}, but there are {sets[0].rate:g} units '
      f'a second in config.data.units: set --config.model.args.label_rate={sets[0].rate:g}.'
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
