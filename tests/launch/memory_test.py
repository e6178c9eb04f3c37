"""On the CPU, freed memory stays in the process."""

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
# The sines take 64 MB of temporary memory, for a product of matrices reads them from there.
step = jax.jit(lambda x: jnp.sin(x) @ x[0])
x = jnp.ones((16_000, 1_000))
# The heap settles after a few calls, but small arrays may disturb it: take the best call.
faults = []
for _ in range(12):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  step(x).block_until_ready()
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='the setting is glibc malloc only')
def test_a_step_does_not_page_fault_its_memory_in_again():
  def faults(how: str) -> int:
    command = [sys.executable, '-c', FAULTS, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

  assert faults('keep') < faults('leave') / 4


def test_malloc_is_not_configured_with_an_accelerator(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda,cpu')
  assert not memory.keep_freed_memory()
