"""How audio language models are spoken to: one file a model.

A module `prompts/<name>.py` defines

- `render(messages, answer=True) -> Prompt`: the text of a conversation, with a placeholder a clip;
  `answer` opens the turn in which the model answers;
- `FORM`, a `Form`: the placeholder, the sample rate, and how many tokens a clip gives;
- `SPECIALS`, its other special tokens, and `STOPS`, those that end an answer;
- `read_tokenizer(path)`: the tokenizer from the files of a checkpoint;
- where they are published: `DECODING`, how it is decoded (names of `inference.chat.Decoding`),
  `QUESTIONS`, {task: its wording}, `SEVERAL`, whether a turn may have several clips, `BEAMS`, the
  style of a beam search (`inference.generate`).

`encode` makes token ids of a prompt: every placeholder repeated as often as its clip has tokens,
and which ids are learned.
"""

import dataclasses
import functools
import importlib
import itertools
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from research.errors import InputError, listed, unknown
from research.text import byte_pairs
from research.text.messages import Prompt
from research.text.subwords import BYTES, Tokenizer


@dataclasses.dataclass(frozen=True)
class Form:
  """What the audio of a model is in its text.

  Attributes:
    placeholder: the token that stands for a clip.
    filler: the token that is repeated, if that is not the placeholder itself: it is put behind it.
    sample_rate: Hz.
    tokens: samples of a clip -> its tokens in the text.
    windows: samples of a clip -> windows that the encoder is given.
    seconds: what is behind is cut off.
    special: whether the tokenizer adds its own tokens around a text.
  """

  placeholder: str
  sample_rate: int
  tokens: Callable[[int], int]
  windows: Callable[[int], int]
  seconds: float
  filler: str = ''
  special: bool = False

  def clip_tokens(self, samples: int, where: str = 'The clip') -> int:
    """Tokens of a clip.

    Raises:
      InputError: it is so short that it has none.
    """
    found = self.tokens(samples)
    if found < 1:
      raise InputError(
        f'{where} has {samples} samples at {self.sample_rate} Hz, which give no token of audio: '
        'leave it out, or pad it with silence to 0.05 s.'
      )
    return found


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A prompt as ids.

  Attributes:
    ids: token ids, placeholders repeated.
    audio: number of the placeholder that an id belongs to; -1: text.
    learn: ids that the loss counts as targets: answers.
  """

  ids: Int[np.ndarray, 'u']
  audio: Int[np.ndarray, 'u']
  learn: Bool[np.ndarray, 'u']

  def __len__(self) -> int:
    return len(self.ids)


def names() -> list[str]:
  """All models that have a prompt."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def get(name: str) -> Any:
  """The module of a model.

  Raises:
    InputError: an unknown name; suggests the nearest.
  """
  if name not in names():
    raise unknown('prompt format', name, names())
  return importlib.import_module(f'{__name__}.{name}')


def encode(
  prompt: Prompt, tokenizer: Tokenizer, form: Form, counts: Sequence[int] | None = None
) -> Encoded:
  """The ids of a prompt.

  Args:
    prompt: of `render`.
    tokenizer: that of the checkpoint.
    form: of the same model as the prompt.
    counts: tokens of every placeholder, in order; None: one each, which `repeat` changes later.

  Raises:
    InputError: the text has more or fewer placeholders than there are counts, or the vocabulary
      lacks the placeholder.
  """
  mark = tokenizer.id(form.placeholder)
  ids, starts, ends = _tokens(prompt, tokenizer, form.special)
  learn = np.zeros(len(ids), bool)
  for first, last in prompt.answers:
    learn |= (starts >= first) & (starts < last) & (ends > starts)
  here = ids == mark
  if form.filler:
    # The placeholder stays in front of what is repeated, and is text.
    behind = np.flatnonzero(here) + 1
    ids = np.insert(ids, behind, tokenizer.id(form.filler))
    learn = np.insert(learn, behind, False)
    here = np.zeros(len(ids), bool)
    here[behind + np.arange(len(behind))] = True
  audio = np.where(here, np.cumsum(here) - 1, -1)
  found = Encoded(ids.astype(np.int32), audio.astype(np.int32), learn)
  return found if counts is None else repeat(found, counts)


def per_placeholder(places: Sequence[int], counts: Sequence[int]) -> list[int]:
  """Tokens of every placeholder, of those of every clip: `Prompt.places` says which is whose."""
  found = [0] * (max(places, default=-1) + 1)
  for place, count in zip(places, counts, strict=True):
    found[place] += count
  return found


def repeat(encoded: Encoded, counts: Sequence[int]) -> Encoded:
  """A prompt with its placeholders, which stand once, repeated.

  Raises:
    InputError: the numbers of placeholders and counts differ.
  """
  here = encoded.audio >= 0
  if int(here.sum()) != len(counts):
    raise InputError(
      f'The text has {int(here.sum())} placeholders and there are {len(counts)} clips: write one '
      'for every clip, and none in the words.'
    )
  own = np.ones(len(encoded), np.int64)
  own[here] = counts
  return Encoded(*(np.repeat(x, own) for x in (encoded.ids, encoded.audio, encoded.learn)))


