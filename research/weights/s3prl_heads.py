"""A head of SUPERB that s3prl has trained, on one of our encoders: one model that `save` writes."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from research.errors import InputError, listed
from research.models import finetuned, settings
from research.models import name_of as model_name
from research.weights import tables
from research.weights.families import superb
from research.weights.pretrained import Pretrained, load

RELEASE = 's3prl_head'  # what `launch.convert --release` calls them


def load_head(
  source: str | os.PathLike,
  encoder: str | os.PathLike,
  **args: Any,
) -> Pretrained:
  """The head of a checkpoint of s3prl's runner ('Downstream', 'Featurizer') on its upstream.

  Args:
    source: states-*.ckpt or best-*.ckpt.
    encoder: weights of the upstream, as `weights.load` takes them.
    **args: arguments of the head that its arrays do not show: vocabulary, slots, labels, ….

  Returns:
    a frozen `Finetuned` with the head on the mix of the layers.

  Raises:
    InputError: a file that is no such checkpoint; a head of other widths, or of another number of
      layers, than the encoder's.
  """
  arrays, mix = superb.read_checkpoint(Path(source))
  # Lists of a command line.
  given = {k: tuple(v) if isinstance(v, list) else v for k, v in args.items()}
  head, own = superb.read_head(arrays, **given)
  below = load(str(encoder))
  under = finetuned.encoder_of(below.model)
  name = model_name(type(under))
  spec = dict(name=name, args=settings.arguments(under))
  model, variables = superb.put_on(spec, below.variables, head, own, mix)
  variables = _fitting(model, variables, str(source), name)
  origin = f'head of s3prl from {Path(source).name}, on {below.origin}'
  return Pretrained('finetuned', model, variables, origin, below.tokenizer)


def _fitting(model: Any, variables: dict[str, Any], source: str, encoder: str) -> dict[str, Any]:
  """The variables that a model has.

  Raises:
    InputError: the head does not fit the encoder.
  """
  example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), model.example())
  expected = tables.flatten(jax.eval_shape(model.init, jax.random.key(0), example))
  given = tables.flatten(variables)
  own = ('layer_mix', *model.top.PARAMETERS)
  for key, shape in ((k, v.shape) for k, v in expected.items() if k in given):
    if given[key].shape != shape:
      part = key.split('/')[1]
      whose = f'the head of {source!r}' if part in own else f'the encoder {encoder}'
      raise InputError(
        f'{key} of {whose} has shape {tuple(given[key].shape)}, and on {encoder} it would have '
        f'{tuple(shape)}: the head was trained on an upstream of another width.'
      )
  # Counters of training begin anew.
  counters = {k: jnp.zeros(v.shape, v.dtype) for k, v in expected.items() if _counts(k)}
  if missing := [k for k in expected if k not in given and k not in counters]:
    raise InputError(f'{source!r} on {encoder} lacks {listed(missing)}.')
  return tables.nest({k: given.get(k, counters.get(k)) for k in expected}, model)


def _counts(key: str) -> bool:
  return key.startswith('counters/')
