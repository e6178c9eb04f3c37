"""`python -m launch.evaluate`, as a user runs it."""

import json
import socket

import pytest

from tests.evals import toy
from tests.launch import runner


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return toy.save_audio_mae(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('data') / 'tones'
  return toy.tones(root, per_class=8, columns=('fold',), row=lambda i, c: (str(i % 4),))


def test_a_folder_of_the_user(model, folder, tmp_path):
  args = (
    f'--model={model}', f'--tasks={folder}', f'--out={tmp_path}', '--protocol=probe,knn',
    '--seeds=2', '--layers=all', '--random_seeds=2', '--pool=mean_bands',
  )  # fmt: skip
  done = runner.run('launch.evaluate', *args)
  assert done.returncode == 0, done.stderr
  assert '### Linear probe' in done.stdout and f'report: {tmp_path}/report.html' in done.stdout
  rows = json.loads((tmp_path / 'scores.json').read_text())['rows']
  assert [(r['protocol'], r['kind']) for r in rows] == [
    (p, k) for p in ('probe', 'knn') for k in ('model', 'logmel', 'random')
  ]
  model_row, logmel = rows[0], rows[1]
  assert logmel['score'] == 1.0 and len(logmel['values']) == 4
  assert model_row['system'] == 'audio_mae, random, for tests'
  assert model_row['width'] == 8 * 32  # eight bands of patches
  assert set(model_row['by_layer']) == {'0', '1', '2'}
  assert 'tones (accuracy)' in (tmp_path / 'report.html').read_text()

  # The second run embeds nothing.
  again = runner.run('launch.evaluate', *args)
  assert again.returncode == 0 and 'embedded' not in again.stdout
  assert 'embedded' in done.stdout
  scores = [r['score'] for r in json.loads((tmp_path / 'scores.json').read_text())['rows']]
  assert scores == [r['score'] for r in rows]


@pytest.mark.slow
def test_fine_tuning_against_training_from_scratch(model, tmp_path):
  parts = ('train', 'train', 'train', 'valid', 'test', 'test')
  folder = toy.tones(
    tmp_path / 'tones', per_class=12, columns=('split',), row=lambda i, c: (parts[i % 6],)
  )
  args = (
    f'--model={model}', f'--tasks={folder}', f'--out={tmp_path / "out"}', '--protocol=finetune',
    '--finetune_steps=60', '--finetune_batch_size=9', '--finetune_lr=3e-3', '--random_seeds=2',
  )  # fmt: skip
  done = runner.run('launch.evaluate', *args)
  assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / 'out/scores.json').read_text())['rows']
  assert [(r['protocol'], r['kind']) for r in rows] == [
    ('finetune', 'model'),
    ('finetune', 'random'),
  ]
  for row in rows:
    assert row['split']['sizes'] == [[18, 6, 12]]
    # Three classes of tones, all seen in training: far above chance, one third.
    assert row['score'] > 0.6
    assert row['chosen'][0]['steps'] == 60
  runs = sorted((tmp_path / 'out/finetune/tones').glob('*/fold0/metrics.jsonl'))
  assert len(runs) == 3
  # One run starts from the weights, the two others from random initialisations.
  configs = [json.loads((run.parent / 'config.json').read_text()) for run in runs]
  assert len({c['seed'] for c in configs}) == 3
  assert sorted(c['init'] is None for c in configs) == [False, True, True]
  before = [run.read_text() for run in runs]

  # Finished runs are not trained again, and give the same scores.
  again = runner.run('launch.evaluate', *args)
  assert again.returncode == 0, again.stderr
  found = json.loads((tmp_path / 'out/scores.json').read_text())['rows']
  assert found[0]['values'] == rows[0]['values']
  assert [run.read_text() for run in runs] == before


