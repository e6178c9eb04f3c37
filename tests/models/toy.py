"""Models of tests by short names, with flat arguments."""

from research import models
from research.models.finetuned import Finetuned, encoder_of, flat_arguments, route


def make(name, **args):
  """'hubert', 'hubert+ctc' and 'hubert+' (the encoder alone), arguments as of `finetuned.route`."""
  if '+' not in name:
    return models.get(name)(**args)
  return Finetuned(**route(parts(name), args))


def parts(name):
  """The arguments of a model under a head, without those of its parts."""
  encoder, _, head = name.partition('+')
  return {'encoder': {'name': encoder}, 'head': {'name': head} if head else None}


def kind_of(model):
  """The short name of a model."""
  if not isinstance(model, Finetuned):
    return models.name_of(type(model))
  return f'{model.encoder["name"]}+{model.head["name"] if model.head else ""}'


__all__ = ['encoder_of', 'flat_arguments', 'kind_of', 'make', 'parts']
