"""BYOL-A's views against loops over clips and pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.features import views

EPS = np.finfo(np.float32).eps


def spectrograms(n, frames=12, bins=8, seed=0):
  return np.random.default_rng(seed).normal(size=(n, frames, bins)).astype(np.float32)


@pytest.mark.parametrize('clips', [3, 5, 20])
def test_the_past_is_a_queue_of_inputs(clips):
  """Two views per clip: the second may draw the clip itself; old clips are dropped."""
  memory, ratio, batches = 4, 0.4, 3
  x = spectrograms(batches * clips)
  u, choice = np.random.default_rng(1).random((2, len(x), 2)).astype(np.float32)
  queue, want = [], []
  for i, clip in enumerate(x):
    for view in range(2):
      mixed = clip
      if queue:
        other = queue[int(choice[i, view] * len(queue))]
        alpha = ratio * u[i, view]
        mixed = np.log((1 - alpha) * np.exp(clip) + alpha * np.exp(other) + EPS)
      want.append(mixed)
      queue = [*queue, clip][-2 * memory :]
  want = np.stack(want).reshape(len(x), 2, *x.shape[1:])

  bank = views.Bank(jnp.zeros((memory, *x.shape[1:])), jnp.int32(0))
  mix = jax.jit(views.mix_with_past, static_argnames='ratio')
  for i in range(0, len(x), clips):
    rows = slice(i, i + clips)
    got, bank = mix(*map(jnp.asarray, (x[rows],)), bank, u[rows], choice[rows], ratio=ratio)
    np.testing.assert_allclose(got, want[rows], atol=1e-5)
  assert int(bank.seen) == len(x)
  order = np.arange(len(x) - memory, len(x))
  np.testing.assert_array_equal(np.asarray(bank.clips)[order % memory], x[order])


def cubic(d, a=-0.75):
  d = abs(d)
  if d <= 1:
    return (a + 2) * d**3 - (a + 3) * d**2 + 1
  return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def stretched(row, size):
  """Bicubic, aligned corners, edges repeated."""
  out = np.zeros(size)
  for i in range(size):
    at = i * (len(row) - 1) / (size - 1)
    for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
      out[i] += cubic(at - tap) * row[np.clip(tap, 0, len(row) - 1)]
  return out


def test_a_crop_is_cut_and_stretched():
  frames, bins = 12, 8
  x = spectrograms(5, frames, bins)
  # Whole spectrogram, a corner, one pixel, the whole canvas, and only the zeros on the right.
  boxes = np.array(
    [[0, 3, 8, 12], [0, 0, 5, 7], [4, 9, 1, 1], [0, 0, 8, 18], [2, 12, 6, 6]], np.int32
  )
  got = np.asarray(jax.jit(views.resize_crop)(x, boxes))
  np.testing.assert_allclose(got[0], x[0], atol=1e-5)
  for clip, (i, j, h, w), out in zip(x, boxes, got):
    canvas = np.zeros((bins, 18), np.float32)
    canvas[:, 3 : 3 + frames] = clip.T
    box = canvas[i : i + h, j : j + w]
    wide = np.stack([stretched(row, frames) for row in box])
    want = np.stack([stretched(column, bins) for column in wide.T])
    np.testing.assert_allclose(out, want, atol=1e-5)


def test_boxes_are_within_the_canvas():
  u = np.random.default_rng(0).random((2, 20_000, 2)).astype(np.float32)
  box = np.asarray(views.crop_boxes(*map(jnp.asarray, u), bins=64, frames=96))
  i, j, h, w = box.T
  assert (i + h <= 64).all() and (j + w <= 144).all() and box.min() >= 0 and h.min() >= 1
  # Heights above the number of bins are cut: (1.5 - 1) / (1.5 - 0.6).
  assert abs((h == 64).mean() - 0.5556) < 0.015
  assert h.min() == 38 and w.min() == 57 and w.max() == 143
  inside = j[w == 100]
  assert inside.min() == 0 and inside.max() == 44
  # The largest draw below 1 stays inside.
  edge = jnp.full((1, 2), np.nextafter(np.float32(1), np.float32(0)))
  top = np.asarray(views.crop_boxes(edge, edge, bins=64, frames=96))[0]
  assert top[0] + top[2] <= 64 and top[1] + top[3] <= 144


def test_a_fade_is_linear():
  x = spectrograms(1)
  faded = views.linear_fade(jnp.asarray(x), jnp.array([[0.25, 1.0]]), gain=2.0)
  np.testing.assert_allclose(
    faded[0] - x[0], np.linspace(-1, 2, 12)[:, None] * np.ones(8), atol=1e-6
  )


def test_running_statistics_are_those_of_a_loop_and_stop():
  x = 3 * spectrograms(7) - 5
  mean = square = 0.0
  want = []
  for n, clip in enumerate(x[:5], 1):
    mean += (clip.mean() - mean) / n
    square += (np.square(clip - mean).mean() - square) / n
    want.append((mean, square**0.5))
  want += [want[-1]] * 2
  start = views.Running(jnp.zeros(()), jnp.zeros(()), jnp.int32(0))
  run = jax.jit(views.running_normalise, static_argnums=2)
  first, state, a = run(x[:3], start, 5)
  second, state, b = run(x[3:], state, 5)
  used = np.concatenate([a, b])
  np.testing.assert_allclose(used, want, rtol=1e-5)
  normed = np.concatenate([first, second])
  np.testing.assert_allclose(
    normed, (x - used[:, :1, None]) / used[:, 1:, None], rtol=1e-5, atol=1e-5
  )
  assert int(state.clips) == 5


def test_silence_does_not_divide_by_zero():
  zeros = jnp.zeros((2, 12, 8))
  start = views.Running(jnp.zeros(()), jnp.zeros(()), jnp.int32(0))
  assert np.isfinite(views.running_normalise(zeros, start)[0]).all()
  assert np.isfinite(views.normalise_batch(zeros)).all()
