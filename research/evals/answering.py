"""Questions about clips, put to any callable that answers: `answer(clips, messages) -> text`.

`clips` are float32 arrays [t] at the sample rate that is asked for, in the order in which they
occur in the messages; `messages` are those of `text/messages.py`, the last of them of the user.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import logging

from research.audio import decode
from research.audio.example import Example
from research.errors import InputError
from research.evals.transcripts import Transcripts, key_of
from research.jobs import progress
from research.text.messages import Message

Answer = Callable[[list[np.ndarray], tuple[Message, ...]], str]


@dataclasses.dataclass(frozen=True)
class Question:
  """One question.

  Attributes:
    id: unique within its set.
    clips: where the audio is, in the order of the messages.
    messages: the last is of the user.
    label: the right answer.
    columns: what it can be grouped by: category, language, …
  """

  id: str
  clips: tuple[Example, ...]
  messages: tuple[Message, ...]
  label: str
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def text(self) -> str:
    """What the last turn asks, without its clips."""
    return self.messages[-1].text.strip()


def ask(
  questions: Sequence[Question],
  answer: Answer,
  *,
  system: str,
  version: str = '',
  sample_rate: int = 16_000,
  transcripts: Transcripts | None = None,
  text: str = 'answers',
) -> list[str | None]:
  """The answers; None where a clip cannot be read.

  Args:
    questions: of one set.
    answer: the system.
    system: its name and settings: answers of another are asked anew.
    version: of the set.
    sample_rate: of the clips, Hz.
    transcripts: where answers are kept; a run that was killed goes on.
    text: of the progress bar.

  Raises:
    InputError: there are no questions, or the callable gives something else than a text.
  """
  if not questions:
    raise InputError('There are no questions to answer.')
  kept = Transcripts(None) if transcripts is None else transcripts
  found: list[str | None] = []
  unread = []
  with progress.bar(text, len(questions)) as advance:
    for number, question in enumerate(questions, start=1):
      key = key_of(system=system, version=version, question=question.id, asked=_asked(question))
      row = kept.get(key)
      if row is None:
        try:
          clips = [decode.decode(clip, sample_rate=sample_rate) for clip in question.clips]
        except decode.AudioError as error:
          unread.append(str(error))
          row = {'answer': None}
        else:
          row = kept.add(
            key, {'id': question.id, 'answer': _text(answer(clips, question.messages))}
          )
      found.append(row['answer'])
      advance(number)
  if unread:
    logging.warning('%d of %d clips cannot be read: %s', len(unread), len(questions), unread[0])
  return found


def _text(given: object) -> str:
  if not isinstance(given, str):
    raise InputError(f'The system answered {type(given).__name__}; expected a text.')
  return given


def _asked(question: Question) -> list:
  """What was asked, without the folder that the clips are in."""
  return [[m.role, [p if isinstance(p, str) else None for p in m.parts]] for m in question.messages]
