"""HuBERT's iterations: the commands of a config, invalid configs, and killed runs."""

import itertools
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from launch import hubert_iterations
from research.audio.units import Units
from research.errors import InputError
from tests.evals import toy
from tests.launch import runner

TRAIN = 'experiments/hubert/librispeech_base.py:debug'
TWO = [dict(clusters=8, train=TRAIN), dict(layer=1, clusters=6, percent=0.5)]


def commands(iterations, root=None, overrides=(), seed=0, workdir='w'):
  config = dict(seed=seed, iterations=iterations)
  return hubert_iterations.stages(config, Path(workdir), root, overrides)


def names(*args, **kwargs):
  return [stage.folder.name for stage in commands(*args, **kwargs)]


def test_every_stage_takes_the_output_of_the_previous_one():
  mfcc, model, units = commands(TWO, root='/data', overrides=['optim.lr=1e-3'])
  assert mfcc.module == units.module == 'launch.label_kmeans' and model.module == 'launch.train'
  wanted = '--features=mfcc --clusters=8 --input=builtin --split=train --data_root=/data'
  for words in (*wanted.split(), '--label_splits=train,valid', f'--out={mfcc.folder}'):
    assert words in mfcc.args
  assert f'--config.data.fields.units={mfcc.folder}/units' in model.args
  assert '--config.model.args.num_clusters=8' in model.args
  assert '--config.optim.lr=1e-3' in model.args and '--config.data.root=/data' in model.args
  for words in (f'--features={model.folder}', '--layer=1', '--percent=0.5', '--input=builtin'):
    assert words in units.args


def test_clustering_uses_the_data_root_of_the_training():
  mfcc, model, units = commands(TWO, overrides=['data.root=/mine'])
  assert all('--data_root=/mine' in stage.args for stage in (mfcc, units))
  assert '--config.data.root=/mine' in model.args


def test_clustering_uses_the_clips_of_the_training(tmp_path):
  def inputs(source, *overrides):
    text = f"""
published = get_config
def get_config(arg=''):
  config = published('debug')
  with config.ignore_type():
    config.data.source = {source!r}
  return config
"""
    file = Path(TRAIN.partition(':')[0])
    (tmp_path / 'train.py').write_text(file.read_text() + text)
    found = hubert_iterations._training_config(str(tmp_path / 'train.py'), overrides)
    return hubert_iterations._input_flag(found['data'])

  cut = dict(name='builtin', args=dict(cut_seconds=1.0))
  assert inputs('builtin') == 'builtin' and json.loads(inputs(cut)) == cut
  words = json.loads(inputs(cut, 'data.where.kind=word'))
  assert words == dict(name='builtin', args=dict(cut_seconds=1.0, where=dict(kind='word')))
  pooled = json.loads(inputs(['builtin', words], 'data.where.voice=v1'))
  assert pooled[0] == dict(name='builtin', args=dict(where=dict(voice='v1')))
  assert pooled[1]['args']['where'] == dict(kind='word', voice='v1')
  with pytest.raises(InputError, match=r'kind: set by both data\.where and the data source'):
    inputs(words, 'data.where.kind=digit')


def test_folder_names_depend_on_the_settings():
  first = names(TWO)
  assert names(TWO, root='/elsewhere', workdir='v') == first
  assert first[0].startswith('1-units-mfcc-k8-') and first[1].startswith('1-hubert-')
  assert first[2].startswith('2-units-layer1-k6-')
  # A change renames its own stage and all later ones.
  late = names([TWO[0], {**TWO[1], 'percent': 0.7}])
  assert late[:2] == first[:2] and late[2] != first[2]
  middle = names(TWO, overrides=['optim.lr=1e-3'])
  assert middle[0] == first[0] and middle[1] != first[1] and middle[2] != first[2]
  assert not set(names(TWO, seed=1)) & set(first)


