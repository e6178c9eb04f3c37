"""Query by example: batches, padding, and a query that is found where it is."""

import numpy as np
import pytest

from research.errors import InputError
from research.inference import spoken_terms

RANDOM = np.random.RandomState(0)
DOCUMENTS = [RANDOM.standard_normal((n, 6)).astype(np.float32) for n in (40, 200, 12, 90)]


def test_a_query_is_found():
  queries = [DOCUMENTS[1][50:70], DOCUMENTS[3][10:40:2], DOCUMENTS[0][:4]]
  raw = spoken_terms.search(queries, DOCUMENTS)
  assert raw[:2].argmax(axis=1).tolist() == [1, 3]
  assert raw[0, 1] == pytest.approx(0.0, abs=1e-5)
  assert np.isnan(raw[2]).all()
  scores = spoken_terms.normalise_scores(raw)
  np.testing.assert_allclose(scores[:2].mean(1), 0.0, atol=1e-6)
  np.testing.assert_allclose(scores[:2].std(1), 1.0, atol=1e-6)
  assert not scores[2].any()
  few = spoken_terms.search(queries, DOCUMENTS, batch_frames=1)
  np.testing.assert_allclose(few, raw, atol=1e-6)
  alone = np.concatenate(
    [spoken_terms.search(queries[:1], [d], normalise=False) for d in DOCUMENTS], axis=1
  )
  together = spoken_terms.search(queries[:1], DOCUMENTS, normalise=False)
  np.testing.assert_allclose(alone, together, atol=1e-6)


def test_statistics():
  mean, std = spoken_terms.statistics(DOCUMENTS)
  frames = np.concatenate(DOCUMENTS)
  np.testing.assert_allclose(mean, frames.mean(0), atol=1e-6)
  np.testing.assert_allclose(std, frames.std(0, ddof=1), rtol=1e-6)


def test_refused():
  with pytest.raises(InputError, match='cosine_exp'):
    spoken_terms.search(DOCUMENTS, DOCUMENTS, method='cosin')
  with pytest.raises(InputError, match='0 queries'):
    spoken_terms.search([], DOCUMENTS)
