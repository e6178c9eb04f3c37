"""Speaker verification and diarization of SUPERB against s3prl's downstream experts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.features.lengths import match_frames
from research.metrics.diarization import frame_counts
from research.objectives import permutation, speakers
from tests.parity.golden import Case, each_case
from tests.parity.superb_cases import check, check_gradient, kind
from tests.parity.superb_heads import check_gradients, load, real, run


@each_case('superb', where=kind('superb_asv'))
def test_verification(case: Case):
  config, want = case.config, case.outputs
  head, params = load(case, extra_frame=True)
  label = jnp.asarray(case.inputs['labels'].astype(np.int32))
  margins = dict(s=config['s'], m=config['m'])

  def objective(out):
    return speakers.additive_margin_softmax(out, {'label': label}, **margins)[0]

  out, loss, gradients = run(case, head, params, objective)
  names = {'frames': 'tdnn', 'pooled': 'pooled', 'vector': 'train_vector',
           'embedding': 'embedding_batch'}  # fmt: skip
  for ours, theirs in names.items():
    check(out[ours], want[theirs], theirs)
  np.testing.assert_allclose(loss, want['loss'], rtol=1e-5)
  check_gradients(case, head, gradients)

  alone = []
  for row, n in zip(case.inputs['features'], case.inputs['lengths']):
    mask = jnp.ones((1, n), bool)
    alone.append(head.apply({'params': params}, jnp.asarray(row[None, :n]), mask, {}, False))
  embedding = np.concatenate([one['embedding'] for one in alone])
  check(embedding, want['embedding_single'], 'one at a time')
  pairs = embedding[case.inputs['trials']]
  check((pairs[:, 0] * pairs[:, 1]).sum(-1), want['scores'], 'scores')
  # Without the quirk a padded batch gives the same.
  exact = head.clone(extra_frame=False, parent=None)
  out = exact.apply({'params': params}, jnp.asarray(case.inputs['features']), real(case), {}, False)
  check(out['embedding'], want['embedding_single'], 'exact in a batch')


@each_case('superb', where=kind('superb_asv'))
def test_margins(case: Case):
  config, x = case.config, jnp.asarray(case.inputs['amsoftmax/x'])
  kernel = jnp.asarray(case.weights['objective.W'])
  batch = {'label': jnp.asarray(case.inputs['amsoftmax/labels'].astype(np.int32))}

  def cosine(x):
    unit = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return {'cosine': unit @ (kernel / jnp.linalg.norm(kernel, axis=0))}

  for name, objective, args in (
    ('amsoftmax', speakers.additive_margin_softmax, dict(s=config['s'], m=config['m'])),
    ('aamsoftmax', speakers.additive_angular_margin_softmax, {}),
  ):
    loss, gradient = jax.value_and_grad(lambda x: objective(cosine(x), batch, **args)[0])(x)  # noqa: B023
    np.testing.assert_allclose(loss, case.outputs[f'{name}/loss'], rtol=1e-5)
    check_gradient(gradient, case.outputs[f'{name}/grad/x'], name)


@each_case('superb', where=kind('superb_sd'))
def test_diarization(case: Case):
  config = case.config
  head, params = load(case)
  orders = permutation.orders(config['speakers'])
  assert orders.tolist() == config['permutations']
  for name in sorted({k.split('/')[0] for k in case.inputs}):
    given = {k.split('/')[1]: v for k, v in case.inputs.items() if k.startswith(f'{name}/')}
    want = {k.removeprefix(f'{name}/'): v for k, v in case.outputs.items() if k.startswith(name)}
    features, label = jnp.asarray(given['features']), jnp.asarray(given['labels'])
    frames = label.shape[1]
    matched = match_frames(features, frames, repeat=True)
    check(matched, want['matched_features'], f'{name} matched')
    mask = np.arange(frames) < given['lengths'][:, None]
    tokens = jnp.arange(features.shape[1]) < given['feature_lengths'][:, None]
    batch = {'label': label, 'label_mask': jnp.asarray(mask)}

    def value(params, features):
      out = head.apply({'params': params}, features, tokens, {'batch': batch}, True)  # noqa: B023
      loss, metrics = permutation.permutation_invariant_bce(out, batch)  # noqa: B023
      return loss, (out, metrics)

    (loss, (out, metrics)), gradients = jax.jit(
      jax.value_and_grad(value, argnums=(0, 1), has_aux=True)
    )(params, features)
    check(np.asarray(out['logits'])[mask], want['logits'][mask], f'{name} logits')
    np.testing.assert_allclose(loss, want['loss'], rtol=1e-5)
    each = permutation.losses_of_orders(out['logits'], label, batch['label_mask'])
    np.testing.assert_array_equal(each.argmin(axis=0), want['permutation'])
    check_gradients(case, head, gradients, f'{name}/grad/')
    assert float(metrics['frame_accuracy']) == pytest.approx(float(want['acc']), rel=1e-6)
    assert float(metrics['der']) == pytest.approx(float(want['der']), rel=1e-6)
    ordered = np.stack([y[:, orders[i]] for y, i in zip(given['labels'], want['permutation'])])
    counts = frame_counts(np.asarray(out['logits']) > 0, ordered > 0, given['lengths'])
    assert list(counts.values())[:9] == want['counts'].tolist()
    assert (counts['accuracy'], counts['der']) == (float(want['acc']), float(want['der']))
