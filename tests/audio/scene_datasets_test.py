"""Data sets of scenes, emotions, languages, genres and notes, on small folders as downloaded."""

import json

import pytest

from research.audio import datasets
from research.audio.decode import AudioError, decode
from research.audio.sources import open_source
from research.errors import InputError


def readable(source):
  for example in source:
    assert len(decode(example, sample_rate=16000)) > 0


US8K = 'slice_file_name,fsID,start,end,salience,fold,classID,class'


@pytest.fixture
def urbansound8k(tmp_path, write):
  root = tmp_path / 'UrbanSound8K'
  rows = [
    '100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark',
    '100263-2-0-117.wav,100263,58.5,62.5,1,10,2,children_playing',
    '99812-1-2-0.wav,99812,159.5,163.5,2,1,1,car_horn',
  ]
  (root / 'metadata').mkdir(parents=True)
  (root / 'metadata' / 'UrbanSound8K.csv').write_text('\n'.join([US8K, *rows]) + '\n')
  for row in rows:
    write(root / 'audio' / f'fold{row.split(",")[5]}' / row.split(',')[0], 0.1, 44100, channels=2)
  return root


def test_urbansound8k(urbansound8k):
  source = open_source('urbansound8k', root=urbansound8k.parent)
  assert source.classes('label') == ('car_horn', 'children_playing', 'dog_bark')  # By number.
  assert source.column('fold') == ['5', '10', '1']
  assert source[0].id == 'audio/fold5/100032-3-0-0.wav'
  assert source[2].columns == {
    'label': 'car_horn', 'fold': '1', 'fsID': '99812', 'salience': '2',
  }  # fmt: skip
  readable(source)


@pytest.mark.parametrize(
  'table, message',
  [
    ('slice_file_name,fsID,fold\na.wav,1,1\n', r"UrbanSound8K.csv has no column 'salience'"),
    (f'{US8K}\n../../../x.wav,1,0,1,1,1,3,dog_bark\n', r'goes up by "\.\."'),
    (f'{US8K}\na.wav,1,0,1,1,1/../../..,3,dog_bark\n', r'goes up by "\.\."'),
  ],
)
def test_urbansound8k_with_a_bad_table(urbansound8k, table, message):
  (urbansound8k / 'metadata' / 'UrbanSound8K.csv').write_text(table)
  with pytest.raises(InputError, match=message):
    open_source('urbansound8k', root=urbansound8k)


def test_a_row_without_audio_stays_and_its_file_is_named(urbansound8k):
  (urbansound8k / 'audio' / 'fold10' / '100263-2-0-117.wav').unlink()
  source = open_source('urbansound8k', root=urbansound8k)
  assert len(source) == 3
  with pytest.raises(AudioError, match='100263-2-0-117'):
    decode(source[1], sample_rate=16000)


@pytest.fixture
def crema_d(tmp_path, write):
  root = tmp_path / 'CREMA-D'
  for name in ('1001_DFA_ANG_XX', '1002_IEO_SAD_LO', '1009_MTI_NEU_XX', '1040_ITH_SAD_X'):
    write(root / 'AudioWAV' / f'{name}.wav')
  write(root / 'AudioMP3' / '1001_DFA_ANG_XX.mp3', 0.3)
  return root


def test_crema_d(crema_d):
  source = open_source('crema_d', root=crema_d.parent)
  assert source.column('label') == ['ANG', 'SAD', 'NEU', 'SAD']
  assert source.column('speaker') == ['1001', '1002', '1009', '1040']
  assert source.column('split') == ['test', 'train', 'valid', 'train']
  assert source[1].columns['sentence'] == 'IEO' and source[1].columns['level'] == 'LO'
  assert source.classes('label') == ('ANG', 'DIS', 'FEA', 'HAP', 'NEU', 'SAD')
  readable(source)


def test_crema_d_without_a_folder_of_audio(tmp_path, write):
  for name in ('1001_DFA_ANG_XX', '1002_IEO_SAD_LO'):
    write(tmp_path / 'cremad' / f'{name}.wav')
  assert open_source('crema_d', root=tmp_path).column('label') == ['ANG', 'SAD']


def test_the_split_of_crema_d_is_of_91_actors(tmp_path, write):
  for actor in range(1001, 1092):
    write(tmp_path / 'CREMA-D' / 'AudioWAV' / f'{actor}_DFA_ANG_XX.wav', 0.01)
  source = open_source('crema_d', root=tmp_path)
  # EVAR evar/utils/make_metadata.py: 63, 9 and 19 of 91.
  assert [len(source.split(s)) for s in ('train', 'valid', 'test')] == [63, 9, 19]


