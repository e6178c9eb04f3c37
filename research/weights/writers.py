"""Models that write texts, with the tokenizer that belongs to their weights."""

from pathlib import Path
from typing import Any

from research.errors import InputError
from research.inference import caption, decoding
from research.inference.chat import Chat
from research.inference.chat import check as check_answers
from research.text import prompts
from research.text.subwords import BYTES
from research.weights import text_towers


def captioner(
  pretrained: Any, tokenizer: str | None, suffix: str | None, **options: Any
) -> caption.Captioner:
  """What writes captions with a model and its tokenizer, see `Pretrained.caption`."""
  caption.check(pretrained.model)
  read = text_towers.spelling(pretrained.place or '.', tokenizer, suffix)
  return caption.Captioner(pretrained.model, pretrained.variables, *read, **options)


def chat(
  pretrained: Any, tokenizer: str | None = None, base: bool | None = None, **options: Any
) -> Chat:
  """What answers with a model and its tokenizer, see `Pretrained.answer`.

  Args:
    pretrained: a `Pretrained`.
    tokenizer: a folder, a file or 'bytes'; None: that of the run, or the one beside the weights.
    base: the form of the base model; None: as the run was trained, else no.
    **options: batch_size, prompt, and settings of decoding; generation_config.json beside the
      weights says those that are not given.

  Raises:
    InputError: the model answers nothing, or its tokenizer is missing or does not fit.
  """
  model = pretrained.model
  check_answers(model)
  own = text_towers.field_of_run(pretrained.place, 'messages') if pretrained.place else {}
  name = options.pop('prompt', None) or own.get('prompt') or model.prompt
  place = tokenizer or (own.get('tokenizer', BYTES) if own else pretrained.tokenizer)
  if place is None:
    raise InputError('The tokenizer of these weights is not known: give tokenizer=….')
  try:
    read = prompts.tokenizer_of(name, str(place), model.places, model.vocab_size)
  except InputError as error:
    if tokenizer or own:
      raise
    raise InputError(
      f'No tokenizer was found beside the weights: give --tokenizer, a folder or a file that came '
      f"with them, or 'bytes' ({error})"
    ) from None
  base = bool(own.get('base', False)) if base is None else base
  beside = pretrained.tokenizer if Path(pretrained.tokenizer or '').is_dir() else None
  said = None if base else decoding.beside(beside) or None
  return Chat(
    model, pretrained.variables, read, prompt=name, base=base, defaults=said, **options
  )  # fmt: skip
