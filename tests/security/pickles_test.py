"""Files that hold code: none of it runs, and the reader says one sentence."""

import argparse
import importlib.util
import io
import json
import pickle
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from research import models, objectives
from research.audio import durations, fields
from research.audio.sources import open_source
from research.audio.units import Units
from research.errors import InputError
from research.jobs import folders
from research.models import heads
from research.report import run
from research.units.codebook import Codebook
from research.weights import conversion, load
from tests.launch import runner


def objects(payload):
  """An object array, which NumPy pickles."""
  return np.array([payload, 1], object)


# -- NumPy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['codes.npy', 'offsets.npy'])
def test_units(trap, tmp_path, name):
  folder = tmp_path / 'units'
  folder.mkdir()
  about = dict(clusters=4, sample_rate=16000, hop=320, window=400, fingerprint='x')
  (folder / 'about.json').write_text(json.dumps(about))
  (folder / 'ids.txt').write_text('a\n')
  np.save(folder / 'codes.npy', np.zeros(3, np.uint8))
  np.save(folder / 'offsets.npy', np.array([0, 3]))
  assert len(Units.open(folder)) == 1
  np.save(folder / name, objects(trap.payload))
  with pytest.raises(InputError, match=r'units in .* cannot be read'):
    Units.open(folder)


@pytest.mark.parametrize('name', ['a.npy', 'folder'])
def test_codebooks_of_objects(trap, tmp_path, name):
  path = tmp_path / name
  if name == 'folder':
    path.mkdir()
  np.save(path / 'codebook.npy' if name == 'folder' else path, objects(trap.payload))
  with pytest.raises(InputError, match='damaged or no codebook'):
    Codebook.open(path)


@pytest.mark.parametrize('name', ['a.npy', 'a.km'])
@pytest.mark.parametrize('packed', [False, True], ids=['plain', 'zlib'])
def test_pickles_as_codebooks(trap, tmp_path, name, packed):
  data = pickle.dumps({'cluster_centers_': trap.payload})
  (tmp_path / name).write_bytes(zlib.compress(data) if packed else data)
  with pytest.raises(InputError, match=r'is refused|damaged or no codebook'):
    Codebook.open(tmp_path / name)


@pytest.mark.parametrize('name', ['pictures.npz', 'map.npz'])
def test_a_run_with_pickled_pictures(trap, tmp_path, name):
  np.savez(tmp_path / name, original=objects(trap.payload), **{'a/names': objects(trap.payload)})
  with pytest.raises(InputError, match=f'{name} is damaged'):
    run.write_report(tmp_path)


def test_parts_of_a_job_and_cached_durations(trap, tmp_path):
  np.savez(tmp_path / 'part.npz', lines=objects(trap.payload))
  with pytest.raises(InputError, match='delete it'):
    folders.read_arrays(tmp_path / 'part.npz')
  np.save(tmp_path / 'known.npy', objects(trap.payload))
  assert durations._known(tmp_path / 'known.npy') is None


def test_an_array_that_is_larger_than_memory(tmp_path):
  header = np.lib.format.magic(1, 0)
  text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000)}".ljust(117)
  data = header + len(text).to_bytes(2, 'little') + text.encode()
  (tmp_path / 'a.npy').write_bytes(data)
  with pytest.raises(InputError, match='damaged or no codebook'):
    Codebook.open(tmp_path / 'a.npy')
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as file:
    file.writestr('original.npy', data)
  with pytest.raises(InputError, match='is damaged'):
    folders.read_arrays(tmp_path / 'a.npz')


# -- PyTorch ---------------------------------------------------------------------------------------


def torch_files(folder, payload):
  """{name: a PyTorch file with the payload somewhere in it}."""
  torch = pytest.importorskip('torch')
  weights = {'w': torch.zeros(2)}
  contents = {
    'top.pt': payload,
    'model.pt': {'model': payload},
    'array.bin': {'model': {**weights, 'x': payload}},
    'cfg.pt': {'model': weights, 'cfg': {'model': {'name': [payload]}}},
    'args.pt': {'model': weights, 'args': argparse.Namespace(arch=payload)},
    'labels.pt': {'model': weights, 'task_state': {'dictionaries': [payload]}},
    'optimizer.ckpt': {'state_dict': weights, 'optimizer': payload},
  }
  for name, content in contents.items():
    torch.save(content, folder / name)
    torch.save(content, folder / f'old_{name}', _use_new_zipfile_serialization=False)
  (folder / 'pickle.pth').write_bytes(pickle.dumps(payload))
  with tarfile.open(folder / 'tar.pt', 'w') as file:
    for member in ('sys_info', 'pickle', 'storages', 'tensors'):
      data = pickle.dumps(payload)
      entry = tarfile.TarInfo(member)
      entry.size = len(data)
      file.addfile(entry, io.BytesIO(data))
    for name, target in (('../escaped', None), ('/tmp/escaped', None), ('link', '/etc/passwd')):
      entry = tarfile.TarInfo(name)
      entry.type, entry.linkname = (tarfile.SYMTYPE, target) if target else (tarfile.REGTYPE, '')
      file.addfile(entry)
  with zipfile.ZipFile(folder / 'script.pt', 'w') as file:
    for member in ('data.pkl', 'constants.pkl', 'version', '../escaped'):
      file.writestr(member if '/' in member else f'script/{member}', pickle.dumps(payload))
  return sorted(p for p in folder.iterdir() if p.suffix in ('.pt', '.bin', '.pth', '.ckpt'))


def test_weights_of_pytorch(trap, tmp_path):
  files = torch_files(tmp_path, trap.payload)
  assert len(files) == 17
  for file in files:
    with pytest.raises(InputError, match='needs code to be loaded, and such files are refused'):
      load(file, release='hubert')
    trap.check_untouched()
  assert not (tmp_path.parent / 'escaped').exists()


