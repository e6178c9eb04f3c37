"""Data sets of captions, on small folders as downloaded."""

import json

import numpy as np
import pytest

from research.audio.decode import decode
from research.audio.fields import make
from research.audio.pipeline import eval_batches
from research.audio.sources import open_source
from research.errors import InputError


def ids(source):
  return [source.id(i) for i in range(len(source))]


def readable(source):
  for example in source:
    assert len(decode(example, sample_rate=16000)) > 0


AUDIOCAPS = 'audiocap_id,youtube_id,start_time,caption'


@pytest.fixture
def audiocaps(tmp_path, write):
  """A copy of the repository, and clips as different tools name them."""
  root = tmp_path / 'audiocaps'
  lines = {
    'train': [
      '91139,r1nicOVtvkQ,130,A woman talks nearby as water pours',
      '58146,-JP6sEKvJpw,30,"Engine noise, then a horn"',
      '1,gone00000000,0,A clip that is no longer there',
      '2,nowords00000,20, ',
    ],
    'val': [f'{100 + i},rqfQRErjfk8,170,caption {i}' for i in range(5)],
    'test': [f'{200 + i},AfterTheRain,7.5,said {i}' for i in range(5)],
  }
  for folder, change in (('dataset', ''), ('dataset2.0', ' of version 2')):
    (root / folder).mkdir(parents=True)
    for part, rows in lines.items():
      text = '\n'.join([AUDIOCAPS, *(row + change for row in rows)]) + '\n'
      (root / folder / f'{part}.csv').write_text(text)
  for name in (
    'train/r1nicOVtvkQ.wav', 'train/58146.wav', 'nowords00000_20.flac', 'val/Yrqf.wav',
    'val/YrqfQRErjfk8_170.wav', 'waveforms/test/203.wav',
  ):  # fmt: skip
    write(root / name)
  return root


def test_audiocaps(audiocaps, caplog):
  source = open_source('audiocaps', root=audiocaps.parent)
  assert ids(source) == [
    'train/r1nicOVtvkQ_130', 'train/-JP6sEKvJpw_30', 'val/rqfQRErjfk8_170', 'test/AfterTheRain_7.5',
  ]  # fmt: skip
  assert source.column('caption') == [
    'A woman talks nearby as water pours',
    'Engine noise, then a horn',
    [f'caption {i}' for i in range(5)],
    [f'said {i}' for i in range(5)],
  ]
  assert source.column('ytid')[1] == '-JP6sEKvJpw' and source.column('start')[3] == '7.5'
  assert source.table.absent == {'train': 1}
  assert '4 clips; 1 are left out for they have no audio file (1 of train)' in caplog.text
  assert '1 for they have no caption' in caplog.text
  assert len(source.split('valid')) == len(source.split('val')) == 1
  readable(source)
  # Evaluation reads the first of several captions.
  fields = make(dict(text=dict(name='captions', args=dict(max_tokens=16))))
  batch = next(iter(eval_batches(source.split('val'), batch_size=1, fields=fields)))
  assert bytes(batch['text'][0][batch['text_mask'][0]].astype(np.uint8)) == b'caption 0'


def test_audiocaps_without_audio_or_with_another_table(audiocaps):
  for file in [*audiocaps.rglob('*.wav'), *audiocaps.rglob('*.flac')]:
    file.unlink()
  message = r'6 clips are listed without an audio file and 0 without a caption.*r1nicOVtvkQ\.wav'
  with pytest.raises(InputError, match=message):
    open_source('audiocaps', root=audiocaps)
  (audiocaps / 'train.csv').write_text('youtube_id,caption\na,b\n')
  with pytest.raises(InputError, match=r"train.csv has no column 'audiocap_id'"):
    open_source('audiocaps', root=audiocaps)
  (audiocaps / 'train.csv').write_text(f'{AUDIOCAPS}\n1,a,soon,b\n')
  with pytest.raises(InputError, match=r"train.csv, line 2: 'soon' is not a number of seconds"):
    open_source('audiocaps', root=audiocaps)


@pytest.fixture
def clotho(tmp_path, write):
  root = tmp_path / 'clotho_v2.1'
  header = ','.join(['file_name', *(f'caption_{i}' for i in range(1, 6))])
  rows = {
    'development': ['Distorted AM Radio noise.wav', 'Paper_Parchment Rustling.wav'],
    'validation': ['Santa Motor.wav'],
    'evaluation': ['Santa Motor.wav', 'lost (1).wav'],
  }
  (root / 'clotho_csv_files').mkdir(parents=True)
  for part, names in rows.items():
    lines = [f'{name},"One, of {name}",two,three,four,five' for name in names]
    table = root / 'clotho_csv_files' / f'clotho_captions_{part}.csv'
    table.write_text('\n'.join([header, *lines]) + '\n')
    for name in names:
      if 'lost' not in name:
        write(root / 'clotho_audio_files' / part / name, 0.1, 44100, seed=len(part))
  return root


