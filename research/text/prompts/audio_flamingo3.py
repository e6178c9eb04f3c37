"""Audio Flamingo 3 (arXiv 2507.08128; processor of transformers 5.23 and its chat template).

All audio of a turn is one `<sound>` in front of its text. A clip is windows of 30 s, 20 at most;
the `<sound>` stands for the tokens of all of them.
"""

import re
from collections.abc import Sequence

from research.errors import InputError
from research.text import chatml
from research.text.messages import Message, Prompt, Writer
from research.text.prompts import Form, pooled
from research.text.qwen import read_tokenizer

SOUND = '<sound>'
SPECIALS = ('<|im_start|>', '<|im_end|>', '<|endoftext|>')
STOPS = ('<|im_end|>', '<|endoftext|>')
WINDOW, HOP = 480_000, 160
# generation_config.json of nvidia/audio-flamingo-3-hf.
DECODING = dict(
  do_sample=True, temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05
)  # fmt: skip
SECONDS = 600.0
TRANSCRIBE = 'Transcribe the input speech.'
QUESTIONS = {'transcribe': TRANSCRIBE}
# What the model writes before a transcript, which is no part of it.
LEADS = (
  'The spoken content of the audio is',
  'The transcription of the audio is',
  'The content of the input audio is',
)


def window_samples(samples: int, seconds: float = SECONDS) -> list[int]:
  """Samples of every window of a clip; what is behind `seconds` is cut off."""
  kept = min(samples, round(seconds * FORM.sample_rate))
  return [min(WINDOW, kept - at) for at in range(0, max(kept, 1), WINDOW)]


def tokens(samples: int, seconds: float = SECONDS) -> int:
  """Tokens of a clip: those of the frames of mel of all windows together."""
  return pooled(sum(-(-each // HOP) for each in window_samples(samples, seconds)))


__all__ = ['FORM', 'read_tokenizer', 'render']

FORM = Form(
  placeholder=SOUND,
  sample_rate=16_000,
  tokens=tokens,
  windows=lambda samples: len(window_samples(samples)),
  seconds=SECONDS,
)


def render(messages: Sequence[Message], answer: bool = True) -> Prompt:
  """The chat of Audio Flamingo 3.

  Raises:
    InputError: the assistant speaks audio, which the model cannot.
  """
  return _render(messages, answer, SOUND)


def _render(messages: Sequence[Message], answer: bool, placeholder: str) -> Prompt:
  def content(out: Writer, message: Message) -> None:
    if message.role == 'assistant':
      raise InputError('An answer of Audio Flamingo 3 is text; this one holds audio.')
    for i, clip in enumerate(message.clips):
      out.clip(clip, '' if i else placeholder)
    out.add(message.text)

  return chatml.render(messages, content, answer=answer)


def clean_transcript(text: str) -> str:
  """A transcript without the model's lead-in, the full stop at its end, and the quotes around it
  (`decode(strip_prefix=True)` of transformers 5.23)."""
  text = text.strip()
  lead = next((lead for lead in LEADS if text.startswith(lead)), '')
  text = text.removeprefix(lead).strip().removesuffix('.').strip()
  quoted = re.fullmatch(r'(["\'])(.*)\1', text, re.DOTALL)
  return quoted[2].strip() if quoted else text
