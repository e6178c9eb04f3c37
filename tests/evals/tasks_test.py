"""The table of tasks is valid, and tasks find their data in the published layouts."""

import json
import os

import numpy as np
import pytest
import soundfile

from research.audio import datasets, prepare
from research.audio.datasets.speech_commands import NOISE
from research.audio.sources import open_source
from research.errors import InputError
from research.evals import tasks
from research.metrics import classification


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
  monkeypatch.delenv('OIDO_DATA', raising=False)


def clip(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, np.zeros(800, np.int16), 16000)


@pytest.mark.parametrize('name', tasks.TASKS)
def test_every_entry_is_valid(name):
  task = tasks.TASKS[name]
  assert task.name == name
  assert task.source in datasets.DATASETS if task.source else task.folders
  assert task.metric is None or task.metric in classification.METRICS
  assert task.kind in ('auto', 'fold', 'split', 'seeded')
  assert task.seconds is None or 0 < task.seconds <= 30
  if task.source and datasets.DATASETS[task.source].multilabel:
    assert task.metric in classification.MULTI_LABEL


def test_suites_and_other_names_are_of_tasks():
  for members in tasks.SUITES.values():
    assert set(members) <= set(tasks.TASKS)
  assert set(tasks.ALIASES.values()) <= set(tasks.TASKS)
  assert tasks.get('emotion').name == 'crema_d'
  assert tasks.names('esc10, fsdd,esc10', 'small')[:3] == ['esc10', 'fsdd', 'fsdd_speaker']


@pytest.mark.parametrize('kind, classes', [('digits', 10), ('words', 20), ('events', 12)])
def test_builtin_tasks(kind, classes):
  made = tasks.prepare(f'builtin_{kind}')
  assert len(made.classes) == classes
  part = made.splits.folds[0]
  assert len(part.train) > 2 * len(part.test) > 80
  # No voice and no set of event parameters is in two parts.
  speakers = made.source.column('speaker')
  if all(speakers):
    sets = [{speakers[r] for r in rows} for rows in part.rows()]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
  # Labels are the classes of the column, clip by clip.
  named = [made.classes[i] for i in made.labels]
  assert named == made.source.column('label')


def test_a_folder_with_a_manifest(tmp_path):
  lines = ['path,label,mood,split']
  for i in range(20):
    clip(tmp_path / 'mine' / f'{i}.wav')
    lines.append(f'{i}.wav,{"ab"[i % 2]},{"xyz"[i % 3]},{"train" if i < 14 else "test"}')
  (tmp_path / 'mine' / 'labels.csv').write_text('\n'.join(lines) + '\n')
  made = tasks.prepare(str(tmp_path / 'mine'))
  assert (made.task.name, made.classes, made.metric) == ('mine', ('a', 'b'), 'accuracy')
  assert len(made.splits.folds[0].test) == 6
  other = tasks.prepare(f'{tmp_path / "mine"}:mood')
  assert (other.task.name, other.classes) == ('mine_mood', ('x', 'y', 'z'))
  with pytest.raises(InputError, match="Did you mean 'mood'"):
    tasks.prepare(f'{tmp_path / "mine"}:mod')


def test_a_folder_with_a_subfolder_a_class(tmp_path):
  for name in ('cat', 'dog'):
    for i in range(10):
      clip(tmp_path / 'pets' / name / f'{i}.wav')
  made = tasks.prepare(str(tmp_path / 'pets'))
  assert made.classes == ('cat', 'dog') and made.label == 'folder'
  assert made.splits.origin.startswith('seeded')


