import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from research.audio import prepare, shards
from research.audio.clips import Source, Table
from research.audio.decode import AudioError, decode
from research.audio.fields import make
from research.audio.pipeline import train_batches
from research.audio.sources import open_source
from research.errors import InputError
from tests.launch import runner


@pytest.fixture
def folder(tmp_path, write):
  """Ten clips with labels, of 0.1 to 0.28 s."""
  root = tmp_path / 'clips'
  for k in range(10):
    write(root / f'{k}.flac', 0.1 + 0.02 * k, seed=k)
  rows = [f'{k}.flac,{"ab"[k % 2]},{"train" if k < 7 else "test"}' for k in range(10)]
  (root / 'labels.csv').write_text('\n'.join(['path,label,split', *rows]) + '\n')
  return root


def run(*flags):
  return runner.run('launch.prepare_data', *flags)


def pcm(encoding='pcm16', sample_rate=16000, num_workers=2):
  return prepare.Settings(encoding, sample_rate, num_workers)


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize('encoding', ['pcm16', 'flac', 'copy'])
def test_shards_hold_what_the_source_holds(folder, tmp_path, encoding):
  source = open_source(folder)
  settings = pcm(encoding, None if encoding == 'copy' else 16000)
  index = prepare.prepare(source, tmp_path / 'out', count=3, settings=settings)
  assert index['count'] == 10 and [s['count'] for s in index['shards']] == [3, 4, 3]
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [
    *(shards.shard_name(k, 3) for k in range(3)),
    'clips.index',
    'index.json',
  ]
  packed = open_source(tmp_path / 'out')
  assert packed.name == 'clips'
  assert [e.id for e in packed] == [e.id for e in source]
  assert packed.fingerprint() == source.fingerprint()
  np.testing.assert_allclose(packed.durations(), source.durations())
  for a, b in zip(source, packed, strict=True):
    np.testing.assert_array_equal(decode(a, sample_rate=16000), decode(b, sample_rate=16000))
  assert packed.split('test').classes('label') == ('a', 'b')


def test_names_of_files_may_be_any_bytes(tmp_path, write):
  write(tmp_path / 'clips' / 'plain.wav', 0.2)
  (tmp_path / 'clips' / 'plain.wav').rename(tmp_path / 'clips' / os.fsdecode(b'caf\xe9.wav'))
  source = open_source(tmp_path / 'clips')
  prepare.prepare(source, tmp_path / 'out', count=1, settings=pcm())
  packed = open_source(tmp_path / 'out')
  assert [os.fsencode(e.id) for e in packed] == [b'caf\xe9.wav']
  assert packed.fingerprint() == source.fingerprint()


def test_batches_from_shards_are_those_from_files(folder, tmp_path):
  source = open_source(folder)
  prepare.prepare(source, tmp_path / 'out', count=2, settings=pcm())
  packed = pickle.loads(pickle.dumps(open_source(tmp_path / 'out')))
  settings = {'batch_size': 4, 'buckets': [0.15, 0.3], 'fields': make(dict(label='label'))}
  a, b = iter(train_batches(source, **settings)), iter(train_batches(packed, **settings))
  for _ in range(6):
    x, y = next(a), next(b)
    for key in x:
      np.testing.assert_array_equal(x[key], y[key])
  a.close()
  b.close()


def test_preparing_is_deterministic_and_resamples(folder, tmp_path):
  source = open_source(folder, split='train')
  for name, workers in (('one', 0), ('two', 3)):
    prepare.prepare(source, tmp_path / name, count=2, settings=pcm('pcm16', 8000, workers))
  assert contents(tmp_path / 'one') == contents(tmp_path / 'two')
  packed = open_source(tmp_path / 'one')
  assert len(packed) == 7
  expected = np.round(decode(source[2], sample_rate=8000) * 32768)
  np.testing.assert_array_equal(decode(packed[2], sample_rate=8000) * 32768, expected)
  index = json.loads((tmp_path / 'one' / 'index.json').read_text())
  assert index['sample_rate'] == 8000
  for shard in index['shards']:
    path = tmp_path / 'one' / shard['file']
    assert shard['sha256'] == shards.checksum(path) and shard['bytes'] == path.stat().st_size


