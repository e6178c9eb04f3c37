"""The readers of SUPERB's data on small folders as they are published, and what they say of data
that are not there."""

import numpy as np
import pytest
import soundfile

from research.audio import index, prepare
from research.audio.datasets.superb import commands, speakers, words
from research.audio.decode import decode
from research.audio.fields import make
from research.audio.pipeline import eval_batches, train_batches
from research.audio.sources import open_source
from research.errors import InputError
from tests.audio.superb_helpers import by_id, opened, text, warned

# -- Words ----------------------------------------------------------------------------------------


def test_asr(tmp_path, write, caplog):
  root = tmp_path / 'LibriSpeech'
  for subset, name in (('train-clean-100', '1-2'), ('dev-clean', '3-4'), ('dev-other', '5-6')):
    speaker, chapter = name.split('-')
    write(root / subset / speaker / chapter / f'{name}-0000.flac')
    text(root / subset / speaker / chapter / f'{name}.trans.txt', f'{name}-0000 HELLO {speaker}')
  source = opened('superb_asr', tmp_path)
  assert sorted(by_id(source, 'split').values()) == ['dev-other', 'train', 'valid']
  assert source.split('valid')[0].columns['transcript'] == 'HELLO 3'
  assert 'phones' not in source.column_names
  assert warned(caplog, 'test-clean has no audio')
  lexicon = tmp_path / 'mine.txt'
  text(lexicon, 'HELLO HH AH0 L OW1', '1 W AH1 N', '3 TH R IY1')
  source = opened('superb_asr', tmp_path, lexicon=str(lexicon))
  assert by_id(source, 'phones') == {
    'dev-clean/3/4/3-4-0000.flac': 'HH AH0 L OW1 TH R IY1',
    'dev-other/5/6/5-6-0000.flac': '',
    'train-clean-100/1/2/1-2-0000.flac': 'HH AH0 L OW1 W AH1 N',
  }
  text(lexicon, 'HELLO HH AH0 L OW1', '1 W AH1 N')
  with pytest.raises(InputError, match=r"dev-clean/3/4/.*by mine.txt: .* pronunciation of '3'"):
    opened('superb_asr', tmp_path, lexicon=[str(lexicon)])
  with pytest.raises(InputError, match=r'no\.txt is missing, a lexicon. Expected in'):
    opened('superb_asr', tmp_path, lexicon='no.txt')


@pytest.fixture
def quesst(tmp_path, write):
  root = tmp_path / 'quesst14Database'
  lists = {
    'utterances': ['Audio/d1.wav nnenglish', 'Audio/d2.wav czech', 'Audio/d3.wav nnenglish'],
    'dev': ['dev_queries/q1.wav nnenglish'],
    'eval': ['eval_queries/q2.wav nnenglish'],
  }
  for name, rows in lists.items():
    text(root / 'scoring' / f'language_key_{name}.lst', *(f'quesst14Database/{r}' for r in rows))
  for path in ('Audio/d1', 'Audio/d2', 'dev_queries/q1', 'eval_queries/q2'):
    write(root / f'{path}.wav')
  return root


def test_query_by_example(quesst, tmp_path, caplog):
  source = opened('superb_qbe', tmp_path)
  assert by_id(source, 'split') == {'d1': 'documents', 'q1': 'valid', 'q2': 'test'}
  assert source.split('eval')[0].columns['kind'] == 'query' and len(source.split('dev')) == 1
  assert warned(caplog, '1 of documents')
  raw, _ = soundfile.read(quesst / 'Audio' / 'd1.wav', dtype='float32')
  np.testing.assert_allclose(decode(source[0], sample_rate=16000), raw * 10 ** (-3 / 20), rtol=1e-6)
  with pytest.raises(
    InputError, match="groundtruth_quesst14_dev is missing, the ground truth of 'v"
  ):
    words.ground_truth(str(quesst), 'valid')
  truth = quesst / 'scoring' / 'groundtruth_quesst14_dev'
  truth.mkdir()
  with pytest.raises(InputError, match=r'has no \.rttm'):
    words.occurrences(str(quesst), 'dev')
  rows = ['LEXEME d1 1 0.0 1.0 q1 lex <NA> <NA>', 'SPEAKER x 1', 'LEXEME d3 1 0.0 1.0 q1 lex <NA>']
  text(truth / 'a.rttm', *rows)
  assert words.occurrences(str(quesst), 'valid') == {'q1': {'d1', 'd3'}}
  text(truth / 'a.rttm', 'LEXEME d1 1')
  with pytest.raises(InputError, match='line 1: expected "LEXEME'):
    words.occurrences(str(quesst), 'valid')
  with pytest.raises(InputError, match="Unknown split of queries 'train'"):
    words.ground_truth(str(quesst), 'train')
  (quesst / 'scoring' / 'language_key_eval.lst').unlink()
  with pytest.raises(InputError, match=r"language_key_eval\.lst is missing, the list of 'test'"):
    opened('superb_qbe', tmp_path)
  text(quesst / 'scoring' / 'language_key_eval.lst', 'one')
  with pytest.raises(InputError, match='expected "PATH LANGUAGE"'):
    opened('superb_qbe', tmp_path)


