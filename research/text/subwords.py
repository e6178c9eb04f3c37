"""Subword tokenizers, read from the files that checkpoints come with.

| files | kind |
|---|---|
| `tokenizer.json` | any, as its pipeline says |
| `vocab.json`, `merges.txt` | byte pairs: GPT-2, or RoBERTa where there are `<s>` and `</s>` |
| `vocab.txt` | WordPiece: BERT |
| `*.tiktoken` | byte pairs by ranks: GPT-2, Whisper |

The name 'bytes' is a tokenizer without files: UTF-8, ids 0 to 255, for models that are trained from
nothing. Whisper's special tokens are added by `whisper.py`. Nothing is downloaded.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Bool, Int

from research.errors import InputError, listed
from research.text import byte_pairs

BYTES = 'bytes'
# The names of special tokens in the vocabularies of GPT-2, RoBERTa, BERT and LLaMA.
PAD = ('<pad>', '[PAD]', '<|pad|>', '<|endoftext|>')
START = ('<s>', '[CLS]', '<|startoftext|>', '<|begin_of_text|>')
END = ('</s>', '[SEP]', '<|endoftext|>', '<|end_of_text|>')


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Text to the ids of subwords, and back.

  Attributes:
    library: the tokenizer of the library `tokenizers`; it neither pads nor truncates.
    source: the file or folder it was read from.
    filler: the id that pads where the vocabulary has no token for that.
  """

  library: tokenizers.Tokenizer
  source: str
  filler: int | None = None

  @property
  def size(self) -> int:
    """Rows that an embedding of this vocabulary needs: the highest id and one."""
    return max(self.library.get_vocab(with_added_tokens=True).values()) + 1

  @property
  def pad(self) -> int | None:
    """The id that pads; of GPT-2, which has none of its own, that of '<|endoftext|>'."""
    found = self._first(PAD)
    return self.filler if found is None else found

  @property
  def start(self) -> int | None:
    """The id that starts a text; None if the vocabulary has none."""
    return self._first(START)

  @property
  def end(self) -> int | None:
    """The id that ends a text; None if the vocabulary has none."""
    return self._first(END)

  def id(self, token: str) -> int:
    """The id of a token.

    Raises:
      InputError: the vocabulary lacks it.
    """
    found = self.library.token_to_id(token)
    if found is None:
      raise InputError(f'The tokenizer of {self.source} has no token {token!r}.')
    return found

  def encode(
    self, text: str, special: bool = True, max_tokens: int | None = None
  ) -> Int[np.ndarray, 'u']:
    """The ids of a text.

    Args:
      text: any text. Special tokens in it, such as '<mask>', become their ids.
      special: whether to add what the model expects around a text ('<s>' and '</s>').
      max_tokens: longer texts are cut; the tokens around them stay.

    Raises:
      InputError: `max_tokens` leaves no room for the tokens around a text.
    """
    return self.batch([text], special=special, max_tokens=max_tokens)[0][0]

  def batch(
    self,
    texts: Sequence[str],
    *,
    special: bool = True,
    max_tokens: int | None = None,
    length: int | None = None,
    pad: int | None = None,
  ) -> tuple[Int[np.ndarray, 'b u'], Bool[np.ndarray, 'b u']]:
    """The ids of texts, padded at their end.

    Args:
      texts: any texts.
      special: as in `encode`.
      max_tokens: as in `encode`; default `length`.
      length: tokens in a row; default those of the longest text.
      pad: the id behind a text; default `self.pad`.

    Returns:
      ids int32 [b, u], and where they are real tokens, bool [b, u].

    Raises:
      InputError: texts differ in length and there is no id to pad with, or the limits do not
        leave room.
    """
    around = self.library.num_special_tokens_to_add(False) if special else 0
    limit = length if max_tokens is None else max_tokens
    if limit is not None and limit < around + 1:
      raise InputError(
        f'max_tokens={limit} leaves no room for a text: the tokenizer of {self.source} puts '
        f'{around} tokens around it.'
      )
    found = []
    for encoding in self.library.encode_batch([_valid(t) for t in texts], add_special_tokens=False):
      if limit is not None:
        encoding.truncate(limit - around)
      found.append(self.library.post_process(encoding, None, True).ids if special else encoding.ids)
    longest = max((len(ids) for ids in found), default=0)
    width = longest if length is None else length
    if longest > width:
      raise InputError(f'A text has {longest} tokens, more than length={width}.')
    filler = self.pad if pad is None else pad
    if filler is None and any(len(ids) < width for ids in found):
      raise InputError(f'The tokenizer of {self.source} has no token to pad with; set pad=.')
    rows = np.full((len(found), width), 0 if filler is None else filler, np.int32)
    mask = np.zeros((len(found), width), bool)
    for row, ids in enumerate(found):
      rows[row, : len(ids)] = ids
      mask[row, : len(ids)] = True
    return rows, mask

  def decode(self, ids: Iterable[SupportsIndex], special: bool = False) -> str:
    """The text of ids, with or without special tokens.

    Raises:
      InputError: an id is outside of the vocabulary.
    """
    found = [int(i) for i in ids]
    outside = next((i for i in found if self.library.id_to_token(i) is None), None)
    if outside is not None:
      raise InputError(
        f'Id {outside} is outside of the vocabulary of {self.size} tokens of {self.source}.'
      )
    return self.library.decode(found, skip_special_tokens=not special)

  def check_fits(self, rows: int, padded: bool = False) -> None:
    """Refuses weights of another vocabulary.

    Args:
      rows: rows of the embedding of tokens.
      padded: whether the weights may have more rows than there are tokens.

    Raises:
      InputError: the numbers differ.
    """
    if rows < self.size or (rows > self.size and not padded):
      raise InputError(
        f'The tokenizer of {self.source} has {self.size} tokens, the weights have {rows}; take the '
        'tokenizer that came with the weights.'
      )

  def _first(self, names: Iterable[str]) -> int | None:
    ids = (self.library.token_to_id(name) for name in names)
    return next((i for i in ids if i is not None), None)


