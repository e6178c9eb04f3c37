"""A run that is killed or stopped ends in the same bits as an uninterrupted one."""

import json
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.launch import runner

STEPS = 9
ARGS = (
  f'--config.total_steps={STEPS}',
  '--config.checkpoint.every=3',
  '--config.checkpoint.keep=2',
  '--config.evals={}',
)


def leaves(workdir, step=STEPS):
  """Every array of a checkpoint by path, and the input position."""
  folder = workdir / 'checkpoints' / str(step)
  # Keys as uint32 data, arrays on one device whatever mesh saved them.
  restored = ocp.StandardCheckpointer().restore((folder / 'state').absolute())
  flat = jax.tree_util.tree_flatten_with_path(restored)[0]
  arrays = {}
  for path, x in flat:
    if hasattr(x, 'dtype') and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    arrays[jax.tree_util.keystr(path)] = np.asarray(x)
  position = json.loads((folder / 'data' / 'metadata').read_text())
  return arrays, position


def assert_same_bits(a, b):
  (arrays_a, position_a), (arrays_b, position_b) = leaves(a), leaves(b)
  assert position_a == position_b
  assert arrays_a.keys() == arrays_b.keys() and len(arrays_a) > 20
  for name, x in arrays_a.items():
    assert x.dtype == arrays_b[name].dtype
    assert x.tobytes() == arrays_b[name].tobytes(), name


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run."""
  workdir = tmp_path_factory.mktemp('whole')
  done = runner.train(workdir, *ARGS)
  assert done.returncode == 0, done.stderr[-3000:]
  return workdir


def wait_for_step(workdir, step, process, seconds=200):
  """Waits until metrics.jsonl has a line of this step or a later one, or the process ended."""
  file = workdir / 'metrics.jsonl'
  end = time.time() + seconds
  while time.time() < end and process.poll() is None:
    lines = file.read_text().splitlines() if file.exists() else []
    try:
      if lines and json.loads(lines[-1])['step'] >= step:
        return
    except json.JSONDecodeError:
      pass
    time.sleep(0.01)


def interrupt(workdir, at_step, how):
  process = runner.start('launch.train', f'--config={runner.DEBUG}', f'--workdir={workdir}', *ARGS)
  wait_for_step(workdir, at_step, process)
  process.send_signal(how)
  out, err = process.communicate(timeout=200)
  return process.returncode, out, err


def test_killed_at_random_steps(whole, tmp_path):
  workdir = tmp_path / 'killed'
  steps = sorted(np.random.default_rng(int(time.time())).choice(STEPS - 1, 3, replace=False) + 1)
  for step in steps:
    interrupt(workdir, int(step), signal.SIGKILL)
  done = runner.train(workdir, *ARGS)
  assert done.returncode == 0, done.stderr[-3000:]
  assert_same_bits(whole, workdir)
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert [r['step'] for r in rows if 'loss' in r] == list(range(1, STEPS + 1))
  expected = [
    json.loads(line)['loss'] for line in (whole / 'metrics.jsonl').read_text().splitlines()
  ]
  assert [r['loss'] for r in rows if 'loss' in r] == expected


@pytest.mark.slow
def test_terminated_saves_and_exits_cleanly(whole, tmp_path):
  workdir = tmp_path / 'terminated'
  code, out, err = interrupt(workdir, 4, signal.SIGTERM)
  assert code == 0, err[-3000:]
  assert 'Stopped by a signal: step ' in out
  saved = int(out.split('Stopped by a signal: step ')[1].split()[0])
  assert (workdir / 'checkpoints' / str(saved)).is_dir() and saved < STEPS
  done = runner.train(workdir, *ARGS)
  assert f'resumes from step {saved}' in done.stdout
  assert_same_bits(whole, workdir)


@pytest.mark.slow
def test_the_memory_of_byol_a_is_resumed(tmp_path):
  """Memory bank, running statistics and the batch norms of both networks, bit for bit."""
  config = 'experiments/byol_a/laptop.py:debug'
  workdir, whole = tmp_path / 'run', tmp_path / 'whole'
  assert runner.train(workdir, *ARGS, config=config).returncode == 0
  # Remove the last checkpoint: the second process resumes from an intermediate one.
  (whole / 'checkpoints').mkdir(parents=True)
  (workdir / 'checkpoints' / '9').rename(whole / 'checkpoints' / '9')
  done = runner.train(workdir, *ARGS, config=config)
  assert done.returncode == 0 and 'resumes from step 6' in done.stdout, done.stderr[-3000:]
  assert_same_bits(whole, workdir)
  arrays = leaves(workdir)[0]
  bank, seen = (
    next(x for name, x in arrays.items() if f"['memory']['{key}']" in name)
    for key in ('bank', 'seen')
  )
  assert int(seen) == 8 * STEPS and (np.abs(bank).max(axis=(1, 2)) > 0).all()
  assert sum("['batch_stats']" in name for name in arrays) > 20


@pytest.mark.slow
def test_resumes_on_another_mesh(tmp_path):
  """Four devices save, two restore; the losses of all steps equal those of one device to
  rounding."""
  one, other = tmp_path / 'one', tmp_path / 'other'
  assert runner.train(one, *ARGS).returncode == 0
  first = runner.train(other, *ARGS, '--config.mesh.fsdp=2', '--config.mesh.tensor=2', devices=4)
  assert first.returncode == 0, first.stderr[-2000:]
  for step in (6, 9):
    assert (other / 'checkpoints' / str(step)).is_dir()
  # Remove the newest checkpoint: the run must resume from step 6, on another mesh.
  (other / 'checkpoints' / '9').rename(tmp_path / 'taken')
  again = runner.train(other, *ARGS, '--config.mesh.data=2', devices=2)
  assert again.returncode == 0, again.stderr[-2000:]
  assert 'resumes from step 6' in again.stdout
  a, b = leaves(one)[0], leaves(other)[0]
  for name, x in a.items():
    if 'params' in name:
      np.testing.assert_allclose(x, b[name], rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_two_processes_equal_one(whole, tmp_path):
  """jax.distributed over loopback: two processes of two devices, the same losses as one process."""
  import socket

  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = s.getsockname()[1]
  workdir = tmp_path / 'pair'
  args = (f'--config={runner.DEBUG}', f'--workdir={workdir}', *ARGS)
  pair = [
    runner.start(
      'launch.train', *args, f'--coordinator=127.0.0.1:{port}', '--num_processes=2',
      f'--process_id={i}', devices=2,
    )
    for i in range(2)
  ]  # fmt: skip
  for process in pair:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out[-2000:] + err[-3000:]

  def losses(folder):
    rows = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
    return [r['loss'] for r in rows if 'loss' in r]

  np.testing.assert_allclose(losses(workdir), losses(whole), rtol=1e-4)
