"""Recipes of mixtures: layouts, levels, overlap, speakers apart, the same bytes after a kill."""

import csv
import dataclasses
import io
import itertools
import json
import threading

import numpy as np
import pytest
import soundfile

from research.audio import mixtures
from research.audio.mixtures import pools, signals, writing
from research.audio.sources import open_source
from research.errors import InputError
from tests.launch import runner


def speech(seed, seconds, rate=16000):
  """Bursts of noise with pauses and silent ends."""
  rng = np.random.default_rng(seed)
  audio = np.zeros(round(seconds * rate), np.float32)
  at = 0.1
  while at < seconds - 0.3:
    long = rng.uniform(0.3, 0.9)
    low, high = round(at * rate), min(round((at + long) * rate), len(audio) - 1600)
    audio[low:high] = 0.1 * rng.standard_normal(max(0, high - low))
    at += long + rng.uniform(0.05, 0.5)
  return audio


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Nine speakers with four clips each, in three splits, and nine clips of noise."""
  root = tmp_path_factory.mktemp('clips')
  rows = ['path,speaker,split']
  for s, k in itertools.product(range(9), range(4)):
    path = f's{s}-{k}.wav'
    soundfile.write(root / path, speech(10 * s + k, 2.0 + 0.3 * k), 16000)
    rows.append(f'{path},s{s},{("train", "dev", "test")[s // 3]}')
  (root / 'labels.csv').write_text('\n'.join(rows) + '\n')
  noise = root.parent / f'{root.name}-noise'
  noise.mkdir()
  for k in range(9):
    audio = np.random.default_rng(k).standard_normal(8000) * 0.05
    audio[5000:] = 0  # filled up with digital silence
    soundfile.write(noise / f'{k}.wav', audio, 16000)
  return root, noise


def recipe(name, folder, **args):
  source, noise = folder
  noisy = dict(noise=open_source(str(noise))) if name == 'small_noisy' else {}
  return mixtures.recipe(name, open_source(str(source)), **noisy, **args)


def tree(folder):
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def scp(path):
  return dict(line.split() for line in path.read_text().splitlines())


def audio(path):
  return soundfile.read(path, dtype='float32')[0]


def test_pcm16_is_what_libsndfile_writes():
  x = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
  for scale in (0.5, 1e-4, 1e-9):
    buffer = io.BytesIO()
    soundfile.write(buffer, scale * x, 16000, format='WAV', subtype='PCM_16')
    buffer.seek(0)
    want, _ = soundfile.read(buffer, dtype='int16')
    np.testing.assert_array_equal(signals.pcm16(np.float32(scale) * x), want)


def test_runs_of_speech():
  x = np.zeros(48_000, np.float32)
  x[4800:11_200] = 0.1  # 0.3 to 0.7 s
  x[12_800:16_000] = 0.1  # a pause of 0.1 s is closed
  x[24_000:28_800] = 0.1  # 1.5 to 1.8 s
  x[40_000:40_320] = 0.1  # too short
  assert signals.runs(x, 16000) == [(4800, 16_000), (24_000, 28_800)]
  assert signals.runs(np.zeros(3200, np.float32), 16000) == []


def test_separation(folder, tmp_path):
  made = recipe('small_mixtures', folder, train=6, valid=3, test=4, tasks=['ss'])
  assert writing.write(made, tmp_path / 'out', encoding='wav') == 13
  used = {}
  for split, count in (('train-100', 6), ('dev', 3), ('test', 4)):
    base = tmp_path / 'out' / 'ss' / split
    lists = {kind: scp(base / kind / 'wav.scp') for kind in ('mix_clean', 's1', 's2')}
    assert len(lists['s1']) == count
    for name in lists['mix_clean']:
      mix, first, second = (audio(base / k / lists[k][name]) for k in ('mix_clean', 's1', 's2'))
      assert len(mix) == len(first) == len(second) >= 32_000 - 1
      assert np.abs(mix - first - second).max() < 1e-4 and np.abs(mix).max() <= 0.9001
      for part in (first, second):
        assert -40 < 20 * np.log10(signals.rms(part)) < -18
      one, two = (part.split('-')[0] for part in name.split('_'))
      assert one != two
      used.setdefault(split, set()).update((one, two))
  assert not set.intersection(*used.values()) and not used['dev'] & used['test']
  about = json.loads((tmp_path / 'out' / 'recipe.json').read_text())
  assert about['recipe'] == 'small_mixtures' and about['count'] == 13 and about['train'] == 6


def test_conversations(folder, tmp_path):
  source, noise = folder
  made = mixtures.recipe(
    'small_mixtures', open_source(str(source)), open_source(str(noise)), train=8, valid=1, test=0,
    tasks=['sd'],
  )  # fmt: skip
  writing.write(made, tmp_path / 'out')
  base = tmp_path / 'out' / 'sd' / 'train'
  assert not (tmp_path / 'out' / 'sd' / 'test').exists()
  speakers = scp(base / 'utt2spk')
  seconds = {k: float(v) for k, v in scp(base / 'reco2dur').items()}
  rttm = [line.split() for line in (base / 'rttm').read_text().splitlines()]
  active = {name: np.zeros((2, 1000 * 20)) for name in seconds}
  for line, row in zip((base / 'segments').read_text().splitlines(), rttm):
    turn, name, start, end = line.split()
    assert row[1] == name and row[7] == speakers[turn] and row[3] == start
    assert 0 <= float(start) < float(end) <= seconds[name] + 1e-3
    order = name.split('_')[1:]
    active[name][
      order.index(speakers[turn]), round(1e3 * float(start)) : round(1e3 * float(end))
    ] = 1
  for name, path in scp(base / 'wav.scp').items():
    samples = audio(base / path)
    assert len(samples) == round(16000 * seconds[name]) and 10 <= seconds[name] <= 20
    both, any_ = active[name].all(0).sum(), active[name].any(0).sum()
    assert 0.17 < both / any_ < 0.43 and active[name].any(1).all()
    assert any_ < 1000 * seconds[name], 'there are no pauses'
  assert {
    t for line in (base / 'spk2utt').read_text().splitlines() for t in line.split()[1:]
  } == set(speakers)


def test_noisy_speech(folder, tmp_path):
  made = recipe('small_noisy', folder, train=6, valid=3, test=4)
  writing.write(made, tmp_path / 'out')
  found = {}
  for split in ('train', 'dev', 'test'):
    base = tmp_path / 'out' / split
    for name, path in scp(base / 'noisy' / 'wav.scp').items():
      clean = audio(base / 'clean' / scp(base / 'clean' / 'wav.scp')[name]).astype(np.float64)
      noise = audio(base / 'noisy' / path) - clean
      ratio = 20 * np.log10(signals.rms(clean) / signals.rms(noise))
      item = next(i for i in made.items if i['id'] == name)
      assert ratio == pytest.approx(item['ratio'], abs=0.1)
      found.setdefault(split, set()).add(item['noise'])
  assert {i['ratio'] for i in made.items if i['split'] == 'test'} <= {2.5, 7.5, 12.5, 17.5}
  assert {i['ratio'] for i in made.items if i['split'] == 'train'} <= {0.0, 5.0, 10.0, 15.0}
  for a, b in itertools.combinations(found.values(), 2):
    assert not a & b


def test_commands(tmp_path):
  made = mixtures.recipe('small_commands', train=20, valid=8, test=8)
  writing.write(made, tmp_path / 'out')
  voices = {}
  for split, count in (('train', 20), ('valid', 8), ('test', 8)):
    with open(tmp_path / 'out' / 'ic' / 'data' / f'{split}_data.csv', newline='') as file:
      rows = list(csv.DictReader(file))
    assert len(rows) == count and list(rows[0]) == [
      '', 'path', 'speakerId', 'transcription', 'action', 'object', 'location'
    ]  # fmt: skip
    for row in rows:
      assert row['transcription'] == f'{row["action"]} {row["object"]} {row["location"]}'
      assert 0.8 < len(audio(tmp_path / 'out' / 'ic' / row['path'])) / 16000 < 5
      voices.setdefault(split, set()).add(row['speakerId'])
    lines = (tmp_path / 'out' / 'sf' / 'all.iob.snips.txt').read_text().splitlines()
    own = [line for line in lines if f'-snips-{split}-' in line]
    assert len(own) == count
    for line in own:
      name, rest = line.split(' ', 1)
      words, labels = (part.split() for part in rest.split('\t'))
      assert len(words) == len(labels) and words[0] == 'BOS' and words[-1] == 'EOS'
      assert set(labels[1:-1]) <= {'O', 'action', 'object', 'place', 'number'}
      assert (tmp_path / 'out' / 'sf' / split / f'{name}.flac').is_file()
      voices[split].add(name.split('-')[0])
  for a, b in itertools.combinations(voices.values(), 2):
    assert not a & b


def test_the_same_bytes_after_a_kill(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(writing, 'BATCH', 4)
  made = recipe('small_mixtures', folder, train=6, valid=3, test=4, tasks=['ss'])
  writing.write(made, tmp_path / 'whole')
  again = recipe('small_mixtures', folder, train=6, valid=3, test=4, tasks=['ss'])
  lock, calls = threading.Lock(), []

  def dying(item):
    with lock:
      calls.append(item['id'])
    if len(calls) > 9:
      raise KeyboardInterrupt
    return again.make(item)

  with pytest.raises(KeyboardInterrupt):
    writing.write(dataclasses.replace(again, make=dying), tmp_path / 'out')
  assert not (tmp_path / 'out').exists() and (tmp_path / 'out.parts').is_dir()
  # A file that was lost meanwhile is made again, with its batch.
  lost = next((tmp_path / 'out.parts' / 'tree').rglob('*.flac'))
  lost.write_bytes(lost.read_bytes()[:100])
  with pytest.raises(InputError, match='holds an unfinished job with another'):
    other = recipe('small_mixtures', folder, train=6, valid=3, test=4, tasks=['ss'], seed=2)
    writing.write(other, tmp_path / 'out')
  left = []
  counted = lambda item: (left.append(item['id']), again.make(item))[1]  # noqa: E731
  writing.write(dataclasses.replace(again, make=counted), tmp_path / 'out')
  assert len(left) == 13 - 4
  assert tree(tmp_path / 'out') == tree(tmp_path / 'whole')
  assert not (tmp_path / 'out.parts').exists()
  # Finished: nothing is made again, and another recipe is refused.
  never = dataclasses.replace(again, make=lambda item: pytest.fail('made again'))
  assert writing.write(never, tmp_path / 'out') == 13
  with pytest.raises(InputError, match='was made with another seed'):
    writing.write(other, tmp_path / 'out')


def test_speakers_are_divided_where_splits_share_them(folder):
  source = open_source(str(folder[0]))
  source.table.columns['split'][:] = ['train', 'test'] * 18
  sizes = {'train': 1, 'valid': 1, 'test': 1}
  found = pools.by_speaker(source, 0, shortest=0, speakers=1, sizes=sizes)
  assert {s: len(g) for s, g in found.items()} == {'train': 6, 'valid': 1, 'test': 2}
  assert len(set().union(*found.values())) == 9
  other = pools.by_speaker(source, 1, shortest=0, speakers=1, sizes=sizes)
  assert set(other['test']) != set(found['test'])


def test_groups_of_splits_are_splits(folder):
  """As LibriSpeech's dev-clean is one of validation."""
  source = open_source(str(folder[0]))
  names = {'train': 'train-clean-100', 'dev': 'dev-clean', 'test': 'test-clean'}
  source.table.columns['split'][:] = [names[v] for v in source.table.columns['split']]
  groups = {'train': ('train-clean-100',), 'valid': ('dev-clean',), 'test': ('test-clean',)}
  source.table.splits = groups
  found = pools.by_speaker(source, 0, shortest=0, speakers=1, sizes={})
  assert {s: sorted(g) for s, g in found.items()} == {
    'train': ['s0', 's1', 's2'], 'valid': ['s3', 's4', 's5'], 'test': ['s6', 's7', 's8']
  }  # fmt: skip


