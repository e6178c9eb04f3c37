"""Captions of clips: what is heard, in a sentence.

Letters: b batch, t samples.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.capabilities import WritesCaptions
from research.errors import InputError
from research.inference import clip_rows, transcribe
from research.inference.clip_rows import Row
from research.inference.ctc import Transcript, Word
from research.inference.generate import Settings, generate
from research.inference.inputs import Audio, padded, several
from research.jobs import folders
from research.models.clapcap import BEAMS, ENTRY_LENGTH, SUFFIX
from research.text.subwords import BYTES, Tokenizer

SUFFIXES = ('.jsonl', '.tsv', '.txt')


def check(model: Any) -> None:
  """Raises InputError for a model that writes no captions."""
  if not isinstance(model, WritesCaptions):
    raise InputError(
      f'{type(model).__name__} writes no captions: take a clapcap. (What is said in audio: '
      'launch.transcribe; classes: launch.classify.)'
    )


class Captioner:
  """What writes captions with a clapcap.

  from research import weights
  print(weights.load('clapcap_weights_2023.pth').caption('street.wav'))
  """

  def __init__(
    self,
    model: Any,
    variables: Any,
    tokenizer: Tokenizer,
    suffix: str = '',
    *,
    beams: int = BEAMS,
    max_tokens: int = ENTRY_LENGTH,
    temperature: float = 1.0,
    windows: bool = False,
    batch_size: int = 8,
  ):
    """
    Args:
      model: a `WritesCaptions`.
      variables: its weights.
      tokenizer: of the weights.
      suffix: what ended captions in training, by whose first token a caption ends; '' for the
        published one.
      beams: hypotheses of the search, see `generate_mean_beam`; 1 takes the best token.
      max_tokens: of a caption, at most.
      temperature: logits are divided by it; upstream's example has 0.01.
      windows: of clips longer than the model takes, a caption for each of their windows; else for
        their first one. (Upstream takes one at random.)
      batch_size: clips or windows at once.

    Raises:
      InputError: another kind of model, a tokenizer of another vocabulary, or numbers that cannot
        be.
    """
    check(model)
    tokenizer.check_fits(model.vocabulary, padded=tokenizer.source == BYTES)
    if not temperature > 0 or batch_size < 1:
      raise InputError(
        f'temperature={temperature:g} and batch_size={batch_size} were given: give more than 0, '
        'and 1 or more.'
      )
    if max_tokens > model.max_tokens:
      raise InputError(
        f'max_tokens={max_tokens} was given; behind its prefix the model has {model.max_tokens} '
        'positions.'
      )
    stop = tokenizer.encode(suffix or SUFFIX, special=False)
    if not len(stop):
      raise InputError(f'suffix={suffix!r} has no token in {tokenizer.source}: give another text.')
    self.model, self.tokenizer, self.suffix = model, tokenizer, suffix or SUFFIX
    self.settings = Settings(max_tokens, (int(stop[0]),), beams=beams, style='clipcap')
    self.temperature, self.windows, self.batch_size = temperature, windows, batch_size
    self.rate = model.frontend.sample_rate
    self.samples = round(model.seconds * self.rate)
    self._variables = jax.device_put(variables)
    self._remember = jax.jit(functools.partial(model.apply, method='remember_clips'))

  def about(self) -> dict[str, Any]:
    """What the result depends on, JSON-able."""
    return {
      'decoder': 'captions',
      'beams': self.settings.beams,
      'max_tokens': self.settings.max_tokens,
      'temperature': self.temperature,
      'windows': self.windows,
      'suffix': self.suffix,
      'tokenizer': self.tokenizer.source,
    }

  def caption(
    self, audio: Audio | Sequence[Audio], sample_rate: float | None = None
  ) -> str | list[str]:
    """Captions of one clip or many; of several windows, one a line.

    Args:
      audio: a path, samples in [-1, 1] ([t] for one, [b, t] for several), or a list of either.
      sample_rate: of arrays, Hz. Files know theirs.

    Raises:
      InputError: audio that cannot be used.
    """
    single, clips = several(audio, sample_rate)
    source = transcribe.in_memory(clips, sample_rate, self.rate)
    found = [each.text for each in transcribe.every(self.stream(source), source)]
    return found[0] if single else found

  def stream(
    self,
    source: Source,
    bad_files: BadFiles | None = None,
    rows: Sequence[np.ndarray] | None = None,
  ) -> Iterator[tuple[int, Transcript | str]]:
    """(row, its caption, or the reason why there is none), block by block.

    Raises:
      InputError: too many bad files.
    """
    bad_files = BadFiles(None, 1.0) if bad_files is None else bad_files
    for block in transcribe.blocks(source.durations()) if rows is None else rows:
      bad_files.seen(len(block))
      cuts: dict[int, list[np.ndarray]] = {}
      seconds: dict[int, float] = {}
      for row in map(int, block):
        samples = transcribe.whole(source, row, self.model.frontend, bad_files)
        if isinstance(samples, str):
          yield row, samples
        else:
          cuts[row], seconds[row] = self._cut(samples), len(samples) / self.rate
      bad_files.check()
      texts = iter(self._write([x for each in cuts.values() for x in each]))
      for row, each in cuts.items():
        yield row, self._joined([next(texts) for _ in each], seconds[row])

  def _cut(self, samples: np.ndarray) -> list[np.ndarray]:
    """The windows of a clip that get a caption; a last one below one frame is left out."""
    ends = range(0, len(samples) if self.windows else 1, self.samples)
    found = [samples[i : i + self.samples] for i in ends]
    return [x for x in found if len(x) >= self.model.frontend.min_samples]

  def _joined(self, texts: list[str], seconds: float) -> Transcript:
    if not self.windows:
      return Transcript(texts[0], (), seconds)
    step = self.model.seconds
    times = [(i * step, min((i + 1) * step, seconds)) for i in range(len(texts))]
    segments = tuple(Word(text, *time) for text, time in zip(texts, times, strict=True))
    return Transcript('\n'.join(texts), (), seconds, segments)

  def _write(self, cuts: list[np.ndarray]) -> Iterator[str]:
    # Few shapes: what is left is padded to a power of two.
    for i in range(0, len(cuts), self.batch_size):
      batch = cuts[i : i + self.batch_size]
      size = min(1 << (len(batch) - 1).bit_length(), self.batch_size)
      memories = self._remember(self._variables, *padded(batch, size, self.samples))
      prompts = [[self.settings.stop[0]]] * size
      found = generate(
        self.model, self._variables, prompts, self.settings, memories=memories,
        temperature=self.temperature,
      )  # fmt: skip
      for ids in found.best()[: len(batch)]:
        yield self.tokenizer.decode(ids).strip().capitalize()


# -- Files -------------------------------------------------------------------------------------


def caption_source(
  captioner: Captioner,
  source: Any,
  out: str | os.PathLike | None = None,
  *,
  about: dict[str, Any] | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
) -> list[Row]:
  """Writes a caption of every clip of a source, into a file if one is named.

  A row is {id, text, seconds, segments: [{text, start, end}] with `windows`}, or {id, error} for a
  clip that was left out. .jsonl holds the rows; .tsv the columns id and caption, .txt captions
  alone, without the clips that were left out and with one line a clip.

  Args:
    captioner: the system.
    source, out, about, max_bad_fraction: see `clip_rows.run`.
    overwrite: whether a file that is there may be replaced.

  Raises:
    InputError: an ending that is not known, the file exists, and as `clip_rows.run`.
  """
  path = None if out is None else folders.writable(out, SUFFIXES, overwrite)

  def row_of(i: int, result: Transcript | str) -> Row:
    if isinstance(result, str):
      return {'id': source.id(i), 'error': result}
    row = {'id': source.id(i), 'text': result.text, 'seconds': round(result.seconds, 3)}
    if result.segments:
      row['segments'] = [
        dict(text=w, start=round(s, 3), end=round(e, 3)) for w, s, e in result.segments
      ]
    return row

  return clip_rows.run(
    captioner.stream,
    source,
    row_of,
    path,
    None if path is None else _WRITERS[path.suffix],
    doing='captioning',
    done='captioned',
    about={**(about or {}), **captioner.about()},
    max_bad_fraction=max_bad_fraction,
  )


def _flat(text: str) -> str:
  return ' '.join(text.split())


def _tsv(rows: list[Row]) -> Iterator[str]:
  yield 'id\tcaption\n'
  yield from (f'{row["id"]}\t{_flat(row["text"])}\n' for row in rows if 'text' in row)


def _txt(rows: list[Row]) -> Iterator[str]:
  yield from (f'{_flat(row["text"])}\n' for row in rows if 'text' in row)


_WRITERS: dict[str, Callable[[list[Row]], Iterator[str]]] = {
  '.jsonl': clip_rows.jsonl,
  '.tsv': _tsv,
  '.txt': _txt,
}