def test_classes_of_other_splits_and_published_orders_are_kept(tmp_path):
  audio = np.zeros(1600, np.int16)
  columns = {
    'label': ['b', 'a', 'c'],
    'split': ['train', 'train', 'test'],
    'tags': [['x'], [], ['y']],
  }
  table = Table(
    'made',
    ['0', '1', '2'],
    columns,
    lambda row: {'array': audio, 'sample_rate': 16000},
    label_sets={'label': ('c', 'b', 'a')},
    splits={'all': ('train', 'test')},
  )
  prepare.prepare(Source(table).split('train'), tmp_path / 'out', count=1, settings=pcm())
  packed = open_source(tmp_path / 'out')
  assert packed.classes('label') == ('c', 'b', 'a')
  assert packed.classes('tags') == ('x', 'y')
  assert packed.column('tags') == [['x'], []]
  assert len(packed.split('all')) == 2


def test_samples_beyond_full_scale_are_clipped(tmp_path):
  audio = np.array([1.5, -1.5, 0.5, 1.0], np.float32)
  table = Table('loud', ['0'], {}, lambda row: {'array': audio, 'sample_rate': 16000})
  prepare.prepare(Source(table), tmp_path / 'out', count=1, settings=pcm())
  got = decode(open_source(tmp_path / 'out')[0], sample_rate=16000)
  np.testing.assert_array_equal(got, np.float32([32767 / 32768, -1, 0.5, 32767 / 32768]))


def test_an_interrupted_preparation_goes_on_where_it_was(folder, tmp_path, monkeypatch):
  source = open_source(folder)
  prepare.prepare(source, tmp_path / 'whole', count=4, settings=pcm())
  out = tmp_path / 'out'

  class Killed(BaseException):
    pass

  def killed_after(n):
    done = []

    def progress(k):
      done.append(k)
      if len(done) > n:
        raise Killed

    return progress

  with pytest.raises(Killed):
    prepare.prepare(source, out, count=4, settings=pcm(), progress=killed_after(6))
  assert not (out / 'index.json').exists()
  finished = sorted(p.name for p in out.glob('*.array_record'))
  assert finished == [shards.shard_name(k, 4) for k in range(2)]
  with pytest.raises(InputError, match='not a finished folder of shards'):
    open_source({'name': 'array_record', 'args': {'path': str(out)}})
  # A finished shard that was damaged since is written again, the other is kept.
  (out / finished[0]).write_bytes(b'damaged')
  kept = (out / finished[1]).stat().st_mtime_ns
  prepare.prepare(source, out, count=4, settings=pcm())
  assert (out / finished[1]).stat().st_mtime_ns == kept
  assert contents(out) == contents(tmp_path / 'whole')
  # Once more: nothing to do, and a shard lost later comes back.
  (out / finished[0]).unlink()
  prepare.prepare(source, out, count=4, settings=pcm())
  assert contents(out) == contents(tmp_path / 'whole')


def test_a_kill_of_the_command_loses_nothing(tmp_path, write):
  for k in range(300):
    write(tmp_path / 'clips' / f'{k:03d}.flac', 1.0, seed=k)
  flags = (f'--source={tmp_path / "clips"}', '--shards=30', '--num_workers=1')
  out = tmp_path / 'out'
  command = [sys.executable, '-m', 'launch.prepare_data', *flags, f'--out={out}']
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  deadline = time.time() + 60
  while len(list(out.glob('*.json'))) < 3 and time.time() < deadline and process.poll() is None:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert list(out.glob('*.array_record')) and not (out / 'index.json').exists()
  assert run(*flags, f'--out={out}').returncode == 0
  assert run(*flags, f'--out={tmp_path / "whole"}').returncode == 0
  assert contents(out) == contents(tmp_path / 'whole')


