"""What is clustered: one vector a frame, of MFCC or of a layer of any model, on a known grid.

Frame j of a clip stands for its samples j * hop to j * hop + window. Long clips are cut into pieces
whose frames lie on the grid of the whole clip.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from research.audio import decode
from research.audio.clips import Source, Table
from research.audio.example import Example
from research.errors import InputError
from research.features.frontend import Frontend
from research.features.waveform import Waveform
from research.inference.embedder import Embedder, ModelApply, digest, layer_indices, log_mel
from research.models.finetuned import replaced

# fairseq, dump_hubert_feature.py: max_chunk.
PIECE_SAMPLES = 1_600_000
# Maximum length, in hops of the front-end, of the clips in which a model's grid is searched.
_HOPS = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
  """What is clustered.

  Attributes:
    embedder: from audio to tokens, one of each time.
    layer: which of its layers.
    hop: samples from one frame to the next.
    window: samples that a frame stands for.
    context: frames on both sides that a frame depends on; a piece of a clip is read with this many
      more. 0 for models, whose pieces are run by themselves as in fairseq.
    epsilon: clips are normalised as a whole with this beside their variance before they are cut;
      the embedder then takes them as they are. None leaves them alone.
  """

  embedder: Embedder
  layer: int
  hop: int
  window: int
  context: int = 0
  epsilon: float | None = None

  @property
  def name(self) -> str:
    return self.embedder.name if self.embedder.kind == 'mfcc' else f'layer {self.layer}'

  @property
  def sample_rate(self) -> int:
    """Hz."""
    return self.embedder.sample_rate

  @property
  def piece(self) -> int:
    """Most frames of a clip that are computed at once."""
    samples = PIECE_SAMPLES
    if self.embedder.max_seconds is not None:
      samples = min(samples, int(self.embedder.max_seconds * self.sample_rate))
    return max(1, int(self.count(samples)) - 2 * self.context)

  def count(self, samples: Any) -> Any:
    """Frames of clips of N samples (a number or an array)."""
    return np.maximum(0, 1 + (np.asarray(samples) - self.window) // self.hop)

  def width(self) -> int:
    """d, features of a frame."""
    samples = max(self.sample_rate, self.embedder.frontend.min_samples)
    shapes = (
      jax.ShapeDtypeStruct((1, samples), jnp.float32),
      jax.ShapeDtypeStruct((1, samples), jnp.bool_),
    )
    return jax.eval_shape(self.embedder.apply, self.embedder.variables, *shapes)[0].shape[-1]

  @property
  def dtype(self) -> str:
    """In which the model computes."""
    return str(getattr(getattr(self.embedder.apply, 'model', None), 'dtype', 'float32'))

  def fingerprint(self) -> str:
    """Hash of weights, dtype, front-end and layer: equal for equal frames."""
    return digest(self.embedder.fingerprint(), self.layer, self.hop, self.window)

  def about(self) -> dict[str, Any]:
    """What a codebook has to say about its features."""
    return {
      'features': self.embedder.name,
      'layer': self.layer,
      'dtype': self.dtype,
      'features_fingerprint': self.fingerprint(),
      'frontend': self.embedder.frontend.to_dict(),
      'sample_rate': self.sample_rate,
      'hop': self.hop,
      'window': self.window,
    }


def mfcc() -> Frames:
  """13 MFCC with two orders of deltas, 100 a second: HuBERT's first features."""
  frontend = Frontend.create('mfcc')
  apply = log_mel(frontend).apply
  embedder = Embedder('mfcc', apply, {}, frontend, 'none', 'mfcc')
  # Two deltas, each over two frames on both sides.
  return Frames(embedder, 0, frontend.hop_samples, frontend.min_samples, context=4)


def of_model(embedder: Embedder, layer: str | int) -> Frames:
  """A layer of a model.

  Args:
    embedder: the model.
    layer: 'last' or a number; 0 is the stem, so that 6 is the output of the sixth block.

  Raises:
    InputError: no such layer, or the tokens of the model are not one vector a frame.
  """
  found = layer_indices(layer, embedder.num_layers())
  if len(found) != 1:
    raise InputError(f'--layer={layer}: one layer is clustered; give its number, or last.')
  hop, window = _grid(embedder)
  frontend = embedder.frontend
  if not isinstance(frontend, Waveform) or not frontend.normalise:
    return Frames(embedder, found[0], hop, window)
  model = embedder.apply.model  # type: ignore[attr-defined]
  model = replaced(model, frontend=dataclasses.replace(frontend, normalise=False).to_dict())
  # Its front-end stays: it is what the frames are of.
  embedder = dataclasses.replace(embedder, apply=ModelApply(model))
  return Frames(embedder, found[0], hop, window, epsilon=frontend.epsilon)


