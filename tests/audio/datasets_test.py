"""Every named data set, on a small folder in its published layout."""

import json

import numpy as np
import pytest

from research.audio import datasets
from research.audio.batching import label_weights
from research.audio.decode import decode
from research.audio.fields import make
from research.audio.pipeline import train_batches
from research.audio.sources import open_source
from research.errors import InputError


def by_id(source, column):
  return dict(zip((source.id(i) for i in range(len(source))), source.column(column)))


def readable(source):
  for example in source:
    assert len(decode(example, sample_rate=16000)) > 0


@pytest.fixture
def librispeech(tmp_path, write):
  root = tmp_path / 'LibriSpeech'
  for subset, speaker, chapter in (
    ('train-clean-100', '19', '198'),
    ('train-other-500', '20', '205'),
    ('dev-clean', '1272', '128104'),
    ('test-other', '367', '130732'),
  ):
    folder = root / subset / speaker / chapter
    lines = []
    for k in range(2):
      write(folder / f'{speaker}-{chapter}-{k:04d}.flac', 0.1 + 0.1 * k)
      lines.append(f'{speaker}-{chapter}-{k:04d} WORDS OF {speaker} NUMBER {k}')
    (folder / f'{speaker}-{chapter}.trans.txt').write_text('\n'.join(lines) + '\n')
  (root / 'SPEAKERS.TXT').write_text(
    '; Some comments\n;ID  |SEX| SUBSET           |MINUTES| NAME\n'
    '19   | F | train-clean-100  | 25.19 | Kara Shallenberg\n'
    '20   | F | train-other-500  | 30.07 | Gord | Mackenzie\n'
    '1272 | M | dev-clean        |  8.01 | A\n367  | M | test-other | 8.00 | B\n'
  )
  (root / 'CHAPTERS.TXT').write_text('; nothing\n')
  return root


def test_librispeech(librispeech):
  source = open_source('librispeech', root=librispeech.parent)
  assert len(source) == 8
  example = source.split('dev-clean')[1]
  assert example.id == 'dev-clean/1272/128104/1272-128104-0001.flac'
  assert example.columns == {
    'split': 'dev-clean',
    'speaker': '1272',
    'chapter': '128104',
    'sex': 'M',
    'transcript': 'WORDS OF 1272 NUMBER 1',
  }
  assert len(source.split('train')) == 4
  assert len(source.split('train-clean-100+valid')) == 4
  assert open_source('librispeech', root=librispeech, split='test').column('speaker') == ['367'] * 2
  assert source.classes('speaker') == ('19', '20', '367', '1272')
  readable(source)
  with pytest.raises(InputError, match=r"Unknown split .* Did you mean 'train'"):
    source.split('tran')


def test_libri_light(tmp_path, write):
  root = tmp_path / 'unlab-60k'
  audio = write(root / 'small' / '960' / 'book_one_mp3' / 'ch1.flac', 3.0)
  write(root / 'medium' / '12' / 'book_two' / 'ch9.flac', 1.0)
  (root / 'small' / '960' / 'book_one_mp3' / 'ch1.json').write_text(
    json.dumps(
      {
        'speaker': '960',
        'book_meta': {'id': '319', 'meta_genre': 'Literature', 'genre': ['History']},
        'snr': 5.391,
        'voice_activity': [[0.25, 0.75], [1.0, 1.25], [1.5, 2.5], [2.75, 3.0]],
      }
    )
  )
  source = open_source('libri_light', root=tmp_path)
  assert by_id(source, 'genre') == {
    'small/960/book_one_mp3/ch1.flac': 'Literature',
    'medium/12/book_two/ch9.flac': '',
  }
  assert source.column('speaker') == ['960', '12']
  assert source.column('snr') == ['5.391', '']
  assert [len(source.split(s)) for s in ('unlab-580', 'unlab-5.8k', 'medium')] == [1, 2, 1]
  spec = {'name': 'libri_light', 'args': {'voice_seconds': 1.0}}
  voiced = open_source(spec, root=tmp_path, split='small')
  np.testing.assert_allclose(voiced.durations(), [1.0, 1.0, 0.25])
  got = decode(voiced[0], sample_rate=16000)
  np.testing.assert_array_equal(got, audio[4000:20000])  # 0.25 to 1.25 s


