"""Conversations about clips, as audio language models read them.

The rows of a source have messages (`manifests/messages.py`), or a question is asked of every clip
and a column answers it. The layout is that of `models/audio_prompts.py`: c clips a row.
"""

import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

from research.audio import batching, decode
from research.audio.clips import Source
from research.audio.decode import AudioError, Crop
from research.audio.example import Example
from research.audio.fields import Context, Crops, Field, Rows
from research.audio.fields.captions import together
from research.audio.fields.transcript import GRACE
from research.audio.manifests.messages import CLIPS, MESSAGES
from research.errors import InputError
from research.text import prompts, subwords
from research.text.messages import Clip, Message, Prompt, read_messages
from research.text.prompts import Encoded, Form

NOTHING = -1
# Widths of batches are multiples of it.
STEP = 8


@dataclasses.dataclass(frozen=True)
class Messages(Field):
  """Gives 'tokens' i32 [b, u], a conversation with a placeholder for every vector of audio and -1
  behind it; 'answer_mask' bool [b, u], tokens of the answers, which alone are learned; 'audio' f32
  [b, c, t] and 'audio_mask' bool [b, c, t], the clips in the order of their placeholders. Rows with
  fewer than c clips are filled up with empty ones.

  Clips must not be longer than the batches. Rows with more tokens than the model has positions for
  are left out, and counted.

  Attributes:
    prompt: whose: a file of `text/prompts`, as 'qwen2_audio'.
    tokenizer: file or folder with the tokenizer of the checkpoint; 'bytes' needs none and is for
      trials.
    column: column of messages.
    ask: a question about every clip, or several phrasings of it, of which training draws one at
      every read; for sources without messages. '': the column holds messages.
    answer: with `ask`, the column that answers: a text, or labels, in which '_' is a space.
    base: the form of the base model, where it has its own (Qwen2-Audio).
    clips: c; None: the highest number that a row has.
    max_tokens: of a row; None: as many as the model has positions for.
    mix: {task: weight}, by the column `task`: how often each is drawn, whatever number of rows it
      has. Needs config.data.weights='balanced'.
    mix_by: 'task': weights are fractions of the drawn rows (SIFT-LLM); 'row': every row of a task
      is
      drawn that much as often (Audio Flamingo).
    task: column of tasks.
  """

  prompt: str
  tokenizer: str = subwords.BYTES
  column: str = MESSAGES
  ask: str | Sequence[str] = ''
  answer: str = 'label'
  base: bool = False
  clips: int | None = None
  max_tokens: int | None = None
  mix: Mapping[str, float] | None = None
  mix_by: str = 'task'
  task: str = 'task'

  WHOLE: ClassVar[bool] = True

  @property
  def silent(self) -> bool:
    """The clips come with this field."""
    return True

  def check_config(self, config: Mapping[str, Any]) -> None:
    """Raises InputError for an unknown prompt, and for a mixture that is not drawn."""
    module = prompts.get(self.prompt)
    where = f'config.data.fields.{self.key}.args'
    if self.base and not hasattr(module, 'base'):
      raise InputError(f'{where}.base: {self.prompt} has no form of its own for the base model.')
    if self.mix_by not in ('task', 'row'):
      raise InputError(f"{where}.mix_by is {self.mix_by!r}; it must be 'task' or 'row'.")
    if self.mix and config['data']['weights'] != 'balanced':
      raise InputError(f"{where}.mix needs config.data.weights='balanced': rows are drawn by it.")

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which rows have an answer in words; raises InputError if none has."""
    if self.ask:
      found = np.array([bool(_label(value).strip()) for value in source.column(self.answer)])
    elif 'answer' in source.column_names and self.column == MESSAGES:
      found = np.array([value == 'text' for value in source.column('answer')])
    else:
      found = np.array([bool(value) for value in source.column(self.column)])
    if not found.any():
      raise InputError(f'No row of {source.name!r} has an answer in words.')
    return found

  def weights(self, source: Source) -> Float[np.ndarray, 'clips'] | None:
    """Weights of the rows by `mix`.

    Raises:
      InputError: a task without a weight, or a weight without rows.
    """
    if not self.mix:
      return None
    tasks = [str(value) for value in source.column(self.task)]
    counts = {name: tasks.count(name) for name in dict.fromkeys(tasks)}
    for name in {*counts} ^ {*self.mix}:
      what = 'no weight' if name in counts else 'no rows'
      raise InputError(
        f'config.data.fields.{self.key}.args.mix: task {name!r} has {what}; the data have '
        f'{", ".join(counts)}.'
      )
    each = {n: self.mix[n] / (counts[n] if self.mix_by == 'task' else 1) for n in counts}
    return np.array([each[name] for name in tasks])

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Two hundred tokens of text, and those of the clips."""
    # Its shapes depend on no tokenizer, of which there may be none yet.
    made = _Speaker.of(dataclasses.replace(self, tokenizer=subwords.BYTES), context)
    c = self.clips or 1
    u = min(made.limit or 2**30, 200 + c * max(1, made.count(samples)))
    shape = (clips, c, samples)
    return {
      'tokens': np.zeros((clips, u), np.int32),
      'answer_mask': np.ones((clips, u), bool),
      'audio': np.zeros(shape, np.float32),
      'audio_mask': np.ones(shape, bool),
    }

  def open(self, source: Source, context: Context) -> 'MessageRows':
    """Reads all conversations once, for their lengths; they are tokenized again when they are read.

    Raises:
      InputError: a tokenizer of another vocabulary than the model's, messages that the prompt does
        not take, more clips than c, or no row that fits.
    """
    speaker = _Speaker.of(self, context)
    talks = _Talks(self, source, speaker)
    lengths, counts = np.zeros(len(source), np.int64), np.zeros(len(source), np.int64)
    for row in range(len(source)):
      found = talks(row)
      lengths[row] = max(len(talk.encoded) for talk in found)
      counts[row] = len(found[0].paths)
    highest = int(counts.max())
    clips = self.clips or highest
    if highest > clips:
      raise InputError(
        f'A row of {source.name!r} has {highest} clips, and '
        f'config.data.fields.{self.key}.args.clips is {clips}: raise it, or leave out such rows.'
      )
    if clips > (room := getattr(context.model, 'max_clips', clips)):
      raise InputError(
        f'Rows of {source.name!r} get places for {clips} clips, and the model takes {room}: raise '
        f'config.model.args.max_clips, or lower config.data.fields.{self.key}.args.clips.'
      )
    durations = np.asarray(source.durations())
    samples = np.ceil(durations * context.sample_rate).astype(np.int64)
    # A clip may have a few samples more than its header says: up to one token.
    sizes = {n: speaker.count(n) + 1 for n in np.unique(samples).tolist()}
    need = lengths + counts * np.array([sizes[n] for n in samples.tolist()])
    seed = context.seed if context.train else None
    made = MessageRows(talks, durations, need, context.sample_rate, clips, self.key, seed)
    made.check_tokens()
    return made


