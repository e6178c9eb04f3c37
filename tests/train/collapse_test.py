"""The health limits of wav2vec 2.0 on a collapsing run, relative to the trace of a healthy one."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.errors import InputError
from research.train import build, optim
from research.train.config import DEFAULTS, complete
from research.train.health import Watch, signals
from research.train.state import init_state
from research.train.step import make_train_step
from tests.contract import wave
from tests.experiments_test import ROOT, load

STEPS = 40
LIMITS = dict(
  code_perplexity=dict(min_fraction=0.5, patience=2, after=10),
  prob_perplexity=dict(min_fraction=0.5, patience=2, after=10),
  accuracy=dict(min_fraction=0.2, patience=5, after=10),
  grad_norm=dict(max_fraction=30.0, patience=2, after=10),
)


@functools.cache
def program(diversity):
  """(init, step) of the smallest wav2vec 2.0 experiment, the step compiled once for all seeds."""
  config = load(ROOT / 'experiments/wav2vec2/librispeech_base.py').get_config('debug')
  config.objective.args.diversity = diversity
  config = complete(config)
  optimizer = optim.make_optimizer({**config['optim'], 'lr': 1e-2}, optax.constant_schedule(1e-2))
  model = build.model(config)
  step = jax.jit(
    make_train_step(
      model, build.objective(config), optimizer, schedule=optax.constant_schedule(jnp.float32(1e-2))
    ),
    donate_argnums=0,
  )
  init = jax.jit(lambda b, seed: init_state(model, optimizer, b, seed, False), static_argnums=1)
  return init, step


def metrics_of(seed, diversity):
  """Metrics of every step on tones, as logged."""
  init, step = program(diversity)
  state, rows = None, []
  for i in range(STEPS):
    audio = np.stack([wave(seed * 1000 + (4 * i + j) % 50, 12_000) for j in range(4)])
    batch = {'audio': jnp.asarray(audio), 'audio_mask': jnp.ones(audio.shape, bool)}
    if state is None:
      state = init(batch, seed)
    state, metrics = step(state, batch)
    rows.append({'step': i + 1, **{k: float(v) for k, v in metrics.items()}})
  return rows


def watched(rows, limits):
  watch = Watch(limits)
  return [text for row in rows for text in watch.check(row['step'], row)]


@pytest.fixture(scope='module')
def trace(tmp_path_factory):
  file = tmp_path_factory.mktemp('healthy') / 'metrics.jsonl'
  file.write_text(''.join(json.dumps(row) + '\n' for row in metrics_of(0, 0.1)))
  return file


def limits(trace, **changes):
  return {name: {**spec, 'trace': str(trace), **changes} for name, spec in LIMITS.items()}


@pytest.mark.slow
def test_another_healthy_run_gives_no_warning(trace):
  assert watched(metrics_of(1, 0.1), limits(trace, stop=True)) == []


@pytest.mark.slow
def test_a_collapsing_codebook_is_reported_and_can_stop_the_run(trace):
  """A diversity loss with the wrong sign rewards using few codes."""
  collapsing = metrics_of(0, -30.0)
  healthy = json.loads(trace.read_text().splitlines()[-1])
  assert collapsing[-1]['code_perplexity'] < 0.5 * healthy['code_perplexity']
  warnings = watched(collapsing, limits(trace))
  assert any('collapse warning: code_perplexity is' in text for text in warnings)
  assert any('of the healthy run' in text for text in warnings)
  with pytest.raises(InputError, match=r'(code|prob)_perplexity.*stop ends the run'):
    watched(collapsing, limits(trace, stop=True))


def test_a_codebook_of_few_codes_is_reported_by_default():
  watch = Watch(DEFAULTS['watch'])
  assert watch.check(1000, jax.tree.map(float, signals({'min_code_usage': jnp.float32(0.3)}))) == []
  (warning,) = watch.check(
    1001, jax.tree.map(float, signals({'min_code_usage': jnp.float32(0.01)}))
  )
  assert warning == 'collapse warning: min_code_usage is 0.01 at step 1001, below 0.02'


def test_limits_interpolate_and_extrapolate_the_trace(tmp_path):
  file = tmp_path / 'trace.jsonl'
  file.write_text('{"step": 10, "x": 100.0}\n{"step": 20, "x": 200.0}\n')
  watch = Watch({'x': dict(trace=str(file), min_fraction=0.5, max_fraction=2.0)})
  for step, value, wrong in (
    (15, 76.0, ''),
    (15, 74.0, 'below 75'),
    (15, 301.0, 'above 300'),
    (99, 99.0, 'below 100'),
    (99, float('nan'), 'not finite'),
  ):
    warnings = watch.check(step, {'x': value})
    assert (wrong in warnings[0]) if wrong else not warnings
    watch.check(0, {'x': 100.0})  # healthy in between


def test_patience_counts_consecutive_lines():
  watch = Watch({'x': dict(min=1.0, patience=3)})
  values = [0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]
  assert [len(watch.check(i, {'x': v})) for i, v in enumerate(values)] == [0, 0, 0, 0, 0, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('limit', 'words'),
  [
    (dict(lowest=1.0), "has 'lowest'"),
    (dict(min='low'), 'must be a number'),
    (dict(min_fraction=0.5), 'go together'),
    (dict(trace='no/such/file', min_fraction=0.5), 'cannot be read'),
    (dict(trace='TRACE', min_fraction=0.5), "has no 'x'"),
  ],
)
def test_invalid_limits_are_refused(limit, words, trace):
  if limit.get('trace') == 'TRACE':
    limit = {**limit, 'trace': str(trace)}
  with pytest.raises(InputError, match=words):
    Watch({'x': limit})
