"""Captions against several references each: BLEU, ROUGE-L and CIDEr-D, as coco-caption computes
them (github.com/tylin/coco-caption), on words that are given.

`words` is a plain tokenizer: coco-caption's is Java (Stanford's PTB), so scores of captions with
unusual punctuation may differ. SPICE, and with it SPIDEr, parse sentences in Java and are not here.
"""

import collections
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from research.errors import InputError

Words = Sequence[str]
# Of coco-caption: beta of ROUGE-L, and sigma of CIDEr-D's penalty for length.
BETA, SIGMA, MAX_N = 1.2, 6.0, 4


def words(text: str) -> list[str]:
  """Lower-case words without punctuation; hyphens and apostrophes stay within words."""
  return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def bleu(references: Sequence[Sequence[Words]], captions: Sequence[Words], n: int = 4) -> float:
  """Corpus BLEU-n with the length of the nearest reference, 0 to 1; no smoothing.

  Raises:
    InputError: a caption has no reference, or the numbers differ.
  """
  _check(references, captions)
  hits, totals = np.zeros(n), np.zeros(n)
  length = nearest = 0
  for refs, caption in zip(references, captions, strict=True):
    length += len(caption)
    nearest += min((abs(len(r) - len(caption)), len(r)) for r in refs)[1]
    for order in range(1, n + 1):
      own = _grams(caption, order)
      best: collections.Counter = collections.Counter()
      for r in refs:
        best |= _grams(r, order)
      hits[order - 1] += sum((own & best).values())
      totals[order - 1] += max(0, len(caption) - order + 1)
  if not hits.all():
    return 0.0
  penalty = 1.0 if length >= nearest else math.exp(1 - nearest / length)
  return float(penalty * np.exp(np.log(hits / totals).mean()))


def rouge_l(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> float:
  """Mean over captions of the F score, beta 1.2, of the longest common subsequence: the best recall
  and the best precision over the references.

  Raises:
    InputError: see `bleu`.
  """
  _check(references, captions)
  found = []
  for refs, caption in zip(references, captions, strict=True):
    common = [_common(r, caption) for r in refs]
    precision = max(c / len(caption) if caption else 0.0 for c in common)
    recall = max(c / len(r) if r else 0.0 for c, r in zip(common, refs, strict=True))
    weight = BETA**2
    both = precision and recall
    found.append((1 + weight) * precision * recall / (recall + weight * precision) if both else 0.0)
  return float(np.mean(found))


def cider_d(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> float:
  """CIDEr-D (arXiv 1411.5726, section 5), 0 to 10: similarity of 1- to 4-grams weighted by how rare
  they are in the references of this corpus. Words are not stemmed, as in coco-caption.

  Of one clip, or where every clip has the same words, it is 0: nothing is rare.

  Raises:
    InputError: see `bleu`.
  """
  _check(references, captions)
  documents: collections.Counter = collections.Counter()
  for refs in references:
    documents.update({gram for r in refs for gram in _all_grams(r)})
  whole = math.log(len(references))
  scores = []
  for refs, caption in zip(references, captions, strict=True):
    own = _vectors(caption, documents, whole)
    each = []
    for r in refs:
      other = _vectors(r, documents, whole)
      apart = max(0, len(caption) - 1) - max(0, len(r) - 1)  # counted in pairs of words
      penalty = math.exp(-(apart**2) / (2 * SIGMA**2))
      each.append([_clipped(a, b) * penalty for a, b in zip(own, other, strict=True)])
    scores.append(10 * float(np.mean(each)))
  return float(np.mean(scores))


def spice(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> float:
  """SPICE is not computed here.

  Raises:
    InputError: always.
  """
  raise InputError(
    'SPICE needs the Java program of its authors (panderson.me/spice), which is not part of this '
    'code: use cider_d, rouge_l or bleu, or run that program on the captions.'
  )


def caption_scores(
  references: Sequence[Sequence[str]], captions: Sequence[str]
) -> dict[str, float]:
  """BLEU-4, ROUGE-L and CIDEr of texts.

  Raises:
    InputError: see `bleu`.
  """
  refs = [[words(r) for r in each] for each in references]
  own = [words(c) for c in captions]
  return {'bleu4': bleu(refs, own), 'rouge_l': rouge_l(refs, own), 'cider': cider_d(refs, own)}


def _grams(sentence: Words, n: int) -> collections.Counter:
  return collections.Counter(tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1))


def _all_grams(sentence: Words) -> collections.Counter:
  found: collections.Counter = collections.Counter()
  for n in range(1, MAX_N + 1):
    found += _grams(sentence, n)
  return found


def _vectors(sentence: Words, documents: Mapping, whole: float) -> list[dict[tuple, float]]:
  """tf-idf of the n-grams of a sentence, for each n; counts are not divided by their sum."""
  return [
    {g: c * (whole - math.log(max(1, documents.get(g, 0)))) for g, c in _grams(sentence, n).items()}
    for n in range(1, MAX_N + 1)
  ]


def _clipped(own: Mapping[tuple, float], other: Mapping[tuple, float]) -> float:
  """Cosine in which no n-gram of the caption counts for more than in the reference."""
  norm = math.sqrt(sum(v * v for v in own.values()) * sum(v * v for v in other.values()))
  shared = sum(min(v, other[g]) * other[g] for g, v in own.items() if g in other)
  return shared / norm if norm else 0.0


def _common(a: Words, b: Words) -> int:
  """Length of the longest common subsequence."""
  row = [0] * (len(b) + 1)
  for word in a:
    before = 0
    for j, other in enumerate(b, 1):
      above = row[j]
      row[j] = before + 1 if word == other else max(above, row[j - 1])
      before = above
  return row[-1]


def _check(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> None:
  if len(references) != len(captions) or not captions or not all(references):
    raise InputError(
      f'{len(references)} lists of references for {len(captions)} captions: give at least one '
      'reference for every caption.'
    )
