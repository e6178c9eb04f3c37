"""Weights in an object store."""

import json

import pytest

from launch import outputs
from research.errors import InputError
from research.jobs import paths
from research.weights import load, save
from tests import stores
from tests.weights.toy import same
from tests.weights.weights_test import pretrained, write_run


@pytest.fixture(params=['gs', pytest.param('s3', marks=pytest.mark.slow)])
def store(request, tmp_path):
  with stores.running(request.param, tmp_path) as server:
    yield server


def test_files_and_folders_there_and_back(store):
  ours = pretrained()
  store.failing = lambda method, path, number: 503 if number % 9 == 0 else None
  file = save(ours, f'{store.root}/export')
  assert str(file) == f'{store.root}/export/model.safetensors'
  for path in (str(file), f'{store.root}/export'):
    assert same(load(path).variables, ours.variables)
  # Another version at the same address is not taken from the cache.
  other = pretrained(frontend={'statistics': 'esc50'})
  save(other, str(file))
  assert load(str(file)).frontend.mean == -6.6268077
  store.failing = None
  with pytest.raises(InputError, match='There are no weights at'):
    load(f'{store.root}/nothing')
  with pytest.raises(InputError, match=r'no-bucket/x cannot be read|no weights at'):
    load(f'{store.scheme}://no-bucket/x')


def test_a_run_and_its_checkpoints(store, tmp_path):
  write_run(tmp_path / 'run')
  home = paths.path(f'{store.root}/runs/tiny')
  for file in (tmp_path / 'run').rglob('*'):
    if file.is_file():
      paths.upload(file, home / file.relative_to(tmp_path / 'run').as_posix())
  here, there = load(tmp_path / 'run'), load(str(home))
  assert same(here.variables, there.variables)
  assert there.origin == here.origin.replace('run run,', 'run tiny,')
  one = load(f'{home}/checkpoints/2')
  assert one.origin == 'run tiny, step 2' and not same(one.variables, there.variables)


def test_outputs_are_copied(store, tmp_path):
  class Flag:
    def __init__(self, value):
      self.value = value

  class Flags(dict):
    distributed = num_processes = None
    overwrite = False

  values = Flags(out=Flag(f'{store.root}/out/a.txt'), overwrite=Flag(False))
  seen = []

  def main(argv):
    seen.append(values['out'].value)
    with open(values['out'].value, 'w') as file:
      file.write('done')

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(outputs.flags, 'FLAGS', values)
    outputs.remote('out', folder=False)(main)([])
    assert paths.read_bytes(paths.path(f'{store.root}/out/a.txt')) == b'done'
    assert '://' not in seen[0]
    values['out'].value = f'{store.root}/out/a.txt'
    with pytest.raises(InputError, match='is there already'):
      outputs.remote('out', folder=False)(main)([])

    def report(argv):
      folder = values['out'].value
      with open(f'{folder}/scores.json') as file:
        assert json.load(file) == [1]
      with open(f'{folder}/report.html', 'w') as file:
        file.write('page')

    home = paths.path(f'{store.root}/run')
    paths.write_bytes(home / 'scores.json', b'[1]')
    values['out'].value = str(home)
    outputs.remote('out', folder=True)(report)([])
    assert paths.names(home) == ['report.html', 'scores.json']
