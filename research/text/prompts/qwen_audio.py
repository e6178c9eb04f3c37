"""Qwen-Audio and Qwen-Audio-Chat (the official code: tokenization_qwen.py,
qwen_generation_utils.py, eval_audio/; commit b50fb95).

A clip is `<audio>PATH</audio>`; of it `<audio>`, one pad for every token of audio, and `</audio>`
reach the model. The base model is asked by tags (`task`), the chat model in ChatML (`render`), with
a window over the history (`within_window`).
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from etils import epath

from research.errors import InputError, unknown
from research.text import chatml, prompts, qwen
from research.text.byte_pairs import BytePairs
from research.text.messages import Clip, Message, Prompt, Writer, turns
from research.text.prompts import Form
from research.text.subwords import Tokenizer, read_byte_pairs

SAMPLES, WINDOW = 480_000, 6144
BEGIN, FINISH, PAD = '<audio>', '</audio>', '[[[AUDIO:modality]]]'
END, STOPS = '<|endoftext|>', ('<|im_end|>', '<|im_start|>')
CLOSES = (FINISH,)
SEVERAL = True
# generation_config.json of Qwen-Audio-Chat.
DECODING = dict(do_sample=True, top_p=0.5, max_new_tokens=512)
SPECIALS = ('<|im_start|>', '<|im_end|>', END)
LANGUAGES = ('en', 'zh', 'de', 'es', 'ko', 'fr', 'ja', 'it')

# Names of the tags behind the timestamps, in the order of their ids.
_INSTRUCTIONS = (
  *('caption_audiocaps', 'caption_clotho', 'audioset_ontology', 'caption_plain', 'itn', 'wo_itn'),
  *('startofentityvalue', 'endofentityvalue', 'startofentitytype', 'endofentitytype'),
  *('named_entity_recognition', 'audio_grounding', 'startofword', 'endofword', 'delim'),
  *('emotion_recognition', 'music_description', 'note_analysis', 'pitch'),
)
_OTHERS = (
  *('sonic', 'instrument', 'speaker_meta', 'song_meta', 'question', 'answer', 'choice', 'scene'),
  *('event', 'vocal_classification', 'speech_understanding', 'scenario', 'action', 'entities'),
  'speech_edit',
)


def special_tokens() -> tuple[str, ...]:
  """The tokens behind the ranks, in the order of their ids: 3,522."""
  tags = [
    *('startoftranscript', 'startofanalysis', 'translate', 'transcribe', 'caption', 'keyword'),
    *('unknown', *LANGUAGES, 'zh_tr', 'notimestamps', 'sil', 'timestamps'),
    *(f'{i * 0.01:.2f}' for i in range(3001)),
    *_INSTRUCTIONS,
    *(f'midi_pitch_{i}' for i in range(128)),
    'velocity',
    *(f'midi_velocity_{i}' for i in range(128)),
    *_OTHERS,
  ]
  first = ('endoftext', 'im_start', 'im_end', *(f'extra_{i}' for i in range(205)))
  return (*(f'<|{n}|>' for n in first), PAD, *(f'<|{n}|>' for n in tags), BEGIN, FINISH)


def conv_frames(samples: int) -> int:
  """Frames behind the second convolution: of samples // 160 frames of mel, 3000 at most."""
  mel = min(samples, SAMPLES) // 160
  return (mel - 1) // 2 + 1


