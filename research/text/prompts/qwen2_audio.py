"""Qwen2-Audio and Qwen2-Audio-Instruct (arXiv 2407.10759; the template of transformers 5.23).

A clip is written `Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>` and a new line, numbered over the
whole conversation. The base model is given clips and an instruction without turns: `base`.
"""

import itertools
from collections.abc import Sequence

from research.errors import InputError
from research.text import chatml
from research.text.messages import Clip, Message, Prompt, Writer
from research.text.prompts import Form, whisper_tokens
from research.text.qwen import read_tokenizer

SAMPLES = 480_000
AUDIO, BEGIN, FINISH = '<|AUDIO|>', '<|audio_bos|>', '<|audio_eos|>'
SPECIALS = ('<|im_start|>', '<|im_end|>', '<|endoftext|>', BEGIN, FINISH)
STOPS = ('<|im_end|>', '<|endoftext|>')
SEVERAL = True
# Of the base model (README of QwenLM/Qwen2-Audio).
QUESTIONS = {'caption': 'Generate the caption in English:'}

__all__ = ['FORM', 'read_tokenizer', 'render']

FORM = Form(
  placeholder=AUDIO,
  sample_rate=16_000,
  tokens=lambda samples: whisper_tokens(min(samples, SAMPLES)),
  windows=lambda samples: 1,
  seconds=30.0,
)


def render(messages: Sequence[Message], answer: bool = True) -> Prompt:
  """The chat of Qwen2-Audio-Instruct. A user turn without text is voice chat.

  Raises:
    InputError: the assistant speaks audio, which the model cannot.
  """
  numbers = itertools.count(1)

  def content(out: Writer, message: Message) -> None:
    if message.role == 'assistant':
      raise InputError('An answer of Qwen2-Audio is text; this one holds audio.')
    for part in message.parts:
      if isinstance(part, Clip):
        out.add(f'Audio {next(numbers)}: {BEGIN}')
        out.clip(part, AUDIO)
        out.add(f'{FINISH}\n')
      else:
        out.add(part)

  return chatml.render(messages, content, answer=answer)


def base(messages: Sequence[Message], answer: bool = True) -> Prompt:
  """The pretraining form: clips, and behind them immediately the instruction and the answer.

  Raises:
    InputError: more than one user turn, or a system turn.
  """
  roles = [message.role for message in messages]
  if roles not in (['user'], ['user', 'assistant']) or (answer and len(roles) > 1):
    raise InputError(
      f'The base model is given one instruction and no turns; got {", ".join(roles) or "none"}.'
    )
  out = Writer()
  for clip in messages[0].clips:
    out.add(BEGIN)
    out.clip(clip, AUDIO)
    out.add(FINISH)
  out.add(messages[0].text)
  if len(messages) > 1:
    out.add(messages[1].text + STOPS[1], answer=True)
  return out.prompt()
