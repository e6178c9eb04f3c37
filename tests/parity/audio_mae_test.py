"""AudioMAE against the official implementation, on whatever cases the golden folder holds.

Sizes and modes come from each case's json; what is compared is every output that it holds. Limits
are the golden files': 1e-4 of the largest reference value; gradients of the pre-training losses
1e-3 (2e-3 where patches overlap), because sharp cosine attention amplifies rounding.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from research.models.finetuned import replaced
from research.models.window_decoder import from_strips, padded_grid, to_strips
from research.objectives.reconstruction import masked_patch_mse
from research.objectives.supervised import binary_cross_entropy
from research.weights import convert, revert
from tests.parity.golden import Case, assert_close, each_case

PRETRAIN_GRADIENTS = 1e-3
PRETRAIN_GRADIENTS_OVERLAP = 2e-3


def pretraining(case: Case) -> bool:
  return 'pred' in case.outputs


def fine_tuning(case: Case) -> bool:
  return 'logits' in case.outputs


def shared_args(config: dict) -> dict:
  frames, bins = config['img_size']
  frontend = {'name': 'kaldi_fbank', 'num_mel_bins': bins}
  args = dict(heads=config['num_heads'], frames=frames, frontend=frontend)
  return args | (dict(stride=10) if config['use_custom_patch'] else {})


def pretraining_model(case: Case):
  config = case.config
  args = shared_args(config) | dict(
    masking='time_frequency' if config['mask_2d'] else 'unstructured',
    mask_ratio=config['mask_ratio'],
    mask_t_prob=config['mask_t_prob'],
    mask_f_prob=config['mask_f_prob'],
    published_order=True,
    decoder='swin' if config['decoder_mode'] == 1 else 'global',
    decoder_shift=not config['no_shift'],
    contextual_depth=config['contextual_depth'],
  )
  if config['decoder_mode'] != 1:
    args['decoder_heads'] = config['decoder_num_heads']
  return convert('audio_mae', case.weights, **args)


def model_batch(case: Case) -> dict[str, np.ndarray]:
  batch = dict(case.inputs)
  batch['spectrogram'] = batch['spectrogram'][:, 0]
  return batch


def captured(model, variables, batch, **kwargs):
  """Outputs, and the outputs of every submodule by path."""
  out, state = model.apply(
    variables, batch, capture_intermediates=True, mutable=['intermediates'], **kwargs
  )
  return out, state['intermediates']


def ordered_batch(case: Case, out, batch):
  """The batch with the recorded order of tokens, where the original's own sort had ties.

  On grids of more than 999 tokens its sort keys of kept and removed tokens can be equal, and which
  comes first is up to torch. Elsewhere the order must be equal, and is taken from our own masks.
  """
  want = case.outputs['ids_restore']
  got = np.asarray(out['ids_restore'])
  if np.array_equal(got, want):
    return batch
  assert case.config['mask_2d'] and want.shape[1] > 999, 'tokens are in another order'
  removed = case.outputs['mask'] > 0
  keys = np.arange(want.shape[1]) + 999 * removed
  for row in range(len(want)):
    np.testing.assert_array_equal(np.sort(keys[row]), keys[row][np.argsort(want[row])])
  return batch | {'ids_restore': want.astype(np.int32), 'mask': case.outputs['mask']}


@each_case('audio_mae', where=pretraining)
def test_pretraining_forward(case: Case):
  model, variables = pretraining_model(case)
  batch = model_batch(case)
  out, _ = jax.jit(partial(captured, model))(variables, batch)
  np.testing.assert_array_equal(np.asarray(out['mask']), case.outputs['mask'])
  batch = ordered_batch(case, out, batch)
  out, inner = jax.jit(partial(captured, model))(variables, batch)
  stride = case.config['token_stride']

  # Stem, blocks, whole, in the order of the computation: the first that differs is named.
  got = {
    'encoder_in': out['encoder_in'],
    'encoder_block0': inner['encoder']['blocks_0']['__call__'][0],
    'latent': out['latent'],
    'decoder_in': out['decoder_in'],
  }
  for i in range(model.decoder_depth):
    got[f'decoder_block{i}'] = inner['decoder'][f'blocks_{i}']['__call__'][0]
  for name in got:
    if name.startswith('decoder_'):
      got[name] = recorded_tokens(model, name, got[name])[:, ::stride]
  got |= {'pred': out['pred'][:, ::stride], 'mask': out['mask'], 'ids_restore': out['ids_restore']}
  if 'patch_tokens' in case.outputs or 'no_mask_features' in case.outputs:
    tokens, features = jax.jit(partial(unmasked, model))(variables, batch)
    got['patch_tokens'] = tokens[:, ::stride]
    got['no_mask_features'] = features[:, ::stride]
  wanted = [k for k in case.outputs if not k.startswith(('grad', 'loss'))]
  assert set(wanted) <= set(got), f'not compared: {set(wanted) - set(got)}'
  for name in ['patch_tokens', *got]:
    if name in case.outputs:
      assert_close(got[name], case.outputs[name], what=name)


def recorded_tokens(model, name: str, x):
  """Decoder tokens as the original's hooks saw them: row by row, the grid extended to whole
  windows."""
  if model.decoder == 'global':
    return x
  grid, window = model.grid, model.window
  if name == 'decoder_in':
    x = to_strips(x, grid, window, mode='edge')
  return from_strips(x, padded_grid(grid, window), window)


def unmasked(model, variables, batch):
  features, inner = captured(model, variables, batch, method='contextual')
  return inner['encoder']['patch_embed']['__call__'][0], features


@each_case('audio_mae', where=pretraining)
def test_pretraining_losses_and_gradients(case: Case):
  model, variables = pretraining_model(case)
  batch = model_batch(case)
  out = jax.jit(model.apply)(variables, batch)
  batch = ordered_batch(case, out, batch)
  limit = PRETRAIN_GRADIENTS_OVERLAP if case.config['use_custom_patch'] else PRETRAIN_GRADIENTS
  checked = 0
  for kind, norm_pix in {'norm_pix': True, 'raw': False}.items():
    if f'loss_{kind}' not in case.outputs:
      continue

    def loss(params, norm_pix=norm_pix):
      out = model.apply({**variables, 'params': params}, batch)
      return masked_patch_mse(out, batch, norm_pix=norm_pix)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables['params'])
    assert_close(value[None], case.outputs[f'loss_{kind}'], what=f'loss_{kind}')
    check_gradients(case, model, variables, gradients, f'grad_{kind}/', limit)
    checked += 1
  assert checked, 'the case holds no loss'


def check_gradients(case: Case, model, variables, gradients, prefix: str, limit: float):
  named = revert('audio_mae', model, {**variables, 'params': gradients})
  for key, want in case.outputs.items():
    if key.startswith(prefix):
      assert_close(named[key.removeprefix(prefix)], want, relative=limit, what=key)


@each_case('audio_mae', where=fine_tuning)
def test_fine_tuning(case: Case):
  config, batch = case.config, model_batch(case)
  model, variables = convert(
    'audio_mae',
    case.weights,
    mask_t_prob=config['mask_t_prob'],
    mask_f_prob=config['mask_f_prob'],
    drop_path=config['drop_path_rate'],
    **shared_args(config),
  )
  assert model.head['args']['pooling'] == ('mean' if config['global_pool'] else 'cls')

  def block0(inner):
    return inner['encoder']['blocks_0']['__call__'][0][:, ::3]

  out, inner = jax.jit(partial(captured, model))(variables, batch)
  got = {'block0': block0(inner), 'pooled': out['pooled'], 'logits': out['logits']}

  # Token masking without drop path: training mode with drop path switched off.
  still = replaced(model, drop_path=0.0)
  out, inner = jax.jit(partial(captured, still, train=True))(variables, batch)
  got |= {'block0_masked': block0(inner), 'logits_masked': out['logits']}

  def loss(params):
    out = model.apply({**variables, 'params': params}, batch, train=True)
    value, _ = binary_cross_entropy(out, {'label': batch['target']})
    return value, out['logits']

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (value, logits), gradients = step(variables['params'])
  got |= {'logits_train': logits, 'loss_train': value[None]}
  elsewhere = {'lr_scale', 'weight_decay'}  # the optimiser's: tests/parity/optim_test.py
  wanted = {k for k in case.outputs if not k.startswith('grad/')} - elsewhere
  assert wanted <= set(got), f'not compared: {wanted - set(got)}'
  for name in got:
    if name in case.outputs:
      assert_close(got[name], case.outputs[name], what=name)
  check_gradients(case, model, variables, gradients, 'grad/', 1e-4)


@each_case('audio_mae', where=lambda case: pretraining(case) or fine_tuning(case))
def test_round_trip_is_bitwise(case: Case):
  if pretraining(case):
    model, variables = pretraining_model(case)
  else:
    model, variables = convert('audio_mae', case.weights, **shared_args(case.config))
  back = revert('audio_mae', model, variables)
  assert set(back) == set(case.weights)
  for key, want in case.weights.items():
    assert back[key].dtype == want.dtype and back[key].tobytes() == want.tobytes(), key
  assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(variables))
  assert jnp.float32 == jax.tree.leaves(variables)[0].dtype
