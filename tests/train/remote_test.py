"""Runs whose workdir is in an object store."""

import concurrent.futures
import signal
import threading
import time

import pytest

from research.errors import InputError
from research.jobs import leases, mirror, paths
from research.train import checkpoint, writer
from research.train import workdir as workdirs
from research.train.writer import read_metrics
from tests import stores
from tests.launch import runner
from tests.launch.resume_test import ARGS, STEPS, assert_same_bits
from tests.train.checkpoint_test import equal, state_of, target_of


@pytest.fixture(params=['gs', pytest.param('s3', marks=pytest.mark.slow)])
def store(request, tmp_path):
  with stores.running(request.param, tmp_path) as server:
    yield server


def start(home, *args):
  return runner.start('launch.train', f'--config={runner.DEBUG}', f'--workdir={home}', *ARGS, *args)


def finished(home, *args):
  process = start(home, *args)
  out, err = process.communicate(timeout=280)
  return process.returncode, out, err


def download(home, folder):
  """A remote folder as a local one."""
  paths.store(home).get(f'{home}/', f'{folder}/', recursive=True)
  return folder


def wait_for_checkpoint(home, process, seconds=200):
  end = time.time() + seconds
  while time.time() < end and process.poll() is None:
    if any(name.isdecimal() for name in paths.names(home / 'checkpoints')):
      return
    time.sleep(0.05)


def losses(workdir):
  return [(r['step'], r['loss']) for r in read_metrics(workdir / 'metrics.jsonl') if 'loss' in r]


# One store each: they take minutes, and what differs between stores is tested above and below.
@pytest.mark.slow
@pytest.mark.parametrize('store', ['gs'], indirect=True)
def test_a_killed_run_ends_in_the_bits_of_a_local_one(store, tmp_path):
  local = tmp_path / 'local'
  assert runner.train(local, *ARGS).returncode == 0
  home = paths.path(f'{store.root}/runs/one')
  # Requests fail again and again, from the first to the last of both starts. The clients wait
  # longer after each, and the emulator of gs:// answers one at a time.
  each = {'gs': 41, 's3': 11}[store.scheme]
  store.failing = lambda method, path, number: 503 if number % each == 0 else None
  process = start(home)
  wait_for_checkpoint(home, process)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert paths.names(home / leases.FOLDER), 'a killed run gives nothing back'
  code, out, err = finished(home)
  store.failing = None
  assert code == 0, err[-3000:]
  assert f'report: {home}/report.html' in out
  assert {'config.json', 'metrics.jsonl', 'report.html', 'tensorboard'} <= set(paths.names(home))
  assert not paths.names(home / leases.FOLDER)
  copy = download(home, tmp_path / 'copy')
  assert_same_bits(local, copy)
  assert losses(copy) == losses(local) and len(losses(copy)) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize('store', ['s3'], indirect=True)
def test_a_damaged_checkpoint_is_set_aside(store, tmp_path):
  home = paths.path(f'{store.root}/runs/damaged')
  code, _, err = finished(home)
  assert code == 0, err[-3000:]
  steps = sorted(int(n) for n in paths.names(home / 'checkpoints') if n.isdecimal())
  assert steps == [6, 9]
  before = download(home, tmp_path / 'before')
  paths.remove(home / 'checkpoints' / '9' / 'state' / 'd')
  paths.remove(home / 'checkpoints' / '9' / 'state' / 'manifest.ocdbt')
  code, out, err = finished(home)
  assert code == 0, err[-3000:]
  assert 'checkpoint 9 cannot be read; moved to' in out and 'resumes from step 6' in out
  assert '9' in paths.names(home / 'unreadable')
  assert_same_bits(before, download(home, tmp_path / 'after'))


def test_a_second_run_is_refused_and_named(store, monkeypatch):
  monkeypatch.setattr(leases, 'STALE', 2.0)
  monkeypatch.setattr(leases, 'EVERY', 0.2)
  home = paths.path(f'{store.root}/run')
  first = leases.Lease(home)
  monkeypatch.setattr(leases, '_machine', lambda: 'another')
  with pytest.raises(InputError, match=r'run is in use by process \d+ on'):
    workdirs.make_workdir(str(home), {})
  assert paths.names(home) == [leases.FOLDER]
  first.release()
  assert not paths.names(home / leases.FOLDER)


def test_a_stale_lease_is_taken_over_and_its_owner_notices(store, monkeypatch):
  monkeypatch.setattr(leases, 'STALE', 1.0)
  monkeypatch.setattr(leases, 'EVERY', 0.1)
  home = paths.path(f'{store.root}/run')
  first = leases.Lease(home)
  first._end.set()  # as a run that hangs, or whose network is gone
  first._thread.join()
  monkeypatch.setattr(leases, '_machine', lambda: 'another')
  second = leases.Lease(home)
  assert len(paths.names(home / leases.FOLDER)) == 1
  first._end.clear()
  first._refresh()
  assert 'taken over by another run' in first.lost
  second.release()


def test_of_several_that_take_over_at_once_one_has_it(store, monkeypatch):
  monkeypatch.setattr(leases, 'STALE', 1.0)
  monkeypatch.setattr(leases, 'EVERY', 0.1)
  home = paths.path(f'{store.root}/run')
  first = leases.Lease(home)
  first._end.set()
  first._thread.join()
  monkeypatch.setattr(leases, '_machine', lambda: 'another')
  ready = threading.Barrier(4)

  def take(_):
    ready.wait()
    try:
      return leases.Lease(home)
    except InputError as error:
      return error

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(take, range(4)))
  has = [each for each in found if isinstance(each, leases.Lease)]
  assert len(has) == 1
  others = [str(each) for each in found if each is not has[0]]
  assert all('is in use by' in each for each in others), others
  assert len(paths.names(home / leases.FOLDER)) == 1
  has[0].release()
  assert not paths.names(home / leases.FOLDER)


