"""Jukebox's priors against openai/jukebox, on whatever cases the golden folder holds: attention
functions by themselves, conditions, layers, logits, losses and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import jukebox_attention as attention
from research.models.jukebox_attention import LYRICS, SUMMARY, FactoredAttention, Window
from research.nn import cache as caches
from research.objectives.jukebox import jukebox_prior
from research.weights import revert
from research.weights.tables import LAYOUTS
from tests.contract import jit
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.jukebox_cases import batch_of, build


def layer_params(weights, function: int, heads: int):
  """Parameters of one attention."""

  def part(name: str, layout: str):
    kernel, bias = (
      LAYOUTS[layout],
      LAYOUTS[f'{layout}_bias' if layout != 'conv1d_heads_in' else 'heads_in_bias'],
    )
    return {
      'kernel': jnp.asarray(kernel.convert(weights[f'{name}.w'], heads)),
      'bias': jnp.asarray(bias.convert(weights[f'{name}.b'], heads)),
    }

  out = LAYOUTS['conv1d_heads_out'].convert(weights['c_proj.w'], heads)
  params = {'proj': {'kernel': jnp.asarray(out), 'bias': jnp.asarray(weights['c_proj.b'])}}
  if function == LYRICS:
    return params | {'q': part('c_attn', 'conv1d_heads'), 'kv': part('c_enc_kv', 'conv1d_pair')}
  return params | {'qkv': part('c_attn', 'conv1d_heads_in')}


@each_case('jukebox', where=lambda case: case.config.get('kind') == 'jb_attn')
def test_attention_patterns(case: Case):
  config, inputs, want = case.config, case.inputs, case.outputs
  x, probe = jnp.asarray(inputs['x']), jnp.asarray(inputs['probe'])
  window = Window(config['n_ctx'], config['blocks'], config['prime_len'])
  assert (window.columns, window.primed) == (config['block_ctx'], config['prime_len_used'])
  size = config['n_state'] // config['n_head']
  for module in config['modules']:
    name, function = module['name'], module['attn_func']
    weights = {
      k.removeprefix(f'{name}/'): v for k, v in case.weights.items() if k.startswith(f'{name}/')
    }
    params = {'params': layer_params(weights, function, config['n_head'])}
    layer = FactoredAttention(window, function, config['n_head'], size)
    lyrics = jnp.asarray(inputs['encoder_kv']) if function == LYRICS else None

    @jit
    def run(params, x, lyrics, layer=layer):
      def total(x, lyrics):
        y, _ = layer.apply(params, x, lyrics)
        return (y * probe).sum(), y

      places = (0,) if lyrics is None else (0, 1)
      return jax.value_and_grad(total, places, has_aux=True)(x, lyrics)

    (_, y), gradients = run(params, x, lyrics)
    assert_close(y, want[f'{name}/output'], what=name)
    assert_close(gradients[0], want[f'{name}/grad_x'], what=f'gradient of {name}')
    if lyrics is not None:
      assert_close(gradients[1], want[f'{name}/grad_encoder_kv'], what='gradient of lyrics')
    if function not in (LYRICS, SUMMARY):
      at = jnp.arange(config['n_ctx'])[None]
      sees = np.asarray(window.sees(function, at, at))[0, 0]
      # A query counts where it sees anything.
      sees = sees | np.diag(sees.any(axis=1))
      np.testing.assert_array_equal(sees, want[f'{name}/depends_on'].astype(bool), err_msg=name)
    if function == SUMMARY:
      continue

    # In chunks, behind a cache.
    if function == LYRICS:
      cache = layer.apply(params, lyrics, method='remember')
    else:
      cache = attention.create(window, function, len(x), config['n_head'], size, jnp.float32)
    step = jit(lambda params, x, cache, layer=layer: layer.apply(params, x, None, cache))
    found, start = [], 0
    for n, kept in zip(config['chunks'], want[f'{name}/cache_len'], strict=True):
      part, cache = step(params, x[:, start : start + n], cache)
      found.append(part)
      start += n
      if function != LYRICS:
        # No more is kept than the original needs, but for a ring of a row's places.
        taken = int((np.asarray(cache.positions)[0] != caches.EMPTY).sum())
        assert int(kept) <= taken <= window.slots(function), name
    assert_close(
      np.concatenate(found, axis=1), want[f'{name}/cached_output'], what=f'{name} in chunks'
    )


@pytest.mark.slow
@each_case('jukebox', where=lambda case: case.config.get('kind') == 'jb_prior')
def test_prior(case: Case):
  config, want = case.config, case.outputs
  model, variables = build(case)
  batch = batch_of(case)
  fraction = config['hps']['prime_loss_fraction']
  rest = {k: v for k, v in variables.items() if k != 'params'}

  @jit
  def run(params):
    def loss_of(params):
      out = model.apply({'params': params, **rest}, batch)
      loss, metrics = jukebox_prior(out, batch, prime_loss_fraction=fraction)
      return loss, metrics

    (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    args = batch['codes'], batch['labels'], batch.get('codes_above')
    return (
      loss,
      metrics,
      gradients,
      model.apply({'params': params, **rest}, *args, method='forward'),
    )

  loss, metrics, gradients, found = run(variables['params'])
  assert_close(found['y_cond'][:, None], want['y_cond'], what='y_cond')
  assert_close(found['x_cond'], want['x_cond'], what='x_cond')
  if 'encoder_kv' in want:
    assert_close(found['lyrics'], want['encoder_kv'], what='lyrics')
  for i in config['record_layers']:
    assert_close(found['states'][i + 1], want[f'layer{i}'], what=f'layer {i}')
  logits = found['gen_logits']
  if model.lyrics_ahead:
    logits = jnp.concatenate([found['prime_logits'], logits], axis=1)
  assert_close(logits, want['logits'], what='logits')
  losses = {
    'loss': loss,
    'gen_loss': metrics['gen_loss'],
    'prime_loss': metrics.get('prime_loss', 0.0),
  }
  for name in ('loss', 'gen_loss', 'prime_loss'):
    assert_close(np.reshape(losses[name], 1), want[name], what=name)
  moved = revert('jukebox', model, {'params': gradients, **rest})
  wanted = {k.removeprefix('grad/'): x for k, x in want.items() if k.startswith('grad/')}
  assert wanted
  if config['grads'] == 'all':
    assert set(wanted) == set(moved)
  for name, x in wanted.items():
    assert_close(moved[name], x, relative=2e-4, what=f'gradient of {name}')
