"""Answers to questions about clips, by any model that gives them (`capabilities.Answers`).

  from research import weights
  model = weights.load('runs/mine')
  print(model.answer('street.wav', 'What do you hear?'))

Prompts are those of `text.prompts`. They are padded on the left to a few widths and clips to whole
windows, so that programs are met again; what else is in a batch changes no answer. Letters: b
prompts, c clips of each, t samples, n tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from research.capabilities import Answers
from research.errors import InputError, unknown
from research.inference import decoding, generate
from research.inference.inputs import Audio, samples_of, several
from research.nn import precision
from research.text import prompts
from research.text.messages import Clip, Message, Prompt, question, read_messages
from research.text.subwords import Tokenizer

Clips = Sequence[np.ndarray]


def check(model: Any) -> None:
  """Raises InputError for a model that answers no questions."""
  if not isinstance(model, Answers):
    raise InputError(
      f'{type(model).__name__} answers no questions about audio: take an audio language model, as '
      'Qwen2-Audio. (What is said in audio: launch.transcribe; what is heard: launch.caption.)'
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
  """A question as the model takes it: ids with placeholders, and the clips for these."""

  ids: tuple[int, ...]
  clips: tuple[np.ndarray, ...]


class Chat:
  """What answers with a model and its tokenizer. A callable: (clips, messages) -> text."""

  def __init__(
    self,
    model: Any,
    variables: Any,
    tokenizer: Tokenizer,
    *,
    prompt: str | None = None,
    base: bool = False,
    batch_size: int = 8,
    defaults: Mapping[str, Any] | None = None,
    **settings: Any,
  ):
    """
    Args:
      model: an `Answers`.
      variables: its weights.
      tokenizer: of the weights.
      prompt: how the model is spoken to; None: as it says.
      base: the form of the base model, where it has its own (Qwen2-Audio).
      batch_size: windows of audio, or prompts, at once.
      defaults: of decoding; None: those that are published with the prompt, and for the base model
        the likeliest token.
      **settings: of `Decoding`.

    Raises:
      InputError: another kind of model, a tokenizer of another one, or settings that cannot be.
    """
    check(model)
    if batch_size < 1:
      raise InputError(f'batch_size={batch_size} was given: give at least 1.')
    self.name = prompt or model.prompt
    self.module = prompts.get(self.name)
    if base and not hasattr(self.module, 'base'):
      raise InputError(f'{self.name} has no form of its own for the base model: leave out base.')
    tokenizer.check_fits(model.vocab_size, padded=True)
    prompts.check_places(self.module, tokenizer, model.places)
    self.model, self.tokenizer, self.base, self.batch_size = model, tokenizer, base, batch_size
    self.max_clips = getattr(model, 'max_clips', 2**30)
    self.rate, self.several = model.frontend.sample_rate, getattr(self.module, 'SEVERAL', False)
    if defaults is None:
      defaults = {} if base else getattr(self.module, 'DECODING', {})
    self.decoding = decoding.decoding(defaults, settings)
    ends = (*getattr(self.module, 'STOPS', ()), '<|endoftext|>')
    found = {tokenizer.library.token_to_id(name): None for name in ends}
    self.stop = tuple(i for i in found if i is not None)
    beams = getattr(self.module, 'BEAMS', 'transformers')
    self.settings = self.decoding.settings(self.stop, beams)
    self._variables = jax.device_put(precision.held(variables, model.dtype))

  def about(self) -> dict[str, Any]:
    """What answers depend on besides the weights, JSON-able."""
    how = dataclasses.asdict(self.decoding)
    return {'prompt': self.name, 'base': self.base, 'tokenizer': self.tokenizer.source, **how}

  # -- Questions -------------------------------------------------------------------------------

  def heard(
    self, audio: Audio | Sequence[Audio] | None, messages: Any, sample_rate: float | None = None
  ) -> tuple[list[np.ndarray], tuple[Message, ...]]:
    """(clips, messages) of audio as a person gives it, see `Pretrained.answer`."""
    given: list[Audio] = [] if audio is None else several(audio, sample_rate)[1]
    if isinstance(messages, str):
      talk = question(messages, *given)
    else:
      talk = read_messages(messages)
      if audio is None:
        given = [clip.audio for message in talk for clip in message.clips]
    clips = [samples_of(x, sample_rate, self.model.frontend, i, None) for i, x in enumerate(given)]
    return clips, talk

  def ask(self, clips: Clips, messages: Any) -> Asked:
    """Messages as the model takes them.

    Args:
      clips: samples [t] at the model's rate, in the order in which they occur in the messages.
        Those that are longer than the model hears become several where it takes several.
      messages: see `text.messages`; the last one is of the user.

    Raises:
      InputError: other messages, as many clips as there are not in them, a clip that is too short
        or too long, or more tokens than the model has positions for.
    """
    talk = read_messages(messages)
    if talk[-1].role != 'user':
      raise InputError(f'The last message is of the {talk[-1].role}: end with one of the user.')
    named = sum(len(message.clips) for message in talk)
    if named != len(clips):
      raise InputError(
        f'The messages have {named} clips and {len(clips)} were given: give one for each.'
      )
    pieces: list[np.ndarray] = []
    left = iter(clips)
    talk = tuple(self._numbered(message, left, pieces) for message in talk)
    if not self.base and hasattr(self.module, 'within_window'):
      count = lambda clip: self._tokens(pieces[clip.audio])  # noqa: E731
      talk = tuple(self.module.within_window(talk, self.tokenizer, count))
    return self._encoded((self.module.base if self.base else self.module.render)(talk), pieces)

  def task(self, name: str, clip: np.ndarray, **given: str) -> Asked:
    """A published prompt about a clip.

    Args:
      name: of `tasks`.
      clip: samples [t] at the model's rate.
      **given: what the task needs: lang, to, style or question (Qwen-Audio).

    Raises:
      InputError: an unknown task, or something that it needs is missing.
    """
    if name not in self.tasks():
      raise unknown(f'task of {self.name}', name, self.tasks() or ['none: ask in words'])
    if hasattr(self.module, 'task'):
      self._check_length(clip)
      return self._encoded(self.module.task(name, 0, **given), [clip])
    return self.ask([clip], question(self.module.QUESTIONS[name], 0))

  def tasks(self) -> list[str]:
    """Names of the published prompts."""
    return list(getattr(self.module, 'TASKS' if hasattr(self.module, 'task') else 'QUESTIONS', {}))

  def task_settings(self, name: str) -> dict[str, Any]:
    """How a published prompt is decoded: the likeliest tokens, and as many as are published."""
    if name not in self.tasks():
      raise unknown(f'task of {self.name}', name, self.tasks() or ['none: ask in words'])
    known = getattr(self.module, 'TASKS', {}).get(name)
    length = {} if known is None else {'max_new_tokens': known.max_new_tokens}
    return {'do_sample': False, 'repetition_penalty': 1.0, **length}

  def cleaner(self, name: str) -> Callable[[str], str]:
    """What of the answer to a published prompt counts: a transcript without its lead-in."""
    if name == 'transcribe' and hasattr(self.module, 'clean_transcript'):
      return self.module.clean_transcript
    return str.strip

  def _numbered(
    self, message: Message, left: Iterator[np.ndarray], pieces: list[np.ndarray]
  ) -> Message:
    """A message whose clips are numbers of pieces, which are added."""
    parts: list[Any] = []
    for part in message.parts:
      if isinstance(part, str):
        parts.append(part)
        continue
      for piece in self._cut(next(left)):
        parts.append(Clip(len(pieces)))
        pieces.append(piece)
    return Message(message.role, tuple(parts))

  def _cut(self, clip: np.ndarray) -> list[np.ndarray]:
    """A clip in pieces that the model hears whole."""
    if len(clip) > self.model.max_samples and not self.several:
      self._check_length(clip)
    size = self.model.max_samples
    found = [clip[i : i + size] for i in range(0, max(1, len(clip)), size)]
    # A rest too short for a token of audio is left out.
    if len(found) > 1 and not self._gives_tokens(found[-1]):
      found.pop()
    return found

  def _gives_tokens(self, piece: np.ndarray) -> bool:
    try:
      return self._tokens(piece) > 0
    except InputError:
      return False

  def _check_length(self, clip: np.ndarray) -> None:
    if len(clip) > self.model.max_samples:
      have, limit = len(clip) / self.rate, self.model.max_samples / self.rate
      raise InputError(
        f'A clip has {have:.1f} s and {self.name} hears {limit:g} s of a question: cut it.'
      )

  def _tokens(self, piece: np.ndarray) -> int:
    return prompts.text_tokens(self.module, self.model.placeholders, len(piece))

  def _encoded(self, prompt: Prompt, pieces: Clips) -> Asked:
    own = [pieces[number] for number in prompt.clips]
    if len(own) > self.max_clips:
      raise InputError(
        f'The question has {len(own)} clips and this {self.name} takes up to {self.max_clips}: '
        'leave some out.'
      )
    counts = prompts.per_placeholder(prompt.places, [self._tokens(piece) for piece in own])
    ids = prompts.encode(prompt, self.tokenizer, self.module.FORM, counts).ids
    if len(ids) >= self.model.max_tokens:
      raise InputError(
        f'The question has {len(ids)} tokens, {sum(counts)} of them of audio, and the model has '
        f'{self.model.max_tokens} positions, of which the answer needs some: give less audio, or '
        'begin anew.'
      )
    return Asked(tuple(ids.tolist()), tuple(own))

  # -- Answers ---------------------------------------------------------------------------------

  def __call__(self, clips: Clips, messages: Any) -> str:
    """See `answer`."""
    return self.answer(clips, messages)

  def answer(
    self, clips: Clips, messages: Any, on_text: Callable[[str], None] | None = None
  ) -> str:
    """The answer to messages.

    Args:
      clips, messages: see `ask`.
      on_text: called with every piece of the answer as it comes.

    Raises:
      InputError: see `ask`; pieces of a beam search, which it has none of.
    """
    asked = self.ask(clips, messages)
    return self.answers([asked])[0] if on_text is None else self._streamed(asked, on_text)

  def answers(self, asked: Sequence[Asked], numbers: Sequence[int] | None = None) -> list[str]:
    """Answers to several questions.

    Args:
      asked: of `ask` or `task`.
      numbers: of the questions, on which draws depend beside the seed; None: 0 of all.
    """
    found = [''] * len(asked)
    drawn = [0] * len(asked) if numbers is None else list(numbers)
    for group in self._groups(asked):
      texts = self._write([asked[i] for i in group], [drawn[i] for i in group])
      for i, text in zip(group, texts, strict=True):
        found[i] = text
    return found

  def _shape(self, clips: Clips) -> tuple[int, int]:
    """(clips of a row, windows of a clip), powers of two: few programs."""
    windows = max((-(-len(clip) // self.model.window_samples) for clip in clips), default=0)
    return min(_power(len(clips)), self.max_clips), _power(windows)

  def _groups(self, asked: Sequence[Asked]) -> Iterator[list[int]]:
    """Numbers of the questions of a batch: those of one shape and about one length."""
    shapes: dict[tuple[int, int], list[int]] = {}
    for i, each in enumerate(asked):
      shapes.setdefault(self._shape(each.clips), []).append(i)
    for (c, w), members in sorted(shapes.items()):
      members.sort(key=lambda i: len(asked[i].ids))
      rows = max(1, self.batch_size // max(1, c * w))
      yield from (members[i : i + rows] for i in range(0, len(members), rows))

  def _begun(self, batch: Sequence[Asked], numbers: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    """(prompts, other arguments of `generate`), rows filled up to a power of two."""
    size = _power(len(batch))
    rows = [list(each.ids) for each in batch]
    rows += [rows[0]] * (size - len(rows))
    c, w = (max(pair) for pair in zip(*(self._shape(each.clips) for each in batch), strict=True))
    memories = None
    if c:
      audio = np.zeros((size, c, w * self.model.window_samples), np.float32)
      lengths = np.zeros((size, c), np.int64)
      for i, row in enumerate([*batch, *[batch[0]] * (size - len(batch))]):
        for j, clip in enumerate(row.clips):
          audio[i, j, : len(clip)], lengths[i, j] = clip, len(clip)
      mask = np.arange(audio.shape[2]) < lengths[..., None]
      memories = _remember(self.model, self._variables, {'audio': audio, 'audio_mask': mask})
    uniform = None
    if self.decoding.do_sample:
      drawn = [*numbers, *[0] * (size - len(batch))]
      each = [np.random.default_rng([self.decoding.seed, number]) for number in drawn]
      draws = [rng.random(self.settings.max_tokens, np.float32) for rng in each]
      uniform = np.stack(draws, axis=1)
    how = dict(memories=memories, uniform=uniform, temperature=self.decoding.temperature)
    return rows, how

  def _write(self, batch: Sequence[Asked], numbers: Sequence[int]) -> list[str]:
    rows, how = self._begun(batch, numbers)
    written = generate.generate(self.model, self._variables, rows, self.settings, **how)
    return [self._text(ids) for ids in written.best()[: len(batch)]]

  def _streamed(self, asked: Asked, on_text: Callable[[str], None]) -> str:
    rows, how = self._begun([asked], [0])
    ids: list[int] = []
    said = ''
    for (new,) in generate.stream(self.model, self._variables, rows, self.settings, **how):
      ids += new
      # A character may take several tokens.
      text = self._text(ids).rstrip('\ufffd')
      if text.startswith(said) and len(text) > len(said):
        on_text(text[len(said) :])
        said = text
    whole = self._text(ids)
    if whole != said and whole.startswith(said):
      on_text(whole[len(said) :])
    return whole

  def _text(self, ids: Sequence[int]) -> str:
    # Weights may have more rows than there are tokens.
    known = [i for i in ids if self.tokenizer.library.id_to_token(i) is not None]
    return self.tokenizer.decode(known).strip()


@functools.partial(jax.jit, static_argnums=0)
def _remember(model: Any, variables: Any, batch: Any) -> Any:
  return model.apply(variables, batch, method='remember')


def converse(
  chat: Chat, lines: Iterable[str], say: Callable[[str], None], system: str = ''
) -> None:
  """A conversation: every line is a question, and is answered.

  `/clip FILE` adds audio to the next question, `/new` forgets, `/quit` ends. Mistakes end nothing.

  Args:
    chat: the system.
    lines: what is asked.
    say: is given pieces of text to print.
    system: a message in front of it all.
  """
  start = (Message('system', (system,)),) if system else ()
  talk: tuple[Message, ...] = start
  clips: list[np.ndarray] = []
  added: list[np.ndarray] = []
  streams = chat.decoding.num_beams == 1
  for line in lines:
    text = line.strip()
    name, _, rest = text.partition(' ')
    if name == '/quit':
      return
    try:
      if name == '/new':
        talk, clips, added = start, [], []
      elif name == '/clip':
        (clip,), _ = chat.heard(rest.strip(), '')
        added.append(clip)
        say(f'{len(clip) / chat.rate:.1f} s\n')
      elif name.startswith('/'):
        raise InputError(f'{name} is no command: /clip FILE, /new or /quit.')
      elif text:
        asked = (*talk, Message('user', (*map(Clip, range(len(added))), text)))
        answer = chat.answer([*clips, *added], asked, say if streams else None)
        say('\n' if streams else f'{answer}\n')
        talk, clips, added = (*asked, Message('assistant', (answer,))), [*clips, *added], []
    except InputError as error:
      say(f'error: {error}\n')


def _power(n: int) -> int:
  """The next power of two; 0 of 0."""
  return 1 << (n - 1).bit_length() if n else 0
