"""Scores of generated sounds, of sources of clips: `metrics.generation` of their embeddings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from research.audio.clips import Source
from research.audio.decode import AudioError, decode
from research.errors import InputError
from research.inference import joint
from research.inference.classify import embed_texts
from research.metrics import generation
from research.text.subwords import Tokenizer

# Fewer clips are not extrapolated from.
ENOUGH = 32


def embeddings(encoder: Any, source: Source) -> Float[np.ndarray, 'n d']:
  """One embedding a clip, of the last layer.

  Args:
    encoder: an `embedder.Embedder`.
    source: of the clips.

  Raises:
    InputError: a clip cannot be read or embedded; there is none.
  """
  if not len(source):
    raise InputError(f'{source.name!r} has no clips.')
  rate = encoder.frontend.sample_rate
  clips = []
  for clip in source:
    try:
      clips.append(decode(clip, sample_rate=rate))
    except AudioError as error:
      raise InputError(f'{error.where}: {error.reason}. Leave it out.') from None
  return np.asarray(encoder.embed(clips, rate), np.float64).reshape(len(clips), -1)


def distances(encoder: Any, made: Source, real: Source) -> dict[str, float]:
  """'fad', with enough clips also 'fad_extrapolated', and the numbers of clips.

  Raises:
    InputError: see `embeddings`; fewer than two clips.
  """
  a, b = embeddings(encoder, made), embeddings(encoder, real)
  found = {'fad': generation.frechet_audio_distance(a, b)}
  if len(a) >= ENOUGH:
    found['fad_extrapolated'], _ = generation.extrapolated(a, b)
  return found | {'generated': float(len(a)), 'real': float(len(b))}


def texts(source: Source, column: str, asked: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """The text of every clip.

  Args:
    source: of the clips.
    column: of texts, of the source or in `asked`.
    asked: {id of a clip: columns of its own}.

  Raises:
    InputError: a clip has none.
  """
  if column in source.column_names:
    found = [str(value) for value in source.column(column)]
  else:
    found = [str(asked.get(source.id(i), {}).get(column, '')) for i in range(len(source))]
  lacking = [source.id(i) for i, text in enumerate(found) if not text.strip()]
  if lacking:
    raise InputError(
      f'{len(lacking)} clips of {source.name!r} have no {column!r}, the first is {lacking[0]!r}: '
      'name a column that all have.'
    )
  return found


def agreement(
  clap: Any, tokenizer: Tokenizer, made: Source, texts: Sequence[str]
) -> dict[str, float]:
  """'clap_score', and where texts differ 'clap_matched', the fraction of clips whose own text is
  the nearest of all.

  Args:
    clap: see `weights.load`.
    tokenizer: of the weights.
    made: the clips.
    texts: of each.
  """
  audio = embeddings(joint.joint_embedder(clap), made)
  each = list(dict.fromkeys(texts))
  vectors = np.asarray(embed_texts(clap, tokenizer, each), np.float64)
  labels = [each.index(text) for text in texts]
  own = vectors[labels]
  found = {'clap_score': generation.clap_score(audio, own)}
  if len(each) > 1:
    found['clap_matched'] = generation.matched(audio, own, labels)
    found['chance'] = 1.0 / len(each)
  return found
