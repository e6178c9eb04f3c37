"""wav2vec 2.0 against fairseq, on whatever cases the golden folder holds: convolutions, positions,
every layer, with and without padding; pre-training losses, codes, perplexities and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from research.features.waveform import Waveform
from research.objectives.contrastive import wav2vec2_contrastive
from research.weights import revert
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.wav2vec2_cases import (
  batch_of,
  build,
  check_gradients,
  kind,
  pretraining_args,
)
from tests.weights.toy import check_identical


@each_case('wav2vec2', where=kind('wav2vec2_features'))
def test_features(case: Case):
  model, variables = build(case)
  batch = batch_of(case)
  if 'raw_waveform' in case.inputs:
    front = Waveform(normalise=case.info['run']['normalize_input'])
    heard = front(case.inputs['raw_waveform'], batch['audio_mask'])
    assert_close(heard, batch['audio'], what='normalised waveform')

  def run(audio, mask):
    features, real, normed = model.apply(variables, audio, mask, method='_frames')
    out = model.apply(variables, normed, real, None, False, method='_encode')
    return {'features': features, 'normed': normed, 'real': real, **out}

  want = case.outputs
  for name, function in {'eager': run, 'jit': jax.jit(run)}.items():
    got = function(batch['audio'], batch['audio_mask'])
    real = np.asarray(got['real'])
    if 'frame_padding_mask' in want:
      np.testing.assert_array_equal(real, want['frame_padding_mask'] == 0)
    else:
      assert real.all()
    pairs = {
      'conv_features': np.swapaxes(got['features'], 1, 2),
      'normed_features': got['normed'],
      'projected': got['projected'],
      'pos_conv': got['positions'],
      'layer_input': got['layers'][0],
      'final': got['tokens'],
    }
    pairs |= {f'layer_{i}': x for i, x in enumerate(got['layers'][1:])}
    for key, x in pairs.items():
      x, y = np.asarray(x), want[key]
      if key == 'conv_features':
        x, y = np.swapaxes(x, 1, 2), np.swapaxes(y, 1, 2)
      assert_close(x[real], y[real], what=f'{name} {key}')
  check_identical(revert('wav2vec2', model, variables), case.weights)


@each_case('wav2vec2', where=kind('wav2vec2_pretrain'))
def test_pretraining(case: Case):
  run, want = case.info['run'], case.outputs
  model, variables = build(case, **pretraining_args(case.config))
  batch = batch_of(case)
  mask = case.inputs['mask_indices'] > 0
  b, count = len(mask), int(mask[0].sum())
  k, groups = case.config['num_negatives'], case.config['latent_groups']

  # Recorded draws are of the masked frames alone; ours has places for as many as there are frames.
  most = mask.shape[1]

  def place(x):
    return np.pad(x, ((0, 0), (0, most - count), *[(0, 0)] * (x.ndim - 2)))

  batch['span_mask'] = mask
  batch['negative_draws'] = place(case.inputs['negative_draws'].reshape(b, count, k)).astype(
    np.int32
  )
  if 'gumbel_noise' in case.inputs:
    noise = case.inputs['gumbel_noise'].reshape(b, count, groups, -1)
    batch['gumbel_noise'] = place(noise)
  params, rest = dict(variables)['params'], {k: v for k, v in variables.items() if k != 'params'}
  rest = {'counters': {'updates': jnp.int32(run['num_updates'])}}
  train = run['train_mode']
  rngs = {name: jax.random.key(0) for name in ('mask', 'noise', 'dropout')}
  diversity, penalty = run['loss_weights']

  def loss(params):
    out = model.apply({'params': params, **rest}, batch, train=train, rngs=rngs)
    value, metrics = wav2vec2_contrastive(
      out, batch, kappa=case.config['logit_temp'], diversity=diversity, penalty=penalty
    )
    return value, (out, metrics)

  compiled, gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  for value, (out, metrics) in (loss(params), compiled):
    size = float(want['sample_size'])
    assert float(metrics['sample_size']) == size
    np.testing.assert_allclose(value, want['loss_per_sample'], rtol=1e-5)
    np.testing.assert_allclose(metrics['contrastive'] * size, want['loss_contrastive'], rtol=1e-5)
    np.testing.assert_allclose(
      metrics['diversity'] * diversity * size, want['loss_term_1'], rtol=1e-5
    )
    np.testing.assert_allclose(metrics['feature_penalty'], want['features_pen'], rtol=1e-5)
    np.testing.assert_allclose(metrics['prob_perplexity'], want['prob_perplexity'], rtol=1e-5)
    np.testing.assert_allclose(metrics['code_perplexity'], want['code_perplexity'], rtol=1e-5)
    np.testing.assert_allclose(out['temperature'], want['temperature'], rtol=1e-6)
    assert round(float(metrics['accuracy']) * size) == int(want['correct'])
    np.testing.assert_array_equal(out['codes'][:, :count], want['codes'])
    np.testing.assert_array_equal(out['best_codes'][:, :count], want['argmax_codes'])
    for ours, theirs in {
      'context': 'projected_context',
      'targets': 'projected_targets',
      'quantised': 'quantized',
      'code_logits': 'quantizer_logits',
    }.items():
      assert_close(out[ours][:, :count], want[theirs], what=theirs)
    assert_close(out['layers'][0], want['layer_input'], what='layer_input')

  tree = {'params': jax.tree.map(np.asarray, gradients), **rest}
  check_gradients(revert('wav2vec2', model, tree), case, size)
