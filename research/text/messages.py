"""Messages of a conversation with a model that hears, and what becomes of them: a prompt.

A message is `{"role": …, "content": …}`. The content is a text, or a list of parts, each a text or
a clip. The forms that are published are all read:

| part | |
|---|---|
| `{"text": "…"}`, `{"type": "text", "text": "…"}` | a text |
| `{"audio_path": …}`, `{"audio": …}` | a clip (SIFT-50M; Qwen-Audio's list format) |
| `{"type": "audio", "audio_url" or "path" or "audio": …}` | a clip (transformers) |

What a clip is, a path or samples, matters to nobody here.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from research.errors import InputError, unknown

ROLES = ('system', 'user', 'assistant')
# Names of the clip of a part, the first that is found.
CLIPS = ('audio_path', 'audio', 'audio_url', 'path')
SYSTEM = 'You are a helpful assistant.'


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip of a message; `audio` is what the message holds: a path, or samples."""

  audio: Any


# A text or a clip.
Part = str | Clip


@dataclasses.dataclass(frozen=True)
class Message:
  """One turn.

  Attributes:
    role: one of ROLES.
    parts: texts and clips, in order.
  """

  role: str
  parts: tuple[Part, ...]

  @property
  def text(self) -> str:
    """All texts, joined without anything between them."""
    return ''.join(part for part in self.parts if isinstance(part, str))

  @property
  def clips(self) -> list[Clip]:
    """All clips, in order."""
    return [part for part in self.parts if isinstance(part, Clip)]


@dataclasses.dataclass(frozen=True)
class Prompt:
  """Messages as the text of one model.

  Attributes:
    text: with one placeholder for every clip.
    clips: the clips, in the order of their placeholders; several may share one placeholder where
      the model joins them (Audio Flamingo 3).
    answers: (start, end) of what is learned in training, in characters of the text.
    cuts: places where the text is divided before it is tokenized.
    places: number of the placeholder of every clip.
  """

  text: str
  clips: tuple[Any, ...]
  answers: tuple[tuple[int, int], ...] = ()
  cuts: tuple[int, ...] = ()
  places: tuple[int, ...] = ()


class Writer:
  """Puts a `Prompt` together, piece by piece."""

  def __init__(self) -> None:
    self._pieces: list[str] = []
    self._length = 0
    self._clips: list[Any] = []
    self._places: list[int] = []
    self._answers: list[tuple[int, int]] = []

  def add(self, text: str, answer: bool = False) -> None:
    """Adds a text; an `answer` is learned in training."""
    if answer and text:
      self._answers.append((self._length, self._length + len(text)))
    self._pieces.append(text)
    self._length += len(text)

  def clip(self, clip: Clip, placeholder: str) -> None:
    """Adds a clip and its placeholder; '': it shares the one before."""
    self._clips.append(clip.audio)
    last = self._places[-1] if self._places else -1
    self._places.append(last + bool(placeholder))
    self.add(placeholder)

  def prompt(self) -> Prompt:
    """All that was added."""
    pieces = tuple(self._clips), tuple(self._answers)
    return Prompt(''.join(self._pieces), *pieces, places=tuple(self._places))


def read_messages(given: Any, where: str = 'messages') -> tuple[Message, ...]:
  """Checks messages and gives them one form.

  Args:
    given: a list of messages as in the table above, or of `Message`.
    where: names them in errors.

  Raises:
    InputError: an unknown role, a part that is neither text nor clip, or no messages.
  """
  if isinstance(given, str | bytes | Mapping) or not isinstance(given, Sequence) or not given:
    raise InputError(f'{where}: expected a list of messages, got {_shown(given)}.')
  return tuple(_message(each, f'{where}, message {i}') for i, each in enumerate(given, start=1))


def question(text: str, *clips: Any) -> tuple[Message, ...]:
  """One user turn: all clips, then a text."""
  return (Message('user', (*map(Clip, clips), text)),)


def turns(messages: Sequence[Message]) -> Iterator[tuple[Message, Message | None]]:
  """(user turn, answer) of a conversation without its system turn; None: not answered yet.

  Raises:
    InputError: user and assistant do not take turns.
  """
  rest = [m for m in messages if m.role != 'system']
  for i in range(0, len(rest), 2):
    pair = rest[i : i + 2]
    if [m.role for m in pair] != ['user', 'assistant'][: len(pair)]:
      roles = ', '.join(m.role for m in rest)
      raise InputError(f'User and assistant must take turns, the user first; got {roles}.')
    yield pair[0], pair[1] if len(pair) > 1 else None


def _message(given: Any, where: str) -> Message:
  if isinstance(given, Message):
    return given
  if not isinstance(given, Mapping) or 'role' not in given or 'content' not in given:
    raise InputError(f'{where}: expected role and content, got {_shown(given)}.')
  role, content = given['role'], given['content']
  if role not in ROLES:
    raise unknown(f'role ({where})', role, ROLES)
  if isinstance(content, str):
    return Message(role, (content,))
  if isinstance(content, bytes | Mapping) or not isinstance(content, Sequence):
    raise InputError(
      f'{where}: content must be a text or a list of parts, each a text or a clip; got '
      f'{_shown(content)}.'
    )
  return Message(role, tuple(_part(part, where) for part in content))


def _part(given: Any, where: str) -> Part:
  if isinstance(given, Clip):
    return given
  if isinstance(given, Mapping):
    kind = given.get('type')
    names = [name for name in CLIPS if given.get(name) is not None]
    text = given.get('text')
    if isinstance(text, str) and not names and kind in (None, 'text'):
      return text
    if len(names) == 1 and text is None and kind in (None, 'audio'):
      return Clip(given[names[0]])
  raise InputError(
    f'{where}: a part must be {{"text": …}} or {{"audio_path": …}} (or "audio"), got '
    f'{_shown(given)}.'
  )


def _shown(given: Any) -> str:
  text = repr(given)
  return text if len(text) <= 60 else f'{text[:59]}…'
