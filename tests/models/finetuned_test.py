"""Any encoder under any head: one training step each, what is shared, frozen, mixed and refused."""

import json
import warnings

import jax
import numpy as np
import pytest

from research import capabilities, models, weights
from research.errors import InputError
from research.models import heads
from research.models.finetuned import Finetuned, flat_arguments, route
from research.objectives.supervised import binary_cross_entropy, cross_entropy, ctc
from research.train import build, optim
from research.train.config import complete
from research.train.state import init_state
from research.train.step import make_train_step
from research.train.warm_start import warm_start
from research.weights import tables
from tests.contract import wave
from tests.models.subjects import SPEECH
from tests.weights.toy import filled

ENCODERS = {
  'audio_mae': dict(size='tiny', width=32, depth=2, heads=2, frames=64, padding='masked'),
  'byol_a': dict(
    size='v1_d512', frames=32, hidden=24, width=32, channels=8, norm='frontend',
    frontend=dict(mean=-9.7, std=4.7),
  ),
  'code_bert': dict(
    size='tiny', width=32, depth=2, heads=2, hidden=64,
    tokenizer=dict(size='tiny', channels=16, codebook_size=12, vq_type='kmeans'),
  ),
  'hubert': SPEECH,
  'wav2vec': dict(size='tiny', channels=32, kernels=(2, 3), codebook_size=12, vq_type='gumbel'),
  'wav2vec2': SPEECH,
  'wavlm': SPEECH,
}  # fmt: skip
LETTERS = dict(name='ctc', args=dict(vocabulary=['_', *'abcd'], dropout=0.1))
CLASSES = dict(name='classifier', args=dict(classes=3))


def make(encoder, head, **args):
  return Finetuned(dict(name=encoder, args=ENCODERS[encoder]), head, **args)


def batch():
  lengths = np.array([11_000, 8000])
  audio = np.zeros((2, 11_000), np.float32)
  for i, n in enumerate(lengths):
    audio[i, :n] = wave(i, n)
  return {
    'audio': audio,
    'audio_mask': np.arange(11_000) < lengths[:, None],
    'tokens': np.array([[1, 2, -1], [3, 4, 4]], np.int32),
    'label': np.array([0, 2], np.int32),
  }


def train(model, objective, steps=1, **settings):
  """(state before, state after, metrics of the last step) with AdamW and weight decay."""
  config = {'optim': {**optim.DEFAULTS, 'lr': 0.01, 'weight_decay': 0.1, **settings}}
  schedule = optim.make_schedule(config['optim'], 10)
  optimizer = build.optimizer(config, model, schedule)
  before = state = jax.jit(lambda: init_state(model, optimizer, batch(), 0, False))()
  step = jax.jit(make_train_step(model, objective, optimizer, schedule=schedule))
  for _ in range(steps):
    state, metrics = step(state, batch())
  return before, state, metrics


def moved(before, after):
  """Paths of the parameters that changed."""
  a, b = tables.flatten(before.params), tables.flatten(after.params)
  return {k for k in a if not np.array_equal(a[k], b[k])}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('encoder', 'head', 'args'),
  [
    ('byol_a', LETTERS, {}),
    ('audio_mae', LETTERS, {}),
    ('hubert', CLASSES, {}),
    ('code_bert', CLASSES, dict(layer=1)),
    ('wav2vec', LETTERS, dict(layer='mix')),
  ],
  ids=str,
)
def test_one_step(encoder, head, args):
  model = make(encoder, head, **args)
  objective = ctc if head is LETTERS else cross_entropy
  before, after, metrics = train(model, objective)
  assert float(metrics['finite']) == 1 and float(metrics['loss']) > 0
  assert 'head/kernel' in moved(before, after)
  # Both saw the same clips: none of them moved a head of pre-training, for there is none.
  shapes = jax.eval_shape(models.get(encoder)(**ENCODERS[encoder]).init, jax.random.key(0), batch())
  theirs = set(tables.flatten(shapes['params']))
  own = {k for k in tables.flatten(before.params) if not k.startswith(('head/', 'fc_norm/'))}
  assert own - {'layer_mix'} < theirs
  if 'layer' in args and args['layer'] == 'mix':
    assert before.params['layer_mix'].shape == (3,) and 'layer_mix' in moved(before, after)
  out = model.apply({'params': after.params, **after.variables}, batch())
  real = np.asarray(out['frame_mask'])
  if head is LETTERS:
    assert out['logits'].shape == (*real.shape, 5)
    assert np.isfinite(np.asarray(out['logits'])[real]).all()
  else:
    assert out['logits'].shape == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize('encoder', ['hubert', 'byol_a'])