def read_tokenizer(path: str | epath.PathLike) -> Tokenizer:
  """Reads the tokenizer of a checkpoint.

  Args:
    path: a folder with files of the table above, or one of the files; or 'bytes'.

  Raises:
    InputError: there is no tokenizer, or a file is damaged.
  """
  if path == BYTES:
    return _of_bytes()
  given = epath.Path(path).expanduser()
  if not given.exists():
    raise InputError(f'There is no tokenizer at {given}.')
  folder = given if given.is_dir() else given.parent
  if (given.is_dir() and (folder / 'tokenizer.json').exists()) or given.name == 'tokenizer.json':
    return Tokenizer(_plain(_from_json(folder / 'tokenizer.json')), str(given))
  if given.name == 'vocab.txt' or (given.is_dir() and (folder / 'vocab.txt').exists()):
    return Tokenizer(_wordpiece(folder / 'vocab.txt'), str(given))
  return Tokenizer(_from_pairs(read_byte_pairs(given)), str(given))


def read_byte_pairs(path: str | epath.PathLike) -> byte_pairs.BytePairs:
  """Reads the byte pairs of `*.tiktoken`, of `vocab.json` with `merges.txt`, or of
  `tokenizer.json`, whichever a folder has first.

  Raises:
    InputError: there are none, or more than one rank file.
  """
  given = epath.Path(path).expanduser()
  folder = given if given.is_dir() else given.parent
  ranks = [given] if given.suffix == '.tiktoken' else []
  if given.is_dir():
    ranks = sorted(folder.glob('*.tiktoken'))
  if len(ranks) > 1:
    raise InputError(f'{given} holds {listed(p.name for p in ranks)}; name one of them.')
  if ranks:
    return byte_pairs.read_ranks(ranks[0])
  names = {p.name for p in folder.iterdir()} if given.is_dir() else {given.name}
  if names & {'vocab.json', 'merges.txt'}:
    for name in ('vocab.json', 'merges.txt'):
      if not (folder / name).exists():
        raise InputError(f'{folder} has no {name}; byte pairs need vocab.json and merges.txt.')
    return byte_pairs.read_merges(folder / 'vocab.json', folder / 'merges.txt')
  if 'tokenizer.json' in names:
    return byte_pairs.read_json(folder / 'tokenizer.json')
  raise InputError(
    f'{given} is no tokenizer: expected tokenizer.json, vocab.json with merges.txt, vocab.txt or a '
    'rank file *.tiktoken; they come with the checkpoint.'
  )


