"""What cannot be read is refused in one sentence that names the file, the line and what to do."""

import gzip
import importlib.util
import json
import re
import tarfile

import numpy as np
import pytest
import soundfile

from research.audio import index, rows
from research.audio.decode import AudioError, decode
from research.audio.manifests import webdataset
from research.audio.sources import open_source
from research.errors import InputError
from tests.audio.manifests import trees


def change(file, old, new):
  text = file.read_text()
  assert old in text
  file.write_text(text.replace(old, new))


def cut(root, **changes):
  """A file of one lhotse cut with some keys changed."""
  root.mkdir(exist_ok=True)
  made = trees.lhotse_cut('a', 'r1', root / 'r1.flac', 0.0, 0, 1.25)
  made['recording'] |= changes.pop('recording', {})
  trees.lines(root / 'cuts.jsonl', json.dumps({**made, **changes}))
  return {'path': root}


def entry(root, *lines):
  trees.fairseq(root)
  trees.lines(root / 'valid.tsv', str(root / 'audio'), *lines)
  trees.lines(root / 'valid.ltr', *'x' * len(lines))
  for kind in ('phn', 'km'):
    (root / f'valid.{kind}').unlink()
  return {'path': root}


def command(root, value, file='wav.scp', old='r2 wav/r2.wav'):
  trees.kaldi(root)
  change(root / file, old, value)
  return {'path': root}


def member(root, kind):
  trees.webdataset(root)
  with tarfile.open(root / 'valid-000000.tar', 'w') as tar:
    if kind == 'link':
      info = tarfile.TarInfo('c.flac')
      info.type, info.linkname = tarfile.SYMTYPE, '/etc/passwd'
      tar.addfile(info)
    elif kind == 'two':
      trees.add(tar, 'c.flac', trees.encoded(2))
      trees.add(tar, 'c.wav', trees.encoded(2))
    else:
      trees.add(tar, 'c.flac', trees.encoded(2))
      trees.add(tar, 'c.json', b'[1]')
  return {'path': root}


def short(root, lines, labels):
  trees.fairseq(root)
  trees.lines(root / f'valid.{labels}', *['x'] * lines)
  return {'path': root}


def row(root, **changes):
  made = {'audio_filepath': 'a.wav', 'duration': 1.0, 'text': 'x', **changes}
  trees.lines(root / 'm.json', json.dumps(made))
  return {'path': root / 'm.json'}