def test_translation_of_both_forms(tmp_path, write, caplog):
  root = tmp_path / 'covost_en_de'
  write(tmp_path / 'en' / 'clips' / 'a.mp3.wav')
  write(tmp_path / 'en' / 'clips' / 'b.wav', 0.2)
  head = 'id\taudio\tn_frames\tsr\tsrc_text\ttgt_text\tspeaker'
  text(root / 'train.tsv', head, 'x\ta.mp3.wav\t1600\t16000\tgood "day"\tguten Tag\tann')
  text(root / 'dev.tsv', head, 'y\tb.mp3\t\t\tyes\tja\tbob', 'z\tc.mp3\t\t\tno\tnein\tbob')
  text(root / 'config.yaml', 'bpe_tokenizer: {}', f"audio_root: '{tmp_path / 'en' / 'clips'}'")
  with caplog.at_level('WARNING'):
    source = opened('superb_st', tmp_path)
  assert source.split('train')[0].columns == {
    'split': 'train',
    'transcript': 'good "day"',
    'translation': 'guten Tag',
    'speaker': 'ann',
  }
  # Of another format: converted clips keep their names.
  assert by_id(source, 'translation') == {'x': 'guten Tag', 'y': 'ja'}
  np.testing.assert_allclose(source.durations(), [0.1, 0.2])
  assert warned(caplog, 'test.tsv is missing') and source.table.absent == {'valid': 1}
  own = tmp_path / 'covost2'
  text(own / 'covost_v2.en_de.test.tsv', 'path\tsentence\ttranslation\tclient_id', 'b.wav\ti\tj\tk')
  source = opened('superb_st', own, audio=str(tmp_path / 'en' / 'clips'))
  assert source[0].columns['translation'] == 'j' and source[0].columns['speaker'] == 'k'
  text(own / 'covost_v2.en_de.test.tsv', 'path\tsentence', 'b.wav\ti')
  with pytest.raises(InputError, match="line 2: no column 'translation'"):
    opened('superb_st', own)
  text(root / 'train.tsv', head, 'x\ta.mp3.wav\tmany\t16000\tg\th\tann')
  with pytest.raises(InputError, match='n_frames and sr are no numbers'):
    opened('superb_st', root)


def test_conversion(tmp_path, write):
  root = tmp_path / 'vcc2020'
  for name in ('TEF1/E10001', 'TEF1/E20050', 'TEF1/E10061', 'SEF1/E30001', 'SEM2/E30025'):
    write(root / f'{name}.wav', rate=24000)
  text(root / 'prompts' / 'Eng_transcriptions.txt', 'E10001 One two.', 'E30025\tThree.')
  source = opened('superb_vc', root)
  assert {s: len(source.split(s)) for s in ('train', 'valid', 'test')} == {
    'train': 2, 'valid': 1, 'test': 2
  }  # fmt: skip
  assert by_id(source, 'transcript')['SEM2/E30025'] == 'Three.'
  assert source.table.absent == {'train': 108, 'valid': 9, 'test': 98}
  with pytest.raises(InputError, match='TEM1 is missing, the target speaker'):
    opened('superb_vc', root, target='TEM1')
  with pytest.raises(InputError, match="Unknown target speaker 'TEF9'"):
    opened('superb_vc', root, target='TEF9')
  assert words.sentences('TFM1')['train'][-1] == 'F10060'


# -- Commands -------------------------------------------------------------------------------------


