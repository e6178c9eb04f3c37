"""Several processes train in one workdir of an object store."""

import signal
import time

import pytest

from research.audio import prepare
from research.audio.sources import open_source
from research.jobs import leases, paths
from research.train.writer import read_metrics
from tests import stores
from tests.multiprocess import group

ARGS = (
  '--config.total_steps=12',
  '--config.checkpoint.every=4',
  '--config.mesh.data=1',
  '--config.mesh.fsdp=2',
)


@pytest.fixture(params=['gs'])
def store(request, tmp_path):
  with stores.running(request.param, tmp_path) as server:
    yield server


def losses(workdir):
  return [(r['step'], r['loss']) for r in read_metrics(workdir / 'metrics.jsonl') if 'loss' in r]


@pytest.mark.slow
def test_two_processes_are_killed_and_go_on(store, tmp_path):
  """The data, too, is in the store."""
  shards = tmp_path / 'shards'
  prepare.prepare(open_source('builtin'), shards, count=2, settings=prepare.Settings(num_workers=1))
  data = paths.path(f'{store.root}/data')
  for file in shards.iterdir():
    if file.is_file() and not file.name.startswith('.'):
      paths.upload(file, data / file.name)
  local, home = tmp_path / 'local', paths.path(f'{store.root}/runs/two')
  here = group.train(local, *ARGS, f'--config.data.source={shards}').wait()
  assert [p.code for p in here] == [0, 0], here[0].err[-2000:]
  started = group.Group(
    tmp_path / 'logs', 'launch.train', f'--config={group.CONFIG}', f'--workdir={home}', *ARGS,
    f'--config.data.source={data}',
  )  # fmt: skip
  end = time.time() + 200
  while time.time() < end and '4' not in paths.names(home / 'checkpoints'):
    time.sleep(0.05)
  started.signal(signal.SIGKILL, 0)
  assert [p.code for p in started.wait()] == [-signal.SIGKILL, 4]
  again = group.Group(
    tmp_path / 'logs2', 'launch.train', f'--config={group.CONFIG}', f'--workdir={home}', *ARGS,
    f'--config.data.source={data}',
  ).wait()  # fmt: skip
  assert [p.code for p in again] == [0, 0], again[0].err[-2000:]
  assert losses(home) == losses(local) and len(losses(home)) >= 3
  assert 'report.html' in paths.names(home) and not paths.names(home / leases.FOLDER)