def test_clotho(clotho, caplog):
  source = open_source('clotho', root=clotho.parent)
  assert ids(source) == [
    'development/Distorted AM Radio noise.wav',
    'development/Paper_Parchment Rustling.wav',
    'evaluation/Santa Motor.wav',
    'validation/Santa Motor.wav',
  ]
  # Of two files of one name each part has its own.
  assert [source[i].path.split('/')[-2] for i in (2, 3)] == ['evaluation', 'validation']
  first = ['One, of Santa Motor.wav', 'two', 'three', 'four', 'five']
  assert source.split('test').column('caption') == [first]
  sizes = {s: len(source.split(s)) for s in ('train', 'valid', 'test', 'development')}
  assert sizes == {'train': 2, 'valid': 1, 'test': 1, 'development': 2}
  assert source.table.absent == {'evaluation': 1} and '1 of evaluation' in caplog.text
  readable(source)


def test_wavcaps(tmp_path, write):
  root = tmp_path / 'WavCaps'
  parts = {
    'AudioSet_SL/as_final.json': [
      dict(id='Yb0RFKhbpFJA.wav', caption='Wind blows.', duration=10.0)
    ],
    'FreeSound/fsd_final.json': [
      dict(id='2219', caption='A drum.', duration=3.2, href='/people/x', tags=[], title='a.wav'),
      dict(id='180913', caption='', duration=1.0),
      dict(id='7', caption='Lost.', duration=1.0),
    ],
    'SoundBible/sb_final.json': [dict(id=2219, caption='Airplane landing.', duration=14.1)],
  }
  for name, data in parts.items():
    file = root / 'json_files' / name
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(dict(num_captions_per_audio=1, data=data)))
  for name in ('AudioSet_SL/Yb0RFKhbpFJA', 'FreeSound/180913', 'FreeSound/2219', 'SoundBible/2219'):
    write(root / 'waveforms' / f'{name}.flac')
  source = open_source('wavcaps', root=tmp_path)
  assert dict(zip(ids(source), source.column('caption'))) == {
    'AudioSet_SL/Yb0RFKhbpFJA': 'Wind blows.',
    'FreeSound/2219': 'A drum.',
    'SoundBible/2219': 'Airplane landing.',
  }
  assert [e.path.split('/')[-2] for e in source] == source.column('part')
  assert source.table.absent == {'': 1}
  readable(source)
  (root / 'json_files' / 'SoundBible' / 'sb_final.json').write_text('{"data": [{"id": 1}]}')
  with pytest.raises(InputError, match=r'sb_final.json, clip 1 of "data": expected "id"'):
    open_source('wavcaps', root=tmp_path)
  (root / 'json_files' / 'SoundBible' / 'sb_final.json').write_text('[]')
  with pytest.raises(InputError, match=r'sb_final.json has no list "data"'):
    open_source('wavcaps', root=tmp_path)


def test_musiccaps(tmp_path, write):
  root = tmp_path / 'MusicCaps'
  root.mkdir()
  rows = [
    'ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,'
    'is_audioset_eval',
    '-0Gj8-vB1q4,30,40,"/m/0140xf,/m/02cjck","[\'low quality\', \'sustained strings\']",'
    '"The low quality recording features a ballad, sung softly.",4,False,True',
    "-0SdAVK79lg,30,40,/m/0155w,['guitar song'],This song features an electric guitar.,0,False,"
    'False',
    'lostlostlost,0,10,,[],Nothing.,0,True,False',
  ]
  (root / 'musiccaps-public.csv').write_text('\n'.join(rows) + '\n')
  write(root / 'data' / '[-0Gj8-vB1q4]-[30-40].wav')
  write(root / 'data' / '-0SdAVK79lg.wav')
  source = open_source('musiccaps', root=tmp_path)
  assert ids(source) == ['-0Gj8-vB1q4_30', '-0SdAVK79lg_30']
  assert source.column('split') == ['eval', 'train'] and len(source.split('test')) == 1
  assert source[0].columns['aspects'] == ['low quality', 'sustained strings']
  assert source[0].columns['mids'] == ['/m/0140xf', '/m/02cjck']
  assert source[1].columns['caption'] == 'This song features an electric guitar.'
  assert source.table.absent == {'train': 1}
  readable(source)
  bad = rows[0] + '\na,0,10,,__import__(0),text,0,True,False\n'
  (root / 'musiccaps-public.csv').write_text(bad)
  with pytest.raises(InputError, match=r'line 2: aspect_list is .*expected a list of texts'):
    open_source('musiccaps', root=tmp_path)
