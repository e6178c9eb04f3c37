"""Fine-tuning the whole model on a task, as a protocol of the evaluation: the same loop, one run a
fold."""

import dataclasses
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research import models, weights
from research.audio import pipeline
from research.audio.sources import Source
from research.capabilities import Encodes, HasTraining
from research.errors import InputError
from research.evals import protocols
from research.evals.tasks import Prepared
from research.metrics import classification
from research.models.finetuned import encoder_of, flat_arguments
from research.models.settings import arguments
from research.train import loop
from research.train.state import State


@dataclasses.dataclass(frozen=True)
class Finetune:
  """How a task is fine-tuned; the published AudioSet-20K recipe, with the length of the run in
  steps.

  Attributes:
    steps: optimiser steps a fold.
    batch_size: clips a step.
    lr: peak learning rate after a warm-up of a tenth of the steps, then half a cosine to 1e-6.
    layer_decay: factor of the learning rate from a block to the one below.
    weight_decay: of AdamW.
    seed: of head, order and draws.
  """

  steps: int = 500
  batch_size: int = 32
  lr: float = 5e-4
  layer_decay: float = 0.75
  weight_decay: float = 5e-4
  seed: int = 0


def config_for(
  loaded: weights.Pretrained, path: str | None, task: Prepared, settings: Finetune, seconds: float
) -> dict[str, Any]:
  """The config of a run that fine-tunes `loaded` on `task`.

  With `path` None the same model starts from a random initialisation.

  Raises:
    InputError: the model cannot stand under a head.
  """
  encoder: Any = encoder_of(loaded.model)
  if not isinstance(encoder, Encodes):
    raise InputError(f'{loaded.name} cannot be fine-tuned: it gives no hidden states for a head.')
  # Rates and masks are those of fine-tuning, unless the encoder has no vector for masked frames.
  rates = encoder.TRAINING if isinstance(encoder, HasTraining) else ()
  sizes = {k: v for k, v in arguments(encoder, defaults=False).items() if k not in rates}
  if not sizes.get('mask_embedding', True):
    sizes['mask_prob'] = 0.0
  parts = dict(
    encoder=dict(name=models.name_of(type(encoder)), args=sizes),
    head=dict(name='classifier', args=dict(classes=len(task.classes))),
  )
  multi = task.labels.ndim == 2
  return dict(
    seed=settings.seed,
    total_steps=settings.steps,
    data=dict(
      source=task.source.name,
      split=None,
      fields=dict(label=task.task.label),
      sample_rate=loaded.frontend.sample_rate,
      seconds=seconds,
      batch_size=settings.batch_size,
      seed=settings.seed,
    ),
    model=dict(name='finetuned', args=parts),
    # A head of pre-training may have the name of ours.
    init=None
    if path is None
    else dict(path=str(path), exclude='^params/(head|fc_norm)/', statistics='same'),
    objective=dict(name='binary_cross_entropy' if multi else 'cross_entropy'),
    optim=dict(
      name='adamw',
      lr=settings.lr,
      weight_decay=settings.weight_decay,
      no_decay=r'(^|/)(bias|scale|cls_token|pos_embed)$',
      layer_decay=dict(rate=settings.layer_decay),
      schedule=dict(name='cosine', warmup_fraction=0.1, final_lr=1e-6),
    ),
    log_every=50,
    checkpoint=dict(every=max(settings.steps // 2, 1), keep=1),
  )


def clip_seconds(loaded: weights.Pretrained, task: Prepared) -> float:
  """Length that clips are cut to: the task's, what the model takes at once, or the longest clip."""
  if task.task.seconds:
    return float(task.task.seconds)
  frames = flat_arguments(loaded.model).get('frames')
  if frames is not None:
    return float(loaded.frontend.samples(frames) / loaded.frontend.sample_rate)
  longest = float(np.nanmax(task.source.durations()))
  return min(longest, loaded.model.EMBEDDING.max_seconds or longest)  # type: ignore[attr-defined]


def predict(
  model: Any, state: State, source: Source, *, sample_rate: int, seconds: float, batch_size: int
) -> np.ndarray:
  """Logits [n, c] of every clip of `source`, in order; a clip that cannot be read gets zeros."""
  variables = state.weights()
  apply = jax.jit(lambda v, batch: model.apply(v, batch, train=False)['logits'])
  found: dict[int, np.ndarray] = {}
  classes = 1
  for batch in pipeline.eval_batches(
    source, batch_size=batch_size, sample_rate=sample_rate, max_seconds=seconds
  ):
    logits = np.asarray(apply(variables, {k: jnp.asarray(x) for k, x in batch.items()}))
    classes = logits.shape[1]
    for index, valid, row in zip(batch['index'], batch['valid'], logits):
      if valid:
        found[int(index)] = row
  return np.stack([found.get(i, np.zeros(classes, np.float32)) for i in range(len(source))])


def make_protocol(
  paths: Mapping[str, str], workdir: str | os.PathLike, settings: Finetune = Finetune()
) -> protocols.Protocol:
  """A protocol of `evals.harness` that fine-tunes and scores on test; every fold is a run in
  `workdir`.

  Args:
    paths: the weights behind each system, by the fingerprint of the system's weights. Other systems
      are trained from a random initialisation of the first of these models.
    workdir: folder of the runs: `<task>/<weights>/<fold>`; a run that is there is continued.
    settings: how to train.
  """

  def protocol(
    system: protocols.System, task: Prepared, options: protocols.Options
  ) -> dict[str, Any]:
    del options
    path = paths.get(str(system.embedder.weights))
    if path is None and (system.embedder.kind != 'random' or not paths):
      raise InputError(f'{system.embedder.name} has no weights to fine-tune.')
    loaded = weights.load(path or next(iter(paths.values())))
    seconds = clip_seconds(loaded, task)
    config = config_for(loaded, path, task, settings, seconds)
    if path is None:
      # Several random systems are several draws.
      config['seed'] = settings.seed + zlib.crc32(str(system.embedder.weights).encode()) % 2**20
    if tuple(task.source.classes(str(task.task.label))) != tuple(task.classes):
      raise InputError(f'The classes of task {task.task.name!r} are not those of its column.')
    number = 0

    def fit(x: np.ndarray, rows: tuple[np.ndarray, ...]) -> protocols.Fold:
      nonlocal number
      del x
      train, validation, test = rows
      folder = Path(workdir) / task.task.name / str(system.embedder.weights)[:12] / f'fold{number}'
      number += 1
      clips = task.source.select(train)
      fold_config = {**config, 'data': {**config['data']}}
      fold_config['data']['batch_size'] = min(settings.batch_size, len(clips))
      result = loop.train(fold_config, folder, quiet=True, clips=clips)
      model = models.get(config['model']['name'])(**config['model']['args'])
      given = dict(
        sample_rate=config['data']['sample_rate'], seconds=seconds, batch_size=settings.batch_size
      )
      logits = predict(model, result.state, task.source.select(test), **given)
      held = predict(model, result.state, task.source.select(validation), **given)
      value = classification.METRICS[task.metric](held, task.labels[validation])
      chosen: dict[str, Any] = dict(steps=settings.steps, lr=settings.lr)
      chosen['train_loss'] = result.metrics.get('loss')
      return protocols.Fold(logits[None], float(value), chosen, [{**chosen, 'validation': value}])

    return protocols.row('finetune', system, task, fit)

  return protocol
