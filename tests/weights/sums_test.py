"""Checksums of arrays: any single bit counts, on the host as on the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.weights import sums

RNG = np.random.default_rng(0)
ARRAYS = {
  'f32': RNG.normal(size=(3, 5, 2)).astype(np.float32),
  'bf16': np.asarray(jnp.asarray(RNG.normal(size=(4, 3)), jnp.bfloat16)),
  'i32': np.int32(7),
  'bool': RNG.random(9) > 0.5,
  'empty': np.zeros((0, 3), np.float32),
}


def test_devices_and_host_agree():
  on_devices = sums._device_sums({k: jnp.asarray(v) for k, v in ARRAYS.items()})
  assert {k: int(v) for k, v in on_devices.items()} == sums.of(ARRAYS)


def test_any_bit_counts():
  whole = sums.of({'a': ARRAYS['f32']})
  for at in RNG.integers(0, ARRAYS['f32'].nbytes * 8, 100):
    data = bytearray(ARRAYS['f32'].tobytes())
    data[at // 8] ^= 1 << at % 8
    assert sums.of({'a': np.frombuffer(data, np.float32).reshape(3, 5, 2)}) != whole
  # Order counts, too.
  assert sums.of({'a': ARRAYS['f32'][::-1]}) != whole


def test_a_part_is_checked_and_older_checkpoints_are_not():
  saved = sums.of({'params': ARRAYS, 'key': jax.random.key(3)}, {'next_index': 4})
  sums.check(saved, {'params': ARRAYS}, {'next_index': 4})
  sums.check(None, {'params': ARRAYS})
  with pytest.raises(InputError, match=r'does not match in params/i32'):
    sums.check(saved, {'params': {**ARRAYS, 'i32': np.int32(8)}})
  with pytest.raises(InputError, match='does not match in position'):
    sums.check(saved, {}, {'next_index': 5})
