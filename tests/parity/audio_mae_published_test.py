"""AudioMAE-B at its published size, against figures of the official implementation.

The weights are a reproducible fill (a seeded normal per key, named by the key's CRC), the input is
a sum of two sines through the front-end, the mask noise is seeded: the figures below (means,
spreads and first values, losses) were measured on the official code with the same fill.
"""

import zlib

import jax
import numpy as np
import pytest

from research.features.frontend import Frontend, fit_frames
from research.models.audio_mae import AudioMAE
from research.nn.positions import spectrogram_positions
from research.objectives.reconstruction import masked_patch_mse, normalise_patches
from research.weights import convert, revert, tables
from tests.models.toy import make


def fill(key: str, shape: tuple[int, ...]) -> np.ndarray:
  draw = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
  r = draw.astype(np.float32) * np.float32(0.05)
  return 1 + r if len(shape) == 1 and key.endswith(('.weight', '.tau')) else r


def original_shapes(model) -> dict[str, tuple[int, ...]]:
  zeros = {k: np.zeros(s, np.float32) for k, s in tables.expected_shapes(model).items()}
  arrays = revert('audio_mae', model, tables.nest(zeros, model))
  return {k: v.shape for k, v in arrays.items()}


def filled(model) -> dict[str, np.ndarray]:
  arrays = {key: fill(key, shape) for key, shape in original_shapes(model).items()}
  for key in ('pos_embed', 'decoder_pos_embed'):
    if key in arrays:
      width = arrays[key].shape[-1]
      arrays[key] = spectrogram_positions((64, 8), width, 'published', False)[None]
  return arrays


@pytest.fixture(scope='module')
def spectrogram() -> np.ndarray:
  t = np.arange(160_000) / 16_000
  wave = 0.5 * np.sin(2 * np.pi * 440 * t) + 0.25 * np.sin(2 * np.pi * 1234.5 * t + 0.3)
  frontend = Frontend.create('kaldi_fbank')
  raw = frontend.raw(wave[None].astype(np.float32), np.ones((1, len(wave)), bool))
  return np.asarray(frontend.normalise(fit_frames(*raw, 1024)[0]))


def check(x, mean: float, std: float, first: tuple[float, ...], tolerance: float = 1e-4):
  """Mean, population standard deviation and first values."""
  x = np.asarray(x, np.float64)
  np.testing.assert_allclose(x.ravel()[: len(first)], first, atol=tolerance)
  np.testing.assert_allclose([x.mean(), x.std()], [mean, std], atol=tolerance)


def test_input(spectrogram):
  first = (-0.951180, -1.212491, -0.835669, -1.277594)
  check(spectrogram, -0.7646481, 0.6621253, first, tolerance=3e-4)


def test_the_published_state_dict():
  shapes = original_shapes(AudioMAE())
  assert len(shapes) == 430
  assert sum(int(np.prod(s)) for s in shapes.values()) == 136_992_768
  assert shapes['patch_embed.proj.weight'] == (768, 1, 16, 16)
  assert shapes['decoder_blocks.15.attn.meta_mlp.fc2.weight'] == (16, 384)
  shapes = original_shapes(make('audio_mae+classifier', classes=527))
  assert sum(int(np.prod(s)) for k, s in shapes.items() if k != 'pos_embed') == 85_659_407


@pytest.mark.slow
def test_pretraining(spectrogram):
  model, variables = convert('audio_mae', filled(AudioMAE()))
  assert (model.size, model.heads, model.decoder, model.decoder_heads) == ('base', 12, 'swin', 16)
  noise = np.random.RandomState(0).rand(1, 512).astype(np.float32)
  batch = {'spectrogram': spectrogram, 'mask_noise': noise}
  out = jax.jit(model.apply)(variables, batch)
  np.testing.assert_array_equal(np.sort(out['ids_keep'][0])[:6], [14, 15, 16, 24, 26, 34])
  check(out['latent'], 0.0051709, 1.0007542, (-0.451543, 1.152758, 0.820711, -0.940798))
  check(out['pred'], -0.0148788, 1.0178359, (0.485080, 0.786430, 0.049801, 1.284206))
  check(out['pred'][0, 511], -0.0236023, 1.0072031, (-0.312710, 0.914608, 0.101134, -0.182666))
  target = normalise_patches(out['target'])
  check(target[0, 0], 0.0, 0.9980375, (-0.595982, -1.608117, -0.148573, -1.860278), tolerance=2e-3)
  for norm_pix, want in {True: 1.6832627, False: 2.0360746}.items():
    loss, _ = masked_patch_mse(out, batch, norm_pix=norm_pix)
    assert abs(float(loss) - want) < 1e-5 * want
  features = jax.jit(lambda v, b: model.apply(v, b, method='contextual'))(variables, batch)
  check(features, 0.0049659, 0.9801829, (-0.669564, 0.855433, 0.995834, -1.124807))


@pytest.mark.slow
def test_fine_tuned_logits(spectrogram):
  model, variables = convert('audio_mae', filled(make('audio_mae+classifier', classes=527)))
  logits = jax.jit(model.apply)(variables, {'spectrogram': spectrogram})['logits']
  check(logits, -0.0462439, 1.4251155, (1.288339, -2.245433, -1.141951, -0.980174))
  assert int(logits[0].argmax()) == 121
