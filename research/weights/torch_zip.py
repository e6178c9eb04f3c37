"""PyTorch's zip files (`torch.save` since 1.6) without torch: tensors and plain values alone.

`data.pkl` of such a file is a pickle whose tensors refer to other members by number. It is read by
an unpickler that knows the few functions tensors are rebuilt by, all of them made here; any other
name in it is refused, so that no code of the file, or named by it, is run.
"""

import argparse
import dataclasses
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

# {torch's storage class: dtype of its elements}
STORAGES = {
  'FloatStorage': np.dtype(np.float32), 'DoubleStorage': np.dtype(np.float64),
  'HalfStorage': np.dtype(np.float16), 'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
  'LongStorage': np.dtype(np.int64), 'IntStorage': np.dtype(np.int32),
  'ShortStorage': np.dtype(np.int16), 'CharStorage': np.dtype(np.int8),
  'ByteStorage': np.dtype(np.uint8), 'BoolStorage': np.dtype(np.bool_),
}  # fmt: skip
# torch's types of numbers, which configurations name.
DTYPES = (
  'float64',
  'float32',
  'float16',
  'bfloat16',
  'int64',
  'int32',
  'int16',
  'int8',
  'uint8',
  'bool',
)


class Refused(Exception):
  """A name that only running code could make something of; the message is that name."""


class Damaged(Exception):
  """The file is not whole, or no file of tensors."""


class _Storage:
  """Elements that tensors are views of."""

  __slots__ = ('values',)

  def __init__(self, values: np.ndarray):
    self.values = values

  def __setstate__(self, state: Any) -> None:
    raise Damaged('it changes what it refers to')


class _Fields:
  """Stands for an object of a known class: it keeps what was saved of it and does nothing."""

  __slots__ = ('said',)

  def __setstate__(self, said: Any) -> None:
    self.said = said


def is_zip(path: Path) -> bool:
  """Whether the file is one of PyTorch's zip files."""
  with open(path, 'rb') as file:
    return file.read(4) == b'PK\x03\x04'