def test_librispeech_finetuning(tmp_path, write):
  root = tmp_path / 'librispeech_finetuning'
  for folder in ('1h/0/clean/3526/175658', '1h/3/other/82/1', '9h/other/1943/2'):
    speaker, chapter = folder.split('/')[-2:]
    write(root / folder / f'{speaker}-{chapter}-0000.flac')
    (root / folder / f'{speaker}-{chapter}.trans.txt').write_text(
      f'{speaker}-{chapter}-0000 SAID BY {speaker}\n'
    )
  (root / 'phones').mkdir()
  source = open_source('librispeech_finetuning', root=root)
  assert source.column('condition') == ['clean', 'other', 'other']
  assert source.column('transcript') == ['SAID BY 3526', 'SAID BY 82', 'SAID BY 1943']
  sizes = {s: len(source.split(s)) for s in ('10min', '1h', '9h', '10h')}
  assert sizes == {'10min': 1, '1h': 2, '9h': 1, '10h': 3}


def test_ljspeech_libritts_and_vctk(tmp_path, write):
  lj = tmp_path / 'LJSpeech-1.1'
  write(lj / 'wavs' / 'LJ001-0002.wav', rate=22050)
  (lj / 'metadata.csv').write_text(
    'LJ001-0002|in 1455, "so"|in fourteen fifty-five, "so"\nLJ001-0003|a|a\n'
  )
  source = open_source('ljspeech', root=tmp_path)
  assert source.column('transcript') == ['in fourteen fifty-five, "so"'] and len(source) == 1
  assert source[0].columns['chapter'] == 'LJ001'
  readable(source)
  (lj / 'metadata.csv').write_text('LJ001-0002|a\n')
  with pytest.raises(InputError, match=r'line 1: 2 fields, expected id\|text\|normalized'):
    open_source('ljspeech', root=lj)

  tts = tmp_path / 'LibriTTS'
  for subset, speaker, chapter in (('train-clean-100', '19', '198'), ('dev-other', '20', '205')):
    folder = tts / subset / speaker / chapter
    write(folder / f'{speaker}_{chapter}_000000_000000.wav', rate=24000)
  (tts / 'train-clean-100/19/198/19_198.trans.tsv').write_text(
    '19_198_000000_000000\tMr. Ay, 2\tMister Ay, two\n'
  )
  for kind in ('normalized', 'original'):
    (folder / f'20_205_000000_000000.{kind}.txt').write_text(f'Be {kind}\n')
  source = open_source('libritts', root=tmp_path)
  assert sorted(source.column('transcript')) == ['Be normalized', 'Mister Ay, two']
  assert sorted(source.column('text')) == ['Be original', 'Mr. Ay, 2']
  assert source.split('train').column('speaker') == ['19'] and len(source.split('valid')) == 1
  readable(source)

  vctk = tmp_path / 'VCTK-Corpus-0.92'
  for mic in (1, 2):
    write(vctk / 'wav48_silence_trimmed' / 'p225' / f'p225_001_mic{mic}.flac', rate=48000)
  (vctk / 'txt' / 'p225').mkdir(parents=True)
  (vctk / 'txt/p225/p225_001.txt').write_text('Please call Stella.\n')
  (vctk / 'speaker-info.txt').write_text('ID  AGE  GENDER  ACCENTS\np225  23  F    English    S\n')
  source = open_source('vctk', root=tmp_path)
  assert source[0].columns == {
    'speaker': 'p225', 'transcript': 'Please call Stella.', 'sentence': '001', 'sex': 'F',
    'age': '23', 'accent': 'English',
  }  # fmt: skip
  assert len(source) == 1 and source.id(0).endswith('_mic1.flac')
  second = open_source({'name': 'vctk', 'args': {'mic': 2}}, root=tmp_path)
  assert second.id(0).endswith('_mic2.flac')
  readable(source)


