"""model.bin of CTranslate2: names, shapes, bytes, and aliases of names, as its binary version 6 has
them (OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py).

Weights that were quantised to integers become float32: int8 is divided by `<name>_scale` of its row
(the first axis), int16 by the one of its array (src/ops/dequantize_cpu.cc).
"""

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from research.errors import InputError, printable

VERSION = 6
# What is described, and the highest revision of its names that is known.
SPEC, REVISION = 'WhisperSpec', 3
DTYPES = tuple(
  np.dtype(t) for t in ('float32', 'int8', 'int16', 'int32', 'float16', ml_dtypes.bfloat16)
)
# More of either is no model.
MAX_NAME, MAX_RANK = 4096, 8


def is_model(path: Path) -> bool:
  """Whether a file begins as such a model: its version, then the name of what it describes."""
  try:
    with path.open('rb') as file:
      head = file.read(64)
  except OSError:
    return False
  if len(head) < 8:
    return False
  version, size = struct.unpack_from('<IH', head)
  name = head[6 : 6 + size]
  return version <= 100 and 1 < size < 58 and name.endswith(b'Spec\0') and name[:-1].isalnum()


class _Reader:
  """Parts of a file one after the other, none beyond its end."""

  def __init__(self, path: Path):
    self.path, self.data, self.at = path, memoryview(path.read_bytes()), 0

  def take(self, size: int) -> memoryview:
    if not 0 <= size <= len(self.data) - self.at:
      raise InputError(f'{str(self.path)!r} is damaged: it ends within an array or a name.')
    part = self.data[self.at : self.at + size]
    self.at += size
    return part

  def number(self, kind: str) -> int:
    (value,) = struct.unpack(f'<{kind}', self.take(struct.calcsize(f'<{kind}')))
    return value

  def text(self) -> str:
    raw = bytes(self.take(self.number('H')))
    if not 0 < len(raw) <= MAX_NAME or raw[-1]:
      raise InputError(f'{str(self.path)!r} is damaged: a name in it has no end.')
    return raw[:-1].decode('utf-8', 'replace')

  def array(self) -> np.ndarray:
    rank = self.number('B')
    shape = [self.number('I') for _ in range(min(rank, MAX_RANK + 1))]
    kind = self.number('B')
    if rank > MAX_RANK or kind >= len(DTYPES):
      raise InputError(f'{str(self.path)!r} is damaged: an array has {rank} axes of kind {kind}.')
    dtype, size = DTYPES[kind], self.number('I')
    if size != int(np.prod(shape, dtype=object)) * dtype.itemsize:
      raise InputError(
        f'{str(self.path)!r} is damaged: an array of shape {shape} has {size} bytes.'
      )
    found = np.frombuffer(self.take(size), dtype).reshape(shape).copy()
    return found.astype(np.float32) if dtype == ml_dtypes.bfloat16 else found


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """(arrays by their names, {'ctranslate2': {name: number} of those that are one}).

  Raises:
    InputError: another version or another model, a damaged file, or integers that cannot be read as
      numbers.
  """
  reader = _Reader(path)
  version = reader.number('I')
  if version != VERSION:
    raise InputError(
      f'{str(path)!r} has the binary version {version} of CTranslate2; {VERSION} can be read: '
      'convert the model anew.'
    )
  spec, revision = reader.text(), reader.number('I')
  if spec != SPEC or revision > REVISION:
    raise InputError(
      f'{str(path)!r} is a {printable(spec[:60])} of revision {revision} of CTranslate2; a {SPEC} '
      f'of revision {REVISION} or less can be read.'
    )
  arrays = {}
  for _ in range(reader.number('I')):
    name = reader.text()
    arrays[name] = reader.array()
  aliases = {reader.text(): reader.text() for _ in range(reader.number('I'))}
  if reader.at != len(reader.data):
    raise InputError(f'{str(path)!r} is damaged: it goes on behind its last name.')
  arrays = _floats(path, arrays)
  for alias, name in aliases.items():
    if name not in arrays:
      raise InputError(f'{str(path)!r} is damaged: {printable(alias)} has no array of its own.')
    arrays[alias] = arrays[name]
  numbers = {k: int(x) for k, x in arrays.items() if not x.ndim and x.dtype.kind == 'i'}
  return {k: x for k, x in arrays.items() if k not in numbers}, {'ctranslate2': numbers}


def _floats(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same arrays with integers by their scales, which are left out."""
  found = {}
  for name, x in arrays.items():
    if name.endswith('_scale') and name.removesuffix('_scale') in arrays:
      continue
    if not x.ndim or x.dtype.kind != 'i':
      found[name] = x
      continue
    scale = arrays.get(f'{name}_scale')
    per_row = x.dtype == np.int8
    if x.dtype not in (np.int8, np.int16) or scale is None or f'{name}_zero' in arrays:
      raise InputError(
        f'{str(path)!r}: {printable(name)} holds integers ({x.dtype}) of an unknown kind: convert '
        'the model with --quantization int8, int8_float16, int16, float16 or float32.'
      )
    if scale.shape != ((len(x),) if per_row else ()) or scale.dtype.kind != 'f':
      raise InputError(
        f'{str(path)!r} is damaged: {printable(name)} of shape {x.shape} has scales of shape '
        f'{scale.shape}.'
      )
    once = np.float32(1.0) / scale.astype(np.float32)
    found[name] = x.astype(np.float32) * once.reshape(-1, *[1] * (x.ndim - 1) if per_row else ())
  return found
