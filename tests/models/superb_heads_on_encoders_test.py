"""Every head of SUPERB on an encoder under its objective: it builds from the encoder's example, and
a step of training has a loss and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import objectives
from research.errors import InputError
from research.models.finetuned import Finetuned
from tests.models.subjects import SPEECH

SAMPLES, FRAMES, HOP = (16000, 12000), 49, 320
TASKS = {
  'utterance': ('cross_entropy', dict(classes=3)),
  'phones': ('ctc', {}),
  'recurrent_ctc': ('ctc', dict(width=8, features=8)),
  'x_vector': ('additive_margin_softmax', dict(speakers=3, width=8, pooled_width=8)),
  'diarization': ('permutation_invariant_bce', dict(features=8)),
  'masks': ('phase_sensitive_mask', dict(signals=2, features=8, num_layers=1)),
  'translation': ('label_smoothed_sentences', dict(vocab_size=9, width=8, heads=2, hidden=8)),
  'voice': ('normalised_l1', dict(width=8, channels=8, prenet=16)),
}


def make(head, encoder='hubert', **args):
  own = {} if encoder == 'fbank' else SPEECH
  spec = dict(name=head, args=TASKS[head][1])
  return Finetuned(
    encoder=dict(name=encoder, args=own), head=spec, layer='mix', freeze=True, **args
  )


def batch_for(head):
  random = np.random.default_rng(0)
  audio_mask = np.arange(max(SAMPLES)) < np.array(SAMPLES)[:, None]
  batch = {'audio': random.standard_normal(audio_mask.shape).astype(np.float32) * audio_mask}
  batch['audio_mask'] = audio_mask
  frames = np.arange(FRAMES + 1) < np.array(SAMPLES)[:, None] // HOP
  more = {
    'utterance': {'label': np.array([0, 2], np.int32)},
    'phones': {'tokens': np.array([[5, 6, 1], [7, 1, -1]], np.int32)},
    'recurrent_ctc': {'tokens': np.array([[5, 6, 2], [7, 2, -1]], np.int32)},
    'x_vector': {'label': np.array([0, 2], np.int32)},
    'diarization': {'label': frames[:, :, None] * np.ones((1, 1, 2), np.float32),
                    'label_mask': frames},
    'masks': {'sources': np.stack([batch['audio']] * 2, axis=1)},
    'translation': {'targets': np.array([[5, 6, 2], [7, 2, -1]], np.int32)},
    'voice': {'mel': random.standard_normal((2, 90, 80)).astype(np.float32),
              'mel_mask': np.ones((2, 90), bool)},
  }  # fmt: skip
  return jax.tree.map(jnp.asarray, batch | more[head])


def step_of(head, model):
  objective, batch = objectives.get(TASKS[head][0]), batch_for(head)
  example = {k: jnp.zeros(v.shape, v.dtype) for k, v in model.example().items()}
  rngs = dict(zip(('dropout', 'augment', 'mask'), jax.random.split(jax.random.key(1), 3)))

  def loss(params, rest):
    variables = {'params': params, **rest}
    out, _ = model.apply(variables, batch, True, rngs=rngs, mutable=['batch_stats', 'counters'])
    return objective(out, batch)[0]

  def run():
    variables = dict(model.init(jax.random.key(0), example))
    return jax.value_and_grad(loss)(variables.pop('params'), variables)

  return run


@pytest.mark.parametrize('head', TASKS)
def test_shapes(head):
  loss, gradients = jax.eval_shape(step_of(head, make(head)))
  assert loss.shape == () and gradients['layer_mix'].shape == (3,)


@pytest.mark.slow
@pytest.mark.parametrize('head', TASKS)
def test_a_step(head):
  model = make(head)
  loss, gradients = jax.jit(step_of(head, model))()
  assert np.isfinite(loss) and loss > 0
  learns = {*model.top.PARAMETERS, 'layer_mix'}
  for name, tree in gradients.items():
    values = [np.asarray(x) for x in jax.tree.leaves(tree)]
    assert all(np.isfinite(x).all() for x in values), name
    assert any(np.any(x) for x in values) == (name in learns), name


def test_filter_banks():
  model = make('utterance', 'fbank')
  loss, gradients = jax.eval_shape(step_of('utterance', model))
  assert loss.shape == () and gradients['layer_mix'].shape == (1,)
  assert gradients['projector']['kernel'].shape == (240, 256)


def test_layers_are_normed_where_they_are_mixed():
  model = make('utterance', normalize_layers=True)
  assert jax.eval_shape(step_of('utterance', model))[0].shape == ()
  with pytest.raises(InputError, match='normalize_layers'):
    Finetuned(encoder=dict(name='fbank'), normalize_layers=True)