MISTAKES = {
  'fairseq zip': (
    lambda r: entry(r, 'x.zip:123:456\t6400'),
    r"valid.tsv, line 2: 'x.zip:123:456' lies in a zip",
  ),
  'fairseq line': (
    lambda r: entry(r, 'x/c.flac\t6400', 'x/d.flac'),
    r"valid.tsv, line 3: 'x/d.flac' is not `path TAB",
  ),
  'fairseq escape': (lambda r: entry(r, '../../c.flac\t6400'), r'valid.tsv, line 2: .* goes up by'),
  'fairseq labels': (
    lambda r: short(r, 2, 'ltr'),
    r'valid.ltr has 2 lines, but .*valid.tsv lists 1 clips',
  ),
  'fairseq units': (
    lambda r: short(r, 0, 'km'),
    r'valid.km has 0 lines, but .*valid.tsv lists 1 clips',
  ),
  'kaldi pipe': (
    lambda r: command(r, 'r2 sox wav/r2.wav -t wav - |'),
    r"wav.scp, line 2: 'r2' is the output of a command \('sox wav.*are not run: write",
  ),
  'kaldi ark': (
    lambda r: command(r, 'r2 wav.ark:123'),
    r"line 2: 'r2' lies in a Kaldi archive \('wav.ark:123'",
  ),
  'kaldi no file': (lambda r: command(r, 'r2'), r"line 2: 'r2' names no file"),
  'kaldi twice': (lambda r: command(r, 'r1 wav/r2.wav'), r"line 2: 'r1' is listed twice"),
  'kaldi escape': (lambda r: command(r, 'r2 ../r2.wav'), r'line 2: the path .* goes up by'),
  'kaldi recording': (
    lambda r: command(r, 'c r9 0 1', 'segments', 'c r2 0.25 -1'),
    r"segments, line 3: .*wav.scp has no recording 'r9'",
  ),
  'kaldi channel': (
    lambda r: command(r, 'c r2 0.25 0.5 1', 'segments', 'c r2 0.25 -1'),
    r'segments, line 3: takes channel 1 of its recording',
  ),
  'kaldi order': (
    lambda r: command(r, 'c r2 0.5 0.25', 'segments', 'c r2 0.25 -1'),
    r'segments, line 3: the segment ends at 0.25 s, not behind its start 0.5',
  ),
  'kaldi same utterance': (
    lambda r: command(r, 'a r2 0.25 -1', 'segments', 'c r2 0.25 -1'),
    r"lists 'a' twice",
  ),
  'kaldi other text': (
    lambda r: command(r, 'x 1\ny 2\n', 'text', (trees.kaldi(r), (r / 'text').read_text())[1]),
    r'no utterance has a transcript',
  ),
  'lhotse mixed': (
    lambda r: cut(r, type='MixedCut'),
    r'cuts.jsonl, line 1: a MixedCut, and only MonoCut is read',
  ),
  'lhotse multi': (lambda r: cut(r, type='MultiCut'), r'a MultiCut, and only MonoCut'),
  **{
    f'lhotse {kind}': (
      lambda r, kind=kind: cut(
        r, recording={'sources': [{'type': kind, 'channels': [0], 'source': 'x'}]}
      ),
      rf"the audio of 'a' is of type '{kind}', and only one file is read",
    )
    for kind in ('command', 'url', 'memory')
  },
  'lhotse channels': (
    lambda r: cut(r, recording={'channel_ids': [0, 1]}),
    r"'a' is channel 0 of 2, and channels are averaged",
  ),
  'lhotse speed': (
    lambda r: cut(r, recording={'transforms': [{'name': 'Speed', 'kwargs': {'factor': 1.1}}]}),
    r"the recording of 'a' is transformed \(Speed\)",
  ),
  'lhotse no cut': (
    lambda r: cut(r, recording={'sources': 7}),
    r'line 1: not a lhotse cut .*TypeError',
  ),
  'lhotse escape': (
    lambda r: cut(
      r, recording={'sources': [{'type': 'file', 'channels': [0], 'source': '../x.wav'}]}
    ),
    r'cuts.jsonl, line 1: the path .* goes up by',
  ),
  'nemo tarred': (
    lambda r: row(r, shard_id=3),
    r"m.json, line 1: 'a.wav' lies in a tar of shard 3; name the tars",
  ),
  'nemo offset': (lambda r: row(r, offset=-1), r"line 1: offset is '-1'; expected seconds"),
  'nemo duration': (
    lambda r: row(r, duration='long'),
    r"line 1: duration is 'long'; expected seconds",
  ),
  'nemo escape': (
    lambda r: row(r, audio_filepath='/a/../b.wav'),
    r'line 1: the path .* goes up by',
  ),
  'nemo two paths': (
    lambda r: row(r, audio_filepath=['a', 'b']),
    r'line 1: no .audio_filepath. that is one path',
  ),
  'tar link': (
    lambda r: member(r, 'link'),
    r"valid-000000.tar: 'c.flac' is a link or device, and only files",
  ),
  'tar two': (
    lambda r: member(r, 'two'),
    r"the sample 'c' has several files of audio, one is 'c.wav'; name the ending",
  ),
  'tar json': (lambda r: member(r, 'list'), r"valid-000000.tar: 'c.json' is not a JSON object"),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes(mistake, tmp_path):
  make, sentence = MISTAKES[mistake]
  with pytest.raises(InputError, match=sentence) as caught:
    open_source(str(make(tmp_path / 'data')['path']))
  assert '\n' not in str(caught.value)


def test_lhotse_recordings_are_no_cuts(tmp_path):
  recording = trees.lhotse_cut('a', 'r1', 'x.wav', 0.0, 0, 1.0)['recording']
  trees.lines(tmp_path / 'recordings.jsonl', json.dumps(recording))
  with pytest.raises(InputError, match=r'a recording, not a cut; join .* `lhotse cut simple'):
    open_source(str(tmp_path / 'recordings.jsonl'))


def test_a_damaged_gzip(tmp_path):
  made = trees.lhotse(tmp_path)
  data = made['path'].read_bytes()
  made['path'].write_bytes(data[:-12])
  with pytest.raises(InputError, match=r'is damaged behind line \d+ .*copy it again'):
    open_source({'name': 'lhotse', 'args': {'path': str(made['path'])}})
  with gzip.open(made['path'], 'wb') as file:
    file.write(json.dumps(trees.lhotse_cut('a', 'r', 'a.wav', 0.0, 0, 1)).encode() + b'\n\xff\n')
  with pytest.raises(InputError, match=r'line 2: not UTF-8 text'):
    open_source(str(made['path']))


def test_two_forms_in_one_folder(tmp_path):
  trees.fairseq(tmp_path)
  trees.kaldi(tmp_path)
  with pytest.raises(InputError, match=r'fairseq \(train.tsv\) and kaldi \(wav.scp\): name one'):
    open_source(str(tmp_path))
  assert len(open_source(f'kaldi:{tmp_path}')) == len(open_source(f'fairseq:{tmp_path}')) == 3
  (tmp_path / 'labels.csv').write_text('path,label\nwav/r1.wav,x\n')  # ours comes first
  assert open_source(str(tmp_path)).column('label') == ['x']
  with pytest.raises(InputError, match=r"Unknown argument of data source kaldi 'audoi'"):
    open_source({'name': 'kaldi', 'args': {'path': str(tmp_path), 'audoi': 'x'}})
  with pytest.raises(
    InputError, match=r'nowhere does not exist; expected a file or folder of nemo'
  ):
    open_source(f'nemo:{tmp_path}/nowhere')


# -- Tars ------------------------------------------------------------------------------------------


def test_brace_patterns():
  assert webdataset.expand('a-{08..10}.tar') == ['a-08.tar', 'a-09.tar', 'a-10.tar']
  assert webdataset.expand('{x,y}-{0..1}') == ['x-0', 'x-1', 'y-0', 'y-1']
  assert webdataset.expand('a-{000000..000009}.tar')[-1] == 'a-000009.tar'


def test_tars_of_a_pattern(tmp_path):
  trees.webdataset(tmp_path)
  source = open_source(f'{tmp_path}/train-{{000000..000001}}.tar')
  assert [e.id for e in source] == ['train-000000/a', 'train-000001/b']
  assert 'split' not in source.column_names
  with pytest.raises(InputError, match=r'train-000002.tar does not exist; .* names 3 tars'):
    open_source(f'{tmp_path}/train-{{000000..000002}}.tar')


@pytest.mark.parametrize('keep', [700, 9000, -1024, 0])
def test_truncated_tars(tmp_path, keep):
  trees.webdataset(tmp_path)
  file = tmp_path / 'train-000001.tar'
  data = file.read_bytes().rstrip(b'\0') if keep < 0 else file.read_bytes()[:keep]
  data += bytes(-len(data) % 512) if keep < 0 else b''  # all members, but no end
  file.write_bytes(data)
  with pytest.raises(InputError, match=r'train-000001.tar is no tar, or damaged or truncated'):
    open_source(str(tmp_path))


def test_compressed_tars(tmp_path):
  (tmp_path / 'a.tar.gz').write_bytes(gzip.compress(b'x'))
  with pytest.raises(InputError, match=r'a.tar.gz is compressed, .* decompress it to .tar'):
    open_source(str(tmp_path / 'a.tar.gz'))


def test_tars_are_read_once_and_again_when_they_change(tmp_path, monkeypatch):
  trees.webdataset(tmp_path)
  opened = open_source(str(tmp_path))
  monkeypatch.setattr(webdataset.tarfile, 'open', None)
  assert open_source(str(tmp_path)).fingerprint() == opened.fingerprint()
  monkeypatch.undo()
  with tarfile.open(tmp_path / 'valid-000000.tar', 'w') as tar:
    trees.add(tar, 'dir/d.1.flac', trees.encoded(2))
  (last,) = list(open_source(str(tmp_path)))[2:]
  assert last.id == 'valid-000000/dir/d'
  np.testing.assert_array_equal(decode(last, sample_rate=trees.RATE), trees.clip(2))
  (tmp_path / 'valid-000000.tar').write_bytes(b'')
  with pytest.raises(AudioError, match='has become shorter'):
    opened[2]


# -- Tables of Hugging Face ------------------------------------------------------------------------


def test_without_pyarrow(tmp_path, monkeypatch):
  trees.parquet(tmp_path)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r"needs pyarrow, .*: pip install -e '.\[parquet\]'"):
    open_source(str(tmp_path))