def test_a_folder_of_transformers(trap, tmp_path):
  torch = pytest.importorskip('torch')
  folder = tmp_path / 'hubert'
  folder.mkdir()
  (folder / 'config.json').write_text('{"model_type": "hubert", "auto_map": {"AutoModel": "os.x"}}')
  torch.save({'a': trap.payload}, folder / 'pytorch_model.bin')
  with pytest.raises(InputError, match='needs code to be loaded'):
    load(folder, release='hubert_hf')
  (folder / 'pytorch_model.bin').unlink()
  for outside in ('../pytorch_model.bin', '/etc/passwd', 'a/b.bin', '..'):
    index = {'weight_map': {'w': outside}}
    (folder / 'pytorch_model.bin.index.json').write_text(json.dumps(index))
    with pytest.raises(
      InputError, match=r'expected one in the same folder|There is no weights file'
    ):
      load(folder, release='hubert_hf')


def test_a_command_says_one_sentence(trap, tmp_path):
  """Exit code 2, one line."""
  (tmp_path / 'evil.pt').write_bytes(pickle.dumps(trap.payload))
  args = ['--release=hubert', '--source', tmp_path / 'evil.pt', '--out', tmp_path / 'out']
  torch = importlib.util.find_spec('torch') is not None
  words = ['evil.pt', 'such files are refused' if torch else 'torch is not installed']
  runner.check_mistakes('launch.convert', {'weights': (args, words)})


# -- Names that lead to code -----------------------------------------------------------------------

NAMES = (
  'os.system',
  '../../x',
  'research.models.hubert',
  'os',
  '__init__',
  'hubert\0',
  'subprocess:run',
)


@pytest.mark.parametrize(
  'get',
  [models.get, heads.get, fields.get, objectives.get, conversion.get],
  ids=lambda f: f.__module__,
)
def test_names_are_those_of_files_here(get):
  for name in NAMES:
    with pytest.raises(InputError, match=r'Unknown|has no (model|head)'):
      get(name)


@pytest.mark.parametrize('name', [*NAMES, 7, None, ['x'], {}], ids=str)
def test_weights_that_name_other_code(tmp_path, name):
  from safetensors.numpy import save_file

  about = {'format': 1, 'model': {'name': name, 'args': {}}, 'origin': 'x'}
  save_file({'a': np.zeros(1)}, tmp_path / 'a.safetensors', metadata={'oido': json.dumps(about)})
  with pytest.raises(InputError, match=r'Unknown model|is damaged|has no model'):
    load(tmp_path / 'a.safetensors')


@pytest.mark.parametrize('text', ['no json', '[]', '{}', '{"format": 1}', '[' * 100_000], ids=len)
def test_weights_with_a_damaged_header(tmp_path, text):
  from safetensors.numpy import save_file

  save_file({'a': np.zeros(1)}, tmp_path / 'a.safetensors', metadata={'oido': text})
  with pytest.raises(InputError, match='does not say which model'):
    load(tmp_path / 'a.safetensors')


def test_parts_of_a_model_are_names_too():
  args = dict(encoder=dict(name='os.system', args={}), head=dict(name='os', args={}))
  with pytest.raises(InputError, match='Unknown'):
    models.get('finetuned')(**args)


# -- TFDS ------------------------------------------------------------------------------------------


def tfds_folder(tmp_path, features, **split):
  folder = tmp_path / 'data' / '1.0.0'
  folder.mkdir(parents=True)
  splits = [{'name': 'train', 'shardLengths': ['1'], **split}]
  info = {'name': 'data', 'version': '1.0.0', 'fileFormat': 'array_record', 'splits': splits}
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  described = {'pythonClassName': f'{TFDS}.features_dict.FeaturesDict'}
  described |= {'featuresDict': {'features': features}}
  (folder / 'features.json').write_text(json.dumps(described))
  return folder


TFDS = 'tensorflow_datasets.core.features'
TEXT = {'pythonClassName': f'{TFDS}.text_feature.Text', 'text': {}}


@pytest.mark.parametrize('key', ['pythonClassName', 'type'])
def test_features_of_a_module_beside_the_data(trap, tmp_path, monkeypatch, key):
  """TFDS imports whatever module the description names."""
  (tmp_path / 'evil_module.py').write_text(f'open({str(trap.marker)!r}, "w")\n')
  monkeypatch.syspath_prepend(tmp_path)
  inner = {'features': {'x': {key: 'evil_module.Feature', 'text': {}}}}
  nested = {'pythonClassName': f'{TFDS}.features_dict.FeaturesDict', 'featuresDict': inner}
  folder = tfds_folder(tmp_path, {'audio': TEXT, 'more': nested})
  with pytest.raises(InputError, match=r"class 'evil_module.Feature'; only the classes of"):
    open_source(folder)


@pytest.mark.parametrize('name', ['../secret', '/etc/passwd', '..', '', 'a/b'])
def test_features_and_splits_outside_of_the_folder(tmp_path, name):
  folder = tfds_folder(tmp_path / 'a', {'audio': TEXT, name: TEXT})
  with pytest.raises(InputError, match='leads out of that folder'):
    open_source(folder)
  if name:
    folder = tfds_folder(tmp_path / 'b', {'audio': TEXT}, filepathTemplate=name)
    with pytest.raises(InputError, match='leads out of that folder'):
      open_source(folder)
  folder = tfds_folder(tmp_path / 'c', {'audio': TEXT}, name=name)
  with pytest.raises(InputError, match='leads out of that folder'):
    open_source(folder)