def test_voxpopuli(tmp_path, write):
  root = tmp_path / 'voxpopuli'
  names = ('20180612-0900-PLENARY-13-en_20180612-18:48:23_0', '20090112-0900-PLENARY-11-en_1')
  for split, name in zip(('train', 'dev'), names):
    folder = root / 'transcribed_data' / 'en'
    write(folder / name[:4] / f'{name}.ogg', 0.3, format='OGG', subtype='VORBIS')
    (folder / f'asr_{split}.tsv').write_text(
      'id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\tis_gold_transcript\taccent\n'
      f'{name}\t"Thank you.\tthank you\t125023\t{split}\tfemale\tTrue\tNone\n'
    )
  for part in ('unlabelled_data/en/2019', 'unlabelled_data/de/2019', 'raw_audios/en/2019'):
    write(root / part / '20190114_en_3.ogg', 0.3, format='OGG', subtype='VORBIS')
  source = open_source('voxpopuli', root=tmp_path)
  assert len(source.split('train+dev')) == 2
  assert source.split('dev')[0].columns == {
    'split': 'dev',
    'language': 'en',
    'year': '2009',
    'transcript': 'thank you',
    'speaker': '125023',
    'sex': 'female',
  }
  assert source.split('unlabelled').column('language') == ['de', 'en']
  assert source.split('raw').column('year') == ['2019']
  assert len(open_source({'name': 'voxpopuli', 'args': {'language': 'en'}}, root=root)) == 4
  readable(source)


def test_voxceleb1(tmp_path, write):
  root = tmp_path / 'vox1'
  listed = []
  for k, (speaker, part) in enumerate([('id10001', '1'), ('id10001', '3'), ('id10270', '2')]):
    write(root / 'wav' / speaker / f'video{k}' / '00001.wav')
    listed.append(f'{part} {speaker}/video{k}/00001.wav')
  (root / 'iden_split.txt').write_text('\n'.join(listed) + '\n')
  (root / 'vox1_meta.csv').write_text(
    'VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n'
    'id10001\tA.J._Buckley\tm\tIreland\tdev\nid10270\tEartha_Kitt\tf\tUSA\ttest\n'
  )
  source = open_source('voxceleb1', root=tmp_path)
  assert source.column('split') == ['train', 'test', 'valid']
  assert source.column('nationality') == ['Ireland', 'Ireland', 'USA']
  assert source.classes('speaker') == ('id10001', 'id10270')
  assert source.split('test').id(0) == 'wav/id10001/video1/00001.wav'
  (root / 'iden_split.txt').unlink()
  assert open_source('voxceleb1', root=root).column('split') == [''] * 3


def test_voxceleb2(tmp_path, write):
  root = tmp_path / 'VoxCeleb2'
  for part, speaker in (('dev', 'id00012'), ('test', 'id00017')):
    write(root / part / 'aac' / speaker / 'abc' / '00001.flac')
  (root / 'vox2_meta.csv').write_text(
    'VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \n'
    'id00012 ,n000012 ,m ,dev \nid00017 ,n000017 ,f ,test \n'
  )
  source = open_source('voxceleb2', root=tmp_path)
  assert source.column('split') == ['dev', 'test']
  assert source.column('sex') == ['m', 'f']


def test_common_voice(tmp_path, write):
  root = tmp_path / 'cv-corpus' / 'en'
  header = (
    'client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment\n'
  )
  for k in range(3):
    write(root / 'clips' / f'common_voice_en_{k}.mp3', 0.3)
  row = 'speaker{0}\tcommon_voice_en_{0}.mp3\tHe said "{0}\t2\t0\tteens\tmale\t\ten\t\n'
  (root / 'train.tsv').write_text(header + row.format(0) + row.format(1))
  (root / 'test.tsv').write_text(header + row.format(2))
  (root / 'validated.tsv').write_text(header + ''.join(row.format(k) for k in range(3)))
  (root / 'reported.tsv').write_text('sentence\tsentence_id\nx\ty\n')
  for place in (root.parent, root):
    source = open_source('common_voice', root=place)
    assert len(source) == 6
    train = source.split('train')
    assert train.column('transcript') == ['He said "0', 'He said "1']
    assert train.column('language') == ['en', 'en']
    readable(train)
  with pytest.raises(InputError, match="no language 'de'"):
    open_source({'name': 'common_voice', 'args': {'language': 'de'}}, root=root.parent)


