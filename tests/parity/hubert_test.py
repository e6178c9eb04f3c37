"""Pre-training of HuBERT against fairseq, on whatever cases the golden folder holds: targets,
logits, losses of masked and unmasked frames, gradients."""

import jax
import numpy as np

from research.objectives.prediction import masked_units
from research.weights import revert
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.speech_cases import batch_of, build, check_gradients, kind
from tests.weights.toy import check_identical

SPECIALS = 4


def with_units(case: Case):
  """What the model hears, which frames are masked, and the units of every set."""
  sets = range(len(case.config['label_set_sizes']))
  labels = np.stack([case.inputs[f'labels_{i}'] for i in sets], axis=2)
  return batch_of(case) | {
    'units': labels.astype(np.int32) - SPECIALS,
    'span_mask': case.inputs['mask_indices'] > 0,
  }


@each_case('hubert', where=kind('_pretrain'))
def test_pretraining(case: Case):
  run, want, config = case.info['run'], case.outputs, case.config
  sizes = config['label_set_sizes']
  model, variables = build(
    case,
    num_clusters=sizes[0] if len(sizes) == 1 else tuple(sizes),
    predict_unmasked=True,
  )
  assert model.label_rate == config['label_rate']
  if len(sizes) > 1:
    assert model.untied == config['untie_final_proj']
  batch = with_units(case)
  params, rest = dict(variables)['params'], {k: v for k, v in variables.items() if k != 'params'}
  rngs = {name: jax.random.key(0) for name in ('mask', 'dropout')}
  (penalty,) = run['loss_weights']
  weights = {n: run[n] for n in ('pred_masked_weight', 'pred_nomask_weight')}

  def loss(params):
    out = model.apply({'params': params, **rest}, batch, train=run['train_mode'], rngs=rngs)
    value, metrics = masked_units(
      out, batch, logit_temp=config['logit_temp'], penalty=penalty, **weights
    )
    return value, (out, metrics)

  compiled, gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  for value, (out, metrics) in (loss(params), compiled):
    size = float(want['sample_size'])
    assert float(metrics['sample_size']) == size
    np.testing.assert_allclose(value, want['loss_per_sample'], rtol=1e-5)
    np.testing.assert_allclose(metrics['feature_penalty'], want['features_pen'], rtol=1e-5)
    assert_close(out['layers'][0], want['layer_input'], what='layer_input')
    real = np.asarray(out['frame_mask'])
    if 'frame_padding_mask' in want:
      np.testing.assert_array_equal(real, want['frame_padding_mask'] == 0)
    for name, letter, suffix in (('masked', 'm', ''), ('unmasked', 'u', '_unmasked')):
      used = np.asarray(out[name])
      count = used.sum()
      assert count == want[f'count_{letter}_0']
      right = float(metrics[f'accuracy{suffix}']) * count
      assert round(right) == want[f'correct_{letter}_0']
      total = float(metrics[f'cross_entropy{suffix}']) * count
      sums = [want[f'loss_{name}_{i}'] for i in range(len(sizes))]
      np.testing.assert_allclose(total, np.sum(sums), rtol=1e-5)
      for i in range(len(sizes)):
        target = np.asarray(out['unit_targets'])[:, :, i]
        np.testing.assert_array_equal(target[used], want[f'aligned_labels_{i}'][used])
        # Column 0 is the positive there, and the same class again is left out behind it.
        logits = np.asarray(out['similarities'][i])[used] / config['logit_temp']
        theirs = want[f'logits_{name}_{i}']
        positive = np.take_along_axis(logits, target[used][:, None], axis=1)
        assert_close(positive[:, 0], theirs[:, 0], what=f'positives of set {i}')
        others = np.isfinite(theirs[:, 1:])
        np.testing.assert_array_equal(~others, target[used][:, None] == np.arange(logits.shape[1]))
        assert_close(logits[others], theirs[:, 1:][others], what=f'logits of set {i}')

  tree = {'params': jax.tree.map(np.asarray, gradients), **rest}
  check_gradients(revert('hubert', model, tree), case, size)
  check_identical(revert('hubert', model, variables), case.weights)


@each_case('hubert', where=kind('_pretrain'))
def test_masked_frames_alone(case: Case):
  """Comparing masked frames only gives the same loss of masked frames."""
  sizes = case.config['label_set_sizes']
  codes = sizes[0] if len(sizes) == 1 else tuple(sizes)
  batch = with_units(case)
  found = []
  for everywhere in (False, True):
    model, variables = build(case, num_clusters=codes, predict_unmasked=everywhere)
    out = jax.jit(model.apply)(variables, batch)
    assert ('unmasked' in out) == everywhere
    found.append(masked_units(out, batch))
  np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
  assert found[0][1]['sample_size'] == found[1][1]['sample_size'] > 0
