"""Objectives of SUPERB on cases that can be counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.objectives import autoregressive, permutation, reconstruction, speakers, supervised


def test_ctc_by_symbols():
  logits = jax.random.normal(jax.random.key(0), (2, 9, 4))
  out = {'logits': logits, 'frame_mask': jnp.arange(9) < jnp.array([9, 2])[:, None]}
  batch = {'tokens': jnp.array([[1, 2, 3, -1], [1, 1, -1, -1]])}
  whole, _ = supervised.ctc(out, batch)
  per_symbol, metrics = supervised.ctc(out, batch, per_symbol=True)
  # The second clip is too short for a repeat: it is 0 and counts in the mean.
  np.testing.assert_allclose(per_symbol, whole / 3, rtol=1e-6)
  np.testing.assert_allclose(metrics['ctc_per_symbol'], 2 * whole / 5, rtol=1e-6)


def test_slots():
  logits = jnp.array([[5.0, 0.0, 0.0, 5.0, 0.0]])
  right = {'label': jnp.array([[0, 1]])}
  loss, metrics = supervised.slot_cross_entropy({'logits': logits}, right, slots=(2, 3))
  want = -jax.nn.log_softmax(logits[0, :2])[0] - jax.nn.log_softmax(logits[0, 2:])[1]
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  assert metrics['accuracy'] == 1.0
  half = {'label': jnp.array([[0, 0]])}
  _, metrics = supervised.slot_cross_entropy({'logits': logits}, half, slots=(2, 3))
  assert metrics['accuracy'] == 0.0
  head = dict(name='utterance', args=dict(slots=(2, 3)))
  config = dict(model=dict(args=dict(head=head)), objective=dict(args=dict(slots=(3, 2))))
  with pytest.raises(InputError, match='set both alike'):
    supervised.check_slot_cross_entropy(config)


def test_margins():
  out, batch = {'cosine': jnp.array([[0.5, 0.2, -0.3]])}, {'label': jnp.array([0])}
  loss, metrics = speakers.additive_margin_softmax(out, batch, s=2.0, m=0.4)
  want = -jax.nn.log_softmax(2.0 * jnp.array([0.1, 0.2, -0.3]))[0]
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  assert metrics['accuracy'] == 1.0  # without the margin
  loss, _ = speakers.additive_angular_margin_softmax(out, batch, s=2.0, m=0.3)
  turned = np.cos(np.arccos(0.5) + 0.3)
  want = -jax.nn.log_softmax(2.0 * jnp.array([turned, 0.2, -0.3]))[0]
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  rows = {'cosine': jnp.tile(out['cosine'], (2, 1)), 'label': jnp.array([0, 2])}
  some = {'label': rows['label'], 'valid': jnp.array([True, False])}
  np.testing.assert_allclose(
    speakers.additive_margin_softmax(rows, some)[0],
    speakers.additive_margin_softmax(out, batch)[0],
    rtol=1e-6,
  )


def test_the_order_of_speakers_is_free():
  label = jnp.array([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
  batch = {'label': label, 'label_mask': jnp.array([[True, True, True, False]])}
  logits = 20.0 * (label[..., ::-1] - 0.5)
  loss, metrics = permutation.permutation_invariant_bce({'logits': logits}, batch)
  assert loss < 1e-3 and metrics['frame_accuracy'] == 1.0 and metrics['der'] == 0.0
  wrong = {'logits': logits.at[0, 0].set(-10.0)}  # one of four speakers of frames is missed
  _, metrics = permutation.permutation_invariant_bce(wrong, batch)
  assert metrics['der'] == 0.25 and float(metrics['frame_accuracy']) == pytest.approx(5 / 6)


def test_masks():
  key = jax.random.split(jax.random.key(1), 2)
  mixture = jax.random.normal(key[0], (1, 5, 4, 2))
  sources = jax.random.normal(key[1], (1, 2, 5, 4, 2))
  size = jnp.sqrt((sources**2).sum(-1)) / jnp.sqrt((mixture**2).sum(-1))[:, None]
  real = jnp.arange(5)[None] < 4
  out = dict(mixture=mixture, sources=sources, masks=size[:, ::-1], mask_frames=real)
  loss, _ = permutation.phase_sensitive_mask(out, {}, kind='AM')
  assert loss < 1e-10  # amplitudes fit, in the other order
  out['masks'] = jnp.zeros_like(size)
  loss, _ = permutation.phase_sensitive_mask(out, {}, kind='AM')
  want = (sources[:, :, :4] ** 2).sum() / 4 / 2
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  with pytest.raises(ValueError, match='NPSM'):
    permutation.phase_sensitive_mask(out, {}, kind='IRM')


def test_label_smoothing_of_sentences():
  logits = jax.random.normal(jax.random.key(2), (2, 3, 5))
  targets = jnp.array([[1, 4, 2], [2, -1, -1]])
  loss, metrics = autoregressive.label_smoothed_sentences({'logits': logits}, {'targets': targets})
  p = -jax.nn.log_softmax(logits)
  total = 0.0
  for row, step, target in ((0, 0, 1), (0, 1, 4), (0, 2, 2), (1, 0, 2)):
    others = p[row, step].sum() - p[row, step, target]
    total += 0.9 * p[row, step, target] + 0.1 / 4 * others
  np.testing.assert_allclose(loss, total / 2, rtol=1e-5)
  assert metrics['sample_size'] == 2


@pytest.mark.slow
def test_normalised_l1():
  out = {'mel': jnp.ones((2, 4, 3)), 'mel_frames': jnp.ones((2, 4), bool),
         'target_scale': jnp.array([1.0, 2.0, 4.0])}  # fmt: skip
  batch = {'mel': jnp.zeros((2, 3, 3)), 'mel_mask': jnp.array([[True] * 3, [True, False, False]])}
  loss, _ = reconstruction.normalised_l1(out, batch)
  np.testing.assert_allclose(loss, (1 + 0.5 + 0.25) / 3, rtol=1e-6)
  # With fewer frames than targets those of the frames count.
  longer = {'mel': jnp.zeros((2, 5, 3)), 'mel_mask': jnp.zeros((2, 5), bool)}
  np.testing.assert_allclose(reconstruction.normalised_l1(out, longer)[0], loss, rtol=1e-6)
