"""The built-in corpora."""

import importlib.resources

from research.audio.clips import Source
from research.audio.folder import folder


def builtin() -> Source:
  """Synthetic speech and sound events shipped with the package; see builtin/generate.py."""
  return _packaged('builtin')


def builtin_sequences() -> Source:
  """Clips of one second whose classes show in the order of their parts; see
  builtin_sequences/generate.py."""
  return _packaged('builtin_sequences')


def _packaged(name: str) -> Source:
  with importlib.resources.as_file(importlib.resources.files(f'research.audio.{name}')) as path:
    return folder(str(path), manifest='labels.csv', name=name)
