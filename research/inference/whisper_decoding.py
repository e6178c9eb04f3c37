"""Whisper on windows of 30 seconds: language, text, timestamps (openai/whisper, decoding.py).

  whisper = WhisperDecoder(model, variables, tokenizer)
  heard = whisper.listen(audio, mask)
  whisper.decode(heard, Options(language='en', beam_size=5))

Letters: b windows, s mel frames, f mel bins, n audio tokens, d width, v vocabulary.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from research.errors import InputError, unknown
from research.inference.generate import Generated, Settings, generate
from research.inference.generate_rules import Rule, Suppress
from research.inference.whisper_rules import Timestamps
from research.models.whisper import SECONDS, Whisper
from research.text.languages import language_code
from research.text.whisper import BYTES

TASKS = ('transcribe', 'translate', 'lang_id')


@dataclasses.dataclass(frozen=True)
class Options:
  """How a window is decoded; names and defaults of openai-whisper's DecodingOptions.

  Attributes:
    task: 'transcribe', 'translate' into English, or 'lang_id', the language alone.
    language: a code; None: detected, in English-only models 'en'.
    temperature: 0 takes the best token, higher draws.
    sample_len: tokens, at most; None: half of the model's positions.
    best_of: draws, of which the best counts.
    beam_size, patience, length_penalty: see `generate.Settings`.
    prompt: text or tokens of what was said before; its last tokens count.
    prefix: text or tokens that the window begins with.
    suppress_tokens: that never come; -1 stands for those that are not speech. Special tokens never
      come, unless this is empty.
    suppress_blank: the text does not begin with a blank or its end.
    without_timestamps: text alone.
    max_initial_timestamp: seconds; None for any.
  """

  task: str = 'transcribe'
  language: str | None = None
  temperature: float = 0.0
  sample_len: int | None = None
  best_of: int | None = None
  beam_size: int | None = None
  patience: float | None = None
  length_penalty: float | None = None
  prompt: str | Sequence[int] | None = None
  prefix: str | Sequence[int] | None = None
  suppress_tokens: str | Sequence[int] = '-1'
  suppress_blank: bool = True
  without_timestamps: bool = False
  max_initial_timestamp: float | None = 1.0

  def __post_init__(self):
    for name in ('prompt', 'prefix', 'suppress_tokens'):
      value = getattr(self, name)
      if value is not None and not isinstance(value, str):
        object.__setattr__(self, name, tuple(int(t) for t in value))
    if self.task not in TASKS:
      raise unknown('task of Whisper', self.task, TASKS)

  def check(self) -> None:
    """Raises InputError where options contradict each other."""
    if self.beam_size is not None and self.best_of is not None:
      raise InputError(
        f'beam_size={self.beam_size} and best_of={self.best_of} were given: a beam search draws '
        'nothing, give one of the two.'
      )
    if self.temperature == 0 and self.best_of is not None:
      raise InputError(
        f'best_of={self.best_of} was given with temperature=0, where all draws are equal: give a '
        'temperature above 0.'
      )
    if self.temperature > 0 and self.beam_size is not None:
      raise InputError(
        f'beam_size={self.beam_size} was given with temperature={self.temperature}: a beam search '
        'draws nothing; give temperature=0, or best_of.'
      )
    if self.patience is not None and self.beam_size is None:
      raise InputError(f'patience={self.patience} was given without beam_size.')
    if self.length_penalty is not None and not 0 <= self.length_penalty <= 1:
      raise InputError(f'length_penalty={self.length_penalty} was given: give 0 to 1.')


# What may differ within a batch.
OF_ROWS = ('language', 'prompt', 'prefix')


class Heard(NamedTuple):
  """What the encoder made of windows: `tokens` [b, n, d], and what the decoder attends to."""

  tokens: Any
  memories: Any

  def rows(self, rows: Sequence[int]) -> 'Heard':
    """Some of the windows."""
    index = jnp.asarray(list(rows))
    return jax.tree.map(lambda x: jnp.take(x, index, axis=x.ndim - 4 if x.ndim > 4 else 0), self)


@dataclasses.dataclass(frozen=True)
class Result:
  """What was said in a window.

  Attributes:
    language: its code.
    language_probs: {code: probability} where the language was detected.
    tokens: without prompt, prefix and end.
    text: without timestamps, stripped.
    sum_logprob, avg_logprob: of the tokens and the end, where there is one; the average is over
      one more than there are tokens.
    no_speech_prob: of the token that says so.
    temperature: of the draws.
    compression_ratio: bytes of the text / compressed; high where it repeats itself.
    logprobs: of every token.
  """

  language: str
  language_probs: dict[str, float] | None = None
  tokens: tuple[int, ...] = ()
  text: str = ''
  sum_logprob: float = float('nan')
  avg_logprob: float = float('nan')
  no_speech_prob: float = float('nan')
  temperature: float = 0.0
  compression_ratio: float = float('nan')
  logprobs: tuple[float, ...] = ()


def compression_ratio(text: str) -> float:
  """Bytes of a text / bytes that zlib makes of it."""
  data = text.encode('utf-8')
  return len(data) / len(zlib.compress(data))


def best_language(probabilities: dict[str, float]) -> str:
  """The most probable code."""
  return max(probabilities, key=lambda code: probabilities[code])


# -- Programs ----------------------------------------------------------------------------------


def _encode(model, variables, mel):
  """Audio tokens of windows. On a CPU one window at a time: attention over one fits in its caches,
  over 32 it takes 1.7 GB in tiny, and more time."""
  encode = functools.partial(model.apply, variables, method='encode')
  if len(mel) == 1 or jax.default_backend() != 'cpu':
    return encode(mel)
  return jax.lax.map(lambda window: encode(window[None])[0], mel)


@functools.partial(jax.jit, static_argnames=('model',))
def _listen(model, variables, mel):
  tokens = _encode(model, variables, mel)
  return Heard(tokens, model.apply(variables, tokens, method='remember'))


@functools.partial(jax.jit, static_argnames=('model',))
def listen_to_audio(model, variables, audio, mask):
  mel = model.apply(variables, audio, mask, method='log_mel')
  tokens = _encode(model, variables, mel)
  return Heard(tokens, model.apply(variables, tokens, method='remember'))


@functools.partial(jax.jit, static_argnames=('model', 'sot'))
def _first_logits(model, variables, memories, rows, sot):
  state = model.start(len(rows), 1, memories)
  tokens = jnp.full((len(rows), 1), sot, jnp.int32)
  return model.apply(variables, tokens, state, method='step')[0][:, 0]


# -- Decoding ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class WhisperDecoder:
  """A Whisper with its weights and tokenizer.

  Attributes:
    model, variables: of `models.whisper`.
    tokenizer: `text.whisper.WhisperTokenizer`.
  """

  model: Whisper
  variables: Any
  tokenizer: Any

  def __post_init__(self):
    if not isinstance(self.model, Whisper):
      raise InputError(f'{type(self.model).__name__} is no Whisper: give the weights of one.')
    if self.tokenizer.size != self.model.n_vocab:
      raise InputError(
        f'The tokenizer has {self.tokenizer.size} tokens and the model {self.model.n_vocab}: give '
        'the tokenizer of these weights.'
      )

  # -- Audio -----------------------------------------------------------------------------------

  def listen(
    self, audio: Float[np.ndarray, 'b t'], mask: Bool[np.ndarray, 'b t'] | None = None
  ) -> Heard:
    """The first window of every clip; what is shorter has silence behind it."""
    samples = self.model.window_frames * self.model.frontend.hop_samples
    mask = np.ones(audio.shape, bool) if mask is None else mask
    self.model.frontend.check(audio.shape[1])
    # One length, one program.
    pad = ((0, 0), (0, max(0, samples - audio.shape[1])))
    audio, mask = (np.pad(x[:, :samples], pad) for x in (audio, mask))
    return listen_to_audio(self.model, self.variables, jnp.asarray(audio), jnp.asarray(mask))

  def listen_to_mel(self, mel: Float[np.ndarray, 'b s f'] | Float[Array, 'b s f']) -> Heard:
    """Log-mel of windows, `window_frames` long."""
    return _listen(self.model, self.variables, jnp.asarray(mel))

  # -- Language --------------------------------------------------------------------------------

  def detect_language(self, heard: Heard) -> list[dict[str, float]]:
    """{code: probability} of every window: what follows the start of a transcript.

    Raises:
      InputError: an English-only model.
    """
    tokenizer = self.tokenizer
    if not self.model.multilingual:
      raise InputError('An English-only Whisper detects no language: it hears English.')
    rows = jnp.zeros(len(heard.tokens))
    logits = _first_logits(self.model, self.variables, heard.memories, rows, tokenizer.sot)
    own = np.asarray(logits)[:, np.asarray(tokenizer.all_language_tokens)].astype(np.float64)
    weights = np.exp(own - own.max(axis=1, keepdims=True))
    codes = tokenizer.all_language_codes
    return [dict(zip(codes, (row / row.sum()).tolist())) for row in weights]

  def _languages(self, heard: Heard, options: Sequence[Options]):
    """(code, probabilities or None) of every window."""
    for code in {o.language for o in options}:
      self.with_language(code)
    options = [
      o if o.language is None else dataclasses.replace(o, language=language_code(o.language))
      for o in options
    ]
    if not self.model.multilingual:
      return [('en', None) for _ in options]
    unasked = [o.language is None or o.task == 'lang_id' for o in options]
    if not any(unasked):
      return [(o.language, None) for o in options]
    found = self.detect_language(heard)
    return [
      (best_language(p) if o.language is None else o.language, p if ask else None)
      for o, p, ask in zip(options, found, unasked)
    ]

  # -- Text ------------------------------------------------------------------------------------

  def decode(
    self,
    heard: Heard,
    options: Options | Sequence[Options] = Options(),
    key: Key[Array, ''] | None = None,
  ) -> list[Result]:
    """What was said in every window.

    Args:
      heard: of `listen`.
      options: for all windows, or for each: those may differ in language, prompt and prefix.
      key: of the draws, where temperature > 0; None for `jax.random.key(0)`.

    Raises:
      InputError: options that contradict each other.
    """
    return self.decode_all(heard, options, key)[0]

  def decode_all(
    self,
    heard: Heard,
    options: Options | Sequence[Options] = Options(),
    key: Key[Array, ''] | None = None,
  ) -> tuple[list[Result], Generated | None]:
    """`decode`, and all candidates it chose from."""
    count = len(heard.tokens)
    each = [options] * count if isinstance(options, Options) else list(options)
    first = each[0]
    if len(each) != count or any(self._common(o) != self._common(first) for o in each):
      raise InputError(
        f'{len(each)} options were given for {count} windows: give one, or one for each, which '
        f'differ in {", ".join(OF_ROWS)} alone.'
      )
    languages = self._languages(heard, each)
    if first.task == 'lang_id':
      return [Result(language, probs) for language, probs in languages], None
    prompts = [self.initial_tokens(o, code) for o, (code, _) in zip(each, languages)]
    sot = [len(p) - p.index(self.tokenizer.sot) for p in prompts]
    out = generate(
      self.model,
      self.variables,
      prompts,
      self.settings(first),
      memories=heard.memories,
      temperature=first.temperature or 1.0,
      key=jax.random.key(0) if key is None else key,
      probe=sot,
    )
    return [self._result(out, i, first, *languages[i]) for i in range(count)], out

  def _common(self, options: Options) -> Options:
    return dataclasses.replace(options, language=None, prompt=None, prefix=None)

  def _result(self, out: Generated, i: int, options: Options, language, probs) -> Result:
    best = int(out.chosen()[i])
    tokens = out.text(i, best)
    text = self.tokenizer.decode(tokens).strip()
    logits = out.probed[i].astype(np.float64)  # type: ignore[index]
    weights = np.exp(logits - logits.max())
    total = float(out.sums[i, best])
    return Result(
      language=language,
      language_probs=probs,
      tokens=tuple(tokens),
      text=text,
      sum_logprob=total,
      avg_logprob=total / (len(tokens) + 1),
      no_speech_prob=float(weights[self.tokenizer.no_speech] / weights.sum()),
      temperature=options.temperature,
      compression_ratio=compression_ratio(text),
      logprobs=tuple(out.logprobs[i, best, : len(tokens)].tolist()),
    )

  # -- What options say ------------------------------------------------------------------------

  def with_language(self, language: str | None, task: str = 'transcribe') -> Any:
    """The tokenizer of a language (code or name) and a task.

    Raises:
      InputError: the vocabulary has no such language; another than English of an English-only one.
    """
    code = None if language is None else language_code(language)
    if not self.model.multilingual:
      if code not in (None, 'en') or task == 'translate':
        raise InputError(
          f'language={language!r} and task={task!r} were given, and this Whisper is English-only: '
          'leave them out, or take a multilingual one.'
        )
      return self.tokenizer
    return self.tokenizer.with_options(language, task)

  def _sample_len(self, options: Options) -> int:
    return options.sample_len or self.model.n_text_ctx // 2

  def initial_tokens(self, options: Options, language: str | None) -> list[int]:
    """What the decoder reads first: prompt, start of transcript, language, task, prefix."""
    half = self.model.n_text_ctx // 2
    tokenizer = self.with_language(language, options.task)
    tokens = list(tokenizer.sot_sequence)
    if options.without_timestamps:
      tokens.append(tokenizer.no_timestamps)
    if options.prefix:
      prefix = self._tokens(options.prefix)
      # As upstream: where the limit is 0, the whole prefix stays.
      tokens += prefix[-(half - self._sample_len(options)) :]
    if options.prompt:
      prompt = self._tokens(options.prompt)
      tokens = [tokenizer.sot_prev, *prompt[-(half - 1) :], *tokens]
    return tokens

  def _tokens(self, text: str | Sequence[int]) -> list[int]:
    return self.tokenizer.encode(' ' + text.strip()) if isinstance(text, str) else list(text)

  def settings(self, options: Options) -> Settings:
    """The settings of `generate`. Raises InputError where options contradict each other."""
    options.check()
    tokenizer, rules = self.tokenizer, list[Rule]()
    if options.suppress_blank:
      # In a vocabulary of single bytes every text begins with a blank.
      blank = () if tokenizer.source == BYTES else tokenizer.encode(' ')
      rules.append(Suppress((*blank, tokenizer.eot), first=True))
    suppressed = self._suppressed(options)
    if suppressed:
      rules.append(Suppress(suppressed))
    if not options.without_timestamps:
      initial = None
      if options.max_initial_timestamp:
        initial = round(options.max_initial_timestamp / (SECONDS / self.model.n_audio_ctx))
      rules.append(
        Timestamps(tokenizer.timestamp_begin, tokenizer.eot, tokenizer.no_timestamps, initial)
      )
    return Settings(
      max_tokens=self._sample_len(options),
      stop=(tokenizer.eot,),
      beams=options.beam_size or 1,
      patience=1.0 if options.patience is None else options.patience,
      sample=options.temperature > 0,
      candidates=options.best_of or 1,
      length_penalty=options.length_penalty,
      rules=tuple(rules),
    )

  def _suppressed(self, options: Options) -> tuple[int, ...]:
    given, tokenizer = options.suppress_tokens, self.tokenizer
    if isinstance(given, str):
      given = tuple(int(t) for t in given.split(',') if t.strip())
    if not given:
      return ()
    tokens = {t for t in given if t >= 0}
    if -1 in given:
      tokens |= set(tokenizer.non_speech_tokens)
    tokens |= {
      tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.sot_prev,
      tokenizer.sot_lm, tokenizer.no_speech,
    }  # fmt: skip
    return tuple(sorted(tokens))
