"""How Whisper transcribes recordings: names and defaults of openai/whisper (transcribe.py)."""

import dataclasses
from collections.abc import Sequence

from research.errors import InputError, unknown
from research.inference.whisper_decoding import Options, Result
from research.inference.whisper_segments import APPENDED, PREPENDED

WINDOWS = ('sequential', 'voice', 'fixed')
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclasses.dataclass(frozen=True)
class Transcription:
  """How a recording is transcribed; names and defaults of openai-whisper's `transcribe`.

  Attributes:
    temperature: tried one after the other until a window is decoded well.
    compression_ratio_threshold: a text that compresses better has failed.
    logprob_threshold: a text of a lower average log-probability has failed.
    no_speech_threshold: a failed text of a window with a higher probability of no speech is none.
    condition_on_previous_text: the text so far is the prompt of the next window.
    initial_prompt: text before the first window.
    carry_initial_prompt: before every window.
    word_timestamps: words with their times.
    prepend_punctuations, append_punctuations: belong to the word behind, before.
    clip_timestamps: seconds at which clips start and end, in turn; others are left out. The last
      end may be missing. Text with commas, or numbers.
    hallucination_silence_threshold: with words: silence longer than these seconds around an
      improbable text is skipped with it.
    skip_unvoiced: windows without voice, as `voice.Detector` finds it, are not decoded.
    windows: 'sequential': the next one starts where the last text ended, as upstream; 'voice': they
      are cut in pauses of the voice and decoded in batches; 'fixed': all of one length, in batches,
      with an overlap in which texts are joined. See `whisper_windows`.
    overlap: seconds, of windows that are 'fixed'.
    options: of every window.
  """

  temperature: float | Sequence[float] = TEMPERATURES
  compression_ratio_threshold: float | None = 2.4
  logprob_threshold: float | None = -1.0
  no_speech_threshold: float | None = 0.6
  condition_on_previous_text: bool = True
  initial_prompt: str | None = None
  carry_initial_prompt: bool = False
  word_timestamps: bool = False
  prepend_punctuations: str = PREPENDED
  append_punctuations: str = APPENDED
  clip_timestamps: str | Sequence[float] = '0'
  hallucination_silence_threshold: float | None = None
  skip_unvoiced: bool = False
  windows: str = 'sequential'
  overlap: float = 5.0
  options: Options = dataclasses.field(default_factory=Options)

  def __post_init__(self):
    if self.windows not in WINDOWS:
      raise unknown('windows of Whisper', self.windows, WINDOWS)
    if self.windows != 'sequential' and self.clip_timestamps not in ('0', '', (), (0,), (0.0,)):
      raise InputError(
        f'clip_timestamps={self.clip_timestamps!r} was given with windows={self.windows!r}: give '
        'one of the two.'
      )
    if self.hallucination_silence_threshold is not None and not self.word_timestamps:
      raise InputError(
        f'hallucination_silence_threshold={self.hallucination_silence_threshold:g} was given '
        'without word_timestamps, by which silence is found: give both.'
      )

  @property
  def temperatures(self) -> tuple[float, ...]:
    """All temperatures."""
    if isinstance(self.temperature, int | float):
      return (float(self.temperature),)
    return tuple(float(t) for t in self.temperature)

  def at(self, temperature: float) -> Options:
    """The options at a temperature: draws have no beams, the best token no draws."""
    own = self.options
    options = dataclasses.replace(own, beam_size=None, patience=None, best_of=None)
    options = dataclasses.replace(options, temperature=temperature)
    if temperature > 0:
      return dataclasses.replace(options, best_of=own.best_of)
    return dataclasses.replace(options, beam_size=own.beam_size, patience=own.patience)

  def failed(self, result: Result) -> bool:
    """Whether a window has to be decoded again."""
    repeats = _above(result.compression_ratio, self.compression_ratio_threshold)
    unsure = self.logprob_threshold is not None and result.avg_logprob < self.logprob_threshold
    silent = unsure and _above(result.no_speech_prob, self.no_speech_threshold)
    return (repeats or unsure) and not silent

  def silent(self, result: Result) -> bool:
    """Whether nothing was said in a window."""
    sure = _above(result.avg_logprob, self.logprob_threshold)
    return _above(result.no_speech_prob, self.no_speech_threshold) and not sure


def _above(value: float, threshold: float | None) -> bool:
  return threshold is not None and value > threshold
