"""Codecs at work on clips of any length: audio to codes, codes to audio, files of both.

A causal codec takes a clip in chunks, one with segments a few segments at a time: memory does not
grow with the clip, beside that for its samples and codes. Chunks are of one size, the last one is
padded to a length of a grid: few programs are compiled.
Letters: t samples, a channels, n frames, q codebooks, s segments.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from research.capabilities import DecodesCodes
from research.errors import InputError
from research.inference import ecdc, inputs, lengths
from research.inference.entropy import EntropyCoder

CHUNK_SECONDS = 10.0
SEGMENTS = 8  # at once
NAMES = {24_000: 'encodec_24khz', 48_000: 'encodec_48khz'}
SUFFIXES = ('.ecdc', '.npz', '.safetensors')


@dataclasses.dataclass(frozen=True)
class Coded:
  """A clip as codes.

  Attributes:
    codes: int32 [n, q]; of a codec with segments these lie one after the other, each whole but the
      last ones.
    samples: of the clip, at the codec's rate.
    frames: of each segment; one number for a codec without.
    scales: float32 [s], loudness of segments, or None.
    sample_rate: Hz.
  """

  codes: Int[np.ndarray, 'n q']
  samples: int
  frames: tuple[int, ...]
  sample_rate: int
  scales: Float[np.ndarray, ' s'] | None = None

  @property
  def kbps(self) -> float:
    """Kilobits a second of codes of 10 bits."""
    return self.codes.size * 10 / 1000 / (self.samples / self.sample_rate)


class Codec:
  """A model that makes codes of audio and audio of codes.

  Args:
    model, variables: the codec.
    bandwidth: kbit/s; None: all codebooks.
    packer: language model by which .ecdc files are packed; None for files without.

  Raises:
    InputError: the model is no codec, has not that bandwidth, or the language model is for other
      codes.
  """

  def __init__(
    self,
    model: Any,
    variables: Mapping[str, Any],
    bandwidth: float | None = None,
    packer: EntropyCoder | None = None,
  ):
    check(model)
    self.model, self.variables, self.packer = model, variables, packer
    if packer is not None:
      packer.check(model)
    self.n_q = model.codebooks_for(model.bandwidth if bandwidth is None else bandwidth)

  @property
  def sample_rate(self) -> int:
    """Hz."""
    return self.model.frontend.sample_rate

  @property
  def name(self) -> str:
    """What .ecdc files call the codec."""
    name = NAMES.get(self.sample_rate)
    if name is None or self.model.codebook_size != 1024:
      raise InputError(
        f'.ecdc files are of the codecs of 24 and 48 kHz with codebooks of 1024; this one has '
        f'{self.sample_rate} Hz and {self.model.codebook_size}: write .npz or .safetensors.'
      )
    return name

  def samples(self, audio: inputs.Audio, sample_rate: float | None) -> Float[np.ndarray, 't a']:
    """A path or an array [t] or [t, a] as the codec's channels and rate: of stereo the mean for a
    mono codec; mono on both sides for a stereo codec.

    Raises:
      InputError: not readable, without its rate, or not [t] or [t, a].
    """
    channels = self.model.channels
    if isinstance(audio, (str, os.PathLike)):
      if sample_rate is not None:
        raise InputError('sample_rate is for arrays: a file has its own.')
      if channels == 1:
        return inputs.samples_of(audio, None, self.model.frontend, 0, None)[:, None]
      found, rate = _sides(Path(audio))
    else:
      found, rate = np.asarray(audio), sample_rate  # type: ignore[assignment]
      found = found[:, None] if found.ndim == 1 else found
      if found.ndim != 2 or found.shape[1] not in (1, 2):
        raise InputError(
          f'Audio has shape {np.shape(audio)}; expected samples [t], or [t, 2] of two channels.'
        )
    found = found.mean(axis=1, keepdims=True) if channels == 1 else found
    sides = [inputs.at_rate(x, rate, self.sample_rate, 'The audio') for x in found.T]
    if not len(sides[0]):
      raise InputError('The audio holds no samples.')
    return np.stack(sides * (channels // len(sides)), axis=1)

  # -- Audio to codes --------------------------------------------------------------------------

  def encode(self, audio: inputs.Audio, sample_rate: float | None = None) -> Coded:
    """Codes of a clip of any length; see `samples` for what audio may be."""
    x = self.samples(audio, sample_rate)
    return self._encode_segments(x) if self.model.segment else self._encode_stream(x[:, 0])

  def _encode_stream(self, x: Float[np.ndarray, ' t']) -> Coded:
    hop, states, found = self.model.hop, None, []
    for start, end, last in _spans(len(x), self._chunk() * hop):
      size = end - start
      part, length = x[None, start:end], None
      if last:  # of a length of the grid: few programs are compiled
        part = np.pad(part, ((0, 0), (0, self._frames(-(-size // hop)) * hop - size)))
        length = np.array([size])
      codes, states = _encode_chunk(
        self.model, self.n_q, last, self.variables, part, states, length
      )
      found.append(np.asarray(codes[0, : -(-size // hop)], np.int32))
    codes = np.concatenate(found)
    return Coded(codes, len(x), (len(codes),), self.sample_rate)

  def _encode_segments(self, x: Float[np.ndarray, 't a']) -> Coded:
    size, hop = self.model.segment_samples, self.model.hop
    sizes = _segments(len(x), size, self.model.segment_stride)
    found, scales = [], []
    for first in range(0, len(sizes), SEGMENTS):
      some = sizes[first : first + SEGMENTS]
      audio = np.zeros((SEGMENTS, size, x.shape[1]), np.float32)
      mask = np.zeros((SEGMENTS, size), bool)
      for row, length in enumerate(some):
        start = (first + row) * self.model.segment_stride
        audio[row, :length], mask[row, :length] = x[start : start + length], True
      codes, loud = _code_rows(self.model, self.n_q, self.variables, audio, mask)
      frames = self.model.segment_frames
      for row, length in enumerate(some):
        found.append(np.asarray(codes[row, :frames])[: -(-length // hop)])
        if loud is not None:
          scales.append(float(loud[row, 0]))
    counts = tuple(len(each) for each in found)
    louder = np.asarray(scales, np.float32) if self.model.normalize else None
    return Coded(np.concatenate(found), len(x), counts, self.sample_rate, louder)

  def _chunk(self) -> int:
    """Frames of a chunk."""
    return max(16, round(CHUNK_SECONDS * self.sample_rate / self.model.hop))

  def _frames(self, frames: int) -> int:
    """Frames of the last chunk, padding included."""
    shortest = max(16, round(lengths.SHORTEST * self.sample_rate / self.model.hop))
    grid = lengths.grid(2 * self._chunk(), shortest)
    return next(size for size in grid if size >= frames)

  # -- Codes to audio --------------------------------------------------------------------------

  def decode(self, coded: Coded) -> Float[np.ndarray, 't a']:
    """The audio of codes, as long as the clip was.

    Raises:
      InputError: codes out of range or of too many codebooks, of another sample rate, or without
        the loudness that the codec needs.
    """
    model = self.model
    if coded.sample_rate != self.sample_rate:
      raise InputError(
        f'The codes are of audio at {coded.sample_rate} Hz, the codec has {self.sample_rate} Hz: '
        'decode them with the codec that made them.'
      )
    check_codes(coded.codes, model.quantizers, model.codebook_size)
    if sum(coded.frames) != len(coded.codes):
      raise InputError(f'Segments of {sum(coded.frames)} frames, but {len(coded.codes)} codes.')
    if model.segment:
      audio = self._decode_segments(coded)
    elif len(coded.frames) > 1:
      raise InputError('The codes are of segments, but this codec has none.')
    else:
      parts, states = [], None
      for start, end, last in _spans(len(coded.codes), self._chunk()):
        codes = coded.codes[None, start:end]
        if last:
          more = self._frames(end - start) - (end - start)
          codes = np.pad(codes, ((0, 0), (0, more), (0, 0)))
        sound, states = _decode_chunk(model, last, self.variables, codes, states)
        parts.append(np.asarray(sound[0, : (end - start) * model.hop])[:, None])
      audio = np.concatenate(parts)
    if len(audio) < coded.samples:
      raise InputError(f'Codes of {len(audio)} samples for a clip of {coded.samples}.')
    return audio[: coded.samples]

  def _decode_segments(self, coded: Coded) -> Float[np.ndarray, 't a']:
    """Segments, some at a time, faded into each other as `Encodec.decode` does."""
    model, size = self.model, self.model.segment_frames
    if model.normalize and (coded.scales is None or len(coded.scales) != len(coded.frames)):
      raise InputError('The loudness of every segment is missing: this codec needs it to decode.')
    if max(coded.frames) > size:
      raise InputError(f'A segment has {max(coded.frames)} frames, this codec has {size}.')
    stride, hop, s = model.segment_stride, model.hop, len(coded.frames)
    total = np.zeros((stride * (s - 1) + size * hop, model.channels), np.float32)
    norm = np.zeros(len(total), np.float32)
    whole = coded.frames[0] * hop
    weights = 0.5 - np.abs((np.arange(size * hop) + 1).astype(np.float32) / (whole + 1) - 0.5)
    weights = np.maximum(weights.astype(np.float32), np.float32(1e-9))
    starts = np.concatenate([[0], np.cumsum(coded.frames)])
    for first in range(0, s, SEGMENTS):
      rows = range(first, min(first + SEGMENTS, s))
      codes = np.zeros((SEGMENTS, size, coded.codes.shape[1]), np.int32)
      mask = np.zeros((SEGMENTS, size), bool)
      scales = None if coded.scales is None else np.ones((SEGMENTS, 1), np.float32)
      for row, i in enumerate(rows):
        count = coded.frames[i]
        codes[row, :count], mask[row, :count] = coded.codes[starts[i] : starts[i] + count], True
        if scales is not None and coded.scales is not None:
          scales[row] = coded.scales[i]
      audio = np.asarray(_decode_rows(model, self.variables, codes, mask, scales))
      for row, i in enumerate(rows):
        end = coded.frames[i] * hop
        part = audio[row, :end].reshape(end, -1)
        total[i * stride : i * stride + end] += weights[:end, None] * part
        norm[i * stride : i * stride + end] += weights[:end]
    return total / np.where(norm > 0, norm, 1.0)[:, None]

  # -- Files -----------------------------------------------------------------------------------

  def write(self, coded: Coded, path: str | os.PathLike) -> None:
    """Codes as a file: .ecdc, .npz or .safetensors."""
    path = Path(path)
    check_suffix(path)
    partial = path.with_name(f'{path.name}.partial{path.suffix}')
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      if path.suffix == '.ecdc':
        with open(partial, 'wb') as file:
          for piece in self._ecdc(coded):
            file.write(piece)
      else:
        arrays: dict[str, Any] = dict(
          codes=coded.codes,
          samples=np.array([coded.samples]),
          sample_rate=np.array([coded.sample_rate]),
          frames=np.asarray(coded.frames, np.int64),
        )
        if coded.scales is not None:
          arrays['scales'] = coded.scales
        np.savez(partial, **arrays) if path.suffix == '.npz' else save_file(arrays, partial)
      os.replace(partial, path)
    except OSError as error:
      partial.unlink(missing_ok=True)
      raise InputError(f'Cannot write {str(path)!r}: {error.strerror or error}.') from error

  def _ecdc(self, coded: Coded) -> Iterator[bytes]:
    header = ecdc.Header(self.name, coded.samples, coded.codes.shape[1], self.packer is not None)
    ends = np.cumsum(coded.frames)[:-1]
    scales = [None] * len(coded.frames) if coded.scales is None else coded.scales.tolist()
    segments = map(ecdc.Segment, np.split(coded.codes, ends), scales)
    return ecdc.write(header, segments, self.model.code_bits, self.packer)

  def read(self, path: str | os.PathLike) -> Coded:
    """The codes of a file, see `write`; .ecdc files of encodec too.

    Raises:
      InputError: not readable, cut off, of another codec, or packed with a language model that is
        not given.
    """
    path = Path(path)
    check_suffix(path)
    try:
      if path.suffix == '.ecdc':
        return self._read_ecdc(path.read_bytes(), str(path))
      if path.suffix == '.npz':
        with np.load(path, allow_pickle=False) as file:
          arrays = {name: file[name] for name in file.files}
      else:
        arrays = load_file(path)
      return Coded(
        arrays['codes'].astype(np.int32),
        int(arrays['samples'][0]),
        tuple(arrays['frames'].tolist()),
        int(arrays['sample_rate'][0]),
        arrays.get('scales'),
      )
    except OSError as error:
      raise InputError(f'{path}: it cannot be read ({error.strerror or error}).') from None
    except (KeyError, ValueError, IndexError, SafetensorError, EOFError) as error:
      if isinstance(error, InputError):
        raise
      raise InputError(f'{path} holds no codes that launch.codec has written.') from None

  def _read_ecdc(self, data: bytes, where: str) -> Coded:
    header, at = ecdc.read_header(data, where)
    if header.model != self.name:
      raise InputError(
        f'{where} was made by {header.model}, the codec is {self.name}: give its weights as model.'
      )
    if header.codebooks > self.model.quantizers:
      raise InputError(
        f'{where} has {header.codebooks} codebooks, the codec {self.model.quantizers}.'
      )
    if header.language_model and self.packer is None:
      raise InputError(
        f'{where} was packed with a language model: give its weights too (--lm=PATH), those of '
        'encodec_lm_24khz or encodec_lm_48khz for files of encodec.'
      )
    packer = self.packer if header.language_model else None
    frames = header.samples / self.model.hop * header.codebooks
    bits = self.model.code_bits if packer is None else ecdc.LEAST_BITS
    ecdc.check_length(frames * bits / 8, data, where)
    # As encodec counts them: ceil(samples / rate * frame rate), in floats.
    size = self.model.segment_samples or header.samples
    stride = self.model.segment_stride or header.samples
    lengths = _segments(header.samples, size, stride)
    frames = tuple(math.ceil(x / self.sample_rate * self.model.frame_rate) for x in lengths)
    scaled = self.model.normalize
    how = (header.codebooks, self.model.code_bits, scaled, where, packer)
    found = list(ecdc.read_segments(data, at, frames, *how))
    scales = np.asarray([x.scale for x in found], np.float32) if scaled else None
    codes = np.concatenate([x.codes for x in found]).astype(np.int32)
    return Coded(codes, header.samples, frames, self.sample_rate, scales)


# -- Checks ------------------------------------------------------------------------------------


def check(model: Any) -> None:
  """Raises InputError for a model that is no codec."""
  if not isinstance(model, DecodesCodes):
    raise InputError(
      f'{type(model).__name__} is no codec: it makes no audio of codes. Give an EnCodec.'
    )


def check_suffix(path: Path) -> None:
  """Raises InputError for a file of no known form."""
  if path.suffix not in SUFFIXES:
    raise InputError(f'{str(path)!r}: files of codes end in {", ".join(SUFFIXES)}.')


def check_codes(codes: np.ndarray, codebooks: int, size: int) -> None:
  """Raises InputError where codes are not [n, q] of that many codebooks of that size."""
  if codes.ndim != 2 or codes.dtype.kind not in 'iu' or not 1 <= codes.shape[1] <= codebooks:
    raise InputError(
      f'Codes of shape {codes.shape} and type {codes.dtype}: expected whole numbers [frames, '
      f'codebooks] with 1 to {codebooks} codebooks.'
    )
  if not codes.size:
    raise InputError('There are no codes: expected at least one frame.')
  low, high = int(codes.min()), int(codes.max())
  if low < 0 or high >= size:
    raise InputError(
      f'A code is {low if low < 0 else high}: those of this codec are 0 to {size - 1}.'
    )


def words(codes: Int[np.ndarray, 'n g']) -> str:
  """Codes as text: those of a frame with '-' between them, frames with spaces between them."""
  return ' '.join('-'.join(map(str, frame)) for frame in codes.tolist())


# -- Parts -------------------------------------------------------------------------------------


def _spans(total: int, size: int) -> Iterator[tuple[int, int, bool]]:
  """(start, end, whether it is the last) of chunks of `size`; the last may be up to twice as long,
  so that the first is never a short one."""
  start = 0
  while total - start >= 2 * size:
    yield start, start + size, False
    start += size
  yield start, total, True


def _segments(samples: int, size: int, stride: int) -> list[int]:
  """Samples of every segment of a clip."""
  return [min(size, samples - start) for start in range(0, samples, stride)]


def _sides(path: Path) -> tuple[Float[np.ndarray, 't a'], int]:
  """The channels of a file: two, or one; more are mixed to one."""
  import soundfile

  try:
    found, rate = soundfile.read(path, dtype='float32', always_2d=True)
  except (soundfile.LibsndfileError, OSError) as error:
    raise InputError(f'{path}: it cannot be read as audio of two channels ({error}).') from None
  return (found if found.shape[1] <= 2 else found.mean(axis=1, keepdims=True)), rate


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _encode_chunk(model, n_q, last, variables, audio, states, length):
  return model.apply(variables, audio, states, last, n_q, length, method='encode_chunk')


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode_chunk(model, last, variables, codes, states):
  return model.apply(variables, codes, states, last, method='decode_chunk')


@functools.partial(jax.jit, static_argnums=(0, 1))
def _code_rows(model, n_q, variables, audio, mask):
  """Codes and loudness of rows that are one segment each."""
  found = model.apply(variables, audio, mask, n_q, True, method='coded')
  return found.codes, found.scales


@functools.partial(jax.jit, static_argnums=0)
def _decode_rows(model, variables, codes, mask, scales):
  return model.apply(variables, codes, mask, scales, method='decode')[0]