def test_common_voice_paths_stay_inside(tmp_path, write):
  write(tmp_path / 'clips' / 'a.mp3')
  (tmp_path / 'train.tsv').write_text('client_id\tpath\tsentence\nx\t../../secret.mp3\ty\n')
  with pytest.raises(InputError, match='goes up by'):
    open_source('common_voice', root=tmp_path)


@pytest.fixture
def audioset(tmp_path, write):
  root = tmp_path / 'AudioSet'
  root.mkdir()
  (root / 'class_labels_indices.csv').write_text(
    'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n'
    '2,/m/0bt9lr,"Dog"\n'
  )
  start = '# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=3\n'
  head = start + '# YTID, start_seconds, end_seconds, positive_labels\n'
  (root / 'balanced_train_segments.csv').write_text(
    head + '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/m/05zppz"\n'
    '-0DdlOuIFUI, 50.000, 60.000, "/m/09x0r"\nmissing1234, 0.000, 10.000, "/m/0bt9lr"\n'
  )
  (root / 'unbalanced_train_segments.csv').write_text(
    head + '-0_abcdefgh, 0.000, 10.000, "/m/0bt9lr,/m/09x0r"\n'
  )
  (root / 'eval_segments.csv').write_text(head + '-1EGadY0Xq4, 7.500, 17.500, "/m/0bt9lr"\n')
  write(root / 'balanced_train' / 'Y--PJHxphWEs.wav', 0.2)
  write(root / 'balanced_train' / '-0DdlOuIFUI_50.flac', 0.2)
  write(root / 'audio' / 'unbalanced' / '-0_abcdefgh_0_10000.wav', 0.2)
  write(root / 'eval' / '-1EGadY0Xq4_7.500.wav', 0.2)
  return root


def test_audioset(audioset):
  source = open_source('audioset', root=audioset.parent)
  classes = ('Speech', 'Male speech, man speaking', 'Dog')
  assert source.classes('label') == classes
  assert by_id(source, 'label') == {
    'balanced/--PJHxphWEs_30': ['Speech', 'Male speech, man speaking'],
    'balanced/-0DdlOuIFUI_50': ['Speech'],
    'unbalanced/-0_abcdefgh_0': ['Dog', 'Speech'],
    'eval/-1EGadY0Xq4_7.5': ['Dog'],
  }
  sizes = {s: len(source.split(s)) for s in ('balanced', 'unbalanced', 'train', 'eval')}
  assert sizes == {'balanced': 2, 'unbalanced': 1, 'train': 3, 'eval': 1}
  readable(source)
  mids = open_source({'name': 'audioset', 'args': {'labels': 'mid'}}, root=audioset)
  assert mids.classes('label') == ('/m/09x0r', '/m/05zppz', '/m/0bt9lr')


def test_audioset_batches_and_weights(audioset):
  train = open_source('audioset', root=audioset, split='train')
  per = {'Speech': 1000 / 3.01, 'Male speech, man speaking': 1000 / 1.01, 'Dog': 1000 / 1.01}
  expected = [sum(per[n] for n in clip) for clip in train.column('label')]
  np.testing.assert_allclose(label_weights(train), expected)
  entry = datasets.DATASETS['audioset']
  batches = train_batches(
    train,
    batch_size=64,
    fields=make(dict(label=entry.label)),
    weights=entry.weights,
    seconds=0.1,
    num_threads=0,
  )
  iterator = iter(batches)
  found = [next(iterator) for _ in range(8)]
  rows = np.concatenate([b['index'] for b in found])
  fraction = np.bincount(rows, minlength=3) / len(rows)
  np.testing.assert_allclose(fraction, np.array(expected) / sum(expected), atol=0.07)
  hot = {tuple(row) for b in found for row in b['label'].astype(int).tolist()}
  assert hot == {(1, 1, 0), (1, 0, 0), (1, 0, 1)}


def test_audioset_without_audio(audioset):
  for file in audioset.rglob('*.wav'):
    file.unlink()
  for file in audioset.rglob('*.flac'):
    file.unlink()
  with pytest.raises(InputError, match='3 csv files list 5 segments, but no audio'):
    open_source('audioset', root=audioset)