@pytest.mark.parametrize('name', ['1001_DFA_JOY_XX', '1001_DFA', '1092_DFA_ANG_XX', 'x'])
def test_crema_d_with_another_name(crema_d, write, name):
  write(crema_d / 'AudioWAV' / f'{name}.wav')
  with pytest.raises(InputError, match=f'AudioWAV/{name}.wav is not named ACTOR_SENTENCE'):
    open_source('crema_d', root=crema_d)


@pytest.fixture
def gtzan(tmp_path, write):
  root = tmp_path / 'gtzan'
  for genre in ('blues', 'rock'):
    for k in range(4):
      write(root / 'genres' / genre / f'{genre}.{k:05d}.wav', 0.1, 22050)
  for part, k in (('train', 0), ('valid', 1), ('test', 2)):
    lines = [f'{g}/{g}.{k:05d}.wav' for g in ('blues', 'rock')]
    (root / f'{part}_filtered.txt').write_text('\n'.join(lines) + '\n')
  return root


def test_gtzan(gtzan):
  source = open_source('gtzan', root=gtzan.parent)
  assert source.classes('label') == ('blues', 'rock')
  assert source.column('split') == ['train', 'valid', 'test', ''] * 2
  assert source.id(0) == 'genres/blues/blues.00000.wav'
  readable(source)
  # The lists may be next to the genre folders, which have other parents in some copies.
  for part in ('train', 'valid', 'test'):
    (gtzan / f'{part}_filtered.txt').rename(gtzan / 'genres' / f'{part}_filtered.txt')
  (gtzan / 'genres').rename(gtzan / 'genres_original')
  moved = open_source('gtzan', root=gtzan)
  assert moved.column('split') == source.column('split')
  (gtzan / 'genres_original').rename(gtzan.parent / 'genres')
  assert open_source('gtzan', root=gtzan.parent).id(0) == 'blues/blues.00000.wav'


def test_gtzan_without_its_lists(gtzan):
  (gtzan / 'valid_filtered.txt').unlink()
  with pytest.raises(InputError, match=r"lacks valid_filtered\.txt.*\{'lists': False\}"):
    open_source('gtzan', root=gtzan)
  source = open_source({'name': 'gtzan', 'args': {'lists': False}}, root=gtzan)
  assert len(source) == 8 and source.column_names == ('label',)


def test_inconsistent_gtzan_lists(gtzan, write):
  lists = gtzan / 'test_filtered.txt'
  lists.write_text('blues/blues.00000.wav\n')
  with pytest.raises(InputError, match=r'blues.00000.wav is also in train_filtered.txt'):
    open_source('gtzan', root=gtzan)
  lists.write_text('../../blues.00000.wav\n')
  with pytest.raises(InputError, match=r"'../../blues.00000.wav' is not GENRE/GENRE.NNNNN.wav"):
    open_source('gtzan', root=gtzan)
  lists.write_text('rock/rock.00099.wav\n')  # Listed without a file: a row, counted as bad.
  source = open_source('gtzan', root=gtzan)
  assert source.split('test').id(0) == 'genres/rock/rock.00099.wav'
  with pytest.raises(AudioError, match=r'rock\.00099'):
    decode(source.split('test')[0], sample_rate=16000)
  write(gtzan / 'genres' / 'rock' / 'song.wav')
  with pytest.raises(InputError, match=r'genres/rock/song.wav is not GENRE/GENRE.NNNNN'):
    open_source('gtzan', root=gtzan)


def test_voxforge(tmp_path, write):
  root = tmp_path / 'VoxForge'
  write(root / 'de' / 'guenter-20140214-afn' / 'wav' / 'de5-001.wav')
  write(root / 'SpeechCorpus' / 'Trunk' / 'anonymous-20080504-qvg' / 'flac' / 'a0013.flac')
  write(root / 'pt' / 'ana-20090101-abc' / 'wav' / '1.wav')  # None of the six languages.
  source = open_source('voxforge', root=tmp_path)
  assert source.column('label') == ['en', 'de']
  assert source.column('submission') == ['en/anonymous-20080504-qvg', 'de/guenter-20140214-afn']
  assert source.column('speaker') == ['', 'guenter']
  assert 'split' not in source.column_names
  assert source.classes('label') == ('de', 'en', 'es', 'fr', 'it', 'ru')
  readable(source)


def test_voxforge_with_the_table_of_evar(tmp_path, write):
  root = tmp_path / 'voxforge'
  for k in range(3):
    write(root / f'someone{k}-20140214-afn' / 'wav' / f'{k}.wav')
  table, header = root / 'voxforge.csv', 'file_name,label,split\n'
  parts = ['train', 'valid', 'test']
  rows = [f'someone{k}-20140214-afn/wav/{k}.wav,it,{part}\n' for k, part in enumerate(parts)]
  table.write_text(header + ''.join(rows))
  source = open_source('voxforge', root=root)
  assert source.column('label') == ['it'] * 3 and source.column('split') == parts
  assert source.column('submission')[2] == 'it/someone2-20140214-afn'
  readable(source)
  table.write_text(f'{header}../../x.wav,it,train\n')
  with pytest.raises(InputError, match=r'goes up by "\.\."'):
    open_source('voxforge', root=root)
  table.write_text('file_name,label\na.wav,it\n')
  with pytest.raises(InputError, match=r"voxforge.csv has no column 'split'"):
    open_source('voxforge', root=root)


