"""`python -m launch.embed`, as a person starts it, and kills it."""

import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from research.errors import InputError
from tests.evals import toy
from tests.launch import runner
from tests.models.toy import make


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return toy.save_audio_mae(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Short clips and longer ones: several batches, of several lengths."""
  import soundfile

  root = toy.tones(tmp_path_factory.mktemp('data') / 'tones', per_class=30)
  for i, seconds in enumerate((1.2, 1.9, 2.5, 3.5, 5.0)):
    soundfile.write(root / f'300_{i:02d}.flac', toy.tone(300, seconds, i), toy.RATE)
  return root


def embed(model, folder, out, *more, **kwargs):
  return runner.run(
    'launch.embed', f'--model={model}', f'--input={folder}', f'--out={out}', *more, **kwargs
  )


@pytest.fixture(scope='module')
def whole(model, folder, tmp_path_factory):
  out = tmp_path_factory.mktemp('whole') / 'e.npz'
  done = embed(model, folder, out, '--layers=all', '--pool=none')
  assert done.returncode == 0, done.stderr
  assert f'{out}: 90 clips' in done.stdout
  return out


@pytest.mark.slow
def test_tokens_are_those_of_load(model, folder, whole):
  from research.weights import load

  loaded, whole = load(model), np.load(whole)
  assert len(whole['ids']) == 90 and whole['embeddings'].shape[1:] == (3, 32)
  for i in (0, 4, 50):
    path = folder / str(whole['ids'][i])
    expected = loaded.embed(str(path), layers='all', pool='none')
    rows = slice(whole['offsets'][i], whole['offsets'][i + 1])
    np.testing.assert_allclose(np.moveaxis(whole['embeddings'][rows], 0, 1), expected, atol=1e-4)
    # A patch is 16 frames of 10 ms; eight of them lie over each other.
    times = np.repeat(0.16 * np.arange(expected.shape[1] // 8), 8)
    np.testing.assert_allclose(whole['seconds'][rows], times, atol=1e-6)


@pytest.mark.slow
def test_killed_twice_it_goes_on(model, folder, whole, tmp_path):
  out = tmp_path / 'e.npz'
  args = ('--layers=all', '--pool=none', '--part_seconds=0')
  parts = tmp_path / 'e.npz.parts'
  for wanted in (1, 2):
    process = runner.start(
      'launch.embed', f'--model={model}', f'--input={folder}', f'--out={out}', *args
    )
    # SIGKILL as soon as one more part is finished.
    limit = time.monotonic() + 120
    while len(list(parts.glob('part_*.npz'))) < wanted and time.monotonic() < limit:
      time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    assert not out.exists()
  done = embed(model, folder, out, *args)
  assert done.returncode == 0, done.stderr
  assert '90 clips (' in done.stdout and 'were done before' in done.stdout
  assert not parts.exists()
  assert out.read_bytes() == whole.read_bytes()


def together(model, folder, out, *more):
  """The same command in two processes."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  pair = [
    runner.start(
      'launch.embed', f'--model={model}', f'--input={folder}', f'--out={out}', *more,
      f'--coordinator=localhost:{port}', '--num_processes=2', f'--process_id={i}',
    )
    for i in range(2)
  ]  # fmt: skip
  outputs = [p.communicate(timeout=300) for p in pair]
  return [p.returncode for p in pair], outputs


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(model, folder, whole, tmp_path):
  out = tmp_path / 'e.npz'
  codes, outputs = together(model, folder, out, '--layers=all', '--pool=none')
  assert codes == [0, 0], outputs
  assert f'{out}: 90 clips' in outputs[0][0] and 'clips' not in outputs[1][0]
  assert out.read_bytes() == whole.read_bytes()
  assert [p.name for p in tmp_path.iterdir()] == ['e.npz']


@pytest.mark.slow
def test_two_processes_stop_together(model, folder, tmp_path):
  """What one cannot do, the other does not wait for."""
  (tmp_path / 'e.npz.parts').mkdir()
  (tmp_path / 'e.npz.parts' / 'part_x.npz').write_bytes(b'damaged')
  codes, outputs = together(model, folder, tmp_path / 'e.npz')
  assert codes == [2, 2], outputs
  assert all('part_x.npz is damaged' in err for _, err in outputs), outputs
  assert 'error: Process 0 ' in outputs[1][1]


def test_a_list_with_bad_files_to_parquet(model, folder, tmp_path):
  parquet = pytest.importorskip('pyarrow.parquet')
  (tmp_path / 'broken.wav').write_bytes(b'RIFF')
  names = [folder / '300_10.flac', 'broken.wav', 'absent.wav', folder / '900_00.flac']
  rows = ''.join(f'{name},{i}\n' for i, name in enumerate(names))
  (tmp_path / 'list.csv').write_text('path,number\n' + rows)
  out = tmp_path / 'e.parquet'
  done = embed(model, tmp_path / 'list.csv', out)
  assert done.returncode == 0, done.stderr
  assert '2 clips, 2 left out' in done.stdout
  table = parquet.read_table(out)
  assert table['number'].to_pylist() == ['0', '3']
  assert np.shape(table['layer_02'].to_pylist()) == (2, 32)
  skipped = table.schema.metadata[b'oido_skipped'].decode()
  assert 'broken.wav' in skipped and 'absent.wav' in skipped


