"""Segments of long recordings are clips: columns start and end, or offset and duration."""

import json

import numpy as np
import pytest

from launch.inputs import open_input
from research.audio import prepare
from research.audio.decode import AudioError, decode
from research.audio.fields import make
from research.audio.pipeline import eval_batches, train_batches
from research.audio.sources import open_source
from research.errors import InputError
from research.train import selection

RATE = 16000


def manifest(folder, *lines, name='labels.csv'):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / name).write_text('\n'.join(lines) + '\n')
  return str(folder)


@pytest.fixture
def recordings(tmp_path, write):
  """{name: samples} of two recordings of 3 s and 1.6 s."""
  return {
    name: write(tmp_path / name, seconds, seed=k)
    for k, (name, seconds) in enumerate({'a.wav': 3.0, 'b.flac': 1.6}.items())
  }


def test_start_and_end(tmp_path, recordings):
  path = manifest(tmp_path, 'path,start,end,label', 'a.wav,0.5,1.0,x', 'b.flac,0.5,1.5,z')
  source = open_source(path)
  assert source.column_names == ('label',)
  assert [e.id for e in source] == ['a.wav@0.5-1', 'b.flac@0.5-1.5']
  assert source.durations().tolist() == [0.5, 1.0]
  first, second = (decode(e, sample_rate=RATE) for e in source)
  np.testing.assert_array_equal(first, recordings['a.wav'][8000:16000])
  np.testing.assert_array_equal(second, recordings['b.flac'][8000:24000])


def test_offset_and_duration(tmp_path, recordings):
  rows = (
    {'path': 'a.wav', 'offset': 1.0, 'duration': 1.0, 'text': 'hello'},
    {'path': 'b.flac', 'offset': 0.0, 'duration': 1.6, 'text': 'x'},
    {'path': 'b.flac', 'duration': 1.6, 'text': 'whole'},
  )
  source = open_source(manifest(tmp_path, *map(json.dumps, rows), name='labels.jsonl'))
  assert [e.id for e in source] == ['a.wav@1-2', 'b.flac@0-1.6', 'b.flac']
  assert source.column('text') == ['hello', 'x', 'whole']
  assert source.durations().tolist() == [1.0, 1.6, 1.6]
  assert source[2].seconds is None
  np.testing.assert_array_equal(
    decode(source[0], sample_rate=RATE), recordings['a.wav'][16000:32000]
  )


def test_two_segments_of_one_file(tmp_path, recordings):
  lines = ('path,start,end,label', 'a.wav,0.0,1.0,x', 'a.wav,1.0,2.0,y', 'a.wav,2.25,,z')
  source = open_source(manifest(tmp_path, *lines))
  assert [e.id for e in source] == ['a.wav@0-1', 'a.wav@1-2', 'a.wav@2.25']
  assert source.durations().tolist() == [1.0, 1.0, 0.75]  # the last is measured
  for example, (low, high) in zip(source, ((0, 16000), (16000, 32000), (36000, 48000))):
    np.testing.assert_array_equal(decode(example, sample_rate=RATE), recordings['a.wav'][low:high])


def test_ids(tmp_path, recordings):
  def ids(*lines):
    return [e.id for e in open_source(manifest(tmp_path, *lines))]

  assert ids('path,id,start,end', 'a.wav,one,0,1', 'a.wav,two,0,1') == ['one', 'two']
  assert ids('path,id', 'a.wav,one', 'a.wav,two') == ['one', 'two']
  # Files name themselves: `id` is a column like others.
  assert ids('path,id', 'a.wav,one', 'b.flac,two') == ['a.wav', 'b.flac']
  assert open_source(str(tmp_path)).column('id') == ['one', 'two']
  with pytest.raises(InputError, match=r"'a.wav@0-1' twice; .* a column \"id\" may give"):
    ids('path,start,end,label', 'a.wav,0,1,x', 'a.wav,0,1,y')
  with pytest.raises(InputError, match=r"Row 2 of .* \(a.wav\) has no 'id'"):
    ids('path,id,start,end', 'a.wav,one,0,1', 'a.wav,,1,2')


def test_places_are_rounded_at_the_rate_of_the_file(tmp_path, write):
  whole = write(tmp_path / 'x.wav', 1.0, rate=44100)
  source = open_source(manifest(tmp_path, 'path,start,duration', 'x.wav,0.12345,0.2'))
  low = round(0.12345 * 44100)
  np.testing.assert_array_equal(
    decode(source[0], sample_rate=44100), whole[low : low + round(0.2 * 44100)]
  )


MISTAKES = {
  'no start': (('path,end', 'a.wav,1'), r'line 2: a column "end" without "start"'),
  'two starts': (('path,start,offset', 'a.wav,1,1'), r'line 2: both "start" and "offset"'),
  'text': (('path,start', 'a.wav,early'), r"line 2: start is 'early'; expected seconds"),
  'negative': (('path,start', 'a.wav,-1'), r"line 2: start is '-1'; expected seconds"),
  'infinite': (('path,start,end', 'a.wav,0,inf'), r"line 2: end is 'inf'"),
  'backwards': (('path,start,end', 'a.wav,0,1', 'a.wav,2,1'), r'line 3: .* from 2 s lasts -1'),
  'empty': (('path,start,end', 'a.wav,1,1'), r'line 2: the segment from 1 s lasts 0 s'),
  'contradiction': (
    ('path,start,end,duration', 'a.wav,0,1,1', 'a.wav,1,2,2'),
    r'line 3: duration and end contradict each other',
  ),
}  # fmt: skip


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes(tmp_path, mistake):
  lines, sentence = MISTAKES[mistake]
  with pytest.raises(InputError, match=sentence) as caught:
    open_source(manifest(tmp_path, *lines))
  assert str(tmp_path / 'labels.csv') in str(caught.value)


