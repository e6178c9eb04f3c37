"""Centroids of k-means models that others fitted: .npy, and the files that joblib wrote.

fairseq keeps its quantisers as joblib dumps of a scikit-learn estimator
(hubert_base_ls960_L9_km500.bin). Such a file is a pickle, and a pickle is a program: here it may
name a short list of things, each replaced by one of ours that only holds what it is given, and may
do nothing else. No code of the file, of scikit-learn or of joblib is run.
"""

import bz2
import gzip
import io
import lzma
import math
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from research.errors import InputError

PICKLES = ('.bin', '.km', '.joblib', '.pkl')
SUFFIXES = ('.npy', *PICKLES)
# More than any codebook: a small file must not unpack to fill the memory.
MOST_BYTES = 2**31
_HOW = 'Where it was made, save its centroids: np.save("codebook.npy", model.cluster_centers_).'


def read_centroids(path: str | os.PathLike) -> Float[np.ndarray, 'k d']:
  """The centroids in a file.

  Args:
    path: .npy, or a dump of a scikit-learn KMeans or MiniBatchKMeans by joblib or pickle (.bin,
      .km, .joblib, .pkl), compressed or not.

  Returns:
    float32 [k, d].

  Raises:
    InputError: nothing there, damaged, not centroids, or a pickle that wants more than a k-means
      model needs: what it wants is named.
  """
  path = Path(path)
  if not path.is_file():
    raise InputError(f'There is no codebook at {str(path)!r}.')
  if path.suffix not in SUFFIXES:
    raise InputError(
      f'{str(path)!r} is not a kind of codebook that can be read: expected a folder with '
      f'codebook.npy, or {", ".join(SUFFIXES)}.'
    )
  try:
    if path.suffix == '.npy':
      found = np.load(path, allow_pickle=False)
    else:
      found = _of_estimator(_read_pickle(path))
  except InputError as error:
    raise InputError(f'{str(path)!r} is refused: {error} {_HOW}') from None
  except (MemoryError, RecursionError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
    reason = str(error) or type(error).__name__
    raise InputError(f'{str(path)!r} is damaged or no codebook ({reason}).') from None
  except Exception as error:  # whatever a damaged pickle makes of our stand-ins
    raise InputError(
      f'{str(path)!r} is damaged or no codebook ({type(error).__name__}: {error}). {_HOW}'
    ) from None
  if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != 'f':
    what = f'{found.dtype} {found.shape}' if isinstance(found, np.ndarray) else 'no array'
    raise InputError(f'{str(path)!r} holds {what}; centroids [clusters, features] were expected.')
  if not found.size or not np.isfinite(found).all():
    raise InputError(f'{str(path)!r} holds centroids that are empty or not finite.')
  return np.ascontiguousarray(found, np.float32)


# -- Pickles -----------------------------------------------------------------------------------


class _Inert:
  """Stands for an object of the file: it keeps what it is given and does nothing."""

  def __init__(self, *args: Any):
    self.args = args
    self.state: dict[str, Any] = {}

  def take(self, state: Any) -> None:
    """What the file says of the object."""
    self.state = state if isinstance(state, dict) else {'state': state}


class _Estimator(_Inert):
  """Stands for a KMeans or MiniBatchKMeans."""


class _Dtype(_Inert):
  """Stands for numpy.dtype: plain numbers only."""

  def array_type(self) -> np.dtype:
    code = self.args[0]
    if not isinstance(code, str) or code[:1] not in 'fiub' or not code[1:].isdigit():
      raise InputError(f'it holds an array of {code!r}, not of numbers.')
    order = self.state.get('state', (3, '|'))[1]
    return np.dtype(f'{order if order in ("<", ">") else "="}{code}')


class _Array(_Inert):
  """Stands for an array that is pickled as it is: state (version, shape, dtype, fortran, bytes)."""

  def array(self) -> np.ndarray:
    _, shape, kind, fortran, data = self.state['state']
    return _shaped(data, kind, shape, 'F' if fortran else 'C')


class _Wrapped(_Inert):
  """Stands for joblib's NumpyArrayWrapper, behind which the numbers of an array lie."""

  def read(self, file: Any) -> np.ndarray:
    kind, shape = self.state['dtype'].array_type(), self.state['shape']
    if self.state.get('numpy_array_alignment_bytes') is not None:
      file.read(file.read(1)[0])
    return _shaped(file.read(_bytes(shape, kind)), self.state['dtype'], shape, self.state['order'])


def _bytes(shape: tuple[int, ...], kind: np.dtype) -> int:
  if not all(isinstance(n, int) and n >= 0 for n in shape):
    raise InputError(f'it holds an array of shape {shape!r}.')
  return math.prod(shape) * kind.itemsize


def _shaped(data: Any, kind: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
  found = kind.array_type()
  data = data.encode('latin1') if isinstance(data, str) else data
  if not isinstance(data, bytes) or len(data) != _bytes(shape, found):
    raise InputError('it holds an array with too few or too many numbers.')
  return np.frombuffer(data, found).reshape(shape, order='F' if order == 'F' else 'C')


class _Scalar(_Inert):
  """Stands for numpy's scalar(dtype, bytes)."""


class _Encoded(_Inert):
  """Stands for _codecs.encode(text, 'latin1'): how old pickles write bytes."""

  def __new__(cls, text: str, encoding: str = 'latin1'):
    if encoding != 'latin1' or not isinstance(text, str):
      raise InputError(f'it encodes text as {encoding!r}.')
    return text.encode('latin1')


# All that a file may name.
_ALLOWED: dict[tuple[str, str], type] = {
  **{
    (f'sklearn.cluster.{module}', name): _Estimator
    for module in ('_kmeans', 'k_means_')
    for name in ('MiniBatchKMeans', 'KMeans')
  },
  ('joblib.numpy_pickle', 'NumpyArrayWrapper'): _Wrapped,
  ('sklearn.externals.joblib.numpy_pickle', 'NumpyArrayWrapper'): _Wrapped,
  ('numpy', 'ndarray'): _Inert,
  ('numpy', 'dtype'): _Dtype,
  **{
    (f'numpy.{core}.multiarray', name): stand_in
    for core in ('core', '_core')
    for name, stand_in in (('_reconstruct', _Array), ('scalar', _Scalar))
  },
  # The estimator's random generator, of no use to us.
  ('numpy.random._pickle', '__randomstate_ctor'): _Inert,
  ('numpy.random._pickle', '__bit_generator_ctor'): _Inert,
  ('numpy.random._mt19937', 'MT19937'): _Inert,
  ('numpy.random', '__RandomState_ctor'): _Inert,
  ('_codecs', 'encode'): _Encoded,
}

# What a pickle may do: make plain values and containers, and the objects above.
_STEPS = (
  'PROTO', 'FRAME', 'STOP', 'MARK', 'POP', 'POP_MARK', 'DUP', 'NONE', 'NEWTRUE', 'NEWFALSE',
  'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT',
  'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8',
  'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8',
  'EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'EMPTY_LIST', 'LIST', 'APPEND', 'APPENDS',
  'EMPTY_DICT', 'DICT', 'SETITEM', 'SETITEMS', 'GET', 'BINGET', 'LONG_BINGET', 'PUT', 'BINPUT',
  'LONG_BINPUT', 'MEMOIZE', 'GLOBAL', 'STACK_GLOBAL', 'NEWOBJ', 'REDUCE', 'BUILD',
)  # fmt: skip


# The pickle module's own reader in Python: what it does at each step can be replaced.
_PLAIN: Any = pickle._Unpickler  # type: ignore[attr-defined]
_CODES = [getattr(pickle, name)[0] for name in _STEPS]


class _Reader(_PLAIN):
  """Reads a pickle with nothing but stand-ins."""

  def __init__(self, file: Any):
    super().__init__(file, encoding='latin1')
    self._source = file

  def find_class(self, module: str, name: str) -> Any:
    found = _ALLOWED.get((module, name))
    if found is None:
      raise InputError(f'it wants to run {module}.{name}, which no k-means model needs.')
    return found

  def load_newobj(self) -> None:
    args, kind = self.stack.pop(), self.stack.pop()
    self.append(_made(kind, args))

  def load_reduce(self) -> None:
    args, kind = self.stack.pop(), self.stack.pop()
    self.append(_made(kind, args))

  def load_build(self) -> None:
    state, made = self.stack.pop(), self.stack.pop()
    if not isinstance(made, _Inert):
      raise InputError(f'it sets the state of a {type(made).__name__}.')
    made.take(state)
    self.append(made.read(self._source) if isinstance(made, _Wrapped) else made)

  def refuse(self) -> None:
    raise InputError('it does what the file of a k-means model does not.')

  dispatch = dict.fromkeys(_PLAIN.dispatch, refuse)
  dispatch.update(zip(_CODES, map(_PLAIN.dispatch.get, _CODES)))
  dispatch[pickle.NEWOBJ[0]] = load_newobj
  dispatch[pickle.REDUCE[0]] = load_reduce
  dispatch[pickle.BUILD[0]] = load_build


def _made(kind: Any, args: Any) -> Any:
  if not (isinstance(kind, type) and issubclass(kind, _Inert) and isinstance(args, tuple)):
    raise InputError(f'it calls a {type(kind).__name__}.')
  return kind(*args)


def _read_pickle(path: Path) -> Any:
  file = io.BytesIO(_unpacked(path.read_bytes()))
  return _Reader(file).load()


# How compressed files begin, and what opens them.
_PACKED: dict[bytes, Any] = {
  b'\x1f\x8b': gzip.open,
  b'BZh': bz2.open,
  b'\xfd7zXZ\x00': lzma.open,
  b'\x5d\x00\x00': lzma.open,
}


def _unpacked(data: bytes) -> bytes:
  """The content of a file that may be compressed; its first bytes say how."""
  found, rest = data, b''
  opened = next((opened for head, opened in _PACKED.items() if data.startswith(head)), None)
  if opened is not None:
    with opened(io.BytesIO(data)) as packed:
      found = packed.read(MOST_BYTES + 1)
  elif data[:1] == b'\x78':  # zlib, joblib's own choice
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(data, MOST_BYTES)
    rest = unpacker.unconsumed_tail
  elif data[:4] == b'\x04\x22\x4d\x18':
    raise InputError('it is compressed with LZ4.')
  if len(found) > MOST_BYTES or rest:
    raise InputError(f'it unpacks to more than {MOST_BYTES} bytes.')
  return found


def _of_estimator(found: Any) -> np.ndarray:
  if not isinstance(found, _Estimator):
    raise InputError(f'it holds a {type(found).__name__.strip("_")}, not a k-means model.')
  centroids = found.state.get('cluster_centers_')
  if isinstance(centroids, _Array):
    centroids = centroids.array()
  if not isinstance(centroids, np.ndarray):
    raise InputError('its k-means model was never fitted: it has no cluster_centers_.')
  return centroids
