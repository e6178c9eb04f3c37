"""Checkpoints: round trip, another mesh, damage, best and newest, a full disk."""

import errno
import json
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from research.audio import trouble
from research.errors import InputError
from research.train import loop, sharding
from research.train.checkpoint import Checkpointer
from research.train.optim import promoting
from research.train.state import State, init_state
from research.weights.read import read_checkpoint, read_run
from tests.experiments_test import ROOT, load
from tests.train.toy import Toy, batch_of


def state_of(seed=0, width=16):
  return init_state(Toy(width=width), promoting(optax.adam(0.1)), batch_of(), seed, True)


def target_of(state, mesh_shape=(1, 1, 8)):
  mesh = sharding.make_mesh(dict(zip(sharding.AXES, mesh_shape)))
  layout = sharding.shardings(state, mesh)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, layout
  )


def equal(a, b):
  def raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(raw(x)), np.asarray(raw(y)))


def test_round_trip_on_another_mesh(tmp_path):
  state = state_of()
  on_mesh = jax.device_put(
    state, sharding.shardings(state, sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)))
  )
  saver = Checkpointer(tmp_path / 'checkpoints')
  saver.save(3, on_mesh, {'next_index': 7})
  saver.close()
  reader = Checkpointer(tmp_path / 'checkpoints')
  restored, position = reader.restore_newest(target_of(state))
  assert position == {'next_index': 7}
  assert isinstance(restored, State)
  equal(restored, state)
  kernel = restored.params['fc1']['kernel']
  assert kernel.sharding.mesh.shape['tensor'] == 8
  reader.close()


def damage(folder, how):
  if how == 'truncated':
    files = sorted((p for p in folder.rglob('*') if p.is_file()), key=lambda p: -p.stat().st_size)
    for file in files[:3]:
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  elif how == 'no position':
    shutil.rmtree(folder / 'data')
  elif how == 'no arrays':
    shutil.rmtree(folder / 'state')


@pytest.mark.parametrize('how', ['truncated', 'no position', 'no arrays'])
def test_a_damaged_newest_checkpoint_falls_back(tmp_path, capsys, how):
  saver = Checkpointer(tmp_path / 'checkpoints')
  saver.save(1, state_of(1), {'next_index': 1})
  saver.wait()
  saver.save(2, state_of(2), {'next_index': 2})
  saver.close()
  damage(tmp_path / 'checkpoints' / '2', how)
  reader = Checkpointer(tmp_path / 'checkpoints')
  restored, position = reader.restore_newest(target_of(state_of()))
  assert position == {'next_index': 1}
  equal(restored, state_of(1))
  assert 'checkpoint 2 cannot be read' in capsys.readouterr().out
  # Moved aside, not deleted, and its step can be saved again.
  assert (tmp_path / 'unreadable' / '2').is_dir()
  reader.save(2, state_of(2), {'next_index': 2})
  reader.close()
  assert Checkpointer(tmp_path / 'checkpoints').steps() == [1, 2]


