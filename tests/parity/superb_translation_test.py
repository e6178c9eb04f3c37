"""Speech translation of SUPERB-SG against fairseq's s2t_transformer."""

import fnmatch
import re

import jax
import jax.numpy as jnp
import numpy as np

from research.inference.translation import translate
from research.objectives.autoregressive import label_smoothed_sentences
from research.weights.families import superb
from tests.parity.golden import Case, each_case
from tests.parity.superb_cases import check, check_gradient, given, kind
from tests.weights.toy import check_identical

PAD = 1


def load(case: Case):
  config = case.config
  head, variables = superb.read_head(
    case.weights, heads=config['encoder_attention_heads'], dropout=config['dropout'],
    max_tokens=config['max_target_positions'], masked=False,
  )  # fmt: skip
  kept = {
    k: v for k, v in case.weights.items() if not any(fnmatch.fnmatch(k, p) for p in superb.IGNORED)
  }
  check_identical(superb.write_head(head, variables), kept)
  assert head.decoder_depth == config['decoder_layers'] and head.depth == config['encoder_layers']
  return head, jax.tree.map(jnp.asarray, variables['params'])


@each_case('superb', where=kind('superb_st'))
def test_translation(case: Case):
  want, inputs = case.outputs, case.inputs
  head, params = load(case)
  targets = jnp.asarray(np.where(inputs['targets'] == PAD, -1, inputs['targets']).astype(np.int32))
  batch = {'targets': targets}
  features = jnp.asarray(inputs['features'])
  mask = jnp.arange(features.shape[1]) < inputs['lengths'][:, None]

  def value(params, features):
    out = head.apply({'params': params}, features, mask, {'batch': batch}, True)
    loss, metrics = label_smoothed_sentences(out, batch)
    return loss, (out, metrics)

  (loss, (out, metrics)), gradients = jax.jit(
    jax.value_and_grad(value, argnums=(0, 1), has_aux=True)
  )(params, features)
  real = np.asarray(out['encoder_mask'])
  np.testing.assert_array_equal(real, want['encoder_padding_mask'] == 0)
  np.testing.assert_array_equal(real.sum(axis=1), want['encoder_lengths'])
  check(np.asarray(out['encoder_out'])[real], want['encoder_out'][real], 'encoder')
  said = np.asarray(targets) >= 0
  check(np.asarray(out['logits'])[said], want['logits'][said], 'logits')
  np.testing.assert_allclose(loss, want['loss'], rtol=1e-5)
  rows = len(targets)
  np.testing.assert_allclose(float(loss) * rows, want['loss_sum'], rtol=1e-5)
  np.testing.assert_allclose(
    float(metrics['cross_entropy']) * said.sum(), want['nll_sum'], rtol=1e-5
  )
  own = superb.write_head(head, {'params': gradients[0]})
  for key, value in want.items():
    if key.startswith('grad/'):
      name = key.removeprefix('grad/')
      check_gradient(gradients[1] if name == 'features' else own[name], value, key)


@each_case('superb', where=kind('superb_st'))
def test_search(case: Case):
  head, params = load(case)
  features = jnp.asarray(case.inputs['features'])
  mask = jnp.arange(features.shape[1]) < case.inputs['lengths'][:, None]
  for name, output in case.info['outputs'].items():
    search = re.match(r'beam (\d+), max_len_b (\d+)', output.get('what', ''))
    if search is None:
      continue
    beams, longest = map(int, search.groups())
    found = translate(head, params, features, mask, beams=beams, max_tokens=longest)
    scores = found.scores()
    for row, hypotheses in enumerate(given(case, name, 'outputs')):
      order = np.argsort(-scores[row], kind='stable')
      texts = [[*found.text(row, int(i)), head.start_token] for i in order]
      assert texts == [h['tokens'] for h in hypotheses]
      np.testing.assert_allclose(scores[row][order], [h['score'] for h in hypotheses], rtol=1e-4)