def _tokens(prompt: Prompt, tokenizer: Tokenizer, special: bool) -> tuple[np.ndarray, ...]:
  """Ids of the text, and where each starts and ends in it."""
  ids, places = [], []
  for first, last in itertools.pairwise((0, *prompt.cuts, len(prompt.text))):
    found = tokenizer.library.encode(prompt.text[first:last], add_special_tokens=special)
    ids += found.ids
    places.append(np.array(found.offsets, np.int64).reshape(-1, 2) + first)
  table = np.concatenate(places)
  return np.array(ids, np.int64), table[:, 0], table[:, 1]


def marks(module: Any) -> list[str]:
  """What stands for audio, in the order of a model's `places`: the placeholder; or the filler, the
  placeholder and what closes a clip."""
  form = module.FORM
  return [form.filler, form.placeholder, *module.CLOSES] if form.filler else [form.placeholder]


def text_tokens(module: Any, placeholders: Callable[[int], int], samples: int) -> int:
  """Tokens that are repeated for a clip: of a model's `placeholders` without those of `marks` that
  stand in the text."""
  return placeholders(samples) - (len(marks(module)) - 1)


def tokenizer_of(
  name: str, path: str, places: Sequence[int] = (), rows: int | None = None
) -> Tokenizer:
  """The tokenizer of a checkpoint, checked against its model.

  Args:
    name: of the prompt.
    path: file or folder, or 'bytes'.
    places: ids that stand for audio in the model; () where they are not known.
    rows: of the model's embedding; None where they are not known.

  Raises:
    InputError: there is none, or it is of another model.
  """
  module = get(name)
  names = marks(module)
  if path == BYTES:
    tokenizer = bytes_tokenizer(module, places or tuple(range(256, 256 + len(names))))
  else:
    tokenizer = module.read_tokenizer(path)
  if rows is not None:
    tokenizer.check_fits(rows, padded=True)
  check_places(module, tokenizer, places)
  return tokenizer


def check_places(module: Any, tokenizer: Tokenizer, places: Sequence[int]) -> None:
  """Raises InputError where `marks` have other ids than a model's `places`; () is not looked at."""
  for mark, place in zip(marks(module), places, strict=False):
    if (own := tokenizer.id(mark)) != place:
      raise InputError(
        f'{mark} is id {own} in the tokenizer of {tokenizer.source}, and the model has its audio '
        f'at {place}: take the tokenizer that came with the weights.'
      )


def bytes_tokenizer(module: Any, places: Sequence[int]) -> Tokenizer:
  """A tokenizer without files, for trials: UTF-8, and the special tokens of a model behind it.

  Args:
    module: of a model.
    places: ids of `marks`.

  Raises:
    InputError: a place is the id of a byte, or there are more or fewer than names.
  """
  own = marks(module)
  if len(places) != len(own) or min(places) < 256 or len(set(places)) != len(own):
    raise InputError(
      f'The placeholders {listed(own)} got the ids {listed(map(str, places))}: give each its '
      'own, from 256.'
    )
  ids = {character: byte for byte, character in byte_pairs.alphabet().items()}
  free = (i for i in itertools.count(256) if i not in places)
  names = [*own, *(name for name in module.SPECIALS if name not in own)]
  ids |= dict(zip(names, itertools.chain(places, free), strict=False))
  library = tokenizers.Tokenizer(tokenizers.models.BPE(ids, []))
  library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  library.decoder = tokenizers.decoders.ByteLevel()
  library.add_special_tokens(
    [tokenizers.AddedToken(name, special=True, normalized=False) for name in names]
  )
  return Tokenizer(library, BYTES, filler=0)


def expand(text: str, form: Form, counts: Sequence[int]) -> str:
  """A text with every placeholder repeated.

  Raises:
    InputError: the numbers of placeholders and counts differ.
  """
  pieces = text.split(form.placeholder)
  if len(pieces) - 1 != len(counts):
    raise InputError(
      f'The text has {len(pieces) - 1} placeholders {form.placeholder} and there are {len(counts)} '
      'clips.'
    )
  written = [form.placeholder + form.filler * n if form.filler else form.placeholder * n
             for n in counts]  # fmt: skip
  return ''.join(text for pair in zip(pieces, [*written, ''], strict=True) for text in pair)


def whisper_tokens(samples: int) -> int:
  """Tokens of a clip of at most 30 s at 16 kHz behind Whisper's encoder and a pooling by two:
  ceil(samples / 160) frames of mel, (mel - 1) // 2 + 1 behind the second convolution, (conv - 2) //
  2 + 1 behind the pooling (Qwen2-Audio, Audio Flamingo 3)."""
  return pooled(-(-samples // 160))


def pooled(mel: int) -> int:
  """Tokens of N frames of mel; 0 of fewer than 3."""
  return ((mel - 1) // 2 + 1 - 2) // 2 + 1 if mel > 0 else 0
