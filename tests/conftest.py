"""Strict settings for every test: eight host devices, strict dtype promotion, exact matrix
products."""

import os
import tempfile

# Before jax is imported: a mesh of eight devices on any machine, no accelerator, no network.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# XLA sizes its thread pool by this. In a collective every device holds a thread: with only as many
# threads as a laptop has cores, they deadlock.
os.environ.setdefault('NPROC', '32')
# Eight devices on few cores take turns: a long wait in a collective is not a deadlock.
os.environ['XLA_FLAGS'] = ' '.join(
  (
    # Compiling costs more here than running: light optimisation saves a quarter of the CPU time.
    '--xla_backend_optimization_level=1',
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    '--xla_cpu_collective_call_warn_stuck_timeout_seconds=120',
    '--xla_cpu_collective_call_terminate_timeout_seconds=600',
  )
)
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')

import gc
import pathlib
import re
import time

import jax
import pytest
from absl import flags

CACHE = os.path.join(tempfile.gettempdir(), f'oido-test-cache-{os.getuid()}')
os.makedirs(CACHE, mode=0o700, exist_ok=True)
# It holds compiled programs, which are run: not those of someone else who made the folder first.
if os.stat(CACHE).st_uid != os.getuid():
  CACHE = tempfile.mkdtemp(prefix='oido-test-cache-')

# One program at a time: two programs with collectives can deadlock.
jax.config.update('jax_cpu_enable_async_dispatch', False)
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_default_matmul_precision', 'highest')
jax.config.update('jax_compilation_cache_dir', CACHE)
# Small programs too: there are thousands of them, and most are the same in every module.
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)

# grain's worker processes read absl flags, which pytest does not parse.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


# Every compiled program uses memory maps, which Linux limits to 65,530 per process: a thousand
# tests in one process used half of them, and 6 GB.
MAPS, MAX_MAPS = pathlib.Path('/proc/self/maps'), 15_000


@pytest.fixture(scope='module', autouse=True)
def _few_programs():
  yield
  if MAPS.exists() and MAPS.read_bytes().count(b'\n') > MAX_MAPS:
    jax.clear_caches()
    gc.collect()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """Tests of one file run in one process, for they share fixtures and compiled programs; those of
  the contract and of the experiments by model, for these are the longest files. By names alone:
  pytest-xdist's own groups (`loadgroup`) do not reach its scheduler under pytest 9.2."""
  if config.getvalue('dist') != 'loadscope':
    return None
  from xdist.scheduler import LoadScopeScheduling

  class ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid):
      file, _, test = nodeid.partition('::')
      if file.endswith(('contract_test.py', 'experiments_test.py')) and '[' in test:
        return f'{file} {re.split("[-/]", test[test.index("[") + 1 : -1])[0]}'
      return file

  return ByFile(config, log)


# Minutes after which no slow test and none beside torch begins, so that a slow machine ends in
# time: TEST_MINUTES=40. All processes of a run have one start. Other tests always run.
MINUTES = float(os.environ.get('TEST_MINUTES') or 'inf')
START = float(os.environ.setdefault('OIDO_TESTS_START', str(time.time())))
LATE = f'later than the TEST_MINUTES={MINUTES:g} of this run'


def pytest_runtest_setup(item):
  long = item.get_closest_marker('slow') or item.get_closest_marker('peer')
  if long and time.time() - START > 60 * MINUTES:
    pytest.skip(LATE)


def pytest_terminal_summary(terminalreporter):
  late = [r for r in terminalreporter.stats.get('skipped', ()) if LATE in str(r.longrepr)]
  if late:
    terminalreporter.write_line(f'NOT RUN: {len(late)} tests, after TEST_MINUTES={MINUTES:g}.')
