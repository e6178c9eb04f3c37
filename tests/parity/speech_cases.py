"""Golden cases of wav2vec 2.0, HuBERT and WavLM as models and batches of ours, of every kind."""

import jax
import jax.numpy as jnp
import numpy as np

from research.weights import conversion
from tests.models.toy import encoder_of
from tests.parity.golden import Case, assert_close

SYSTEMS = ('wav2vec2', 'hubert', 'wavlm')


def kind(name):
  """Cases whose kind ends so."""
  return lambda case: case.info['kind'].endswith(name)


def build(case: Case, config=None, **args):
  """(model, variables) of a case, dropout as it was recorded; `config` is the encoder's."""
  config = case.config if config is None else config
  args = dict(
    padding='published',
    dropout=config['dropout'],
    attention_dropout=config['attention_dropout'],
    activation_dropout=config['activation_dropout'],
    input_dropout=config['dropout_input'],
    layerdrop=config['encoder_layerdrop'],
    feature_grad_mult=config['feature_grad_mult'],
    mask_prob=config['mask_prob'],
    mask_length=config['mask_length'],
    mask_channel_prob=config['mask_channel_prob'],
    mask_channel_length=config['mask_channel_length'],
    frontend={'normalise': False},  # The inputs are what the model receives.
    **args,
  )
  # Heads, the order of norms, positions and the shapes of convolutions come from the configuration.
  model, variables = conversion.convert_files(case.system, case.weights, {'cfg': config}, args)
  encoder = encoder_of(model)
  assert (encoder.heads, encoder.pre_norm) == (
    config['encoder_attention_heads'],
    config['layer_norm_first'],
  )
  return model, jax.tree.map(jnp.asarray, variables)


def pretraining_args(config):
  """Arguments of the pre-training model alone."""
  if not config.get('quantize_targets', True):
    return dict(negatives=config['num_negatives'])
  names = ('temperature_start', 'temperature_end', 'temperature_decay')
  return dict(
    groups=config['latent_groups'],
    negatives=config['num_negatives'],
    **dict(zip(names, map(float, config['latent_temp']))),
  )


def batch_of(case: Case):
  """What the model hears, and where."""
  audio = case.inputs['waveform']
  padded = case.inputs.get('padding_mask', np.zeros(audio.shape)) > 0
  return {'audio': audio, 'audio_mask': ~padded}


def check_gradients(theirs, case: Case, times: float = 1.0):
  """Recorded gradients, of `times` our loss; `theirs` are ours under the original names."""
  for name in case.info['run']['grads']:
    assert_close(theirs[name] * times, case.outputs[f'grad/{name}'], what=f'gradient of {name}')
