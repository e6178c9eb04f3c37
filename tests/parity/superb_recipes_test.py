"""The recipes of the suite against the published configuration files."""

import dataclasses
import inspect

import pytest

from research.audio.log_mel import LogMel
from research.evals.superb import RECIPES
from research.inference.translation import BEAMS, MAX_TOKENS
from research.models import heads
from research.objectives.autoregressive import label_smoothed_sentences
from research.train.optim import DEFAULTS
from tests.parity.golden import Case, each_case
from tests.parity.superb_cases import kind
from tests.parity.superb_training_test import OPTIMIZERS, schedule_of

# The leaderboard's scores of SID need another learning rate than the file has.
RATES = {'SID': 1e-1}
METRICS = {
  'acc': 'accuracy',
  'maxTWV': 'mtwv',
  'frame accuracy': 'frame_accuracy',
  'si_sdr improvement': 'si_sdri',
}
# What the data give to heads.
NEEDED = {'utterance': dict(classes=2), 'translation': dict(vocab_size=4)}  # fmt: skip


def find(tree, name):
  """The first value of that name, at any depth."""
  for key, value in tree.items():
    if key == name:
      return value
    if isinstance(value, dict) and (found := find(value, name)) is not None:
      return found
  return None


@each_case('superb', where=kind('superb_recipes'))
def test_recipes(case: Case):
  tasks = case.config['tasks']
  assert set(RECIPES) == set(tasks)
  for name, recipe in RECIPES.items():
    official, selection = tasks[name]['config'], tasks[name]['selection']
    runner = official['runner']
    if name == 'QbE':
      assert recipe.steps == 0 and METRICS[selection['metric']] == recipe.ranks
      continue
    assert recipe.steps == runner['total_steps'], name
    assert recipe.clip_norm == runner['gradient_clipping'], name
    assert recipe.accumulate == runner['gradient_accumulate_steps'], name
    expert = official['downstream_expert']
    batch = find(expert, 'train_batch_size') or find(expert, 'train_batchsize')
    batch = batch or find(expert, 'batch_size')
    if name == 'ST':  # as many clips as fit into its frames
      assert recipe.frames == find(expert, 'max_tokens') and batch is None
    else:
      assert (recipe.batch_size, recipe.frames) == (batch, None), name
    theirs = official['optimizer']
    assert recipe.lr == RATES.get(name, theirs['lr']), name
    ours = {**DEFAULTS, 'name': recipe.optimizer, **recipe.optim}
    want = {**DEFAULTS, **OPTIMIZERS[theirs['name'], theirs.get('torch_optim_name')]}
    for key in ('name', 'b1', 'b2', 'eps', 'weight_decay'):
      assert ours[key] == want[key], (name, key)
    theirs = official.get('scheduler')
    assert (dict(recipe.schedule) or schedule_of(None)) == schedule_of(theirs), name
    if name == 'VC':  # official: every checkpoint is scored on the test clips
      assert selection['metric'].startswith('mcd') or 'MCD' in selection['split']
      assert recipe.eval_every == runner['eval_step'] and recipe.ranks == 'mcd'
    elif name != 'ASV':  # official: every checkpoint is scored on the test trials
      assert recipe.eval_every == runner['eval_step'], name
      assert recipe.ranks == METRICS.get(selection['metric'], selection['metric']), name
    assert recipe.mode == selection['direction'], name
    seconds = find(expert, 'max_timestep')
    if seconds:
      assert recipe.seconds == seconds / 16_000
    check_head(name, recipe, expert)


def check_head(name, recipe, expert):
  args = {**recipe.head_args}
  head = heads.get(recipe.head)(**args, **NEEDED.get(recipe.head, {}))
  model = find(expert, 'modelrc') or find(expert, 'model')
  if recipe.head == 'utterance':
    width = find(model, 'projector_dim') or 256
    assert head.width == width, name
  elif recipe.head == 'phones':
    assert head.width == model['project_dim']
  elif recipe.head == 'recurrent_ctc':
    rnn = model['RNNs']
    assert head.width == model['project_dim'] and [head.features] * head.num_layers == rnn['dim']
    assert [head.dropout] * head.num_layers == rnn['dropout']
  elif recipe.head == 'x_vector':
    assert head.width == model['input_dim']
    assert head.pooled_width == model['module_config']['XVector']['agg_dim']
    loss = model['LossConfig']['AMSoftmaxLoss']
    assert loss == {'s': 30.0, 'm': 0.4}
  elif recipe.head == 'diarization':
    assert (head.features, head.num_layers) == (model['hidden_size'], model['rnn_layers'])
    assert find(expert, 'chunk_size') * 0.02 == recipe.seconds
  elif recipe.head == 'masks':
    got = (head.features, head.num_layers, head.dropout, head.n_fft)
    want = tuple(model[k] for k in ('hidden_size', 'rnn_layers', 'dropout'))
    assert got == (*want, find(expert, 'n_fft'))
  elif recipe.head == 'translation':
    got = head.depth, head.decoder_depth, head.max_tokens
    names = ('encoder_layers', 'decoder_layers', 'max_target_positions')
    assert got == tuple(model[k] for k in names)
    assert model['arch'] == 's2t_transformer'  # 512 wide, 8 heads, 2048 hidden
    assert (head.width, head.heads, head.hidden, head.kernels) == (512, 8, 2048, (5, 5))
    search = find(expert, 'generatorrc')
    assert (search['beam'], search['max_len_b']) == (BEAMS, MAX_TOKENS)
    criterion = find(expert, 'criterionrc')
    assert criterion == dict(criterion='label_smoothed_cross_entropy', label_smoothing=0.1)
    smoothing = inspect.signature(label_smoothed_sentences).parameters['label_smoothing']
    assert smoothing.default == criterion['label_smoothing']
  elif recipe.head == 'voice':
    assert head.width == model['hidden_dim'] and head.cells == model['lstmp_layers']
    assert (head.prenet, head.prenet_layers) == (model['prenet_dim'], model['prenet_layers'])
    rates = (head.prenet_dropout, head.cell_dropout)
    assert rates == (model['prenet_dropout_rate'], model['lstmp_dropout_rate'])
    mel, bank = LogMel(), find(expert, 'fbank_config')
    assert bank['win_length'] is None and bank['window'] == 'hann'
    names = ('fs', 'n_fft', 'n_shift', 'n_mels', 'fmin', 'fmax', 'gl_iters')
    assert dataclasses.astuple(mel) == tuple(bank[k] for k in names)
  else:
    pytest.fail(f'head {recipe.head} of {name} is not compared')