def test_settings_that_do_not_affect_results_do_not_affect_names(tmp_path):
  first = names(TWO)
  for free in (
    'mesh.fsdp=2', 'log_every=3', 'data.num_threads=4', 'data.root=/mine', 'data.prefetch=2',
    'checkpoint.every=7', 'watch={}', 'on_nan=rewind', 'evals.valid.every=5',
  ):  # fmt: skip
    assert names(TWO, overrides=[free]) == first, free
  # The same holds for settings in the config itself.
  for line, same in (
    ('config.log_every = 3', True),
    ('config.data.num_threads = 9', True),
    ('config.data.batch_size = 9', False),
    ('config.seed = 9', False),
  ):
    text = Path(TRAIN.partition(':')[0]).read_text()
    text += f"""
published = get_config
def get_config(arg=''):
  config = published('debug')
  {line}
  return config
"""
    (tmp_path / 'train.py').write_text(text)
    found = names([{**TWO[0], 'train': str(tmp_path / 'train.py')}, TWO[1]])
    assert (found == first) == same, line


def finished(stage, clips):
  stage.folder.mkdir(parents=True, exist_ok=True)
  (stage.folder / 'report.html').write_text('')
  stage.record.write_text(json.dumps({'clusters': 8, **clips}))


def test_finished_stages_must_be_of_the_same_clips(tmp_path):
  """The same clips in another place are accepted; other clips under the same name are not."""

  def found(place, rows):
    root = tmp_path / place / 'words'
    toy.tones(root, per_class=rows)
    over = [f'data.source={tmp_path}/link']
    (tmp_path / 'link').unlink(missing_ok=True)
    (tmp_path / 'link').symlink_to(root)
    return commands(TWO, root=str(tmp_path / place), overrides=over, workdir=tmp_path / 'w')

  stages = found('here', 4)
  own = stages[0].clips.fingerprints()
  for stage in stages:
    finished(stage, own)
  for stage in found('elsewhere', 4):
    assert stage.done
    hubert_iterations.check_clips(stage, stage.clips.fingerprints())
  for stage in found('others', 5):
    # The folder name is unchanged.
    assert stage.done and stage.folder in [each.folder for each in stages]
    with pytest.raises(
      InputError, match=r'is finished, but was made from other clips .* another --workdir'
    ):
      hubert_iterations.check_clips(stage, stage.clips.fingerprints())
  stages[1].record.unlink()
  with pytest.raises(InputError, match='is finished, but was made from other clips'):
    hubert_iterations.check_clips(stages[1], own)


@pytest.mark.parametrize(
  ('iterations', 'says'),
  [
    ([], 'config.iterations must be a list of dicts'),
    ([3], 'config.iterations must be a list of dicts'),
    ([dict(cluster=8, train=TRAIN)], "Did you mean 'clusters'"),
    ([dict(train=TRAIN)], 'Iteration 1 lacks clusters'),
    ([dict(clusters=8)], 'Iteration 1 lacks train'),
    ([dict(clusters=8, layer=3, train=TRAIN)], 'clusters MFCC, so it cannot have a layer'),
    ([TWO[0], dict(clusters=8)], 'Iteration 2 lacks layer'),
    ([*TWO, TWO[1]], 'Iteration 2 lacks train.*Only the last iteration may omit it'),
    ([dict(clusters=8, train='nowhere.py')], "config file 'nowhere.py' does not exist"),
    ([dict(clusters=8, train=5)], 'train=5: expected the path'),
    ([dict(clusters=8, train=f'{TRAIN[:-6]}:it9')], "cannot be read: .* no variant 'it9'"),
    ([dict(clusters='abc', train=TRAIN)], "clusters='abc'"),
    ([dict(clusters=8, max_epochs=0, train=TRAIN)], 'max_epochs=0'),
    (
      [TWO[0], dict(layer=77, clusters=6)],
      r'layer 77, but the previous model has layers 0 \(the stem\) to 2',
    ),
  ],
)
def test_invalid_configs(iterations, says):
  with pytest.raises(InputError, match=says):
    commands(iterations)


def test_unknown_settings():
  with pytest.raises(InputError, match=r"'config\.sead'. Did you mean 'config\.seed'"):
    hubert_iterations.stages(dict(sead=3, iterations=TWO), Path('w'), None, ())
  with pytest.raises(
    InputError, match=r"'--train=data\.sauce'. Did you mean '--train=data\.source'"
  ):
    commands(TWO, overrides=['data.sauce=builtin'])
  with pytest.raises(InputError, match=r"Did you mean '--train=optim\.lr'"):
    commands(TWO, overrides=['optim.lrr=1'])
  assert commands(TWO, overrides=['model.args.width=64', 'evals.valid.every=5'])