def test_mistakes(folder, tmp_path):
  source = open_source(str(folder[0]))
  noise = open_source(str(folder[1]))
  for call, message in (
    (lambda: mixtures.recipe('small_noise', source), "Did you mean 'small_noisy'"),
    (lambda: mixtures.recipe('small_noisy', source), 'needs --noise'),
    (lambda: mixtures.recipe('small_mixtures'), 'needs --source'),
    (lambda: mixtures.recipe('small_commands', source, noise), 'takes no --noise'),
    (lambda: mixtures.recipe('small_mixtures', source, sead=1), "Did you mean 'seed'"),
    (lambda: mixtures.recipe('small_mixtures', source, tasks=['se']), "Unknown task 'se'"),
    (lambda: mixtures.recipe('small_mixtures', noise), 'has no column "speaker"'),
    (lambda: mixtures.recipe('small_mixtures', source, shortest=9.0), 'has 0 speakers'),
    (lambda: mixtures.recipe('small_mixtures', source, train=1000), 'different pairs'),
    (lambda: mixtures.recipe('small_commands', source), 'no column "transcript"'),
  ):
    with pytest.raises(InputError, match=message):
      call()
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'mine.txt').write_text('x')
  made = mixtures.recipe('small_commands', train=1, valid=1, test=1)
  with pytest.raises(InputError, match='is there already and is not from here'):
    writing.write(made, tmp_path / 'out')
  with pytest.raises(InputError, match="Unknown encoding 'mp3'"):
    writing.write(made, tmp_path / 'new', encoding='mp3')


def test_the_command(folder, tmp_path):
  out = tmp_path / 'out'
  flags = ['--recipe=small_commands', f'--out={out}', '--args={"train": 2, "valid": 1, "test": 1}']
  done = runner.run('launch.make_mixtures', *flags, quick=True)
  assert done.returncode == 0 and f'8 items of small_commands in {out}' in done.stdout, done.stderr
  bad = runner.run('launch.make_mixtures', *flags[:2], '--args=[1]', quick=True)
  assert bad.returncode == 2 and 'expected a JSON object' in bad.stderr
