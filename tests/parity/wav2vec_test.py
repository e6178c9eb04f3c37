"""wav2vec and vq-wav2vec against fairseq, on whatever cases the golden folder holds: encoder,
quantiser, every layer of the context, predictions, scores, losses, perplexities and gradients."""

import ast

import jax
import jax.numpy as jnp
import numpy as np

from research.objectives.contrastive import wav2vec_contrastive
from research.weights import convert, revert
from tests.parity.golden import Case, assert_close, each_case

# Modes of fairseq's class that are not built: a case with one of them must not pass by chance.
WITHOUT = dict(
  sample_distance=None,
  cross_sample_negatives=0,
  aggregator='cnn',
  skip_connections_feat=False,
  project_features='none',
  non_affine_group_norm=False,
  vq_dim=0,
)


def build(case: Case, release: str, **args):
  """(model, variables) of a case."""
  config = case.config
  assert {k: config.get(k, v) for k, v in WITHOUT.items()} == WITHOUT
  temperature = dict(zip(('start', 'end', 'decay'), map(float, config['vq_temp'])))
  offset = config['offset']
  args = dict(
    skip=config['skip_connections_agg'],
    residual_scale=config['residual_scale'],
    zero_pad=config['agg_zero_pad'],
    log_compression=config['log_compression'],
    activation=config['activation'],
    offset=None if offset == 'auto' else int(offset),
    negatives=config['num_negatives'],
    gamma=config['vq_gamma'],
    dropout=config['dropout'],
    input_dropout=config['dropout_features'],
    context_dropout=config['dropout_agg'],
    published_negatives=True,
    padding='published',
    **{f'temperature_{name}': value for name, value in temperature.items()},
    **args,
  )
  model, variables = convert(release, case.weights, **args)
  # What is read from the arrays is what the case was made with.
  shapes = [(k, s) for _, k, s in ast.literal_eval(config['conv_feature_layers'])]
  assert shapes == [shape[1:] for shape in model._stem]
  kernels = tuple(k for _, k, _ in ast.literal_eval(config['conv_aggregator_layers']))
  found = (model.kernels, model.vq_type, model.conv_bias, model.steps)
  wanted = (kernels, config['vq_type'], not config['no_conv_bias'], config['prediction_steps'])
  assert found == wanted
  if model.vq_type != 'none':
    found = (model.groups, model.codebook_size, model.combine_groups)
    assert found == (config['vq_groups'], config['vq_vars'], config['combine_groups'])
  if model.vq_type == 'gumbel':
    assert model.head_depth == config['vq_depth']
  return model, jax.tree.map(jnp.asarray, variables)


def batch_of(case: Case, model):
  audio = case.inputs['waveform']
  b, n = len(audio), model.frontend.frames(audio.shape[1])
  draws = case.inputs['negative_draws'].reshape(b, n, -1).astype(np.int32)
  batch = {'audio': audio, 'audio_mask': np.ones(audio.shape, bool), 'negative_draws': draws}
  if 'gumbel_noise' in case.inputs:
    batch['gumbel_noise'] = case.inputs['gumbel_noise'].reshape(
      b, n, model.groups, model.codebook_size
    )
  return batch


def channels_first(x):
  return np.swapaxes(x, 1, 2)


def flat_scores(case: Case, model, out):
  """Scores of the official layout: steps one after the other, each (copies, clip, frame), or for
  InfoNCE (frame, clip) x copies."""
  h, z = np.asarray(out['predictions']), np.asarray(out['targets'])
  rows = np.arange(len(z))[:, None, None]
  copies = np.concatenate([z[:, :, None], z[rows, np.asarray(out['negatives'])]], axis=2)
  scores = np.einsum('bnsd,bnkd->bnsk', h, copies)
  parts = []
  for i in range(min(model.steps, z.shape[1] - model.first_step)):
    part = scores[:, model.first_step + i :, i]
    infonce = case.config['infonce']
    parts.append(part.transpose(1, 0, 2) if infonce else part.transpose(2, 0, 1))
  if case.config['infonce']:
    return np.concatenate([p.reshape(-1, p.shape[-1]) for p in parts])
  return np.concatenate([p.reshape(-1) for p in parts])


