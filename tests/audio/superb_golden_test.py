"""From files to targets as the official code makes them: the recorded cases of SUPERB's data."""

import numpy as np

from research.audio.clips import Source, Table
from research.audio.datasets.superb import commands, emotion, speakers, words
from research.audio.fields import Context, activity, symbols
from research.text import characters, phones, slots
from tests.audio.superb_helpers import opened
from tests.parity import golden


def kind(name):
  return lambda case: case.info['kind'] == name


def given(case, name, part='inputs'):
  return case.info[part][name]['value']


def cases(name):
  return golden.each_case('superb', where=kind(name))


def recorded(system_kind):
  """The config of the case of that kind beside another."""
  return next(c for c in golden.cases('superb') if c.info['kind'] == system_kind).config


def table(**columns):
  """A source of rows without audio."""
  count = len(next(iter(columns.values())))
  seconds = np.full(count, 10.0)
  ids = [str(i) for i in range(count)]
  return Source(Table('rows', ids, columns, lambda row: {'data': b''}, seconds=seconds))


def encoded(values, **args):
  opened = symbols.Symbols('tokens', 'value', **args).open(table(value=values), Context(16000))
  return [ids.tolist() for ids in opened.ids]


@cases('superb_task_labels')
def test_letters_phones_and_characters(case):
  vocabularies = recorded('superb_data')
  # In another order than fairseq's.
  dictionary = vocabularies['ASR']['dictionary']
  assert set(dictionary) == set(characters.CHARACTERS)
  text = given(case, 'asr_text')
  letters = encoded(text, vocabulary=dictionary, split='letters', eos='</s>')
  # The official dictionary grows by a character that it lacks, to an id without a logit.
  unknown, size = dictionary.index('<unk>'), len(dictionary)
  wanted = given(case, 'asr_ids', 'outputs')
  assert letters == [[i if i < size else unknown for i in row] for row in wanted]
  own = ['<pad>', '<eos>', '<unk>', *vocabularies['SF']['characters']]
  assert encoded(text, vocabulary=own, split='characters', eos='<eos>') == given(
    case, 'character_ids', 'outputs'
  )


@cases('superb_task_labels')
def test_diarization_frames_and_intents(case):
  names = sorted({speaker for _, speaker, _, _ in given(case, 'sd_segments')})
  turns = [(s, start, end) for _, s, start, end in given(case, 'sd_segments')]
  for each in given(case, 'sd_labels', 'outputs'):
    first, last = each['chunk']
    shift = each['frame_shift']
    got = activity.frame_labels(turns, first, last - first, speakers=names, frame_shift=shift)
    want = np.zeros((last - first, len(names)), np.int32)
    for speaker, runs in enumerate(each['active_runs']):
      for start, end in runs:
        want[start:end, speaker] = 1
    np.testing.assert_array_equal(got, want)


@cases('superb_task_labels')
def test_the_split_of_keywords(case, tmp_path, write):
  for path in given(case, 'ks_files'):
    write(tmp_path / path)
  for name in ('pink.wav', 'tap.wav'):
    write(tmp_path / '_background_noise_' / name, 1.3)
  source = opened('superb_ks', tmp_path)
  spoken = [i for i in range(len(source)) if source.column('label')[i] != '_silence_']
  by_split = {s: [source.id(i) for i in spoken if source.column('split')[i] == s] for s in SPLITS}
  assert by_split['train'] == given(case, 'ks_train', 'outputs')
  assert by_split['valid'] == given(case, 'ks_dev', 'outputs')
  valid = source.split('valid')
  counts = {label: valid.column('label').count(label) for label in set(valid.column('label'))}
  items = [
    [label, valid.id(i).split('/')[1].split('@')[0], round(len(valid) / counts[label], 6)]
    for i, label in enumerate(valid.column('label'))
  ]
  assert sorted(items) == sorted(given(case, 'ks_dev_items', 'outputs'))
  assert source.classes('label') == tuple(recorded('superb_data')['KS']['classes'])


SPLITS = ('train', 'valid')


