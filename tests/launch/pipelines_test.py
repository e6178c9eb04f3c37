"""Commands in parts: by hand, and as Apache Beam pipelines."""

import sys

import pytest

from research.errors import InputError
from research.jobs.parts import Parts
from tests.evals import toy
from tests.launch import runner


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return toy.save_audio_mae(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  return toy.tones(tmp_path_factory.mktemp('data') / 'tones', per_class=30)


def embed(model, clips, out, *more):
  return runner.run(
    'launch.embed', f'--model={model}', f'--input={clips}', f'--out={out}', '--pool=none', *more
  )


@pytest.fixture(scope='module')
def whole(model, clips, tmp_path_factory):
  out = tmp_path_factory.mktemp('whole') / 'e.npz'
  assert embed(model, clips, out).returncode == 0
  return out.read_bytes()


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.slow
def test_parts_write_what_one_run_writes(model, clips, whole, tmp_path):
  out = tmp_path / 'e.npz'
  for i in (2, 0):
    done = embed(model, clips, out, f'--part={i}/3')
    assert done.returncode == 0, done.stderr
    assert f'Part {i}/3 is done; the part that ends last writes {out}' in done.stdout
    assert not out.exists()
  # A part whose process has it, and the whole job meanwhile, are refused.
  store = Parts(out, {})
  from research.jobs import locks

  locks.claim(store.folder / '.worker-1-of-3')
  for more in (['--part=1/3'], []):
    done = embed(model, clips, out, *more)
    assert done.returncode == 2 and '.worker-1-of-3 is in use by process' in done.stderr
  locks.release(store.folder / '.worker-1-of-3')
  done = embed(model, clips, out, '--part=1/3')
  assert done.returncode == 0 and f'{out}: 90 clips' in done.stdout, (done.stdout, done.stderr)
  assert out.read_bytes() == whole
  assert [p.name for p in tmp_path.iterdir()] == ['e.npz']


@pytest.mark.slow
def test_parts_write_the_units_of_one_run(clips, tmp_path):
  made = runner.run(
    'launch.label_kmeans', '--features=mfcc', '--clusters=8', '--n_init=1', f'--input={clips}',
    f'--out={tmp_path / "k"}',
  )  # fmt: skip
  assert made.returncode == 0, made.stderr

  def units(name, *more):
    return runner.run(
      'launch.embed', '--model=mfcc', f'--units={tmp_path / "k"}', f'--input={clips}',
      f'--out={tmp_path / name}', *more,
    )  # fmt: skip

  assert units('one.tsv').returncode == 0
  assert 'Part 1/2 is done' in units('two.tsv', '--part=1/2').stdout
  assert 'two.tsv: 90 clips' in units('two.tsv', '--part=0/2').stdout
  assert (tmp_path / 'two.tsv').read_bytes() == (tmp_path / 'one.tsv').read_bytes()


@pytest.mark.slow
def test_pipelines_write_what_one_run_writes(model, clips, whole, tmp_path):
  pytest.importorskip('apache_beam', reason='Apache Beam is not installed: the [beam] extra')
  beam = ('--beam=--runner=DirectRunner --direct_num_workers=1',)
  out = tmp_path / 'e.npz'
  done = embed(model, clips, out, *beam, '--beam_parts=3')
  assert done.returncode == 0, done.stderr
  assert out.read_bytes() == whole

  def prepare(name, *more):
    return runner.run(
      'launch.prepare_data', f'--source={clips}', '--shards=4', f'--out={tmp_path / name}', *more
    )

  assert prepare('one').returncode == 0
  # Once more changes nothing.
  for _ in range(2):
    done = prepare('two', *beam)
    assert done.returncode == 0 and '90 clips' in done.stdout, done.stderr
    assert contents(tmp_path / 'two') == contents(tmp_path / 'one')
  # What fails in a part is a sentence of the whole.
  done = embed(tmp_path / 'none', clips, tmp_path / 'f.npz', *beam)
  assert done.returncode == 2 and 'error: The pipeline failed: part' in done.stderr
  assert 'none' in done.stderr.splitlines()[-1]


def test_without_beam_it_says_so(monkeypatch):
  from absl import flags

  from launch import pipelines

  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  values = flags.FlagValues()
  flags.DEFINE_string('part', '0/1', '', flag_values=values)
  flags.DEFINE_string('beam', '', '', flag_values=values)
  flags.DEFINE_bool('distributed', False, '', flag_values=values)
  flags.DEFINE_integer('num_processes', None, '', flag_values=values)
  values.mark_as_parsed()
  monkeypatch.setattr(flags, 'FLAGS', values)
  with pytest.raises(
    InputError, match=r"needs Apache Beam, not installed: pip install 'oido\[beam"
  ):
    pipelines.run('launch.embed', 2)


@pytest.mark.parametrize(
  ('more', 'words'),
  [
    (['--part=3/3'], '--part=3/3: give I/N'),
    (['--part=0/2', '--overwrite'], '--overwrite does not go with --part'),
    (['--part=0/2', '--beam='], '--beam divides the work itself'),
  ],
)
def test_parts_that_make_no_sense_are_refused(model, clips, tmp_path, more, words):
  done = embed(model, clips, tmp_path / 'e.npz', *more)
  assert done.returncode == 2 and words in done.stderr, done.stderr
