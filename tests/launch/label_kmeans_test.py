"""`python -m launch.label_kmeans`, as a person starts it, and kills it."""

import json
import os
import re
import signal
import socket
import time

import numpy as np
import pytest

from research.audio.units import Units
from research.units.codebook import Codebook
from tests.evals import toy
from tests.jobs.locks_test import claim
from tests.launch import runner

SMALL = ('--clusters=8', '--batch_frames=300', '--n_init=2', '--max_epochs=6')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Tones in two splits, one of them longer, one broken, one too short."""
  import soundfile

  root = tmp_path_factory.mktemp('data') / 'tones'
  toy.tones(
    root, per_class=12, columns=('split', 'speaker'),
    row=lambda i, c: ('train' if i % 3 else 'test', f's{i % 2}'),
  )  # fmt: skip
  soundfile.write(root / '300_01.flac', toy.tone(300, 2.5, 1), toy.RATE)
  soundfile.write(root / '300_02.flac', np.zeros(100, np.int16), toy.RATE)
  (root / '900_02.flac').write_bytes(b'no audio')
  return root


def label(folder, out, *more, **kwargs):
  return runner.run(
    'launch.label_kmeans', f'--input={folder}', f'--out={out}', '--features=mfcc', *more, **kwargs
  )


@pytest.fixture(scope='module')
def whole(folder, tmp_path_factory):
  out = tmp_path_factory.mktemp('whole') / 'out'
  done = label(folder, out, '--split=train', *SMALL)
  assert done.returncode == 0, done.stderr
  return out, done.stdout


def test_what_is_written(whole):
  out, said = whole
  assert '34 clips, 2 left out' in said and 'of 8 clusters in use' in said and 'perplexity' in said
  assert 'label: PNMI' in said and 'speaker: PNMI' in said
  names = {p.name for p in out.iterdir()}
  assert names == {
    'bad_files.jsonl', 'codebook', 'job.json', 'quality.json', 'report.html', 'units',
  }  # fmt: skip
  units = Units.open(out / 'units')
  assert len(units) == 34 and len(units['300_01.flac']) == units.frames(40_000) == 248
  assert set(units.about['skipped']) == {'300_02.flac', '900_02.flac'}
  book = Codebook.open(out)
  assert book.about['data']['split'] == 'train' and book.about['settings']['clusters'] == 8
  assert units.about['codebook'] == book.hash and units.about['features'] == 'mfcc'
  quality = json.loads((out / 'quality.json').read_text())
  # Three tones are easily told apart.
  assert quality['references']['label']['pnmi'] > 0.9 and quality['clips'] == 34
  within = quality['references']['label']['within_speakers']
  assert within['speakers'] == 2 and within['pnmi'] > 0.9
  assert re.search(rf'label: PNMI .*; within speakers PNMI {within["pnmi"]:.3f}, purity', said)
  page = (out / 'report.html').read_text()
  assert '8 units of MFCC' in page and '300_02.flac' in page and '900_02.flac' in page


@pytest.mark.slow
def test_the_same_command_again_does_nothing_new(folder, whole):
  out, _ = whole
  before = (out / 'units' / 'codes.npy').stat().st_mtime_ns
  done = label(folder, out, '--split=train', *SMALL)
  assert done.returncode == 0 and 'fitted' not in done.stdout and '34 clips' in done.stdout
  assert (out / 'units' / 'codes.npy').stat().st_mtime_ns == before
  done = label(folder, out, '--split=train', *SMALL[1:], '--clusters=9')
  assert done.returncode == 2 and 'units, finished or not, with another clusters' in done.stderr


@pytest.mark.slow
def test_killed_at_any_time_it_ends_in_the_same_bits(folder, whole, tmp_path):
  out = tmp_path / 'out'
  args = ('--split=train', *SMALL, '--save_seconds=0')
  for sign in ('fit/fit.npz', 'units.parts/part_*.npz'):
    process = runner.start(
      'launch.label_kmeans', f'--input={folder}', f'--out={out}', '--features=mfcc', *args
    )
    limit = time.monotonic() + 120
    while not list(out.glob(sign)) and process.poll() is None and time.monotonic() < limit:
      time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
  done = label(folder, out, *args)
  assert done.returncode == 0, done.stderr
  for name in ('codebook/codebook.npy', 'units/codes.npy', 'units/offsets.npy', 'units/ids.txt'):
    assert (out / name).read_bytes() == (whole[0] / name).read_bytes(), name


@pytest.mark.slow
def test_a_codebook_labels_other_clips(folder, whole, tmp_path):
  """A folder of ours, and the bare centroids, of one split."""
  np.save(tmp_path / 'bare.npy', Codebook.open(whole[0]).centroids)
  for name, book in (('a', whole[0]), ('b', tmp_path / 'bare.npy')):
    done = label(folder, tmp_path / name, f'--codebook={book}', '--label_splits=test')
    assert done.returncode == 0, done.stderr
    assert '12 clips' in done.stdout and 'fitted' not in done.stdout
    units, before = Units.open(tmp_path / name / 'units'), Units.open(whole[0] / 'units')
    assert units.about['fingerprint'] == before.about['fingerprint']
    for clip in units.ids:
      np.testing.assert_array_equal(units[clip], before[clip])


@pytest.mark.slow
def test_a_layer_of_a_model(folder, tmp_path):
  import jax
  import jax.numpy as jnp

  from research import models, weights

  model = models.get('wav2vec2')(size='tiny')
  audio = jnp.zeros((1, 16_000))
  batch = {'audio': audio, 'audio_mask': jnp.ones(audio.shape, bool)}
  rngs = {name: jax.random.key(i) for i, name in enumerate(('params', 'mask', 'noise'))}
  variables = jax.device_get(jax.jit(model.init)(rngs, batch))
  path = weights.save(weights.Pretrained('wav2vec2', model, variables, 'random'), tmp_path / 'm')
  out = tmp_path / 'out'
  done = runner.run(
    'launch.label_kmeans', f'--input={folder}', f'--out={out}', f'--features={path}', '--layer=1',
    *SMALL,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  units = Units.open(out / 'units')
  assert units.about['hop'] == model.frontend.hop and units.about['layer'] == 1
  assert len(units['300_01.flac']) == model.frontend.frames(40_000)
  # The codebook belongs to these weights.
  done = label(folder, tmp_path / 'other', f'--codebook={out}')
  assert done.returncode == 2 and "features is 'wav2vec2', not 'mfcc'" in done.stderr


@pytest.mark.slow
def test_two_processes_fit_and_label_together(folder, whole, tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  out = tmp_path / 'out'
  pair = [
    runner.start(
      'launch.label_kmeans', f'--input={folder}', f'--out={out}', '--features=mfcc',
      '--split=train', *SMALL, f'--coordinator=localhost:{port}', '--num_processes=2',
      f'--process_id={i}',
    )
    for i in range(2)
  ]  # fmt: skip
  outputs = [p.communicate(timeout=300) for p in pair]
  assert [p.returncode for p in pair] == [0, 0], outputs
  quality = json.loads((out / 'quality.json').read_text())
  assert quality['clips'] == 34 and quality['references']['label']['pnmi'] > 0.9


@pytest.mark.slow
def test_a_folder_in_use_is_left_as_it_is(folder, tmp_path):
  other = claim(tmp_path)
  assert other.stdout.readline() == 'mine\n'
  (tmp_path / 'job.json').write_text('{}')
  done = label(folder, tmp_path, *SMALL)
  assert done.returncode == 2 and f'is in use by process {other.pid}' in done.stderr
  assert (tmp_path / 'job.json').read_text() == '{}'
  other.kill()
  other.communicate()
  assert label(folder, tmp_path, *SMALL).returncode == 0


@pytest.mark.slow
def test_every_mistake_gets_one_sentence(folder, whole, tmp_path):
  import soundfile

  file, width, nan = tmp_path / 'file', tmp_path / 'width.npy', tmp_path / 'nan.npy'
  file.write_text('')
  np.save(width, np.zeros((2, 3), np.float32))
  np.save(nan, np.full((2, 39), np.nan, np.float32))
  (tmp_path / 'evil.bin').write_bytes(b'cos\nsystem\n(S"touch ran"\ntR.')
  short, silent = tmp_path / 'short', tmp_path / 'silent'
  for path, audio in ((short, np.zeros(399)), (silent, np.full(16_000, np.nan))):
    path.mkdir()
    for i in range(3):
      soundfile.write(path / f'{i}.wav', audio.astype(np.float32), toy.RATE, subtype='FLOAT')
  model = toy.save_audio_mae(tmp_path / 'model')
  speech = toy.save_wav2vec2(tmp_path / 'speech')
  bare = tmp_path / 'bare.npy'
  np.save(bare, np.zeros((4, 32), np.float32))
  broken, damaged = tmp_path / 'broken', tmp_path / 'damaged'
  for path in (broken, damaged):
    path.mkdir()
  soundfile.write(broken / 'a\nb.wav', np.zeros(16_000, np.float32), toy.RATE)
  (damaged / 'job.json').write_text('')
  (damaged / 'units.parts').mkdir()
  common = [f'--input={folder}', f'--out={tmp_path / "out"}', '--features=mfcc', '--n_init=1']
  sentences = {
    'nothing to fit': (['--features='], 'Missing flag --features: nothing says what'),
    'no input': (['--input=/no/such/folder'], '/no/such/folder does not exist'),
    'no model': (['--features=/no/such/model'], "no weights at '/no/such/model'"),
    'patches': ([f'--features={model}'], 'models of spectrogram patches'),
    'no layer': ([f'--features={model}', '--layer=7'], 'layers 0 (stem) to 2'),
    'all layers': ([f'--features={model}', '--layer=all'], 'one layer is clustered'),
    'a layer of mfcc': (['--layer=3'], 'remove them for mfcc'),
    'a dtype of mfcc': (['--dtype=bfloat16'], 'apply to models only; remove them for mfcc'),
    'no dtype': (['--dtype=float16'], 'float32|bfloat16'),
    'more clusters than frames': (['--clusters=60000'], '60000 clusters need at least as many'),
    'no clusters': (['--clusters=0'], '0 clusters: expected 1'),
    'percent': (['--percent=10'], 'percent is 10'),
    'init': (['--init=kmeans'], "Unknown initialisation 'kmeans'"),
    'split': (['--split=trian'], "'trian'. Did you mean 'train'"),
    'label split': (['--label_splits=train,valid'], "'valid'"),
    'reference': (['--references=speakr'], "Did you mean 'speaker'"),
    'alignments': (['--alignments=/no.csv'], '/no.csv cannot be read'),
    'codebook': (['--codebook=/no/such.bin'], "no codebook at '/no/such.bin'"),
    'codebook without one': ([f'--codebook={tmp_path}'], 'codebook.npy is missing'),
    'layer of a codebook': (
      [f'--features={speech}', f'--codebook={bare}'], 'does not specify its layer',
    ),
    'seed': (['--seed=-1'], 'seed is -1'),
    'line break': ([f'--input={broken}'], "'a\\nb.wav' has a tab or a line break"),
    'damaged job': ([f'--out={damaged}'], 'job.json is damaged'),
    'codebook that runs': ([f'--codebook={tmp_path / "evil.bin"}'], 'wants to run os.system'),
    'width': ([f'--codebook={width}'], 'centroids of 3 features, but mfcc gives 39'),
    'codebook of NaN': ([f'--codebook={nan}'], 'not finite'),
    'clusters of a codebook': ([f'--codebook={whole[0]}', '--clusters=9'], 'the codebook has 8'),
    'out': ([f'--out={file}'], 'a folder was expected'),
    'below a file': ([f'--out={file}/out'], 'a folder was expected'),
    'full folder': ([f'--out={folder}'], 'holds other files: give a new folder'),
    'other settings': ([f'--out={whole[0]}'], 'units, finished or not, with another'),
    'too short': ([f'--input={short}', f'--out={tmp_path}/a'], 'need at least as many frames'),
    'NaN': ([f'--input={silent}', f'--out={tmp_path}/b'], 'not numbers'),
    'label too short': (
      [f'--input={short}', f'--out={tmp_path}/c', f'--codebook={whole[0]}'],
      "No clip of 'short' has units; the first: shorter than one frame",
    ),
    'label NaN': (
      [f'--input={silent}', f'--out={tmp_path}/d', f'--codebook={whole[0]}'], 'not numbers',
    ),
  }  # fmt: skip
  cases = {name: (common + argv, [words]) for name, (argv, words) in sentences.items()}
  runner.check_mistakes('launch.label_kmeans', cases)
  assert not (runner.ROOT / 'ran').exists()