def test_audioset_with_a_strange_label(audioset):
  (audioset / 'eval_segments.csv').write_text('-1EGadY0Xq4, 7.500, 17.500, "/m/none"\n')
  with pytest.raises(InputError, match="label '/m/none', which is not in the class list"):
    open_source('audioset', root=audioset)


def test_fsd50k(tmp_path, write):
  root = tmp_path / 'FSD50K'
  truth = root / 'FSD50K.ground_truth'
  truth.mkdir(parents=True)
  (truth / 'vocabulary.csv').write_text(
    '0,Accelerating_and_revving,/m/x\n1,Dog,/m/y\n2,Bark,/m/z\n'
  )
  (truth / 'dev.csv').write_text(
    'fname,labels,mids,split\n64760,"Bark,Dog","/m/z,/m/y",train\n16399,Dog,/m/y,val\n'
  )
  (truth / 'eval.csv').write_text('fname,labels,mids\n37199,"Dog","/m/y"\n')
  for name in ('FSD50K.dev_audio/64760', 'FSD50K.dev_audio/16399', 'FSD50K.eval_audio/37199'):
    write(root / f'{name}.wav', 0.1, 44100)
  source = open_source('fsd50k', root=tmp_path)
  assert source.classes('label') == ('Accelerating_and_revving', 'Dog', 'Bark')
  assert source.column('split') == ['train', 'valid', 'test']
  assert source.column('label') == [['Bark', 'Dog'], ['Dog'], ['Dog']]
  readable(source)


@pytest.fixture
def esc(tmp_path, write):
  root = tmp_path / 'ESC-50-master'
  (root / 'meta').mkdir(parents=True)
  rows = [
    '1-100032-A-0.wav,1,0,dog,True,100032,A',
    '1-100038-A-14.wav,1,14,chirping_birds,False,100038,A',
    '2-1-A-10.wav,2,10,rain,True,1,A',
    '5-9-B-0.wav,5,0,dog,True,9,B',
  ]
  header = 'filename,fold,target,category,esc10,src_file,take'
  (root / 'meta' / 'esc50.csv').write_text('\n'.join([header, *rows]) + '\n')
  for row in rows:
    write(root / 'audio' / row.split(',')[0], 0.05, 44100)
  return root


def test_esc50_and_esc10(esc):
  all_classes = open_source('esc50', root=esc.parent)
  assert all_classes.classes('label') == ('dog', 'rain', 'chirping_birds')  # By target.
  assert all_classes.column('fold') == ['1', '1', '2', '5']
  assert all_classes.where({'fold': ['2', '5']}).column('src_file') == ['1', '9']
  ten = open_source('esc10', root=esc.parent)
  assert ten.classes('label') == ('dog', 'rain')
  assert ten.name == 'esc10' and len(ten) == 3
  readable(ten)


def test_a_broken_table_says_so(esc):
  (esc / 'meta' / 'esc50.csv').write_text('filename,fold\na.wav,1\n')
  with pytest.raises(InputError, match=r"esc50.csv has no column 'target' .it has: filename"):
    open_source('esc50', root=esc)


def test_a_copy_with_a_manifest_is_read_as_a_folder(tmp_path, write):
  write(tmp_path / 'esc10' / 'audio' / 'x.wav')
  (tmp_path / 'esc10' / 'labels.csv').write_text('path,label,fold\naudio/x.wav,dog,1\n')
  source = open_source('esc10', root=tmp_path)
  assert source.name == 'esc10' and source.column('label') == ['dog']


@pytest.fixture
def commands(tmp_path, write):
  root = tmp_path / 'speech_commands_v0.02'
  for word in ('yes', 'no', 'up', 'bird', 'zero'):
    for k in range(10):
      write(root / word / f'{k:08x}_nohash_0.wav', 0.1)
  rows = {w: [f'{w}/{k:08x}_nohash_0.wav' for k in (8, 9)] for w in ('yes', 'no', 'up', 'bird')}
  (root / 'validation_list.txt').write_text('\n'.join(r[0] for r in rows.values()) + '\n')
  (root / 'testing_list.txt').write_text('\n'.join(r[1] for r in rows.values()) + '\n')
  write(root / '_background_noise_' / 'running_tap.wav', 9.5)
  write(root / '_background_noise_' / 'pink_noise.wav', 6.0)
  (root / '_background_noise_' / 'README.md').write_text('noise')
  (root / 'LICENSE').write_text('CC BY 4.0')
  return root


