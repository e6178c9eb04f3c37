"""Query by example on cached layers: every layer is searched on the queries of the development set,
the best one on those of the test set (SUPERB, arXiv 2105.01051)."""

import numpy as np

from research.audio.clips import Source
from research.audio.datasets.superb.words import occurrences
from research.audio.frames import Frames
from research.errors import InputError
from research.evals.superb import Parts, Task
from research.inference import spoken_terms as search
from research.metrics import spoken_terms

# Of data that are no benchmark: documents and queries that are drawn, seed of the draws.
DOCUMENTS, QUERIES, SEED = 400, 60, 0


def targets(task: Task, parts: Parts, split: str, queries: Source, documents: Source) -> np.ndarray:
  """Which documents contain a query, bool [q, r]: by the ground truth of the benchmark, elsewhere
  those with the same label."""
  if not task.benchmark:
    mine, theirs = (np.array(x.column(str(task.target))) for x in (queries, documents))
    return mine[:, None] == theirs
  found = occurrences(parts.root, split)
  names = [documents.id(i) for i in range(len(documents))]
  rows = [found.get(queries.id(i), set()) for i in range(len(queries))]
  return np.array([[name in row for name in names] for row in rows], bool)


def search_layers(task: Task, parts: Parts, frames: Frames) -> dict[str, object]:
  """Every layer on 'valid', the best on 'test'.

  Returns:
    'layer'; 'valid' and 'test', its MTWV; 'by_layer', that of every layer on 'valid'; 'clips'.

  Raises:
    InputError: no query has a document.
  """
  documents, valid, test = parts.train, parts.valid, parts.test
  if not task.benchmark:
    rng = np.random.default_rng(SEED)
    documents, valid, test = (
      x.select(np.sort(rng.permutation(len(x))[:count]))
      for x, count in ((documents, DOCUMENTS), (valid, QUERIES), (test, QUERIES))
    )

  def features(source: Source, layer: int) -> list[np.ndarray]:
    rows = frames.rows([source.id(i) for i in range(len(source))])
    if (rows < 0).any():
      raise InputError(f'{source.name!r}: some clips have no frames, and a search needs all.')
    parts = (frames.part(int(row), 0, frames.count(row)) for row in rows)
    return [np.asarray(x[:, layer], np.float32) for x in parts]

  def value(split: str, queries: Source, layer: int) -> float:
    scores = search.search(features(queries, layer), features(documents, layer))
    truth = targets(task, parts, split, queries, documents)
    normal = search.normalise_scores(scores)
    return spoken_terms.maximum_term_weighted_value(normal, truth)[0]

  by_layer = [value('valid', valid, layer) for layer in range(frames.layers)]
  layer = int(np.argmax(by_layer))
  return dict(
    layer=layer,
    valid=by_layer[layer],
    test=value('test', test, layer),
    by_layer=by_layer,
    clips=dict(train=len(documents), valid=len(valid), test=len(test)),
  )
