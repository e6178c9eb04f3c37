"""wav2vec 2.0 on bad audio: pre-training, CTC fine-tuning and embedding skip what they cannot use
and report why."""

import csv
import json

import numpy as np
import pytest
import soundfile

from tests.contract import wave
from tests.launch import runner

CLIPS = {
  'long.flac': 'FIVE MINUTES AND TEN SECONDS',
  'short.wav': 'A',
  'slow.wav': 'EIGHT KILOHERTZ',
  'stereo.wav': 'TWO CHANNELS',
  'zeros.wav': 'NOTHING',
  'plain.wav': 'ONE CLIP',
  'other.wav': 'ANOTHER',
  'broken.wav': 'NO AUDIO',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('speech')
  second = wave(0, 16_000)
  soundfile.write(root / 'long.flac', np.tile(wave(1, 160_000), 31), 16_000)
  soundfile.write(root / 'short.wav', second[:80], 16_000)
  soundfile.write(root / 'slow.wav', second[:12_000], 8_000)
  soundfile.write(root / 'stereo.wav', np.stack([second, second[::-1]], axis=1), 16_000)
  soundfile.write(root / 'zeros.wav', np.zeros(16_000, np.float32), 16_000)
  soundfile.write(root / 'plain.wav', second, 16_000)
  soundfile.write(root / 'other.wav', wave(2, 20_000), 16_000)
  (root / 'broken.wav').write_bytes(b'RIFF no audio at all')
  with open(root / 'labels.csv', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(('path', 'transcript'))
    writer.writerows(CLIPS.items())
  return root


def trained(folder, tmp_path, config, *args):
  settings = f'--config.data.source={folder}', '--config.data.split=None', '--config.evals={}'
  few = (
    '--config.data.max_bad_fraction=0.5',
    '--config.total_steps=6',
    '--config.checkpoint.best=None',
  )
  name = f'experiments/wav2vec2/{config}.py:debug'
  done = runner.train(tmp_path / 'run', *settings, *few, *args, config=name)
  assert done.returncode == 0, done.stderr[-3000:]
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').open()]
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert len(losses) == 6 and np.isfinite(losses).all()
  bad = [json.loads(line) for line in (tmp_path / 'run' / 'bad_files.jsonl').open()]
  assert {row['id'] for row in bad} == {'broken.wav'}
  return tmp_path / 'run', done


@pytest.mark.slow
def test_pretraining_and_embedding(folder, tmp_path):
  run, _ = trained(folder, tmp_path, 'librispeech_base')
  out = tmp_path / 'out.npz'
  done = runner.run('launch.embed', f'--model={run}', f'--input={folder}', f'--out={out}')
  assert done.returncode == 0, done.stderr[-3000:]
  found = np.load(out)
  skipped = dict(zip(found['skipped_ids'].tolist(), found['skipped_reasons'].tolist()))
  assert set(skipped) == {'broken.wav', 'short.wav', 'long.flac'}
  assert '310 s' in skipped['long.flac'] and '--window' in skipped['long.flac']
  assert set(found['ids'].tolist()) == set(CLIPS) - set(skipped)
  assert np.isfinite(found['embeddings']).all()
  # With windows all of the long file is embedded.
  out = tmp_path / 'windows.npz'
  done = runner.run(
    'launch.embed', f'--model={run}', f'--input={folder}/long.flac', f'--out={out}', '--window=30'
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert len(np.load(out)['ids']) == 11


@pytest.mark.slow
def test_fine_tuning(folder, tmp_path):
  _, done = trained(folder, tmp_path, 'finetune_librispeech', '--config.data.where={}')
  assert '1 of 8 clips' in done.stderr and 'left out' in done.stderr