@pytest.mark.slow
@pytest.mark.parametrize(
  'args, sentence',
  [
    (('--out=e.txt',), 'has to end in .npz or .parquet'),
    (('--out=e.npz', '--input=/no/such/folder'), '/no/such/folder does not exist'),
    (('--out=e.npz', '--layers=lats'), "Unknown choice of layers 'lats'. Did you mean 'last'"),
    (('--out=e.npz', '--pool=mena'), "Unknown pooling 'mena'"),
    (('--out=e.npz', '--model=mfcc'), '--model=mfcc is for units: give --units'),
    (('--out=e.npz', '--dtype=bfloat16'), '--dtype is for units: give --units'),
    (('--out=e.tsv', '--units=/no.npy', '--model=mfcc'), "no codebook at '/no.npy'"),
  ],
)
def test_mistakes_are_one_sentence(model, folder, tmp_path, args, sentence):
  args = [a.replace('--out=', f'--out={tmp_path}/') for a in args]
  done = runner.run('launch.embed', f'--model={model}', f'--input={folder}', *args)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith('error: ') and sentence in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.skipif(not Path('/proc/self').exists(), reason='no folder that nobody can write to')
def test_a_folder_that_cannot_be_written_to(tmp_path, folder):
  np.save(tmp_path / 'codebook.npy', np.zeros((7, 39), np.float32))
  done = embed('mfcc', folder, '/proc/x.tsv', f'--units={tmp_path / "codebook.npy"}')
  assert done.returncode == 2
  last = done.stderr.splitlines()[-1]
  assert last.startswith('error: --out=/proc is no folder that can be written to: ')


def test_inputs_of_every_kind(folder, tmp_path):
  from launch.inputs import open_input

  (tmp_path / 'list.txt').write_text(f'# mine\n{folder}/300_00.flac\n\nnear.wav\n')
  listed = open_input(str(tmp_path / 'list.txt'))
  assert [e.path for e in listed] == [f'{folder}/300_00.flac', f'{tmp_path}/near.wav']
  single = open_input(f'{folder}/900_03.flac')
  assert len(single) == 1 and single[0].path == f'{folder}/900_03.flac'
  assert len(open_input(str(folder))) == 90
  assert len(open_input('builtin', split='test')) < len(open_input('builtin'))
  (tmp_path / 'empty.txt').write_text('# nothing\n')
  with pytest.raises(InputError, match='names no file'):
    open_input(str(tmp_path / 'empty.txt'))
  (tmp_path / 'files.csv').write_text('file\na.wav\n')
  with pytest.raises(InputError, match="no column 'path'"):
    open_input(str(tmp_path / 'files.csv'))
  with pytest.raises(InputError, match='needs a folder'):
    open_input(f'{folder}/900_03.flac', split='test')


@pytest.mark.slow
def test_units_are_the_nearest_centroids_of_a_layer(tmp_path, folder):
  import jax

  from research.weights import Pretrained, load, save

  sizes = dict(size='tiny', channels=8, width=16, depth=2, heads=2, hidden=24, conv_pos_groups=4)
  model = make('hubert+', **sizes)
  batch = {'audio': np.zeros((1, 1000), np.float32), 'audio_mask': np.ones((1, 1000), bool)}
  variables = jax.jit(model.init)(jax.random.key(0), batch)
  path = save(Pretrained('finetuned', model, variables, 'random'), tmp_path / 'model')
  centroids = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32)
  np.save(tmp_path / 'codebook.npy', centroids)
  wanted = f'--units={tmp_path / "codebook.npy"}', '--layers=1'

  done = embed(path, folder, tmp_path / 'u.npz', *wanted)
  assert done.returncode == 0, done.stderr
  found = dict(np.load(tmp_path / 'u.npz'))
  assert len(found['ids']) == 90 and not (tmp_path / 'u.npz.units').exists()
  loaded = load(path)
  for i in (0, 50):
    tokens = loaded.embed(str(folder / str(found['ids'][i])), layers=1, pool='none')
    distances = np.square(np.asarray(tokens)[:, None] - centroids).sum(-1)
    ours = found['units'][found['offsets'][i] : found['offsets'][i + 1]]
    np.testing.assert_array_equal(ours, distances.argmin(1))

  again = embed(path, folder, tmp_path / 'u.npz', *wanted)
  assert again.returncode == 2 and 'is there already' in again.stderr
  wrong = embed(path, folder, tmp_path / 'v.tsv', *wanted, '--pool=mean')
  assert wrong.returncode == 2 and '--units are of every frame' in wrong.stderr
  # A bare codebook does not name its layer, and it is not guessed.
  guess = embed(path, folder, tmp_path / 'v.tsv', wanted[0])
  assert guess.returncode == 2 and 'does not specify its layer' in guess.stderr


@pytest.mark.slow
def test_units_of_mfcc(tmp_path, folder):
  from research.audio.sources import open_source
  from research.audio.units import Units
  from research.units import frames, labelling
  from research.units.codebook import Codebook

  centroids = 10 * np.random.default_rng(0).normal(size=(7, 39)).astype(np.float32)
  np.save(tmp_path / 'codebook.npy', centroids)
  wanted = f'--units={tmp_path / "codebook.npy"}'
  done = embed('mfcc', folder, tmp_path / 'u.tsv', wanted)
  assert done.returncode == 0, done.stderr
  lines = [line.split('\t') for line in (tmp_path / 'u.tsv').read_text().splitlines()]
  mfcc = frames.mfcc()
  labelling.label(mfcc, Codebook(centroids, {}), open_source(str(folder)), tmp_path / 'units')
  units = Units.open(tmp_path / 'units')
  assert [name for name, _ in lines] == list(units.ids) and len(lines) == 90
  assert all(codes == ' '.join(map(str, units[name])) for name, codes in lines)
  assert len(np.unique(units.codes)) > 1
