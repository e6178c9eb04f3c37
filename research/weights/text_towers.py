"""The tokenizer that belongs to the weights of a model of text: beside them, or in the settings of
the run that trained them."""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from research.errors import InputError
from research.jobs import paths
from research.text.subwords import Tokenizer, read_tokenizer
from research.weights import downloads, read


class Spelling(NamedTuple):
  """How texts are put into tokens: the tokenizer, and what is put behind every text."""

  tokenizer: Tokenizer
  suffix: str


def spelling(
  path: str | os.PathLike, tokenizer: str | None = None, suffix: str | None = None
) -> Spelling:
  """The tokenizer of weights.

  Args:
    path: the weights, as `weights.load` takes them. Of a run the field of captions says which
      tokenizer and which suffix it was trained with; of other weights the files beside them are
      read (see `text/subwords.py`).
    tokenizer: a folder, a file, or 'bytes'; None looks for it.
    suffix: put behind every text; None for that of the run, else nothing.

  Raises:
    InputError: there is none, or it is damaged.
  """
  own = field_of_run(path, 'captions')
  behind = own.get('suffix', '') if suffix is None else suffix
  if tokenizer is not None:
    return Spelling(read_tokenizer(tokenizer), behind)
  if own:
    return Spelling(read_tokenizer(own.get('tokenizer', 'bytes')), behind)
  place = downloads.fetch(str(path)) if downloads.is_download(path) else paths.path(path)
  folder = place if place.is_dir() else place.parent
  try:
    return Spelling(read_tokenizer(folder), behind)
  except InputError as error:
    raise InputError(
      f'No tokenizer was found beside the weights {path}: give --tokenizer, a folder or a file '
      f"that came with them, or 'bytes' ({error})"
    ) from None


def field_of_run(path: str | os.PathLike, name: str) -> Mapping[str, Any]:
  """The arguments of the field of texts 'captions' or 'messages' in the config of a run, its
  tokenizer too; {} for other weights."""
  if downloads.is_download(path):
    return {}
  place = paths.path(path)
  if not place.exists():
    raise InputError(f'There are no weights at {str(place)!r}: give a workdir or a weights file.')
  if not read.is_workdir(place):
    if not read.is_checkpoint(place):
      return {}
    place = place.parent.parent
  try:
    fields = json.loads((place / 'config.json').read_text())['data']['fields']
    found = [
      each if isinstance(each, dict) else {'args': {'column': each}}
      for key, each in fields.items()
      if each and (each.get('name', key) if isinstance(each, dict) else key) == name
    ]
    return {'tokenizer': 'bytes', **(found[0].get('args') or {})} if found else {}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return {}
