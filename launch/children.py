"""Commands that run as child processes of another one."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_together() -> None:
  """Kills this child when its parent is killed; a restart would conflict with it otherwise.

  For `preexec_fn` of subprocess.Popen.
  """
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
