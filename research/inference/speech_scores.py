"""How well speech was made: is its voice the one that was asked for, and does it say its text?

Rows are those of `audio_files.generate_files`, of texts or of converted recordings. Errors of a
recogniser are its own too: beside them stand those of the recordings where there are some.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.audio.decode import AudioError, decode
from research.audio.example import Example
from research.audio.folder import EXTENSIONS
from research.errors import InputError
from research.inference.speakers import SpeakerEncoder
from research.metrics import asr, conversion
from research.text.normalize import normalize_basic, normalize_english

Row = dict[str, Any]
# Hz at which the figures of `metrics.conversion` hold.
DISTORTION_RATE = 24_000


@dataclasses.dataclass(frozen=True)
class Judges:
  """Who judges; each None where it is not asked.

  Attributes:
    speakers: compares voices.
    transcribe: a path -> what is said.
    parallel: a folder with recordings of the target, named as the results.
    english: texts are compared as Whisper compares English ones, numbers as digits; else only case
      and marks do not count.
  """

  speakers: SpeakerEncoder | None = None
  transcribe: Callable[[str], str] | None = None
  parallel: Path | None = None
  english: bool = True

  def normalised(self, text: str) -> str:
    """A text as it is compared."""
    return (normalize_english if self.english else normalize_basic)(text).strip()


def judged(folder: Path, rows: Sequence[Mapping[str, Any]], judges: Judges) -> Iterator[Row]:
  """Rows of results with what the judges say.

  A row gets 'similarity', the cosine of its voice with that of the recording `voice`, and
  'similarity_source' with that of the `recording` that was converted; 'said', the transcript of the
  result, and 'wanted', its text or the transcript of the recording that it is of; 'mcd' (dB). What
  cannot be judged, as a silent result, gets 'problem' and no score.

  Args:
    folder: where the files are.
    rows: with 'file'; others are left out.
    judges: see `Judges`.
  """
  for row in rows:
    if 'file' not in row:
      continue
    path, found = str(folder / row['file']), dict(row)
    try:
      found |= _similarities(path, row, judges) | _texts(path, row, judges)
      found |= _distortion(path, row, judges)
    except (InputError, AudioError) as error:
      found['problem'] = str(error)
    yield found


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Means of what is in rows; 'cer' and 'wer' of all characters and words together; 'aligned', the
  fraction of texts whose alignment is good."""
  found: dict[str, float] = {'results': len(rows)}
  for name in ('similarity', 'similarity_source', 'mcd', 'aligned'):
    values = [float(row[name]) for row in rows if name in row]
    if values:
      found[name] = float(np.mean(values))
  both = [row for row in rows if {'similarity', 'similarity_source'} <= set(row)]
  if both:
    nearer = [row['similarity'] > row['similarity_source'] for row in both]
    found['nearer_to_voice'] = float(np.mean(nearer))
  said = [row for row in rows if 'said' in row]
  if said:
    pair = [row['wanted'] for row in said], [row['said'] for row in said]
    found['cer'] = asr.character_errors(*pair).rate
    found['wer'] = asr.word_errors(*pair).rate
    found['exact'] = float(np.mean([a == b for a, b in zip(*pair)]))
  problems = sum('problem' in row for row in rows)
  return found | ({'problems': problems} if problems else {})


def _similarities(path: str, row: Mapping[str, Any], judges: Judges) -> Row:
  if judges.speakers is None:
    return {}
  own, found = judges.speakers.vector(path), {}
  for name, other in (
    ('similarity', row.get('voice')),
    ('similarity_source', row.get('recording')),
  ):
    if isinstance(other, str):
      found[name] = round(float(own @ judges.speakers.vector(other)), 4)
  return found


def _texts(path: str, row: Mapping[str, Any], judges: Judges) -> Row:
  if judges.transcribe is None:
    return {}
  if 'text' in row:
    wanted = row['text']
  elif 'recording' in row:
    wanted = judges.transcribe(row['recording'])
  else:
    return {}
  said = judges.transcribe(path)
  return {'said': judges.normalised(said), 'wanted': judges.normalised(wanted)}


def _distortion(path: str, row: Mapping[str, Any], judges: Judges) -> Row:
  if judges.parallel is None:
    return {}
  places = (judges.parallel / f'{row["id"]}{ending}' for ending in sorted(EXTENSIONS))
  other = next((place for place in places if place.is_file()), None)
  if other is None:
    return {}
  own, target = (
    decode(Example(str(x), {}, path=str(x)), sample_rate=DISTORTION_RATE) for x in (path, other)
  )
  return {'mcd': round(conversion.distortion(own, target, DISTORTION_RATE).mcd, 3)}
