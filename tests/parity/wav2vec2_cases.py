"""Golden cases of wav2vec 2.0 as models and batches of ours, for every kind of case."""

import ast

import jax
import jax.numpy as jnp
import numpy as np

from research.weights import convert
from tests.parity.golden import Case, assert_close

LAYERS = [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]


def kind(name):
  """Cases of one kind."""
  return lambda case: case.info['kind'] == name


def build(case: Case, config=None, **args):
  """(model, variables) of a case, dropout as it was recorded; `config` is the encoder's."""
  config = case.config if config is None else config
  assert [shape[1:] for shape in _shapes(config)] == LAYERS
  args = dict(
    heads=config['encoder_attention_heads'],
    pre_norm=config['layer_norm_first'],
    padding='published',
    dropout=config['dropout'],
    attention_dropout=config['attention_dropout'],
    activation_dropout=config['activation_dropout'],
    input_dropout=config['dropout_input'],
    layer_drop=config['encoder_layerdrop'],
    gradient_scale=config['feature_grad_mult'],
    mask_prob=config['mask_prob'],
    mask_length=config['mask_length'],
    channel_prob=config['mask_channel_prob'],
    channel_length=config['mask_channel_length'],
    frontend={'normalise': False},  # The inputs are what the model receives.
    **args,
  )
  model, variables = convert('wav2vec2', case.weights, **args)
  return model, jax.tree.map(jnp.asarray, variables)


def pretraining_args(config):
  """Arguments of the pre-training model alone."""
  names = ('temperature_start', 'temperature_end', 'temperature_decay')
  return dict(
    groups=config['latent_groups'],
    negatives=config['num_negatives'],
    **dict(zip(names, map(float, config['latent_temp']))),
  )


def _shapes(config):
  for part in config['conv_feature_layers'].split('+'):
    shape, _, times = part.partition('*')
    yield from ast.literal_eval(shape.strip()) * int(times or 1)


def batch_of(case: Case):
  """What the model hears, and where."""
  audio = case.inputs['waveform']
  padded = case.inputs.get('padding_mask', np.zeros(audio.shape)) > 0
  return {'audio': audio, 'audio_mask': ~padded}


def check_gradients(theirs, case: Case, times: float = 1.0):
  """Recorded gradients, of `times` our loss; `theirs` are ours under the original names."""
  for name in case.info['run']['grads']:
    assert_close(theirs[name] * times, case.outputs[f'grad/{name}'], what=f'gradient of {name}')
