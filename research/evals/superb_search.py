"""Query by example on cached layers: every layer is searched on the queries of the development set,
the best one on those of the test set (SUPERB, arXiv 2105.01051)."""

import os
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from research.audio.clips import Source
from research.audio.datasets.superb.words import occurrences
from research.audio.frames import Frames
from research.errors import InputError
from research.evals.superb import Parts, Task
from research.inference import spoken_terms as search
from research.jobs import folders
from research.metrics import spoken_terms

# Of data that are no benchmark: documents and queries that are drawn, seed of the draws.
DOCUMENTS, QUERIES, SEED = 400, 60, 0
# The list that the scorer of QUESST 2014 reads; scores above this one are decisions.
LIST, DECIDED = 'stdlist.xml', 2.0


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


def detected(scores: np.ndarray, queries: Sequence[str], documents: Sequence[str]) -> str:
  """The list of detected terms (stdlist) of the scorer of QUESST 2014 (score-TWV-Cnxe.sh), as
  s3prl's quesst14_dtw writes it.

  Args:
    scores: [q, r], normalised by query.
    queries, documents: names.
  """
  lines = ["<?xml version='1.0' encoding='UTF-8'?>"]
  lines.append(
    '<stdlist termlist_filename="benchmark.stdlist.xml" indexing_time="1.00" language="english" '
    'index_size="1" system_id="benchmark">'
  )
  for query, row in zip(queries, scores, strict=True):
    lines.append(
      f'  <detected_termlist termid={quoteattr(query)} term_search_time="1.0" oov_term_count="1">'
    )
    for document, score in zip(documents, row, strict=True):
      decision = 'YES' if score > DECIDED else 'NO'
      lines.append(
        f'    <term file={quoteattr(document)} channel="1" tbeg="0.000" dur="0.00" '
        f'score="{score:.4f}" decision="{decision}"/>'
      )
    lines.append('  </detected_termlist>')
  return '\n'.join([*lines, '</stdlist>', ''])


def search_layers(
  task: Task, parts: Parts, frames: Frames, place: str | os.PathLike | None = None
) -> dict[str, object]:
  """Every layer on 'valid', the best on 'test'; what it detects there is in `place`/stdlist.xml.

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

  def value(split: str, queries: Source, layer: int, kept: Path | None = None) -> float:
    scores = search.search(features(queries, layer), features(documents, layer))
    truth = targets(task, parts, split, queries, documents)
    normal = search.normalise_scores(scores)
    if kept is not None:
      names = ([x.id(i) for i in range(len(x))] for x in (queries, documents))
      kept.parent.mkdir(parents=True, exist_ok=True)
      folders.replace_text(kept, detected(normal, *names))
    return spoken_terms.maximum_term_weighted_value(normal, truth)[0]

  by_layer = [value('valid', valid, layer) for layer in range(frames.layers)]
  layer = int(np.argmax(by_layer))
  return dict(
    layer=layer,
    valid=by_layer[layer],
    test=value('test', test, layer, None if place is None else Path(place) / LIST),
    by_layer=by_layer,
    clips=dict(train=len(documents), valid=len(valid), test=len(test)),
  )
