"""SIFT-LLM (arXiv 2504.09081): the ChatML of Qwen2.5, a clip is vectors among its tokens.

The paper does not print its template. A clip stands where it does in the message, as one token that
is put behind Qwen2.5's vocabulary.
"""

from collections.abc import Sequence

from etils import epath

from research.errors import InputError
from research.text import chatml, qwen
from research.text.messages import Clip, Message, Prompt, Writer
from research.text.prompts import Form
from research.text.subwords import Tokenizer

SAMPLES, VECTORS = 480_000, 1500
AUDIO = '<|AUDIO|>'
SPECIALS = ('<|im_start|>', '<|im_end|>', '<|endoftext|>')
STOPS = ('<|im_end|>', '<|endoftext|>')
SEVERAL = True
SYSTEM = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'
# Of the paper's evaluation (section 6).
DECODING = dict(
  do_sample=True, temperature=0.1, top_p=0.95, repetition_penalty=1.1, no_repeat_ngram_size=3
)  # fmt: skip

FORM = Form(
  placeholder=AUDIO,
  sample_rate=16_000,
  tokens=lambda samples: VECTORS if samples > 0 else 0,
  windows=lambda samples: 1,
  seconds=30.0,
)


def read_tokenizer(path: str | epath.PathLike) -> Tokenizer:
  """The tokenizer of Qwen2.5 with the token of a clip behind it.

  Raises:
    InputError: see `qwen.read_tokenizer`.
  """
  found = qwen.read_tokenizer(path)
  qwen.add(found.library, (AUDIO,))
  return found


def render(messages: Sequence[Message], answer: bool = True) -> Prompt:
  """The chat of Qwen2.5, a token for every clip.

  Raises:
    InputError: the assistant speaks audio, which the model cannot.
  """

  def content(out: Writer, message: Message) -> None:
    if message.role == 'assistant':
      raise InputError('An answer of SIFT-LLM is text; this one holds audio.')
    for part in message.parts:
      if isinstance(part, Clip):
        out.clip(part, AUDIO)
      else:
        out.add(part)

  return chatml.render(messages, content, answer=answer, system=SYSTEM)
