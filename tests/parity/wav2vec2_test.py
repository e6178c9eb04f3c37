"""Pre-training of wav2vec 2.0 against fairseq, on whatever cases the golden folder holds: losses,
codes, perplexities and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from research.objectives.contrastive import wav2vec2_contrastive
from research.weights import revert
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.speech_cases import (
  batch_of,
  build,
  check_gradients,
  kind,
  pretraining_args,
)


@each_case('wav2vec2', where=kind('wav2vec2_pretrain'))
def test_pretraining(case: Case):
  run, want = case.info['run'], case.outputs
  model, variables = build(case, **pretraining_args(case.config))
  batch = batch_of(case)
  mask = case.inputs['mask_indices'] > 0
  b, count = len(mask), int(mask[0].sum())
  k = case.config['num_negatives']
  quantized = case.config.get('quantize_targets', True)

  # Recorded draws are of the masked frames alone; ours has places for as many as there are frames.
  most = mask.shape[1]

  def place(x):
    return np.pad(x, ((0, 0), (0, most - count), *[(0, 0)] * (x.ndim - 2)))

  batch['span_mask'] = mask
  batch['negative_draws'] = place(case.inputs['negative_draws'].reshape(b, count, k)).astype(
    np.int32
  )
  if 'gumbel_noise' in case.inputs:
    noise = case.inputs['gumbel_noise'].reshape(b, count, case.config['latent_groups'], -1)
    batch['gumbel_noise'] = place(noise)
  params, rest = dict(variables)['params'], {k: v for k, v in variables.items() if k != 'params'}
  rest = {'counters': {'updates': jnp.int32(run['num_updates'])}}
  train = run['train_mode']
  rngs = {name: jax.random.key(0) for name in ('mask', 'noise', 'dropout')}
  # Continuous targets have no diversity loss.
  *diversities, penalty = run['loss_weights']
  diversity = diversities[0] if diversities else 0.0

  def loss(params):
    out = model.apply({'params': params, **rest}, batch, train=train, rngs=rngs)
    value, metrics = wav2vec2_contrastive(
      out, batch, logit_temp=case.config['logit_temp'], diversity=diversity, penalty=penalty
    )
    return value, (out, metrics)

  compiled, gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  for value, (out, metrics) in (loss(params), compiled):
    size = float(want['sample_size'])
    assert float(metrics['sample_size']) == size
    np.testing.assert_allclose(value, want['loss_per_sample'], rtol=1e-5)
    np.testing.assert_allclose(metrics['contrastive'] * size, want['loss_contrastive'], rtol=1e-5)
    np.testing.assert_allclose(metrics['feature_penalty'], want['features_pen'], rtol=1e-5)
    assert round(float(metrics['accuracy']) * size) == int(want['correct'])
    compared = {'context': 'projected_context', 'targets': 'projected_targets'}
    if quantized:
      compared |= {'quantised': 'quantized', 'code_logits': 'quantizer_logits'}
      np.testing.assert_allclose(
        metrics['diversity'] * diversity * size, want['loss_term_1'], rtol=1e-5
      )
      np.testing.assert_allclose(metrics['prob_perplexity'], want['prob_perplexity'], rtol=1e-5)
      np.testing.assert_allclose(metrics['code_perplexity'], want['code_perplexity'], rtol=1e-5)
      np.testing.assert_allclose(out['temperature'], want['temperature'], rtol=1e-6)
      np.testing.assert_array_equal(out['codes'][:, :count], want['codes'])
      np.testing.assert_array_equal(out['best_codes'][:, :count], want['argmax_codes'])
    for ours, theirs in compared.items():
      assert_close(out[ours][:, :count], want[theirs], what=theirs)
    assert_close(out['layers'][0], want['layer_input'], what='layer_input')

  tree = {'params': jax.tree.map(np.asarray, gradients), **rest}
  check_gradients(revert('wav2vec2', model, tree), case, size)