@pytest.fixture
def keywords(tmp_path, write):
  root = tmp_path / 'speech_commands_v0.01'
  for path in ('bed/04d8b987_nohash_0', 'no/0928b27f_nohash_2', 'go/7dba24ee_nohash_0'):
    write(root / f'{path}.wav', 0.3)
  write(root / '_background_noise_' / 'pink.wav', 3.0)
  test = tmp_path / 'speech_commands_test_set_v0.01'
  write(test / 'no' / '1_nohash_0.wav', 0.3)
  write(test / '_silence_' / '0.wav', 0.3)
  return root, test


def test_keywords(keywords, tmp_path, caplog):
  root, test = keywords
  source = opened('superb_ks', tmp_path)
  labels = {s: source.split(s).column('label') for s in ('train', 'valid', 'test')}
  # One clip falls into the tenth that is left out.
  assert labels == {
    'train': ['_unknown_', '_silence_'],
    'valid': ['no', '_silence_'],
    'test': ['_silence_', 'no'],
  }
  assert source.classes('label') == commands.CLASSES and source.classes('label')[-1] == '_silence_'
  noise, _ = soundfile.read(root / '_background_noise_' / 'pink.wav', dtype='float32')
  (valid,) = (e for e in source.split('valid') if e.columns['label'] == '_silence_')
  got = decode(valid, sample_rate=16000)
  start = round(valid.start * 16000)
  np.testing.assert_allclose(got, noise[start : start + 16000] * 10 ** (-3 / 20), rtol=1e-6)
  # In training a random second of the whole file.
  train = source.split('train')
  batches = iter(train_batches(train, batch_size=2, seconds=1.0, num_threads=0))
  crops = set()
  for _ in range(5):
    batch = next(batches)
    crops.add(batch['audio'][batch['index'].tolist().index(1), 0].item())
  assert len(crops) == 5
  several = opened('superb_ks', tmp_path, windows=4, seed=1)
  assert [c.count('_silence_') for c in (several.split(s).column('label') for s in labels)] == [
    4,
    4,
    1,
  ]
  assert len({several.id(i) for i in range(len(several))}) == len(several)
  for path in test.rglob('*.wav'):
    path.unlink()
  (test / 'dog').mkdir()
  soundfile.write(test / 'dog' / 'a.wav', noise[:100], 16000)
  with pytest.raises(InputError, match=r'dog/a\.wav is in no folder of a class'):
    opened('superb_ks', tmp_path)
  with pytest.raises(InputError, match='nowhere is missing, the folder of the test archive'):
    opened('superb_ks', root, test=str(tmp_path / 'nowhere'))
  test.rename(tmp_path / 'elsewhere')
  opened('superb_ks', root)
  assert warned(caplog, 'no test archive')


def test_the_level_stays_with_the_clips(keywords, tmp_path):
  """Shards hold the samples as they are read; files are not copied past that."""
  source = opened('superb_ks', tmp_path, split='test')
  prepare.prepare(source, tmp_path / 'out', count=1, settings=prepare.Settings('pcm16', 16000, 0))
  for got, want in zip(open_source(str(tmp_path / 'out')), source):
    np.testing.assert_allclose(
      decode(got, sample_rate=16000), decode(want, sample_rate=16000), atol=1e-4
    )
  with pytest.raises(InputError, match=r'is read at another level \(-3 dB\)'):
    prepare.prepare(source, tmp_path / 'copy', count=1, settings=prepare.Settings('copy', None, 0))
  with pytest.raises(InputError, match='not a folder of audio files as they are'):
    index.write_files(source, tmp_path / 'clips.index')


def test_keywords_without_noise(tmp_path, write):
  root = tmp_path / 'speech_commands_v0.01'
  write(root / 'bed' / '04d8b987_nohash_0.wav')
  (root / '_background_noise_').mkdir()
  (root / '_background_noise_' / 'README.md').write_text('x')
  with pytest.raises(InputError, match='_background_noise_ is missing, the recordings of silence'):
    opened('superb_ks', root)


