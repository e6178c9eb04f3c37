"""Tokenizers of the Qwen family: text in NFC, split by one pattern, byte pairs.

`tokenizer.json` says all of that itself. `vocab.json` with `merges.txt`, and the ranks of Qwen v1,
do not: they hold the pairs alone.
"""

from collections.abc import Sequence

import tokenizers
from etils import epath

from research.errors import InputError
from research.text import byte_pairs, subwords
from research.text.byte_pairs import BytePairs
from research.text.subwords import Tokenizer

SPLIT = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
  r'|\s*[\r\n]+|\s+(?!\S)|\s+'
)


def library(pairs: BytePairs) -> tokenizers.Tokenizer:
  """The tokenizer of the library, without added tokens."""
  found = pairs.library()
  found.normalizer = tokenizers.normalizers.NFC()
  found.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
    tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior='isolated'),
    tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
  ])  # fmt: skip
  return found


def add(library: tokenizers.Tokenizer, names: Sequence[str]) -> None:
  """Adds special tokens behind the vocabulary, those that it lacks, in this order."""
  library.add_special_tokens(
    [tokenizers.AddedToken(name, special=True, normalized=False) for name in names]
  )


def read_tokenizer(path: str | epath.PathLike) -> Tokenizer:
  """The tokenizer of a checkpoint of Qwen2 or Qwen2.5, or of a model on one.

  Args:
    path: `tokenizer.json`, or a folder with it; or a folder with `vocab.json` and `merges.txt`,
      whose special tokens are in `added_tokens.json` or in `tokenizer_config.json`.

  Raises:
    InputError: there is no tokenizer, or the ids of special tokens do not follow the vocabulary.
  """
  given = epath.Path(path).expanduser()
  if not given.is_dir() or (given / 'tokenizer.json').exists():
    return subwords.read_tokenizer(path)
  pairs = subwords.read_byte_pairs(given)
  added = dict(pairs.added)
  config = given / 'tokenizer_config.json'
  if not added and config.exists():
    stated = byte_pairs.read_object(config).get('added_tokens_decoder') or {}
    added = {token['content']: int(i) for i, token in stated.items()}
  found = library(pairs)
  add(found, sorted(added, key=lambda name: added[name]))
  for name, i in added.items():
    if found.token_to_id(name) != i:
      raise InputError(f'{given}: {name!r} should have id {i}, which is not next in vocab.json.')
  return Tokenizer(found, str(given))
