"""Byte-pair encoding: vocabularies over bytes, from rank files or from merges.

The byte alphabet is that of GPT-2: every byte has one printable character, its own where it has
one. A rank file of tiktoken has one token a line, base64 of its bytes and its rank, which is its
id. It states no merges; they follow from the ranks: two neighbours merge if their bytes together
are a token, the lowest rank first.
"""

import base64
import binascii
import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import tokenizers
from etils import epath

from research.errors import InputError


@dataclasses.dataclass(frozen=True)
class BytePairs:
  """A vocabulary of byte pairs.

  Attributes:
    vocabulary: {token in the byte alphabet: id}, without added tokens.
    merges: pairs of tokens, the first to be merged first.
    added: {token: id} of whole words that are added to the vocabulary, such as '<|endoftext|>'.
  """

  vocabulary: Mapping[str, int]
  merges: tuple[tuple[str, str], ...]
  added: Mapping[str, int]

  def library(self) -> tokenizers.Tokenizer:
    """The tokenizer of the library, without added tokens; splits words as GPT-2 does.

    Raises:
      InputError: a merge names a token that the vocabulary lacks.
    """
    try:
      model = tokenizers.models.BPE(
        vocab=dict(self.vocabulary), merges=list(self.merges), ignore_merges=True
      )
    except Exception as error:
      raise InputError(f'These merges do not fit the vocabulary: {error}') from None
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False, use_regex=True
    )
    library.decoder = tokenizers.decoders.ByteLevel()
    return library


@functools.cache
def alphabet() -> dict[int, str]:
  """{byte: its character}: printable Latin-1 stands for itself, the rest for U+0100 and up."""
  own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
  others = iter(range(0x100, 0x200))
  return {byte: chr(byte if byte in own else next(others)) for byte in range(256)}


@functools.cache
def _bytes() -> dict[str, int]:
  return {character: byte for byte, character in alphabet().items()}


def spelt(token: bytes) -> str:
  """Bytes in the byte alphabet."""
  table = alphabet()
  return ''.join(table[byte] for byte in token)


def unspelt(token: str) -> bytes:
  """The bytes of a token; of one outside of the byte alphabet, its UTF-8."""
  table = _bytes()
  if all(character in table for character in token):
    return bytes(table[character] for character in token)
  return token.encode()


def from_ranks(ranks: Mapping[bytes, int]) -> BytePairs:
  """The byte pairs of ranks. Ids are equal to those of tiktoken for any text."""
  merges = []
  for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
    for cut in range(1, len(token)):
      first, second = token[:cut], token[cut:]
      if first in ranks and second in ranks:
        merges.append((spelt(first), spelt(second)))
  return BytePairs({spelt(token): rank for token, rank in ranks.items()}, tuple(merges), {})


def read_ranks(path: os.PathLike) -> BytePairs:
  """Reads `*.tiktoken`.

  Raises:
    InputError: a line is not base64 and a number, or a byte has no rank.
  """
  ranks: dict[bytes, int] = {}
  for number, line in enumerate(_text(path).splitlines(), 1):
    if not line.strip():
      continue
    try:
      token, rank = line.split()
      # Whisper's multilingual file ends with an empty token, written as a lone '='.
      ranks[b'' if token == '=' else base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error):
      raise InputError(
        f"{path}, line {number}: expected a token in base64 and its rank, as in tiktoken's files; "
        f'got {line[:40]!r}.'
      ) from None
  lacking = sum(bytes([byte]) not in ranks for byte in range(256))
  if lacking:
    raise InputError(f'{path}: {lacking} of 256 bytes have no rank; is this file complete?')
  if len(set(ranks.values())) != len(ranks):
    raise InputError(f'{path}: two tokens have one rank; ranks are ids and must differ.')
  return from_ranks(ranks)


def read_merges(vocabulary: os.PathLike, merges: os.PathLike) -> BytePairs:
  """Reads `vocab.json` and `merges.txt`, and `added_tokens.json` if it lies beside them.

  Raises:
    InputError: a file is not of this form.
  """
  tokens = _ids(vocabulary)
  pairs = []
  for number, line in enumerate(_text(merges).split('\n'), 1):
    if not line.strip() or (number == 1 and line.startswith('#version')):
      continue
    pair = line.rstrip('\r').split(' ')
    if len(pair) != 2:
      raise InputError(f'{merges}, line {number}: expected two tokens, got {line[:40]!r}.')
    pairs.append((pair[0], pair[1]))
  beside = epath.Path(vocabulary).with_name('added_tokens.json')
  return BytePairs(tokens, tuple(pairs), _ids(beside) if beside.exists() else {})


def read_json(path: os.PathLike) -> BytePairs:
  """The byte pairs of a `tokenizer.json` whose model is BPE.

  Raises:
    InputError: the file is of another form, or its model is not BPE.
  """
  found = read_object(path)
  model = found.get('model')
  if not isinstance(model, dict) or not isinstance(model.get('vocab'), dict):
    raise InputError(f'{path} has no vocabulary; expected a tokenizer.json.')
  if 'merges' not in model:
    raise InputError(f'{path} is a tokenizer of kind {model.get("type")!r}; expected BPE.')
  pairs = [tuple(m.split(' ') if isinstance(m, str) else m) for m in model['merges']]
  added = {token['content']: token['id'] for token in found.get('added_tokens') or ()}
  return BytePairs(model['vocab'], tuple((first, second) for first, second in pairs), added)


def _ids(path: os.PathLike) -> dict[str, int]:
  found = read_object(path)
  if not all(type(value) is int for value in found.values()):
    raise InputError(f'{path}: expected {{token: id}}.')
  return found


def read_object(path: os.PathLike) -> dict[str, Any]:
  """Reads a file that holds one object in JSON.

  Raises:
    InputError: it cannot be read, or holds something else.
  """
  try:
    found = json.loads(_text(path))
  except json.JSONDecodeError as error:
    raise InputError(f'{path} is not valid JSON: {error}') from None
  if not isinstance(found, dict):
    raise InputError(f'{path}: expected an object in JSON, got {type(found).__name__}.')
  return found


def _text(path: os.PathLike) -> str:
  try:
    return epath.Path(path).read_text(encoding='utf-8')
  except UnicodeDecodeError:
    raise InputError(f'{path} is not UTF-8; expected the text file of a vocabulary.') from None
  except OSError as error:
    raise InputError(f'Cannot read {path}: {error.strerror}.') from None