def test_several_labels_a_clip_make_a_multi_label_task(tmp_path):
  rows = [['a'], ['b'], ['a', 'b'], ['c']] * 5 + [[]]
  for i in range(21):
    clip(tmp_path / f'{i}.wav')
  lines = [json.dumps({'path': f'{i}.wav', 'labels': r}) for i, r in enumerate(rows)]
  (tmp_path / 'labels.jsonl').write_text('\n'.join(lines))
  made = tasks.prepare(str(tmp_path))
  assert made.metric == 'mAP' and made.classes == ('a', 'b', 'c')
  np.testing.assert_array_equal(made.labels[:4], [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
  assert made.dropped == 1  # the clip without a label
  # A column of single labels cannot hold several: each combination would become a class.
  (tmp_path / 'labels.jsonl').unlink()
  lines = ['path,label', *(f'{i}.wav,{";".join(r)}' for i, r in enumerate(rows))]
  (tmp_path / 'labels.csv').write_text('\n'.join(lines) + '\n')
  with pytest.raises(InputError, match="'label' holds 'a;b'"):
    tasks.prepare(str(tmp_path))


def test_speech_commands_of_a_manifest_leave_the_noise_out(tmp_path):
  root = tmp_path / 'speech_commands_v2_test'
  lines = ['path,label,speaker,fold,split']
  for i, label in enumerate(['yes', 'no', '_silence_'] * 6 + ['_background_noise_']):
    clip(root / f'{i}.wav')
    lines.append(f'{i}.wav,{label},s{i},{i % 3},')
  (root / 'labels.csv').write_text('\n'.join(lines) + '\n')
  made = tasks.prepare('speech_commands', tmp_path)
  assert made.classes == ('_silence_', 'no', 'yes')
  assert len(made.splits.folds) == 3 and made.dropped == 1


def test_speech_commands_as_published_have_twelve_classes(tmp_path):
  words = ('yes', 'no', 'up', 'down', 'left', 'right', 'on', 'off', 'stop', 'go', 'bed', 'cat')
  root, lists = tmp_path / 'speech_commands', {'validation': [], 'testing': []}
  for word in words:
    for i in range(6):
      name = f'{word}/{i:08x}_nohash_0.wav'
      clip(root / name)
      if i in (0, 1):
        lists['validation' if i else 'testing'].append(name)
  soundfile.write(
    _made(root / '_background_noise_' / 'hum.wav'), np.ones(16000 * 12, np.int16), 16000
  )
  for part, names in lists.items():
    (root / f'{part}_list.txt').write_text('\n'.join(names))
  made = tasks.prepare('speech_commands', tmp_path)
  assert len(made.classes) == 12
  assert {'_unknown_', '_silence_'} <= set(made.classes) and 'bed' not in made.classes
  assert made.splits.origin == 'column split'
  assert (
    len(tasks.prepare('speech_commands_35', tmp_path).classes) == 12
  )  # the words that are there


def _made(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


def test_esc_as_published(tmp_path):
  root = tmp_path / 'ESC-50'
  lines = ['filename,fold,target,category,esc10,src_file,take']
  for i, (name, ten) in enumerate([('dog', True), ('rain', True), ('cow', False)] * 5):
    lines.append(f'{i}.wav,{i // 3 + 1},{i % 3},{name},{ten},{i},A')
    clip(root / 'audio' / f'{i}.wav')
  _made(root / 'meta' / 'esc50.csv').write_text('\n'.join(lines) + '\n')
  fifty, ten = tasks.prepare('esc50', tmp_path), tasks.prepare('esc10', tmp_path)
  assert fifty.classes == ('dog', 'rain', 'cow') and ten.classes == ('dog', 'rain')
  assert len(fifty.splits.folds) == len(ten.splits.folds) == 5
  assert len(ten.source) == 10


def test_audioset_tests_on_eval_and_leaves_the_large_set_alone(tmp_path):
  root = tmp_path / 'audioset'
  _made(root / 'class_labels_indices.csv').write_text(
    'index,mid,display_name\n0,/m/0,"Speech"\n1,/m/1,"Dog"\n2,/m/2,"Rain, heavy"\n'
  )
  for part, count in (('balanced_train', 14), ('unbalanced_train', 9), ('eval', 6)):
    lines = ['# Segments', '# num', '# YTID, start_seconds, end_seconds, positive_labels']
    for i in range(count):
      ytid = f'{part[:3]}{i:08d}'
      clip(root / 'audio' / f'{ytid}.wav')
      lines.append(f'{ytid}, 30.000, 40.000, "/m/{i % 3},/m/{(i + 1) % 3}"')
    (root / f'{part}_segments.csv').write_text('\n'.join(lines) + '\n')
  small, large = tasks.prepare('audioset20k', tmp_path), tasks.prepare('audioset', tmp_path)
  assert small.classes == ('Speech', 'Dog', 'Rain, heavy') and small.metric == 'mAP'
  assert len(small.source) == 20 and len(large.source) == 29
  assert set(small.source.column('split')) == {'balanced', 'eval'}
  part = small.splits.folds[0]
  assert {small.source.column('split')[r] for r in part.test} == {'eval'}
  assert {small.source.column('split')[r] for r in part.validation} == {'balanced'}
  np.testing.assert_array_equal(small.labels.sum(axis=1), 2)


def test_fsd50k_as_published(tmp_path):
  root = tmp_path / 'FSD50K'
  truth = root / 'FSD50K.ground_truth'
  _made(truth / 'vocabulary.csv').write_text('0,Bark,/m/1\n1,Rain,/m/2\n')
  dev, test = ['fname,labels,mids,split'], ['fname,labels,mids']
  for i in range(9):
    clip(root / 'FSD50K.dev_audio' / f'{i}.wav')
    dev.append(f'{i},"{"Bark,Rain" if i % 2 else "Rain"}",x,{"val" if i > 6 else "train"}')
  for i in range(3):
    clip(root / 'FSD50K.eval_audio' / f'9{i}.wav')
    test.append(f'9{i},Bark,x')
  (truth / 'dev.csv').write_text('\n'.join(dev) + '\n')
  (truth / 'eval.csv').write_text('\n'.join(test) + '\n')
  made = tasks.prepare('fsd50k', tmp_path)
  assert [len(r) for r in made.splits.folds[0].rows()] == [7, 2, 3]
  assert made.metric == 'mAP' and made.labels.shape == (12, 2)


def test_nsynth_as_published(tmp_path):
  root = tmp_path / 'nsynth'
  for part, count in (('train', 8), ('valid', 4), ('test', 4)):
    notes = {}
    for i in range(count):
      clip(root / f'nsynth-{part}' / 'audio' / f'{part}{i}.wav')
      notes[f'{part}{i}'] = dict(
        instrument_family_str=('bass', 'organ')[i % 2], instrument_str=f'i{i}', velocity=50,
        instrument_source_str='acoustic', pitch=(9, 60, 100)[i % 3], qualities_str=['dark'],
      )  # fmt: skip
    (root / f'nsynth-{part}' / 'examples.json').write_text(json.dumps(notes))
  assert tasks.prepare('nsynth_instrument', tmp_path).classes == ('bass', 'organ')
  assert tasks.prepare('nsynth_pitch', tmp_path).classes == ('9', '60', '100')  # by number


NAMES = [n for n, task in tasks.TASKS.items() if task.source not in datasets.PACKAGED]


@pytest.mark.parametrize('name', NAMES)
def test_absent_data_say_what_is_expected_where_and_how_to_make_shards(tmp_path, name):
  task = tasks.TASKS[name]
  with pytest.raises(InputError) as caught:
    tasks.prepare(name, tmp_path)
  message = str(caught.value)
  assert f'Task {name!r}' in message and str(tmp_path) in message
  if task.source:
    entry = datasets.DATASETS[task.source]
    assert entry.layout in message and f'Put it there as {entry.folders[0]!r}' in message
    assert str(tmp_path / entry.folders[0]) in message
    command = f'--source={task.source} --data_root={tmp_path} --out=SHARDS/{task.source}`'
  else:
    folder = task.folders[0]
    assert f'needs the folder {folder!r}' in message
    command = f'--source={tmp_path}/{folder} --out=SHARDS/{folder}`'
  assert f'`python -m launch.prepare_data {command}' in message and '--data_root=SHARDS' in message
  if task.folders:
    assert task.columns in message
  with pytest.raises(InputError, match='--data_root'):
    tasks.prepare(name)


def test_the_command_of_that_message_makes_what_the_task_reads(tmp_path):
  for word in (*ten_commands(), 'visual'):
    for i in range(3):
      clip(tmp_path / 'speech_commands_v0.02' / word / f'{i:08x}_nohash_0.wav')
  root = tmp_path / 'speech_commands_v0.02'
  for part, i in (('validation', 0), ('testing', 1)):
    lines = [f'{w}/{i:08x}_nohash_0.wav' for w in (*ten_commands(), 'visual')]
    (root / f'{part}_list.txt').write_text('\n'.join(lines))
  soundfile.write(_made(root / NOISE / 'hum.wav'), np.ones(16000 * 12, np.int16), 16000)
  for name, classes in (('speech_commands', 12), ('speech_commands_35', 11)):
    published = tasks.prepare(name, tmp_path)
    source = open_source(tasks.TASKS[name].source, root=tmp_path)
    out = tmp_path / 'shards' / tasks.TASKS[name].source
    prepare.prepare(source, out, count=1, settings=prepare.Settings())
    if name == 'speech_commands':  # Shards of 35 words do not serve the 12 classes, nor vice versa.
      with pytest.raises(InputError, match='was not found'):
        tasks.prepare('speech_commands_35', tmp_path / 'shards')
    made = tasks.prepare(name, tmp_path / 'shards')
    assert made.classes == published.classes and len(made.classes) == classes
    assert made.splits.fingerprint == published.splits.fingerprint
    np.testing.assert_array_equal(made.labels, published.labels)
  assert len(tasks.prepare('speech_commands', tmp_path / 'shards').classes) == 12


def ten_commands():
  return ('yes', 'no', 'up', 'down', 'left', 'right', 'on', 'off', 'stop', 'go')


def test_unknown_names_list_the_known_ones(tmp_path):
  with pytest.raises(InputError, match='--data_root=DIR or'):
    tasks.prepare('fsdd')
  with pytest.raises(InputError, match="Did you mean 'esc10' or 'esc50'"):
    tasks.get('esc1')
  with pytest.raises(InputError, match='there is no folder'):
    tasks.get(f'.{os.sep}nowhere')
  with pytest.raises(InputError, match=r"Unknown suite 'smal'\. Did you mean 'small'"):
    tasks.names(None, 'smal')
  with pytest.raises(InputError, match='No task given'):
    tasks.names('')


def test_a_single_class_is_refused(tmp_path):
  clip(tmp_path / 'a.wav')
  (tmp_path / 'labels.csv').write_text('path,label\na.wav,x\n')
  with pytest.raises(InputError, match="a single class, 'x'"):
    tasks.prepare(str(tmp_path))
