"""Jukebox's VQ-VAE against openai/jukebox, on whatever cases the golden folder holds: frames,
codes, reconstructions, every loss and metric, gradients, and the codebooks after an update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.features.stft import magnitudes
from research.models.jukebox_vqvae import DEFAULT_SCALE
from research.nn import codebooks
from research.nn.codebooks import Averages, Draws
from research.nn.vector_quantizers import COLLECTION
from research.objectives.jukebox import jukebox_vqvae
from research.weights import convert, revert
from tests.contract import jit
from tests.parity.golden import Case, assert_close, each_case

# Settings of the original's class, and ours.
NAMES = ('dilation_growth_rate', 'dilation_cycle', 'vqvae_reverse_decoder_dilation', 'l_mu')
LOSSES = ('lmix_l1', 'lmix_l2', 'lmix_linf', 'linf_k', 'use_nonrelative_specloss', 'bandwidth')
# setup_hparams' defaults.
DEFAULTS = dict(lmix_l1=0.0, lmix_l2=0.0, lmix_linf=0.0, linf_k=2048)


def build(case: Case):
  """(model, variables) of a case, in training that goes on from its codebooks."""
  config = case.config
  given = {name: config['model'][name] for name in NAMES}
  model, variables = convert(
    'jukebox_vqvae',
    case.weights,
    **given,
    size='small',
    frontend={'sample_rate': config['sr']},
    revival_threshold=config['revival_threshold'],
    restored_samples=config['sample_length'],
  )
  # What is read from the arrays is what the case was made with.
  sizes = config['model']
  found = model.levels, model.emb_width, model.l_bins, model.width, model.depth, model.m_conv
  names = ('levels', 'emb_width', 'l_bins', 'width', 'depth', 'm_conv')
  assert found == tuple(sizes[name] for name in names)
  assert model.multipliers == tuple(sizes['hvqvae_multipliers'] or (1,) * model.levels)
  assert (model.downs_t, model.strides_t) == (tuple(sizes['downs_t']), tuple(sizes['strides_t']))
  assert model.hops == tuple(config['hop_lengths'])
  usage = [
    np.asarray(variables[COLLECTION][f'codebooks_{i}']['counts']) for i in range(model.levels)
  ]
  for counts, tokens in zip(usage, config['num_tokens'], strict=True):
    assert_close(counts, np.full(counts.shape, tokens / model.l_bins))
  back = revert('jukebox_vqvae', model, variables)
  assert set(back) == set(case.weights)
  for name, x in case.weights.items():
    np.testing.assert_array_equal(back[name], x, err_msg=name)
  return model, jax.tree.map(jnp.asarray, variables)


def objective_args(config):
  args = DEFAULTS | {k: v for k, v in config['loss'].items() if k in LOSSES}
  own = {k: config['model'][k] for k in ('commit', 'spectral', 'multispectral')}
  return dict(args, loss_fn=config['loss_fn'], **own)


@pytest.mark.slow
@each_case('jukebox', 'vq_vae', where=lambda case: case.config.get('kind') == 'jb_vqvae')
def test_vqvae(case: Case):
  config, want, inputs = case.config, case.outputs, case.inputs
  model, variables = build(case)
  audio = inputs['x'][:, :, 0]
  batch = {'audio': audio, 'audio_mask': np.ones(audio.shape, bool)}
  tolerance = 1e-3 if '1e-3 for grad' in case.info['tolerance'] else 1e-4

  # Evaluation.
  out = jit(model.apply)(variables, batch)
  decode = jit(lambda v, z, level: model.apply(v, z, level, method='decode'), static_argnums=2)
  for i in range(model.levels):
    assert_close(np.swapaxes(out[f'encoded_{i}'], 1, 2), want[f'encoder{i}'], what=f'frames of {i}')
    np.testing.assert_array_equal(out[f'codes_{i}'], want[f'codes{i}'])
    decoded = decode(variables, want[f'codes{i}'].astype(np.int32), i)
    assert_close(decoded[:, :, None], want[f'decoded{i}'], what=f'audio of {i}')

  # A training step with the recorded draws.
  def draws(level):
    order, k = inputs[f'perm{level}'], model.l_bins
    rows = len(audio) * config['num_tokens'][level]
    assert len(order) >= k and len(order) == rows, 'fewer frames than codes: noise is not recorded'
    return Draws(jnp.asarray(order[:k])[None])

  batch['restarts'] = [draws(i) for i in range(model.levels)]
  args, (params, rest) = objective_args(config), (variables['params'], dict(variables))
  rest.pop('params')

  @jit
  def step(params, rest):
    def loss_of(params):
      out, after = model.apply(
        {'params': params, **rest}, {**batch, 'starts': batch['restarts']}, True,
        mutable=list(rest),
      )  # fmt: skip
      loss, metrics = jukebox_vqvae(out, batch, **args)
      return loss, (metrics, out, after)

    return jax.value_and_grad(loss_of, has_aux=True)(params)

  (loss, (metrics, out, after)), gradients = step(params, rest)
  assert_close(loss[None], want['loss'], what='loss')
  assert_close(out['reconstructions'][0][:, :, None], want['x_out'])
  signals = []
  for i in range(model.levels):
    old, new = (
      Averages(*(tree[COLLECTION][f'codebooks_{i}'][name][0] for name in Averages._fields))
      for tree in (rest, after)
    )
    for name, value in dict(k=new.vectors, k_sum=new.sums, k_elem=new.counts).items():
      assert_close(value, want[f'updated/{name}{i}'], what=f'{name} of level {i}')
    flat = out[f'encoded_{i}'].reshape(-1, model.emb_width)
    how = codebooks.Ema(threshold=config['revival_threshold'])
    signals.append(codebooks.changes(how, old, new, flat, jnp.ones(len(flat), bool)))
  found = dict(metrics) | {k: np.mean([s[k] for s in signals]) for k in signals[0]}
  for key, value in want.items():
    if key.startswith('metric/'):
      assert_close(np.reshape(found[key.removeprefix('metric/')], 1), value, what=key)
  moved = revert('jukebox_vqvae', model, {'params': gradients, **rest})
  wanted = {k.removeprefix('grad/'): x for k, x in want.items() if k.startswith('grad/')}
  assert set(wanted) == {k for k in moved if not k.startswith('bottleneck.')}
  for name, x in wanted.items():
    assert_close(moved[name], x, relative=tolerance, what=f'gradient of {name}')

  # Losses by themselves, of the lowest level.
  norms = {f'fn/{name}': out[f'{name}_residuals'][0] for name in ('spectral', 'multispectral')}
  x_hat = want['decoded0'][:, :, 0]
  found = model.apply(variables, audio, x_hat[None], DEFAULT_SCALE, method='_residuals')
  norms |= {'fn/spectral': found[0][0]}
  for name, x in norms.items():
    assert_close(x, want[f'{name}_loss'], what=name)
  logs = [np.log(np.asarray(magnitudes(x, *DEFAULT_SCALE)) + 1e-4) for x in (audio, x_hat)]
  gap = np.abs(logs[0] - logs[1]).mean()
  assert_close(gap[None], want['fn/log_magnitude_loss'], relative=tolerance)
  for name in ('l1', 'l2', 'linf'):
    assert_close(metrics[f'{name}_loss'][None], want[f'fn/{name}'], what=name)