def check_outputs(case: Case, model, batch, out):
  want = case.outputs
  pairs = {
    'encoder_z': channels_first(out['features']),
    'aggregator_c': channels_first(out['layers'][-1]),
    'quantized': channels_first(out['targets']),
    'forward_idx_quantized': channels_first(out['targets']),
    'quantizer_logits': out.get('code_logits'),
    'projected_ze': channels_first(out['encoded']) if 'encoded' in out else None,
  }
  pairs |= {f'aggregator_state_{i}': channels_first(x) for i, x in enumerate(out['layers'])}
  if case.info['run']['train_mode'] and model.vq_type == 'gumbel':
    del pairs['forward_idx_quantized']  # Without noise; `check_quiet` has it.
  for key, x in pairs.items():
    if key in want:
      assert_close(x, want[key], what=key)

  # Predictions: theirs by context, ours by the frame that is predicted.
  n = out['targets'].shape[1]
  for i in range(min(model.steps, n - model.first_step)):
    late = model.first_step + i
    theirs = want['projected_steps'][..., i].swapaxes(1, 2)
    assert_close(out['predictions'][:, late:, i], theirs[:, : n - late], what=f'step {i}')
    assert np.asarray(out['used'])[:, late:, i].all()
    assert not np.asarray(out['used'])[:, :late, i].any()
  places = case.inputs['negative_indices'] - n * np.arange(len(batch['audio']))[:, None, None]
  np.testing.assert_array_equal(np.swapaxes(out['negatives'], 1, 2), places)
  assert model.first_step == int(want['offset'])

  if 'codes' in want:
    np.testing.assert_array_equal(out['codes'], want['codes'])
  if 'forward_idx_codes' in want:
    np.testing.assert_array_equal(out['best_codes'], want['forward_idx_codes'])
  for key in ('code_perplexity', 'prob_perplexity', 'temperature'):
    if key in want:
      np.testing.assert_allclose(out[key], want[key], rtol=1e-5, err_msg=key)
  if 'kmeans_loss' in want:
    np.testing.assert_allclose(out['quantiser_loss'], want['kmeans_loss'], rtol=1e-5)
  if 'num_vars' in want:
    codes = model.codebook_size * (model.groups if model.vq_type == 'gumbel' else 1)
    assert codes == int(want['num_vars'])


def quantised(model, audio, mask):
  features, real = model._frames(audio, mask)
  return features, model._quantise(features, real).vectors


def check_quiet(case: Case, model, variables):
  """Codes and vectors of evaluation, and the layers that `embed` gives."""
  audio = case.inputs['waveform']
  mask = np.ones(audio.shape, bool)
  embed = jax.jit(lambda v, a, m: model.apply(v, a, m, method='embed'))
  tokens, real = embed(variables, audio, mask)
  assert np.asarray(real).all() and len(tokens) == 1 + model.depth
  if model.vq_type == 'none':
    assert_close(channels_first(tokens[0]), case.outputs['encoder_z'], what='z')
    assert_close(channels_first(tokens[-1]), case.outputs['aggregator_c'], what='c')
    return
  encode = jax.jit(lambda v, a, m: model.apply(v, a, m, method='encode'))
  codes, _ = encode(variables, audio, mask)
  np.testing.assert_array_equal(codes, case.outputs['forward_idx_codes'])
  hidden = jax.jit(lambda v, a, m: model.apply(v, a, m, method=quantised))
  features, vectors = hidden(variables, audio, mask)
  assert_close(channels_first(vectors), case.outputs['forward_idx_quantized'], what='vectors')
  # s3prl's first state is what the quantiser takes.
  np.testing.assert_allclose(tokens[0], features, atol=1e-6)
  if 'encoder_z' in case.outputs:
    assert_close(channels_first(tokens[0]), case.outputs['encoder_z'], what='z')


@each_case('wav2vec', 'vq_wav2vec', where=lambda case: case.info['kind'] == 'wav2vec')
def test_pretraining(case: Case):
  run, want, config = case.info['run'], case.outputs, case.config
  model, variables = build(case, case.system)
  batch = batch_of(case, model)
  params = variables['params']
  updates = jnp.int32(run.get('num_updates', 0))
  rest = {'counters': {'updates': updates}} if 'counters' in variables else {}
  rngs = {name: jax.random.key(0) for name in ('mask', 'noise', 'dropout')}
  weight = float((run.get('loss_weights') or [0.0])[0])

  def loss(params):
    out = model.apply({'params': params, **rest}, batch, train=run['train_mode'], rngs=rngs)
    value, metrics = wav2vec_contrastive(
      out,
      batch,
      infonce=config['infonce'],
      balanced_classes=config['balanced_classes'],
      quantiser=weight,
    )
    return value, (out, metrics)

  compiled, gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  size = float(want['sample_size'])
  for value, (out, metrics) in (loss(params), compiled):
    check_outputs(case, model, batch, out)
    assert_close(flat_scores(case, model, out).ravel(), want['cpc_logits'].ravel(), what='scores')
    assert float(metrics['sample_size']) == size
    np.testing.assert_allclose(value * size, want['loss_total'], rtol=1e-5)
    np.testing.assert_allclose(metrics['contrastive'] * size, want['loss_contrastive'], rtol=1e-5)
    if 'loss_term_1' in want:
      extra = weight * metrics['quantiser_loss'] * size
      np.testing.assert_allclose(extra, want['loss_term_1'], rtol=1e-5)
  check_quiet(case, model, variables)

  theirs = revert(case.system, model, {'params': jax.tree.map(np.asarray, gradients), **rest})
  for name in run['grads']:
    assert_close(theirs[name] * size, want[f'grad/{name}'], what=f'gradient of {name}')

  back = revert(case.system, model, variables)
  assert set(back) == set(case.weights)
  for key, x in case.weights.items():
    np.testing.assert_array_equal(back[key], x, err_msg=key)
