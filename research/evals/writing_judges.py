"""Judges of what a head makes step by step: texts of a decoder (BLEU), a converted voice (MCD).

They are part of `evals/judges.py`, see there. Letters: b batch, u tokens, s frames, f bands.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from research.audio import decode
from research.audio.clips import Source
from research.audio.example import Example
from research.audio.log_mel import LogMel
from research.errors import InputError
from research.inference import translation as search
from research.metrics import conversion, translation
from research.text.sentencepieces import SentencePieces

Kept = Mapping[int, Mapping[str, np.ndarray]]
# Pitch of a speaker who is not one of VCC 2020's targets, Hz.
PITCH = (57, 405)


@dataclasses.dataclass(frozen=True)
class Translated:
  """Texts of a decoder by beam search: 'bleu', sacreBLEU of detokenised text with its case.

  Attributes:
    model: the SentencePiece model of the targets.
    column: of the references.
    beams: hypotheses of the search.
    max_tokens: of a text.
    tokenize: of sacreBLEU.
  """

  model: str
  column: str = 'translation'
  beams: int = search.BEAMS
  max_tokens: int = search.MAX_TOKENS
  tokenize: str = '13a'

  # The reference is not shown to the model.
  HIDDEN: ClassVar[tuple[str, ...]] = ('targets',)

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """What the decoder attends to, [b, m, d], and which of it is real."""
    del batch
    return {name: jnp.asarray(out[name]) for name in ('encoder_out', 'encoder_mask')}

  def decode(
    self, model: Any, variables: Mapping[str, Any], kept: Mapping[str, jax.Array]
  ) -> Mapping[str, np.ndarray]:
    """The best text of every row, ids [b, u] with -1 behind."""
    head = model.top
    params = {k: v for k, v in variables['params'].items() if k in head.PARAMETERS}
    heard = kept['encoder_out'], kept['encoder_mask']
    texts = search.translate_encoded(
      head, params, *heard, beams=self.beams, max_tokens=self.max_tokens
    ).best()
    found = np.full((len(texts), max(1, *map(len, texts))), -1, np.int32)
    for row, ids in zip(found, texts):
      row[: len(ids)] = ids
    return {'tokens': found}

  def reduce(self, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The ids of a text."""
    return {'tokens': arrays['tokens'][arrays['tokens'] >= 0]}

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    pieces, values = SentencePieces(self.model), source.column(self.column)
    # Official: references too are what the vocabulary can write, an empty text is '<unk>'.
    references = [pieces.decode(pieces.encode(str(values[row])).tolist()) for row in kept]
    hypotheses = [pieces.decode(x['tokens'].tolist()) or '<unk>' for x in kept.values()]
    found = translation.bleu(references, hypotheses, tokenize=self.tokenize)
    return {'bleu': found.score}


@dataclasses.dataclass(frozen=True)
class Converted:
  """A converted voice against a recording of the target speaker, by WORLD's analysis: 'mcd'
  (mel-cepstral distortion, dB), 'f0_rmse' (Hz), 'f0_correlation', 'duration' (seconds); the means
  of all clips.

  Waveforms are made by Griffin and Lim's algorithm, as the published code does without a vocoder;
  the leaderboard's are made by Parallel WaveGAN.

  Attributes:
    reference: column of paths of the recordings; None: the clip itself.
    speaker: target speaker, whose range of pitch is used; one of VCC 2020, or None.
  """

  reference: str | None = None
  speaker: str | None = None

  # The head runs freely: the target is not shown.
  HIDDEN: ClassVar[tuple[str, ...]] = ('mel', 'mel_mask')

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Frames [b, s, f] and which of them are real."""
    del batch
    return {name: jnp.asarray(out[name]) for name in ('mel', 'mel_frames')}

  def reduce(self, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The real frames."""
    return {'mel': np.asarray(arrays['mel'][np.asarray(arrays['mel_frames'], bool)], np.float32)}

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class; metrics without a value, as the pitch of a whisper, are left out."""
    how = LogMel()
    low, high = conversion.PITCH_RANGES.get(self.speaker or '', PITCH)
    found: dict[str, list[float]] = {}
    for row, x in kept.items():
      reference = decode.decode(self._recording(source, row), sample_rate=how.sample_rate)
      made = how.waveform(x['mel'])
      distances = conversion.distortion(made, reference, how.sample_rate, (low, high))
      for name, value in dataclasses.asdict(distances).items():
        if np.isfinite(value):
          found.setdefault(name, []).append(float(value))
    if 'mcd' not in found:
      raise InputError(f'No clip of {source.name!r} could be compared: none has a frame of speech.')
    return {name: float(np.mean(values)) for name, values in found.items()}

  def _recording(self, source: Source, row: int) -> Example:
    if self.reference is None:
      return source[row]
    path = str(source.column(self.reference)[row])
    if not path:
      raise InputError(
        f'Clip {source.id(row)!r} of {source.name!r} has no {self.reference!r}, the recording of '
        'the target speaker that it is compared with.'
      )
    return Example(path, {}, path=path)
