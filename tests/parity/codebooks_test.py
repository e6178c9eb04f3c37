"""Codebooks against dm-haiku, Jukebox, encodec and audiocraft, on whatever cases the golden folder
holds: codes, vectors, losses, gradients and every state, by the recorded draws."""

import jax
import jax.numpy as jnp
import numpy as np

from research.nn import codebooks
from research.nn.codebooks import Averages, Draws, Ema
from research.nn.vector_quantizers import COLLECTION, EmaQuantizer, GradientQuantizer
from tests.parity.golden import Case, assert_close, each_case


def kind(name):
  return lambda case: case.config.get('kind') == name


def last(x):
  """[b, d, t] -> [b, t, d]."""
  return jnp.swapaxes(jnp.asarray(x), -1, -2)


def all_used(x):
  return jnp.ones(x.shape[:2], bool)


def variables_of(state: Averages, begun: bool = True):
  """Variables of a row of one codebook."""
  tree = {name: jnp.asarray(x)[None] for name, x in state._asdict().items()}
  return {COLLECTION: tree | {'begun': jnp.asarray([begun])}}


def state_of(variables) -> Averages:
  tree = variables[COLLECTION]
  return Averages(*(tree[name][0] for name in Averages._fields))


@each_case('vq_vae', where=kind('vq_gradient'))
def test_gradient_codebook(case: Case):
  config, want = case.config, case.outputs
  (embeddings,) = case.weights.values()
  model = GradientQuantizer(
    config['num_embeddings'], config['embedding_dim'], config['commitment_cost']
  )
  x, probe = jnp.asarray(case.inputs['inputs']), case.inputs['probe']
  params = {'params': {'codebook': jnp.asarray(embeddings.T)[None]}}

  def losses(x, params, quantiser, task):
    found = model.apply(params, x, all_used(x))
    return quantiser * found.loss + task * (found.vectors * probe).mean(), found

  gradient = jax.jit(jax.grad(losses, argnums=(0, 1), has_aux=True))
  for name, weights in {'loss': (1.0, 0.0), 'task': (0.0, 1.0), 'total': (1.0, 1.0)}.items():
    (to_x, to_params), found = gradient(jnp.asarray(x), params, *weights)
    assert_close(to_x, want[f'grad_{name}/inputs'], what=f'gradient of {name}')
    to_codebook = to_params['params']['codebook'][0].T
    assert_close(to_codebook, want[f'grad_{name}/embeddings'], what=f'codebook, {name}')
  assert_close(found.vectors, want['quantize'])
  np.testing.assert_array_equal(found.codes[..., 0], want['encoding_indices'])
  assert_close(found.loss[None], want['loss'].reshape(1))
  assert_close(found.code_perplexity[None], want['perplexity'].reshape(1))
  flat = x.reshape(-1, x.shape[-1])
  assert_close(codebooks.distances(jnp.asarray(flat), jnp.asarray(embeddings.T)), want['distances'])


@each_case('vq_vae', where=kind('vq_ema'))
def test_ema_codebook(case: Case):
  config, want = case.config, case.outputs
  (embeddings,) = case.weights.values()
  how = Ema(debias=True, epsilon=config['epsilon'], decay=config['decay'])
  k, d = config['num_embeddings'], config['embedding_dim']
  model = EmaQuantizer(k, d, how, commitment=config['commitment_cost'])
  zeros = np.zeros((k, d), np.float32)
  start = Averages(embeddings.T, zeros, np.zeros(k, np.float32), np.zeros((), np.int32))
  variables = variables_of(jax.tree.map(jnp.asarray, start))

  @jax.jit
  @jax.grad
  def gradient(x, variables, probe):
    found, _ = model.apply(variables, x, all_used(x), train=True, mutable=[COLLECTION])
    return found.loss + (found.vectors * probe).mean()

  def call(variables, x, train):
    return model.apply(variables, x, all_used(x), train=train, mutable=[COLLECTION])

  call = jax.jit(call, static_argnums=2)
  for step in range(config['steps']):
    x, probe = (jnp.asarray(case.inputs[name][step]) for name in ('inputs', 'probe'))
    to_x = gradient(x, variables, probe)
    found, variables = call(variables, x, True)
    part = {k.removeprefix(f'step{step}/'): v for k, v in want.items() if f'step{step}/' in k}
    assert_close(to_x, part['grad_total/inputs'], what=f'gradient of update {step}')
    assert_close(found.vectors, part['quantize'])
    np.testing.assert_array_equal(found.codes[..., 0], part['encoding_indices'])
    assert_close(found.loss[None], part['loss'].reshape(1))
    assert_close(found.code_perplexity[None], part['perplexity'].reshape(1))
    after = state_of(variables)
    weight = 1.0 - config['decay'] ** (step + 1)
    pairs = {
      'vector_quantizer_ema/embeddings': after.vectors.T,
      'ema_cluster_size/hidden': after.counts,
      'ema_cluster_size/average': after.counts / weight,
      'ema_dw/hidden': after.sums.T,
      'ema_dw/average': after.sums.T / weight,
    }
    for name, x in pairs.items():
      (theirs,) = [v for key, v in part.items() if key.endswith(name)]
      assert_close(x, theirs, what=f'{name} after update {step}')
    counters = [v for key, v in part.items() if key.endswith('counter')]
    assert all(int(v.reshape(())) == int(after.updates) for v in counters)


