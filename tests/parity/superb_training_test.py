"""Optimisers, schedules and language-model decoding of SUPERB against the official code."""

import ast
import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.train import optim
from tests.parity.golden import Case, each_case
from tests.parity.superb_cases import given, kind

SCHEDULES = {
  None: dict(name='constant'),
  'linear_schedule_with_warmup': dict(name='polynomial'),
  'sqrt_decay_schedule_with_warmup': dict(name='inverse_sqrt'),
}
# By (name, torch_optim_name): our optimiser with the defaults of theirs.
OPTIMIZERS = {
  ('TorchOptim', 'Adam'): dict(name='adam'),
  ('TorchOptim', 'AdamW'): dict(name='adamw', weight_decay=0.01, no_decay='(?!)'),
  ('AdamW', None): dict(name='s3prl_adamw', eps=1e-7),
  ('Adam', None): dict(name='adam'),
}


SEARCH = ('beam', 'beam_threshold', 'lm_weight', 'word_score', 'log_add')


def schedule_of(scheduler):
  ours = dict(SCHEDULES[scheduler['name'] if scheduler else None])
  return ours | (dict(warmup_steps=scheduler['num_warmup_steps']) if scheduler else {})


@each_case('superb', where=kind('superb_optimizer'))
def test_optimizers(case: Case):
  gradients, start = case.inputs['gradients'], case.inputs['parameters']
  for name, settings in case.config['optimizers'].items():
    theirs = settings['optimizer']
    config = {**optim.DEFAULTS, **OPTIMIZERS[theirs['name'], theirs.get('torch_optim_name')]}
    config |= dict(lr=theirs['lr'], schedule=schedule_of(settings['scheduler']))
    clips = f'{name}/grad_norm' in case.outputs
    config['clip_norm'] = 1.0 if clips else None
    schedule = optim.make_schedule(config, settings['total_steps'] or 0)
    optimizer = optim.make_optimizer(config, schedule)
    params = jnp.asarray(start)
    state = optimizer.init(params)
    wanted = case.outputs[f'{name}/parameters']
    for i, gradient in enumerate(gradients):
      np.testing.assert_allclose(
        schedule(i), case.outputs[f'{name}/lr'][i], rtol=1e-6, err_msg=f'{name} lr {i}'
      )
      if clips:
        norm = optax.tree.norm(jnp.asarray(gradient))
        np.testing.assert_allclose(norm, case.outputs[f'{name}/grad_norm'][i], rtol=1e-5)
      updates, state = optimizer.update(jnp.asarray(gradient), state, params)
      params = optax.apply_updates(params, updates)
      limit = 2e-6 * max(1.0, np.abs(wanted[i]).max())
      np.testing.assert_allclose(params, wanted[i], rtol=0, atol=limit, err_msg=f'{name} {i}')


@each_case('superb', where=kind('superb_optimizer'))
def test_schedules(case: Case):
  names = {'linear': 'linear_schedule_with_warmup', 'sqrt': 'sqrt_decay_schedule_with_warmup'}
  for key, steps in case.inputs.items():
    if key.endswith('/step'):
      name = key.removesuffix('/step')
      shape, warmup, total = name.split('_')
      scheduler = dict(name=names[shape], num_warmup_steps=int(warmup))
      schedule = optim.make_schedule(dict(lr=1.0, schedule=schedule_of(scheduler)), int(total))
      got = [float(schedule(int(step))) for step in steps]
      np.testing.assert_allclose(got, case.outputs[f'{name}/factor'], rtol=1e-6, atol=1e-9)


@each_case('superb', where=kind('superb_asr_lm'))
def test_language_model(case: Case, tmp_path):
  pytest.importorskip('flashlight.lib.text.decoder')
  from research.inference.beam import BeamSearch

  config = case.config
  arpa, lexicon = tmp_path / 'lm.arpa', tmp_path / 'lexicon.txt'
  arpa.write_text(given(case, 'arpa'))
  lexicon.write_text(given(case, 'lexicon'))
  names = {'beam_threshold': 'threshold'}
  for name, output in case.info['outputs'].items():
    if 'score' not in str(output['value']):
      continue
    # The settings that differ stand at the end of the description.
    changes = re.search(r'with (\{.*\})$', output['what'])
    settings = config | (ast.literal_eval(changes[1]) if changes else {})
    args = {names.get(k, k): settings[k] for k in SEARCH}
    search = BeamSearch(
      case.info['dictionary'], lm=arpa, lexicon=lexicon, free_end=False,
      **args,
    )  # fmt: skip
    for row, want in zip(case.inputs['log_probs'], output['value'], strict=True):
      found = search.best(row, config['nbest'])
      assert [list(h.words) for h in found] == [h['words'] for h in want], name
      assert [list(h.tokens) for h in found] == [h['tokens'] for h in want], name
      scores = [h['score'] for h in want]
      np.testing.assert_allclose([h.score for h in found], scores, rtol=0, atol=1e-3)