@cases('superb_task_labels')
def test_phones_of_a_lexicon(case, tmp_path, write):
  root, text = tmp_path / 'LibriSpeech', given(case, 'pr_text')
  folder = root / 'train-clean-100' / '1' / '2'
  for i in range(len(text)):
    write(folder / f'1-2-{i:04d}.flac', 0.2)
  (folder / '1-2.trans.txt').write_text(''.join(f'1-2-{i:04d} {t}\n' for i, t in enumerate(text)))
  lexicon = given(case, 'pr_lexicon')
  # The first pronunciation counts, over both files.
  names = words.LEXICONS
  (root / names[0]).write_text('\n'.join(lexicon[:3]) + '\n')
  (root / names[1]).write_text('\n'.join(lexicon[3:]) + '\n')
  source = opened('superb_asr', root)
  field = symbols.Symbols('tokens', 'phones', phones.PHONES, eos='<eos>')
  got = [ids.tolist() for ids in field.open(source, Context(16000)).ids]
  assert got == given(case, 'pr_ids', 'outputs')
  assert list(phones.PHONES) == recorded('superb_data')['PR']['vocabulary']


@cases('superb_task_labels')
def test_the_numbers_of_intents_and_speakers(case, tmp_path, write):
  (tmp_path / 'data').mkdir()
  lines = [',path,speakerId,transcription,action,object,location']
  for i, row in enumerate(given(case, 'ic_rows')):
    write(tmp_path / 'wavs' / 'speakers' / 's' / f'{i}.wav')
    lines.append(f'{i},wavs/speakers/s/{i}.wav,s,x,{",".join(row)}')
  (tmp_path / 'data' / 'train_data.csv').write_text('\n'.join(lines) + '\n')
  source = opened('superb_ic', tmp_path)
  numbered = {s: {v: i for i, v in enumerate(source.classes(s))} for s in commands.INTENT}
  assert numbered == given(case, 'ic_map', 'outputs')
  assert [len(v) for v in numbered.values()] == given(case, 'ic_sizes', 'outputs')
  found = [path.split('/')[-3] for path in given(case, 'sid_paths')]
  labels = [speakers.SPEAKERS.index(name) for name in found]
  assert labels == given(case, 'sid_labels', 'outputs')


@golden.each_case('superb', where=lambda case: 'lines' in case.info.get('inputs', {}))
def test_targets_of_slots(case, tmp_path, write):
  lines = given(case, 'lines')
  text = []
  for i, line in enumerate(lines):
    write(tmp_path / 'train' / f'Ivy-snips-train-{i}.wav', 0.2)
    text.append(f'Ivy-snips-train-{i} {line}\n')
  (tmp_path / 'all.iob.snips.txt').write_text(''.join(text))
  (tmp_path / 'slots.txt').write_text('\n'.join(['O', *case.config['slots']]) + '\n')
  vocabulary = commands.slot_vocabulary(tmp_path)
  assert len(vocabulary) == case.config['vocab_size']
  field = symbols.Symbols('tokens', 'slots', vocabulary, split='slots')
  source = opened('superb_sf', tmp_path)
  rows = [int(source.id(i).rsplit('-', 1)[1]) for i in range(len(source))]
  ids = dict(zip(rows, field.open(source, Context(16000)).ids))
  targets, lengths = (case.inputs[k] for k in ('targets', 'target_lengths'))
  for i, (row, length) in enumerate(zip(targets, lengths)):
    np.testing.assert_array_equal(ids[i], row[: int(length)])


@golden.each_case('superb', where=kind('superb_data'))
def test_the_published_names(case):
  """What a user has on disk, and the vocabularies, as the official code names them."""
  data = case.config
  assert list(commands.SPEAKERS['train']) == data['SF']['speakers']['train']
  assert {s: list(v) for s, v in commands.SPEAKERS.items()} == data['SF']['speakers']
  assert [*slots.CHARACTERS[3:]] == data['SF']['characters']
  assert list(emotion.LABELS) == sorted(data['ER']['labels'], key=data['ER']['labels'].get)
  assert sum(c['n'] for c in data['ER']['counts'].values()) == emotion.CLIPS
  assert list(words.SOURCES) == data['VC']['source_speakers']
  assert list(words.TARGETS) == data['VC']['task1_targets']
  sizes = {s: len(v) for s, v in words.sentences('TEF1').items()}
  lists = data['VC']['lists']
  assert sizes == {'train': lists['E_train'], 'valid': lists['E_dev'], 'test': lists['eval']}
  assert list(words.LEXICONS) == data['PR']['lexicon_files']
  names = {'train': 'train', 'dev': 'valid', 'test': 'test'}
  assert {data['PR']['splits'][k]: s for k, s in names.items()} == words.LIBRISPEECH
