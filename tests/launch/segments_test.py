"""Segments of long recordings, through every command that reads clips."""

import json

import numpy as np
import pytest
import soundfile

from research import weights
from research.audio.units import Units
from tests.evals import toy
from tests.inference.toy_ctc import RATE, ToyCTC, speak, variables
from tests.launch import runner

pytestmark = pytest.mark.slow
HERTZ, EACH, SECONDS = (300, 900, 2700), 10, 0.5


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """One recording a class, of which labels.csv lists ten segments, out of order."""
  root = tmp_path_factory.mktemp('data') / 'long'
  root.mkdir()
  rows = ['path,start,end,label,transcript,fold']
  for hertz in HERTZ:
    parts = [toy.tone(hertz, SECONDS, i) for i in range(EACH)]
    soundfile.write(root / f'{hertz}.wav', np.concatenate(parts), toy.RATE)
    rows += [
      f'{hertz}.wav,{i * SECONDS},{(i + 1) * SECONDS},c{hertz},TEA,{1 + i % 2}'
      for i in reversed(range(EACH))
    ]
  (root / 'labels.csv').write_text('\n'.join(rows) + '\n')
  return root


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return toy.save_audio_mae(tmp_path_factory.mktemp('model'))


def test_embed_is_that_of_files_of_their_own(folder, model, tmp_path):
  out = tmp_path / 'e.npz'
  done = runner.run('launch.embed', f'--model={model}', f'--input={folder}', f'--out={out}')
  assert done.returncode == 0, done.stderr
  whole, _ = soundfile.read(folder / '900.wav')
  (tmp_path / 'own').mkdir()
  soundfile.write(tmp_path / 'own' / 'x.wav', whole[8000:16000], toy.RATE)
  own = tmp_path / 'own.npz'
  done = runner.run('launch.embed', f'--model={model}', f'--input={tmp_path}/own', f'--out={own}')
  assert done.returncode == 0, done.stderr
  found, alone = np.load(out), np.load(own)
  ids = found['ids'].tolist()
  assert len(ids) == 30 and ids[0] == '300.wav@4.5-5'
  row = found['embeddings'][ids.index('900.wav@0.5-1')]
  np.testing.assert_allclose(row, alone['embeddings'][0], atol=1e-5)


def test_evaluate(folder, model, tmp_path):
  done = runner.run(
    'launch.evaluate', f'--model={model}', f'--tasks={folder}', f'--out={tmp_path}/out',
    '--protocol=logistic', f'--cache={tmp_path}/cache',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / 'out' / 'scores.json').read_text())['rows']
  assert {row['task'] for row in rows} == {'long'}
  assert max(row['score'] for row in rows) > 0.9  # three tones


def test_label_kmeans(folder, tmp_path):
  done = runner.run(
    'launch.label_kmeans', f'--input={folder}', f'--out={tmp_path}/out', '--features=mfcc',
    '--clusters=4', '--batch_frames=300', '--n_init=1', '--max_epochs=2',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  units = Units.open(tmp_path / 'out' / 'units')
  # 8000 samples at 16 kHz in windows of 400, hop 160.
  assert len(units) == 30 and len(units['2700.wav@1-1.5']) == 48


def test_train(folder, tmp_path):
  done = runner.train(tmp_path / 'run', f'--config.data.source={folder}')
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'run' / 'report.html').is_file()
  assert not (tmp_path / 'run' / 'bad_files.jsonl').exists()


def test_prepare_data(folder, tmp_path):
  done = runner.run('launch.prepare_data', f'--source={folder}', f'--out={tmp_path}/shards')
  assert done.returncode == 0, done.stderr
  assert '30 clips, 0.00 h' in done.stdout


def test_transcribe(tmp_path):
  saved = weights.Pretrained('toy_ctc', ToyCTC(), variables(ToyCTC()), 'tones, for tests')
  model = weights.save(saved, tmp_path / 'model')
  said = ('TEN ANTS', 'NO TEA')
  parts = [speak(text) for text in said]
  soundfile.write(tmp_path / 'long.wav', np.concatenate(parts), RATE)
  edge, end = len(parts[0]) / RATE, sum(map(len, parts)) / RATE
  (tmp_path / 'wav.scp').write_text(f'r {tmp_path}/long.wav\n')
  (tmp_path / 'segments').write_text(f'tea r {edge} {end}\nants r 0 {edge}\n')
  (tmp_path / 'text').write_text('ants ten ants\ntea no sea\n')
  out = tmp_path / 't.jsonl'
  done = runner.run(
    'tests.launch.toy_transcribe', f'--model={model}', f'--input={tmp_path}', f'--out={out}'
  )
  assert done.returncode == 0, done.stderr
  assert {'ants: TEN ANTS', 'tea: NO TEA'} <= set(done.stdout.splitlines())
  assert '(1 substitutions, 0 deletions, 0 insertions; 4 words)' in done.stdout
