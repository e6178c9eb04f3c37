"""The files of a tokenizer beside weights that transformers is to open.

What transformers knows is copied; of other files (`*.tiktoken`, single bytes) its own are made. Its
generation_config.json gets the numbers of Whisper's special tokens, without which it writes nothing
sensible.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import tokenizers

from research.errors import InputError
from research.text import subwords
from research.text.whisper import WhisperTokenizer, read_whisper_tokenizer
from research.weights import downloads

CONFIG, JSON = 'tokenizer_config.json', 'tokenizer.json'
PAIRS = ('vocab.json', 'merges.txt')
COPIED = (
  JSON, *PAIRS, CONFIG, 'vocab.txt', 'added_tokens.json', 'special_tokens_map.json',
  'normalizer.json',
)  # fmt: skip
RELEASES = ('whisper_hf', 'clap_hf')


def copy(place: str | None, folder: Path, decoding: bool = False) -> None:
  """Puts the files of a tokenizer into the folder of weights that need them.

  Args:
    place: file or folder of the tokenizer; what is no file, as 'bytes', is not copied.
    folder: files that are there already stay.
    decoding: generation_config.json too.
  """
  given = Path(place or '')
  known = (
    *downloads.TOKENIZERS, 'vocab.json', 'added_tokens.json', 'tokenizer_config.json',
    *(('generation_config.json',) if decoding else ()),
  )  # fmt: skip
  found = [given] if given.is_file() else [given / n for n in known if (given / n).is_file()]
  for file in found if place else ():
    if not (folder / file.name).exists():
      shutil.copyfile(file, folder / file.name)


def write(release: str, model: Any, place: str | None, folder: Path) -> str:
  """Puts a tokenizer beside the weights of a release of transformers.

  Args:
    release: only those of RELEASES get one.
    model: of the weights.
    place: file or folder of its tokenizer, or 'bytes'; see `Pretrained.tokenizer`.
    folder: where the weights were written.

  Returns:
    why there is none, '' where there is one or none is needed.

  Raises:
    InputError: the tokenizer does not fit the weights, or it cannot be written.
  """
  if release not in RELEASES:
    return ''
  try:
    if place is None:
      raise InputError('it is not known where it is')
    if release == 'whisper_hf':
      own = read_whisper_tokenizer(place, model.n_vocab)
      library, config = _whisper_library(own), _whisper_config(own)
    else:
      text = subwords.read_tokenizer(place)
      text.check_fits(model.vocabulary, padded=place == subwords.BYTES)
      library, config = text.library, _text_config(text)
  except InputError as error:
    return f'the tokenizer ({error})'
  try:
    _write(place, folder, library, config)
    if release == 'whisper_hf':
      _whisper_generation(own, folder / 'generation_config.json')
  except OSError as error:
    raise InputError(f'Cannot write to {str(folder)!r}: {error.strerror or error}.') from error
  return ''


def _write(place: str, folder: Path, library: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
  """Copies what transformers reads, and makes what is missing."""
  given = Path(os.path.expanduser(place))
  source = given if given.is_dir() else given.parent
  known = place != subwords.BYTES and any((source / n).is_file() for n in (JSON, PAIRS[0]))
  if known:
    for name in COPIED:
      if (source / name).is_file() and (source / name).resolve() != (folder / name).resolve():
        shutil.copyfile(source / name, folder / name)
  if not (folder / JSON).exists():
    (folder / JSON).write_text(library.to_str(), encoding='utf-8')
  made = json.loads(library.to_str())['model']
  if made['type'] == 'BPE' and not all((folder / name).exists() for name in PAIRS):
    _json(folder / PAIRS[0], made['vocab'])
    pairs = [p if isinstance(p, str) else ' '.join(p) for p in made['merges']]
    (folder / PAIRS[1]).write_text('\n'.join(['#version: 0.2', *pairs, '']), encoding='utf-8')
  if not (folder / CONFIG).exists():
    _json(folder / CONFIG, config)


def _json(file: Path, content: Any) -> None:
  file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + '\n', encoding='utf-8')


def _text_config(tokenizer: subwords.Tokenizer) -> dict[str, Any]:
  """Of RoBERTa, or of a tokenizer of no known class."""
  names = {'bos_token': '<s>', 'eos_token': '</s>', 'pad_token': '<pad>', 'mask_token': '<mask>'}
  if all(tokenizer.library.token_to_id(name) is not None for name in names.values()):
    return {'tokenizer_class': 'RobertaTokenizer', **names, 'unk_token': '<unk>'}
  own = {'pad_token': tokenizer.library.id_to_token(tokenizer.pad)} if tokenizer.pad else {}
  return {'tokenizer_class': 'PreTrainedTokenizerFast', **own}


# -- Whisper -----------------------------------------------------------------------------------


def _whisper_library(own: WhisperTokenizer) -> tokenizers.Tokenizer:
  """The byte pairs with special tokens and timestamps under their numbers."""
  library = tokenizers.Tokenizer.from_str(own.library.to_str())
  special = [t for t, i in own.special_tokens.items() if i < own.timestamp_begin]
  stamps = [t for t, i in own.special_tokens.items() if i >= own.timestamp_begin]
  library.add_special_tokens(
    [tokenizers.AddedToken(t, special=True, normalized=False) for t in special]
  )
  library.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in stamps])
  for token, number in own.special_tokens.items():
    if library.token_to_id(token) != number:
      raise InputError(f'its token {token} would have the number {library.token_to_id(token)}')
  return library


def _whisper_config(own: WhisperTokenizer) -> dict[str, Any]:
  end = '<|endoftext|>'
  return {
    'tokenizer_class': 'WhisperTokenizer',
    'processor_class': 'WhisperProcessor',
    'add_prefix_space': False,
    'errors': 'replace',
    'model_max_length': 1024,
    'return_attention_mask': False,
    **dict.fromkeys(('bos_token', 'eos_token', 'pad_token', 'unk_token'), end),
    'additional_special_tokens': [
      t for t, i in own.special_tokens.items() if i < own.timestamp_begin
    ],
  }


def _whisper_generation(own: WhisperTokenizer, file: Path) -> None:
  """What transformers asks of the vocabulary when it writes."""
  config = json.loads(file.read_text(encoding='utf-8')) if file.exists() else {}
  never = {own.sot, own.translate, own.transcribe, own.sot_lm, own.sot_prev, own.no_speech}
  config |= {
    'no_timestamps_token_id': own.no_timestamps,
    'prev_sot_token_id': own.sot_prev,
    'suppress_tokens': sorted({*own.non_speech_tokens, *never}),
    'begin_suppress_tokens': [own.encode(' ')[0], own.eot],
    'max_initial_timestamp_index': 50,
    'return_timestamps': False,
  }
  if own.is_multilingual:
    codes = zip(own.languages, own.all_language_tokens, strict=True)
    config['lang_to_id'] = {f'<|{code}|>': number for code, number in codes}
    config['task_to_id'] = {'transcribe': own.transcribe, 'translate': own.translate}
  _json(file, config)