@dataclasses.dataclass(frozen=True)
class Talk:
  """One conversation: its ids with every placeholder once, the paths of its clips ('' is the clip
  of the row itself), and the number of the placeholder of each."""

  encoded: Encoded
  paths: tuple[str, ...]
  places: tuple[int, ...]

  def ids(self, counts: Sequence[int]) -> Encoded:
    """The ids, N of them for each clip."""
    return prompts.repeat(self.encoded, prompts.per_placeholder(self.places, counts))


@dataclasses.dataclass(frozen=True)
class _Speaker:
  """How one model is spoken to."""

  name: str
  base: bool
  tokenizer: subwords.Tokenizer
  model: Any
  limit: int | None

  @property
  def form(self) -> Form:
    return prompts.get(self.name).FORM

  @classmethod
  def of(cls, field: Messages, context: Context) -> '_Speaker':
    model, form = context.model, prompts.get(field.prompt).FORM
    if form.sample_rate != context.sample_rate:
      raise InputError(
        f'config.data.sample_rate is {context.sample_rate} Hz and {field.prompt} hears '
        f'{form.sample_rate} Hz: set it to that.'
      )
    places, rows = tuple(getattr(model, 'places', ())), getattr(model, 'vocab_size', None)
    tokenizer = prompts.tokenizer_of(field.prompt, field.tokenizer, places, rows)
    limits = [n for n in (getattr(model, 'max_tokens', None), field.max_tokens) if n is not None]
    limit = min(limits, default=None)
    return cls(field.prompt, field.base, tokenizer, model, limit)

  def render(self, messages: Sequence[Message], where: str) -> Prompt:
    module = prompts.get(self.name)
    try:
      return (module.base if self.base else module.render)(messages, answer=False)
    except InputError as error:
      raise InputError(f'{where}: {error}') from None

  def talk(self, prompt: Prompt, paths: tuple[str, ...]) -> Talk:
    encoded = prompts.encode(prompt, self.tokenizer, self.form)
    return Talk(encoded, paths, prompt.places)

  def count(self, samples: int) -> int:
    """Tokens of a clip; 0: it is too short."""
    if not hasattr(self.model, 'placeholders'):
      return self.form.tokens(samples)
    try:
      return max(0, prompts.text_tokens(prompts.get(self.name), self.model.placeholders, samples))
    except InputError:
      return 0


