"""HuBERT and WavLM: which unit a frame is to predict, what is refused, WavLM's bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.models.hubert import Hubert
from research.models.speech import block_frames
from research.models.wavlm import WavLM
from research.nn.relative_bias import Gate
from research.objectives.prediction import masked_units

TINY = dict(
  size='tiny', channels=16, width=16, depth=1, heads=2, hidden=16, conv_pos_groups=4, final_dim=8,
)  # fmt: skip


def batch_of(b, samples, units):
  audio = np.random.default_rng(0).normal(size=(b, samples)).astype(np.float32)
  return {'audio': audio, 'audio_mask': np.ones(audio.shape, bool), 'units': units}


def run(model, batch):
  variables = jax.jit(model.init)(jax.random.key(0), batch)
  rngs = {'mask': jax.random.key(1)}
  return variables, jax.jit(model.apply)(variables, batch, rngs=rngs)


@pytest.mark.slow
@pytest.mark.parametrize('label_rate', [50.0, 100.0, 200.0])
def test_frames_have_the_units_that_begin_with_them(label_rate):
  ratio = int(label_rate / 50)
  model = Hubert(**TINY, num_clusters=500, label_rate=label_rate, predict_unmasked=True)
  units = np.arange(2 * 19 * ratio).reshape(2, -1, 1).astype(np.int32)
  units[1, 11 * ratio :] = -1  # The second clip is shorter.
  batch = batch_of(2, 400 + 320 * 19, units)
  batch['audio_mask'][1, 400 + 320 * 11 :] = False
  _, out = run(model, batch)
  real = np.asarray(out['masked'] | out['unmasked'])
  # Twenty frames, of which the last has no unit; twelve in the second clip.
  np.testing.assert_array_equal(real.sum(axis=1), [19, 11])
  want = units[:, ::ratio, 0][real[:, :19]] + model.specials
  np.testing.assert_array_equal(np.asarray(out['unit_targets'])[:, :, 0][real], want)
  assert not np.any(out['masked'] & out['unmasked'])
  assert out['masked'].sum() > 5


@pytest.mark.slow
def test_loss_is_a_softmax_over_all_units_of_a_set():
  model = Hubert(**TINY, num_clusters=(5, 7), specials=2)
  units = np.random.default_rng(1).integers(0, 5, (2, 30, 2)).astype(np.int32)
  batch = batch_of(2, 400 + 320 * 29, units)
  batch['valid'] = np.array([True, False])
  _, out = run(model, batch)
  loss, metrics = masked_units(out, batch, logit_temp=0.2, penalty=0.0)
  used = np.asarray(out['masked'])[0]
  total = 0.0
  for i in range(2):
    logits = np.asarray(out['similarities'][i], np.float64)[0][used] / 0.2
    target = np.asarray(out['unit_targets'])[0][used][:, i]
    assert logits.shape[1] == (5, 7)[i] + 2
    total -= (logits[np.arange(len(target)), target] - np.log(np.exp(logits).sum(axis=1))).sum()
  np.testing.assert_allclose(loss, total / used.sum(), rtol=1e-5)
  assert int(metrics['sample_size']) == used.sum() > 0
  with pytest.raises(InputError, match='predict_unmasked=True'):
    masked_units(out, batch, pred_nomask_weight=0.5)


@pytest.mark.parametrize(
  ('args', 'says'),
  [
    (dict(num_clusters=()), 'every set of units needs some'),
    (dict(num_clusters=(5, 0)), 'every set of units needs some'),
    (dict(label_rate=75.0), '50 frames a second: give a whole multiple'),
    (dict(label_rate=25.0), 'whole multiple'),
    (dict(padding='blocks'), "padding of HuBERT 'blocks'"),
    (dict(size='huge'), "size of HuBERT 'huge'"),
  ],
)
def test_settings_that_cannot_be(args, says):
  with pytest.raises(InputError, match=says):
    Hubert(**{**TINY, **args})


@pytest.mark.slow
def test_units_that_are_missing_or_too_many():
  model = Hubert(**TINY, num_clusters=5)
  batch = batch_of(1, 8000, np.zeros((1, 24, 1), np.int32))
  variables, _ = run(model, batch)
  rngs = {'mask': jax.random.key(0)}
  without = {k: v for k, v in batch.items() if k != 'units'}
  with pytest.raises(InputError, match=r'launch\.label_kmeans and set data\.fields\.units'):
    model.apply(variables, without, rngs=rngs)
  with pytest.raises(InputError, match=r'1 sets of units \(num_clusters=5\), but the batch has 2'):
    model.apply(variables, batch | {'units': np.zeros((1, 24, 2), np.int32)}, rngs=rngs)


def test_blocks_of_padding():
  mask = np.arange(8113) < np.array([8113, 4000, 330])[:, None]
  got = np.asarray(block_frames(jnp.asarray(mask), 25))
  # Blocks of 324 samples: frames that the receptive field alone would not count.
  np.testing.assert_array_equal(got.sum(axis=1), [25, 13, 2])


def test_few_buckets_and_near_distances_are_refused():
  with pytest.raises(InputError, match='a quarter'):
    WavLM(**TINY, buckets=2)
  with pytest.raises(InputError, match='distances beyond'):
    WavLM(**TINY, buckets=320, max_distance=80)


def test_the_gate_of_nothing():
  """sigmoid(0) = 1/2 twice and a scale of 1: 1/2 (1/2 - 1) + 2 = 7/4."""
  x = jax.random.normal(jax.random.key(0), (2, 5, 8))
  gate = Gate(2)
  variables = gate.init(jax.random.key(0), x)
  variables['params']['kernel'] = jnp.zeros_like(variables['params']['kernel'])
  np.testing.assert_allclose(gate.apply(variables, x), np.full((2, 5, 2), 1.75))


@pytest.mark.slow
def test_wavlm_without_buckets_is_hubert():
  batch = batch_of(2, 8000, np.zeros((2, 24, 1), np.int32))
  batch['span_mask'] = np.arange(24) % 3 == np.zeros((2, 1))
  hubert, plain, wavlm = (
    models.get(name)(**TINY, num_clusters=5, **args)
    for name, args in (('hubert', {}), ('wavlm', dict(buckets=0)), ('wavlm', {}))
  )
  variables, want = run(hubert, batch)
  _, got = run(plain, batch)
  np.testing.assert_array_equal(got['tokens'], want['tokens'])
  biased, _ = run(wavlm, batch)
  extra = {'relative_bias', 'gate'}
  assert extra & set(biased['params']['encoder']) == {'relative_bias'}
  assert 'gate' in biased['params']['encoder']['blocks_0']['attn']
  assert 'gate' not in variables['params']['encoder']['blocks_0']['attn']
