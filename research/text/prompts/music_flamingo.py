"""Music Flamingo: Audio Flamingo 3's chat with tokens around the sound, up to 1200 s."""

from collections.abc import Sequence

from research.text.messages import Message, Prompt
from research.text.prompts import Form, audio_flamingo3
from research.text.qwen import read_tokenizer

SECONDS = 1200.0
BEGIN, FINISH = '<|sound_bos|>', '<|sound_eos|>'
SPECIALS = (*audio_flamingo3.SPECIALS, BEGIN, FINISH)
STOPS = audio_flamingo3.STOPS
DECODING = audio_flamingo3.DECODING

__all__ = ['FORM', 'read_tokenizer', 'render']

FORM = Form(
  placeholder=audio_flamingo3.SOUND,
  sample_rate=16_000,
  tokens=lambda samples: audio_flamingo3.tokens(samples, SECONDS),
  windows=lambda samples: len(audio_flamingo3.window_samples(samples, SECONDS)),
  seconds=SECONDS,
)


def render(messages: Sequence[Message], answer: bool = True) -> Prompt:
  """The chat of Music Flamingo; see `audio_flamingo3.render`."""
  found = audio_flamingo3._render(messages, answer, f'{BEGIN}{FORM.placeholder}{FINISH}')
  return found
