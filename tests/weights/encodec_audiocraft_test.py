"""Codecs as audiocraft exports them: there and back, and refused where its codec is another."""

import copy

import jax
import numpy as np
import pytest
import yaml

from research import weights
from research.errors import InputError
from research.weights import conversion, write
from research.weights.releases import encodec_audiocraft

# As Hydra composes audiocraft's config/model/encodec/default.yaml, small.
CONFIG = yaml.safe_load("""
compression_model: encodec
sample_rate: 16000
channels: 1
encodec: {autoencoder: seanet, quantizer: rvq, sample_rate: '${sample_rate}',
  channels: '${channels}', causal: false, renormalize: false}
seanet: {dimension: 6, channels: '${channels}', causal: '${encodec.causal}', n_filters: 2,
  n_residual_layers: 1, ratios: [5, 4], activation: ELU, activation_params: {alpha: 1.0},
  norm: weight_norm, norm_params: {}, kernel_size: 7, residual_kernel_size: 3, last_kernel_size: 7,
  dilation_base: 2, pad_mode: constant, true_skip: true, compress: 2, lstm: 1,
  disable_norm_outer_blocks: 0,
  decoder: {trim_right_ratio: 1.0, final_activation: null, final_activation_params: null},
  encoder: {}}
rvq: {n_q: 3, q_dropout: false, bins: 16, decay: 0.99, kmeans_init: true}
""")


def arrays_of(model, release='encodec_audiocraft'):
  shapes = jax.eval_shape(model.init, jax.random.key(0), model.example())
  rng = np.random.default_rng(0)

  def fill(x):
    if x.dtype == bool:
      return np.ones(x.shape, bool)
    return rng.standard_normal(x.shape).astype(np.float32)

  variables = jax.tree.map(fill, shapes)
  variables['codebooks']['quantizer']['updates'] = np.zeros(3, np.int32)
  return variables, weights.revert(release, model, variables)


def built():
  files = {'xp.cfg': CONFIG}
  stated = encodec_audiocraft.describe(files)
  args = {name: fact.value for name, fact in stated.facts.items()}
  args['frontend'] = {'sample_rate': stated.frontend['sample_rate'].value}
  return conversion.build('encodec', {**args, 'commit_all': True})


def test_there_and_back(tmp_path):
  model = built()
  assert (model.pad_mode, model.true_skip, model.causal) == ('constant', True, False)
  # 16 kHz in frames of 20, three codebooks of 4 bits.
  assert model.bandwidths == (9.6,) and model.codebooks_for(9.6) == 3
  variables, arrays = arrays_of(model)
  assert 'encoder.model.0.conv.conv.weight_g' in arrays
  assert 'decoder.model.2.convtr.convtr.weight_v' not in arrays  # 1 is the LSTM, 3 the first stride
  assert not any('shortcut' in key for key in arrays)
  files = encodec_audiocraft.compose(model)
  again, back = conversion.convert_files('encodec_audiocraft', arrays, files, {})
  assert again == model
  for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(variables), strict=True):
    np.testing.assert_array_equal(x, y)
  # A file, which is recognised.
  file = write.write_release(tmp_path / 'a.safetensors', 'encodec_audiocraft', arrays, files)
  found = weights.load(file)
  assert found.model == model and found.origin.startswith('encodec_audiocraft weights')
  assert conversion.read_files(None, file)[0] == 'encodec_audiocraft'


@pytest.mark.peer
def test_as_audiocraft_saves_it(tmp_path):
  torch = pytest.importorskip('torch')

  model = built()
  _, arrays = arrays_of(model)
  tensors = {k: torch.from_numpy(np.array(x)) for k, x in arrays.items()}
  path = tmp_path / 'compression_state_dict.bin'
  about = {'xp.cfg': yaml.safe_dump(CONFIG), 'version': '1.4.0', 'exported': True}
  torch.save({'best_state': tensors, **about}, path)
  found = weights.load(path)
  assert found.model == model
  # And back into such a file.
  out = write.write_release(
    tmp_path / 'b.pt', 'encodec_audiocraft', arrays, encodec_audiocraft.compose(model)
  )
  content = torch.load(out, weights_only=True)
  assert set(content) == {'best_state', 'xp.cfg', 'version', 'exported'}
  for key, x in arrays.items():
    np.testing.assert_array_equal(content['best_state'][key].numpy(), x)
  assert yaml.safe_load(content['xp.cfg'])['seanet']['pad_mode'] == 'constant'
  assert weights.load(out).model == model


@pytest.mark.parametrize(
  ('path', 'value', 'words'),
  [
    ('seanet.activation', 'GELU', "seanet.activation='GELU', and codecs here have 'ELU'"),
    ('seanet.disable_norm_outer_blocks', 1, 'outer_blocks=1, and codecs here have 0'),
    ('seanet.decoder.n_filters', 64, 'n_filters=64 for the decoder alone'),
    ('seanet.causal', True, r'\(encodec.causal\) says False and .*\(seanet.causal\) True'),
    ('seanet.pad_mode', '${seanet.pad_mode}', 'round in a circle at seanet.pad_mode'),
    ('rvq.bins', 32, r'codebook_size=32, but the arrays have codebook_size=16'),
    ('seanet.true_skip', False, 'true_skip=False, but the arrays have true_skip=True'),
  ],
)
def test_other_codecs_are_refused(path, value, words):
  config = copy.deepcopy(CONFIG)
  place, *rest = path.split('.')
  inner = config[place]
  for part in rest[:-1]:
    inner = inner[part]
  inner[rest[-1]] = value
  _, arrays = arrays_of(built())
  with pytest.raises(InputError, match=words):
    conversion.convert_files('encodec_audiocraft', arrays, {'xp.cfg': config}, {})


def test_what_is_not_said():
  model = built()
  _, arrays = arrays_of(model)
  with pytest.raises(InputError, match='do not say the sample rate'):
    weights.convert('encodec_audiocraft', arrays)
  again, _ = weights.convert('encodec_audiocraft', arrays, frontend=dict(sample_rate=16_000))
  assert again == model
  with pytest.raises(InputError, match=r"xp.cfg \(seanet.pad_mode\) says pad_mode='constant'"):
    conversion.convert_files(
      'encodec_audiocraft', arrays, {'xp.cfg': CONFIG}, {'pad_mode': 'reflect'}
    )
  with pytest.raises(InputError, match=r'segment=1 s, and audiocraft codes clips as a whole'):
    encodec_audiocraft.compose(model.clone(segment=1.0))
