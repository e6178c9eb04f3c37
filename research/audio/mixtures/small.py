"""Small sets of two-speaker mixtures from any clips with speakers: separation and diarization.

Separation follows LibriMix (scripts/create_librimix_metadata.py): two utterances of different
speakers, levels between -33 and -25 dB, the shorter length, a peak of 0.9 at most. Levels are root
mean squares, not loudness. Diarization recordings are conversations of 10 to 20 s with pauses; 20
to 40 % of the time in which somebody speaks, both do. Turns are the stretches of speech by their
energy (`signals.runs`), where SUPERB uses a forced alignment.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.audio.clips import Source
from research.audio.mixtures import lists, pools, signals
from research.audio.mixtures.writing import Item, Made, Recipe
from research.errors import InputError, unknown

TASKS = ('ss', 'sd')
# Levels of speech, and of noise if there is any (dB of full scale), of LibriMix.
LEVELS, NOISE_LEVELS = (-33.0, -25.0), (-38.0, -30.0)
# Names of the folders of splits.
FOLDERS = {
  'ss': {'train': 'train-100', 'valid': 'dev', 'test': 'test'},
  'sd': {'train': 'train', 'valid': 'dev', 'test': 'test'},
}
KINDS = ('mix_clean', 's1', 's2')
# Conversations: seconds, and time of both as a fraction of the time of speech.
SECONDS, OVERLAP = (10.0, 20.0), (0.2, 0.4)
UTTERANCES, TRIES = 6, 200


def small_mixtures(
  source: Source,
  noise: Source | None = None,
  seed: int = 0,
  train: int = 300,
  valid: int = 60,
  test: int = 100,
  tasks: Sequence[str] = TASKS,
  shortest: float = 2.0,
) -> Recipe:
  """ss/{train-100,dev,test}/{mix_clean,s1,s2} with wav.scp, as `superb_ss` reads it, and
  sd/{train,dev,test}/ as `superb_sd` does.

  Args:
    source: clips with a column `speaker`; splits share no speaker.
    noise: clips of noise, added to the conversations.
    seed: of every choice.
    train, valid, test: number of mixtures of a task.
    tasks: of 'ss' and 'sd'.
    shortest: minimum length of a clip, seconds.

  Raises:
    InputError: an unknown task, or too few speakers or clips.
  """
  for task in tasks:
    if task not in TASKS:
      raise unknown('task', task, TASKS)
  sizes = {'train': train, 'valid': valid, 'test': test}
  speakers = pools.by_speaker(source, seed, shortest=shortest, speakers=2, sizes=sizes)
  noises = None if noise is None else pools.by_recording(noise, seed)
  items: list[Item] = []
  for task, (split, count) in itertools.product(tasks, sizes.items()):
    rng = pools.random(seed, task, split)
    made = (_pairs if task == 'ss' else _conversations)(source, speakers[split], count, rng, split)
    items += [{'task': task, 'split': split, **item} for item in made]
  if noises is not None:
    for item in items:
      if item['task'] == 'sd':
        rng = pools.random(seed, 'noise', item['id'])
        group = noises[item['split']]
        item['noise'] = pools.draw(rng, group[pools.draw(rng, sorted(group))])

  def make(item: Item) -> Made:
    if item['task'] == 'ss':
      return _mixture(source, item, seed)
    return _conversation(source, noise, item, seed)

  settings = {
    'source': source.fingerprint(),
    'noise': None if noise is None else noise.fingerprint(),
    'seed': seed,
    'tasks': list(tasks),
    **sizes,
    'shortest': shortest,
  }
  return Recipe('small_mixtures', settings, items, make, _lists)


def stem(source: Source, row: int) -> str:
  """The name of a clip without folders and ending, fit for a name of a file."""
  name = re.sub(r'\.[^./]*$', '', source.id(row)).rsplit('/', 1)[-1]
  return re.sub(r'[^\w.-]', '-', name)


# -- Separation -----------------------------------------------------------------------------------


def _pairs(
  source: Source, group: dict[str, list[int]], count: int, rng: np.random.Generator, split: str
) -> list[Item]:
  """Pairs of utterances of two speakers. No utterance is used again before all of its speaker
  are, no pair twice."""
  turns = _Turns(group, rng)
  found: dict[str, Item] = {}
  for _ in range(20 * count):
    if len(found) == count:
      break
    first, second = rng.choice(len(turns.names), 2, replace=False).tolist()
    rows = [turns.next(turns.names[first]), turns.next(turns.names[second])]
    name = '_'.join(stem(source, row) for row in rows)
    found.setdefault(name, {'id': name, 'rows': rows})
  if len(found) < count:
    raise InputError(
      f'{source.name!r} gives {len(found)} different pairs of utterances for {split!r}, '
      f'{count} are wanted: give more data, or {split}={len(found)}.'
    )
  return list(found.values())


def _mixture(source: Source, item: Item, seed: int) -> Made:
  rng = pools.random(seed, 'ss', item['id'])
  parts = [signals.at_level(pools.read(source, row), rng.uniform(*LEVELS)) for row in item['rows']]
  length = min(map(len, parts))
  parts = [part[:length] for part in parts]
  gain = np.float32(signals.headroom(*parts))
  first, second = (gain * part for part in parts)
  folder = f'ss/{FOLDERS["ss"][item["split"]]}'
  arrays = dict(zip(KINDS, (first + second, first, second)))
  files = {f'{folder}/{kind}/{item["id"]}': audio for kind, audio in arrays.items()}
  return files, {'task': 'ss', 'split': item['split'], 'id': item['id']}


class _Turns:
  """The utterances of speakers, each in a random order that begins again at its end."""

  def __init__(self, group: dict[str, list[int]], rng: np.random.Generator):
    self.names = sorted(group)
    self._orders = {name: itertools.cycle(rng.permutation(group[name]).tolist()) for name in group}

  def next(self, name: str) -> int:
    """The next utterance of a speaker."""
    return next(self._orders[name])


# -- Diarization ----------------------------------------------------------------------------------


def _conversations(
  source: Source, group: dict[str, list[int]], count: int, rng: np.random.Generator, split: str
) -> list[Item]:
  turns = _Turns(group, rng)
  found = []
  for number in range(count):
    pair = [turns.names[i] for i in rng.choice(len(turns.names), 2, replace=False)]
    labels = [re.sub(r'[^\w.-]', '-', name) for name in pair]
    found.append(
      {
        'id': f'{split}-{number:05d}_{"_".join(labels)}',
        'speakers': labels,
        'rows': [[turns.next(name) for _ in range(UTTERANCES)] for name in pair],
        'seconds': round(float(rng.uniform(*SECONDS)), 3),
      }
    )
  return found


# Samples, and the runs of speech in them.
_Speech = tuple[np.ndarray, list[tuple[int, int]]]
# A piece of speech in a recording: speaker, first sample, samples, runs of speech within it.
_Piece = tuple[int, int, np.ndarray, list[tuple[int, int]]]


def _conversation(source: Source, noise: Source | None, item: Item, seed: int, rate=16000) -> Made:
  rng = pools.random(seed, 'sd', item['id'])
  voices = [[_trimmed(pools.read(source, row), rate) for row in rows] for rows in item['rows']]
  middle = sum(OVERLAP) / 2
  pieces: list[_Piece] = []
  best = np.inf
  for _ in range(TRIES):
    tried = _timeline(voices, round(item['seconds'] * rate), rng, rate)
    value = _overlap(tried)
    if abs(value - middle) < best and {p[0] for p in tried} == {0, 1}:
      best, pieces = abs(value - middle), tried
    if best <= OVERLAP[1] - middle:
      break
  length = max(place + len(audio) for _, place, audio, _ in pieces)
  length = min(max(length, round(SECONDS[0] * rate)), round(SECONDS[1] * rate))
  tracks = np.zeros((2, length), np.float32)
  for speaker, place, audio, _ in pieces:
    tracks[speaker, place : place + len(audio)] += audio
  parts = [signals.at_level(track, rng.uniform(*LEVELS)) for track in tracks]
  if noise is not None:
    backdrop = looped(pools.read(noise, item['noise'], rate), length, rng)
    parts.append(signals.at_level(backdrop, rng.uniform(*NOISE_LEVELS)))
  mixed = np.sum(parts, axis=0, dtype=np.float32) * np.float32(signals.headroom(*parts))
  turns = [
    (item['speakers'][speaker], round((place + low) / rate, 3), round((place + high) / rate, 3))
    for speaker, place, _, found in pieces
    for low, high in found
  ]
  facts = {'task': 'sd', 'split': item['split'], 'id': item['id'], 'turns': turns}
  folder = FOLDERS['sd'][item['split']]
  return {f'sd/{folder}/wav/{item["id"]}': np.asarray(mixed)}, {**facts, 'seconds': length / rate}


def _trimmed(audio: np.ndarray, rate: int) -> _Speech:
  """An utterance without the silence at its ends, and its runs of speech."""
  found = signals.runs(audio, rate)
  if not found:
    return audio, []
  first, last = found[0][0], found[-1][1]
  return audio[first:last], [(low - first, high - first) for low, high in found]


def _timeline(
  voices: Sequence[Sequence[_Speech]], limit: int, rng: np.random.Generator, rate: int
) -> list[_Piece]:
  """Utterances of two speakers in turn until `limit` samples, some before the other has ended."""
  pieces: list[_Piece] = []
  left = [itertools.cycle([own[i] for i in rng.permutation(len(own))]) for own in voices]
  ends = [0, 0]
  speaker, before = int(rng.integers(2)), 0
  while True:
    audio, found = _cut(next(left[speaker]), round(rng.uniform(1.5, 5.0) * rate), rate)
    if not found:
      return pieces
    gap = rng.uniform(0.1, 1.0) * rate
    if pieces and rng.random() < 0.75:
      gap = -rng.uniform(0.1, 0.5) * min(len(audio), before)
    place = max(round(max(ends) + gap), round(ends[speaker] + 0.2 * rate), 0)
    if place + len(audio) > limit:
      audio, found = _cut((audio, found), limit - place, rate)
      if len(audio) < rate:
        return pieces
    pieces.append((speaker, place, audio, found))
    ends[speaker], before = place + len(audio), len(audio)
    speaker = 1 - speaker if rng.random() < 0.85 else speaker


def _cut(speech: _Speech, limit: int, rate: int) -> _Speech:
  """An utterance of `limit` samples at most: up to its last pause before that, or cut off."""
  audio, found = speech
  if limit <= 0:
    return audio[:0], []
  if len(audio) <= limit:
    return audio, found
  whole = [run for run in found if run[1] <= limit]
  if whole and whole[-1][1] >= limit // 2:
    return audio[: whole[-1][1]], whole
  kept = [(low, min(high, limit)) for low, high in found if low < limit]
  return signals.fade(audio[:limit], rate), kept


def _overlap(pieces: list[_Piece]) -> float:
  """Time in which both speak, as a fraction of the time in which somebody does."""
  if not pieces:
    return 0.0
  active = np.zeros((2, max(place + len(audio) for _, place, audio, _ in pieces)), bool)
  for speaker, place, _, found in pieces:
    for low, high in found:
      active[speaker, place + low : place + high] = True
  return float(active.all(0).sum() / max(active.any(0).sum(), 1))


def looped(noise: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
  """A crop of noise at a random place; short noise is repeated."""
  loud = np.flatnonzero(np.abs(noise) > 1e-4)
  if len(loud):  # Clips are filled up with digital silence.
    noise = noise[loud[0] : loud[-1] + 1]
  if len(noise) < length:
    noise = np.tile(noise, -(-length // len(noise)))
  start = int(rng.integers(len(noise) - length + 1))
  return noise[start : start + length]


# -- Lists ----------------------------------------------------------------------------------------


def _lists(facts: list[dict[str, Any]], suffix: str) -> dict[str, str]:
  found: dict[str, str] = {}
  for split, folder in FOLDERS['ss'].items():
    names = [f['id'] for f in facts if (f['task'], f['split']) == ('ss', split)]
    for kind in KINDS if names else ():
      found[f'ss/{folder}/{kind}/wav.scp'] = lists.scp((n, f'{n}{suffix}') for n in names)
  for split, folder in FOLDERS['sd'].items():
    rows = {
      f['id']: (f'wav/{f["id"]}{suffix}', f['seconds'], [tuple(t) for t in f['turns']])
      for f in facts
      if (f['task'], f['split']) == ('sd', split)
    }
    for name, text in lists.diarization(rows).items() if rows else ():
      found[f'sd/{folder}/{name}'] = text
  return found