def test_intents(tmp_path, write, caplog):
  root = tmp_path / 'fluent_speech_commands_dataset'
  head = ',path,speakerId,transcription,action,object,location'
  for name in ('a', 'b', 'c'):
    write(root / 'wavs' / 'speakers' / 'S1' / f'{name}.wav')
  text(
    root / 'data' / 'train_data.csv', head,
    '0,wavs/speakers/S1/a.wav,S1,"Lights on, please",activate,lights,none',
    '1,wavs/speakers/S1/gone.wav,S1,Louder,increase,volume,none',
  )  # fmt: skip
  text(
    root / 'data' / 'valid_data.csv', head, '0,wavs/speakers/S1/b.wav,S1,Up,increase,volume,none'
  )
  source = opened('superb_ic', tmp_path)
  assert len(source.split('train')) == len(source.split('valid')) == 1
  assert source.split('train')[0].columns['transcript'] == 'Lights on, please'
  # Clips that are not here number classes too.
  assert source.classes('action') == ('activate', 'increase')
  assert source.classes('location') == ('none',)
  assert warned(caplog, "there is no split 'test'") and warned(caplog, '1 of train')
  (batch,) = eval_batches(
    source, batch_size=2, lengths=1, fields=make(dict(label=['action', 'object', 'location']))
  )
  assert sorted(batch['label'].tolist()) == [[0, 0, 0], [1, 1, 0]]
  text(root / 'data' / 'valid_data.csv', 'path,action,object', 'a,b,c')
  with pytest.raises(InputError, match="no column 'location'"):
    opened('superb_ic', root)
  text(root / 'data' / 'valid_data.csv', head, '0,../x.wav,S1,Up,increase,volume,none')
  with pytest.raises(InputError, match=r"valid_data\.csv, line 2: the path '\.\./x\.wav' goes up"):
    opened('superb_ic', root)
  (root / 'data' / 'train_data.csv').rename(root / 'data' / 'x')
  with pytest.raises(InputError, match='was not found: expected data/'):
    opened('superb_ic', root)


def test_slots(tmp_path, write, caplog):
  root = tmp_path / 'SNIPS'
  line = '{} BOS PLAY ROCK EOS\tO O music PlayMusic'
  names = {
    'train': ['Ivy-snips-train-0', 'Brian-snips-train-1', 'Own-snips-train-2', 'unlisted'],
    'valid': ['Amy-snips-valid-0'],
  }
  for split, own in names.items():
    for name in own:
      write(root / split / f'{name}.wav')
  listed = [*names['train'][:3], *names['valid'], 'Emma-snips-test-0', 'Ivy-snips-test-1']
  text(root / 'all.iob.snips.txt', *(line.format(n) for n in listed))
  source = opened('superb_sf', tmp_path)
  # Brian is a voice of the test; Own is none of the published ones.
  assert by_id(source, 'split') == {
    'Ivy-snips-train-0': 'train', 'Own-snips-train-2': 'train', 'Amy-snips-valid-0': 'valid'
  }  # fmt: skip
  assert source[0].columns['transcript'] == 'PLAY ROCK'
  assert source[0].columns['slots'] == 'BOS PLAY ROCK EOS\tO O music PlayMusic'
  assert source[0].columns['intent'] == 'PlayMusic' and source[0].columns['speaker'] == 'Ivy'
  assert source.table.absent == {'test': 1} and warned(caplog, '1 audio files are in no line')
  with pytest.raises(InputError, match=r'slots\.txt is missing, the list of slots'):
    commands.slot_vocabulary(root)
  text(root / 'slots.txt', 'O', 'music')
  assert commands.slot_vocabulary(root)[-2:] == ('B-music', 'E-music')
  text(root / 'all.iob.snips.txt', 'Ivy-snips-train-0 BOS PLAY EOS\tO O')
  with pytest.raises(InputError, match='line 1: expected "ID BOS words EOS'):
    opened('superb_sf', root)


# -- Speakers -------------------------------------------------------------------------------------


@pytest.fixture
def voxceleb(tmp_path, write):
  root = tmp_path / 'VoxCeleb1'
  for path, seconds in (
    ('dev/wav/id10001/v/00001', 2.5),
    ('dev/wav/id10002/v/00001', 1.0),
    ('test/wav/id10270/v/00001', 0.5),
    ('test/wav/id10271/w/00002', 0.5),
  ):
    write(root / f'{path}.wav', seconds)
  text(
    root / 'veri_test_class.txt',
    '1 id10001/v/00001.wav', '2 id10270/v/00001.wav', '3 id10271/w/00002.wav',
    '3 id10271/w/00003.wav',
  )  # fmt: skip
  return root