@each_case('vq_vae', where=kind('jb_bottleneck'))
def test_jukebox_bottleneck(case: Case):
  config, want, inputs = case.config, case.outputs, case.inputs
  k, width, rows = config['k_bins'], config['emb_width'], config['rows']
  how = Ema(decay=config['mu'], threshold=config['threshold'], dead='restart', start='rows')
  model = EmaQuantizer(k, width, how)

  def draws(order, noise):
    """Recorded permutations are of rows that were repeated until they were enough."""
    noise = None if noise is None else jnp.asarray(noise[order[:k]])[None]
    return Draws(jnp.asarray(order[:k] % rows)[None], noise)

  if config['mode'] == 'restore':
    (vectors,) = case.weights.values()
    state, begun = codebooks.restore(jnp.asarray(vectors), config['num_tokens'] / k), True
  else:
    zeros = jnp.zeros((k, width))
    state, begun = Averages(zeros, zeros, jnp.zeros(k), jnp.zeros((), jnp.int32)), False
  variables = variables_of(state, begun)

  def loss(x, variables, probe, start, dead):
    found, after = model.apply(
      variables, x, all_used(x), True, start=start, dead=dead, mutable=[COLLECTION]
    )
    return found.loss + (found.vectors * probe).mean(), (found, after)

  step_of = jax.jit(jax.grad(loss, has_aux=True))
  first = draws(inputs['perm_init'], None) if 'perm_init' in inputs else None
  x0 = last(inputs['x'][0])
  if first is not None:
    init = codebooks.begin(
      how, jnp.asarray(x0.reshape(-1, width)), jnp.ones(rows, bool),
      jax.tree.map(lambda a: a[0], first), jnp.zeros((), jnp.int32),
    )  # fmt: skip
    assert_close(init.vectors, want['init/k'])
    assert_close(init.counts, want['init/k_elem'])
    state = init
  for step in range(config['steps']):
    x, probe = last(inputs['x'][step]), last(inputs['probe'][step])
    noise = inputs['noise'][step] if 'noise' in inputs else None
    dead = draws(inputs['perm'][step], noise)
    to_x, (found, variables) = step_of(x, variables, probe, first or dead, dead)
    after = state_of(variables)
    got = {
      'quantised': last(found.vectors),
      'commit_loss': found.loss[None],
      'grad_x': last(to_x),
      'k': after.vectors,
      'k_sum': after.sums,
      'k_elem': after.counts,
    }
    flat, real = jnp.asarray(x.reshape(-1, width)), jnp.ones(rows, bool)
    signals = codebooks.changes(how, state, after, flat, real)
    got |= {name: value[None] for name, value in signals.items()}
    for name, value in got.items():
      theirs = want[f'step{step}/{name}']
      assert_close(value, theirs, what=f'{name} of update {step}')
    np.testing.assert_array_equal(found.codes[..., 0], want[f'step{step}/codes'])
    restarted = np.asarray(after.counts) < config['threshold']
    np.testing.assert_array_equal(restarted, want[f'step{step}/restarted'].astype(bool))
    state = after
  quiet = model.apply(variables, x0, all_used(x0))
  np.testing.assert_array_equal(quiet.codes[..., 0], want['eval/codes'])
  assert_close(last(model.apply(variables, quiet.codes, method='lookup')), want['eval/quantised'])


