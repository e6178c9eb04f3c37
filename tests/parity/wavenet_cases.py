"""Models of the golden cases of WaveNet, their inputs and their gradients by original names."""

import jax
import jax.numpy as jnp
import numpy as np

from research.weights import conversion
from research.weights.releases import tensorflow_wavenet


def is_torch(case):
  return case.config.get('kind', '').startswith('wn_')


def loaded(case):
  """(model, variables) of the weights of a case."""
  own = case.config['model']
  if not is_torch(case):
    return conversion.convert('tensorflow_wavenet', case.weights, dilations=own['dilations'])
  args = dict(stacks=own['stacks'])
  if own.get('cin_channels', -1) > 0 and not own.get('upsample_conditional_features'):
    args['scales'] = [case.config.get('hop_size', 1)]
  return conversion.convert('wavenet_vocoder', case.weights, **args)


def conditions(case, model, variables):
  """(local, speakers) at the rate of samples."""
  own, given = case.config['model'], case.inputs
  speaker = given.get('g', given.get('speaker'))
  speakers = None
  if speaker is not None:
    batch = {'speaker': np.asarray(speaker).reshape(-1)}
    speakers = model.apply(variables, batch, method='speaker_vectors')
  if 'c' not in given:
    return None, speakers
  frames = jnp.asarray(given['c'].swapaxes(1, 2))
  if not own.get('upsample_conditional_features'):
    return frames, speakers
  return model.apply(variables, frames, method='upsampled'), speakers


def original(model, tree, release):
  """A tree like the variables, by original names; for ibab's, those of `WaveNetModel.variables`."""
  found = conversion.revert(release, model, jax.tree.map(np.asarray, tree))
  if release == 'wavenet_vocoder':
    return found
  back = {v: k for k, v in tensorflow_wavenet._RENAMED.items()}
  named = {}
  for key, value in found.items():
    place, _, last = key.removeprefix('wavenet/').rpartition('/')
    order = tensorflow_wavenet.BIASES if 'stack' in place else ('postprocess1', 'postprocess2')
    if last.startswith('Variable'):
      last = f'{order[int(last[9:] or 0)]}_bias'
    named[f'{place}/{back.get(last, last)}'] = value
  return named