def test_speech_commands(commands):
  source = open_source('speech_commands', root=commands.parent)
  assert source.classes('label') == ('bird', 'no', 'up', 'yes', 'zero')
  sizes = {s: len(source.split(s)) for s in ('train', 'valid', 'test')}
  assert sizes == {'train': 42, 'valid': 4, 'test': 4}
  assert source.split('test').column('speaker') == ['00000009'] * 4
  assert len(source) == 52  # Including two files of noise, which are in no split.
  with pytest.raises(InputError, match='has 5 words; use classes=12, 5'):
    open_source({'name': 'speech_commands', 'args': {'classes': 35}}, root=commands)


def test_speech_commands_with_twelve_classes(commands):
  source = open_source({'name': 'speech_commands', 'args': {'classes': 12}}, root=commands)
  assert len(source.classes('label')) == 12
  assert source.classes('label')[-2:] == ('_silence_', '_unknown_')
  train = source.split('train')
  labels = train.column('label')
  assert {w: labels.count(w) for w in ('yes', 'no', 'up', '_unknown_', '_silence_')} == {
    'yes': 8, 'no': 8, 'up': 8, '_unknown_': 2, '_silence_': 2,
  }  # fmt: skip
  unknown = train.where({'label': '_unknown_'})
  assert set(unknown.column('word')) <= {'bird', 'zero'}
  silence = source.where({'label': '_silence_'})
  places = [(e.path, e.start) for e in silence]
  assert len(set(places)) == len(places) == 4  # No second of noise is in two splits.
  np.testing.assert_allclose(silence.durations(), 1.0)
  assert len(decode(silence[0], sample_rate=16000)) == 16000
  again = open_source({'name': 'speech_commands', 'args': {'classes': 12}}, root=commands)
  assert again.fingerprint() == source.fingerprint()


def test_speech_commands_without_its_lists(commands):
  (commands / 'testing_list.txt').unlink()
  with pytest.raises(InputError, match=r'lacks .*testing_list\.txt'):
    open_source('speech_commands', root=commands)


def test_nsynth(tmp_path, write):
  for split, name in (('train', 'bass_synthetic_033-022-050'), ('test', 'vocal_acoustic_000-1-2')):
    folder = tmp_path / f'nsynth-{split}'
    write(folder / 'audio' / f'{name}.wav', 0.2)
    note = {
      'note': 201034,
      'sample_rate': 16000,
      'instrument_family': 0,
      'qualities': [0, 1],
      'instrument_source_str': 'synthetic',
      'note_str': name,
      'instrument_family_str': name.split('_')[0],
      'instrument_str': name[:-8],
      'pitch': 22,
      'instrument': 417,
      'velocity': 50,
      'instrument_source': 2,
      'qualities_str': ['dark'],
    }
    (folder / 'examples.json').write_text(json.dumps({name: note}))
  source = open_source('nsynth', root=tmp_path)
  assert source.classes('label')[:3] == ('bass', 'brass', 'flute')
  assert len(source.classes('label')) == 11
  train = source.split('train')[0]
  assert train.columns['pitch'] == '22' and train.columns['qualities'] == ['dark']
  assert train.columns['label'] == 'bass'
  readable(source)


@pytest.mark.parametrize('name', sorted(set(datasets.DATASETS) - set(datasets.PACKAGED)))
def test_a_missing_data_set_says_what_was_expected_and_where(tmp_path, name):
  with pytest.raises(InputError) as caught:
    open_source(name, root=tmp_path)
  message = str(caught.value)
  assert f"'{name}' was not found" in message and str(tmp_path) in message
  assert datasets.DATASETS[name].layout in message


def test_the_published_statistics():
  found = {n: e.statistics for n, e in datasets.DATASETS.items() if e.statistics}
  # AudioMAE main_pretrain.py and main_finetune_as.py.
  assert found == {
    'audioset': (-4.2677393, 4.5689974),
    'esc50': (-6.6268077, 5.358466),
    'esc10': (-6.6268077, 5.358466),
    'speech_commands': (-6.845978, 5.5654526),
  }