def kmeans_draws(case: Case, how: Ema) -> Draws:
  """Draws for k-means among the recorded ones, which are those of dead codes too: a quantiser draws
  at its first use, and again if one of its clusters is then below the threshold."""
  config, inputs = case.config, case.inputs
  assert config['n_q_per_step'][0] == config['n_q_total'], 'the case starts with all quantisers'
  calls = iter(config['sample_vectors'][0]['sample_vectors_calls'])
  x = last(inputs['x0']).reshape(-1, config['dim'])
  used, found = jnp.ones(len(x), bool), []
  for _ in range(config['n_q_total']):
    found.append(jnp.asarray(inputs[f'draw{next(calls)}']))
    state = codebooks.begin(how, x, used, Draws(found[-1]), jnp.zeros((), jnp.int32))
    if (state.counts < config['threshold_ema_dead_code']).any():
      next(calls)
    x = x - state.vectors[codebooks.nearest(x, state.vectors)]
  assert next(calls, None) is None, 'draws are left over'
  return Draws(jnp.stack(found))


@each_case('encodec', where=lambda case: 'kmeans_iters' in case.config)
def test_residual_codebooks(case: Case):
  config, want, inputs = case.config, case.outputs, case.inputs
  q, k = config['n_q_total'], config['bins']
  how = Ema(
    decay=config['decay'], epsilon=1e-5, start='kmeans', iterations=config['kmeans_iters'],
    published_sums=True,
  )  # fmt: skip
  models = {
    'encodec': EmaQuantizer(k, config['dim'], how, q),
    'audiocraft': EmaQuantizer(k, config['dim'], how, q, commit_all=True),
  }
  x = last(inputs['x0'])
  variables = models['encodec'].init(jax.random.key(0), x, all_used(x))
  start = kmeans_draws(case, how)

  def run(name):
    def loss(x, variables, grad_out, n_q):
      found, after = models[name].apply(
        variables, x, all_used(x), True, n_q, start, mutable=[COLLECTION]
      )
      commitment = config['commit_weight'] * found.loss
      return (found.vectors * grad_out).sum() + commitment, (found, after)

    return jax.jit(jax.grad(loss, has_aux=True))

  step_of = {name: run(name) for name in models}
  for step, n_q in enumerate(config['n_q_per_step']):
    x, grad_out = (jnp.asarray(last(inputs[f'{name}{step}'])) for name in ('x', 'grad_out'))
    count = jnp.int32(n_q)
    other, (theirs, _) = step_of['audiocraft'](x, variables, grad_out, count)
    to_x, (found, variables) = step_of['encodec'](x, variables, grad_out, count)
    assert_close(last(found.vectors), want[f'quantized{step}'])
    codes = np.moveaxis(np.asarray(found.codes), -1, 0)
    np.testing.assert_array_equal(codes[:n_q], want[f'codes{step}'])
    assert not codes[n_q:].any()
    assert_close(found.commitments[:n_q], want[f'commit{step}'])
    assert_close(found.loss[None], want[f'penalty{step}'])
    assert_close(last(to_x), want[f'grad_x{step}'], what='gradient')
    assert_close(theirs.commitments[:n_q], want[f'audiocraft/commit{step}'])
    assert_close(last(other), want[f'audiocraft/grad_x{step}'], what='gradient of audiocraft')
    tree, names = (
      variables[COLLECTION],
      dict(embed='vectors', embed_avg='sums', cluster_size='counts'),
    )
    for theirs_name, ours in names.items():
      for i in range(n_q):
        wanted = want[f'step{step}/layers.{i}._codebook.{theirs_name}']
        assert_close(tree[ours][i], wanted, what=f'{theirs_name} of {i} after step {step}')
  x = last(inputs['x0'])
  quiet = models['encodec'].apply(variables, x, all_used(x))
  np.testing.assert_array_equal(np.moveaxis(np.asarray(quiet.codes), -1, 0), want['eval_codes'])
  decoded = models['encodec'].apply(variables, quiet.codes, method='lookup')
  assert_close(last(decoded), want['eval_decoded'])
