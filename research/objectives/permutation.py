"""Objectives over outputs whose order is free: diarization and separation."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Metrics = dict[str, Float[Array, '']]


def orders(count: int) -> Int[np.ndarray, 'orders k']:
  """All orders of `count` things, the given one first."""
  return np.array(list(itertools.permutations(range(count))), np.int32)


def losses_of_orders(
  z: Float[Array, 'b n k'], y: Float[Array, 'b n k'], real: Bool[Array, 'b n']
) -> Float[Array, 'orders b']:
  """Binary cross entropy of every order of the labels y, mean over speakers, sum over frames."""
  labels = jnp.moveaxis(y[:, :, orders(y.shape[-1])], 2, 0)
  each = -(labels * jax.nn.log_sigmoid(z) + (1.0 - labels) * jax.nn.log_sigmoid(-z)).mean(-1)
  return jnp.where(real, each, 0.0).sum(-1)


def permutation_invariant_bce(
  out: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Float[Array, ''], Metrics]:
  """min over orders of the labels of -[y log s(z) + (1 - y) log s(-z)], mean over speakers, sum
  over frames; the sum over clips by the number of frames (PIT, arXiv 1607.00325; EEND, 1909.06247).

  Args:
    out: 'logits' z [b, n, k].
    batch: 'label' y, {0, 1} [b, n, k]; 'label_mask' bool [b, n]; rows with 'valid' [b] False do not
      count.

  Returns:
    loss, and metrics 'permutation_invariant_bce' (the loss), 'frame_accuracy' (of speakers in
    frames, in the order chosen) and 'der' (missed, false and wrong speakers by those of the
    labels).
  """
  z, y = out['logits'].astype(jnp.float32), batch['label'].astype(jnp.float32)
  real = jnp.asarray(batch['label_mask'])
  if 'valid' in batch:
    real = real & batch['valid'][:, None]
  each = losses_of_orders(z, y, real)
  frames = jnp.maximum(real.sum().astype(jnp.float32), 1.0)
  loss = each.min(axis=0).sum() / frames
  chosen = jnp.asarray(orders(y.shape[-1]))[each.argmin(axis=0)]
  label = jnp.take_along_axis(y, chosen[:, None], axis=2) > 0.5
  label, found = label & real[..., None], (z > 0) & real[..., None]
  said, heard, both = (x.sum(-1) for x in (label, found, label & found))
  wrong = (jnp.maximum(said, heard) - both).sum().astype(jnp.float32)
  right = ((label == found) & real[..., None]).sum().astype(jnp.float32) / y.shape[-1]
  return loss, {
    'permutation_invariant_bce': loss,
    'frame_accuracy': right / frames,
    'der': wrong / jnp.maximum(said.sum().astype(jnp.float32), 1.0),
  }


def phase_sensitive_mask(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, kind: str = 'NPSM'
) -> tuple[Float[Array, ''], Metrics]:
  """min over orders of the sources of sum_{k, n, f} (M |Y| - T)^2 / n, by sources and clips (SUPERB
  enhancement and separation; phase-sensitive filters, arXiv 1703.06284).

  T is |S| of a source ('AM'), |S| cos(angle Y - angle S) ('PSM'), or that where it is positive
  ('NPSM').

  Args:
    out: 'masks' M [b, k, n, f]; spectra of the 'mixture' Y [b, n, f, 2] and of the 'sources' S
      [b, k, n, f, 2], real and imaginary parts; 'mask_frames' bool [b, n].
    batch: rows with 'valid' [b] False do not count.
    kind: of T.

  Returns:
    loss, and the metric 'phase_sensitive_mask', which is the loss.
  """
  if kind not in ('AM', 'PSM', 'NPSM'):
    raise ValueError(f"phase_sensitive_mask: kind {kind!r} is none of 'AM', 'PSM', 'NPSM'.")
  mixture, angle = _polar(out['mixture'])
  sources, angles = _polar(out['sources'])
  if kind != 'AM':
    cosine = jnp.cos(angle[:, None] - angles)
    sources = sources * (jax.nn.relu(cosine) if kind == 'NPSM' else cosine)
  real = jnp.asarray(out['mask_frames'])
  frames = jnp.maximum(real.sum(axis=1).astype(jnp.float32), 1.0)
  estimates = out['masks'].astype(jnp.float32) * mixture[:, None]
  # Every output against every source, [b, output, source].
  error = ((estimates[:, :, None] - sources[:, None]) ** 2).sum(-1)
  error = jnp.where(real[:, None, None], error, 0.0).sum(-1) / frames[:, None, None]
  count = sources.shape[1]
  each = error[:, jnp.arange(count), orders(count)].sum(-1)  # [b, orders]
  weight = batch['valid'] if 'valid' in batch else jnp.ones(len(each), bool)
  weight = weight.astype(jnp.float32)
  loss = (each.min(axis=1) * weight).sum() / (count * jnp.maximum(weight.sum(), 1.0))
  return loss, {'phase_sensitive_mask': loss}


def _polar(pairs: Float[Array, '*axes 2']) -> tuple[Array, Array]:
  """Magnitude and angle of real and imaginary parts."""
  real, imaginary = pairs[..., 0], pairs[..., 1]
  return jnp.sqrt(real**2 + imaginary**2), jnp.arctan2(imaginary, real)
