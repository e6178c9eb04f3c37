"""Whisper against transformers: models of published sizes with random weights, through the folders
that it saves, whole and in parts."""

import json

import jax
import numpy as np
import pytest

from research import models
from research.weights import conversion, load, revert, tables, write
from research.weights.releases import whisper_hf
from tests.parity.golden import assert_close
from tests.weights.toy import check_identical

SMALL = dict(
  d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
  decoder_attention_heads=2, encoder_ffn_dim=128, decoder_ffn_dim=128, vocab_size=99,
  max_source_positions=20, max_target_positions=16, num_mel_bins=128, pad_token_id=0,
  bos_token_id=0, eos_token_id=0, decoder_start_token_id=1, suppress_tokens=None,
)  # fmt: skip
TINY = dict(vocab_size=51864, pad_token_id=50256)
BASE = dict(
  d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
  decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048,
)  # fmt: skip


def theirs(settings, seed=0):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(seed)
  model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**settings))
  with torch.no_grad():
    for name, x in model.named_parameters():
      if x.ndim == 1:
        x.add_(0.1 * torch.randn_like(x))
      elif 'encoder.embed_positions' in name:
        x.add_(1e-3 * torch.randn_like(x))
  return model.eval()


def compare(model, pretrained, tokens=7):
  torch = pytest.importorskip('torch')
  config = model.config
  rng = np.random.default_rng(0)
  frames = 2 * config.max_source_positions
  mel = rng.standard_normal((2, config.num_mel_bins, frames)).astype(np.float32)
  ids = rng.integers(0, config.vocab_size, (2, tokens)).astype(np.int32)
  with torch.no_grad():
    want = model(
      input_features=torch.from_numpy(mel),
      decoder_input_ids=torch.from_numpy(ids).long(),
      output_hidden_states=True,
    )
  batch = {'spectrogram': mel.swapaxes(1, 2), 'tokens': ids}
  run = jax.jit(pretrained.model.apply, static_argnames=('collect',))
  out = run(pretrained.variables, batch, collect=True)
  assert_close(out['stem'], want.encoder_hidden_states[0], what='stem')
  assert_close(out['layers'][0], want.encoder_hidden_states[1], what='first block')
  assert_close(out['audio_tokens'], want.encoder_last_hidden_state, what='encoder')
  assert_close(out['decoder_layers'][0], want.decoder_hidden_states[1], what='decoder block')
  assert_close(out['logits'], want.logits, what='logits')


def state_of(model):
  return {k: x.numpy() for k, x in model.state_dict().items() if k != 'proj_out.weight'}


@pytest.mark.parametrize(
  'settings',
  [
    pytest.param(SMALL, id='small'),
    pytest.param(TINY, id='tiny.en', marks=pytest.mark.slow),
    pytest.param({}, id='tiny', marks=pytest.mark.slow),
    pytest.param(BASE, id='base', marks=pytest.mark.slow),
  ],
)
def test_folders(settings, tmp_path):
  model = theirs(settings)
  pairs = [[model.config.decoder_layers - 1, 0]]
  model.generation_config.alignment_heads = pairs
  model.save_pretrained(tmp_path / 'whole')
  model.save_pretrained(tmp_path / 'parts', max_shard_size='20MB' if not settings else '60KB')
  whole = load(tmp_path / 'whole')
  assert whole.origin.startswith('whisper_hf')
  assert whole.model.alignment_heads == tuple(map(tuple, pairs))
  compare(model, whole)
  parts = load(tmp_path / 'parts')
  back = revert('whisper_hf', whole.model, whole.variables)
  check_identical(back, state_of(model))
  check_identical(revert('whisper_hf', parts.model, parts.variables), state_of(model))

  # Their class opens what we write.
  arrays, files, left = conversion.revert_files('whisper_hf', whole.model, whole.variables)
  assert left == ''
  write.write_release(tmp_path / 'ours', 'whisper_hf', arrays, files)
  again = type(model).from_pretrained(tmp_path / 'ours')
  again_state = state_of(again)
  check_identical(again_state, state_of(model))