def _of_bytes() -> Tokenizer:
  """UTF-8: the id of a byte is the byte."""
  ids = {character: byte for byte, character in byte_pairs.alphabet().items()}
  library = tokenizers.Tokenizer(tokenizers.models.BPE(ids, []))
  library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  library.decoder = tokenizers.decoders.ByteLevel()
  return Tokenizer(library, BYTES, filler=0)


def _from_json(path: epath.Path) -> tokenizers.Tokenizer:
  try:
    return tokenizers.Tokenizer.from_str(path.read_text(encoding='utf-8'))
  except BaseException as error:  # a panic of the library is no Exception
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
      raise
    raise InputError(f'{path} is damaged or not a tokenizer.json: {error}') from None


def _plain(library: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
  """Without the padding and truncation that a file may ask for: those are of the caller."""
  library.no_padding()
  library.no_truncation()
  return library


def _from_pairs(pairs: byte_pairs.BytePairs) -> tokenizers.Tokenizer:
  library = pairs.library()
  every = {**pairs.vocabulary, **pairs.added}
  wrapped = all(token in every for token in ('<s>', '</s>', '<pad>', '<mask>'))
  names = {*pairs.added, *(('<s>', '</s>', '<pad>', '<unk>') if wrapped else ())}
  names |= {token for token in every if token == '<|endoftext|>'}
  special: list[Any] = [
    tokenizers.AddedToken(name, special=True, normalized=False)
    for name in sorted(names & set(every), key=lambda name: every[name])
  ]
  if wrapped:
    special.append(tokenizers.AddedToken('<mask>', lstrip=True, special=True, normalized=False))
  library.add_special_tokens(special)
  for name in names:
    if library.token_to_id(name) != every[name]:
      raise InputError(
        f'Added token {name!r} should have id {every[name]}, which is not next in the vocabulary.'
      )
  if wrapped:
    library.post_processor = tokenizers.processors.RobertaProcessing(
      ('</s>', every['</s>']), ('<s>', every['<s>']), trim_offsets=True, add_prefix_space=False
    )
  return library


def _wordpiece(path: epath.Path) -> tokenizers.Tokenizer:
  """BERT. Cased or not is as `tokenizer_config.json` says; without it, cased if a token is."""
  tokens = [line.rstrip('\r') for line in path.read_text(encoding='utf-8').split('\n')]
  tokens = tokens[:-1] if tokens and not tokens[-1] else tokens
  ids = {token: i for i, token in enumerate(tokens)}
  lacking = [t for t in ('[PAD]', '[UNK]', '[CLS]', '[SEP]') if t not in ids]
  if lacking:
    raise InputError(f'{path} lacks {listed(lacking)}; expected the vocab.txt of BERT.')
  config = path.parent / 'tokenizer_config.json'
  stated = byte_pairs.read_object(config) if config.exists() else {}
  cased = any(token != token.lower() and not token.startswith('[') for token in tokens)
  library = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token='[UNK]'))
  library.normalizer = tokenizers.normalizers.BertNormalizer(
    lowercase=stated.get('do_lower_case', not cased), strip_accents=stated.get('strip_accents')
  )
  library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  library.decoder = tokenizers.decoders.WordPiece()
  library.post_processor = tokenizers.processors.BertProcessing(
    ('[SEP]', ids['[SEP]']), ('[CLS]', ids['[CLS]'])
  )
  special = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
  library.add_special_tokens([token for token in special if token in ids])
  return library


def _valid(text: str) -> str:
  """Lone surrogates, which UTF-8 has no bytes for, become U+FFFD."""
  return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
