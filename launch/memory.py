"""Keeps freed memory in the process: a step on a CPU need not ask the kernel for it again."""

import ctypes
import importlib.util
import os
import platform

# <malloc.h>
M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1


def keep_freed_memory() -> bool:
  """Tells glibc's malloc to keep what is freed; returns whether it is there to be told.

  XLA allocates the temporary memory of a program anew for every call. By default glibc maps and
  unmaps that much memory each time, and the kernel clears every page of it again: a tenth of an
  AudioMAE-B step on a CPU, a seventh of one of experiments/audio_mae/laptop.py. To be called before
  JAX starts its threads, which would have arenas of their own. Does nothing where JAX has an
  accelerator: its memory is not malloc's.
  """
  if platform.libc_ver()[0] != 'glibc' or not _cpu_only():
    return False
  libc = ctypes.CDLL(None)
  # One heap that never shrinks, and no mappings beside it (other arenas fall back on mappings).
  settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
  return all(libc.mallopt(name, value) for name, value in settings.items())


def _cpu_only() -> bool:
  """Whether JAX will find nothing but CPUs; asking JAX itself would start its threads."""
  chosen = os.environ.get('JAX_PLATFORMS', '')
  if chosen:
    return chosen == 'cpu'
  return not any(importlib.util.find_spec(name) for name in ('jax_plugins', 'libtpu'))
