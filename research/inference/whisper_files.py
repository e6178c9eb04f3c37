"""Whisper as what turns the clips of a source into transcripts, see `transcript_files`."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.inference import transcribe
from research.inference.ctc import Transcript, Word
from research.inference.inputs import Audio, several
from research.inference.whisper_decoding import WhisperDecoder
from research.inference.whisper_segments import Transcript as WhisperTranscript
from research.inference.whisper_transcribe import Transcription, transcribe_all
from research.models.whisper import SECONDS
from research.text import normalize


class WhisperTranscriber:
  """What turns audio into transcripts with a Whisper, with the interface of
  `transcribe.Transcriber`.

  transcriber = WhisperTranscriber(WhisperDecoder(model, variables, tokenizer))
  print(transcriber.transcribe('speech.wav').text)
  """

  def __init__(
    self,
    decoder: WhisperDecoder,
    how: Transcription | None = None,
    *,
    batch_seconds: float = transcribe.BATCH_SECONDS,
  ):
    """
    Args:
      decoder: a Whisper.
      how: see `Transcription`.
      batch_seconds: audio whose windows are decoded at once.
    """
    self.whisper, self.how = decoder, Transcription() if how is None else how
    self.batch_size = max(1, int(batch_seconds / SECONDS))
    self.rate = decoder.model.frontend.sample_rate

  def about(self) -> dict[str, Any]:
    """What the result depends on, JSON-able."""
    return {'decoder': 'whisper', **dataclasses.asdict(self.how)}

  def transcribe(
    self, audio: Audio | Sequence[Audio], sample_rate: float | None = None
  ) -> Transcript | list[Transcript]:
    """Transcripts of one recording or many, of any length.

    Args:
      audio: a path, samples in [-1, 1] ([t] for one, [b, t] for several), or a list of either.
      sample_rate: of arrays, Hz. Files know theirs.

    Raises:
      InputError: audio that cannot be used.
    """
    single, clips = several(audio, sample_rate)
    source = transcribe.in_memory(clips, sample_rate, self.rate)
    found = transcribe.every(self.stream(source), source)
    return found[0] if single else found

  def stream(
    self,
    source: Source,
    bad_files: BadFiles | None = None,
    rows: Sequence[np.ndarray] | None = None,
  ) -> Iterator[tuple[int, Transcript | str]]:
    """(row, its transcript, or the reason why there is none), block by block.

    Raises:
      InputError: too many bad files.
    """
    bad_files = BadFiles(None, 1.0) if bad_files is None else bad_files
    blocks = transcribe.blocks(source.durations()) if rows is None else rows
    for i, block in enumerate(blocks):
      bad_files.seen(len(block))
      kept, audio = [], []
      for row in map(int, block):
        samples = transcribe.whole(source, row, self.whisper.model.frontend, bad_files)
        if isinstance(samples, str):
          yield row, samples
        else:
          kept.append(row)
          audio.append(samples)
      bad_files.check()
      key = jax.random.fold_in(jax.random.key(0), i)
      found = transcribe_all(self.whisper, audio, self.how, batch_size=self.batch_size, key=key)
      for row, samples, result in zip(kept, audio, found):
        yield row, plain(result, len(samples) / self.rate)


def plain(found: WhisperTranscript, seconds: float) -> Transcript:
  """A transcript as other systems give it: segments with text, and words where there are some."""
  said = [segment for segment in found.segments if segment.text.strip()]
  segments = tuple(Word(s.text.strip(), s.start, s.end) for s in said)
  words = tuple(
    Word(w.word.strip(), w.start, w.end)
    for segment in said
    for w in segment.words or ()
    if w.word.strip()
  )
  return Transcript(found.text.strip(), words, seconds, segments, found.language)


def normalised(text: str, language: str | None) -> str:
  """A text as its errors are counted: by Whisper's normaliser of English, or that of all others."""
  if language in (None, 'en'):
    return normalize.normalize_english(text)
  return normalize.normalize_basic(text)