def test_damaged_tables(tmp_path):
  trees.parquet(tmp_path / 'p')
  file = tmp_path / 'p' / 'data' / 'validation-00000-of-00001.parquet'
  file.write_bytes(file.read_bytes()[:500])
  with pytest.raises(InputError, match=r'validation-00000-of-00001.parquet is damaged .*copy it'):
    open_source(str(tmp_path / 'p'))
  trees.saved_to_disk(tmp_path / 's')
  file = tmp_path / 's' / 'train' / 'data-00001-of-00002.arrow'
  file.write_bytes(file.read_bytes()[:300])
  with pytest.raises(InputError, match=r'data-00001-of-00002.arrow is damaged'):
    open_source(str(tmp_path / 's'))


def test_cells_without_bytes(tmp_path):
  import pyarrow.parquet as pq

  trees.write(tmp_path / 'wav' / 'a.wav', 0)
  paths = ('wav/a.wav', '../secret.wav', '/etc/passwd')
  table = trees.hf_table((0, 1, 2), path=lambda k: paths[k], data=lambda k: None)
  pq.write_table(table, tmp_path / 'all.parquet')
  source = open_source(str(tmp_path / 'all.parquet'))
  assert 'split' not in source.column_names
  assert open_source(str(tmp_path))[0].path == source[0].path == f'{tmp_path}/wav/a.wav'
  assert source[2].path == '/etc/passwd'
  with pytest.raises(AudioError, match=r"Its path '../secret.wav' goes up"):
    source[1]
  pq.write_table(
    trees.hf_table((0,), path=lambda k: None, data=lambda k: None), tmp_path / 'n.parquet'
  )
  with pytest.raises(AudioError, match='neither bytes nor a path'):
    open_source(str(tmp_path / 'n.parquet'))[0]


