"""Freed memory stays in the process where JAX computes on the CPU."""

import platform
import subprocess
import sys

import pytest

from launch import memory

FAULTS = """
import os, resource, sys
os.environ['JAX_PLATFORMS'] = 'cpu'
from launch import memory
if sys.argv[1] == 'keep':
  assert memory.keep_freed_memory()
import jax, jax.numpy as jnp
# The sines are in memory of the program's own, 64 MB of it, while it sorts them.
step = jax.jit(lambda x: jnp.sort(jnp.sin(x), axis=0)[::-1].sum())
x = jnp.ones((16_000, 1_000))
# The heap settles after a few calls, and small arrays may unsettle it: the best call counts.
faults = []
for _ in range(12):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  step(x).block_until_ready()
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='the setting is glibc malloc only')
def test_a_step_does_not_ask_the_kernel_for_its_memory_again():
  def faults(how: str) -> int:
    command = [sys.executable, '-c', FAULTS, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

  assert faults('keep') < faults('leave') / 4


def test_memory_is_left_alone_beside_an_accelerator(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda,cpu')
  assert not memory.keep_freed_memory()
