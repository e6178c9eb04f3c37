"""Arrays of safetensors files that stay on disk until they are used.

A model of several files is larger than anything else here: its arrays are views of the mapped
files, so that only what becomes of them takes memory.
"""

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from research.errors import InputError

# Types of safetensors.
TYPES: dict[str, np.dtype] = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'I64': np.dtype(np.int64),
  'I32': np.dtype(np.int32),
  'I16': np.dtype(np.int16),
  'I8': np.dtype(np.int8),
  'U8': np.dtype(np.uint8),
  'BOOL': np.dtype(bool),
}


def mapped(path: Path) -> dict[str, np.ndarray]:
  """The arrays of a file, read-only; those of other types are read.

  Raises:
    InputError: the file is damaged or no safetensors file.
  """
  try:
    return _mapped(path)
  except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f'{str(path)!r} is damaged or not a safetensors file ({error}).') from error


def _mapped(path: Path) -> dict[str, np.ndarray]:
  with safe_open(path, framework='np') as checked:  # its header fits its size
    keys = list(checked.keys())
    with path.open('rb') as file:
      size = int.from_bytes(file.read(8), 'little')
      header = json.loads(file.read(size))
    content, start = np.memmap(path, np.uint8, mode='r'), 8 + size
    found: dict[str, np.ndarray] = {}
    for key in keys:
      about = header[key]
      kind, shape = TYPES.get(about['dtype']), tuple(about['shape'])
      if kind is None:
        found[key] = checked.get_tensor(key)
        continue
      first, last = about['data_offsets']
      if last - first != math.prod(shape) * kind.itemsize:
        raise ValueError(f'{key} has {last - first} bytes and shape {shape}')
      found[key] = content[start + first : start + last].view(kind).reshape(shape)
  return found