@pytest.mark.slow
def test_two_processes_share_the_shards(folder, tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  (folder / '3.flac').write_text('not audio')
  flags = (f'--source={folder}', '--shards=5', '--max_bad_fraction=0.5')
  pair = [
    subprocess.Popen(
      [
        sys.executable, '-m', 'launch.prepare_data', *flags, f'--out={tmp_path / "two"}',
        f'--coordinator=localhost:{port}', '--num_processes=2', f'--process_id={i}',
      ],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]  # fmt: skip
  outputs = [p.communicate(timeout=120) for p in pair]
  assert [p.returncode for p in pair] == [0, 0], outputs
  assert '9 clips, ' in outputs[0][0] and 'clips' not in outputs[1][0]
  assert run(*flags, f'--out={tmp_path / "one"}').returncode == 0
  assert contents(tmp_path / 'two') == contents(tmp_path / 'one')


def test_another_preparation_in_the_same_folder_is_refused(folder, tmp_path):
  source, out = open_source(folder), tmp_path / 'out'
  prepare.prepare(source, out, count=2, settings=pcm())
  for other, count, settings in (
    (source, 3, pcm()),
    (source, 2, pcm('flac')),
    (source.select(range(9)), 2, pcm()),
  ):
    with pytest.raises(InputError, match='holds shards of other data or settings'):
      prepare.prepare(other, out, count=count, settings=settings)
  (tmp_path / 'foreign').mkdir()
  (tmp_path / 'foreign' / 'x.array_record').write_bytes(b'')
  with pytest.raises(InputError, match='not from here'):
    prepare.prepare(source, tmp_path / 'foreign', count=2, settings=pcm())


def test_bad_files_are_left_out_and_listed(folder, tmp_path):
  (folder / '3.flac').write_text('not audio')
  source, out = open_source(folder), tmp_path / 'out'
  with pytest.raises(InputError, match='1 of 10 clips could not be used'):
    prepare.prepare(source, tmp_path / 'strict', count=2, settings=pcm(), max_bad_fraction=0.05)
  index = prepare.prepare(source, out, count=2, settings=pcm(), max_bad_fraction=0.1)
  assert index['count'] == 9
  assert '3.flac' not in [e.id for e in open_source(out)]
  (row,) = [json.loads(line) for line in (out / 'bad_files.jsonl').read_text().splitlines()]
  assert row['id'] == '3.flac' and 'not an audio file' in row['reason']


def test_changed_shards_are_noticed(folder, tmp_path):
  out = tmp_path / 'out'
  prepare.prepare(open_source(folder), out, count=2, settings=pcm())
  path = out / shards.shard_name(1, 2)
  data = bytearray(path.read_bytes())
  data[len(data) // 20] ^= 255
  path.write_bytes(data)
  spec = {'name': 'array_record', 'args': {'path': str(out), 'verify': True}}
  with pytest.raises(InputError, match='does not match its checksum'):
    open_source(spec)
  path.write_bytes(bytes(data[:-100]))
  with pytest.raises(InputError, match='bytes, but the index says'):
    open_source(out)
  path.unlink()
  with pytest.raises(InputError, match='is missing'):
    open_source(out)
  (out / 'index.json').write_text('{}')
  with pytest.raises(InputError, match='not an index of audio shards'):
    open_source({'name': 'array_record', 'args': {'path': str(out)}})


def test_a_damaged_record_is_a_bad_file(folder, tmp_path):
  out = tmp_path / 'out'
  prepare.prepare(open_source(folder), out, count=1, settings=pcm())
  path = out / shards.shard_name(0, 1)
  whole = {e.id: decode(e, sample_rate=16000) for e in open_source(out)}
  data = bytearray(path.read_bytes())
  data[20000:20050] = bytes(50)  # In the middle of the audio of the clips.
  path.write_bytes(data)
  source, bad = open_source(out), 0
  for i in range(10):
    try:
      np.testing.assert_array_equal(decode(source[i], sample_rate=16000), whole[source.id(i)])
    except AudioError as error:
      bad += 1
      assert 'cannot be read' in error.reason
  assert bad >= 1


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'encoding': 'mp3'}, "Unknown encoding 'mp3'"),
    ({'encoding': 'copy', 'sample_rate': 16000}, 'give no sample_rate'),
    ({'encoding': 'flac', 'sample_rate': 0}, 'needs a sample_rate'),
  ],
)
def test_settings_that_cannot_be(settings, message):
  with pytest.raises(InputError, match=message):
    prepare.Settings(**settings)


def test_parts_of_files_cannot_be_copied(folder, tmp_path):
  spec = {'name': str(folder), 'args': {'cut_seconds': 0.1}}
  with pytest.raises(InputError, match='which is no whole file'):
    prepare.prepare(open_source(spec), tmp_path / 'out', count=1, settings=pcm('copy', None))


def test_the_number_of_shards(folder):
  source = open_source(folder)
  seconds = source.durations().sum()
  size = seconds * 32000 / 2**20
  assert prepare.shard_count(source, pcm(), size / 2.5) == 3
  assert prepare.shard_count(source, pcm(), 1e-9) == 10
  assert prepare.shard_count(source, pcm(), 100) == 1
  copied = sum(os.path.getsize(e.path) for e in source) / 2**20
  assert prepare.shard_count(source, pcm('copy', None), copied / 3.5) == 4