def test_files_that_are_not_configs(tmp_path):
  (tmp_path / 'syntax.py').write_text('def get_config(:')
  (tmp_path / 'empty.py').write_text('')
  for name in ('syntax', 'empty'):
    with pytest.raises(InputError, match='cannot be read'):
      commands([dict(clusters=8, train=f'{tmp_path}/{name}.py')])


def test_a_setting_without_a_value():
  with pytest.raises(InputError, match='NAME=VALUE'):
    commands(TWO, overrides=['optim.lr'])


CONFIG = """
  from ml_collections import ConfigDict

  def get_config(arg=''):
    return ConfigDict(dict(seed=0, iterations=[
      dict(clusters=4, max_epochs=2, train='experiments/hubert/librispeech_base.py:debug'),
      dict(layer=1, clusters=3, max_epochs=1),
    ]))
"""


def start(folder, clips):
  args = ['--config', str(folder.parent / 'stages.py'), f'--workdir={folder}']
  # Short clips, few steps, a checkpoint after the first.
  settings = (f'data.source={clips}', 'data.seconds=0.8', 'checkpoint.every=1', 'total_steps=3')
  line = [sys.executable, '-m', 'launch.hubert_iterations', *args]
  line += [f'--train={x}' for x in settings]
  return subprocess.Popen(
    line, cwd=runner.ROOT, env=runner.environment(), stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT, text=True,
  )  # fmt: skip


def results(folder):
  """Every array in the output of the stages, and the metrics of the last step."""
  found = {}
  for part in sorted(folder.iterdir()):
    if (part / 'units').is_dir():
      units = Units.open(part / 'units')
      found[part.name] = np.asarray(units.codes)
      found[f'{part.name}/codebook'] = np.load(part / 'codebook' / 'codebook.npy')
    else:
      from research.weights import load
      from research.weights.tables import flatten

      arrays = flatten(load(part).variables['params'])
      found |= {f'{part.name}/{k}': np.asarray(x) for k, x in arrays.items()}
  return found


@pytest.mark.slow
def test_killed_in_any_stage_and_started_again_the_bits_are_the_same(tmp_path):
  clips = tmp_path / 'clips'
  toy.tones(clips, per_class=14)
  (tmp_path / 'stages.py').write_text(textwrap.dedent(CONFIG))

  whole = start(tmp_path / 'whole', clips)
  text, _ = whole.communicate(timeout=600)
  assert whole.returncode == 0, text
  assert text.count('PNMI') + text.count('clusters in use') > 2
  want = results(tmp_path / 'whole')
  assert len(want) > 20

  # Killed in each of its stages, once the stage has started its work; its subprocess dies with it.
  for mark in ('[1/3]', '[2/3]', '[3/3]'):
    process = start(tmp_path / 'parts', clips)
    begun = itertools.dropwhile(lambda line, mark=mark: not line.startswith(mark), process.stdout)
    stage = Path(next(begun).split()[1])
    assert next(begun).startswith('$ ')
    sign = 'checkpoints/1' if 'hubert' in stage.name else 'job.json'
    limit = time.monotonic() + 240
    while not (stage / sign).exists() and process.poll() is None and time.monotonic() < limit:
      time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.stdout.read()  # returns when the subprocess has ended too
    assert process.wait() == -signal.SIGKILL
    assert (stage / sign).exists() and not (stage / 'report.html').exists()
  process = start(tmp_path / 'parts', clips)
  text, _ = process.communicate(timeout=600)
  assert process.returncode == 0, text
  got = results(tmp_path / 'parts')
  assert set(got) == set(want)
  for key, x in want.items():
    np.testing.assert_array_equal(got[key], x, err_msg=key)
  assert text.count(' is finished\n') == 2

  # Other clips under the same name: neither the units nor the training are reused.
  toy.tones(clips, per_class=15)
  process = start(tmp_path / 'parts', clips)
  text, _ = process.communicate(timeout=600)
  assert process.returncode == 2 and 'is finished, but was made from other clips' in text
