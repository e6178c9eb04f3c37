"""Codes written step by step, against the model on whole clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.inference.generate_codes import Sampling, generate_codes
from research.models.code_lm import CodeLM
from research.nn import code_patterns
from research.objectives.autoregressive import next_codes

SMALL = dict(width=16, depth=2, heads=2, hidden=32, dropout=0.0, max_steps=40)


def made(seed=0, **args):
  model = CodeLM(**{**SMALL, 'num_clusters': (5, 7), **args})
  example = {k: jnp.zeros(x.shape, x.dtype) for k, x in model.example().items()}
  variables = model.init(jax.random.key(seed), example)
  # Larger than as they start, so that logits differ.
  return model, jax.tree.map(lambda x: 8.0 * x if x.ndim > 1 else x, variables)


def codes_of(model, frames, seed=0):
  rng = np.random.default_rng(seed)
  return np.stack([rng.integers(0, k, frames) for k in model.sets], axis=1).astype(np.int32)


@pytest.mark.slow
@pytest.mark.parametrize('pattern', code_patterns.PATTERNS)
def test_step_by_step_equals_all_at_once(pattern):
  model, variables = made(pattern=pattern, conditions={'label': 3})
  units = np.stack([codes_of(model, 6, i) for i in range(2)])
  batch = {'units': units, 'label': np.array([2, 0])}
  want = np.asarray(model.apply(variables, batch)['logits'])
  laid = code_patterns.lay_out(units, pattern, model.end)
  read = np.pad(laid, ((0, 0), (1, 0), (0, 0)))[:, :-1]
  memories = model.apply(variables, batch, method='condition')
  step = jax.jit(lambda codes, state: model.apply(variables, codes, state, method='step'))
  state, found = model.start(2, read.shape[1], memories), []
  for part in np.split(read, [3, 4, 5], axis=1):
    logits, state = step(part, state)
    found.append(logits)
  got = np.concatenate(found, axis=1)
  there = np.isfinite(want)
  assert there.any() and (there == np.isfinite(got)).all()
  np.testing.assert_allclose(got[there], want[there], rtol=0, atol=1e-4)


def greedy(model, variables, prompt, frames, classes):
  """By the model on whole clips: the best code of each place, one place after the other."""
  units = np.full((1, frames, model.codebooks), -1, np.int32)
  units[0, : len(prompt)] = prompt
  order = code_patterns.step_of(model.pattern, frames, model.codebooks)
  for step in range(code_patterns.steps(model.pattern, frames, model.codebooks)):
    where = [(j, q) for j, q in np.argwhere(order == step) if units[0, j, q] < 0]
    if where:
      # What is not written yet is behind this step, and cannot matter.
      batch = {'units': np.maximum(units, 0), **classes}
      logits = model.apply(variables, batch)['logits'][0, step]
      for j, q in where:
        units[0, j, q] = int(np.asarray(logits)[q, : model.sets[q]].argmax())
  return units[0]


@pytest.mark.parametrize(
  'pattern',
  [p if p == 'delay' else pytest.param(p, marks=pytest.mark.slow) for p in code_patterns.PATTERNS],
)
def test_best_codes_equal_those_of_whole_clips(pattern):
  model, variables = made(pattern=pattern, conditions={'label': 3})
  prompts = [codes_of(model, 3, 1), codes_of(model, 1, 2), codes_of(model, 0)]
  how = Sampling(sample=False, ends=False)
  got = generate_codes(model, variables, prompts, 5, how, conditions={'label': [0, 1, -1]})
  for i, (row, prompt) in enumerate(zip(got, prompts)):
    want = greedy(model, variables, prompt, 5, {'label': np.array([[0, 1, -1][i]])})
    assert row.tolist() == want.tolist()
  assert len({str(row.tolist()) for row in got}) == 3


@pytest.mark.slow
def test_draws_are_of_a_row_alone_and_follow_the_distribution():
  model, variables = made(num_clusters=6, pattern='flat')
  alone = generate_codes(model, variables, [codes_of(model, 2)], 12, seeds=[7])
  both = generate_codes(
    model, variables, [codes_of(model, 4, 3), codes_of(model, 2)], 12, seeds=[1, 7]
  )
  assert both[1].tolist() == alone[0].tolist()
  # The first code of many rows, against its probabilities.
  count = 4000
  rows = generate_codes(
    model, variables, [np.zeros((0, 1), np.int32)] * count, 1, Sampling(ends=False), temperature=2.0
  )
  logits = model.apply(variables, {'units': np.zeros((1, 1, 1), np.int32)})['logits'][0, 0, 0, :6]
  want = np.asarray(jax.nn.softmax(logits / 2.0))
  got = np.bincount([int(r[0, 0]) for r in rows], minlength=6) / count
  assert np.abs(got - want).max() < 4 * np.sqrt(0.25 / count)
  best = int(np.argmax(want))
  top = generate_codes(
    model, variables, [np.zeros((0, 1), np.int32)] * 9, 1, Sampling(top_k=1, ends=False)
  )
  assert {int(r[0, 0]) for r in top} == {best}


def test_guidance_moves_from_unconditioned_to_conditioned_logits():
  model, variables = made(conditions={'label': 3}, pattern='parallel')
  units = np.zeros((1, 1, 2), np.int32)
  own, none = (
    np.asarray(model.apply(variables, {'units': units, 'label': np.array([c])})['logits'])[0, 0]
    for c in (1, -1)
  )
  start = [np.zeros((0, 2), np.int32)]
  for s in (1.0, 4.0):
    logits = np.where(np.isfinite(own), none + s * (np.nan_to_num(own) - np.nan_to_num(none)), own)
    want = [int(logits[q, :k].argmax()) for q, k in enumerate(model.sets)]
    how = Sampling(sample=False, ends=False, guidance=s)
    assert generate_codes(model, variables, start, 1, how, conditions={'label': [1]})[
      0
    ].tolist() == [want]


@pytest.mark.slow
@pytest.mark.parametrize('pattern', code_patterns.PATTERNS)
def test_a_clip_ends_where_the_first_codebook_says_so(pattern):
  model, variables = made(pattern=pattern)
  # Ends become likely by the bias of the output.
  bias = np.zeros((2, model.end + 1), np.float32)
  bias[0, model.end] = 30.0
  params = dict(variables['params'])
  params['out'] = dict(params['out'], bias=jnp.asarray(bias.reshape(-1)))
  prompts = [codes_of(model, 3), codes_of(model, 2)]
  got = generate_codes(model, {'params': params}, prompts, 8)
  # All codes of the prompts are there, those of delayed codebooks too.
  assert [r.tolist() for r in got] == [p.tolist() for p in prompts]
  full = generate_codes(model, {'params': params}, prompts, 8, Sampling(ends=False))
  assert [len(r) for r in full] == [8, 8] and all((r < [5, 7]).all() for r in full)


def test_targets_are_codes_and_the_end():
  model, _ = made(pattern='delay')
  units = np.array([[[1, 2], [3, 4], [-1, -1]], [[0, 1], [2, 3], [4, 5]]], np.int32)
  _, _, targets = model.layout(jnp.asarray(units))
  end = model.end
  assert np.asarray(targets).tolist() == [
    [[1, -1], [3, 2], [end, 4], [-1, -1]],
    [[0, -1], [2, 1], [4, 3], [-1, 5]],
  ]
  logits = np.zeros((2, 4, 2, end + 1), np.float32)
  logits[~np.broadcast_to(model.allowed, logits.shape)] = -np.inf
  loss, metrics = next_codes({'logits': logits, 'targets': targets}, {})
  # Six outputs of the first codebook, seven of the second.
  assert metrics['sample_size'] == 11
  np.testing.assert_allclose(loss, (6 * np.log(6) + 5 * np.log(7)) / 11, rtol=1e-6)
  np.testing.assert_allclose(metrics['first_cross_entropy'], np.log(6), rtol=1e-6)
  one, _ = next_codes({'logits': logits, 'targets': targets}, {'valid': np.array([True, False])})
  np.testing.assert_allclose(one, (3 * np.log(6) + 2 * np.log(7)) / 5, rtol=1e-6)


def test_bad_input():
  model, variables = made(conditions={'label': 3})
  start = np.zeros((0, 2), np.int32)
  cases = (
    (dict(prompts=[np.array([[1, 7]])], frames=4), r'codes from 1 to 7.*5, 7 codes'),
    (dict(prompts=[np.zeros((2, 3), int)], frames=4), r'shape \(2, 3\).*2 codes'),
    (dict(prompts=[np.zeros((4, 2), int)], frames=4), '4 frames of codes and 4'),
    (dict(prompts=[start], frames=40), '40 frames are 41 steps.*max_steps=40'),
    (dict(prompts=[start], frames=4, conditions={}), r"on \['label'\], and nothing"),
    (dict(prompts=[start], frames=4, conditions={'label': [3]}), 'classes from 0 to 2'),
  )
  for given, message in cases:
    args = {'conditions': {'label': [0]}, **given}
    with pytest.raises(InputError, match=message):
      generate_codes(model, variables, args.pop('prompts'), args.pop('frames'), **args)
  with pytest.raises(InputError, match='no conditions'):
    plain = made()
    generate_codes(*plain, [start], 4, Sampling(guidance=2.0))
  with pytest.raises(InputError, match='clips have 44 steps'.capitalize()):
    model.apply(variables, {'units': np.zeros((1, 43, 2), np.int32), 'label': np.zeros(1, int)})
  with pytest.raises(InputError, match='whole number of samples'):
    CodeLM(label_rate=3.3)
