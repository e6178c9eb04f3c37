"""Weights by address: hf:// from a hub on this machine, https:// with a hash."""

import hashlib
import json

import numpy as np
import pytest

from research.errors import InputError
from research.weights import Pretrained, load, save
from tests.launch import runner
from tests.weights import hub as hubs
from tests.weights.wav2vec2_folders_test import arrays, write


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return write(tmp_path_factory.mktemp('folder'), arrays())


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
  files = {p.name: p.read_bytes() for p in folder.iterdir()}
  more = {'README.md': b'text', 'flax_model.msgpack': b'x' * 100, 'pytorch_model.bin': b'y' * 100}
  data = files['model.safetensors']
  repositories = {
    'org/speech': {**files, **more},
    'org/none': {'README.md': b'text'},
    'org/other': {'config.json': json.dumps({'model_type': 'bert'}).encode(),
                  'model.safetensors': data},
    'org/several': {'a.safetensors': data, 'b.safetensors': data},
    'web': {'files/model.safetensors': data},
  }  # fmt: skip
  with hubs.running(repositories, monkeypatch, tmp_path / 'hub') as server:
    yield server


def same(a, b):
  assert a.fingerprint == b.fingerprint


def test_only_what_is_needed_is_fetched_and_once(hub, folder, monkeypatch):
  found = load('hf://org/speech')
  assert found.origin == 'wav2vec2_hf weights from hf://org/speech'
  same(found, load(folder))
  fetched = {
    path.rsplit('/', 1)[-1] for verb, path in hub.asked if verb == 'GET' and 'resolve' in path
  }
  assert fetched == {'config.json', 'preprocessor_config.json', 'vocab.json', 'model.safetensors'}
  before = len(hub.asked)
  same(load(f'hf://org/speech@{hubs.SHA}'), found)
  again = hub.asked[before:]
  assert not [path for verb, path in again if verb == 'GET' and 'resolve' in path]
  # Without the network, from the cache.
  from huggingface_hub import constants

  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  before = len(hub.asked)
  same(load('hf://org/speech'), found)
  assert len(hub.asked) == before
  with pytest.raises(
    InputError, match=r"'hf://org/unseen' is not in the cache, and HF_HUB_OFFLINE"
  ):
    load('hf://org/unseen')


def test_one_file_of_a_repository(hub, folder):
  same(load('hf://org/speech@main/model.safetensors'), load(folder))
  with pytest.raises(
    InputError, match=r'has several files of weights: name one, .*/a\.safetensors'
  ):
    load('hf://org/several')


def test_our_own_weights(hub, folder, tmp_path):
  ours = load(folder)
  file = save(Pretrained(ours.name, ours.model, ours.variables, 'a run'), tmp_path / 'ours')
  hub.files['org/ours'] = {'model.safetensors': file.read_bytes()}
  found = load('hf://org/ours')
  assert found.origin == 'a run'
  same(found, ours)


@pytest.mark.parametrize(
  ('path', 'words'),
  [
    ('hf://org/absent', 'there is no such repository'),
    ('hf://org/speech@v9', 'there is no such revision'),
    ('hf://org/speech/none.pt', "has no file 'none.pt'"),
    ('hf://org/none', 'no weights that can be read'),
    ('hf://org/other', 'is a bert of transformers, which is not known here'),
    ('hf://org', 'is no address of weights: expected hf://ORG/NAME'),
    ('hf://org/speech/../x', 'is no address of weights'),
  ],
)
def test_what_is_not_there_is_named(hub, path, words):
  with pytest.raises(InputError, match=words):
    load(path)


@pytest.mark.parametrize('fault', ['break', 'size', 'hash', 'stall'])
def test_a_hub_in_trouble_leaves_nothing_wrong(hub, folder, fault, monkeypatch):
  from huggingface_hub import file_download

  if hasattr(file_download, 'time'):  # it waits between its attempts
    monkeypatch.setattr(file_download.time, 'sleep', lambda seconds: None)
  hub.fault = fault
  with pytest.raises(InputError, match=r'cannot be fetched|did not come as promised') as raised:
    load('hf://org/speech')
  assert "'hf://org/speech'" in str(raised.value) and '\n' not in str(raised.value)
  hub.fault = ''
  same(load('hf://org/speech'), load(folder))


def test_a_hub_that_cannot_be_reached(hub):
  hub.shutdown()
  hub.server_close()
  with pytest.raises(InputError, match=r"'hf://org/speech' cannot be fetched .*Check the network"):
    load('hf://org/speech')


def test_files_of_the_web_need_their_hash(hub, folder, tmp_path):
  file = save(load(folder), tmp_path / 'ours')
  hub.files['web']['files/model.safetensors'] = file.read_bytes()
  digest = hashlib.sha256(hub.files['web']['files/model.safetensors']).hexdigest()
  address = f'{hub.url}/files/model.safetensors'
  for wrong in (address, f'{address}#sha256=12', f'{address}#md5={digest}'):
    with pytest.raises(InputError, match='with their hash'):
      load(wrong)
  with pytest.raises(InputError, match=rf'has the SHA-256 {digest}; it'):
    load(f'{address}#sha256={"0" * 64}')
  for fault in ('break', 'size'):
    hub.fault = fault
    with pytest.raises(InputError, match=r'cannot be fetched|was not kept'):
      load(f'{address}#sha256={digest}')
  hub.fault = ''
  assert not list((tmp_path / 'oido').rglob('*.safetensors'))
  found = load(f'{address}#sha256={digest}')
  assert np.isfinite(found.embed(np.zeros(8000, np.float32), 16_000)).all()
  before = len(hub.asked)
  load(f'{address}#sha256={digest}')
  assert len(hub.asked) == before


def test_a_command_without_a_network_says_one_sentence(tmp_path, monkeypatch):
  """In a process that has not used the package before."""
  monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
  monkeypatch.setenv('HF_HUB_OFFLINE', '0')
  monkeypatch.setenv('HF_HOME', str(tmp_path))
  cases = {
    'hub': (['--source=hf://org/none', f'--out={tmp_path / "w"}'], ['cannot be fetched']),
    'web': (['--source=https://a.b/c.pt', f'--out={tmp_path / "w"}'], ['with their hash']),
  }
  runner.check_mistakes('launch.convert', cases)


def test_weights_that_are_no_numbers_are_refused(folder, tmp_path):
  import safetensors.numpy

  ours = save(load(folder), tmp_path / 'ours')
  for file, words in ((ours, 'run'), (folder / 'model.safetensors', 'folder')):
    arrays = safetensors.numpy.load_file(file)
    with safetensors.safe_open(file, framework='np') as opened:
      metadata = opened.metadata()
    name = next(n for n, x in arrays.items() if x.dtype == np.float32 and x.ndim > 1)
    arrays[name][0] = np.nan
    broken = tmp_path / words
    broken.mkdir()
    for other in folder.glob('*.json'):
      (broken / other.name).write_bytes(other.read_bytes())
    safetensors.numpy.save_file(arrays, broken / 'model.safetensors', metadata)
    with pytest.raises(InputError, match='holds NaN: the file is damaged'):
      load(broken)
