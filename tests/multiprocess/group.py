"""N real processes of one command on this machine, connected over loopback."""

import dataclasses
import json
import signal
import socket
import time
from pathlib import Path

from tests.launch import fork_server, runner

CONFIG = 'tests/multiprocess/tiny.py'


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


@dataclasses.dataclass
class Ended:
  """One process after its end: exit code, output, and seconds since the group's last signal."""

  code: int
  out: str
  err: str
  seconds: float

  @property
  def errors(self):
    """The sentences that a person sees."""
    return [line for line in self.err.splitlines() if line.startswith('error: ')]


class Group:
  """Starts `python -m module args` N times; `last` are arguments of the last process alone."""

  def __init__(self, folder, module, *args, count=2, devices=1, last=(), env=None):
    folder.mkdir(parents=True, exist_ok=True)
    self.since = time.monotonic()
    address = f'--coordinator=127.0.0.1:{free_port()}'
    self.files = [(folder / f'{i}.out', folder / f'{i}.err') for i in range(count)]
    self.processes = []
    for i, (out, err) in enumerate(self.files):
      own = (address, f'--num_processes={count}', f'--process_id={i}') if count > 1 else ()
      more = tuple(last) if i == count - 1 else ()
      self.processes.append(
        fork_server.start(
          module,
          (*args, *more, *own),
          {**runner.environment(devices), **(env or {})},
          runner.ROOT,
          out,
          err,
        )
      )

  def signal(self, number, *indices):
    """Sends a signal to these processes (none given: all)."""
    self.since = time.monotonic()
    for i in indices or range(len(self.processes)):
      self.processes[i].send_signal(number)

  def wait(self, timeout=240):
    """Every process, ended. What still runs after `timeout` seconds is killed: a failure."""
    ends = {}
    limit = time.monotonic() + timeout
    while len(ends) < len(self.processes) and time.monotonic() < limit:
      for i, process in enumerate(self.processes):
        if i not in ends and process.poll() is not None:
          ends[i] = time.monotonic() - self.since
      time.sleep(0.02)
    left = [i for i in range(len(self.processes)) if i not in ends]
    for process in self.processes:
      if process.poll() is None:
        process.kill()
        process.wait()
    texts = [(out.read_text(), err.read_text()) for out, err in self.files]
    assert not left, f'processes {left} still ran after {timeout} s\n{texts}'
    return [
      Ended(process.returncode, *texts[i], ends[i]) for i, process in enumerate(self.processes)
    ]


def train(workdir, *args, config=CONFIG, **kwargs):
  """A group that trains in `workdir`; output beside it."""
  logs = Path(f'{workdir}.logs{time.monotonic_ns()}')
  return Group(logs, 'launch.train', f'--config={config}', f'--workdir={workdir}', *args, **kwargs)


def rows(workdir):
  """Lines of metrics.jsonl so far."""
  file = workdir / 'metrics.jsonl'
  lines = file.read_text().splitlines() if file.exists() else []
  return [json.loads(line) for line in lines if line.endswith('}')]


def losses(workdir):
  return {row['step']: row['loss'] for row in rows(workdir) if 'loss' in row}


def wait_for_step(group, workdir, step, seconds=200):
  """Waits until that step is logged."""
  limit = time.monotonic() + seconds
  while time.monotonic() < limit:
    if any(row['step'] >= step for row in rows(workdir)):
      return
    if any(process.poll() is not None for process in group.processes):
      raise AssertionError(group.wait(60))
    time.sleep(0.05)
  raise AssertionError(f'step {step} was not reached in {seconds} s\n{group.wait(1)}')


def steps_saved(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').glob('[0-9]*') if p.name.isdigit())


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
