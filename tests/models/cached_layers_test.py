"""Cached layers under a head equal the encoder itself under that head."""

import jax
import numpy as np
import pytest

from research import models
from research.errors import InputError

FBANK = dict(name='fbank', args=dict(frontend=dict(name='superb_fbank_no_cmvn')))
HEAD = dict(name='utterance', args=dict(classes=3, width=8))


def made(encoder, **args):
  return models.get('finetuned')(encoder=encoder, head=HEAD, layer='mix', freeze=True, **args)


def batch(frames, layers=1, width=240, pad=0.0):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((len(frames), max(frames), layers, width)).astype(np.float32)
  mask = np.arange(max(frames)) < np.array(frames)[:, None]
  return {'layers': np.where(mask[..., None, None], x, pad), 'layers_mask': mask}


@pytest.mark.slow
def test_equals_the_encoder():
  rng = np.random.default_rng(0)
  audio = rng.standard_normal((2, 8000)).astype(np.float32)
  given = {'audio': audio, 'audio_mask': np.arange(8000) < np.array([[8000], [5000]])}
  whole = made(FBANK)
  variables = whole.init(jax.random.key(0), given)
  encoded = models.get('fbank')(**FBANK['args']).hidden_states(given)
  cached = made(dict(name='cached_layers', args=dict(layers=1, width=240, hop=160)))
  layers = {
    'layers': np.moveaxis(np.asarray(encoded['layers']), 0, 2),
    'layers_mask': np.asarray(encoded['frame_mask']),
  }
  got = cached.apply(variables, layers)['logits']
  np.testing.assert_allclose(got, whole.apply(variables, given)['logits'], atol=1e-6)


def test_the_mix_learns_and_padding_does_not_count():
  model = made(dict(name='cached_layers', args=dict(layers=4, width=6)))
  given = batch([5, 3], layers=4, width=6)
  variables = model.init(jax.random.key(0), given)
  want = model.apply(variables, given)['logits']
  nan = batch([5, 3], layers=4, width=6, pad=np.nan)
  loss = lambda params: (model.apply({**variables, 'params': params}, nan)['logits'] ** 2).sum()  # noqa: E731
  grad = jax.grad(loss)(variables['params'])
  assert np.abs(grad['layer_mix']).min() > 0
  np.testing.assert_allclose(model.apply(variables, nan)['logits'], want, atol=1e-6)


def test_other_layers_are_refused():
  model = made(dict(name='cached_layers', args=dict(layers=4, width=6)))
  variables = model.init(jax.random.key(0), batch([5], layers=4, width=6))
  with pytest.raises(InputError, match='3 layers of width 6, the model takes 4 of 6'):
    model.apply(variables, batch([5], layers=3, width=6))
