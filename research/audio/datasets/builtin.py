"""The built-in corpus."""

import importlib.resources

from research.audio.clips import Source
from research.audio.folder import folder


def builtin() -> Source:
  """Synthetic speech and sound events shipped with the package; see builtin/generate.py."""
  with importlib.resources.as_file(importlib.resources.files('research.audio.builtin')) as path:
    return folder(str(path), manifest='labels.csv', name='builtin')
