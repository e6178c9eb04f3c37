"""Letters by CTC against fairseq, on whatever cases the golden folder holds: what the encoder
gives, logits before and after the padding rule, losses and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from research.objectives.supervised import ctc
from research.weights import revert
from tests.models.toy import kind_of
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.speech_cases import batch_of, build, check_gradients, kind
from tests.weights.toy import check_identical

# Of fairseq's dictionary; they never are part of a target.
PAD, END = 1, 2


def tokens_of(case: Case):
  """Targets [b, u] without pad and end, -1 behind them; their number is recorded."""
  rows = [row[(row != PAD) & (row != END)] for row in case.inputs['targets']]
  lengths = [len(row) for row in rows]
  np.testing.assert_array_equal(lengths, case.outputs['target_lengths'])
  tokens = np.full((len(rows), max(lengths)), -1, np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
  return tokens


@each_case('wav2vec2', where=kind('wav2vec2_ctc'))
def test_ctc(case: Case):
  config, run, want = case.config, case.info['run'], case.outputs
  symbols = [f'symbol {i}' for i in range(config['vocab_size'])]
  model, variables = build(
    case,
    config['w2v'],
    blank=config['blank'],
    head_dropout=config['final_dropout'],
    freeze_updates=config['freeze_finetune_updates'],
    **({} if config['vocab_size'] == 32 else {'vocabulary': symbols}),
  )
  assert kind_of(model) == 'wav2vec2+ctc' and len(model.vocabulary) == config['vocab_size']
  check_identical(revert('wav2vec2', model, variables), case.weights)

  batch = {**batch_of(case), 'tokens': tokens_of(case)}
  masks = {'mask_indices': 'span_mask', 'mask_channel_indices': 'channel_mask'}
  given = {ours: case.inputs[k] > 0 for k, ours in masks.items() if k in case.inputs}
  assert bool(given) == config['apply_mask']
  batch = jax.tree.map(jnp.asarray, batch | given)
  count = float(want['sample_size']) if config['sentence_avg'] else 1.0
  params, rest = variables['params'], {k: v for k, v in variables.items() if k != 'params'}
  train = run['train_mode']
  rngs = {name: jax.random.key(0) for name in ('mask', 'dropout')}
  settings = dict(blank=config['blank'], zero_infinity=config['zero_infinity'])

  def loss(params):
    out = model.apply({'params': params, **rest}, batch, train=train, rngs=rngs)
    each = jax.vmap(lambda row: ctc(out, {**batch, 'valid': row}, **settings)[0])(rows)
    return ctc(out, batch, **settings)[0], (out, each)

  rows = jnp.eye(len(batch['tokens'])) > 0
  compiled, gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  for name, (value, (out, each)) in {'eager': loss(params), 'jit': compiled}.items():
    real = np.asarray(out['frame_mask'])
    np.testing.assert_array_equal(real.sum(axis=1), want['input_lengths'])
    if 'frame_padding_mask' in want:
      np.testing.assert_array_equal(real, want['frame_padding_mask'] == 0)
    np.testing.assert_allclose(value * count, want['loss_total'], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(each, want['ctc_loss_per_utterance'], rtol=1e-5, err_msg=name)
    assert_close(out['tokens'][real], want['encoder_out'][real], what=f'{name} encoder_out')
    before = model.apply(variables, out['tokens'], method=lambda m, x: m.shared_head.head(x))
    recorded = want['logits_before_padding_rule'][real]
    assert_close(before[real], recorded, what=f'{name} logits before the padding rule')
    for key, x in {'logits': out['logits'], 'log_probs': jax.nn.log_softmax(out['logits'])}.items():
      x, y = np.asarray(x), want[key]
      # What the rule makes certain is exact, everywhere.
      certain = ~np.isfinite(y)
      np.testing.assert_array_equal(x[certain], y[certain], err_msg=f'{name} {key}')
      np.testing.assert_array_equal(x[~real], y[~real], err_msg=f'{name} {key}')
      assert_close(x[~certain], y[~certain], what=f'{name} {key}')

  tree = {'params': jax.tree.map(np.asarray, gradients), **rest}
  check_gradients(revert('wav2vec2', model, tree), case, count)
