"""Filter banks with deltas, normalised per clip, as s3prl has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.features.deltas import cmvn
from research.features.frontend import Frontend


def test_cmvn():
  x = np.random.RandomState(0).standard_normal((2, 20, 3)).astype(np.float32)
  mask = np.arange(20) < np.array([20, 9])[:, None]
  got = np.asarray(cmvn(jnp.where(mask[..., None], x, jnp.nan), mask))
  for row, n in ((0, 20), (1, 9)):
    want = (x[row, :n] - x[row, :n].mean(0)) / (x[row, :n].std(0, ddof=1) + 1e-10)
    np.testing.assert_allclose(got[row, :n], want, rtol=1e-5, atol=1e-6)
  assert not got[1, 9:].any()
  gradient = jax.grad(lambda x: (cmvn(x, mask) ** 2).sum())(jnp.ones((2, 20, 3)))
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize('name', ['superb_fbank', 'superb_fbank_no_cmvn'])
def test_frontend(name):
  frontend = Frontend.create(name)
  assert (frontend.num_features, frontend.hop_samples) == (240, 160)
  assert Frontend.from_dict(frontend.to_dict()) == frontend
  audio = np.random.RandomState(1).standard_normal((1, 16000)).astype(np.float32)
  features, mask = jax.jit(frontend)(audio, np.ones(audio.shape, bool))
  assert features.shape == (1, 98, 240) and mask.all()
  plain = Frontend.create('kaldi_fbank', num_mel_bins=80, window='povey', mean=0.0, std=1.0,
                          std_factor=1.0)  # fmt: skip
  mel = np.asarray(plain(audio, np.ones(audio.shape, bool))[0])[0]
  padded = np.pad(mel, ((2, 2), (0, 0)), mode='edge')
  slope = sum(i * (padded[2 + i : 100 + i] - padded[2 - i : 100 - i]) for i in (1, 2)) / 10
  want = np.concatenate([mel, slope], axis=1)
  if name == 'superb_fbank':
    want = (want - want.mean(0)) / want.std(0, ddof=1)
  np.testing.assert_allclose(features[0, :, :160], want, atol=2e-4)