@pytest.mark.slow
def test_two_processes_score_the_same(model, folder, tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  common = (f'--model={model}', f'--tasks={folder}', '--baselines=logmel', '--seeds=1')
  group = (f'--coordinator=localhost:{port}', '--num_processes=2')
  pair = [
    runner.start(
      'launch.evaluate', *common, *group, f'--process_id={i}', f'--out={tmp_path / "two"}'
    )
    for i in range(2)
  ]
  outputs = [p.communicate(timeout=300) for p in pair]
  assert [p.returncode for p in pair] == [0, 0], outputs
  assert 'report:' in outputs[0][0] and 'report:' not in outputs[1][0]
  one = runner.run('launch.evaluate', *common, f'--out={tmp_path / "one"}')
  assert one.returncode == 0, one.stderr
  rows = [json.loads((tmp_path / d / 'scores.json').read_text())['rows'] for d in ('one', 'two')]
  for a, b in zip(*rows):
    assert a['values'] == b['values'] and a['split'] == b['split']


@pytest.mark.slow
@pytest.mark.parametrize(
  'args, sentence',
  [
    (('--tasks=esc_50',), "Unknown task 'esc_50'. Did you mean 'esc50'"),
    (('--tasks=esc50',), "Data set 'esc50'"),
    ((), 'No task given'),
    (('--tasks=builtin_digits', '--protocol=lda'), "Unknown protocol 'lda'"),
    (('--tasks=builtin_digits', f'--out={__file__}'), 'is no folder that can be'),
    (('--tasks=builtin_digits', '--out=/proc/scores'), 'is no folder that can be written to'),
    (('--tasks=builtin_digits', '--pool=none'), "Unknown pooling 'none'"),
    (('--suite=audioset',), 'The reasons are listed above'),
    (('--tasks=builtin_digits', '--layers=7'), 'layers 0 (stem) to 2'),
    (('--tasks=builtin_digits', '--baselines=random,lpc'), "Unknown baseline 'lpc'"),
  ],
)
def test_mistakes_are_one_sentence(model, tmp_path, args, sentence):
  done = runner.run(
    'launch.evaluate', f'--model={model}', f'--out={tmp_path}', f'--data_root={tmp_path}', *args
  )
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith('error: ') and sentence in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.slow
def test_a_suite_lists_absent_tasks_and_writes_a_clip_list(model, tmp_path):
  """Only ESC-50 of the suite is present: it is scored, the other tasks are listed."""
  root = tmp_path / 'data' / 'ESC-50'
  (root / 'meta').mkdir(parents=True)
  lines = ['filename,fold,target,category,esc10,src_file,take']
  for i in range(20):
    lines.append(f'{i}.wav,{i // 4 + 1},{i % 2},{"dog" if i % 2 else "rain"},True,{i},A')
    path = root / 'audio' / f'{i}.wav'
    path.parent.mkdir(exist_ok=True)
    toy.soundfile.write(path, toy.tone((300, 2700)[i % 2], 0.4, i), toy.RATE)
  (root / 'meta' / 'esc50.csv').write_text('\n'.join(lines) + '\n')
  args = (
    f'--model={model}', '--suite=audioset', f'--data_root={tmp_path / "data"}', '--protocol=knn',
    f'--clip_list={tmp_path / "clips.json"}', '--baselines=logmel',
  )  # fmt: skip
  done = runner.run('launch.evaluate', *args, f'--out={tmp_path / "out"}')
  assert done.returncode == 0, done.stderr
  content = json.loads((tmp_path / 'out/scores.json').read_text())
  assert {r['task'] for r in content['rows']} == {'esc50'}
  assert {'audioset20k', 'fsd50k', 'speech_commands_35'} <= set(content['absent'])
  assert '### Not scored' in done.stdout and 'launch.prepare_data' in done.stdout
  assert 'wrote the clips of this run' in done.stdout
  listed = json.loads((tmp_path / 'clips.json').read_text())
  assert len(listed['esc50']['ids']) == 20 and len(listed['esc50']['parts']) == 5

  (root / 'audio' / '3.wav').unlink()
  again = runner.run('launch.evaluate', *args, f'--out={tmp_path / "again"}')
  assert again.returncode == 0, again.stderr
  assert 'of 20 clips, 1 of them absent here' in (tmp_path / 'again/scores.md').read_text()
  alone = runner.run('launch.evaluate', *args[:1], '--tasks=gtzan', f'--out={tmp_path / "x"}')
  assert alone.returncode == 2 and 'gtzan' in alone.stderr.lower()
