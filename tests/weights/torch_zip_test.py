"""PyTorch files without torch: what torch reads is read, nothing that is not data."""

import argparse
import io
import pickle
import struct
import sys
import types
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest

from research.errors import InputError
from research.weights import detect, load, read, torch_zip
from tests.weights.wav2vec2_toy import PRETRAINING, original

KINDS = {np.dtype(d): k for k, d in torch_zip.STORAGES.items()}


def _module(name, **names):
  module = types.ModuleType(name)
  for key, value in names.items():
    value.__module__, value.__qualname__, value.__name__ = name, key, key
    setattr(module, key, value)
  return module


class Tensor:
  """An array that is saved as torch saves a tensor."""

  def __init__(self, data, key, shape=None, stride=None, offset=0):
    self.data, self.key = data, key
    self.shape = data.shape if shape is None else shape
    self.stride = [s // data.itemsize for s in data.strides] if stride is None else stride
    self.offset = offset

  def __reduce__(self):
    rebuild = sys.modules['torch._utils']._rebuild_tensor_v2
    shape, stride = tuple(self.shape), tuple(self.stride)
    return rebuild, (Stored(self), self.offset, shape, stride, False, {})


class Stored:
  def __init__(self, tensor):
    self.tensor = tensor


def write(path, content, monkeypatch, data=None, members=()):
  """What torch.save writes, byte for byte in its structure."""
  classes = {kind: type(kind, (), {}) for kind in torch_zip.STORAGES}
  modules = {
    'torch': _module('torch', **classes),
    'torch._utils': _module('torch._utils', _rebuild_tensor_v2=lambda *args: None),
  }
  found = {}

  class Pickler(pickle.Pickler):
    def persistent_id(self, value):
      if not isinstance(value, Stored):
        return None
      tensor = value.tensor
      found[tensor.key] = tensor.data
      kind = classes[KINDS[tensor.data.dtype]]
      return 'storage', kind, tensor.key, 'cpu', tensor.data.size

  out = io.BytesIO()
  with monkeypatch.context() as patch:
    for name, module in modules.items():
      patch.setitem(sys.modules, name, module)
    Pickler(out, 2).dump(content)
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('archive/data.pkl', data or out.getvalue())
    file.writestr('archive/byteorder', 'little')
    for key, array in found.items():
      file.writestr(f'archive/data/{key}', array.tobytes())
    for name, value in members:
      file.writestr(name, value)
  return path


def arrays():
  rng = np.random.default_rng(0)
  dtypes = [np.float32, np.float64, np.float16, np.int64, np.int32, np.uint8, np.bool_]
  found = {np.dtype(d).name: (rng.standard_normal((3, 5)) * 50).astype(d) for d in dtypes}
  return {**found, 'scalar': np.array(2.5, np.float32), 'none': np.zeros((0, 4), np.float32)}


def test_tensors_of_every_kind(tmp_path, monkeypatch):
  expected = arrays()
  state = {k: Tensor(v, str(i)) for i, (k, v) in enumerate(expected.items())}
  narrow = np.arange(6, dtype=np.float32).astype(ml_dtypes.bfloat16)
  state['bfloat16'] = Tensor(narrow, 'b')
  # Views: a transposed matrix, a slice, and two tensors of one storage.
  base = np.arange(12, dtype=np.float32)
  state['view'] = Tensor(base, 'v', (4, 3), (1, 4))
  state['slice'] = Tensor(base, 'v', (2,), (3,), offset=2)
  whole = {'model': state, 'args': argparse.Namespace(arch='x', lr=[1, 2])}
  path = write(tmp_path / 'a.pt', whole, monkeypatch)
  found, about = read.read_release(path)
  for key, value in expected.items():
    np.testing.assert_array_equal(found[key], value)
    assert found[key].dtype == value.dtype and found[key].shape == value.shape
  np.testing.assert_array_equal(found['bfloat16'], np.arange(6))
  np.testing.assert_array_equal(found['view'], base.reshape(3, 4).T)
  np.testing.assert_array_equal(found['slice'], [2, 5])
  assert about == {'cfg': {'arch': 'x', 'lr': [1, 2]}}


def test_what_torch_writes(tmp_path):
  torch = pytest.importorskip('torch')
  layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
  state = {**layer.state_dict(), 'half': torch.ones(2, 3, dtype=torch.bfloat16).t()}
  torch.save({'state_dict': layer.state_dict(), 'epoch': 3}, tmp_path / 'a.ckpt')
  torch.save(torch.nn.ParameterDict({'w': torch.ones(3)}).state_dict(), tmp_path / 'c.bin')
  torch.save(state, tmp_path / 'b.pth')
  for name, wanted in (
    ('a.ckpt', layer.state_dict()),
    ('b.pth', state),
    ('c.bin', {'w': torch.ones(3)}),
  ):
    found, _ = read.read_arrays(tmp_path / name)
    assert list(found) == list(wanted)
    for key, value in wanted.items():
      np.testing.assert_array_equal(
        found[key], value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
      )


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    (dict(shape=(5,), stride=(1,)), 'does not lie in its 4 elements'),
    (dict(shape=(4,), stride=(1,), offset=1), 'does not lie'),
    (dict(shape=(2, 2), stride=(3, 1)), 'does not lie'),
    (dict(shape=(4,), stride=(-1,), offset=3), 'does not lie'),
    (dict(shape=(10**9,), stride=(0,)), 'does not lie'),
    (dict(shape=(-1,), stride=(1,)), 'does not lie'),
  ],
)
def test_tensors_outside_of_their_storage(tmp_path, monkeypatch, changes, words):
  path = write(
    tmp_path / 'a.pt', {'w': Tensor(np.zeros(4, np.float32), '0', **changes)}, monkeypatch
  )
  with pytest.raises(InputError, match=words):
    read.read_arrays(path)


