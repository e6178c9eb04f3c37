"""A causal language model of transformers as the part `language_model` of a model that hears."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import InputError, listed
from research.jobs import paths
from research.weights import downloads, read, tables
from research.weights.families import audio_language, language_models
from research.weights.read import read_release

PART = 'params/language_model'
# {kind of language model, which is its model_type: {name in config.json: ours}}.
FIGURES = {
  'qwen2': {key: ours for key, (ours, _) in audio_language.TEXT.items() if ours != 'max_tokens'},
  'opt': {
    'hidden_size': 'text_width',
    'num_hidden_layers': 'text_depth',
    'num_attention_heads': 'text_heads',
    'ffn_dim': 'text_hidden',
    'max_position_embeddings': 'max_tokens',
  },
}


def is_language_model(path: str | os.PathLike) -> bool:
  """Whether a folder, or an address, holds a Qwen2, Qwen2.5 or OPT of transformers."""
  file = _place(path) / 'config.json'
  return file.is_file() and read.read_json(file).get('model_type') in FIGURES


def _place(path: str | os.PathLike) -> Path:
  """The folder on this machine."""
  if downloads.is_download(path):
    return downloads.fetch(str(path))
  place = paths.path(path)
  return paths.local_folder(place) if paths.is_remote(place) else Path(str(place))


def read_language_model(path: str | os.PathLike, model: Any) -> dict[str, np.ndarray]:
  """Arrays of a Qwen2, Qwen2.5 or OPT, by their paths in `model`, layers one by one.

  Args:
    path: a folder as transformers saves it, or hf://….
    model: with a `LanguageModel` of that kind; its embedding may have more rows, whose last ones
      are not in the arrays then.

  Raises:
    InputError: another model, other figures, or arrays that are missing.
  """
  arrays, files = read_release(_place(path), ('config.json',))
  config = files.get('config.json') or {}
  kind = config.get('model_type')
  if kind not in FIGURES or getattr(model, 'KIND', None) != kind:
    raise InputError(
      f'{path} is a {kind!r} and the language model of {type(model).__name__} a '
      f'{getattr(model, "KIND", None)!r}: both must be the same, one of {listed(FIGURES)}.'
    )
  said = {ours: config.get(key) for key, ours in FIGURES[kind].items()}
  said |= {
    'text_kv_heads': config.get('num_key_value_heads', config.get('num_attention_heads')),
    'rope_base': (config.get('rope_parameters') or config).get('rope_theta'),
    'tied': bool(config.get('tie_word_embeddings', kind == 'opt')),
  }
  for name, value in said.items():
    own = getattr(model, name)
    if value is not None and value != own:
      raise InputError(
        f'{path} has {name}={value} and the model {own}: give --config.model.args.{name}={value}.'
      )
  rows = tables.expand(language_models.rules(kind, ours=PART, tied=model.tied), model)
  lacking = [theirs for theirs, *_ in rows if theirs not in arrays]
  if lacking:
    raise InputError(f'{path} lacks {lacking[0]} and {len(lacking) - 1} more: copy it again.')
  return {
    ours: np.asarray(layout.convert(np.asarray(arrays[theirs]), heads), np.float32)
    for theirs, ours, layout, heads in rows
  }