def test_large_row_groups_are_not_held(tmp_path, monkeypatch):
  import pyarrow.parquet as pq

  from research.audio import arrow

  pq.write_table(trees.hf_table((0, 1, 2)), tmp_path / 'train.parquet')
  monkeypatch.setattr(arrow, 'MAX_HELD', 10)
  monkeypatch.setattr(arrow, 'STEP', 1)
  source = open_source(str(tmp_path))
  for k in (2, 0, 1):
    np.testing.assert_array_equal(decode(source[k], sample_rate=trees.RATE), trees.clip(k))
  assert not source.table.locate._held


def test_a_table_without_audio(tmp_path):
  import pyarrow.parquet as pq

  pq.write_table(trees.hf_table((0,)).drop_columns(['audio']), tmp_path / 'x.parquet')
  with pytest.raises(InputError, match=r'has 0 columns of audio .*name one with audio='):
    open_source(str(tmp_path / 'x.parquet'))


def test_other_files_in_a_folder_of_audio(tmp_path):
  import pyarrow.parquet as pq

  trees.write(tmp_path / 'dog' / 'a.wav', 0)
  pq.write_table(trees.hf_table((0,)).drop_columns(['audio']), tmp_path / 'embeddings.parquet')
  with tarfile.open(tmp_path / 'backup.tar', 'w') as tar:
    trees.add(tar, 'b.flac', trees.encoded(1))
  (tmp_path / 'notes.json').write_text('{}')
  (tmp_path / 'scores.tsv').write_text('a\tb\n1\t2\n')
  assert [e.id for e in open_source(str(tmp_path))] == ['dog/a.wav']
  trees.kaldi(tmp_path)
  assert len(open_source(str(tmp_path))) == 3
  assert len(open_source(f'folder:{tmp_path}')) == 3
  assert open_source(f'folder:{tmp_path}').column('folder') == ['dog', 'wav', 'wav']


# -- Many rows -------------------------------------------------------------------------------------


def test_packed_columns_give_the_same(tmp_path, monkeypatch):
  for name in ('fairseq', 'kaldi', 'audiofolder'):
    path = trees.TREES[name](tmp_path / name)['path']
    plain = open_source(str(path))
    monkeypatch.setattr(rows, 'PACKED_FROM', 1)
    packed = open_source(str(path))
    monkeypatch.undo()
    assert not isinstance(packed.table.ids, list) and isinstance(plain.table.ids, list)
    assert packed.fingerprint() == plain.fingerprint()
    assert list(packed) == list(plain)
    np.testing.assert_array_equal(packed.recordings(), plain.recordings())
    assert packed.classes('transcript') == plain.classes('transcript')


def test_an_index_of_segments(tmp_path):
  source = open_source(str(trees.kaldi(tmp_path / 'k')['path']))
  index.write_files(source, tmp_path / index.FILE)
  indexed = open_source(str(tmp_path))
  assert indexed.fingerprint() == source.fingerprint()
  np.testing.assert_array_equal(indexed.recordings(), source.recordings())
  for k in range(3):
    np.testing.assert_array_equal(decode(indexed[k], sample_rate=trees.RATE), trees.clip(k))


def test_places_are_part_of_the_fingerprint(tmp_path):
  made = trees.kaldi(tmp_path)
  before = open_source(str(made['path'])).fingerprint()
  change(tmp_path / 'segments', '0.50 1.25', '0.60 1.25')
  assert open_source(str(made['path'])).fingerprint() != before
  assert re.fullmatch('[0-9a-f]{16}', before)


def test_a_malformed_manifest_in_a_folder_is_not_left_out(tmp_path):
  wav = tmp_path / 'a.wav'
  soundfile.write(wav, np.zeros(1600), 16_000)
  (tmp_path / 'train.tsv').write_text(f'{tmp_path}\na.wav\t1600\n')
  (tmp_path / 'valid.tsv').write_text(f'{tmp_path}\na.wav 1600\n')
  with pytest.raises(InputError, match=r'valid\.tsv, line 2: .* is not `path TAB number'):
    open_source(str(tmp_path))
