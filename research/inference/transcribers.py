"""What transcribes with a model of any kind, from plain options: `Pretrained.transcribe`."""

from collections.abc import Sequence
from typing import Any

from research.capabilities import spells
from research.errors import InputError
from research.inference.transcribe import BATCH_SECONDS, Transcriber
from research.inference.whisper_decoding import Options, WhisperDecoder
from research.inference.whisper_files import WhisperTranscriber
from research.inference.whisper_settings import TEMPERATURES, Transcription
from research.text.whisper import WhisperTokenizer, read_whisper_tokenizer


def read_tokenizer(model: Any, place: str | None) -> WhisperTokenizer:
  """The tokenizer of a Whisper.

  Args:
    model: a `WritesSpeech`.
    place: file or folder, or 'bytes': see `read_whisper_tokenizer`.

  Raises:
    InputError: there is none, or it does not fit the weights.
  """
  if place is None:
    raise InputError(
      'A Whisper needs its tokenizer, and it is not known where it is: give tokenizer=, the file '
      'or folder of gpt2.tiktoken, multilingual.tiktoken, tokenizer.json or vocab.json.'
    )
  return read_whisper_tokenizer(place, model.n_vocab)


def whisper(
  model: Any,
  variables: Any,
  tokenizer: WhisperTokenizer,
  *,
  language: str | None = None,
  task: str = 'transcribe',
  timestamps: bool = True,
  word_timestamps: bool = False,
  beam_size: int | None = None,
  temperature: float | Sequence[float] = TEMPERATURES,
  initial_prompt: str | None = None,
  condition_on_previous_text: bool = True,
  no_speech_threshold: float | None = 0.6,
  logprob_threshold: float | None = -1.0,
  hallucination_silence_threshold: float | None = None,
  skip_unvoiced: bool = False,
  windows: str = 'sequential',
  overlap: float = 5.0,
  batch_seconds: float = BATCH_SECONDS,
) -> WhisperTranscriber:
  """What transcribes with a Whisper.

  Args:
    model: a `WritesSpeech`.
    variables: its weights.
    tokenizer: of the weights.
    language: code or name; None: detected.
    task: 'transcribe', or 'translate' into English.
    timestamps: segments within windows; without, a segment is a window.
    word_timestamps: words with their times.
    beam_size: hypotheses of a beam search; None is greedy.
    temperature, initial_prompt, condition_on_previous_text, no_speech_threshold: see
      `Transcription`.
    logprob_threshold: see `Transcription`. By upstream's rules a probable text stays where the
      window is probably silent: tiny.en hears 'you' in digital silence. With None, nothing is
      written of a window with a no-speech probability above its threshold.
    hallucination_silence_threshold, skip_unvoiced, windows, overlap: see `Transcription`; the first
      needs word_timestamps.
    batch_seconds: audio whose windows are decoded at once.

  Raises:
    InputError: the model has no such language or task.
  """
  decoder = WhisperDecoder(model, variables, tokenizer)
  decoder.with_language(language, task)
  options = Options(
    task=task, language=language, beam_size=beam_size, without_timestamps=not timestamps
  )
  how = Transcription(
    temperature=temperature,
    initial_prompt=initial_prompt,
    condition_on_previous_text=condition_on_previous_text,
    word_timestamps=word_timestamps,
    no_speech_threshold=no_speech_threshold,
    logprob_threshold=logprob_threshold,
    hallucination_silence_threshold=hallucination_silence_threshold,
    skip_unvoiced=skip_unvoiced,
    windows=windows,
    overlap=overlap,
    options=options,
  )
  return WhisperTranscriber(decoder, how, batch_seconds=batch_seconds)


def ctc(model: Any, variables: Any, **options: Any) -> Transcriber:
  """What transcribes with a model that has a CTC head.

  Raises:
    InputError: the model writes no text, or options were given, which a Whisper alone has.
  """
  if not spells(model):
    raise InputError(
      f'{type(model).__name__} writes no text: give a model with a CTC head, or a Whisper.'
    )
  if options:
    raise InputError(
      f'{next(iter(options))}= was given, which is an option of a Whisper; a model with a CTC head '
      'has none.'
    )
  return Transcriber(model, variables)
