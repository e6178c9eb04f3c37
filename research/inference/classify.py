"""Classes of audio of any length: by a trained classifier, or by texts (zero-shot, CLAP); files of
them.

Long clips are cut into windows; the scores of a clip are the mean over its windows, weighted by
their lengths. Letters: b batch, t samples, w windows, c classes, u tokens, d dimensions.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.capabilities import Classifies, ComparesTexts, Hears, Names
from research.errors import InputError, unknown
from research.inference import clip_rows, inputs, transcribe
from research.inference.clip_rows import Row
from research.jobs import folders
from research.text.subwords import Tokenizer

# AudioSet's clips are of this length.
WINDOW = 10.0
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
  'sigmoid': jax.nn.sigmoid,  # several classes may be there (AudioSet)
  'softmax': jax.nn.softmax,  # one is there (ESC-50)
}
# LAION-CLAP's prompt for ESC-50; Microsoft's is 'this is the sound of {}'.
TEMPLATE = 'This is a sound of {}.'


class Label(NamedTuple):
  """A class and its score in [0, 1]."""

  name: str
  score: float


class Classifier:
  """Scores of classes.

  from research import weights
  classifier = Classifier.of_model(weights.load('weights/ast'))
  print(classifier.top(classifier.scores('street.wav'), 5))
  """

  def __init__(
    self,
    score: Callable[[Any, Any, Any], Any],
    variables: Any,
    frontend: Any,
    labels: Sequence[str],
    *,
    window: float = WINDOW,
    batch_size: int = 8,
  ):
    """Args:
      score: (variables, audio [b, t], audio_mask [b, t]) -> scores [b, c].
      variables: weights, which are placed on the device once.
      frontend: of the model.
      labels: names of the classes.
      window: seconds of a piece of a longer clip.
      batch_size: pieces in a batch.

    Raises:
      InputError: a window below one frame.
    """
    self.samples = round(window * frontend.sample_rate)
    if self.samples < frontend.min_samples or batch_size < 1:
      raise InputError(
        f'window={window:g} s and batch_size={batch_size}; one frame takes '
        f'{frontend.min_samples / frontend.sample_rate:g} s, and a batch one piece.'
      )
    self.frontend, self.labels, self.batch_size = frontend, tuple(labels), batch_size
    self._variables, self._score = jax.device_put(variables), jax.jit(score)

  @classmethod
  def of_model(
    cls,
    pretrained: Any,
    labels: Sequence[str] | None = None,
    activation: str = 'sigmoid',
    **args: Any,
  ) -> 'Classifier':
    """A trained classifier.

    Args:
      pretrained: see `weights.load`; a model with logits of classes.
      labels: names of the classes; None: those of the weights, else 'class 0', 'class 1' ….
      activation: a key of ACTIVATIONS.
      **args: `window`, `batch_size`.

    Raises:
      InputError: the model has no classes, or there are other names than classes.
    """
    model: Any = pretrained.model
    if activation not in ACTIVATIONS:
      raise unknown('activation', activation, ACTIVATIONS)
    heard = isinstance(pretrained.model, Hears) and isinstance(pretrained.model, Classifies)
    if not (heard and model.classes):
      raise InputError(
        f'{pretrained.name} has no logits of classes: take a fine-tuned model with the head '
        "'classifier'."
      )
    known = model.labels if isinstance(pretrained.model, Names) else ()
    names = tuple(known if labels is None else labels)
    names = names or tuple(f'class {i}' for i in range(model.classes))
    if len(names) != model.classes:
      raise InputError(f'{len(names)} labels were given; the model has {model.classes} classes.')

    def score(variables, audio, mask):
      out = model.apply(variables, {'audio': audio, 'audio_mask': mask})
      return ACTIVATIONS[activation](out['logits'].astype(jnp.float32))

    return cls(score, pretrained.variables, model.frontend, names, **args)

  @classmethod
  def zero_shot(
    cls,
    pretrained: Any,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    template: str = TEMPLATE,
    suffix: str = '',
    **args: Any,
  ) -> 'Classifier':
    """Classes described by texts; scores are a softmax over them.

    Args:
      pretrained: see `weights.load`; a model of audio and text.
      tokenizer: that of the weights.
      labels: names of the classes.
      template: the text of a class, with {} for its name.
      suffix: put behind every text (Microsoft CLAP 2023: ' <|endoftext|>').
      **args: `window`, `batch_size`; the window is that of the model where none is given.

    Raises:
      InputError: another kind of model, a template without {}, no labels, or a tokenizer of another
        vocabulary.
    """
    if '{}' not in template or not labels:
      raise InputError(
        f'template={template!r} and {len(labels)} labels; expected a text with {{}} and a label or '
        'more.'
      )
    texts = [template.replace('{}', name) + suffix for name in labels]
    words = embed_texts(pretrained, tokenizer, texts)
    model = pretrained.model
    args.setdefault('window', model.seconds)

    def score(variables, audio, mask):
      out = model.apply(variables, {'audio': audio, 'audio_mask': mask})
      return jax.nn.softmax(out['logit_scale'][0] * out['audio_embedding'] @ words.T)

    return cls(score, pretrained.variables, model.frontend, labels, **args)

  def scores(
    self, audio: inputs.Audio, sample_rate: float | None = None
  ) -> Float[np.ndarray, ' c']:
    """The scores of a clip, a path or samples at `sample_rate` Hz.

    Raises:
      InputError: it cannot be read, or is below one frame.
    """
    pieces = self.windows(audio, sample_rate)
    weight = np.array([seconds for seconds, _ in pieces])
    return np.average([scores for _, scores in pieces], axis=0, weights=weight)

  def windows(
    self, audio: inputs.Audio, sample_rate: float | None = None
  ) -> list[tuple[float, Float[np.ndarray, ' c']]]:
    """(seconds, scores) of every window of a clip; a last one below one frame is left out.

    Raises:
      InputError: see `scores`.
    """
    samples = inputs.samples_of(audio, sample_rate, self.frontend, 0, None)
    return list(self._scored(self._cut(samples)))

  def stream(
    self,
    source: Source,
    bad_files: BadFiles | None = None,
    rows: Sequence[np.ndarray] | None = None,
  ) -> Iterator[tuple[int, Float[np.ndarray, ' c'] | str]]:
    """(row, its scores, or the reason why there are none), block by block; windows of all clips of
    a block are in one row of batches.

    Raises:
      InputError: too many bad files.
    """
    bad_files = BadFiles(None, 1.0) if bad_files is None else bad_files
    for block in transcribe.blocks(source.durations()) if rows is None else rows:
      bad_files.seen(len(block))
      cuts: dict[int, list[np.ndarray]] = {}
      for row in map(int, block):
        samples = transcribe.whole(source, row, self.frontend, bad_files)
        if isinstance(samples, str):
          yield row, samples
        else:
          cuts[row] = self._cut(samples)
      bad_files.check()
      scored = self._scored([cut for each in cuts.values() for cut in each])
      for row, each in cuts.items():
        weight, scores = zip(*itertools.islice(scored, len(each)), strict=True)
        yield row, np.average(scores, axis=0, weights=weight)

  def _cut(self, samples: Float[np.ndarray, ' t']) -> list[np.ndarray]:
    """The windows of a clip; a last one below one frame is left out."""
    cuts = [samples[i : i + self.samples] for i in range(0, len(samples), self.samples)]
    return [cut for cut in cuts if len(cut) >= self.frontend.min_samples]

  def _scored(self, cuts: Sequence[np.ndarray]) -> Iterator[tuple[float, Float[np.ndarray, ' c']]]:
    """(seconds, scores) of windows."""
    for samples, scores in self.batches(cuts):
      yield samples / self.frontend.sample_rate, scores

  def batches(
    self, cuts: Iterable[Float[np.ndarray, '_']]
  ) -> Iterator[tuple[int, Float[np.ndarray, ' c']]]:
    """(samples, scores) of pieces of a window at most, which may come one by one."""
    cuts, size = iter(cuts), 0
    while batch := list(itertools.islice(cuts, self.batch_size)):
      size = max(size, len(batch))  # a last batch is filled up
      audio, mask = inputs.padded(batch, size, self.samples)
      scores = np.asarray(self._score(self._variables, audio, mask))
      yield from zip(map(len, batch), scores)

  def top(self, scores: Float[np.ndarray, ' c'], k: int = 5) -> list[Label]:
    """The k classes with the highest scores, highest first."""
    order = np.argsort(-scores, kind='stable')[:k]
    return [Label(self.labels[i], float(scores[i])) for i in order]


def embed_texts(
  pretrained: Any,
  tokenizer: Tokenizer,
  texts: Sequence[str],
  batch_size: int = 64,
  normalize: bool = True,
) -> Float[np.ndarray, 'n d']:
  """Embeddings of texts in the common space, float32; of length 1 with `normalize`.

  Raises:
    InputError: the model takes no text, or the tokenizer is of another vocabulary.
  """
  if not isinstance(pretrained.model, ComparesTexts):
    raise InputError(f'{pretrained.name} does not compare audio with text: take a CLAP.')
  model: Any = pretrained.model
  tokenizer.check_fits(model.vocabulary)
  embed = jax.jit(functools.partial(model.apply, method='embed_texts'))
  found = []
  for batch in _groups(list(texts), batch_size):
    filled = [*batch, *[''] * (min(batch_size, len(texts)) - len(batch))]
    ids, mask = tokenizer.batch(filled, length=model.max_tokens)
    mask[:, 0] = True  # an empty text has no tokens in some vocabularies
    out = embed(pretrained.variables, ids, mask)
    vectors = out['text_embedding' if normalize else 'text_projected']
    found.append(np.asarray(vectors, np.float32)[: len(batch)])
  return np.concatenate(found) if found else np.zeros((0, model.dim), np.float32)


# -- Files -------------------------------------------------------------------------------------


def classify_source(
  classifier: Classifier,
  source: Any,
  out: str | os.PathLike | None = None,
  *,
  about: Mapping[str, Any] | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
) -> list[Row]:
  """Scores of every clip of a source, into a .jsonl file if one is named.

  A row is {id, scores: {class: score}}, highest first, or {id, error} for a clip that was left out.

  Args:
    classifier: the system.
    source, out, about, max_bad_fraction: see `clip_rows.run`.
    overwrite: whether a file that is there may be replaced.

  Raises:
    InputError: another ending, the file exists, and as `clip_rows.run`.
  """
  path = None if out is None else folders.writable(out, ('.jsonl',), overwrite)

  def row_of(i: int, result: Any) -> Row:
    if isinstance(result, str):
      return {'id': source.id(i), 'error': result}
    every = classifier.top(result, len(result))
    return {'id': source.id(i), 'scores': {each.name: round(each.score, 6) for each in every}}

  how = {'labels': list(classifier.labels), 'window': classifier.samples}
  return clip_rows.run(
    classifier.stream,
    source,
    row_of,
    path,
    clip_rows.jsonl,
    doing='classifying',
    done='classified',
    about={**(about or {}), **how},
    max_bad_fraction=max_bad_fraction,
  )


def _groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
  for i in range(0, len(items), size):
    yield items[i : i + size]