FORM = Form(
  placeholder=BEGIN,
  filler=PAD,
  sample_rate=16_000,
  tokens=lambda samples: max(0, (conv_frames(samples) - 2) // 2 + 1),
  windows=lambda samples: 1,
  seconds=30.0,
)


def read_tokenizer(path: str | epath.PathLike) -> Tokenizer:
  """The tokenizer of `qwen.tiktoken`, or of a folder with it.

  Raises:
    InputError: there is no rank file, or it is damaged.
  """
  return of_ranks(read_byte_pairs(path), str(path))


def of_ranks(pairs: BytePairs, source: str) -> Tokenizer:
  """The tokenizer of ranks: text is normalised to NFC and split as the Qwen family does."""
  library, names = qwen.library(pairs), special_tokens()
  qwen.add(library, names)
  first = len(pairs.vocabulary)
  for i, name in ((0, names[0]), (len(names) - 1, names[-1])):
    if library.token_to_id(name) != first + i:
      raise InputError(f'{source}: {name!r} should have id {first + i}; is this file complete?')
  return Tokenizer(library, source)


# -- The base model ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Task:
  """A task of the base model: its tags, with {lang}, {to}, {style} and {question} to be filled in,
  and the maximum of tokens of an answer."""

  tags: str
  max_new_tokens: int


TASKS = {
  'asr': Task('startoftranscript {lang} transcribe {lang} notimestamps wo_itn', 256),
  'srwt': Task('startoftranscript {lang} transcribe {lang} timestamps 0.00', 256),
  's2tt': Task('startoftranscript {lang} translate {to} notimestamps itn', 256),
  'caption': Task('startofanalysis unknown caption en notimestamps {style}', 30),
  'emotion': Task('startofanalysis en keyword en notimestamps emotion_recognition', 4),
  'vocal_sound': Task('startofanalysis en keyword en notimestamps vocal_classification', 4),
  'scene': Task('startofanalysis unknown keyword en notimestamps scene', 10),
  'note_analysis': Task('startofanalysis unknown keyword en notimestamps note_analysis', 30),
  'aqa': Task('startofanalysis en question {question} answer', 4),
}


def task(name: str, clip: object, answer: str | None = None, **given: str) -> Prompt:
  """A clip and the tags of a task of the base model (eval_audio/).

  Args:
    name: of TASKS.
    clip: the audio.
    answer: what is learned, in training.
    **given: lang, to, style ('caption_clotho', …) or question, as the task needs them.

  Raises:
    InputError: an unknown task or tag, or one that is not given.
  """
  if name not in TASKS:
    raise unknown('task of Qwen-Audio', name, TASKS)
  known, tags = set(special_tokens()), ''
  for tag in TASKS[name].tags.split():
    if tag.startswith('{'):
      tag, key = given.get(tag[1:-1], ''), tag[1:-1]
      if not tag:
        raise InputError(f'Task {name!r} of Qwen-Audio needs {key}=….')
      if key == 'question':
        tags += f'{tag}'
        continue
      if f'<|{tag}|>' not in known:
        raise unknown(f'tag for {key} of Qwen-Audio', tag, [n[2:-2] for n in known if '.' not in n])
    tags += f'<|{tag}|>'
  out = Writer()
  out.clip(Clip(clip), BEGIN)
  out.add(FINISH + tags)
  if answer is not None:
    out.add(answer + END, answer=True)
  return out.prompt()


def from_text(text: str) -> Prompt:
  """A prompt written with paths between the tags, as in the official examples."""
  out, at = Writer(), 0
  for found in re.finditer(f'{BEGIN}(.*?){FINISH}', text):
    out.add(text[at : found.start()])
    out.clip(Clip(found[1]), BEGIN)
    out.add(FINISH)
    at = found.end()
  out.add(text[at:])
  return out.prompt()


# -- The chat model ----------------------------------------------------------------------------


def render(messages: Sequence[Message], answer: bool = True) -> Prompt:
  """The chat of Qwen-Audio-Chat. Clips are numbered within a turn.

  Raises:
    InputError: the assistant speaks audio, which the model cannot.
  """
  found = chatml.render(messages, _content, answer=answer)
  text = found.text if answer else found.text.removesuffix('\n')
  # Role, new line and text are tokenized each for itself.
  cuts = [at for found in re.finditer(r'<\|im_start\|>\w+(\n)', text) for at in found.span(1)]
  return dataclasses.replace(found, text=text, cuts=tuple(cuts))


def _content(out: Writer, message: Message) -> None:
  if message.role == 'assistant':
    raise InputError('An answer of Qwen-Audio is text; this one holds audio.')
  number = 0
  for part in message.parts:
    if isinstance(part, Clip):
      number += 1
      out.add(f'Audio {number}:')
      out.clip(part, BEGIN)
      out.add(f'{FINISH}\n')
    else:
      out.add(part)


def within_window(
  messages: Sequence[Message],
  tokenizer: Tokenizer,
  tokens: Callable[[Clip], int],
  window: int = WINDOW,
) -> list[Message]:
  """The messages without the oldest turns that do not fit.

  The system turn and what is kept of the history have less than `window` tokens; the last turn,
  which is to be answered, does not count (`make_context` of the official code).

  Args:
    messages: of a conversation, ending with a turn of the user.
    tokenizer: of the checkpoint.
    tokens: tokens of audio of a clip.
    window: max_window_size.
  """
  *history, last = turns(messages)
  system = [m for m in messages[:1] if m.role == 'system'] or [
    Message('system', (chatml.SYSTEM,))
  ]  # fmt: skip
  # A new line goes in front of every turn, none behind the last.
  size = _length(system, tokenizer, tokens) - 1
  kept: list[Message] = []
  for user, answer in reversed(history):
    turn = [user] if answer is None else [user, answer]
    count = _length([*system, *turn], tokenizer, tokens) - _length(system, tokenizer, tokens)
    if size + count >= window:
      break
    size += count
    kept = [*turn, *kept]
  return [*system, *kept, last[0], *([last[1]] if last[1] else [])]


def _length(
  messages: Sequence[Message], tokenizer: Tokenizer, tokens: Callable[[Clip], int]
) -> int:
  """Tokens of turns with the new line behind each."""
  counts = [tokens(clip) for message in messages for clip in message.clips]
  prompt = render(messages, answer=False)
  return len(prompts.encode(prompt, tokenizer, FORM, counts)) + 1
