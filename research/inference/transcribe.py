"""Audio through a CTC model to transcripts: clips in batches of few lengths, long ones in chunks.

A chunk is a window of whole frames; neighbours share an overlap, in whose middle their logits are
joined, so that every frame that counts has heard half the overlap on both sides. Memory holds some
minutes of audio, however long the files are. A model that normalises clips does so with every
chunk, as transformers' pipeline. Letters: b batch, t samples, n frames, v symbols.
"""

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from research.audio.bad_files import BadFiles
from research.audio.clips import Source, Table
from research.audio.decode import AudioError, decode
from research.errors import InputError
from research.inference import ctc, lengths
from research.inference.ctc import Decoder, Transcript
from research.inference.inputs import Audio, at_rate, padded, several, too_short

# A window holds any utterance of LibriSpeech whole (the longest has 35 s). Convolutional positions
# of wav2vec 2.0 see 1.3 s to each side, half of this overlap twice that (attention sees all).
WINDOW, OVERLAP = 40.0, 5.0
# Seconds of audio in a batch: the first convolution of 120 s of a base model takes 0.8 GB.
BATCH_SECONDS = 120.0
# Clips go through in blocks of so much audio (or one clip): what is kept before it is written.
BLOCK_SECONDS, BLOCK_CLIPS = 600.0, 256
THREADS = 4


class Piece(NamedTuple):
  """A clip, or a chunk of one: `samples` of it from frame `first`."""

  row: int
  first: int
  samples: int