@dataclasses.dataclass(frozen=True)
class _Talks:
  """The conversation of a row, in all its phrasings."""

  field: Messages
  source: Source
  speaker: _Speaker

  def __call__(self, row: int) -> list[Talk]:
    where = f'Row {self.source.id(row)!r} of {self.source.name!r}'
    columns = self.source[row].columns
    if self.field.ask:
      return self._asked(columns, where)
    text = columns[self.field.column]
    try:
      given = json.loads(text) if isinstance(text, str) else None
    except ValueError:
      given = None
    prompt = self.speaker.render(read_messages(given, where), where)
    paths = columns.get(CLIPS, [])
    if len(prompt.clips) != len(paths):
      raise InputError(f'{where}: {len(prompt.clips)} clips in the prompt, {len(paths)} listed.')
    return [self.speaker.talk(prompt, tuple(paths))]

  def _asked(self, columns: Mapping[str, Any], where: str) -> list[Talk]:
    """A question to the clip of the row."""
    ask, answer = self.field.ask, Message('assistant', (_label(columns[self.field.answer]),))
    talks = []
    for text in [ask] if isinstance(ask, str) else ask:
      prompt = self.speaker.render((Message('user', (Clip(''), text)), answer), where)
      talks.append(self.speaker.talk(prompt, ('',)))
    return talks