def test_a_frozen_encoder_stays_as_it_is(encoder):
  """No gradient, no weight decay, no statistics of batches; the head and the mix learn."""
  model = make(encoder, CLASSES, layer='mix', freeze=True)
  before, after, _ = train(model, cross_entropy, steps=2)
  assert moved(before, after) <= {
    'head/kernel', 'head/bias', 'fc_norm/scale', 'fc_norm/bias', 'layer_mix',
  }  # fmt: skip
  assert {'head/kernel', 'head/bias'} <= moved(before, after)
  # One layer alone has nothing to be mixed with.
  assert ('layer_mix' in moved(before, after)) == (encoder == 'hubert')
  stats = tables.flatten(after.variables.get('batch_stats', {}))
  for key, x in tables.flatten(before.variables.get('batch_stats', {})).items():
    np.testing.assert_array_equal(x, stats[key])
  # As in evaluation: what the head sees does not depend on draws.
  apply = jax.jit(lambda key: model.apply(
    {'params': after.params, **after.variables}, batch(), train=True,
    rngs={'mask': key, 'dropout': key},
  ))  # fmt: skip
  a, b = (apply(jax.random.key(i))['tokens'] for i in range(2))
  np.testing.assert_array_equal(a, b)
  moments = sum(x.size for x in jax.tree.leaves(after.opt_state))
  assert moments < 3 * sum(x.size for k, x in tables.flatten(after.params).items()
                           if k.split('/')[0] in ('head', 'fc_norm', 'layer_mix')) + 10  # fmt: skip


@pytest.mark.slow
def test_frozen_convolutions_are_not_decayed_either():
  before, after, _ = train(make('wav2vec2', LETTERS), ctc)
  assert not any(k.startswith('feature_extractor/') for k in moved(before, after))
  assert any(k.startswith('encoder/') for k in moved(before, after))


@pytest.mark.slow
def test_only_the_head_learns_for_some_updates():
  model = make('audio_mae', CLASSES, freeze_updates=2)
  before, after, _ = train(model, cross_entropy, steps=2, weight_decay=0.0)
  assert {k.split('/')[0] for k in moved(before, after)} == {'head', 'fc_norm'}
  _, later, _ = train(model, cross_entropy, steps=3, weight_decay=0.0)
  assert any(k.startswith('encoder/') for k in moved(before, later))
  assert int(later.variables['counters']['updates']) == 3


