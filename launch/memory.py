"""Keeps freed memory in the process: a step on a CPU need not ask the kernel for it again."""

import ctypes
import platform

# <malloc.h>
M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1


def keep_freed_memory() -> bool:
  """Tells glibc's malloc to keep what is freed; returns whether it is there to be told.

  XLA allocates the temporary memory of a program anew for every call. By default glibc maps and
  unmaps that much memory each time, and the kernel clears every page of it again: a tenth of an
  AudioMAE-B step on a CPU. To be called first, before other threads have arenas of their own.
  """
  if platform.libc_ver()[0] != 'glibc':
    return False
  libc = ctypes.CDLL(None)
  # One heap that never shrinks, and no mappings beside it (other arenas fall back on mappings).
  settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
  return all(libc.mallopt(name, value) for name, value in settings.items())