@dataclasses.dataclass
class MessageRows(Rows):
  """Conversations of all rows, in one or several phrasings; with `seed` None the first counts.

  `durations` are of the longest clips, seconds; `need` is the maximum of tokens.
  """

  talks: _Talks
  durations: Float[np.ndarray, 'rows']
  need: Int[np.ndarray, 'rows']
  sample_rate: int
  clips: int
  key: str
  seed: int | None

  def __post_init__(self):
    self._decoded = threading.local()

  @property
  def speaker(self) -> _Speaker:
    return self.talks.speaker

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if k != '_decoded'}

  def __setstate__(self, state):
    self.__dict__.update(state, _decoded=threading.local())

  def check_tokens(self) -> None:
    """Warns of rows with too many tokens; raises InputError if all have."""
    limit = self.speaker.limit
    if limit is None:
      return
    long = int((self.need > limit).sum())
    if long == len(self.need):
      raise InputError(
        f'Every row has more than the {limit} tokens that the model has positions for: take '
        'shorter clips or texts.'
      )
    if long:
      logging.warning(
        '%d of %d rows have more than %d tokens and are left out.', long, len(self.need), limit
      )

  def fits(self, row: int, samples: int) -> bool:
    """Whether all clips of a row, and its tokens, can be in a batch of N samples."""
    whole = self.durations[row] <= samples / self.sample_rate + GRACE
    return bool(whole and self.need[row] <= (self.speaker.limit or np.inf))

  def check_lengths(self, shortest: int, longest: int) -> None:
    """Raises InputError if a clip is longer than the longest batch."""
    del shortest
    seconds = longest / self.sample_rate
    if long := int((self.durations > seconds + GRACE).sum()):
      raise InputError(
        f'{long} rows have a clip longer than {seconds:g} s, and what is said of a part is '
        'unknown: raise seconds, or leave out longer clips.'
      )

  def read(self, row: int, example: Example, crop: Crop) -> None:
    """Decodes the clips of a row.

    Raises:
      AudioError: one cannot be read, or is too short for a token.
    """
    del crop
    talks, found = self.talks(row), []
    paths = talks[0].paths
    # All paths start at the folder that the first one does, which is the clip of the row.
    root = (example.path or '').removesuffix(paths[0])
    for number, path in enumerate(paths):
      if number and example.path is None:
        raise InputError(
          f'Row {self.talks.source.id(row)!r} has several clips, of which shards '
          'hold the first alone: train on its JSON lines.'
        )
      clip = dataclasses.replace(example, path=root + path) if number else example
      audio = decode.decode(clip, sample_rate=self.sample_rate)
      if self.speaker.count(len(audio)) < 1:
        raise AudioError(
          clip.where, f'Its {len(audio)} samples are too short for a token of audio.'
        )
      found.append(audio)
    self._kept()[row] = talks, found

  def _kept(self) -> dict[int, tuple[list[Talk], list[np.ndarray]]]:
    """Conversations and clips of the rows that this thread has decoded for its batch."""
    if not hasattr(self._decoded, 'rows'):
      self._decoded.rows = {}
    return self._decoded.rows

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Conversations and clips of the valid rows; rows with too many tokens are empty."""
    kept, count = self._kept(), len(crops.index)
    audio = np.zeros((count, self.clips, crops.samples), np.float32)
    lengths = np.zeros((count, self.clips), np.int64)
    tokens = np.full((count, self._width(crops.samples)), NOTHING, np.int32)
    answers = np.zeros(tokens.shape, bool)
    for i, row in enumerate(crops.index):
      if not crops.valid[i] or not self.fits(int(row), crops.samples):
        continue
      talks, decoded = kept[int(row)]
      own = [clip[: crops.samples] for clip in decoded]
      found = self._drawn(talks, crops, i).ids([self.speaker.count(len(clip)) for clip in own])
      if len(found) > tokens.shape[1]:  # a header that says much less than there is
        continue
      for k, clip in enumerate(own):
        audio[i, k, : len(clip)], lengths[i, k] = clip, len(clip)
      tokens[i, : len(found)], answers[i, : len(found)] = found.ids, found.learn
    kept.clear()
    mask = np.arange(crops.samples) < lengths[..., None]
    return {'tokens': tokens, 'answer_mask': answers, 'audio': audio, 'audio_mask': mask}

  def _drawn(self, talks: list[Talk], crops: Crops, i: int) -> Talk:
    """The phrasing of this read."""
    if self.seed is None or len(talks) == 1:
      return talks[0]
    drawn = batching.uniform(self.seed, crops.position + int(crops.slots[i]), self.key)
    return talks[int(drawn * len(talks))]

  def _width(self, samples: int) -> int:
    """Tokens of the longest row that fits into batches of this length."""
    fitting = self.need[self.durations <= samples / self.sample_rate + GRACE]
    limit = self.speaker.limit or np.inf
    longest = int(max(fitting[fitting <= limit], default=1))
    return int(min(-(-longest // STEP) * STEP, limit))


def _label(value: str | list[str]) -> str:
  """A text as it is, labels as words: a text has spaces."""
  if isinstance(value, str):
    return value if ' ' in value else value.replace('_', ' ')
  return together(value) if value else ''
