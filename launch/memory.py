"""Keeps freed memory in the process, so that CPU steps do not page-fault it in again."""

import ctypes
import importlib.util
import os
import platform

# <malloc.h>
M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1


def keep_freed_memory() -> bool:
  """Configures glibc's malloc to keep freed memory; returns whether it did.

  XLA allocates the temporary buffers of a program for every call. By default glibc maps and unmaps
  them each time, and the kernel zeroes every page again: a tenth of an AudioMAE-B step on a CPU, a
  seventh of a step of experiments/audio_mae/laptop.py. Call it before JAX starts its threads, which
  would get their own arenas. It does nothing if JAX has an accelerator, whose memory is not
  managed by malloc.
  """
  if platform.libc_ver()[0] != 'glibc' or not _cpu_only():
    return False
  libc = ctypes.CDLL(None)
  # One heap that never shrinks, and no mappings (other arenas would fall back on mappings).
  settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
  return all(libc.mallopt(name, value) for name, value in settings.items())


def _cpu_only() -> bool:
  """Whether JAX will only find CPUs; asking JAX itself would start its threads."""
  chosen = os.environ.get('JAX_PLATFORMS', '')
  if chosen:
    return chosen == 'cpu'
  return not any(importlib.util.find_spec(name) for name in ('jax_plugins', 'libtpu'))
