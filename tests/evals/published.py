"""Small trees of tones in the published layout of every named task."""

import json

import numpy as np
import soundfile

from research.audio.datasets.speech_commands import COMMANDS, NOISE
from tests.evals import toy

PARTS = ('train',) * 4 + ('valid',) * 2 + ('test',) * 2
SECONDS = 0.3


class Tree:
  """Writes clips and records what a reader must recover for each of them.

  Attributes:
    root: the data root.
    columns: path below the root -> column -> value or values.
    parts: path below the root -> 'train', 'valid' or 'test', or the fold; '' where it has none.
  """

  def __init__(self, root):
    self.root, self.columns, self.parts = root, {}, {}

  def clip(self, path, tones, part='', **columns):
    """Writes a clip of one or more tones; every fifth has the tone of the next class, so that no
    score is 1."""
    count = len(self.columns)
    wrong = count % 5 == 3
    numbers = [tones] if isinstance(tones, int) else tones
    audio = sum(
      toy.tone(250 * 1.5 ** (n + wrong), SECONDS, 10 * count + n).astype(np.int32) for n in numbers
    )
    target = self.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(target, (audio // len(numbers)).astype(np.int16), toy.RATE)
    self.columns[path], self.parts[path] = columns, part

  def text(self, path, *lines):
    """Writes a text file with these lines."""
    (self.root / path).parent.mkdir(parents=True, exist_ok=True)
    (self.root / path).write_text('\n'.join(lines) + '\n')


def esc(tree):
  lines = ['filename,fold,target,category,esc10,src_file,take']
  for k in range(60):
    target, fold = k % 3, k // 3 % 5 + 1
    name = ('dog', 'rain', 'cow')[target]
    lines.append(f'{k}.wav,{fold},{target},{name},{target < 2},{k},A')
    tree.clip(f'ESC-50-master/audio/{k}.wav', target, str(fold), label=name)
  tree.text('ESC-50-master/meta/esc50.csv', *lines)


def urbansound8k(tree):
  lines = ['slice_file_name,fsID,start,end,salience,fold,classID,class']
  for k in range(60):
    number, fold = k % 3, k // 3 % 10 + 1
    name = ('air_conditioner', 'car_horn', 'children_playing')[number]
    lines.append(f'{k}-{number}-0-0.wav,{k},0.0,4.0,1,{fold},{number},{name}')
    tree.clip(f'UrbanSound8K/audio/fold{fold}/{k}-{number}-0-0.wav', number, str(fold), label=name)
  tree.text('UrbanSound8K/metadata/UrbanSound8K.csv', *lines)


def fsdd(tree, column='label', part='split'):
  lines = ['path,label,speaker,split,fold']
  for k in range(96):
    digit, speaker, split, fold = k % 3, k // 3 % 4, PARTS[k // 12], str(k // 12 % 4)
    lines.append(f'{k}.wav,{digit},s{speaker},{split},{fold}')
    tone = digit if column == 'label' else speaker
    where = split if part == 'split' else fold
    tree.clip(f'fsdd/{k}.wav', tone, where, label=str(digit), speaker=f's{speaker}')
  tree.text('fsdd/labels.csv', *lines)


def speech_commands(tree, version=2, classes=None):
  folder, lists = f'speech_commands_v0.0{version}', {'valid': [], 'test': []}
  words = (*COMMANDS, 'bed', 'visual' if version == 2 else 'cat')
  for number, word in enumerate(words):
    label = '_unknown_' if classes == 12 and word not in COMMANDS else word
    for k, part in enumerate(PARTS):
      name = f'{word}/{k:08x}_nohash_0.wav'
      tree.clip(f'{folder}/{name}', number, part, label=label)
      if part in lists:
        lists[part].append(name)
  tree.text(f'{folder}/validation_list.txt', *lists['valid'])
  tree.text(f'{folder}/testing_list.txt', *lists['test'])
  noise = tree.root / folder / NOISE / 'pink.wav'
  noise.parent.mkdir()
  random = np.random.default_rng(0)
  soundfile.write(noise, random.integers(-900, 900, 40 * toy.RATE).astype(np.int16), toy.RATE)


def voxceleb1(tree):
  lines = []
  for number, speaker in enumerate(('id10001', 'id10270', 'id10300')):
    for k, part in enumerate(PARTS):
      name = f'{speaker}/video{k}/00001.wav'
      lines.append(f'{("train", "valid", "test").index(part) + 1} {name}')
      tree.clip(f'VoxCeleb1/wav/{name}', number, part, speaker=speaker)
  tree.text('VoxCeleb1/iden_split.txt', *lines)


def voxforge(tree):
  for number, language in enumerate(('de', 'es', 'SpeechCorpus')):
    for k in range(24):
      path = f'VoxForge/{language}/Trunk/user{k // 2}-20080504-qvg/wav/{k}.wav'
      tree.clip(path, number, label='en' if number == 2 else language)


def crema_d(tree):
  valid, test = (1009, 1011, 1022), (1001, 1004, 1017)
  for actor in (1002, 1003, 1005, 1006, 1007, *valid, *test):
    part = 'valid' if actor in valid else 'test' if actor in test else 'train'
    for number, emotion in enumerate(('ANG', 'FEA', 'SAD')):
      for sentence in ('DFA', 'IEO'):
        path = f'CREMA-D/AudioWAV/{actor}_{sentence}_{emotion}_XX.wav'
        tree.clip(path, number, part, label=emotion)


def gtzan(tree):
  lists = {'train': [], 'valid': [], 'test': []}
  for number, genre in enumerate(('blues', 'jazz', 'rock')):
    for k, part in enumerate(PARTS + PARTS):
      name = f'{genre}/{genre}.{k:05d}.wav'
      lists[part].append(name)
      tree.clip(f'gtzan/genres/{name}', number, part, label=genre)
  for part, names in lists.items():
    tree.text(f'gtzan/{part}_filtered.txt', *names)


def libricount(tree):
  for k in range(60):
    tree.clip(f'LibriCount10-0dB/test/{k % 4 * 3}_{k}.wav', k % 4, label=str(k % 4 * 3))


def nsynth(tree):
  notes = {}
  for k in range(64):
    part, number = PARTS[k // 2 % 8], k % 2
    family, pitch = ('bass', 'organ')[number], (9, 100)[number]
    name = f'{family}_acoustic_{k:03d}-{pitch:03d}-050'
    notes.setdefault(part, {})[name] = {
      'instrument_family_str': family, 'instrument_str': f'{family}_{k}', 'velocity': 50,
      'instrument_source_str': 'acoustic', 'pitch': pitch, 'qualities_str': ['dark'],
    }  # fmt: skip
    path = f'nsynth/nsynth-{part}/audio/{name}.wav'
    tree.clip(path, number, part, label=family, pitch=str(pitch))
  for part, found in notes.items():
    tree.text(f'nsynth/nsynth-{part}/examples.json', json.dumps(found))


def surge(tree):
  for k in range(14):
    for number, note in enumerate((21, 60, 108)):
      path = f'surge/surge-patches-{k}-velocity64/{note:03d}.ogg'
      tree.clip(path, number, label=str(note))


NAMES = ('Bark', 'Rain', 'Speech')


def _several(k):
  """Which of the three classes clip k has."""
  return ([0], [1], [2], [0, 1], [1, 2])[k % 5]


def fsd50k(tree):
  truth = 'FSD50K/FSD50K.ground_truth'
  tree.text(f'{truth}/vocabulary.csv', *(f'{i},{n},/m/{i}' for i, n in enumerate(NAMES)))
  dev, test = ['fname,labels,mids,split'], ['fname,labels,mids']
  for k in range(66):
    part = ('train', 'train', 'valid', 'test')[k // 5 % 4]
    names = [NAMES[i] for i in _several(k)]
    row = f'{k},"{",".join(names)}",x'
    (test if part == 'test' else dev).append(
      row + {'test': '', 'valid': ',val'}.get(part, ',train')
    )
    folder = 'FSD50K.eval_audio' if part == 'test' else 'FSD50K.dev_audio'
    tree.clip(f'FSD50K/{folder}/{k}.wav', _several(k), part, label=names)
  tree.text(f'{truth}/dev.csv', *dev)
  tree.text(f'{truth}/eval.csv', *test)


def audioset(tree):
  classes = [f'{i},/m/{i},"{n}"' for i, n in enumerate(NAMES)]
  tree.text('AudioSet/class_labels_indices.csv', 'index,mid,display_name', *classes)
  for part, count in (('balanced_train', 40), ('unbalanced_train', 25), ('eval', 25)):
    lines = ['# Segments', '# num', '# YTID, start_seconds, end_seconds, positive_labels']
    for k in range(count):
      mids = ','.join(f'/m/{i}' for i in _several(k))
      lines.append(f'{part[:3]}{k:08d}, 30.000, 40.000, "{mids}"')
      path = f'AudioSet/{part}/{part[:3]}{k:08d}.wav'
      where = 'test' if part == 'eval' else ''  # Validation is taken from train.
      tree.clip(path, _several(k), where, label=[NAMES[i] for i in _several(k)])
    tree.text(f'AudioSet/{part}_segments.csv', *lines)


def hear(tree, several=False, evaluation=('top1_acc',), **changed):
  """A folder of hear-preprocess: three folds if it is multi-label, else three splits."""
  root, parts = 'tasks/made-v1-full', {}
  for k in range(60):
    numbers = _several(k) if several else [k % 3]
    part = f'fold0{k // 5 % 3}' if several else PARTS[k // 3 % 8]
    labels = [NAMES[i] for i in numbers]
    parts.setdefault(part, {})[f'{k}.wav'] = labels
    label = labels if several else labels[0]
    tree.clip(f'{root}/16000/{part}/{k}.wav', numbers, part, label=label)
  for part, labels in parts.items():
    tree.text(f'{root}/{part}.json', json.dumps(labels))
  tree.text(f'{root}/labelvocabulary.csv', 'idx,label', *(f'{i},{n}' for i, n in enumerate(NAMES)))
  about = {
    'task_name': 'made', 'version': 'v1', 'embedding_type': 'scene', 'splits': list(parts),
    'prediction_type': 'multilabel' if several else 'multiclass', 'evaluation': evaluation,
    'split_mode': 'new_split_kfold' if several else 'trainvaltest', 'sample_duration': 0.3,
  }  # fmt: skip
  tree.text(f'{root}/task_metadata.json', json.dumps(about | changed))
  return tree.root / root


TREES = {
  'esc10': esc,
  'esc50': esc,
  'urbansound8k': urbansound8k,
  'fsdd': fsdd,
  'fsdd_folds': lambda tree: fsdd(tree, part='fold'),
  'fsdd_speaker': lambda tree: fsdd(tree, 'speaker'),
  'speech_commands': lambda tree: speech_commands(tree, classes=12),
  'speech_commands_35': speech_commands,
  'speech_commands_v1': lambda tree: speech_commands(tree, 1),
  'speech_commands_v1_12': lambda tree: speech_commands(tree, 1, 12),
  'voxceleb1': voxceleb1,
  'voxforge': voxforge,
  'crema_d': crema_d,
  'libricount': libricount,
  'gtzan': gtzan,
  'nsynth_instrument': nsynth,
  'nsynth_pitch': nsynth,
  'surge_pitch': surge,
  'fsd50k': fsd50k,
  'audioset20k': audioset,
  'audioset': audioset,
  # Part of the package: there is nothing to lay out.
  'builtin_digits': lambda tree: None,
  'builtin_words': lambda tree: None,
  'builtin_events': lambda tree: None,
  'builtin_glides': lambda tree: None,
  'builtin_pairs': lambda tree: None,
  'builtin_phrases': lambda tree: None,
}
