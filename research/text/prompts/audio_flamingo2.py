"""Audio Flamingo 2 (arXiv 2503.03983; released inference code): `<audio>`, the instruction,
`<SEP>`, the answer; all in lower case and without a token that starts the text. A clip is windows
of 10 s."""

from collections.abc import Sequence

from etils import epath

from research.errors import InputError
from research.text import qwen, subwords
from research.text.messages import Message, Prompt, Writer, turns
from research.text.prompts import Form
from research.text.prompts.audio_flamingo import AUDIO, CHUNK, SEP, with_tokens

EOS = '<|endoftext|>'
SPECIALS = ('<|PAD_TOKEN|>', EOS, CHUNK, SEP)
STOPS = (CHUNK, EOS)
DECODING = {'max_new_tokens': 256, 'do_sample': True, 'top_k': 30, 'top_p': 0.95}
SAMPLE_RATE, WINDOW = 16_000, 160_000
# Of the third stage (arXiv 2503.03983); the released configurations have 12.
MAX_WINDOWS = 30


def windows(samples: int, maximum: int = MAX_WINDOWS) -> int:
  """Windows of a clip; the last is filled up with silence."""
  return min(max(1, -(-samples // WINDOW)), maximum)


FORM = Form(
  placeholder=AUDIO,
  sample_rate=SAMPLE_RATE,
  tokens=lambda samples: int(samples > 0),
  windows=windows,
  seconds=MAX_WINDOWS * WINDOW / SAMPLE_RATE,
)


def read_tokenizer(path: str | epath.PathLike) -> subwords.Tokenizer:
  """The tokenizer of Qwen2.5 with the tokens of Audio Flamingo 2 behind it."""
  return with_tokens(qwen.read_tokenizer(path), '<|PAD_TOKEN|>')


def render(messages: Sequence[Message], answer: bool = True) -> Prompt:
  """One question about one clip, and its answer.

  Raises:
    InputError: several turns or clips, which the model was not trained on.
  """
  pairs = list(turns(messages))
  if len(pairs) != 1 or len(pairs[0][0].clips) != 1:
    raise InputError('Audio Flamingo 2 takes one turn with one clip.')
  user, reply = pairs[0]
  if (reply is None) is not answer:
    raise InputError('The last turn must be of the user to be answered, of the assistant to learn.')
  out = Writer()
  out.clip(user.clips[0], AUDIO)
  out.add(user.text.strip().lower() + SEP)
  if reply is not None:
    out.add(f'{reply.text.strip().lower()}{CHUNK}{EOS}', answer=True)
  return out.prompt()


def clean(text: str, pad: str = '<|PAD_TOKEN|>') -> str:
  """The answer in what was generated: behind the last `<SEP>`, without special tokens."""
  text = text.rsplit(SEP, 1)[-1]
  for token in (EOS, pad, CHUNK):
    text = text.replace(token, '')
  return text.strip()
