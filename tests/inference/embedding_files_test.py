"""Embeddings into a file: right, in order, resumable, and clear about what was left out."""

import contextlib
import errno
import json

import numpy as np
import pytest

from research.audio.decode import decode
from research.audio.sources import open_source
from research.errors import InputError
from research.inference import embedding_files as export_lib
from research.inference import stream as stream_lib
from research.inference.embedding_files import export
from tests.evals import toy
from tests.jobs.kills import killed


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv('OIDO_CACHE', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture(scope='module')
def system():
  return toy.embedder()


@pytest.fixture
def source(tmp_path):
  folder = toy.tones(tmp_path / 'tones', per_class=4)
  # One longer clip: batches of more than one length.
  import soundfile

  soundfile.write(folder / '900_01.flac', toy.tone(900, 1.7, 9), toy.RATE)
  return open_source(str(folder))


@pytest.mark.slow
def test_npz_of_clips(system, source, tmp_path):
  done = export(system, source, tmp_path / 'e.npz', layers=(0, 2), about={'model': 'toy'})
  assert done == {'clips': 12, 'skipped': 0, 'resumed': 0}
  with np.load(tmp_path / 'e.npz') as file:
    assert file['ids'].tolist() == [source.id(i) for i in range(12)]
    assert file['column/label'].tolist() == source.column('label')
    assert file['embeddings'].shape == (12, 2, 12) and file['layers'].tolist() == [0, 2]
    for i in (0, 5, 11):
      expected = toy.alone(system, decode(source[i], sample_rate=16000)).mean(axis=1)
      np.testing.assert_allclose(file['embeddings'][i], expected[[0, 2]], atol=2e-5)
    about = json.loads(str(file['about']))
  assert about['model'] == 'toy' and about['weights'] == system.weights and about['pool'] == 'mean'
  assert about['frontend'] == toy.FRONTEND.to_dict()
  assert not (tmp_path / 'e.npz.parts').exists()


@pytest.mark.slow
def test_npz_of_tokens_with_their_times(system, source, tmp_path):
  export(system, source, tmp_path / 'e.npz', layers=(1,), pool='none')
  with np.load(tmp_path / 'e.npz') as file:
    offsets, seconds, values = file['offsets'], file['seconds'], file['embeddings']
  assert len(offsets) == 13 and offsets[-1] == len(values) == len(seconds)
  for i in (0, 5, 11):
    expected = toy.alone(system, decode(source[i], sample_rate=16000))[1]
    rows = slice(offsets[i], offsets[i + 1])
    np.testing.assert_allclose(values[rows], expected, atol=2e-5)
    # Two tokens of one time, four frames of 10 ms from one to the next.
    times = np.repeat(np.arange(len(expected) // 2) * 0.04, 2)
    np.testing.assert_allclose(seconds[rows], times, atol=1e-6)


@pytest.mark.parametrize('pool', ['mean', 'none'])
def test_parquet_holds_the_same(system, source, tmp_path, pool, monkeypatch):
  parquet = pytest.importorskip('pyarrow.parquet')
  monkeypatch.setattr(export_lib, 'GROUP_BYTES', 500)  # several row groups
  for name in ('e.npz', 'e.parquet'):
    export(system, source, tmp_path / name, layers=(0, 2), pool=pool)
  table = parquet.read_table(tmp_path / 'e.parquet')
  assert parquet.ParquetFile(tmp_path / 'e.parquet').num_row_groups > 1
  with np.load(tmp_path / 'e.npz') as file:
    assert table['id'].to_pylist() == file['ids'].tolist()
    assert table['label'].to_pylist() == file['column/label'].tolist()
    for place, name in enumerate(('layer_00', 'layer_02')):
      rows = table[name].to_pylist()
      flat = np.concatenate([np.atleast_2d(np.float32(r)) for r in rows])
      np.testing.assert_array_equal(flat, file['embeddings'][:, place])
    if pool == 'none':
      assert [len(r) for r in rows] == np.diff(file['offsets']).tolist()
      times = np.concatenate([np.float32(r) for r in table['seconds'].to_pylist()])
      np.testing.assert_array_equal(times, file['seconds'])
  assert json.loads(table.schema.metadata[b'oido'])['layers'] == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['npz', 'parquet'])
@pytest.mark.parametrize('pool', ['mean', 'none'])
def test_a_killed_job_goes_on_to_the_same_bytes(
  system, source, tmp_path, monkeypatch, pool, suffix
):
  if suffix == 'parquet':
    pytest.importorskip('pyarrow')
  (tmp_path / 'tones' / '300_00.flac').write_bytes(b'no audio')
  common = dict(layers=(2,), pool=pool, batch_seconds=4.0)
  export(system, source, tmp_path / f'whole.{suffix}', **common)
  out = tmp_path / f'e.{suffix}'
  with monkeypatch.context() as patch:
    killed(patch, after=1)
    with pytest.raises(KeyboardInterrupt):
      export(system, source, out, part_seconds=0.0, **common)
  assert not out.exists() and (tmp_path / f'{out.name}.parts').is_dir()
  done = export(system, source, out, part_seconds=0.0, **common)
  assert done['clips'] == 11 and 0 < done['resumed'] < 12
  assert out.read_bytes() == (tmp_path / f'whole.{suffix}').read_bytes()


def test_what_a_batch_holds_does_not_depend_on_what_is_done(system, source, tmp_path, monkeypatch):
  """However often a job is killed, the model runs once on each of the same batches."""
  run, seen = stream_lib._Runner.__call__, []

  def counted(self, asked, batch):
    seen.append((batch['audio'].shape, tuple(asked)))
    return run(self, asked, batch)

  monkeypatch.setattr(stream_lib._Runner, '__call__', counted)
  common = dict(layers=(2,), batch_seconds=4.0)
  export(system, source, tmp_path / 'whole.npz', **common)
  whole, kills = list(seen), 0
  seen.clear()
  assert len(whole) > 1
  while not (tmp_path / 'e.npz').exists():
    with monkeypatch.context() as patch:
      killed(patch, after=1)
      with contextlib.suppress(KeyboardInterrupt):
        export(system, source, tmp_path / 'e.npz', part_seconds=0.0, **common)
        break
      kills += 1
  assert kills == len(whole) - 1 and set(seen) == set(whole)
  assert (tmp_path / 'e.npz').read_bytes() == (tmp_path / 'whole.npz').read_bytes()


def test_the_parts_of_another_job_are_not_mixed_in(system, source, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    killed(patch, after=1)
    with pytest.raises(KeyboardInterrupt):
      export(system, source, tmp_path / 'e.npz', layers=(2,), part_seconds=0.0)
  with pytest.raises(InputError, match='unfinished job with another layers'):
    export(system, source, tmp_path / 'e.npz', layers=(1,))
  with pytest.raises(InputError, match='unfinished job with another weights'):
    export(toy.embedder(seed=1), source, tmp_path / 'e.npz', layers=(2,))


def test_bad_files_are_left_out_and_named(system, source, tmp_path):
  import soundfile

  (tmp_path / 'tones' / '300_00.flac').write_bytes(b'no audio')
  soundfile.write(tmp_path / 'tones' / '2700_03.flac', np.zeros(20, np.int16), 16000)
  done = export(system, source, tmp_path / 'e.npz', layers=(2,))
  assert done == {'clips': 10, 'skipped': 2, 'resumed': 0}
  with np.load(tmp_path / 'e.npz') as file:
    assert set(file['skipped_ids']) == {'300_00.flac', '2700_03.flac'}
    reasons = dict(zip(file['skipped_ids'].tolist(), file['skipped_reasons'].tolist()))
    assert reasons['2700_03.flac'] == stream_lib.TOO_SHORT
    assert '300_00.flac' not in file['ids'] and len(file['embeddings']) == 10
  with pytest.raises(InputError, match='max_bad_fraction=0'):
    export(system, source, tmp_path / 'f.npz', layers=(2,), max_bad_fraction=0.0)


def test_what_is_there_is_not_overwritten(system, source, tmp_path):
  (tmp_path / 'e.npz').write_bytes(b'precious')
  with pytest.raises(InputError, match='--overwrite'):
    export(system, source, tmp_path / 'e.npz', layers=(2,))
  assert (tmp_path / 'e.npz').read_bytes() == b'precious'
  export(system, source, tmp_path / 'e.npz', layers=(2,), overwrite=True)
  assert len(np.load(tmp_path / 'e.npz')['ids']) == 12


def test_endings_and_poolings_that_are_not_known(system, source, tmp_path):
  with pytest.raises(InputError, match=r'end in .npz or .parquet'):
    export(system, source, tmp_path / 'e.csv', layers=(2,))
  with pytest.raises(InputError, match="Unknown pooling 'men'"):
    export(system, source, tmp_path / 'e.npz', layers=(2,), pool='men')


def test_parquet_without_pyarrow_is_one_sentence(system, source, tmp_path, monkeypatch):
  monkeypatch.setattr(export_lib.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r'pyarrow.*\[parquet\]'):
    export(system, source, tmp_path / 'e.parquet', layers=(2,))


def test_a_full_disk_keeps_the_finished_parts(system, source, tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(export_lib, '_write_npz', full)
    with pytest.raises(InputError, match=r'No space left on device.*goes on from them'):
      export(system, source, tmp_path / 'e.npz', layers=(2,))
  assert not (tmp_path / 'e.npz').exists()
  assert export(system, source, tmp_path / 'e.npz', layers=(2,))['resumed'] == 12
