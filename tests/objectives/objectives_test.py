"""Objectives against values computed by hand, with and without jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import objectives
from research.errors import InputError
from research.objectives.contrastive import wav2vec_contrastive
from research.objectives.prediction import masked_codes
from research.objectives.reconstruction import masked_patch_mse, normalise_patches
from research.objectives.supervised import binary_cross_entropy, cross_entropy


def both(function, *args, **kwargs):
  """The result, the same with and without jit."""
  eager = function(*args, **kwargs)
  compiled = jax.jit(lambda *a: function(*a, **kwargs))(*args)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), eager, compiled)
  return eager


def test_patches_are_normalised_with_the_unbiased_variance():
  x = normalise_patches(jnp.array([[[1.0, 2.0, 3.0, 6.0]]]))
  variance = (4 + 1 + 0 + 9) / 3
  np.testing.assert_allclose(
    x[0, 0], np.array([-2, -1, 0, 3]) / (variance + 1e-6) ** 0.5, rtol=1e-6
  )


def reconstruction():
  target = jnp.array([[[0.0, 2.0], [1.0, 1.0]], [[4.0, 4.0], [0.0, 0.0]]])
  pred = jnp.array([[[1.0, 2.0], [9.0, 9.0]], [[4.0, 1.0], [2.0, 2.0]]])
  return {'pred': pred, 'target': target, 'mask': jnp.array([[1.0, 0.0], [1.0, 1.0]])}


def test_masked_patch_mse():
  loss, metrics = both(masked_patch_mse, reconstruction(), {}, norm_pix=False)
  # Masked patches have mean squared errors 0.5, 4.5 and 4; the unmasked one does not count.
  np.testing.assert_allclose(loss, 3.0, rtol=1e-6)
  np.testing.assert_allclose(metrics['mask_fraction'], 0.75)
  valid = {'valid': jnp.array([True, False])}
  np.testing.assert_allclose(
    both(masked_patch_mse, reconstruction(), valid, norm_pix=False)[0], 0.5
  )
  loss, _ = both(masked_patch_mse, reconstruction(), valid)
  z = 1 / np.sqrt(2 + 1e-6)
  np.testing.assert_allclose(loss, ((1 + z) ** 2 + (2 - z) ** 2) / 2, rtol=1e-5)


def test_the_mask_fraction_is_of_real_patches():
  """Padding is neither masked nor counted, and fillers do not count."""
  real = jnp.array([[True, False], [True, True]])
  out = reconstruction() | {'patch_mask': real}
  _, metrics = both(masked_patch_mse, out, {}, norm_pix=False)
  np.testing.assert_allclose(metrics['mask_fraction'], 1.0)
  _, metrics = both(masked_patch_mse, out, {'valid': jnp.array([True, False])}, norm_pix=False)
  np.testing.assert_allclose(metrics['mask_fraction'], 1.0)
  out['mask'] = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  _, metrics = both(masked_patch_mse, out, {}, norm_pix=False)
  np.testing.assert_allclose(metrics['mask_fraction'], 2 / 3)


def test_collapse_shows_in_the_metrics():
  out = reconstruction() | {'latent': jnp.ones((2, 3, 4)), 'latent_mask': jnp.ones((2, 2), bool)}
  _, metrics = both(masked_patch_mse, out, {})
  assert float(metrics['latent_std']) == 0
  out['latent'] = out['latent'] * jnp.array([1.0, -1.0])[:, None, None]
  _, metrics = both(masked_patch_mse, out, {})
  np.testing.assert_allclose(metrics['latent_std'], 1.0)


LOGITS = jnp.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
LOG_P = np.log(np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True))


def test_cross_entropy():
  loss, metrics = both(cross_entropy, {'logits': LOGITS}, {'label': jnp.array([0, 2])})
  np.testing.assert_allclose(loss, -(LOG_P[0, 0] + LOG_P[1, 2]) / 2, rtol=1e-6)
  np.testing.assert_allclose(metrics['accuracy'], 0.5)
  soft = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.25, 0.75]])
  loss, _ = both(cross_entropy, {'logits': LOGITS}, {'label': soft})
  np.testing.assert_allclose(loss, -(np.asarray(soft) * LOG_P).sum() / 2, rtol=1e-6)
  batch = {'label': jnp.array([0, 2]), 'valid': jnp.array([True, False])}
  loss, metrics = both(cross_entropy, {'logits': LOGITS}, batch, label_smoothing=0.3)
  np.testing.assert_allclose(loss, -(0.7 * LOG_P[0, 0] + 0.1 * LOG_P[0].sum()), rtol=1e-6)
  assert float(metrics['accuracy']) == 1


def test_binary_cross_entropy():
  y = jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.5]])
  loss, metrics = both(binary_cross_entropy, {'logits': LOGITS}, {'label': y})
  p = 1 / (1 + np.exp(-np.asarray(LOGITS)))
  want = -(np.asarray(y) * np.log(p) + (1 - np.asarray(y)) * np.log(1 - p)).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  np.testing.assert_allclose(metrics['top1_hit'], 0.5)
  single, _ = both(binary_cross_entropy, {'logits': LOGITS}, {'label': jnp.array([0, 2])})
  one_hot = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
  want, _ = binary_cross_entropy({'logits': LOGITS}, {'label': one_hot})
  np.testing.assert_allclose(single, want, rtol=1e-6)
  extreme = {'logits': jnp.array([[200.0, -200.0]])}
  assert np.isfinite(binary_cross_entropy(extreme, {'label': jnp.array([[0.0, 1.0]])})[0])


def future_frames():
  h = jnp.array([[[[1.0, 0.0]], [[0.0, 2.0]], [[1.0, 1.0]]]])  # [1, 3 frames, 1 step, 2]
  z = jnp.array([[[1.0, 0.0], [0.0, 1.0], [-1.0, 2.0]]])
  negatives = jnp.array([[[1, 2], [0, 2], [0, 1]]])
  used = jnp.array([[[False], [True], [True]]])
  return {'predictions': h, 'targets': z, 'negatives': negatives, 'used': used}


# Scores of a frame, then of its distractors: 2 against 0 and 4, then 1 against 1 and 1.
SCORES = np.array([[2.0, 0.0, 4.0], [1.0, 1.0, 1.0]])


def test_wav2vec_contrastive():
  softplus = np.log1p(np.exp(np.array([-1, 1, 1]) * SCORES))
  loss, metrics = both(wav2vec_contrastive, future_frames(), {})
  np.testing.assert_allclose(loss, softplus.sum() / 2, rtol=1e-6)
  # Frame 1 scores below its second distractor; a tie of all scores is not a hit either.
  assert float(metrics['sample_size']) == 2 and float(metrics['accuracy']) == 0
  loss, _ = both(wav2vec_contrastive, future_frames(), {}, balanced_classes=True)
  np.testing.assert_allclose(loss, (softplus * [1, 0.5, 0.5]).sum() / 2, rtol=1e-6)
  loss, _ = both(wav2vec_contrastive, future_frames(), {}, infonce=True)
  log_p = SCORES[:, 0] - np.log(np.exp(SCORES).sum(axis=1))
  np.testing.assert_allclose(loss, -log_p.sum() / 2, rtol=1e-6)
  extra = {'quantiser_loss': jnp.float32(3.0), 'code_perplexity': jnp.float32(7.0)}
  loss, metrics = both(wav2vec_contrastive, future_frames() | extra, {}, quantiser=0.5)
  np.testing.assert_allclose(loss, softplus.sum() / 2 + 1.5, rtol=1e-6)
  assert float(metrics['quantiser_loss']) == 3 and float(metrics['code_perplexity']) == 7
  # A hit, and a filler.
  out = future_frames() | {'predictions': -future_frames()['predictions']}
  twice = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), future_frames(), out)
  loss, metrics = both(wav2vec_contrastive, twice, {'valid': jnp.array([False, True])})
  want = np.log1p(np.exp(np.array([1, -1, -1]) * SCORES)).sum() / 2
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  assert float(metrics['sample_size']) == 2
  none, _ = both(wav2vec_contrastive, twice, {'valid': jnp.array([False, False])})
  assert float(none) == 0


def test_masked_codes():
  logits = jnp.stack([LOGITS, LOGITS])[None].swapaxes(1, 2)  # [1, 2 frames, 2 groups, 3]
  codes = jnp.array([[[0, 0], [1, 0]]])
  out = {'code_logits': logits, 'codes': codes, 'span_mask': jnp.array([[True, True]])}
  loss, metrics = both(masked_codes, out, {})
  np.testing.assert_allclose(loss, -(2 * LOG_P[0, 0] + LOG_P[1, 1] + LOG_P[1, 0]) / 2, rtol=1e-6)
  # Only one group of the second frame is correct.
  assert float(metrics['accuracy']) == 0.5 and float(metrics['sample_size']) == 2
  loss, metrics = both(masked_codes, out | {'span_mask': jnp.array([[False, True]])}, {})
  np.testing.assert_allclose(loss, -(LOG_P[1, 1] + LOG_P[1, 0]), rtol=1e-6)
  assert float(metrics['accuracy']) == 0
  loss, _ = both(masked_codes, out, {'valid': jnp.array([False])})
  assert float(loss) == 0
  with pytest.raises(ValueError, match='masked_codes'):
    masked_codes(out | {'codes': codes[0]}, {})


def test_wrong_ranks_are_refused():
  with pytest.raises(ValueError, match='masked_patch_mse'):
    masked_patch_mse({**reconstruction(), 'mask': jnp.ones((2, 3))}, {})
  with pytest.raises(ValueError, match='cross_entropy'):
    cross_entropy({'logits': LOGITS}, {'label': jnp.zeros((3,), jnp.int32)})
  with pytest.raises(ValueError, match='binary_cross_entropy'):
    binary_cross_entropy({'logits': LOGITS}, {'label': jnp.zeros((2, 4))})


def test_names():
  assert {objectives.get(name).__name__ for name in objectives.names()} == set(objectives.names())
  with pytest.raises(InputError, match="Did you mean 'cross_entropy'"):
    objectives.get('crossentropy')