def read(path: Path, known: Mapping[str, Callable[[Any], Any]]) -> Any:
  """What `torch.save` was given, tensors as NumPy arrays (views of what was read).

  Args:
    path: the file.
    known: {'module.Class': what to make of what was saved of an object of that class}.

  Raises:
    Refused: it holds something else than tensors, plain values and objects of `known` classes.
    Damaged: a member is missing or too short, or it is no such file.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      return _Reader(archive, known).whole()
  except (Refused, Damaged):
    raise
  except Exception as error:  # a pickle may raise anything
    raise Damaged(str(error) or type(error).__name__) from error


class _Reader:
  def __init__(self, archive: zipfile.ZipFile, known: Mapping[str, Callable[[Any], Any]]):
    names = [n for n in archive.namelist() if n.endswith('/data.pkl') and n.count('/') == 1]
    if len(names) != 1:
      raise Damaged('it has no data.pkl')
    self.archive, self.known = archive, known
    self.root = names[0].removesuffix('data.pkl')
    # Members that share bytes would let a small file fill the memory.
    self.left = max(info.header_offset + info.file_size for info in archive.infolist())
    self.storages: dict[str, _Storage] = {}
    # Made anew for every file, as a pickle may change what it is given.
    self.classes = {name: type('_Known', (_Fields,), {'__slots__': ()}) for name in known}
    self.of = {made: known[name] for name, made in self.classes.items()}

  def whole(self) -> Any:
    order = f'{self.root}byteorder'
    if order in self.archive.namelist() and self.archive.read(order) != b'little':
      raise Damaged('it was written on a big-endian machine')
    if any(i.compress_type != zipfile.ZIP_STORED for i in self.archive.infolist()):
      raise Damaged('it is compressed, which PyTorch does not do')
    outer = self

    # The one in Python: places in the memo of the other one are an array as large as a file says.
    class Unpickler(pickle._Unpickler):  # type: ignore[name-defined]
      def find_class(self, module: str, name: str) -> Any:
        return outer.find(f'{module}.{name}')

      def persistent_load(self, pid: Any) -> Any:
        return outer.storage(pid)

    content = io.BytesIO(self._read('data.pkl'))
    return self._plain(Unpickler(content, encoding='utf-8').load(), {})

  def _read(self, name: str) -> bytes:
    self.left -= self.archive.getinfo(f'{self.root}{name}').file_size
    if self.left < 0:
      raise Damaged('its members share their bytes')
    return self.archive.read(f'{self.root}{name}')  # checks the CRC

  def find(self, name: str) -> Any:
    """What a name of the pickle stands for."""
    short = name.removeprefix('torch.')
    if name.startswith('torch.') and short in STORAGES:
      return _Kind(short)
    if name in self.classes:
      return self.classes[name]
    makers: dict[str, Callable[..., Any]] = {
      'torch._utils._rebuild_tensor': lambda s, o, size, stride: tensor(s, o, size, stride),
      'torch._utils._rebuild_tensor_v2': lambda s, o, size, stride, *rest: tensor(
        s, o, size, stride
      ),
      'torch._utils._rebuild_parameter': lambda data, *rest: data,
      'collections.OrderedDict': lambda *items: _Ordered(*items),
      'jukebox.hparams.Hyperparams': _Ordered,
      'torch.Size': lambda sizes: tuple(sizes),
      'torch.device': lambda *where: ':'.join(map(str, where)),
    }
    if name.startswith('torch.') and short in DTYPES:
      return short
    if name not in makers:
      raise Refused(name)
    return makers[name]

  def storage(self, pid: Any) -> _Storage:
    kind, key, count = pid[1], str(pid[2]), int(pid[4])
    if pid[0] != 'storage' or not isinstance(kind, _Kind):
      raise Damaged('it refers to something that is no storage')
    if key not in self.storages:
      data = self._read(f'data/{key}')
      values = np.frombuffer(data, STORAGES[kind.name], count=len(data) // _width(kind))
      if len(values) < count:
        raise Damaged(f'data/{key} has {len(values)} elements of {count}')
      self.storages[key] = _Storage(values[:count])
    return self.storages[key]

  def _plain(self, value: Any, seen: dict[int, Any]) -> Any:
    """Stand-ins as what `known` makes of them, at any depth; what is shared stays shared."""
    if id(value) in seen:
      return seen[id(value)]
    found: Any = value
    if type(value) in self.of:
      found = self.of[type(value)](self._plain(getattr(value, 'said', None), seen))
    elif isinstance(value, dict):
      found = {k: self._plain(v, seen) for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
      found = [self._plain(v, seen) for v in value]
    seen[id(value)] = found
    return found


class _Ordered(dict):
  """A dict whose saved attributes (the _metadata of a state dict) are dropped."""

  __slots__ = ()

  def __setstate__(self, state: Any) -> None:
    del state


@dataclasses.dataclass(frozen=True)
class _Kind:
  name: str


def _width(kind: _Kind) -> int:
  return STORAGES[kind.name].itemsize


def tensor(storage: _Storage, offset: int, size: Any, stride: Any) -> np.ndarray:
  """A tensor as a view of its storage.

  Raises:
    Damaged: it reaches beyond its storage, or has more elements than that.
  """
  sizes, strides = [int(n) for n in size], [int(n) for n in stride]
  values = storage.values
  assert values.ndim == 1 and values.flags.c_contiguous
  last = int(offset) + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
  count = int(np.prod([float(n) for n in sizes]))
  fits = min([0, int(offset), *sizes, *strides]) == 0 and count <= len(values)
  if not fits or (count and last >= len(values)):
    raise Damaged(f'a tensor of shape {sizes} does not lie in its {len(values)} elements')
  if not count:
    return np.zeros(sizes, values.dtype)
  steps = [s * values.itemsize for s in strides]
  return np.lib.stride_tricks.as_strided(values[int(offset) :], sizes, steps, writeable=False)


def namespace(said: Any) -> argparse.Namespace:
  """An `argparse.Namespace` of its saved attributes."""
  return argparse.Namespace(**said) if isinstance(said, dict) else argparse.Namespace()
