"""wav2vec 2.0 for CTC: masks, what is frozen and until when, padded frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.models.finetuned import Finetuned, route
from research.objectives.supervised import ctc
from tests.contract import wave

TINY = dict(
  size='tiny', channels=24, width=32, depth=2, heads=2, hidden=64, conv_pos_groups=4,
  vocabulary=('_', *'abcd'), activation_dropout=0.0, layerdrop=0.0, mask_channel_length=8,
)  # fmt: skip
PARTS = {'encoder': {'name': 'wav2vec2'}, 'head': {'name': 'ctc'}}
RNGS = {name: jax.random.key(i) for i, name in enumerate(('mask', 'dropout'))}


def make(**changes):
  return Finetuned(**route(PARTS, {**TINY, **changes}))


def clips(lengths=(9000, 6000)):
  audio = np.zeros((len(lengths), max(lengths)), np.float32)
  for i, n in enumerate(lengths):
    audio[i, :n] = wave(i, n)
  return {
    'audio': audio,
    'audio_mask': np.arange(audio.shape[1]) < np.asarray(lengths)[:, None],
    'tokens': np.array([[1, 2, -1], [3, 3, 4]], np.int32)[: len(lengths)],
  }


def start(model):
  return jax.jit(model.init)(jax.random.key(0), clips())


@pytest.mark.slow
def test_padded_frames_are_certainly_blank():
  model = make()
  out = jax.jit(model.apply)(start(model), clips())
  padded = np.asarray(out['logits'])[~np.asarray(out['frame_mask'])]
  assert len(padded)
  np.testing.assert_array_equal(padded, np.tile([0.0, *[-np.inf] * 4], (len(padded), 1)))
  assert np.isfinite(np.asarray(out['logits'])[np.asarray(out['frame_mask'])]).all()


@pytest.mark.slow
def test_logits_of_a_clip_are_the_same_alone_padded_and_in_a_batch():
  """Padded by one second, by ten, and as one of eight: at most 1e-5 apart."""
  model = make()
  variables = start(model)
  call = jax.jit(model.apply)
  batch = clips((9000, 400, 720, 16_000, 12_345, 5000, 3000, 7777))
  alone = clips((9000,))
  want = np.asarray(call(variables, {k: alone[k] for k in ('audio', 'audio_mask')})['logits'])
  n = want.shape[1]
  for rows, extra in ((1, 16_000), (1, 160_000), (8, 0)):
    audio, mask = batch['audio'][:rows], batch['audio_mask'][:rows]
    if rows == 1:
      audio, mask = alone['audio'], alone['audio_mask']
    padded = {
      'audio': np.pad(audio, ((0, 0), (0, extra)), constant_values=np.nan),
      'audio_mask': np.pad(mask, ((0, 0), (0, extra))),
    }
    got = np.asarray(call(variables, padded)['logits'])
    np.testing.assert_allclose(got[:1, :n], want, atol=1e-5)


@pytest.mark.slow
def test_masked_frames_are_the_token_and_masked_channels_are_zero():
  model = make(mask_channel_prob=0.5, mask_length=3, mask_seconds=2 * 9000 / 16_000)
  variables = start(model)
  out = jax.jit(lambda v, b: model.apply(v, b, train=True, rngs=RNGS))(variables, clips())
  plain = jax.jit(model.apply)(variables, clips())
  x, y = np.asarray(out['projected']), np.asarray(plain['projected'])
  channels = (x == 0.0).all(axis=1)
  assert (channels.sum(axis=1) > 0).all() and len(set(channels.sum(axis=1))) == 1
  token = np.asarray(variables['params']['mask_token'])
  for row in range(2):
    kept = ~channels[row]
    masked = (x[row][:, kept] == token[kept]).all(axis=1)
    same = (x[row][:, kept] == y[row][:, kept]).all(axis=1)
    assert masked.any() and same.any() and (masked ^ same).all()
  # In evaluation nothing is masked.
  assert not np.any(y == 0.0)


@pytest.mark.slow
def test_clips_of_so_many_seconds_share_the_count_of_masked_frames():
  """So many clips as fit, padding included: what a GPU of fairseq holds."""
  batch = clips((9000, 8000, 9000, 7000))

  def masked(**settings):
    model = make(mask_prob=0.5, mask_length=3, **settings)
    token = np.asarray(start(model)['params']['mask_token'])
    x = jax.jit(lambda v, b: model.apply(v, b, train=True, rngs=RNGS))(start(model), batch)
    return (np.asarray(x['projected']) == token).all(axis=-1).sum(axis=1)

  alone, pairs, every = (masked(mask_seconds=s) for s in (None, 2.9 * 9000 / 16_000, float('inf')))
  assert (alone > 0).all() and len(set(alone)) > 1
  assert pairs.tolist() == np.repeat([alone[:2].min(), alone[2:].min()], 2).tolist()
  assert every.tolist() == [alone.min()] * 4
  with pytest.raises(InputError, match='mask_seconds=0'):
    make(mask_seconds=0)


def gradients(model, variables, updates):
  def loss(params):
    rest = {'counters': {'updates': jnp.int32(updates)}}
    out = model.apply({'params': params, **rest}, clips(), train=True, rngs=RNGS)
    return ctc(out, clips())[0]

  found = jax.jit(jax.grad(loss))(variables['params'])
  return {k: any(np.any(x) for x in jax.tree.leaves(v)) for k, v in found.items()}


@pytest.mark.slow
def test_only_the_head_learns_until_the_encoder_is_freed():
  model = make(freeze_updates=3, mask_prob=0.5, mask_length=2)
  variables = start(model)
  early, late = gradients(model, variables, 2), gradients(model, variables, 3)
  assert {k for k, moved in early.items() if moved} == {'head'}
  assert {k for k, moved in late.items() if not moved} == {'feature_extractor'}


@pytest.mark.slow
def test_frozen_updates_are_counted_and_masks_act_all_the_same():
  model = make(freeze_updates=3, mask_length=3)
  variables = start(model)
  out, counters = model.apply(variables, clips(), train=True, rngs=RNGS, mutable=['counters'])
  assert int(counters['counters']['updates']) == 1
  plain = model.apply(variables, clips())
  assert not np.allclose(out['projected'], plain['projected'])


@pytest.mark.slow
def test_the_convolutions_learn_where_they_are_asked_to():
  model = make(feature_grad_mult=1.0, mask_prob=0.5, mask_length=2)
  assert all(gradients(model, start(model), 0).values())


def test_frozen_convolutions_are_the_usual():
  assert make().upstream.feature_grad_mult == 0.0 and make().frozen == ('^feature_extractor/',)
  assert make(feature_grad_mult=0.3).upstream.feature_grad_mult == 0.3
  assert make(feature_grad_mult=0.3).frozen == ()


def test_impossible_settings_are_refused():
  with pytest.raises(InputError, match='blank=5'):
    make(blank=5)