class Transcriber:
  """What turns audio into transcripts with a CTC model.

  from research import weights
  loaded = weights.load('weights/mine')
  transcriber = Transcriber(loaded.model, loaded.variables)
  print(transcriber.transcribe('speech.wav').text)
  """

  def __init__(
    self,
    model: Any,
    variables: Any,
    *,
    decoder: Decoder | None = None,
    window: float = WINDOW,
    overlap: float = OVERLAP,
    batch_seconds: float = BATCH_SECONDS,
  ):
    """Places the weights on all devices of this process.

    Args:
      model: a Flax module with `vocabulary`, `blank`, `frontend` and the output 'logits'.
      variables: its weights.
      decoder: logits of a clip to its path, as `beam.BeamSearch`; None is greedy.
      window: seconds of a chunk; longer clips are cut into chunks.
      overlap: seconds that neighbouring chunks share.
      batch_seconds: audio in a batch, the padding included.

    Raises:
      InputError: the model has no CTC head, or the window does not fit the overlap.
    """
    ctc.check_ctc(model)
    self.model, self.decoder = model, decoder or ctc.Greedy(model.blank)
    self.rate, self.hop = model.frontend.sample_rate, model.frontend.hop_samples
    self.window = model.frontend.frames(round(window * self.rate))
    self.overlap = round(overlap * self.rate / self.hop)
    if not 0 <= self.overlap < self.window:
      raise InputError(
        f'Chunks of {window:g} s that share {overlap:g} s cannot be: a chunk needs one frame '
        f'({model.frontend.min_samples / self.rate:g} s) and more than the overlap, which is 0 or '
        'more.'
      )
    longest = model.frontend.samples(self.window) + self.hop
    self.lengths = lengths.grid(longest, round(lengths.SHORTEST * self.rate))
    self.batch_seconds = batch_seconds
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ('data',))
    self._devices = len(devices)
    self._rows = NamedSharding(mesh, PartitionSpec('data'))
    self._variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))

  def transcribe(
    self, audio: Audio | Sequence[Audio], sample_rate: float | None = None
  ) -> Transcript | list[Transcript]:
    """Transcripts of one clip or many, of any length.

    Args:
      audio: a path, samples in [-1, 1] ([t] for one clip, [b, t] for several), or a list of either.
      sample_rate: of arrays, Hz. Files know theirs.

    Returns:
      one transcript, or a list of them in the order given.

    Raises:
      InputError: a clip is too short for one frame, not finite, not readable, or an array comes
        without its sample rate.
    """
    single, clips = several(audio, sample_rate)
    source = in_memory(clips, sample_rate, self.rate)
    found = every(self.stream(source), source)
    return found[0] if single else found

  def stream(
    self,
    source: Source,
    bad_files: BadFiles | None = None,
    rows: Sequence[np.ndarray] | None = None,
  ) -> Iterator[tuple[int, Transcript | str]]:
    """(row, its transcript, or the reason why there is none), block by block.

    Args:
      source: clips.
      bad_files: where files that cannot be read are recorded.
      rows: of each block, which is run by itself; None for all `blocks`, shorter clips first.

    Raises:
      InputError: too many bad files.
    """
    for row, logits, seconds in self.logits(source, bad_files, rows):
      if isinstance(logits, str):
        yield row, logits
        continue
      path = self.decoder(logits)
      frame = self.hop / self.rate
      yield row, ctc.transcript(path, self.model.vocabulary, self.model.blank, frame, seconds)

  def logits(
    self,
    source: Source,
    bad_files: BadFiles | None = None,
    rows: Sequence[np.ndarray] | None = None,
  ) -> Iterator[tuple[int, np.ndarray | str, float]]:
    """(row, its logits f32 [n, v] or the reason why there are none, seconds), as `stream`."""
    bad_files = BadFiles(None, 1.0) if bad_files is None else bad_files
    durations = source.durations()
    for block in blocks(durations) if rows is None else rows:
      clips = _Clips(source, block, bad_files)
      pieces = [piece for row in block for piece in self.pieces(int(row), durations[row])]
      for piece, logits in self._run(clips, pieces):
        clips.parts[piece.row].append((piece.first, logits))
      bad_files.check()
      for row in clips.parts:
        if row in clips.reasons:
          yield row, clips.reasons[row], 0.0
        else:
          joined = join(sorted(clips.parts[row], key=lambda part: part[0]), self.overlap)
          if np.isnan(joined).any():
            raise InputError(
              f'{source[row].where}: the model gives scores that are not numbers (NaN): its '
              'weights are damaged.'
            )
          yield row, joined, float(durations[row])

  # -- Parts -----------------------------------------------------------------------------------

  def pieces(self, row: int, seconds: float) -> list[Piece]:
    """A clip whole, or in chunks."""
    samples = round(seconds * self.rate)
    frames = self.model.frontend.frames(samples)
    if frames <= self.window:  # A clip that says nothing of its length gets a window.
      return [Piece(row, 0, samples or self.lengths[-1])]
    step = self.window - self.overlap
    chunk = self.model.frontend.samples(self.window)
    starts = range(0, frames - self.overlap, step)
    ends = [*[chunk] * (len(starts) - 1), samples - starts[-1] * self.hop]
    return [Piece(row, first, size) for first, size in zip(starts, ends)]

  def _run(
    self, clips: '_Clips', pieces: list[Piece]
  ) -> Iterator[tuple[Piece, Float[np.ndarray, 'n v']]]:
    """Logits of all pieces that can be read; the next batch is decoded meanwhile."""
    batches = list(self._batches(pieces))
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
      read = functools.partial(clips.read, self.model.frontend, self.hop)
      ahead = [pool.submit(read, piece) for piece in batches[0][0]] if batches else []
      for (batch, length, size), following in itertools.zip_longest(batches, batches[1:]):
        audio = [job.result() for job in ahead]
        ahead = [pool.submit(read, piece) for piece in following[0]] if following else []
        kept = [(piece, x) for piece, x in zip(batch, audio) if x is not None]
        if kept:
          yield from zip((p for p, _ in kept), self._logits([x for _, x in kept], length, size))

  def _batches(self, pieces: list[Piece]) -> Iterator[tuple[list[Piece], int, int]]:
    """(pieces, samples, rows): pieces of one length of the grid."""
    samples = np.array([piece.samples for piece in pieces], np.int64)
    batch_samples = self.batch_seconds * self.rate
    for batch in lengths.of_stream(samples, self.lengths, batch_samples, self._devices):
      yield [pieces[i] for i in batch.rows if i >= 0], batch.samples, len(batch.rows)

  def _logits(
    self, clips: list[np.ndarray], length: int, size: int
  ) -> Iterator[Float[np.ndarray, 'n v']]:
    arrays = (jax.device_put(a, self._rows) for a in padded(clips, size, length))
    logits, real = jax.device_get(_apply(self.model, self._variables, *arrays))
    for row in range(len(clips)):
      yield logits[row][real[row]]