def test_voxforge_without_languages(tmp_path, write):
  write(tmp_path / 'voxforge' / 'de' / 'wav' / 'de5-001.wav')
  with pytest.raises(InputError, match='no audio in LANGUAGE/…/SUBMISSION/wav/'):
    open_source('voxforge', root=tmp_path)


def test_surge(tmp_path, write):
  root = tmp_path / 'surge'
  for preset in ('surge-patches-A-velocity64', 'surge-patches-B-velocity64'):
    for note in (9, 60, 100):
      write(root / preset / f'{note:02d}.ogg', 0.1, 44100, format='OGG', subtype='VORBIS')
  source = open_source('surge', root=tmp_path)
  assert source.classes('label') == ('9', '60', '100')  # As numbers.
  assert set(source.column('preset')) == {p.name for p in root.iterdir()}
  assert 'split' not in source.column_names
  readable(source)
  table = root / 'dataset_surge_tone_splits.csv'
  table.write_text(
    'tone,split\nsurge-patches-A-velocity64,train\nsurge-patches-B-velocity64,test\n'
  )
  assert open_source('surge', root=root).column('split') == ['train'] * 3 + ['test'] * 3
  table.write_text('tone,split\nsurge-patches-A-velocity64,train\n')
  with pytest.raises(InputError, match="the preset 'surge-patches-B-velocity64'"):
    open_source('surge', root=root)
  table.write_text('tone\nsurge-patches-A-velocity64\n')
  with pytest.raises(InputError, match="has no column 'split'"):
    open_source('surge', root=root)
  table.unlink()
  write(root / 'surge-patches-A-velocity64' / 'c4.wav')
  with pytest.raises(InputError, match=r'velocity64/c4.wav is not PRESET/NOTE'):
    open_source('surge', root=root)


def test_libricount(tmp_path, write):
  root = tmp_path / 'LibriCount10-0dB'
  for name in ('0_a', '10_b', '2_c', '2_d'):
    write(root / 'test' / f'{name}.wav')
    (root / 'test' / f'{name}.json').write_text('[]')
  source = open_source('libricount', root=tmp_path)
  assert source.column('label') == ['0', '10', '2', '2']
  assert source.classes('label') == tuple(str(n) for n in range(11))
  readable(source)
  for name in ('11_e', 'e'):
    write(root / 'test' / f'{name}.wav')
    with pytest.raises(InputError, match=f'test/{name}.wav is not named COUNT_NAME'):
      open_source('libricount', root=root)
    (root / 'test' / f'{name}.wav').unlink()


V1 = (
  'bed', 'bird', 'cat', 'dog', 'down', 'eight', 'five', 'four', 'go', 'happy', 'house', 'left',
  'marvin', 'nine', 'no', 'off', 'on', 'one', 'right', 'seven', 'sheila', 'six', 'stop', 'three',
  'tree', 'two', 'up', 'wow', 'yes', 'zero',
)  # fmt: skip


@pytest.mark.parametrize('version, folder', [(1, 'v0.01'), (2, 'v0.02')])
def test_versions_of_speech_commands(tmp_path, write, version, folder):
  root = tmp_path / f'speech_commands_{folder}'
  words = V1 if version == 1 else (*V1, 'backward', 'follow', 'forward', 'learn', 'visual')
  for word in words:
    for k in range(3):
      write(root / word / f'{k:08x}_nohash_0.wav', 0.01)
  for k, part in enumerate(('validation', 'testing')):
    lines = [f'{w}/{k:08x}_nohash_0.wav' for w in words]
    (root / f'{part}_list.txt').write_text('\n'.join(lines) + '\n')
  write(root / '_background_noise_' / 'hum.wav', 6.0)
  name = 'speech_commands_v1' if version == 1 else 'speech_commands'
  source = open_source({'name': name}, root=tmp_path)
  assert source.name == name and len(source.classes('label')) == len(words)
  twelve = open_source(f'{"speech_commands_v1" if version == 1 else name}_12', root=tmp_path)
  assert len(twelve.classes('label')) == 12 and '_unknown_' in twelve.column('label')
  other = 'speech_commands_12' if version == 1 else 'speech_commands_v1_12'
  with pytest.raises(InputError, match=f'is version 0.0{version} of Speech Commands'):
    open_source(other, root=root)
  with pytest.raises(InputError, match='has the versions 1 and 2; got version=3'):
    open_source({'name': 'speech_commands', 'args': {'version': 3}}, root=root)


