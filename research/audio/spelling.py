"""Paths of lists that are on disk under another spelling: `\\` for `/`, blanks, Unicode forms."""

import os
import unicodedata


class Spelling:
  """Finds paths below a folder as they are on disk; folders are listed once."""

  def __init__(self, root: str | os.PathLike):
    self._root = os.fspath(root)
    self._names: dict[str, dict[str, str]] = {}

  def __call__(self, path: str) -> str:
    """The path as it is on disk, or unchanged if there is none like it.

    Only paths with a backslash, blanks at an end or characters beyond ASCII are looked for.
    """
    plain = path.isascii() and '\\' not in path and path == path.strip()
    if plain or '\0' in path or os.path.lexists(os.path.join(self._root, path)):
      return path
    for spelt in (path.strip(), path.replace('\\', '/'), path.strip().replace('\\', '/')):
      found = self._normal(spelt)
      if found is not None:
        return found
    return path

  def _normal(self, path: str) -> str | None:
    """The path with every part in the Unicode form that it has on disk; None if it is not there."""
    here, parts = self._root, []
    if os.path.isabs(path):
      here, parts = os.sep, ['']
    for part in path.split('/'):
      if part in ('', '.'):
        continue
      if not os.path.lexists(os.path.join(here, part)):
        match = self._listing(here).get(_nfc(part))
        if match is None:
          return None
        part = match
      parts.append(part)
      here = os.path.join(here, part)
    return '/'.join(parts)

  def _listing(self, folder: str) -> dict[str, str]:
    """{name in NFC: name} of what is in a folder."""
    if folder not in self._names:
      try:
        self._names[folder] = {_nfc(name): name for name in os.listdir(folder)}
      except OSError:
        self._names[folder] = {}
    return self._names[folder]


def _nfc(name: str) -> str:
  return unicodedata.normalize('NFC', name)
