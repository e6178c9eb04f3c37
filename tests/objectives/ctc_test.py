"""CTC against the explicit sum over all alignments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.objectives.supervised import ctc

RNG = np.random.default_rng(0)


def collapse(path, blank):
  return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def by_hand(logits, frames, target, blank):
  """-log of the total probability of all paths over `frames` frames that collapse to `target`."""
  log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)), np.float64)
  symbols = range(logits.shape[-1])
  paths = itertools.product(symbols, repeat=frames)
  matching = [p for p in paths if collapse(p, blank) == tuple(target)]
  return -np.logaddexp.reduce([sum(log_p[t, s] for t, s in enumerate(p)) for p in matching])


def example():
  """Three clips of 5, 4 and 3 real frames; the last transcript does not fit."""
  logits = RNG.normal(size=(3, 5, 4)).astype(np.float32)
  lengths, targets = [5, 4, 3], [[1, 1, 2], [3], [1, 1, 2]]
  tokens = np.full((3, 4), -1, np.int32)
  for i, target in enumerate(targets):
    tokens[i, : len(target)] = target
  real = np.arange(5) < np.asarray(lengths)[:, None]
  logits = np.where(real[..., None], logits, np.where(np.arange(4) == 0, 0.0, -np.inf))
  out = {'logits': jnp.asarray(logits, jnp.float32), 'frame_mask': jnp.asarray(real)}
  return out, {'tokens': jnp.asarray(tokens)}, lengths, targets


@pytest.mark.parametrize('blank', [0, 3])
def test_loss_is_that_of_all_alignments(blank):
  out, batch, lengths, targets = example()
  if blank == 3:
    targets = [[1, 1, 2], [0], [1, 1, 2]]
    batch['tokens'] = batch['tokens'].at[1, 0].set(0)
    out['logits'] = jnp.where(out['frame_mask'][..., None], out['logits'], 0.0)
  each = [by_hand(out['logits'][i], lengths[i], targets[i], blank) for i in range(2)]
  for function in (ctc, jax.jit(ctc, static_argnames=('blank', 'zero_infinity'))):
    loss, metrics = function(out, batch, blank=blank)
    np.testing.assert_allclose(loss, sum(each) / 3, rtol=1e-5)
    np.testing.assert_allclose(metrics['ctc_per_symbol'], sum(each) / 7, rtol=1e-5)
    np.testing.assert_allclose(metrics['impossible'], 1 / 3, rtol=1e-6)
    assert metrics['sample_size'] == 3.0
  # Fillers do not count.
  valid = jnp.array([True, True, False])
  loss, metrics = ctc(out, {**batch, 'valid': valid}, blank=blank)
  np.testing.assert_allclose(loss, sum(each) / 2, rtol=1e-5)
  assert metrics['sample_size'] == 2.0


def test_transcripts_that_do_not_fit_have_no_loss_and_no_gradient_or_an_infinite_one():
  out, batch, *_ = example()
  gradient = jax.grad(lambda x: ctc({**out, 'logits': x}, batch)[0])(out['logits'])
  assert np.isfinite(gradient).all()
  assert np.abs(gradient[:2]).max() > 0.0 and not np.any(gradient[2])
  assert not np.any(gradient[1, 4]), 'a padded frame has a gradient'
  assert ctc(out, batch, zero_infinity=False)[0] == np.inf


def test_an_empty_transcript_trains_blanks():
  logits = jnp.asarray(RNG.normal(size=(1, 3, 4)), jnp.float32)
  out = {'logits': logits, 'frame_mask': jnp.ones((1, 3), bool)}
  loss, _ = ctc(out, {'tokens': jnp.full((1, 2), -1, jnp.int32)})
  np.testing.assert_allclose(loss, -jax.nn.log_softmax(logits)[0, :, 0].sum(), rtol=1e-5)