def test_a_missing_bucket_and_no_permission_are_one_sentence(store):
  with pytest.raises(InputError, match='no-such-bucket/run cannot be written to: there is no such'):
    workdirs.make_workdir(f'{store.scheme}://no-such-bucket/run', {})
  store.failing = lambda method, path, number: 403
  with pytest.raises(InputError, match='cannot be written to: the store refuses it'):
    workdirs.make_workdir(f'{store.root}/run', {})


def test_a_store_in_trouble_is_no_damaged_checkpoint(store, tmp_path):
  state = state_of()
  home = paths.path(f'{store.root}/run')
  saver = checkpoint.Checkpointer(home / 'checkpoints')
  for step in (1, 2):
    saver.save(step, state, {'next_index': step})
  saver.close()
  reader = checkpoint.Checkpointer(home / 'checkpoints')
  store.failing = lambda method, path, number: 403 if 'state' in path else None
  with pytest.raises(InputError, match=r'checkpoints cannot be read: .*start the same'):
    reader.restore_newest(target_of(state))
  store.failing = None
  assert paths.names(home) == ['checkpoints']
  restored, position = reader.restore_newest(target_of(state))
  assert position == {'next_index': 2}
  equal(restored, state)
  # Damage is one.
  for name in ('d', 'manifest.ocdbt', 'ocdbt.process_0'):
    paths.remove(home / 'checkpoints' / '2' / 'state' / name)
  _, position = reader.restore_newest(target_of(state))
  assert position == {'next_index': 1} and paths.names(home / 'unreadable') == ['2']
  reader.close()


def test_what_a_killed_save_left_is_removed(store):
  home = paths.path(f'{store.root}/run') / 'checkpoints'
  for folders in ((), ('3',), ('3', '4')):
    for folder in folders:
      paths.write_bytes(home / folder / 'state' / 'd' / 'x', b'{}')
      paths.write_bytes(home / folder / '_CHECKPOINT_METADATA', b'{}')
    # One request after the other fails once.
    count = store.requests
    at = count + 1 + len(folders)
    store.failing = lambda method, path, number, at=at: 503 * (number == at)
    saver = checkpoint.Checkpointer(home)
    assert paths.names(home) == [] and saver.steps() == []
    saver.close()
  store.failing = None
  saver = checkpoint.Checkpointer(home)
  saver.save(3, state_of(), {'next_index': 3})
  saver.close()
  paths.write_bytes(home / '4' / 'state' / 'd' / 'x', b'{}')
  reader = checkpoint.Checkpointer(home)
  assert paths.names(home) == ['3'] and reader.steps() == [3]
  equal(reader.restore_newest(target_of(state_of()))[0], state_of())
  reader.close()


def test_a_long_metrics_file_is_divided(tmp_path, monkeypatch):
  monkeypatch.setattr(writer, 'PART_BYTES', 200)
  monkeypatch.setattr(writer, 'EVENT_BYTES', 300)
  one = writer.Writer(tmp_path, parts=True)
  for step in range(1, 31):
    one.scalars(step, {'loss': 1 / step})
    one.flush()
  one.close()
  assert len(list(tmp_path.glob('metrics-0000?.jsonl'))) >= 3
  assert len(list((tmp_path / 'tensorboard').iterdir())) >= 3
  assert [r['step'] for r in read_metrics(tmp_path / 'metrics.jsonl')] == list(range(1, 31))
  # A resumed run removes what came later than its checkpoint, and goes on.
  two = writer.Writer(tmp_path, 20, parts=True)
  two.scalars(21, {'loss': 0.5})
  two.close()
  rows = read_metrics(tmp_path / 'metrics.jsonl')
  assert [r['step'] for r in rows] == list(range(1, 22)) and rows[-1]['loss'] == 0.5


def test_only_what_has_changed_is_copied(store):
  home = paths.path(f'{store.root}/run')
  paths.write_bytes(home / 'kept.txt', b'kept')
  paths.write_bytes(home / 'gone.jsonl', b'gone')
  one = mirror.Mirror(home, ('*.jsonl',), every=None)
  (one.folder / 'gone.jsonl').unlink()
  (one.folder / 'deep').mkdir()
  (one.folder / 'deep' / 'a.txt').write_text('a')
  (one.folder / 'b.partial').write_text('no')
  one.push()
  assert paths.names(home) == ['deep', 'kept.txt'] and paths.names(home / 'deep') == ['a.txt']
  asked = store.requests
  one.push()
  assert store.requests == asked
  (one.folder / 'deep' / 'a.txt').write_text('more')
  one.close()
  assert paths.read_bytes(home / 'deep' / 'a.txt') == b'more' and not one.folder.exists()


@pytest.mark.parametrize(
  'given, why', [('gs://', 'names no bucket'), ('ftp://host/run', 'gs:// or s3://')]
)
def test_other_addresses(given, why):
  with pytest.raises(InputError, match=why):
    paths.path(given, 'workdir')


def test_the_extra_is_named_where_a_client_is_missing(monkeypatch):
  monkeypatch.setattr(paths.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
    InputError, match=r"gcsfs, which is not installed: pip install -e '\.\[remote"
  ):
    paths.path('gs://bucket/run')
