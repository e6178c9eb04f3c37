"""Strict settings for every test: eight host devices, strict dtype promotion, exact matrix products."""

import os
import tempfile

# Before jax is imported: a mesh of eight devices on any machine, no accelerator, no network.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')

import jax
from absl import flags

CACHE = os.path.join(tempfile.gettempdir(), f'oido-test-cache-{os.getuid()}')

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_default_matmul_precision', 'highest')
jax.config.update('jax_compilation_cache_dir', CACHE)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)

# grain's worker processes read absl flags, which nobody parses under pytest.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()
