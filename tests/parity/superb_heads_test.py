"""Heads of SUPERB against s3prl's downstream experts, on whatever cases the golden folder holds:
outputs, losses, gradients, decoded texts. Weights go through the key tables, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.features import lengths
from research.inference.ctc import collapse
from research.metrics.asr import unit_errors, word_errors
from research.nn.pooling import mix_layers
from research.objectives import supervised
from research.text import characters, phones, slots
from tests.parity.golden import Case, each_case
from tests.parity.superb_cases import check, check_gradient, given, kind
from tests.parity.superb_heads import check_gradients, load, real, run


@each_case('superb', where=kind('superb_featurizer'))
def test_featurizer(case: Case):
  config, states = case.config, jnp.asarray(case.inputs['hidden_states'])
  weights = jnp.asarray(case.weights['weights'])
  cotangent = case.inputs['output_cotangent']

  def mixed(weights):
    return mix_layers(states, weights, config['normalize'])

  check(mixed(weights), case.outputs['weighted_sum'], 'weighted sum')
  check(jax.jit(mixed)(weights), case.outputs['weighted_sum'], 'weighted sum, jit')
  gradient = jax.grad(lambda w: (mixed(w) * cotangent).sum())(weights)
  check_gradient(gradient, case.outputs['grad/weights'])
  found = lengths.batch_frames(
    np.asarray(config['waveform_lengths']), config['downsample_rate'], states.shape[2]
  )
  np.testing.assert_array_equal(found, case.outputs['lengths'])
  packed = np.concatenate([row[:n] for row, n in zip(mixed(weights), found)])
  check(packed, case.outputs['packed'], 'packed')


@each_case('superb', where=kind('superb_lengths'))
def test_lengths(case: Case):
  for row in given(case, 'table', 'outputs'):
    samples = row['samples']
    for rate in (320, 160):
      assert lengths.rounded_frames(samples, rate) == row[f'round_{rate}'], samples
      assert lengths.padded_frames(samples, rate) == row[f'nn_{rate}'], samples
    alone = lengths.batch_frames(np.array([samples]), 320, row['conv_frames_320'])
    assert alone[0] == row['single_320'], samples
  batch = given(case, 'batch', 'outputs')
  found = lengths.batch_frames(np.array(batch['samples']), 320, batch['model_frames'])
  assert found.tolist() == batch['lengths']
  match = given(case, 'nn_match_length', 'outputs')
  for key, want in match.items():
    if key != 'input':
      got = lengths.match_frames(np.array(match['input'], np.float32), int(key.split('_')[1]))
      np.testing.assert_array_equal(got, want)


@each_case('superb', where=kind('superb_ks', 'superb_sid', 'superb_er', 'superb_ic'))
def test_utterances(case: Case):
  label = jnp.asarray(case.inputs['labels'].astype(np.int32))
  sizes = case.config['classes']
  several = tuple(sizes) if isinstance(sizes, list) else ()
  head, params = load(case, slots=several)
  if several:
    objective = lambda out, batch: supervised.slot_cross_entropy(out, batch, slots=several)  # noqa: E731
  else:
    objective = supervised.cross_entropy
  out, loss, gradients = run(case, head, params, lambda out: objective(out, {'label': label})[0])
  check(out['pooled'], case.outputs['pooled'], 'pooled')
  check(out['logits'], case.outputs['logits'], 'logits')
  np.testing.assert_allclose(loss, case.outputs['loss'], rtol=1e-5)
  check_gradients(case, head, gradients)
  parts = np.split(np.asarray(out['logits']), np.cumsum(several or [sizes])[:-1], axis=1)
  predicted = np.stack([p.argmax(1) for p in parts], axis=1)
  predicted = predicted if several else predicted[:, 0]
  np.testing.assert_array_equal(predicted, case.outputs['prediction'])
  accuracy = objective(out, {'label': label})[1]['accuracy']
  assert float(accuracy) == pytest.approx(float(case.outputs['accuracy']))


def tokens_of(case: Case):
  """Targets [b, u], -1 behind their ends."""
  targets, sizes = case.inputs['targets'], case.inputs['target_lengths']
  inside = np.arange(targets.shape[1]) < sizes[:, None]
  return jnp.asarray(np.where(inside, targets, -1).astype(np.int32))


def torch_ctc(case: Case, blank):
  batch = {'tokens': tokens_of(case)}

  def loss(out):
    return supervised.ctc(
      {**out, 'frame_mask': real(case)}, batch, blank=blank, per_symbol=True,
      zero_infinity=case.config['zero_infinity'],
    )[0]  # fmt: skip

  return loss


def every_frame(head, params, tokens):
  """Logits of all frames, those of padding too, as the official code decodes them."""
  everywhere = jnp.ones(tokens.shape[:2], bool)
  return np.asarray(head.apply({'params': params}, tokens, everywhere, {}, False)['logits'])


@each_case('superb', where=kind('superb_pr'))
def test_phones(case: Case):
  config, want, symbols = case.config, case.outputs, case.info['vocabulary']
  assert list(phones.PHONES) == symbols
  head, params = load(case)
  mask = np.asarray(real(case))
  out, loss, gradients = run(case, head, params, torch_ctc(case, config['blank']))
  logits = every_frame(head, params, jnp.asarray(case.inputs['features']))
  check(logits, want['logits'], 'logits')
  check(np.asarray(out['logits'])[mask], want['logits'][mask], 'logits of real frames')
  check(out['projected'], want['projected'], 'projected')
  np.testing.assert_allclose(loss, want['loss'], rtol=1e-5)
  check_gradients(case, head, gradients)
  tokens, each = tokens_of(case), []
  for row in range(len(logits)):
    one = {'logits': out['logits'][row][None], 'frame_mask': real(case)[row][None]}
    loss, _ = supervised.ctc(one, {'tokens': tokens[row][None]}, zero_infinity=False)
    each.append(loss)
  np.testing.assert_allclose(each, want['ctc_per_utterance'], rtol=1e-5)

  def spelt(path):
    return phones.decode(collapse(path, config['blank']).ids.tolist())

  np.testing.assert_array_equal(logits.argmax(-1), want['argmax'])
  texts = [spelt(path) for path in logits.argmax(-1)]
  assert texts == given(case, 'hypothesis', 'outputs')
  alone = [spelt(row[m].argmax(-1)) for row, m in zip(np.asarray(out['logits']), mask)]
  assert alone == given(case, 'hypothesis_batch1', 'outputs')
  said = [phones.decode(row.tolist()) for row in case.inputs['targets']]
  assert said == given(case, 'groundtruth', 'outputs')
  for hypotheses, name in ((texts, 'per'), (alone, 'per_batch1')):
    errors = unit_errors([s.split(' ') for s in said], [s.split(' ') for s in hypotheses])
    assert errors.rate == float(want[name])


@each_case('superb', where=kind('superb_asr'))
def test_recognition(case: Case):
  config, want, symbols = case.config, case.outputs, case.info['dictionary']
  assert list(characters.SUPERB_CHARACTERS) == symbols
  head, params = load(case, vocabulary=symbols, dropout=tuple(config['dropout']), spec_augment=None)
  mask, loss = np.asarray(real(case)), torch_ctc(case, config['blank'])
  kept = [case.inputs[f'dropout_keep_{i}'] for i in range(config['layers'])]
  for part, train in (('eval', False), ('train', True)):
    out, found, gradients = run(
      case, head, params, loss, train=train, batch={'dropout_keep': tuple(map(jnp.asarray, kept))}
    )
    if not train:
      for i, x in enumerate(out['recurrent']):
        check(x, want[f'{part}/rnn{i}'], f'{part} rnn{i}')
    check(np.asarray(out['logits'])[mask], want[f'{part}/logits'][mask], f'{part} logits')
    bias = np.asarray(params['head']['bias'])
    check(want[f'{part}/logits'][~mask], np.broadcast_to(bias, ((~mask).sum(), len(bias))))
    np.testing.assert_allclose(found, want[f'{part}/loss'], rtol=1e-5)
    check_gradients(case, head, gradients, f'{part}/grad/')
    if not train:
      logits = np.asarray(out['logits'])
  texts = []
  for row, m in zip(logits, mask):
    ids = collapse(row[m].argmax(-1), config['blank']).ids
    texts.append(' '.join(symbols[i] for i in ids if symbols[i] != '</s>'))
  assert texts == given(case, 'pred_tokens', 'outputs')
  words = [text.replace(' ', '').replace('|', ' ').strip() for text in texts]
  assert [w.split() for w in words] == given(case, 'pred_words', 'outputs')
  targets = given(case, 'target_tokens', 'outputs')
  uer = unit_errors([t.split() for t in targets], [t.split() for t in texts]).rate
  wer = word_errors([t.replace(' ', '').replace('|', ' ').strip() for t in targets], words).rate
  assert 100 * uer == pytest.approx(float(want['uer']))
  assert 100 * wer == pytest.approx(float(want['wer']))


@each_case('superb', where=kind('superb_sf'))
def test_slot_filling(case: Case):
  config, want = case.config, case.outputs
  vocabulary = slots.vocabulary(config['slots'])
  assert list(vocabulary) == case.info['token_names']
  head, params = load(case, vocabulary=vocabulary, spec_augment=None)
  out, loss, gradients = run(case, head, params, torch_ctc(case, config['blank']))
  mask = np.asarray(real(case))
  check(np.asarray(out['logits'])[mask], want['logits'][mask], 'logits')
  np.testing.assert_allclose(loss, want['loss'], rtol=1e-5)
  check_gradients(case, head, gradients)
  encoded = [slots.encode(line, vocabulary).tolist() for line in given(case, 'lines')]
  assert encoded == given(case, 'encoded', 'outputs')
  for row, target, size in zip(encoded, case.inputs['targets'], case.inputs['target_lengths']):
    assert row == target[:size].tolist()
  # The official decode takes the padded frames of a batch too.
  paths = want['logits'].argmax(-1)
  got = [slots.decode(collapse(p, config['blank']).ids.tolist(), vocabulary) for p in paths]
  assert got == given(case, 'hypothesis', 'outputs')
  said = [slots.decode(row.tolist(), vocabulary) for row in case.inputs['targets']]
  assert said == given(case, 'groundtruth', 'outputs')