def test_a_segment_beyond_the_end_is_a_bad_file(tmp_path, recordings):
  lines = ('path,start,end,label', 'a.wav,0,1,x', 'b.flac,1.7,2.5,y')
  source = open_source(manifest(tmp_path, *lines))
  with pytest.raises(AudioError, match=r'ends at 1.60 s, before the clip at 1.7 s'):
    decode(source[1], sample_rate=RATE)
  settings = prepare.Settings('pcm16', RATE, 0)
  prepare.prepare(source, tmp_path / 'out', count=1, settings=settings, max_bad_fraction=0.5)
  (bad,) = map(json.loads, (tmp_path / 'out' / 'bad_files.jsonl').read_text().splitlines())
  assert bad['id'] == 'b.flac@1.7-2.5' and 'before the clip at 1.7 s' in bad['reason']
  assert [e.id for e in open_source(str(tmp_path / 'out'))] == ['a.wav@0-1']


def test_whole_files_alone_are_copied(tmp_path, recordings):
  source = open_source(manifest(tmp_path, 'path,start,end', 'a.wav,0,1'))
  settings = prepare.Settings('copy', None, 0)
  with pytest.raises(InputError, match=r"cannot copy 'a.wav@0-1', which is no whole file; use"):
    prepare.prepare(source, tmp_path / 'out', count=1, settings=settings)


def test_crops_stay_in_their_segments(tmp_path, recordings):
  lines = ('path,start,end,label', 'a.wav,0.5,1.5,x', 'a.wav,1.5,2.75,y', 'b.flac,0.1,0.3,x')
  source = open_source(manifest(tmp_path, *lines))
  batches = iter(train_batches(source, batch_size=3, seconds=0.4, fields=make({'label': 'label'})))
  for _ in range(6):
    batch = next(batches)
    for audio, mask, row in zip(batch['audio'], batch['audio_mask'], batch['index']):
      own = decode(source[row], sample_rate=RATE)
      count = min(len(own), 6400)
      assert mask.sum() == count
      places = np.lib.stride_tricks.sliding_window_view(own, count)
      assert (places == audio[:count]).all(axis=1).any()
  batches.close()
  (found,) = eval_batches(source, batch_size=3, lengths=1)
  counts = found['audio_mask'].sum(axis=1)
  assert dict(zip(found['index'].tolist(), counts)) == {0: 16000, 1: 20000, 2: 3200}


def test_segments_of_a_recording_are_held_out_together(tmp_path, recordings):
  lines = [f'{name},{k},{k / 10},{k / 10 + 0.1}' for name in recordings for k in range(10)]
  lines = [f'{name},{name}-{rest}' for name, rest in (x.split(',', 1) for x in lines)]
  source = open_source(manifest(tmp_path, 'path,id,start,end', *lines))
  assert source.id(3) == 'a.wav-3'
  train, valid = (selection.part(source, s) for s in ('train', 'valid'))
  assert len(train) == len(valid) == 10
  assert len({e.path for e in train}) == len({e.path for e in valid}) == 1


def test_windows_of_segments(tmp_path, recordings):
  path = manifest(tmp_path, 'path,start,end', 'a.wav,0.5,3')
  cut = open_source({'name': path, 'args': {'cut_seconds': 1.0}})
  assert [e.id for e in cut] == ['a.wav@0.5-3@0', 'a.wav@0.5-3@1']
  np.testing.assert_array_equal(decode(cut[1], sample_rate=RATE), recordings['a.wav'][24000:40000])
  assert len(set(cut.recordings())) == 1


@pytest.mark.parametrize('name', ['list.csv', 'list.tsv', 'list.jsonl', 'LIST.CSV'])
def test_lists(tmp_path, recordings, name):
  rows = [{'path': 'a.wav', 'start': 0.5, 'end': 1.5, 'label': 'x, y'}]
  rows += [{'path': f'{tmp_path}/b.flac', 'start': 0, 'end': 1, 'label': 'z'}]
  if name.endswith('jsonl'):
    lines = map(json.dumps, rows)
  elif name.endswith('tsv'):
    lines = ('\t'.join(map(str, r)) for r in (rows[0], *(r.values() for r in rows)))
  else:
    lines = ('path,start,end,label', 'a.wav,0.5,1.5,"x, y"', f'{tmp_path}/b.flac,0,1,z')
  manifest(tmp_path, *lines, name=name)
  source = open_input(str(tmp_path / name))
  assert source.column('label') == ['x, y', 'z'] and source.durations().tolist() == [1.0, 1.0]
  assert source.id(0) == 'a.wav@0.5-1.5'
  np.testing.assert_array_equal(
    decode(source[0], sample_rate=RATE), recordings['a.wav'][8000:24000]
  )
  np.testing.assert_array_equal(decode(source[1], sample_rate=RATE), recordings['b.flac'][:16000])
  assert open_source(str(tmp_path / name)).fingerprint() == source.fingerprint()
