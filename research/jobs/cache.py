"""Where results that can be computed again are kept."""

import os
import pathlib

import platformdirs


def cache_folder() -> pathlib.Path:
  """Where results that can be computed again are kept: $OIDO_CACHE, else the user's cache folder
  of the operating system (Linux: ~/.cache/oido)."""
  return pathlib.Path(os.environ.get('OIDO_CACHE') or platformdirs.user_cache_dir('oido'))
