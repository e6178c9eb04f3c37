"""The feed: order, input position of each batch, errors; and the metrics files."""

import errno
import json
import time

import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.train.feed import Feed
from research.train.writer import Writer, read_metrics


def put(batch):
  return {k: jnp.asarray(x) for k, x in batch.items()}


class Counter:
  """An input whose state is the number of batches produced."""

  def __init__(self, fail_at=None, end=None):
    self.n, self.fail_at, self.end = 0, fail_at, end

  def __next__(self):
    if self.n == self.fail_at:
      raise OSError('the disk went away')
    if self.n == self.end:
      raise StopIteration
    self.n += 1
    return {'x': np.full(2, self.n)}

  def get_state(self):
    return {'n': self.n}

  def set_state(self, state):
    self.n = state['n']


def test_position_is_that_of_the_returned_batch():
  source = Counter()
  feed = Feed(source, put, depth=3)
  assert feed.position == {'n': 0}
  for i in range(1, 6):
    assert next(feed)['x'][0] == i
    time.sleep(0.01)
    assert feed.position == {'n': i}
  assert source.n > 5
  feed.close()
  again = Feed(Counter(), put, position=feed.position)
  assert next(again)['x'][0] == 6
  again.close()


def test_errors_and_the_end_reach_the_reader():
  feed = Feed(Counter(fail_at=2), put)
  next(feed), next(feed)
  with pytest.raises(OSError, match='disk went away'):
    next(feed)
  feed.close()
  feed = Feed(Counter(end=1), put)
  next(feed)
  with pytest.raises(StopIteration):
    next(feed)
  feed.close()


def test_a_resumed_run_has_one_line_per_step(tmp_path):
  writer = Writer(tmp_path)
  for step in (1, 2, 3):
    writer.scalars(step, {'loss': step, 'grad_norm': float('nan')})
  writer.close()
  # A line left incomplete by a kill.
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 4, "lo')
  writer = Writer(tmp_path, start_step=2)
  writer.scalars(3, {'loss': 30.0})
  writer.picture(3, 'mel', np.arange(12.0).reshape(3, 4))
  writer.close()
  rows = read_metrics(tmp_path / 'metrics.jsonl')
  assert [r['step'] for r in rows] == [1, 2, 3]
  assert rows[-1]['loss'] == 30.0 and rows[0]['grad_norm'] is None
  for line in (tmp_path / 'metrics.jsonl').read_text().splitlines():
    json.loads(line)
  assert list((tmp_path / 'tensorboard').iterdir())


def test_other_processes_write_nothing(tmp_path):
  writer = Writer(tmp_path, active=False)
  writer.scalars(1, {'loss': 1.0})
  writer.close()
  assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
  writer = Writer(tmp_path)
  with monkeypatch.context() as patch, open('/dev/full', 'ab', buffering=0) as no_room:
    patch.setattr(writer, '_file', no_room)
    with pytest.raises(InputError, match=r'Cannot write .*metrics.jsonl: No space left on device'):
      writer.scalars(1, {'loss': 1.0})

  def full():
    raise OSError(errno.ENOSPC, 'No space left on device')

  # Events, which were once written by a thread: it ended, and the run waited for it for ever.
  with monkeypatch.context() as patch:
    patch.setattr(writer._events._file, 'flush', full)
    for _ in range(20):
      with pytest.raises(InputError, match='No space left'):
        writer.scalars(1, {'loss': 1.0})
    writer.close()


def test_events_are_those_of_tensorboard(tmp_path):
  from tensorboardX.proto.event_pb2 import Event

  writer = Writer(tmp_path, start_step=2)
  writer.scalars(3, {'loss': 30.0})
  writer.picture(3, 'mel', np.arange(12.0).reshape(3, 4))
  writer.close()
  (file,) = (tmp_path / 'tensorboard').iterdir()
  data, events = file.read_bytes(), []
  while data:  # length (8), its checksum (4), the event, its checksum (4)
    size = int.from_bytes(data[:8], 'little')
    events.append(Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  assert [e.step for e in events] == [0, 3, 3, 3, 3]
  assert events[2].session_log.status == events[2].session_log.START
  assert events[3].summary.value[0].simple_value == 30.0
  assert events[4].summary.value[0].image.width == 4