def test_identification(voxceleb, tmp_path, caplog):
  source = opened('superb_sid', tmp_path)
  assert by_id(source, 'split') == {
    'id10001/v/00001.wav': 'train', 'id10270/v/00001.wav': 'valid', 'id10271/w/00002.wav': 'test'
  }  # fmt: skip
  assert len(source.classes('speaker')) == 1251 and source.table.absent == {'test': 1}
  (batch,) = eval_batches(source, batch_size=3, lengths=1, fields=make(dict(label='speaker')))
  assert sorted(batch['label'].tolist()) == [0, 269, 270]
  assert warned(caplog, '1 of test')
  for line in ('4 id10001/v/00001.wav', '1 id1/v/1.wav', '1 id10001/1.wav'):
    text(voxceleb / 'mine.txt', line)
    with pytest.raises(InputError, match='line 1: expected "1 idNNNNN'):
      opened('superb_sid', voxceleb, list=str(voxceleb / 'mine.txt'))
  with pytest.raises(InputError, match=r'no\.txt is missing, the list of splits'):
    opened('superb_sid', voxceleb, list='no.txt')
  for path in voxceleb.rglob('*.wav'):
    path.unlink()
  with pytest.raises(
    InputError, match=r'4 clips are listed, and the audio of none is here .*00001'
  ):
    opened('superb_sid', voxceleb)


def test_verification(voxceleb, tmp_path):
  text(
    voxceleb / 'veri_test2.txt',
    '1 id10270/v/00001.wav id10270/v/00001.wav', '0 id10270/v/00001.wav id10271/w/00002.wav',
  )  # fmt: skip
  source = opened('superb_asv', tmp_path)
  assert by_id(source, 'split') == {
    'id10001/v/00001.wav': 'train',  # the other has less than 2 s
    'test/id10270/v/00001.wav': 'test',
    'test/id10271/w/00002.wav': 'test',
  }
  assert source.classes('speaker') == ('id10001', 'id10002')
  trials = speakers.read_trials(str(voxceleb))
  assert trials[1] == (False, 'id10270/v/00001.wav', 'id10271/w/00002.wav')
  assert all(f'test/{p}' in by_id(source, 'split') for _, *pair in trials for p in pair)
  assert len(opened('superb_asv', tmp_path, shortest=0.0)) == 4
  text(voxceleb / 'veri_test2.txt', '2 a/b c/d')
  with pytest.raises(InputError, match='line 1: expected "1 PATH PATH"'):
    speakers.read_trials(str(voxceleb))
  with pytest.raises(InputError, match=r'x\.txt is missing, the list of trials'):
    opened('superb_asv', voxceleb, trials='x.txt')


def test_emotions(tmp_path, write, caplog):
  root = tmp_path / 'IEMOCAP_full_release'
  for session in range(1, 6):
    dialogs = ('F_impro01', 'M_script02_1')
    for dialog in dialogs:
      name = f'Ses0{session}{dialog}'
      lines = ['% [START - END]\tTURN\tEMOTION', '']
      for k, label in enumerate(('neu', 'exc', 'fru', 'sad', 'ang')):
        speaker = 'FM'[k % 2]
        lines.append(f'[{k}.0 - {k}.5]\t{name}_{speaker}{k:03d}\t{label}\t[2.5, 2.5, 2.5]')
        write(
          root / f'Session{session}' / 'sentences' / 'wav' / name / f'{name}_{speaker}{k:03d}.wav'
        )
      text(root / f'Session{session}' / 'dialog' / 'EmoEvaluation' / f'{name}.txt', *lines)
  source = opened('superb_er', tmp_path, fold=2)
  assert source.classes('label') == ('neu', 'hap', 'ang', 'sad')
  assert len(source) == 40 and len(source.split('train')) == 25 and len(source.split('valid')) == 7
  assert {source.split('test').column('session')[i] for i in range(8)} == {'2'}
  assert by_id(source, 'label')['Ses01F_impro01_M001'] == 'hap'
  assert by_id(source, 'speaker')['Ses01F_impro01_M001'] == 'Ses01M'
  # In the published order of dialogs: script02_1 before impro01.
  assert source.id(0) == 'Ses01M_script02_1_F000' and source.id(4) == 'Ses01F_impro01_F000'
  assert warned(caplog, '40 clips, IEMOCAP has 5531')
  with pytest.raises(InputError, match="Unknown fold of superb_er '6'"):
    opened('superb_er', root, fold=6)
  text(root / 'Session5' / 'dialog' / 'EmoEvaluation' / 'Ses05F_impro01.txt', '[0 - 1] broken')
  with pytest.raises(InputError, match='line 1: expected'):
    opened('superb_er', root)
  (root / 'Session5').rename(root / 'gone')
  with pytest.raises(InputError, match='Session5/dialog/EmoEvaluation is missing, the labels of a'):
    opened('superb_er', root)
