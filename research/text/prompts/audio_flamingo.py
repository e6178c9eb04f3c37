"""Audio Flamingo 1 (arXiv 2402.01831; the official data code, foundation/ and inference/).

`<audio>` is one token, whatever the length of its clip: the model looks at the clip from there. A
clip is up to 16 overlapping windows of 7 s. The three stages write the same things in different
cases, which is kept for the published weights:

| | the texts of data | what the code adds ("The task is", "OPTIONS", "Answer") |
|---|---|---|
| training | lower case | as written |
| validation, one clip | lower case | lower case, the prefix without the space behind it |
| validation, several | lower case | lower case, but "Here are … examples. " and the prefix |
| inference | lower case | lower case |

Instructions of the data sets: `flamingo_tasks.py`.
"""

import math
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Bool, Int

from research.errors import InputError, unknown
from research.text import qwen, subwords
from research.text.messages import Clip, Message, Prompt, Writer, turns
from research.text.prompts import Form

AUDIO, CHUNK, SEP = '<audio>', '<|endofchunk|>', '<SEP>'
BOS = EOS = '</s>'
SPECIALS = ('<PAD>', EOS, CHUNK, SEP)
STOPS = (CHUNK, EOS)
# Of the official script (inference/, beam search over foundation weights).
DECODING = {'max_new_tokens': 128, 'num_beams': 3}
BEAMS = 'transformers_4_27'
SAMPLE_RATE = 44_100
WINDOW_SECONDS, OVERLAP_SECONDS, MAX_WINDOWS, MAX_CLIPS = 7.0, 5.25, 16, 8
STAGES = ('train', 'val', 'inference')
SUFFIX = '\nAnswer:'
DIALOG = 'The task is dialog. '


def windows(
  samples: int,
  sample_rate: int = SAMPLE_RATE,
  window: float = WINDOW_SECONDS,
  overlap: float = OVERLAP_SECONDS,
  maximum: int = MAX_WINDOWS,
) -> tuple[int, int]:
  """(windows of a clip, samples of all of them together); the clip is padded or cut to these."""
  length, shared = int(window * sample_rate), int(overlap * sample_rate)
  hop = length - shared
  if samples <= length:
    count = 1
  elif samples >= maximum * length - (maximum - 1) * shared:
    count = maximum
  else:
    count = 1 + math.ceil((samples - length) / hop)
  return count, count * length - (count - 1) * shared


FORM = Form(
  placeholder=AUDIO,
  sample_rate=SAMPLE_RATE,
  tokens=lambda samples: int(samples > 0),
  windows=lambda samples: windows(samples)[0],
  seconds=MAX_WINDOWS * (WINDOW_SECONDS - OVERLAP_SECONDS) + OVERLAP_SECONDS,
)


def read_tokenizer(path: str | epath.PathLike) -> subwords.Tokenizer:
  """The tokenizer of OPT with the tokens of Audio Flamingo behind it."""
  return with_tokens(subwords.read_tokenizer(path), '<PAD>')


def with_tokens(tokenizer: subwords.Tokenizer, pad: str) -> subwords.Tokenizer:
  """Adds `<audio>`, `<|endofchunk|>`, a token that pads unless there is one, and `<SEP>`, those
  that the vocabulary lacks."""
  library = tokenizer.library
  padded = any(library.token_to_id(name) is not None for name in ('<pad>', '<PAD>'))
  names = [AUDIO, CHUNK, *(() if padded and pad == '<PAD>' else (pad,)), SEP]
  qwen.add(library, names)
  return tokenizer


# -- The skeletons -----------------------------------------------------------------------------


def single(
  prompt: str,
  output: str | None = None,
  *,
  prefix: str = '',
  stage: str = 'train',
  clip: object = None,
  bos: str = BOS,
  eos: str = EOS,
) -> Prompt:
  """A question about one clip.

  Args:
    prompt: the instruction, with `SUFFIX` (of training and validation; inference adds its own).
    output: the answer; None for inference.
    prefix: '' or 'The task is … . '.
    stage: one of STAGES.
    clip: the audio.
    bos: the token that starts a text.
    eos: the token that ends a text.

  Raises:
    InputError: an unknown stage, or no output in training.
  """
  if stage not in STAGES:
    raise unknown('stage of Audio Flamingo', stage, STAGES)
  out = Writer()
  if stage == 'inference':
    prefix = prefix.strip().lower()
    out.add(f'{bos}{prefix} ')
    out.clip(Clip(clip), AUDIO)
    out.add(f'{prompt.strip().lower()}{SUFFIX.lower()}{SEP}')
    return out.prompt()
  if output is None:
    raise InputError(f'Stage {stage!r} of Audio Flamingo learns or scores answers: give an output.')
  lower = stage == 'val'
  out.add(bos + (prefix.strip().lower() if lower else prefix))
  _example(out, prompt, output, clip, lower)
  out.add(eos, answer=True)
  return out.prompt()


