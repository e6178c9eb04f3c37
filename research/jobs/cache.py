"""Where results that can be computed again are kept."""

import os
import pathlib


def cache_folder() -> pathlib.Path:
  """Where results that can be computed again are kept: $OIDO_CACHE, else ~/.cache/oido."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
  return pathlib.Path(os.environ.get('OIDO_CACHE') or os.path.join(home, 'oido'))
