"""model.bin of CTranslate2, written here as its format says: floats, and integers with scales."""

import struct

import ml_dtypes
import numpy as np
import pytest

from research.errors import InputError
from research.weights import ctranslate2, load, revert

KINDS = ('float32', 'int8', 'int16', 'int32', 'float16', 'bfloat16')
WIDTH, VOCABULARY, BINS = 8, 30, 80


def text(value):
  return struct.pack('<H', len(value) + 1) + value.encode() + b'\0'


def model_bin(arrays, aliases=(), version=6, spec='WhisperSpec', revision=3):
  """The bytes of a file."""
  parts = [struct.pack('<I', version), text(spec), struct.pack('<II', revision, len(arrays))]
  for name, x in sorted(arrays.items()):
    x = np.asarray(x)
    shape = struct.pack(f'<B{x.ndim}I', x.ndim, *x.shape)
    kind = struct.pack('<BI', KINDS.index(x.dtype.name), x.nbytes)
    parts += [text(name), shape, kind, x.tobytes()]
  parts.append(struct.pack('<I', len(aliases)))
  parts += [text(part) for pair in aliases for part in pair]
  return b''.join(parts)


def whisper(heads=2):
  """The variables of a Whisper of one layer a side, by CTranslate2's names."""
  rng = np.random.default_rng(0)
  made = {}

  def draw(name, *shape):
    made[name] = rng.standard_normal(shape).astype(np.float32)

  def linear(name, rows, columns):
    draw(f'{name}/weight', rows, columns)
    draw(f'{name}/bias', rows)

  def norm(name):
    draw(f'{name}/gamma', WIDTH)
    draw(f'{name}/beta', WIDTH)

  for i, bins in ((1, BINS), (2, WIDTH)):
    draw(f'encoder/conv{i}/weight', WIDTH, bins, 3)
    draw(f'encoder/conv{i}/bias', WIDTH)
  draw('encoder/position_encodings/encodings', 10, WIDTH)
  draw('decoder/position_encodings/encodings', 6, WIDTH)
  draw('decoder/embeddings/weight', VOCABULARY, WIDTH)
  for side in ('encoder', 'decoder'):
    norm(f'{side}/layer_norm')
    layer = f'{side}/layer_0'
    norm(f'{layer}/self_attention/layer_norm')
    linear(f'{layer}/self_attention/linear_0', 3 * WIDTH, WIDTH)
    made[f'{layer}/self_attention/linear_0/bias'][WIDTH : 2 * WIDTH] = 0.0  # of keys
    linear(f'{layer}/self_attention/linear_1', WIDTH, WIDTH)
    norm(f'{layer}/ffn/layer_norm')
    linear(f'{layer}/ffn/linear_0', 4 * WIDTH, WIDTH)
    linear(f'{layer}/ffn/linear_1', WIDTH, 4 * WIDTH)
    made[f'{side}/num_heads'] = np.int16(heads)
  layer = 'decoder/layer_0/attention'
  norm(f'{layer}/layer_norm')
  linear(f'{layer}/linear_0', WIDTH, WIDTH)
  linear(f'{layer}/linear_1', 2 * WIDTH, WIDTH)
  made[f'{layer}/linear_1/bias'][:WIDTH] = 0.0
  linear(f'{layer}/linear_2', WIDTH, WIDTH)
  numbers = {'pre_norm': 1, 'activation': 3, 'scale_embeddings': 0, 'alibi': 0}
  return made | {f'decoder/{k}': np.int8(v) for k, v in numbers.items()}


ALIAS = (('decoder/projection/weight', 'decoder/embeddings/weight'),)


def is_weight(name, x):
  return name.endswith('/weight') and np.ndim(x) > 1


