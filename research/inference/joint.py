"""Embeddings in the space that audio and text have in common (CLAP): of clips, and of texts.

Letters: b batch, t samples, p pieces, n texts, d dimensions.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.audio import tables
from research.audio.clips import Files, Source, Table
from research.audio.folder import EXTENSIONS
from research.capabilities import ComparesTexts
from research.errors import InputError
from research.inference import embedder, embedding_files
from research.inference.classify import embed_texts
from research.text.subwords import Tokenizer


@dataclasses.dataclass(frozen=True)
class JointApply:
  """(variables, audio, audio_mask) -> one token a clip in the common space [1, b, 1, d], and its
  mask; equal for equal modules.

  Clips longer than the model takes are cut into pieces, and the embeddings of the pieces are
  averaged, weighted by their real samples. With `normalize` those of the pieces and of the clip
  have length 1.
  """

  model: Any
  normalize: bool = True

  def __call__(
    self, variables: Any, audio: Float[Array, 'b t'], mask: Bool[Array, 'b t']
  ) -> tuple[Float[Array, '1 b 1 d'], Bool[Array, 'b 1']]:
    b, t = audio.shape
    size = t if getattr(self.model, 'fusion', False) else round(self.model.seconds * self._rate)
    count = -(-t // size)
    pad = ((0, 0), (0, count * size - t))
    pieces, masks = (jnp.pad(x, pad).reshape(b * count, size) for x in (audio, mask))
    batch = {'audio': pieces, 'audio_mask': masks}
    out = self.model.apply(variables, batch, method='embed_clips')
    found = out['audio_embedding' if self.normalize else 'audio_projected'].astype(jnp.float32)
    weights = masks.sum(1).reshape(b, count, 1).astype(jnp.float32)
    found = jnp.where(weights > 0, found.reshape(b, count, -1), 0.0)
    mean = (weights * found).sum(1) / jnp.maximum(weights.sum(1), 1.0)
    if self.normalize:
      mean = mean * jax.lax.rsqrt(jnp.maximum(jnp.square(mean).sum(1, keepdims=True), 1e-24))
    return mean[None, :, None], mask.any(axis=1, keepdims=True)

  @property
  def _rate(self) -> int:
    return self.model.frontend.sample_rate


def joint_embedder(pretrained: Any, normalize: bool = True) -> embedder.Embedder:
  """The system that embeds clips in the space of texts.

  Args:
    pretrained: see `weights.load`; a model of audio and text.
    normalize: whether embeddings have length 1.

  Raises:
    InputError: another kind of model.
  """
  check(pretrained)
  own = pretrained.embedder
  return dataclasses.replace(
    own,
    apply=JointApply(pretrained.model, normalize),
    weights=embedder.digest('joint', normalize, own.weights),
    pool='mean',
  )


class SoundEncoder:
  """Recordings, or words about them, to vectors of unit length in their common space: what a
  generator is asked for that has learned from recordings."""

  def __init__(self, pretrained: Any, tokenizer: Tokenizer, suffix: str = ''):
    """Args:
      pretrained: see `weights.load`; a model of audio and text.
      tokenizer: that of the weights.
      suffix: put behind every text.

    Raises:
      InputError: another kind of model.
    """
    self.embedder = joint_embedder(pretrained)
    self._pretrained, self._tokenizer, self._suffix = pretrained, tokenizer, suffix

  def vector(self, asked: str) -> Float[np.ndarray, ' d']:
    """The vector of a recording, by its path, or of a text.

    Raises:
      InputError: the text is empty or the name of a missing recording; a recording that cannot be
        used.
    """
    path = Path(asked).expanduser()
    if path.suffix.lower() in EXTENSIONS:
      if not path.is_file():
        raise InputError(f'There is no recording {asked}.')
      return np.asarray(self.embedder.embed(str(path)), np.float32).reshape(-1)
    if not asked.strip():
      raise InputError('The text of a sound is empty: say what is to be heard.')
    return embed_texts(self._pretrained, self._tokenizer, [asked + self._suffix])[0]


def check(pretrained: Any) -> None:
  """Raises InputError for a model that does not embed audio and text in one space."""
  if not isinstance(pretrained.model, ComparesTexts):
    raise InputError(f'{pretrained.name} does not compare audio with text: take a CLAP.')


def read_texts(spec: str) -> tuple[list[str], list[str]]:
  """(numbers of the lines, texts) of a file, or ('1', the text) if `spec` is no file.

  Blank lines are left out.

  Raises:
    InputError: no such file, one that is not UTF-8, or one without a text.
  """
  path = Path(spec).expanduser()
  try:
    file = path.is_file()
  except OSError:  # too long for a name
    file = False
  if not file:
    if path.suffix in ('.txt', '.csv', '.tsv', '.jsonl'):
      raise InputError(f'--text={spec}: there is no such file.')
    if not spec.strip():
      raise InputError('--text is empty: give a sentence, or a file with one a line.')
    return ['1'], [spec]
  found = list(tables.lines(path))
  if not found:
    raise InputError(f'--text={spec} has no lines.')
  return [str(number) for number, _ in found], [text for _, text in found]


def export_texts(
  pretrained: Any,
  tokenizer: Tokenizer,
  texts: Sequence[str],
  out: str | os.PathLike,
  *,
  ids: Sequence[str] | None = None,
  suffix: str = '',
  normalize: bool = True,
  about: dict[str, Any] | None = None,
  overwrite: bool = False,
) -> int:
  """Embeds texts into a file of the form of `embedding_files.export`, with the column 'text'.

  Args:
    pretrained: see `weights.load`; a model of audio and text.
    tokenizer: that of the weights.
    texts: to embed.
    out: the file, .npz or .parquet.
    ids: of the texts; '1', '2' … by default.
    suffix: put behind every text.
    normalize: whether embeddings have length 1.
    about: what to say about the model in the file.
    overwrite: whether a file that is there may be replaced.

  Returns:
    how many texts are in the file.

  Raises:
    InputError: another kind of model or ending, another tokenizer than that of the weights, or the
      file exists.
  """
  place = embedding_files.check_out(out, overwrite)
  vectors = embed_texts(pretrained, tokenizer, [f'{t}{suffix}' for t in texts], normalize=normalize)
  ids = [str(i + 1) for i in range(len(texts))] if ids is None else list(ids)
  source = Source(Table('texts', ids, {'text': list(texts)}, Files('', [''] * len(ids))))
  about = {**(about or {}), 'layers': [0], 'space': 'joint', 'normalized': normalize}
  about |= {'tokenizer': tokenizer.source, 'suffix': suffix, 'weights': pretrained.fingerprint}
  joined = {'values': vectors.astype(np.float32)[:, None], 'about': json.dumps(about)}
  embedding_files.write(place, joined, source, about)
  return len(texts)