@pytest.fixture
def hear(tmp_path, write):
  """make(multilabel, folds) is the folder of a HEAR task with six clips."""

  def make(several=False, folds=False, **changed):
    root = tmp_path / 'tasks' / 'mridangam_tonic-v1.5-full'
    parts = ['fold00', 'fold01', 'fold02'] if folds else ['train', 'valid', 'test']
    about = {
      'task_name': 'mridangam_tonic', 'version': 'v1.5', 'embedding_type': 'scene',
      'prediction_type': 'multilabel' if several else 'multiclass',
      'split_mode': 'new_split_kfold' if folds else 'trainvaltest', 'splits': parts,
      'sample_duration': 0.8, 'evaluation': ['mAP' if several else 'top1_acc', 'd_prime'],
    }  # fmt: skip
    for k, part in enumerate(parts):
      labels = {}
      for i, label in enumerate((10, 9)):  # Numbers, as of pitches; classes are not sorted as text.
        labels[f'{part}{i}.wav'] = [label, 1] if several and k else [label]
        for rate in (16000, 48000):
          write(root / str(rate) / part / f'{part}{i}.wav', 0.1, rate)
      (root / f'{part}.json').write_text(json.dumps(labels))
    (root / 'labelvocabulary.csv').write_text('idx,label\n0,1\n1,9\n2,10\n')
    (root / 'task_metadata.json').write_text(json.dumps(about | changed))
    return root

  return make


def test_a_hear_task(hear):
  root = hear()
  source = open_source(str(root))
  assert source.name == 'mridangam_tonic' and source.classes('label') == ('1', '9', '10')
  assert source.column('label') == ['10', '9'] * 3
  assert source.column('split') == ['train', 'train', 'valid', 'valid', 'test', 'test']
  assert source[0].path.endswith('16000/train/train0.wav')
  readable(source)
  full = open_source({'name': str(root), 'args': {'rate': 48000}})
  assert full[0].path.endswith('48000/train/train0.wav')
  with pytest.raises(InputError, match=r'no folder of audio 22050 .it has: \[16000, 48000\]'):
    open_source({'name': str(root), 'args': {'rate': 22050}})


def test_a_hear_task_with_folds_and_several_labels(hear):
  source = open_source(str(hear(several=True, folds=True)))
  assert source.column('label') == [['10'], ['9'], ['10', '1'], ['9', '1'], ['10', '1'], ['9', '1']]
  assert source.column('fold') == [f'fold0{k}' for k in (0, 0, 1, 1, 2, 2)]


def test_hear_tasks_that_cannot_be_read(hear, tmp_path):
  with pytest.raises(InputError, match=r'mridangam_tonic is a timestamp task .*"scene"'):
    open_source(str(hear(embedding_type='event')))
  with pytest.raises(InputError, match="prediction_type 'ranking' is neither"):
    open_source(str(hear(prediction_type='ranking')))
  with pytest.raises(InputError, match="lacks 'splits'"):
    open_source(str(hear(splits=[])))
  with pytest.raises(InputError, match=r'other.json cannot be read: No such file'):
    open_source(str(hear(splits=['other'])))
  root = hear()
  (root / 'test.json').write_text('{"a.wav": ["11"]}')
  with pytest.raises(
    InputError, match=r"a.wav has label '11', which is not in labelvocabulary.csv"
  ):
    open_source(str(root))
  (root / 'test.json').write_text('{"a.wav": ["9", "10"]}')
  with pytest.raises(InputError, match=r'a.wav has 2 labels in a single-label task'):
    open_source(str(root))
  (root / 'test.json').write_text('{"../../../a.wav": ["9"]}')
  with pytest.raises(InputError, match=r'goes up by "\.\."'):
    open_source(str(root))
  (root / 'test.json').write_text('{')
  with pytest.raises(InputError, match=r'test.json is not JSON'):
    open_source(str(root))
  (root / 'labelvocabulary.csv').write_text('number,label\n0,1\n')
  with pytest.raises(InputError, match="has no column 'idx'"):
    open_source(str(root))


def test_clip_lengths_are_those_of_evar():
  """EVAR evar/ds_tasks.py; LibriCount's clips are five seconds long."""
  lengths = {
    'urbansound8k': 4.0, 'esc50': 5.0, 'speech_commands_v1': 1.0, 'speech_commands': 1.0,
    'voxforge': 5.8, 'crema_d': 2.5, 'gtzan': 30.0, 'nsynth': 4.0, 'surge': 4.0, 'libricount': 5.0,
  }  # fmt: skip
  assert {n: datasets.DATASETS[n].seconds for n in lengths} == lengths