def quantised(arrays, kind):
  """(what is stored, what it stands for): weights as integers, the rest as floats of `kind`."""
  stored, meant = {}, {}
  integers, _, floats = kind.partition('_')
  dtype = {'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16}.get(floats, np.float32)
  for name, x in arrays.items():
    if not np.ndim(x):
      stored[name] = x
    elif not is_weight(name, x):
      stored[name] = x.astype(dtype)
      meant[name] = stored[name].astype(np.float32)
    elif integers == 'int8':
      rows = np.abs(x.reshape(len(x), -1)).max(axis=1)
      scale = np.float32(127.0) / np.where(rows == 0, np.float32(127.0), rows)
      each = scale.reshape(-1, *[1] * (x.ndim - 1))
      stored[name], stored[f'{name}_scale'] = np.rint(x * each).astype(np.int8), scale
      meant[name] = stored[name].astype(np.float32) * (1 / each)
    else:
      scale = np.float32(2**10 / np.abs(x).max())
      stored[name], stored[f'{name}_scale'] = np.rint(x * scale).astype(np.int16), scale
      meant[name] = stored[name].astype(np.float32) * (1 / scale)
  return stored, meant


@pytest.mark.parametrize('kind', ['int8', 'int8_float16', 'int8_bfloat16', 'int16'])
def test_integers_are_what_their_scales_make_of_them(kind, tmp_path):
  arrays = whisper()
  arrays['decoder/layer_0/ffn/linear_1/weight'][3] = 0.0  # a row without a scale of its own
  stored, meant = quantised(arrays, kind)
  path = tmp_path / 'model.bin'
  path.write_bytes(model_bin(stored, ALIAS))
  got, beside = ctranslate2.read(path)
  assert set(got) == {*meant, 'decoder/projection/weight'}
  for name, want in meant.items():
    assert got[name].dtype in (np.float32, np.float16), name
    np.testing.assert_array_equal(got[name].astype(np.float32), want, err_msg=name)
    step = np.abs(arrays[name]).max() / (127 if kind.startswith('int8') else 1024)
    assert np.abs(want - arrays[name]).max() <= 0.51 * step or not is_weight(name, want)
  assert beside['ctranslate2']['encoder/num_heads'] == 2
  loaded = load(path)
  back = revert('whisper', loaded.model, loaded.variables)
  name = 'decoder/layer_0/attention/linear_1/weight'
  np.testing.assert_array_equal(
    back['decoder.blocks.0.cross_attn.value.weight'], meant[name][WIDTH:]
  )
  np.testing.assert_array_equal(back['encoder.conv1.weight'], meant['encoder/conv1/weight'])


def test_arrays_that_are_the_same_are_there_once(tmp_path):
  """Norms of one value: the second is the name of the first."""
  arrays = whisper()
  same = arrays.pop('encoder/layer_norm/beta')
  arrays['decoder/layer_norm/beta'] = same
  aliases = (*ALIAS, ('encoder/layer_norm/beta', 'decoder/layer_norm/beta'))
  path = tmp_path / 'model.bin'
  path.write_bytes(model_bin(arrays, aliases))
  loaded = load(path)
  back = revert('whisper', loaded.model, loaded.variables)
  np.testing.assert_array_equal(back['encoder.ln_post.bias'], same)


@pytest.mark.parametrize(
  ('changes', 'how', 'says'),
  [
    ({}, dict(version=7), 'binary version 7'),
    ({}, dict(version=5), 'binary version 5'),
    ({}, dict(spec='TransformerSpec'), 'is a TransformerSpec of revision 3'),
    ({}, dict(revision=4), 'revision 4'),
    ({}, dict(aliases=(('encoder/a', 'encoder/b'),)), 'has no array of its own'),
    ({'decoder/gate/weight': np.zeros((2, 2), np.float32)}, {}, 'decoder.gate.weight'),
    ({'decoder/rotary_dim': np.int32(4)}, {}, 'decoder/rotary_dim=4'),
    ({'decoder/activation': np.int8(0)}, {}, 'decoder/activation=0'),
    ({'decoder/embeddings/weight': np.zeros((VOCABULARY, WIDTH), np.int8)}, {}, 'unknown kind'),
    ({'decoder/embeddings/weight': np.zeros((VOCABULARY, WIDTH), np.int32)}, {}, 'unknown kind'),
    (
      {
        'decoder/embeddings/weight': np.zeros((VOCABULARY, WIDTH), np.int8),
        'decoder/embeddings/weight_scale': np.ones(3, np.float32),
      },
      {},
      r'scales of shape \(3,\)',
    ),
  ],
)
def test_what_is_not_known_is_refused(changes, how, says, tmp_path):
  path = tmp_path / 'model.bin'
  path.write_bytes(model_bin(whisper() | changes, **({'aliases': ALIAS} | how)))
  with pytest.raises(InputError, match=says):
    load(path)


def test_damaged_files(tmp_path):
  path, whole = tmp_path / 'model.bin', model_bin(quantised(whisper(), 'int8')[0], ALIAS)
  for data, says in ((whole[:-9], 'ends within'), (whole + b'\0', 'goes on behind')):
    path.write_bytes(data)
    with pytest.raises(InputError, match=says):
      load(path)
