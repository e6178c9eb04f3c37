import collections
import json

import numpy as np
import pytest
import soundfile

from research.audio import instructions
from research.audio.sources import Source, Table, open_source
from research.errors import InputError
from tests.launch import runner

CLASSES = ('dog_bark', 'rain', 'siren')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  home = tmp_path_factory.mktemp('sounds')
  rows = ['path,label,split']
  for i in range(60):
    soundfile.write(home / f'{i}.wav', np.zeros(160), 16_000)
    rows.append(
      f'{i}.wav,{CLASSES[i % 3]},{"test" if i >= 48 else "valid" if i >= 42 else "train"}'
    )
  (home / 'labels.csv').write_text('\n'.join(rows))
  return home


def text(record):
  return record['messages'][0]['content'][-1]['text']


def test_questions_and_answers(folder):
  source = open_source(str(folder))
  labels = dict(zip((source.id(i) for i in range(60)), source.column('label')))
  maker = instructions.Maker(source, questions=instructions.LABELLED, per_clip=2)
  found = list(maker.records())
  assert len({record['id'] for _, record in found}) == len(found) == 60 * 4 * 2
  yes = collections.defaultdict(list)
  for split, record in found:
    user, assistant = record['messages']
    clips = [part['audio_path'] for part in user['content'][:-1]]
    own, answer, asked = labels[clips[0]].replace('_', ' '), assistant['content'], text(record)
    task = record['task']
    assert '{' not in asked and source.column('split')[int(clips[0][:-4])] == split
    if task == 'class':
      assert answer == own and own not in asked
    elif task == 'choice':
      assert answer == own and all(name.replace('_', ' ') in asked for name in CLASSES)
    elif task == 'yes_no':
      assert (own in asked) == (answer == 'Yes')
    else:
      assert len(clips) == 2 and clips[0] != clips[1]
      assert (labels[clips[0]] == labels[clips[1]]) == (answer == 'Yes')
      assert source.column('split')[int(clips[1][:-4])] == split
    yes[task].append(answer == 'Yes')
  assert all(0.35 < np.mean(yes[task]) < 0.65 for task in ('yes_no', 'compare'))
  assert len({text(r) for _, r in found if r['task'] == 'class'}) == 12


def test_phrasings_are_held_out_and_draws_are_seeded(folder):
  source = open_source(str(folder))
  make = lambda seed, **own: instructions.Maker(source, seed=seed, **own)  # noqa: E731
  train, held = make(0).split_phrasings('class')
  assert len(train) == 9 and len(held) == 3 and not set(train) & set(held)
  assert set(train[:2]) == set(instructions.PHRASINGS['class'][:2])
  assert {tuple(make(s).split_phrasings('class')[1]) for s in range(6)} != {tuple(held)}
  for split, record in make(0, questions=('class',)).records():
    plain = [t.replace('{what}', 'sound') for t in (held if split == 'test' else train)]
    assert text(record) in plain
  first = list(make(0).records())
  assert first == list(make(0).records()) != list(make(1).records())
  # Another clip changes none of the others.
  fewer = instructions.Maker(source.select(range(59)))
  assert [r for r in fewer.records() if r[1]['id'] in {x[1]['id'] for x in first}] == [
    r for r in first if not r[1]['id'].startswith('59.')
  ]


PHRASINGS = {'class': ['What is it?', 'Say it.', 'Name it.', 'And?']}


def write(folder, out, file):
  """Questions by the module itself, with phrasings of a file."""
  file.write_text(json.dumps(PHRASINGS))
  phrasings = instructions.PHRASINGS | instructions.read_phrasings(file)
  source = open_source(str(folder))
  maker = instructions.Maker(source, questions=('class', 'compare'), phrasings=phrasings)
  return instructions.write(maker, out)


def test_what_is_written_is_a_source(folder, tmp_path):
  out, own = tmp_path / 'out', tmp_path / 'own.json'
  assert write(folder, out, own) == {'train': 84, 'valid': 12, 'test': 24}
  source = open_source({'name': 'messages', 'args': {'path': str(out), 'audio': str(folder)}})
  assert source.present('task') == {'class', 'compare'}
  assert len(source.split('train')) == 84 and source.durations().min() > 0
  held = json.loads((out / 'phrasings.json').read_text())['class']
  assert sorted(held['train'] + held['test']) == sorted(PHRASINGS['class'])
  assert len(held['test']) == 1
  with pytest.raises(InputError, match='is not empty'):
    write(folder, out, own)


@pytest.mark.slow
def test_the_command_gives_the_same_bytes(folder, tmp_path):
  outs, own = [tmp_path / name for name in ('a', 'b')], tmp_path / 'own.json'
  write(folder, outs[0], own)
  done = runner.run(
    'launch.make_instructions', f'--source={folder}', f'--out={outs[1]}', f'--phrasings={own}',
    '--questions=class,compare', quick=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  names = ['phrasings.json', 'test.jsonl', 'train.jsonl', 'valid.jsonl']
  assert sorted(p.name for p in outs[1].iterdir()) == names
  for name in names:
    assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
  spec = {'name': 'messages', 'args': {'path': str(outs[1]), 'audio': str(folder)}}
  assert json.dumps(spec) in done.stdout


def test_what_cannot_be_asked(folder, tmp_path):
  source = open_source(str(folder))
  rain = source.where({'label': 'rain'})
  arrays = Source(Table('x', ['a'], {'label': ['b']}, lambda row: {'array': np.zeros(9)}))
  for call, sentence in (
    (lambda: instructions.Maker(source, questions=('clas',)), "Did you mean 'class'"),
    (lambda: instructions.Maker(source, per_clip=0), 'per_clip is 0'),
    (lambda: instructions.Maker(arrays), 'no audio files of its own'),
    (lambda: list(instructions.Maker(rain).records()), 'need two classes'),
  ):
    with pytest.raises(InputError, match=sentence):
      call()
  own = tmp_path / 'own.json'
  for given, sentence in (
    ('{"choice": ["Which?"]}', r'no place for \{options\}'),
    ('{"klass": ["x"]}', "Did you mean 'class'"),
    ('{"class": []}', 'expected {question'),
    ('x', 'as JSON'),
  ):
    own.write_text(given)
    with pytest.raises(InputError, match=sentence):
      instructions.read_phrasings(own)
