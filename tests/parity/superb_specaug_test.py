"""SpecAug on features against s3prl, with every draw given."""

import jax
import jax.numpy as jnp
import numpy as np

from research.features import feature_masks
from tests.parity.golden import Case, each_case
from tests.parity.superb_cases import check, check_gradient, kind

NAMES = {
  'warp_center': 'warp_center', 'warp_to': 'warp_to', 'feature_start': 'feature_mask_start',
  'feature_width': 'feature_mask_length', 'time_start': 'time_mask_start',
  'time_width': 'time_mask_length',
}  # fmt: skip


@each_case('superb', where=kind('superb_specaug'))
def test_specaug(case: Case):
  x, lengths = (jnp.asarray(case.inputs[k]) for k in ('features', 'lengths'))
  mask = jnp.arange(x.shape[1]) < lengths[:, None]
  given = {ours: case.inputs[theirs].astype(np.int32) for ours, theirs in NAMES.items()}
  draws = feature_masks.FeatureDraws(**given)
  none = np.zeros_like(draws.time_width)
  stages = {
    'after_time_warp': draws._replace(
      feature_width=np.zeros_like(draws.feature_width), time_width=none
    ),
    'after_feature_mask': draws._replace(time_width=none),
    'output': draws,
  }
  inside, masked = np.asarray(mask), jax.jit(feature_masks.mask_features)
  for name, part in stages.items():
    got = masked(x, mask, part)
    check(np.asarray(got)[inside], case.outputs[name][inside], name)
    np.testing.assert_array_equal(np.asarray(got)[~inside], 0.0)
  check(feature_masks.mask_features(x, mask, draws), case.outputs['output'], 'output, not compiled')
  cotangent = jnp.asarray(case.inputs['output_cotangent'])
  gradient = jax.jit(jax.grad(lambda x: (masked(x, mask, draws) * cotangent).sum()))(x)
  check_gradient(gradient, case.outputs['grad/features'], 'gradient')
