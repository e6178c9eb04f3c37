"""Commands that run as child processes of another one, and end with it.

The parent starts a child with `environment()`; the child calls `die_together()` first. A function
that `subprocess.Popen` runs between fork and exec could do this too, but it would have to fork a
process with threads, which may hang.
"""

import ctypes
import os
import signal
import sys
import threading
import time

PARENT = 'OIDO_PARENT'
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def environment() -> dict[str, str]:
  """The environment of a child that is to end with this process."""
  return {**os.environ, PARENT: str(os.getpid())}


def die_together() -> None:
  """Kills this process when its parent is killed, if the parent asked for it: an orphan would
  conflict with a restart."""
  # Its own children are not meant.
  parent = os.environ.pop(PARENT, None)
  if parent is None:
    return
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
  else:
    threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()
  # It may have been killed meanwhile.
  if os.getppid() != int(parent):
    os.kill(os.getpid(), signal.SIGKILL)


def _watch(parent: int, seconds: float = 1.0) -> None:
  while os.getppid() == parent:
    time.sleep(seconds)
  os.kill(os.getpid(), signal.SIGKILL)
