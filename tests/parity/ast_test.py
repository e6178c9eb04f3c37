"""AST against the official implementation and transformers, on whatever cases the golden folder
holds: limits are the golden files', 1e-4 of the largest reference value."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from research.errors import InputError
from research.models.finetuned import encoder_of, replaced
from research.nn.positions import resize_table
from research.objectives.supervised import binary_cross_entropy
from research.weights import convert, load, revert
from tests import contract
from tests.parity.golden import Case, assert_close, each_case

# Every operation by itself takes far longer than one program.
COMPILED = pytest.mark.parametrize(
  'compiled', [True, pytest.param(False, marks=pytest.mark.slow)], ids=['jit', 'eager']
)


def official(case: Case) -> bool:
  return 'v.cls_token' in case.weights


def hugging(case: Case) -> bool:
  return any('distillation_token' in key for key in case.weights)


def release_of(case: Case) -> str:
  return 'ast' if official(case) else 'ast_hf'


def model_of(case: Case, **args):
  config = case.config
  args = dict(
    heads=config['num_heads'],
    frames=config['input_tdim'],
    time_stride=config['tstride'],
    frequency_stride=config['fstride'],
    epsilon=config['layer_norm_eps'],
    frontend=dict(name='kaldi_fbank', num_mel_bins=config['input_fdim']),
    norm_epsilon=config['head_layer_norm_eps'],
    **args,
  )
  model, variables = convert(release_of(case), case.weights, **args)
  return model, jax.tree.map(jnp.asarray, variables)


def by_bins(model, x):
  """Tokens as the original has them, row by row of bins, the class tokens first if it has any."""
  rows, columns = encoder_of(model).grid
  first = x.shape[1] - rows * columns
  order = np.arange(rows * columns).reshape(rows, columns).T.reshape(-1)
  return np.concatenate([np.asarray(x[:, :first]), np.asarray(x)[:, first + order]], axis=1)


def computed(model, variables, batch):
  out, state = model.apply(variables, batch, capture_intermediates=True, mutable=['intermediates'])
  encoder = state['intermediates']['encoder']
  return {
    'patch_tokens': encoder['patch_embed']['__call__'][0],
    'block0': encoder['blocks_0']['__call__'][0],
    'feature': out['cls'],
    'logits': out['logits'],
  }


def gradients_of(case: Case, model, variables):
  def loss(params):
    out = model.apply({**variables, 'params': params}, case.inputs)
    return binary_cross_entropy(out, {'label': case.inputs['target']})[0]

  value, gradients = contract.jit(jax.value_and_grad(loss))(variables['params'])
  named = revert(release_of(case), model, {**variables, 'params': gradients})
  return {'loss': value[None], **{f'grad/{key}': x for key, x in named.items()}}


@each_case('ast', where=lambda case: official(case) or hugging(case))
@COMPILED
def test_outputs(case: Case, compiled: bool):
  """Stem, first block, whole, loss and gradients."""
  model, variables = model_of(case)
  run = contract.jit if compiled else lambda f: f
  got = dict(run(partial(computed, model))(variables, case.inputs))
  got['patch_tokens'] = by_bins(model, got['patch_tokens'])[:, ::2]
  got['block0'] = by_bins(model, got['block0'])[:, ::2]
  if 'target' in case.inputs:
    got |= gradients_of(case, model, variables)
  for name in case.outputs:
    if name.startswith('logits_eps_'):
      epsilon = float(name.removeprefix('logits_eps_'))
      same = replaced(model, epsilon=epsilon, norm_epsilon=epsilon)
      got[name] = run(same.apply)(variables, case.inputs)['logits']
  elsewhere = {k for k in case.outputs if k.startswith('adapted.')}  # the next test
  assert set(case.outputs) - elsewhere <= set(got), 'an output is not compared'
  for name in set(case.outputs) - elsewhere:
    assert_close(got[name], case.outputs[name], what=name)


@each_case('ast', where=lambda case: 'imagenet.pos_embed' in case.inputs)
def test_adaptation_of_image_weights(case: Case):
  """A distilled image model with the case's blocks becomes the case's model."""
  images = {
    key.removeprefix('v.'): x for key, x in case.weights.items() if key.startswith('v.')
  } | {k.removeprefix('imagenet.'): x for k, x in case.inputs.items() if k.startswith('imagenet.')}
  config = case.config
  model, variables = convert(
    'ast', images, heads=config['num_heads'], frames=config['input_tdim'],
    time_stride=config['tstride'], frequency_stride=config['fstride'],
    frontend=dict(num_mel_bins=config['input_fdim']),
  )  # fmt: skip
  back = revert('ast', model, variables)
  assert_close(back['v.pos_embed'], case.outputs['adapted.pos_embed'], what='positions')
  assert_close(back['v.patch_embed.proj.weight'], case.outputs['adapted.proj.weight'], what='stem')
  side = config['source_img_size'] // 16
  grid = (config['frequency_patches'], config['time_patches'])
  table = resize_table(case.inputs['imagenet.pos_embed'][0], (side, side), grid, 2)
  np.testing.assert_array_equal(back['v.pos_embed'][0], table)


@each_case('ast', where=lambda case: official(case) or hugging(case))
def test_round_trip_is_bitwise(case: Case):
  """But for the heads of images, which are not used."""
  model, variables = model_of(case)
  back = revert(release_of(case), model, variables)
  used = {k for k in case.weights if not k.startswith(('v.head.', 'v.head_dist.'))}
  assert set(back) == used
  for key in used:
    assert back[key].tobytes() == case.weights[key].tobytes(), key


@each_case('ast', where=hugging)
def test_a_folder_of_transformers(case: Case, tmp_path):
  """A folder says what the arrays do not, and names the classes; another epsilon is refused."""
  from research.weights import conversion
  from research.weights.write import write_release

  labels = tuple(f'sound {i}' for i in range(case.config['label_dim']))
  model, variables = model_of(case, labels=labels)
  arrays, files, left = conversion.revert_files('ast_hf', model, variables)
  assert left.startswith('norm_epsilon')  # transformers has one for all
  write_release(tmp_path, 'ast_hf', arrays, files)
  loaded = load(tmp_path)
  assert loaded.model.labels == labels
  assert encoder_of(loaded.model) == encoder_of(model)
  assert loaded.model.top.norm_epsilon == case.config['layer_norm_eps']
  same = load(tmp_path, norm_epsilon=case.config['head_layer_norm_eps'])
  got = jax.jit(same.model.apply)(same.variables, case.inputs)['logits']
  assert_close(got, case.outputs['logits'], what='logits')
  config = json.loads((tmp_path / 'config.json').read_text())
  config['time_stride'] += 6
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(InputError, match='frames'):
    load(tmp_path)


@each_case('ast', where=official)
def test_another_length(case: Case, tmp_path):
  """Weights with the prefix of DataParallel, for shorter and longer audio: rows of the table are
  those of the middle, or in between."""
  prefixed = {f'module.{key}': x for key, x in case.weights.items()}
  save_file(prefixed, tmp_path / 'ast.safetensors')
  config = case.config
  assert config['time_patches'] > 8
  for frames in (config['input_tdim'] - 10 * 6, config['input_tdim'] + 10 * 6):
    made = load(tmp_path / 'ast.safetensors', heads=config['num_heads'], frames=frames)
    encoder = encoder_of(made.model)
    rows = encoder.grid[0]
    assert rows == config['time_patches'] + (6 if frames > config['input_tdim'] else -6)
    back = revert('ast', made.model, made.variables)['v.pos_embed'][0, 2:]
    grid = back.reshape(config['frequency_patches'], rows, -1)
    whole = case.weights['v.pos_embed'][0, 2:].reshape(
      config['frequency_patches'], config['time_patches'], -1
    )
    if frames < config['input_tdim']:
      first = config['time_patches'] // 2 - rows // 2
      np.testing.assert_array_equal(grid, whole[:, first : first + rows])
    else:
      np.testing.assert_array_equal(grid[:, 0], whole[:, 0])
      np.testing.assert_array_equal(grid[:, -1], whole[:, -1])
      assert grid.min() >= whole.min() and grid.max() <= whole.max()
    out = jax.jit(made.model.apply)(
      made.variables, {'spectrogram': np.zeros((1, frames, config['input_fdim']), np.float32)}
    )
    assert out['logits'].shape == (1, config['label_dim'])
