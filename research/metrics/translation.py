"""Translations against their references: BLEU by sacrebleu, with its signature.

Optional: pip install -e '.[translation]'.
"""

import dataclasses
from collections.abc import Sequence

from research.errors import InputError


@dataclasses.dataclass(frozen=True)
class Bleu:
  """Corpus BLEU.

  Attributes:
    score: 0 to 100.
    precisions: of 1-grams to 4-grams, percent.
    brevity_penalty: factor in the score.
    signature: what the score depends on, as sacrebleu writes it.
  """

  score: float
  precisions: tuple[float, ...]
  brevity_penalty: float
  signature: str


def bleu(
  references: Sequence[str],
  hypotheses: Sequence[str],
  *,
  tokenize: str = '13a',
  lowercase: bool = False,
) -> Bleu:
  """BLEU of detokenised text, one reference each (SUPERB's and CoVoST 2's, case kept).

  Args:
    references: texts.
    hypotheses: of the same utterances.
    tokenize: of sacrebleu; 'zh' for Chinese, 'ja-mecab', 'char', …
    lowercase: whether case is ignored.

  Raises:
    InputError: sacrebleu is missing, or the numbers of texts differ.
  """
  try:
    from sacrebleu.metrics import BLEU
  except ImportError:
    raise InputError(
      "BLEU needs sacrebleu, which is not installed: pip install -e '.[translation]'."
    ) from None
  if len(references) != len(hypotheses) or not references:
    raise InputError(
      f'BLEU got {len(references)} references and {len(hypotheses)} hypotheses: one of each for '
      'every utterance is expected.'
    )
  metric = BLEU(tokenize=tokenize, lowercase=lowercase)
  found = metric.corpus_score(list(hypotheses), [list(references)])
  signature = str(metric.get_signature())
  return Bleu(found.score, tuple(found.precisions), found.bp, signature)
