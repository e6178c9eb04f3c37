"""Payloads that leave a marker where they are run."""

import os
import pickle
from pathlib import Path


class Payload:
  """Pickled, it is a call of `os.system` that makes a file."""

  def __init__(self, marker: Path):
    self.marker = marker

  def __reduce__(self):
    return os.system, (f'touch {self.marker}',)


class Trap:
  """A marker that must never appear."""

  def __init__(self, folder: Path):
    self.marker = folder / 'executed'

  @property
  def payload(self) -> Payload:
    return Payload(self.marker)

  def check_armed(self) -> None:
    """The payload does what it says where a pickle is trusted."""
    pickle.loads(pickle.dumps(self.payload))
    assert self.marker.exists()
    self.marker.unlink()

  def check_untouched(self) -> None:
    assert not self.marker.exists()
