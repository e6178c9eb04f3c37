"""From names and lists of corpora to the targets of SUPERB's tasks: pure functions, no files.

Sources: s3prl downstream/speech_commands, emotion, fluent_commands, voxceleb1, diarization. Texts
are in `characters`, `phones` and `slots`.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from research.errors import InputError
from research.text import characters

END = '</s>'
# -- Keywords ----------------------------------------------------------------------------------

# Speech Commands' rule for parts (arXiv 1804.03209, section 7.1); SUPERB trains on the rest and
# leaves out what the rule would test.
MAX_CLIPS, DEV_PERCENT, TEST_PERCENT = 2**27 - 1, 10.0, 10.0
KEYWORDS = ('yes', 'no', 'up', 'down', 'left', 'right', 'on', 'off', 'stop', 'go')
UNKNOWN_WORD, SILENCE = '_unknown_', '_silence_'
KEYWORD_CLASSES = (*KEYWORDS, UNKNOWN_WORD, SILENCE)


def keyword_part(name: str) -> str:
  """'train', 'dev' or '' (in neither) of a file of Speech Commands, by the hash of what stands
  before '_nohash_': all recordings of a speaker are in one part.

  Args:
    name: of the file, with or without its folder.
  """
  speaker = re.sub(r'_nohash_.*$', '', name.rsplit('/', 1)[-1])
  digest = int(hashlib.sha1(speaker.encode()).hexdigest(), 16)
  percent = digest % (MAX_CLIPS + 1) * (100.0 / MAX_CLIPS)
  if percent < DEV_PERCENT:
    return 'dev'
  return '' if percent < DEV_PERCENT + TEST_PERCENT else 'train'


def keyword_class(word: str) -> str:
  """The class of a folder of Speech Commands: the ten keywords, or unknown; of the background noise
  silence."""
  if word in ('_background_noise_', SILENCE):
    return SILENCE
  return word if word in KEYWORDS else UNKNOWN_WORD


def balanced_weights(labels: Sequence[str]) -> np.ndarray:
  """Weight of each item when one is drawn: items / items of its class, float64."""
  names, index, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
  del names
  return len(labels) / counts[index]


# -- Texts -------------------------------------------------------------------------------------


def spell(
  text: str, symbols: Sequence[str] = characters.SUPERB_CHARACTERS
) -> Int[np.ndarray, ' u']:
  """Ids of the characters of a text, '|' after every word, and the end: targets of SUPERB's speech
  recognition."""
  ids = characters.encode(text, symbols)
  return np.append(ids, np.int32(list(symbols).index(END)))


# -- Classes -----------------------------------------------------------------------------------


def number_by_appearance(values: Iterable[str]) -> dict[str, int]:
  """{value: number} in the order in which values first come."""
  return {value: i for i, value in enumerate(dict.fromkeys(values))}


def intent_classes(
  rows: Sequence[Sequence[str]], slots: Sequence[str] = ('action', 'object', 'location')
) -> dict[str, dict[str, int]]:
  """Classes of each slot of Fluent Speech Commands, numbered as they come in train_data.csv.

  Args:
    rows: values of the slots of every utterance.
    slots: names of the columns.
  """
  return {slot: number_by_appearance(row[i] for row in rows) for i, slot in enumerate(slots)}


def intents(
  rows: Sequence[Sequence[str]], classes: Mapping[str, Mapping[str, int]]
) -> Int[np.ndarray, 'b k']:
  """The class of each slot of utterances.

  Raises:
    InputError: a value was not in training.
  """
  try:
    found = [[c[value] for value, c in zip(row, classes.values(), strict=True)] for row in rows]
  except KeyError as error:
    raise InputError(f'The intent value {error} does not occur in the training list.') from None
  return np.array(found, np.int32).reshape(len(rows), len(classes))


def speaker_class(path: str) -> int:
  """The class of a recording of VoxCeleb1, 0 to 1250: the number in 'id10001' less 10001.

  Raises:
    InputError: no folder of the path is named so.
  """
  found = re.findall(r'(?:^|/)id(\d+)(?=/)', path)
  if not found:
    raise InputError(f'{path!r} has no folder id10001 … id11251, as VoxCeleb1 names speakers.')
  return int(found[-1]) - 10001


# -- Random split ------------------------------------------------------------------------------


def random_order(count: int, seed: int = 0) -> Int[np.ndarray, ' n']:
  """torch.randperm(count) after manual_seed(seed), on the CPU: Fisher and Yates by the Mersenne
  Twister."""
  draws = np.random.RandomState(seed)._bit_generator.random_raw(max(count - 1, 0))
  order = np.arange(count)
  for i, draw in enumerate(draws.tolist()):
    j = i + draw % (count - i)
    order[i], order[j] = order[j], order[i]
  return order


def random_split(
  count: int, train: float = 0.8, seed: int = 0
) -> tuple[Int[np.ndarray, ' n'], Int[np.ndarray, ' m']]:
  """Training and development items of emotion recognition: torch's random_split.

  Args:
    count: items.
    train: fraction; int(train * count) items are for training.
    seed: of torch's generator.
  """
  order, size = random_order(count, seed), int(train * count)
  return order[:size], order[size:]


# -- Diarization -------------------------------------------------------------------------------


def speaker_frames(
  segments: Sequence[tuple[str, float, float]],
  chunk: tuple[int, int],
  *,
  frame_shift: int = 320,
  sample_rate: int = 16000,
  speakers: Sequence[str] | None = None,
) -> Bool[np.ndarray, 'n k']:
  """Which speakers are active in each frame of a chunk.

  A segment that begins before the chunk and ends after it is not labelled, as in s3prl.

  Args:
    segments: (speaker, start, end) in seconds.
    chunk: first frame and last + 1.
    frame_shift: samples of a frame.
    sample_rate: Hz.
    speakers: columns; by default the sorted names of the segments.
  """
  names = sorted({s[0] for s in segments}) if speakers is None else list(speakers)
  found = np.zeros((chunk[1] - chunk[0], len(names)), bool)
  for name, *times in segments:
    start, end = (int(np.rint(t * sample_rate / frame_shift)) for t in times)
    begins, ends = chunk[0] <= start < chunk[1], chunk[0] < end <= chunk[1]
    if begins or ends:
      first = start - chunk[0] if begins else 0
      found[first : end - chunk[0] if ends else len(found), names.index(name)] = True
  return found


def chunks(frames: int, size: int = 2000) -> list[tuple[int, int]]:
  """(first, last + 1) of the chunks of a recording; the last one is what is left."""
  return [(start, min(start + size, frames)) for start in range(0, frames, size)]
