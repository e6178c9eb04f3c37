"""Cluster assignment against fairseq's, on whatever cases the golden folder holds."""

import jax
import jax.numpy as jnp
import numpy as np

from research.units.kmeans import assign
from tests.parity.golden import Case, each_case


@each_case('mfcc_kmeans', where=lambda case: case.info['kind'] == 'kmeans_assignment')
def test_labels_are_exact(case: Case):
  x, centroids = case.inputs['features'], case.inputs['centroids']
  labels, squared = jax.jit(assign)(jnp.asarray(x), jnp.asarray(centroids))
  np.testing.assert_array_equal(labels, case.outputs['labels'])
  nearest = centroids[case.outputs['labels']].astype(np.float64)
  np.testing.assert_allclose(squared, np.square(x - nearest).sum(axis=1), rtol=1e-5)
  # One row alone is assigned as in the batch.
  alone = [int(assign(jnp.asarray(row[None]), jnp.asarray(centroids))[0][0]) for row in x[:20]]
  assert alone == case.outputs['labels'][:20].tolist()