class _Clips:
  """The clips of a block: parts of logits that are done, and why some have none."""

  def __init__(self, source: Source, rows: np.ndarray, bad_files: BadFiles):
    self.source, self.bad_files = source, bad_files
    self.parts: dict[int, list[tuple[int, np.ndarray]]] = {int(row): [] for row in rows}
    self.reasons: dict[int, str] = {}
    bad_files.seen(len(rows))

  def read(self, frontend: Any, hop: int, piece: Piece) -> Float[np.ndarray, 't'] | None:
    """Samples of a piece; None if there are none to use, with the reason if that ends the clip."""
    if piece.row in self.reasons:
      return None
    rate = frontend.sample_rate
    try:
      audio = decode(
        self.source[piece.row],
        sample_rate=rate,
        start_seconds=piece.first * hop / rate,
        seconds=piece.samples / rate,
      )
    except AudioError as error:
      if piece.row not in self.reasons:
        self.reasons[piece.row] = error.reason
        self.bad_files.record(self.source.id(piece.row), error.where, error.reason)
      return None
    if len(audio) >= frontend.min_samples:
      return audio
    if not piece.first:  # A last chunk may be shorter than a header says; a clip may not.
      self.reasons[piece.row] = f'It {too_short(len(audio), frontend)}.'
    return None


@functools.partial(jax.jit, static_argnums=0)
def _apply(
  model: Any, variables: Any, audio: Float[Array, 'b t'], mask: Bool[Array, 'b t']
) -> tuple[Float[Array, 'b n v'], Bool[Array, 'b n']]:
  out = model.apply(variables, {'audio': audio, 'audio_mask': mask})
  return out['logits'], out['frame_mask']


def every(results: Iterable[tuple[int, Any]], source: Source) -> list[Any]:
  """The results of all rows, in the order of the source; raises InputError for a row that has a
  reason, a text, instead."""
  found: list[Any] = [None] * len(source)
  for row, result in results:
    if isinstance(result, str):
      raise InputError(f'{source[row].where}: {result}')
    found[row] = result
  return found


def join(parts: Sequence[tuple[int, np.ndarray]], overlap: int) -> Float[np.ndarray, 'n v']:
  """Logits of overlapping chunks as those of the whole, cut in the middle of each overlap.

  Args:
    parts: (first frame, logits [m, v]) of every chunk, in order.
    overlap: frames that neighbours share.
  """
  kept, low = [], 0
  for (first, logits), (following, _) in itertools.pairwise(parts):
    cut = min(following + overlap // 2, first + len(logits))
    kept.append(logits[low - first : cut - first])
    low = cut
  first, logits = parts[-1]
  return np.concatenate([*kept, logits[low - first :]])


def whole(
  source: Source, row: int, frontend: Any, bad_files: BadFiles
) -> Float[np.ndarray, 't'] | str:
  """Samples of a clip at the rate of a front-end, or why there are none to use; files that cannot
  be read are recorded."""
  try:
    samples = decode(source[row], sample_rate=frontend.sample_rate)
  except AudioError as error:
    bad_files.record(source.id(row), error.where, error.reason)
    return error.reason
  if len(samples) < frontend.min_samples:
    return f'It {too_short(len(samples), frontend)}.'
  return samples


def blocks(durations: Float[np.ndarray, 'clips']) -> Iterator[np.ndarray]:
  """Rows in the order of their lengths, some minutes of audio at a time."""
  order = np.argsort(durations, kind='stable')
  block: list[int] = []
  total = 0.0
  for row in order:
    if block and (total + durations[row] > BLOCK_SECONDS or len(block) >= BLOCK_CLIPS):
      yield np.array(block)
      block, total = [], 0.0
    block.append(int(row))
    total += durations[row]
  if block:
    yield np.array(block)


def in_memory(clips: list[Audio], sample_rate: float | None, rate: int) -> Source:
  """Paths and samples as a source."""
  found: list[dict[str, Any]] = []
  for i, clip in enumerate(clips):
    if isinstance(clip, (str, os.PathLike)):
      found.append({'path': str(Path(clip))})
    else:
      samples = at_rate(clip, sample_rate, rate, f'clip {i}')
      found.append({'array': samples, 'sample_rate': rate})
  ids = [f'clip {i}' for i in range(len(clips))]
  # Lengths of files are read; those of samples are known.
  seconds = np.array([len(c['array']) / rate if 'array' in c else np.nan for c in found])
  return Source(Table('audio', ids, {}, found.__getitem__, seconds=seconds))