LARGE = dict(
  d_model=1280, encoder_layers=32, decoder_layers=32, encoder_attention_heads=20,
  decoder_attention_heads=20, encoder_ffn_dim=5120, decoder_ffn_dim=5120, vocab_size=51866,
  num_mel_bins=128, pad_token_id=50257,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
  ('size', 'settings', 'parameters'),
  [
    ('large-v3', LARGE, 1_543_490_560),
    ('turbo', LARGE | dict(decoder_layers=4), 808_878_080),
  ],
)
def test_shapes_of_the_largest(size, settings, parameters):
  """Every key of their class has its place in ours, with its shape; nothing is allocated."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config = transformers.WhisperConfig(**settings)
  with torch.device('meta'):
    model = transformers.WhisperForConditionalGeneration(config)
  want = {k: tuple(x.shape) for k, x in model.state_dict().items() if k != whisper_hf.OUTPUT}
  ours = models.get('whisper')(size=size)
  expected = tables.expected(ours)  # by eval_shape
  assert sum(int(np.prod(x.shape)) for x in expected.values()) == parameters
  got = {}
  for theirs_key, path, layout, heads in tables.expand(whisper_hf.RELEASE.rules(ours), ours):
    # A layout on one number that is spread to the shape: no memory either.
    spread = np.broadcast_to(np.float32(0), expected[path].shape)
    got[theirs_key] = shape_of(layout, spread, heads)
    zero = np.broadcast_to(np.float32(0), want[theirs_key])
    assert shape_of(layout, zero, heads, back=False) == expected[path].shape, theirs_key
  assert got == want


def shape_of(layout, x, heads, back=True):
  """The shape behind a layout change, traced and not computed."""
  change = layout.revert if back else layout.convert
  spec = jax.ShapeDtypeStruct(x.shape, np.float32)
  return jax.eval_shape(lambda x: change(x, heads), spec).shape


def test_pytorch_files_of_openai(tmp_path):
  """A .pt with dims, in half precision, and back to one."""
  torch = pytest.importorskip('torch')
  model = theirs(SMALL)
  model.save_pretrained(tmp_path / 'folder')
  ours = load(tmp_path / 'folder')
  arrays, files, _ = conversion.revert_files('whisper', ours.model, ours.variables)
  half = {k: torch.from_numpy(np.array(x)).half() for k, x in arrays.items()}
  file = tmp_path / 'small.pt'
  torch.save({'dims': files['dims'], 'model_state_dict': half}, file)
  loaded = load(file)
  assert loaded.origin.startswith('whisper weights')
  assert loaded.model.clone(alignment_heads=ours.model.alignment_heads) == ours.model
  back = revert('whisper', loaded.model, loaded.variables)
  for key, x in half.items():
    assert back[key].dtype == np.float32
    np.testing.assert_array_equal(back[key], x.float().numpy())
  write.write_release(tmp_path / 'back.pt', 'whisper', back, files)
  again = torch.load(tmp_path / 'back.pt', weights_only=True)
  assert again['dims'] == files['dims']
  check_identical({k: x.numpy() for k, x in again['model_state_dict'].items()}, back)


def test_what_does_not_fit(tmp_path):
  from research.errors import InputError

  model = theirs(SMALL)
  model.save_pretrained(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  for change, match in (
    (dict(encoder_attention_heads=4, d_model=48), 'd_model'),
    (dict(num_mel_bins=80), 'num_mel_bins=80'),
    (dict(activation_function='relu'), 'activation_function'),
    (dict(decoder_layers=2), 'decoder_layers'),
    (dict(encoder_ffn_dim=64), 'encoder_ffn_dim=64'),
  ):
    (tmp_path / 'config.json').write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=match):
      load(tmp_path)


@pytest.mark.parametrize('kind', [None, 'float16', 'int8', 'int8_float16', 'int16'])
def test_ctranslate2(kind, tmp_path):
  """A folder that CTranslate2's converter writes: the weights of the model it was made of."""
  pytest.importorskip('ctranslate2')
  from ctranslate2.converters.transformers import WhisperLoader

  model = theirs(SMALL)
  state = {k: x.copy() for k, x in state_of(model).items()}
  spec = WhisperLoader().get_model_spec(model)
  spec.register_vocabulary([f't{i}' for i in range(SMALL['vocab_size'])])
  spec.validate()
  spec.optimize(quantization=kind)
  spec._serialize(str(tmp_path / 'model.bin'))
  (tmp_path / 'config.json').write_text(json.dumps({'alignment_heads': [[1, 1]], 'lang_ids': []}))
  loaded = load(tmp_path)
  assert loaded.origin.startswith('whisper weights')
  assert (loaded.model.heads, loaded.model.decoder_heads) == (4, 2)
  assert loaded.model.alignment_heads == ((1, 1),)
  back = revert('whisper_hf', loaded.model, loaded.variables)
  integers = kind is not None and kind.startswith('int')
  for key, x in state.items():
    if integers and x.ndim > 1 and 'embed_positions' not in key:
      # The widest step of a row is that of the largest weight that is quantised with it.
      step = np.abs(x).max() / (127 if kind.startswith('int8') else 200)
      assert 0 < np.abs(back[key] - x).max() <= 0.51 * step, key
    else:
      half = kind in ('float16', 'int8_float16')
      want = x.astype(np.float16).astype(np.float32) if half else x
      np.testing.assert_array_equal(back[key], want, err_msg=key)