@pytest.mark.slow
def test_a_mix_starts_as_the_mean_and_a_number_is_one_layer():
  mix, one = make('wav2vec2', CLASSES, layer='mix'), make('wav2vec2', CLASSES, layer=1)
  variables = jax.jit(mix.init)(jax.random.key(0), batch())
  out = mix.apply(variables, batch())
  states, real = mix.apply(variables, *(batch()[k] for k in ('audio', 'audio_mask')),
                           method='embed')  # fmt: skip
  np.testing.assert_allclose(out['layers'], states, atol=1e-6)
  np.testing.assert_array_equal(out['frame_mask'], real)
  weight = np.asarray(real, np.float32)[..., None]

  def normed(x):
    pooled = (np.asarray(x) * weight).sum(1) / weight.sum(1)
    scale = np.sqrt(pooled.var(1, keepdims=True) + 1e-6)
    return (pooled - pooled.mean(1, keepdims=True)) / scale

  np.testing.assert_allclose(out['pooled'], normed(states.mean(0)), atol=1e-4)
  params = {k: v for k, v in variables['params'].items() if k != 'layer_mix'}
  out = one.apply({**variables, 'params': params}, batch())
  np.testing.assert_allclose(out['pooled'], normed(states[1]), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('encoder', ENCODERS)
def test_weights_of_pretraining_fit_by_name(encoder, tmp_path):
  """Every parameter of the encoder comes from them, and nothing is said to be left over."""
  theirs = models.get(encoder)(**ENCODERS[encoder])
  path = weights.save(weights.Pretrained(encoder, theirs, filled(theirs), 'a test'), tmp_path)
  model = make(encoder, LETTERS)
  assert isinstance(theirs, capabilities.Encodes)
  optimizer = build.optimizer({'optim': optim.DEFAULTS}, model, lambda step: 0.1)
  state = jax.jit(lambda: init_state(model, optimizer, batch(), 0, False))()
  spec = dict(path=str(path), include='.*', exclude='^params/head/', statistics='same')
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    started = warm_start(state, spec, model)
  have = tables.flatten(weights.load(path).variables)
  fresh = {
    k for k, x in tables.flatten({'params': started.params, **started.variables}).items()
    if k not in have or not np.array_equal(x, have[k])
  }  # fmt: skip
  assert fresh - {'counters/updates'} == {'params/head/kernel', 'params/head/bias'}


def test_specifications_are_complete_and_equal():
  short = make('hubert', LETTERS)
  assert short.encoder['args']['depth'] == 2 and short.encoder['args']['layerdrop'] == 0.1
  given = json.loads(json.dumps(weights.model_args(short, defaults=True)))
  assert Finetuned(**given) == short and hash(Finetuned(**given)) == hash(short)
  again = Finetuned(**route(given, dict(mask_prob=0.3, head_dropout=0.2, freeze_updates=5)))
  flat = flat_arguments(again)
  assert (flat['mask_prob'], flat['head_dropout'], flat['freeze_updates']) == (0.3, 0.2, 5)
  assert (flat['dropout'], again.vocabulary, again.blank) == (0.0, ('_', *'abcd'), 0)
  assert capabilities.spells(short) and not capabilities.spells(make('hubert', CLASSES))
  assert not isinstance(short, capabilities.PredictsUnits)


def test_a_norm_behind_the_pooling_takes_the_place_of_the_encoders():
  names = ('mean', 'cls')
  found = {p: make('audio_mae', dict(CLASSES, args=dict(classes=3, pooling=p))) for p in names}
  assert not found['mean'].upstream.final_norm and found['cls'].upstream.final_norm
  assert make('audio_mae', LETTERS).upstream.final_norm


def test_files_and_changes_at_loading(tmp_path):
  model = make('wav2vec2', LETTERS)
  ours = weights.Pretrained('finetuned', model, filled(model), 'a test')
  weights.save(ours, tmp_path)
  back = weights.load(tmp_path, dtype='bfloat16', scan_layers=True, head_dropout=0.4)
  encoder = back.model.upstream
  assert (encoder.dtype, encoder.scan_layers, back.model.top.dropout) == ('bfloat16', True, 0.4)
  assert 'blocks' in back.variables['params']['encoder']
  same = weights.load(tmp_path, mask_prob=0.1, freeze_updates=9, head_dropout=0.4)
  assert same.fingerprint == ours.fingerprint == weights.load(tmp_path, remat=True).fingerprint
  assert weights.load(tmp_path, layer=0).fingerprint != ours.fingerprint
  with pytest.raises(InputError, match="Unknown argument of model finetuned 'wdith'"):
    weights.load(tmp_path, wdith=3)
  with pytest.raises(InputError, match='width=64 was given, but the weights were made with'):
    weights.load(tmp_path, width=64)


@pytest.mark.slow
def test_multi_label_classes():
  model = make('audio_mae', CLASSES)
  labels = np.eye(3, dtype=np.float32)[:2]
  _, _, metrics = train(model, lambda out, _: binary_cross_entropy(out, {'label': labels}))
  assert float(metrics['finite']) == 1


@pytest.mark.parametrize(
  ('args', 'says'),
  [
    (dict(encoder=dict(name='hubret'), head=None), "Unknown model 'hubret'.*hubert"),
    (dict(encoder='hubert', head=None), r"encoder='hubert'; expected a specification"),
    (dict(encoder=dict(name='hubert', args=dict(wdith=1)), head=None),
     "argument of encoder hubert 'wdith'.*width"),
    (dict(encoder=dict(name='hubert'), head=dict(name='ctcc')), "Unknown head 'ctcc'.*'ctc'"),
    (dict(encoder=dict(name='hubert'), head=dict(name='classifier')), 'classes'),
    (dict(encoder=dict(name='hubert'), head=dict(name='ctc', args=dict(blank=99))), 'blank=99'),
    (dict(encoder=dict(name='hubert'), head=LETTERS, layer='first'), "layer of finetuned 'first'"),
    (dict(encoder=dict(name='hubert'), head=None, layer='mix'), 'no head that it would be for'),
    (dict(encoder=dict(name='hubert'), head=LETTERS, freeze=True, freeze_updates=3), 'is not fr'),
    (dict(encoder=dict(name='finetuned'), head=None), 'cannot stand under a head'),
  ],
  ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused(args, says):
  with pytest.raises(InputError, match=says):
    Finetuned(**args)


def test_layers_and_tokens_that_are_not_there_are_refused():
  with pytest.raises(InputError, match='layer=7; the encoder has 3, from 0 up'):
    jax.eval_shape(make('hubert', LETTERS, layer=7).init, jax.random.key(0), batch())
  head = dict(name='classifier', args=dict(classes=2, pooling='cls'))
  with pytest.raises(InputError, match='the encoder has no class token'):
    jax.eval_shape(make('hubert', head).init, jax.random.key(0), batch())


@pytest.mark.parametrize(
  ('part', 'says'),
  [
    (dict(encoder=dict(name='hubret')), "Unknown model 'hubret'"),
    (dict(encoder=dict(name='hubert', args=dict(wdith=1))),
     r'argument config\.model\.args\.encoder\.args of hubert: .wdith'),
    (dict(head=dict(name='ctc', args=dict(dropout='much'))),
     "config.model.args.head.args.dropout is 'much'; it must be a number"),
    (dict(head='ctc'), 'config.model.args.head is .ctc., but it is a group'),
  ],
  ids=str,
)  # fmt: skip
def test_configs_are_checked_to_the_last_part(part, says):
  args = dict(encoder=dict(name='hubert'), head=LETTERS) | part
  config = dict(total_steps=1, model=dict(name='finetuned', args=args), objective=dict(name='ctc'))
  with pytest.raises(InputError, match=says):
    complete(config)


def test_every_head_is_found():
  assert {'classifier', 'ctc'} <= set(heads.names())
  for name in heads.names():
    assert isinstance(heads.get(name).PARAMETERS, tuple)