def _grid(embedder: Embedder) -> tuple[int, int]:
  """(hop, window) in samples of a model's tokens, found from outside."""
  frontend = embedder.frontend
  low, step = frontend.min_samples, frontend.hop_samples
  most = low + _HOPS * step
  if embedder.max_seconds is not None:
    most = min(most, int(embedder.max_seconds * embedder.sample_rate))
  lengths = np.arange(low, most + 1, step)
  counts = embedder.reached(lengths, most)
  if counts[0] == 1 and (counts > 1).any():
    hop = int(lengths[np.argmax(counts > 1)]) - low
    # One sample less than a whole frame is no frame, anywhere.
    edges = np.concatenate([lengths, lengths[1:] - 1])
    expected = 1 + (edges - low) // hop
    if np.array_equal(embedder.reached(edges, most), expected):
      return hop, low
  raise InputError(
    f'The tokens of {embedder.name} are not one for every whole window of audio at even distances '
    f'({counts[0]} for {low} samples, {counts[-1]} for {lengths[-1]}): models of spectrogram '
    'patches have several at one time, and centred spectrograms have some that reach beyond the '
    'clip. Units can be made of mfcc and of models of waveforms.'
  )


# -- Pieces ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Pieces:
  """Clips cut into pieces.

  Attributes:
    source: the pieces; those of a clip follow each other.
    clips: which clip of the whole source each belongs to.
    skip: frames at the start of each that belong to the piece before.
    keep: frames after those that are its own; the last piece of a clip has all there are.
  """

  source: Source
  clips: Int[np.ndarray, 'pieces']
  skip: Int[np.ndarray, 'pieces']
  keep: Int[np.ndarray, 'pieces']

  def select(self, rows: np.ndarray) -> 'Pieces':
    """Some of them."""
    return Pieces(self.source.select(rows), self.clips[rows], self.skip[rows], self.keep[rows])

  def own(self, mask: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Of real frames [b, n] of the pieces `index` [b], those that are their own."""
    place = np.arange(mask.shape[1])
    first = self.skip[index][:, None]
    return mask & (place >= first) & (place < first + self.keep[index][:, None])


def pieces(source: Source, frames: Frames) -> Pieces:
  """A source whose long clips are cut; short ones stay as they are."""
  samples = np.round(source.durations() * frames.sample_rate).astype(np.int64)
  size, context = frames.piece, frames.context
  # A clip is cut when it has more frames than a piece with its context.
  counts = np.where(
    frames.count(samples) > size + 2 * context, -(-frames.count(samples) // size), 1
  )
  clips = np.repeat(np.arange(len(source)), counts)
  order = np.arange(len(clips)) - np.repeat(np.cumsum(counts) - counts, counts)
  last = order == counts[clips] - 1
  skip = np.where(order > 0, context, 0)
  first = (order * size - skip) * frames.hop
  length = (size + skip + context - 1) * frames.hop + frames.window
  length = np.where(last, samples[clips] - first, length)
  several = counts[clips] > 1
  rate = frames.sample_rate
  table = Table(
    name=source.name,
    ids=[
      f'{source.id(c)} from {f / rate:g} s' if s else source.id(c)
      for c, f, s in zip(clips, first, several)
    ],
    columns={},
    locate=_Locate(
      source, clips, np.where(several, first, -1), np.where(last, -1, length), rate, frames.epsilon
    ),
    seconds=length / rate,
  )
  keep = np.where(last, np.iinfo(np.int64).max // 2, size)
  return Pieces(Source(table), clips, skip, keep)


@dataclasses.dataclass
class _Locate:
  """Where a piece is: a whole clip as its source says, a part of one as its samples.

  Samples, so that a part of a clip that is resampled lies on the grid of the whole.
  """

  source: Source
  clips: Int[np.ndarray, 'pieces']
  first: Int[np.ndarray, 'pieces']  # -1 for a whole clip
  length: Int[np.ndarray, 'pieces']  # -1 to the end
  sample_rate: int
  epsilon: float | None

  def __call__(self, row: int) -> dict[str, Any]:
    whole = int(self.clips[row])
    fields = self.source.table.locate(int(self.source.rows[whole]))
    if self.first[row] < 0 and self.epsilon is None:
      return fields
    example = Example(id=self.source.id(whole), columns={}, **fields)
    audio: Float[np.ndarray, 't']
    first, length = max(int(self.first[row]), 0), int(self.length[row])
    if self.epsilon is None:
      audio = decode.decode(
        example,
        sample_rate=self.sample_rate,
        start_seconds=first / self.sample_rate,
        seconds=None if length < 0 else length / self.sample_rate,
      )
    else:
      audio = decode.decode(example, sample_rate=self.sample_rate)
      mean, variance = audio.mean(dtype=np.float64), audio.var(dtype=np.float64)
      audio = audio[first : None if length < 0 else first + length]
      audio = ((audio - mean) / np.sqrt(variance + self.epsilon)).astype(np.float32)
    return {'array': audio, 'sample_rate': self.sample_rate}