def flip(file, at=-1):
  data = bytearray(file.read_bytes())
  data[at if at >= 0 else len(data) // 2] ^= 16
  file.write_bytes(data)


@pytest.mark.parametrize('what', ['arrays', 'position'])
def test_a_flipped_bit_falls_back(tmp_path, capsys, what):
  """The files of arrays have no checksums of their own: they are read without an error."""
  saver = Checkpointer(tmp_path / 'checkpoints')
  for step in (1, 2):
    saver.save(step, state_of(step, width=512), {'next_index': step})
  saver.close()
  folder = tmp_path / 'checkpoints' / '2'
  if what == 'position':
    text = (folder / 'data' / 'metadata').read_text()
    (folder / 'data' / 'metadata').write_text(text.replace('"next_index": 2', '"next_index": 3'))
  else:
    files = [p for p in folder.glob('state/ocdbt.process_0/d/*') if p.is_file()]
    for file in files:
      for at in range(file.stat().st_size // 3, file.stat().st_size, 97):
        flip(file, at)
  reader = Checkpointer(tmp_path / 'checkpoints')
  assert reader.restore_newest(target_of(state_of(width=512)))[1] == {'next_index': 1}
  assert 'checkpoint 2 cannot be read' in capsys.readouterr().out
  assert (tmp_path / 'unreadable' / '2').is_dir()


def test_weights_with_a_flipped_bit_are_refused(tmp_path):
  saver = Checkpointer(tmp_path / 'checkpoints')
  saver.save(1, state_of(1), {'next_index': 1})
  saver.close()
  folder = tmp_path / 'checkpoints' / '1'
  assert read_checkpoint(folder, teacher=False)['params']
  metadata = folder / 'data' / 'metadata'
  found = json.loads(metadata.read_text())
  found['sums'] = {k: v ^ 1 for k, v in found['sums'].items()}
  metadata.write_text(json.dumps(found))
  with pytest.raises(InputError, match='checksum does not match'):
    read_checkpoint(folder, teacher=False)
  # Checkpoints of older versions have no sums.
  metadata.write_text(json.dumps({'position': found['position']}))
  assert read_checkpoint(folder, teacher=False)['params']
  restored = Checkpointer(tmp_path / 'checkpoints').restore_newest(target_of(state_of()))
  assert restored[1] == {'next_index': 1}


def test_a_checkpoint_that_the_machine_cannot_read_stays(tmp_path, monkeypatch):
  monkeypatch.setattr(trouble, 'WAITS', (0.0, 0.0))
  saver = Checkpointer(tmp_path / 'checkpoints')
  saver.save(1, state_of(1), {'next_index': 1})
  saver.close()
  reads, restore = [], ocp.StandardCheckpointHandler.restore

  def failing(self, *args, **kwargs):
    reads.append(1)
    if len(reads) <= times:
      raise OSError(errno.EIO, 'Input/output error')
    return restore(self, *args, **kwargs)

  monkeypatch.setattr(ocp.StandardCheckpointHandler, 'restore', failing)
  times = 9
  with pytest.raises(InputError, match='after 3 attempts: Input/output error'):
    Checkpointer(tmp_path / 'checkpoints').restore_newest(target_of(state_of()))
  assert not (tmp_path / 'unreadable').exists()
  reads.clear()
  times = 2
  reader = Checkpointer(tmp_path / 'checkpoints')
  assert reader.restore_newest(target_of(state_of()))[1] == {'next_index': 1}
  assert reader.steps() == [1]


def test_nothing_readable_is_an_error_and_nothing_is_lost(tmp_path):
  saver = Checkpointer(tmp_path / 'checkpoints')
  saver.save(1, state_of(1), None)
  saver.close()
  damage(tmp_path / 'checkpoints' / '1', 'no arrays')
  with pytest.raises(InputError, match='None of the checkpoints'):
    Checkpointer(tmp_path / 'checkpoints').restore_newest(target_of(state_of()))
  assert (tmp_path / 'unreadable' / '1').is_dir()
  # The same command, started again, does not train from scratch.
  with pytest.raises(InputError, match='unreadable holds unreadable ones'):
    Checkpointer(tmp_path / 'checkpoints').restore_newest(target_of(state_of()))
  shutil.rmtree(tmp_path / 'unreadable')
  assert Checkpointer(tmp_path / 'checkpoints').restore_newest(target_of(state_of())) is None


def test_another_model_is_refused_and_the_checkpoint_stays(tmp_path):
  saver = Checkpointer(tmp_path / 'checkpoints')
  saver.save(1, state_of(1, width=16), None)
  saver.close()
  reader = Checkpointer(tmp_path / 'checkpoints')
  with pytest.raises(InputError, match='does not match this configuration'):
    reader.restore_newest(target_of(state_of(width=8)))
  assert reader.steps() == [1]


def test_newest_and_best_are_kept(tmp_path):
  saver = Checkpointer(tmp_path / 'checkpoints', keep=2, best='valid/loss')
  for step, loss in enumerate([3.0, 1.0, 2.0, 4.0, 5.0], start=1):
    saver.save(step, state_of(step), {'next_index': step}, {'valid/loss': loss})
    saver.wait()
  saver.close()
  assert Checkpointer(tmp_path / 'checkpoints').steps() == [2, 4, 5]


def test_a_resumed_run_keeps_its_best_checkpoint(tmp_path):
  # Step 3 was saved between two evaluations, step 5 diverged: neither is better than step 2.
  losses = [3.0, 1.0, None, 2.0, float('nan'), 4.0]
  for step, loss in enumerate(losses, start=1):
    saver = Checkpointer(tmp_path / 'checkpoints', keep=1, best='valid/loss')
    found = None if loss is None else {'valid/loss': loss, 'valid/accuracy': 0.5}
    saver.save(step, state_of(step), {'next_index': step}, found)
    saver.close()
    assert saver.steps() == ([1], [2], [2, 3], [2, 4], [2, 5], [2, 6])[step - 1]


def test_unreadable_metrics_are_ignored(tmp_path):
  for step in (1, 2):
    saver = Checkpointer(tmp_path / 'checkpoints', keep=2, best='valid/loss')
    saver.save(step, state_of(step), {'next_index': step}, {'valid/loss': 1.0})
    saver.close()
  (tmp_path / 'checkpoints' / '2' / 'metrics' / 'metrics').write_text('')
  reader = Checkpointer(tmp_path / 'checkpoints', keep=2, best='valid/loss')
  assert reader.restore_newest(target_of(state_of()))[1] == {'next_index': 2}
  reader.close()


@pytest.mark.slow
def test_the_last_checkpoint_is_always_ranked(tmp_path):
  config = load(ROOT / 'experiments/audio_mae/builtin_tiny.py').get_config('debug')
  config.total_steps = 3
  for every in (2, None):
    config.evals = dict(
      valid=dict(name='validation', every=every, batches=1, data=dict(split='valid')),
      late=dict(name='validation', batches=1, data=dict(split='valid')),
    )
    config.checkpoint = dict(every=2, keep=4, best='valid/loss')
    run = tmp_path / f'run-{every}'
    result = loop.train(config, run, quiet=True)
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').open()]
    assert [row['step'] for row in lines if 'valid/loss' in row] == ([2, 3] if every else [3])
    assert [row['step'] for row in lines if 'late/loss' in row] == [3]
    scores = json.loads((run / 'checkpoints' / '3' / 'metrics' / 'metrics').read_text())
    assert scores['valid/loss'] == result.metrics['valid/loss']


@pytest.mark.slow
def test_a_checkpoint_between_evaluations_has_no_score(tmp_path):
  config = load(ROOT / 'experiments/audio_mae/builtin_tiny.py').get_config('debug')
  config.total_steps = 4
  config.evals = dict(valid=dict(name='validation', every=2, batches=1, data=dict(split='valid')))
  config.checkpoint = dict(every=1, keep=4, best='valid/loss')
  result = loop.train(config, tmp_path / 'run', quiet=True)
  lines = (json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').open())
  loss = {row['step']: row['valid/loss'] for row in lines if 'valid/loss' in row}
  scores = {}
  for step in range(1, 5):
    file = tmp_path / 'run' / 'checkpoints' / str(step) / 'metrics' / 'metrics'
    scores[step] = json.loads(file.read_text()).get('valid/loss') if file.exists() else None
  assert scores == {1: None, 2: loss[2], 3: None, 4: loss[4]}
  assert result.metrics['valid/loss'] == loss[4]
  best = min(loss, key=loss.get)
  assert read_run(tmp_path / 'run', teacher=False)[1].startswith(f'step {best} (best valid/loss, ')


def test_an_empty_folder_has_no_checkpoint(tmp_path):
  assert Checkpointer(tmp_path / 'checkpoints').restore_newest(target_of(state_of())) is None


FULL_DISK = """
import resource, signal, sys
import jax, jax.numpy as jnp
from research.errors import InputError
from research.train.checkpoint import Checkpointer
from research.train.state import State

def state(n):
  x = jax.random.normal(jax.random.key(0), (n,))
  return State(step=jnp.int32(1), params={'w': x}, opt_state={}, teacher=None, variables={},
  key=jax.random.key(0))

saver = Checkpointer(sys.argv[1])
saver.save(1, state(1000), {'next_index': 1})
saver.wait()
# Files may not grow beyond 200 kB from here on, which a writer sees as a full disk or quota.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
  saver.save(2, state(4_000_000), {'next_index': 2})
  saver.wait(2)
except InputError as error:
  print('ERROR:', error)
  sys.exit(7)
"""


def test_a_full_disk_is_reported_and_the_old_checkpoint_is_intact(tmp_path):
  folder = tmp_path / 'checkpoints'
  run = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(FULL_DISK), str(folder)],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert run.returncode == 7, run.stderr[-2000:]
  assert 'Could not write a checkpoint' in run.stdout
  assert 'the checkpoint of step 1 is intact' in run.stdout
  assert Checkpointer(folder).steps() == [1]
  metadata = json.loads((folder / '1' / '_CHECKPOINT_METADATA').read_text())
  assert metadata
