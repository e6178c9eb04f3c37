"""The discriminator of spectra on clips of unequal lengths and on several channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.nn.stft_discriminator import Judge, MultiScaleDiscriminator
from tests.contract import wave

jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@pytest.mark.slow
def test_a_clip_is_judged_as_if_it_were_alone():
  """The shorter of two clips, behind its end nothing, and each channel by itself."""
  model = MultiScaleDiscriminator((64, 32), 2, separate=True)
  audio = np.stack([wave(i, 300) for i in range(4)], axis=1).reshape(2, 300, 2)
  audio[1, 230:] = 0.0
  audio, lengths = jnp.asarray(audio), jnp.array([300, 230])

  @jit
  def judge(key):
    params = model.init(key, audio, lengths)['params']
    alone = model.apply({'params': params}, audio[1:, :230, 1], lengths[1:])
    return model.apply({'params': params}, audio, lengths), alone, model.frames(lengths, 300, 2)

  (logits, maps), (alone, maps_alone), frames = judge(jax.random.key(0))
  for real, got, want in zip(frames, logits, alone, strict=True):
    assert real.shape == got.shape[:2] and int(real[3].sum()) == want.shape[1]
    np.testing.assert_allclose(got[3][np.asarray(real[3])], want[0], atol=1e-5)
    assert not np.asarray(got)[~np.asarray(real)].any()
  for got, want in zip(maps, maps_alone, strict=True):
    for x, y in zip(got, want, strict=True):
      np.testing.assert_allclose(x[3, : y.shape[1]], y[0], atol=1e-5)
  # Shorter than a window: no frame of that scale.
  assert [int(each.sum()) for each in model.frames(jnp.array([40]), 40, 1)] == [0, 2]


def test_a_judge_does_not_learn():
  model, audio, lengths = MultiScaleDiscriminator((32,), 2), jnp.ones((1, 40)), jnp.array([40])

  @jit
  def run(key):
    params = model.init(key, audio, lengths)['params']
    judge = lambda p, x: Judge(p, lengths, model)(x)[0][0].sum()  # noqa: E731
    return jax.grad(judge, argnums=(0, 1))(params, audio)

  to_params, to_audio = run(jax.random.key(0))
  assert not any(np.any(x) for x in jax.tree.leaves(to_params)) and np.any(to_audio)