class Call:
  """A call of any function while it is read."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize(
  'name', ['os.mkdir', 'builtins.eval', 'torch.load', 'torch.hub.load', 'operator.attrgetter']
)
def test_no_function_is_called(tmp_path, monkeypatch, name):
  module, _, function = name.rpartition('.')
  target = tmp_path / 'made'
  # Written by hand, as some of these cannot be pickled: GLOBAL, MARK, text, TUPLE, REDUCE, STOP.
  data = b'\x80\x02c' + f'{module}\n{function}\n'.encode() + b'(X'
  text = str(target).encode()
  data += len(text).to_bytes(4, 'little') + text + b'tR.'
  path = write(tmp_path / 'a.pt', None, monkeypatch, data=data)
  with pytest.raises(InputError, match=f'of {name} in it.*needs code to be loaded'):
    read.read_arrays(path)
  assert not target.exists()


def state_of(monkeypatch, tmp_path, extra):
  """A file whose pickle changes the state of a storage or a class before it is used."""
  tensor = Tensor(np.zeros(4, np.float32), '0')
  path = write(tmp_path / 'a.pt', {'w': tensor}, monkeypatch)
  with zipfile.ZipFile(path) as file:
    return file.read('archive/data.pkl').replace(b'Q', b'Q' + extra, 1)


@pytest.mark.parametrize(
  'extra', [b'}X\x06\x00\x00\x00valuesK\x07sb', b'N}X\x06\x00\x00\x00valuesK\x07s\x86b']
)
def test_a_storage_cannot_be_changed(tmp_path, monkeypatch, extra):
  data = state_of(monkeypatch, tmp_path, extra)
  path = write(
    tmp_path / 'b.pt', {'w': Tensor(np.zeros(4, np.float32), '0')}, monkeypatch, data=data
  )
  with pytest.raises(InputError, match='it changes what it refers to'):
    read.read_arrays(path)


@pytest.mark.parametrize(
  ('data', 'words'),
  [
    (b'\x80\x02' + b'r\xff\xff\xff\x7f' + b'.', 'damaged'),  # a place in the memo, far out
    (b'\x80\x02]q\x00h\x00a.', 'damaged|holds no state dict'),  # a list in itself
    (b'\x80\x02' + b'(' * 5000 + b'.', 'damaged'),
    (b'\x80\x02\x8a\xff' + b'\x01' * 10, 'damaged'),
    (b'', 'damaged'),
  ],
)
def test_broken_pickles_are_one_sentence(tmp_path, monkeypatch, data, words):
  path = tmp_path / 'a.pt'
  write(path, {}, monkeypatch, data=data or b' ')
  with pytest.raises(InputError, match=words):
    read.read_arrays(path)


def test_shared_lists_stay_small(tmp_path, monkeypatch):
  nested = ['x']
  for _ in range(60):
    nested = [nested] * 10
  path = write(
    tmp_path / 'a.pt',
    {'model': {'w': Tensor(np.ones(1, np.float32), '0')}, 'cfg': {'a': 1}, 'x': nested},
    monkeypatch,
  )
  assert read.read_release(path)[1] == {'cfg': {'a': 1}}


def test_members_that_overlap(tmp_path, monkeypatch):
  """Every member holds those behind it: each is small, all together are as large as one likes."""
  count, kernel = 200, bytes(4000)
  data = np.zeros(0, np.float32)
  path = tmp_path / 'a.pt'
  write(path, {f'w{i}': Tensor(data, str(i)) for i in range(count)}, monkeypatch)
  with zipfile.ZipFile(path) as file:
    pickled = file.read('archive/data.pkl')
  names = [f'archive/data/{i}'.encode() for i in range(count)]
  body, members = kernel, []
  for name in reversed(names):  # the last one is the innermost
    header = _local(name, body)
    members.append((name, body, header))
    body = header + body
  first = _local(b'archive/data.pkl', pickled) + pickled
  directory, at = _central(b'archive/data.pkl', pickled, 0), len(first)
  for name, content, header in reversed(members):
    directory += _central(name, content, at)
    at += len(header)
  end = struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, count + 1, count + 1, len(directory),
                    len(first) + len(body), 0)  # fmt: skip
  path.write_bytes(first + body + directory + end)
  with zipfile.ZipFile(path) as file:
    total = sum(info.file_size for info in file.infolist())
  assert total > 20 * path.stat().st_size
  # Newer versions of zipfile refuse it themselves.
  with pytest.raises(InputError, match=r'its members share their bytes|Overlapped entries'):
    read.read_arrays(path)


def _local(name, content):
  crc, size = zlib.crc32(content), len(content)
  return struct.pack('<4s5H3I2H', b'PK\3\4', 20, 0, 0, 0, 33, crc, size, size, len(name), 0) + name


def _central(name, content, at):
  crc, size = zlib.crc32(content), len(content)
  fields = (20, 20, 0, 0, 0, 33, crc, size, size, len(name), 0, 0, 0, 0, 0, at)
  return struct.pack('<4s6H3I5H2I', b'PK\1\2', *fields) + name


def test_truncated_and_compressed_files(tmp_path, monkeypatch):
  path = write(tmp_path / 'a.pt', {'w': Tensor(np.ones(4, np.float32), '0')}, monkeypatch)
  whole = path.read_bytes()
  for end in (10, len(whole) // 2, len(whole) - 5):
    path.write_bytes(whole[:end])
    with pytest.raises(InputError, match='damaged'):
      read.read_arrays(path)
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
    file.writestr('archive/data.pkl', pickle.dumps({}))
  with pytest.raises(InputError, match='it is compressed'):
    read.read_arrays(path)


@pytest.mark.parametrize(
  ('keys', 'files', 'release'),
  [
    (['decoder_pred.weight', 'mask_token', 'patch_embed.proj.weight'], {}, 'audio_mae'),
    (['patch_embed.proj.weight', 'blocks.0.mlp.fc1.weight', 'head.weight'], {}, 'timm_vit'),
    (['features.0.weight', 'fc.0.weight', 'fc.3.weight'], {}, 'byol_a'),
    (['feature_extractor.conv_layers.0.0.weight', 'label_embs_concat'], {}, 'hubert'),
    (['feature_extractor.x', 'quantizer.vars', 'project_q.weight'], {}, 'wav2vec2'),
    (['encoder.layers.0.self_attn.grep_linear.weight'], {}, 'wavlm'),
    (['feature_extractor.a', 'feature_aggregator.b'], {}, 'wav2vec'),
    (['vector_quantizer.a', 'feature_aggregator.b', 'feature_extractor.c'], {}, 'vq_wav2vec'),
    (['w2v_encoder.x'], {'cfg': {'model': {'_name': 'wav2vec_ctc'}}}, 'wav2vec2'),
    (['w2v_encoder.x'], {'cfg': {'model': {'_name': 'hubert_ctc'}}}, 'hubert'),
    (['a'], {'config.json': {'model_type': 'wavlm'}}, 'wavlm_hf'),
    (['hubert.feature_extractor.conv_layers.0.conv.weight'], {}, 'hubert_hf'),
  ],
)  # fmt: skip
def test_releases_are_detected(tmp_path, keys, files, release):
  assert detect.release(tmp_path, keys, files) == release


def test_what_cannot_be_detected_is_said(tmp_path):
  with pytest.raises(InputError, match='hubert or wav2vec2: name the release'):
    detect.release(tmp_path, ['feature_extractor.conv_layers.0.0.weight'], {})
  with pytest.raises(InputError, match='hubert_hf or wav2vec2_hf'):
    detect.release(tmp_path, ['feature_extractor.conv_layers.0.conv.weight'], {})
  with pytest.raises(
    InputError, match=r'does not say which model it is for .its arrays: bias, kernel'
  ):
    detect.release(tmp_path, ['kernel', 'bias'], {})
  with pytest.raises(InputError, match='is a clip of transformers'):
    detect.release(tmp_path, ['kernel'], {'config.json': {'model_type': 'clip'}})


def test_load_detects_the_release(tmp_path, monkeypatch):
  state = original(PRETRAINING)
  tensors = {k: Tensor(np.ascontiguousarray(v), str(i)) for i, (k, v) in enumerate(state.items())}
  path = write(tmp_path / 'fairseq.pt', {'model': tensors}, monkeypatch)
  args = dict(heads=2)
  found = load(path, **args)
  assert found.origin == 'wav2vec2 weights from fairseq.pt'
  assert found.fingerprint == load(path, release='wav2vec2', **args).fingerprint
