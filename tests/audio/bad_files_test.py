import json
import multiprocessing
import pickle
import threading

import pytest

from research.audio.bad_files import BadFiles
from research.errors import InputError


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_is_listed_once_and_counted_every_time(tmp_path):
  bad = BadFiles(tmp_path / 'run' / 'bad_files.jsonl', 0.5)
  for _ in range(3):
    bad.seen(4)
    bad.record('a', '/data/a.wav', 'It is empty.')
  bad.record('b', None, 'It is truncated.')
  assert lines(bad.path) == [
    {'id': 'a', 'path': '/data/a.wav', 'reason': 'It is empty.'},
    {'id': 'b', 'path': None, 'reason': 'It is truncated.'},
  ]
  assert (len(bad), bad.reads, bad.failures) == (2, 12, 4)
  assert dict(bad.items()) == {'a': 'It is empty.', 'b': 'It is truncated.'}


def test_a_resumed_run_goes_on_with_the_list(tmp_path):
  path = tmp_path / 'bad_files.jsonl'
  BadFiles(path).record('a', 'a.wav', 'one')
  with open(path, 'a') as file:
    file.write('{"id": "cut off by a ki')
  again = BadFiles(path)
  assert len(again) == 1
  again.record('a', 'a.wav', 'one')
  again.record('c', 'c.wav', 'three')
  assert [r for r in path.read_text().splitlines() if '"c"' in r] == [
    '{"id": "c", "path": "c.wav", "reason": "three"}'
  ]
  assert dict(BadFiles(path).items()) == {'a': 'one', 'c': 'three'}


@pytest.mark.parametrize('fraction', [0.01, 0.2])
def test_without_a_number_of_clips_chance_is_tolerated(fraction):
  bad = BadFiles(None, fraction)
  for i in range(2000):
    bad.seen(1)
    if i % round(1 / fraction) == 0:
      bad.record(str(i), None, 'It is empty.')
    bad.check()  # Exactly the fraction is tolerated, whether or not the first file is bad.
  with pytest.raises(InputError, match=f'max_bad_fraction={fraction:g}'):
    for i in range(2000):
      bad.seen(1)
      if i % 2:
        bad.record(f'more{i}', None, 'It is empty.')
      bad.check()
  assert bad.reads < (2100, 2400)[fraction > 0.1]


def test_nothing_readable_stops_in_the_first_batch():
  bad = BadFiles(None, 0.01, total=100000)
  with pytest.raises(InputError, match=r'4 of 4 clips read .* Last: d.wav: It is empty\.'):
    for name in 'abcdefgh':
      bad.seen(1)
      bad.record(name, f'{name}.wav', 'It is empty.')
      bad.check()


def test_a_fraction_of_zero_stops_at_the_first_bad_file():
  bad = BadFiles(None, 0.0)
  bad.seen(50)
  bad.check()
  bad.record('a', None, 'It is empty.')
  with pytest.raises(InputError, match='max_bad_fraction=0'):
    bad.check()


def test_the_known_number_of_clips_decides(tmp_path):
  bad = BadFiles(tmp_path / 'bad.jsonl', 0.1, total=20)
  for i in range(1000):
    bad.seen(10)
    bad.record(str(i % 2), None, 'It is empty.')
    bad.check()
  bad.record('2', None, 'It is empty.')
  with pytest.raises(InputError, match=r'3 of 20 clips .*bad\.jsonl'):
    bad.check()


def test_a_fraction_of_one_never_stops():
  bad = BadFiles(None, 1.0, total=1)
  bad.seen(1)
  bad.record('a', None, 'x')
  bad.record('b', None, 'x')
  bad.check()


@pytest.mark.parametrize('fraction', [-0.1, 1.5])
def test_an_invalid_fraction(fraction):
  with pytest.raises(InputError, match='between 0 and 1'):
    BadFiles(None, fraction)


def test_every_process_has_a_list_of_its_own(tmp_path):
  path = tmp_path / 'bad_files.jsonl'
  bad = [BadFiles(path, 1.0, process=i) for i in range(3)]
  for i in (0, 2, 1):
    bad[i].record(f'clip {i}', None, 'It is empty.')
    bad[i].record('shared', None, f'Seen by {i}.')
  names = ['bad_files-00001.jsonl', 'bad_files-00002.jsonl', 'bad_files.jsonl']
  assert sorted(p.name for p in tmp_path.iterdir()) == names
  assert len(lines(tmp_path / names[1])) == 2
  for each in bad:  # All see all.
    assert {id for id, _ in each.items()} == {'clip 0', 'clip 1', 'clip 2', 'shared'}
  bad[0].merge()
  assert sorted(r['id'] for r in lines(path)) == ['clip 0', 'clip 1', 'clip 2', 'shared']
  bad[0].record('later', None, 'It is empty.')
  assert len(lines(path)) == 5 and len(BadFiles(path, 1.0)) == 5


def record_many(bad, offset):
  for i in range(50):
    bad.seen(1)
    bad.record(f'clip {(i + offset) % 60}', None, 'It is empty.')


def test_threads_and_processes_share_one_list(tmp_path):
  bad = BadFiles(tmp_path / 'bad.jsonl', 1.0)
  copy = pickle.loads(pickle.dumps(bad))
  context = multiprocessing.get_context('spawn')
  process = context.Process(target=record_many, args=(copy, 5))
  process.start()
  threads = [threading.Thread(target=record_many, args=(bad, o)) for o in (0, 10, 20)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  process.join()
  assert process.exitcode == 0
  ids = [row['id'] for row in lines(bad.path)]
  assert sorted(ids) == sorted({f'clip {i}' for i in range(60)})
  assert len(bad) == 60
  assert (bad.reads, bad.failures) == (150, 150)
