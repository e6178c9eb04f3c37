"""The 2-D maps."""

import numpy as np
import pytest

from research.report import maps


@pytest.mark.parametrize('shape', [(50, 6), (8, 40)])
def test_principal_components_equal_scikit_learn(shape):
  decomposition = pytest.importorskip('sklearn.decomposition')
  x = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 3, shape[1])
  ours = maps.pca(x, 3)
  theirs = decomposition.PCA(3).fit_transform(x)
  np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-8)
  assert np.all(ours[np.abs(ours).argmax(0), np.arange(3)] > 0)


def test_fewer_dimensions_than_asked_are_zero():
  y = maps.pca(np.arange(5.0)[:, None], 2)
  assert y.shape == (5, 2) and np.all(y[:, 1] == 0) and np.ptp(y[:, 0]) == pytest.approx(4.0)


@pytest.mark.parametrize('method', ['pca', 'tsne'])
def test_clusters_stay_apart(method):
  if method == 'tsne':
    pytest.importorskip('sklearn')
  rng = np.random.default_rng(0)
  groups = np.repeat([0, 1, 2], 20)
  x = 8 * rng.normal(size=(3, 10))[groups] + rng.normal(size=(60, 10))
  y = maps.flat(x, method)
  centres = np.stack([y[groups == g].mean(0) for g in range(3)])
  near = np.argmin(np.linalg.norm(y[:, None] - centres, axis=-1), axis=1)
  np.testing.assert_array_equal(near, groups)


def test_the_sample_is_the_same_every_time():
  assert maps.sample(5).tolist() == [0, 1, 2, 3, 4]
  rows = maps.sample(10_000, 100)
  np.testing.assert_array_equal(rows, maps.sample(10_000, 100))
  assert len(np.unique(rows)) == 100
