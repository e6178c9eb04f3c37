"""Models of audio and text, judged without training: classes by their names, and retrieval.

LAION-CLAP, arXiv 2211.06687, sections 4.2 and 4.3; Microsoft CLAP, 2206.04769.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research import weights
from research.audio import pipeline
from research.audio.clips import Source
from research.audio.decode import AudioError, decode
from research.audio.fields.captions import captions as captions_of
from research.errors import InputError, unknown
from research.evals import protocols
from research.evals.tasks import Prepared
from research.inference.classify import TEMPLATE, Classifier, embed_texts
from research.metrics import classification, retrieval
from research.text.subwords import Tokenizer
from research.weights import Pretrained
from research.weights.text_towers import Spelling


def make_protocol(
  paths: Mapping[str, str],
  spelling: Callable[[str], Spelling],
  template: str = TEMPLATE,
) -> protocols.Protocol:
  """A protocol of `evals.harness`: the class whose text is nearest to a clip; nothing is trained.

  Args:
    paths: the weights behind each system, by the fingerprint of the system's weights.
    spelling: tokenizer and suffix of the weights at a path; asked for when they are needed.
    template: the text of a class, with {} for its name, in which '_' is a space.
  """

  def protocol(
    system: protocols.System, task: Prepared, options: protocols.Options
  ) -> dict[str, Any]:
    del options
    path = paths.get(str(system.embedder.weights))
    if path is None:
      raise InputError(f'{system.embedder.name} has no weights of a text tower: take a CLAP.')
    loaded = weights.load(path)
    names = [name.replace('_', ' ') for name in task.classes]
    tokenizer, suffix = spelling(path)
    classifier = Classifier.zero_shot(loaded, tokenizer, names, template, suffix)
    known: dict[int, np.ndarray] = {}

    def scores(rows: np.ndarray) -> np.ndarray:
      for i in rows.tolist():
        if i not in known:
          known[i] = _scores(classifier, task.source[i])
      return np.stack([known[i] for i in rows.tolist()])

    def fit(x: np.ndarray, rows: tuple[np.ndarray, ...]) -> protocols.Fold:
      del x
      _, validation, test = rows
      score = classification.METRICS[task.metric]
      value = float(score(scores(validation), task.labels[validation]))
      chosen = dict(template=template)
      return protocols.Fold(scores(test)[None], value, chosen, [{'validation': value}])

    return protocols.row('zero_shot', system, task, fit)

  return protocol


def _scores(classifier: Classifier, clip: Any) -> np.ndarray:
  """The scores of a clip; zeros where it cannot be read."""
  rate = classifier.frontend.sample_rate
  try:
    return classifier.scores(decode(clip, sample_rate=rate), rate)
  except AudioError:
    return np.zeros(len(classifier.labels), np.float32)


def audio_text_retrieval(
  pretrained: Pretrained,
  tokenizer: Tokenizer,
  source: Source,
  *,
  column: str = 'caption',
  template: str = '',
  suffix: str = '',
  batch_size: int = 16,
) -> Mapping[str, Mapping[str, float]]:
  """Captions found by their clips, and clips by their captions, among all of a source.

  Of clips longer than the model takes the beginning counts.

  Args:
    pretrained: see `weights.load`; a model of audio and text.
    tokenizer: that of the weights.
    source: clips with a caption, or a list of captions, each.
    column: of the captions, or of labels.
    template: makes captions of labels, see `fields.captions.Captions`.
    suffix: put behind every caption.
    batch_size: clips in a batch.

  Returns:
    'audio_to_text' and 'text_to_audio': see `retrieval.retrieval_scores`.

  Raises:
    InputError: another kind of model, no such column, a clip without a caption, or one that cannot
      be read.
  """
  if column not in source.column_names:
    raise unknown(f'caption column of {source.name!r}', column, source.column_names)
  given = captions_of(source, column, template)
  lacking = [i for i, each in enumerate(given) if not each]
  if lacking:
    raise InputError(
      f'{len(lacking)} clips of {source.name!r} have no {column!r}, the first '
      f'{source.id(lacking[0])!r}.'
    )
  captions = [(i, c) for i, each in enumerate(given) for c in each]
  texts = embed_texts(pretrained, tokenizer, [c + suffix for _, c in captions])
  clips = embed_clips(pretrained, source, batch_size)
  similarity = clips @ texts.T
  relevant = retrieval.relevance(range(len(clips)), [i for i, _ in captions])
  return {
    'audio_to_text': retrieval.retrieval_scores(similarity, relevant),
    'text_to_audio': retrieval.retrieval_scores(similarity.T, relevant.T),
  }


def embed_clips(pretrained: Pretrained, source: Source, batch_size: int = 16) -> np.ndarray:
  """Normalised embeddings [n, d] of all clips, in order.

  Raises:
    InputError: a clip cannot be read.
  """
  model: Any = pretrained.model
  apply = jax.jit(lambda v, batch: model.apply(v, batch)['audio_embedding'])
  found: dict[int, np.ndarray] = {}
  batches = pipeline.eval_batches(
    source,
    batch_size=min(batch_size, len(source)),
    sample_rate=model.frontend.sample_rate,
    max_seconds=None if model.fusion else model.seconds,
  )
  for batch in batches:
    arrays = {name: jnp.asarray(batch[name]) for name in ('audio', 'audio_mask')}
    vectors = np.asarray(apply(pretrained.variables, arrays))
    found |= {int(i): v for i, ok, v in zip(batch['index'], batch['valid'], vectors) if ok}
  lost = sorted(set(range(len(source))) - set(found))
  if lost:
    raise InputError(f'{len(lost)} clips cannot be read, the first {source.id(lost[0])!r}.')
  return np.stack([found[i] for i in range(len(source))])
