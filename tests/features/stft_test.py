"""The complex spectrogram: against librosa's, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.features.stft import istft, stft


@pytest.mark.parametrize('samples, hop', [(4000, 320), (4001, 160), (300, 320)])
def test_spectra(samples, hop):
  librosa = pytest.importorskip('librosa')
  x = np.random.RandomState(0).standard_normal((2, samples)).astype(np.float32)
  got = np.asarray(jax.jit(lambda x: stft(x, n_fft=512, hop=hop))(x))
  want = librosa.stft(x, n_fft=512, hop_length=hop, pad_mode='constant').swapaxes(1, 2)
  np.testing.assert_allclose(got, want, atol=2e-4)
  back = istft(jnp.asarray(got), samples, hop=hop)
  last = (got.shape[1] - 1) * hop + 192  # behind it hardly any window reaches
  np.testing.assert_allclose(back[:, :last], x[:, :last], atol=1e-4)


def test_frames_overlap():
  with pytest.raises(InputError, match='overlap'):
    istft(jnp.zeros((3, 5), jnp.complex64), 10, hop=8)