def test_the_command(folder, tmp_path):
  out = tmp_path / 'out'
  done = run(f'--source={folder}', f'--out={out}', '--shards=2', '--split=train', '--encoding=flac')
  assert done.returncode == 0, done.stderr
  assert '7 clips' in done.stdout and '2 shards' in done.stdout
  assert len(open_source(out)) == 7


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--source=/nowhere/at/all'], 'error: The folder of audio /nowhere/at/all does not exist.'),
    (['--source=esc5'], "Did you mean 'esc50'"),
    (['--source=builtin', '--encoding=mp3'], "Unknown encoding 'mp3'"),
    (['--source=builtin', '--split=trian'], "Did you mean 'train'"),
    (['--source=builtin', '--shards=0'], 'above 0'),
    ([], 'Missing flag --source'),
  ],
)
def test_mistakes_end_in_one_sentence(tmp_path, flags, message):
  done = run(*flags, f'--out={tmp_path / "out"}')
  assert done.returncode == 2
  assert message in done.stderr and 'Traceback' not in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


def test_parts_that_do_not_know_of_each_other(folder, tmp_path):
  (folder / '3.flac').write_text('not audio')
  source = open_source(folder)
  settings = dict(count=5, settings=pcm(), max_bad_fraction=0.5)
  prepare.prepare(source, tmp_path / 'whole', **settings)
  out = tmp_path / 'out'
  for i in (2, 0):
    assert prepare.prepare(source, out, part=(i, 3), **settings) == {}
    assert not (out / 'index.json').exists()
  prepare.prepare(source, out, part=(0, 3), **settings)  # Once more changes nothing.
  index = prepare.prepare(source, out, part=(1, 3), **settings)
  assert [s['count'] for s in index['shards']] == [2, 1, 2, 2, 2]
  assert contents(out) == contents(tmp_path / 'whole')
  # A shard that was lost is written again by its part, which finds its clips in the index.
  (out / shards.shard_name(4, 5)).unlink()
  prepare.prepare(source, out, part=(1, 3), **settings)
  assert contents(out) == contents(tmp_path / 'whole')
  with pytest.raises(InputError, match='holds shards of other data or settings'):
    prepare.prepare(source, out, count=4, settings=pcm(), part=(0, 2))


def test_a_part_that_was_killed_is_started_again(tmp_path, write):
  for k in range(200):
    write(tmp_path / 'clips' / f'{k:03d}.flac', 1.0, seed=k)
  out = tmp_path / 'out'
  flags = (f'--source={tmp_path / "clips"}', '--shards=20', '--num_workers=1')
  base = [sys.executable, '-m', 'launch.prepare_data', *flags, f'--out={out}']
  quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  killed, other = (subprocess.Popen([*base, f'--part={i}/2'], **quiet) for i in range(2))
  deadline = time.time() + 60
  mine = [shards.shard_name(k, 20) for k in range(0, 20, 2)]
  while time.time() < deadline and killed.poll() is None:
    if sum((out / name).exists() for name in mine) >= 2:
      break
    time.sleep(0.002)
  killed.send_signal(signal.SIGKILL)
  killed.wait()
  assert other.wait(timeout=120) == 0
  assert not (out / 'index.json').exists()
  again = run(*flags, f'--out={out}', '--part=0/2')
  assert again.returncode == 0, again.stderr
  assert '200 clips' in again.stdout and '20 shards' in again.stdout
  assert run(*flags, f'--out={tmp_path / "whole"}').returncode == 0
  assert contents(out) == contents(tmp_path / 'whole')


@pytest.mark.parametrize('part', ['2/2', 'x', '1', '-1/2'])
def test_a_part_is_one_of_several(folder, tmp_path, part):
  done = run(f'--source={folder}', f'--out={tmp_path / "out"}', f'--part={part}')
  assert done.returncode == 2 and f'--part={part}: give I/N with I from 0' in done.stderr


def test_a_full_disk_is_a_sentence(folder, tmp_path, monkeypatch):
  """ArrayRecord raises RuntimeError for it, of which only the text says why."""
  module, made = prepare.array_record_module, []

  class Full(module.ArrayRecordWriter):
    def close(self):
      super().close()
      made.append(1)
      if len(made) == 2:
        raise RuntimeError('write() failed: No space left on device; writing x')

  source = open_source(folder)
  with monkeypatch.context() as patch:
    patch.setattr(module, 'ArrayRecordWriter', Full)
    with pytest.raises(InputError, match=r'Cannot write .*: No space left on device.*goes on'):
      prepare.prepare(source, tmp_path / 'out', count=3, settings=pcm())
  prepare.prepare(source, tmp_path / 'out', count=3, settings=pcm())
  prepare.prepare(source, tmp_path / 'whole', count=3, settings=pcm())
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')