def interleaved(
  examples: Sequence[tuple[object, str, str | None]],
  *,
  prefix: str = '',
  kind: str = 'similar',
  stage: str = 'train',
  bos: str = BOS,
  eos: str = EOS,
) -> Prompt:
  """Examples, and a last question like them.

  Args:
    examples: (clip, prompt, output); the output of the last is None in inference. Prompts end with
      `SUFFIX`.
    prefix: as in `single`; it keeps its case.
    kind: 'similar' or 'random', how the examples were found.
    stage: 'train', or any other for lower case.
    bos: the token that starts a text.
    eos: the token that ends a text.
  """
  out = Writer()
  out.add(f'{bos}Here are {kind} examples. {prefix}')
  for clip, prompt, output in examples:
    if output is None:
      out.clip(Clip(clip), AUDIO)
      out.add(f'{prompt.strip().lower()}{SEP}')
      return out.prompt()
    _example(out, prompt, output, clip, stage != 'train')
  out.add(eos, answer=True)
  return out.prompt()


def dialog(
  conversation: Sequence[tuple[str, str | None]],
  *,
  stage: str = 'train',
  prefix: str = DIALOG,
  clip: object = None,
  bos: str = BOS,
  eos: str = EOS,
) -> Prompt:
  """A conversation about one clip; words keep their case.

  Args:
    conversation: (user, assistant); the last answer is None in inference.
    stage: 'train', or any other for a prefix in lower case.
    prefix: of the whole text.
    clip: the audio.
    bos: the token that starts a text.
    eos: the token that ends a text.
  """
  out = Writer()
  out.add(bos + (prefix if stage == 'train' else f'{prefix.strip().lower()} '))
  out.clip(Clip(clip), AUDIO)
  for i, (user, assistant) in enumerate(conversation):
    out.add(f'user: {user} \nassistant: {SEP}')
    if assistant is None:
      break
    out.add(f'{assistant}{CHUNK}', answer=True)
    out.add(eos, answer=i == len(conversation) - 1)
    out.add('\n')
  return out.prompt()


def _example(out: Writer, prompt: str, output: str, clip: object, lower: bool) -> None:
  prompt, output = prompt.strip(), output.strip()
  out.clip(Clip(clip), AUDIO)
  out.add((prompt.lower() if lower else prompt) + SEP)
  out.add((output.lower() if lower else output) + CHUNK, answer=True)


def render(messages: Sequence[Message], answer: bool = True) -> Prompt:
  """Messages in the skeleton that they fit: several turns about one clip are a dialog, several
  turns with a clip each are examples, one turn is a question. A system turn is the prefix.

  Raises:
    InputError: a turn holds several clips, or the turns fit none of the skeletons.
  """
  prefix = next((m.text for m in messages if m.role == 'system'), '')
  prefix = f'{prefix.strip()} ' if prefix.strip() else ''
  pairs = [
    (user.clips, user.text, None if reply is None else reply.text)
    for user, reply in turns(messages)
  ]
  counts = [len(clips) for clips, _, _ in pairs]
  if (pairs[-1][2] is None) is not answer:
    raise InputError('The last turn must be of the user to be answered, of the assistant to learn.')
  stage = 'inference' if answer else 'train'
  if len(pairs) == 1 and counts == [1]:
    clips, text, reply = pairs[0]
    text = text if answer else text.strip().lower() + SUFFIX
    reply = reply if reply is None else reply.lower()
    return single(text, reply, prefix=prefix, stage=stage, clip=clips[0].audio)
  if counts == [1] + [0] * (len(pairs) - 1):
    conversation = [(text.strip(), reply) for _, text, reply in pairs]
    clip = pairs[0][0][0].audio
    return dialog(conversation, stage=stage, prefix=prefix or DIALOG, clip=clip)
  if counts == [1] * len(pairs) and len(pairs) <= MAX_CLIPS:
    examples = [
      (clips[0].audio, (text.strip() + SUFFIX).lower() if answer else text.strip().lower() + SUFFIX,
       reply if reply is None else reply.lower())
      for clips, text, reply in pairs
    ]  # fmt: skip
    return interleaved(examples, prefix=prefix, stage=stage)
  raise InputError(
    f'Audio Flamingo takes one clip in the first turn, or one in each of up to {MAX_CLIPS} turns; '
    f'these turns hold {", ".join(map(str, counts))}.'
  )


def learned(
  ids: Int[np.ndarray, 'u'], *, sep: int, chunk: int, eos: int, skip: int = 2
) -> Bool[np.ndarray, 'u']:
  """Which ids are targets by the official training loop: from behind every `<SEP>` to its
  `<|endofchunk|>`, and an end of text right behind the last of them. An answer that was cut off has
  none.

  Args:
    ids: of one text.
    sep: id of `<SEP>`.
    chunk: id of `<|endofchunk|>`.
    eos: id of the end of text.
    skip: first ids that never count (2 in Audio Flamingo 1, 1 in 2).
  """
  out = np.zeros(len(ids), bool)
  start, last = None, -1
  for i, token in enumerate(ids):
    if token == sep:
      start = i + 1
    elif token == chunk and start is not None:
      out[start : i + 1], start, last = True, None, i
  if 0 <= last < len(ids) - 1 and ids[last + 1] == eos and start is None:
    out[last + 1] = True
  out[:skip] = False
  return out
