"""SentencePiece models (arXiv 1808.06226) by the library: pieces of texts to ids and back.

Optional: pip install -e '.[translation]'. The special ids are those of fairseq's dictionaries, so
that an id is the same in a dictionary that fairseq makes of a model.
"""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from research.errors import InputError

BOS, PAD, EOS, UNK = 0, 1, 2, 3


class SentencePieces:
  """A model: `encode` and `decode`.

  Attributes:
    size: number of pieces, special ones too.
  """

  def __init__(self, path: str | os.PathLike):
    """
    Args:
      path: the .model file.

    Raises:
      InputError: the library or the file is missing, or the special ids are others than fairseq's.
    """
    self.path = Path(path)
    if not self.path.is_file():
      raise InputError(f'There is no SentencePiece model at {str(path)!r}: give a .model file.')
    try:
      self._model = _library().SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
      raise InputError(f'{str(path)!r} is no model of SentencePiece ({error}).') from None
    ids = tuple(getattr(self._model, f'{name}_id')() for name in ('bos', 'pad', 'eos', 'unk'))
    if ids != (BOS, PAD, EOS, UNK):
      raise InputError(
        f'{str(path)!r} has the ids {ids} for start, padding, end and unknown; expected '
        f'{(BOS, PAD, EOS, UNK)}, as fairseq makes its models.'
      )
    self.size = int(self._model.get_piece_size())

  def encode(self, text: str) -> Int[np.ndarray, 'u']:
    """The ids of a text, int32, the end behind it."""
    return np.array([*self._model.encode(text), EOS], np.int32)

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids; special ones are left out, but for the unknown one."""
    return str(self._model.decode([int(i) for i in ids if int(i) not in (BOS, PAD, EOS)]))


def train(
  texts: Iterable[str],
  path: str | os.PathLike,
  *,
  kind: str = 'char',
  size: int | None = None,
) -> Path:
  """Makes a model of texts.

  Args:
    texts: that it learns from.
    path: the .model file to write; it is there whole or not at all.
    kind: 'char', 'unigram' or 'bpe'.
    size: number of pieces; None for all characters, with 'char' alone.

  Returns:
    the file.

  Raises:
    InputError: the library is missing, there is no text, or the library refuses the settings.
  """
  if kind != 'char' and size is None:
    raise InputError(f'SentencePiece got kind={kind!r} and no size: give the number of pieces.')
  given = [text for text in texts if text.strip()]
  if not given:
    raise InputError('SentencePiece got no text to learn from.')
  sized: dict[str, Any] = dict(use_all_vocab=True) if size is None else dict(vocab_size=size)
  out = io.BytesIO()
  try:
    _library().SentencePieceTrainer.train(
      sentence_iterator=iter(given), model_writer=out, model_type=kind, character_coverage=1.0,
      bos_id=BOS, pad_id=PAD, eos_id=EOS, unk_id=UNK, num_threads=1, minloglevel=2, **sized,
    )  # fmt: skip
  except RuntimeError as error:
    raise InputError(f'SentencePiece cannot learn from {len(given)} texts: {error}.') from None
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.name}.partial')
  partial.write_bytes(out.getvalue())
  os.replace(partial, path)
  return path


def _library() -> Any:
  try:
    import sentencepiece
  except ImportError:
    raise InputError(
      "Subwords need sentencepiece, which is not installed: pip install -e '.[translation]'."
    ) from None
  return sentencepiece
