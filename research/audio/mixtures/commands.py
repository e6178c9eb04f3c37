"""Small sets of spoken commands: intents as Fluent Speech Commands has them, slots as Audio SNIPS,
and translations as CoVoST 2, made of single words of the built-in corpus (or of any clips of single
words).

Nothing of this is a benchmark: the voices are synthetic, and the sentences have no grammar. A voice
says what it has recordings of.
"""

import csv
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.audio.clips import Source
from research.audio.mixtures import pools, signals
from research.audio.mixtures.writing import Item, Made, Recipe
from research.audio.sources import open_source
from research.errors import InputError, unknown

TASKS = ('ic', 'sf')
KNOWN = (*TASKS, 'st')
SLOTS = ('action', 'object', 'location')
WORDS = {
  'action': ('up', 'down', 'stop', 'go', 'open', 'close'),
  'object': ('water', 'music', 'window', 'dog', 'cat', 'light'),
  'location': ('house', 'garden', 'tree', 'left', 'right'),
}
NUMBERS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
FILLERS = ('yes', 'no', 'happy')
# Words of the target language of translations, which says them from the last to the first.
GERMAN = {
  'up': 'hoch', 'down': 'runter', 'stop': 'anhalten', 'go': 'holen', 'open': 'öffnen',
  'close': 'schließen', 'water': 'Wasser', 'music': 'Musik', 'window': 'Fenster', 'dog': 'Hund',
  'cat': 'Katze', 'light': 'Licht', 'house': 'im Haus', 'garden': 'im Garten', 'tree': 'am Baum',
  'left': 'links', 'right': 'rechts',
}  # fmt: skip
# Names of the tables of translations.
TABLES = {'train': 'train', 'valid': 'dev', 'test': 'test'}
# Slots of the utterances with slot labels; a number has one to three digits.
LABELS = {'action': WORDS['action'], 'object': WORDS['object'], 'place': WORDS['location']}
NUMBER, INTENT = 'number', 'Command'
# Seconds between words, and at both ends; level of the speech in dB of full scale.
PAUSES, ENDS, LEVELS = (0.05, 0.25), (0.1, 0.3), (-30.0, -22.0)
_SPLITS = {'train': 'train', 'valid': 'valid', 'test': 'test'}


def small_commands(
  source: Source | None = None,
  seed: int = 0,
  train: int = 300,
  valid: int = 60,
  test: int = 100,
  tasks: Sequence[str] = TASKS,
) -> Recipe:
  """ic/data/{train,valid,test}_data.csv and ic/wavs/speakers/, as `superb_ic` reads it, and
  sf/all.iob.snips.txt, sf/slots.txt and sf/{train,valid,test}/, as `superb_sf` does;
  st/{train,dev,test}.tsv and st/clips/, as `superb_st` does: such commands as in ic/, and the same
  in German words of a fixed table in the other order: "open window garden" is "Im Garten Fenster
  öffnen.".

  Args:
    source: clips of single words with columns `transcript` and `speaker`; the built-in corpus by
      default. Splits share no speaker.
    seed: of every choice.
    train, valid, test: number of utterances of a task.
    tasks: of 'ic', 'sf' and 'st'.

  Raises:
    InputError: an unknown task, no columns of words and speakers, or no voice that says a word of
      every slot.
  """
  for task in tasks:
    if task not in KNOWN:
      raise unknown('task', task, KNOWN)
  if source is None:
    source = open_source('builtin').where({'kind': ['word', 'digit']})
  if 'transcript' not in source.column_names:
    raise InputError(f'{source.name!r} has no column "transcript", the word of every clip.')
  sizes = {'train': train, 'valid': valid, 'test': test}
  speakers = pools.by_speaker(source, seed, shortest=0.05, speakers=1, sizes=sizes)
  words = [str(text).lower() for text in source.column('transcript')]
  items: list[Item] = []
  for task, (split, count) in itertools.product(tasks, sizes.items()):
    voices = _voices(speakers[split], words)
    rng = pools.random(seed, task, split)
    made = (_utterances if task == 'sf' else _commands)(voices, count, rng, source.name, split)
    items += [{'task': task, 'split': split, **item} for item in made]

  def make(item: Item) -> Made:
    return _spoken(source, item, seed)

  settings = {'source': source.fingerprint(), 'seed': seed, 'tasks': list(tasks), **sizes}
  return Recipe('small_commands', settings, items, make, _lists)


# Speaker -> word -> rows.
_Voices = dict[str, dict[str, list[int]]]


def _voices(group: dict[str, list[int]], words: Sequence[str]) -> _Voices:
  found: _Voices = {}
  for name in sorted(group):
    for row in group[name]:
      found.setdefault(name, {}).setdefault(words[row], []).append(row)
  return found


def _commands(
  voices: _Voices, count: int, rng: np.random.Generator, name: str, split: str
) -> list[Item]:
  """Each command of each voice before any is said again."""
  every = [
    (voice, words)
    for voice, known in voices.items()
    for words in itertools.product(*([w for w in WORDS[slot] if w in known] for slot in SLOTS))
  ]
  if not every and count:
    raise InputError(
      f'No voice of {name!r} says an action, an object and a location in {split!r}: '
      f'{", ".join(w for slot in SLOTS for w in WORDS[slot])} are needed.'
    )
  found: list[Item] = []
  while len(found) < count:
    for i in rng.permutation(len(every)).tolist()[: count - len(found)]:
      voice, words = every[i]
      rows = [pools.draw(rng, voices[voice][word]) for word in words]
      found.append(
        {
          'id': f'{split}-{len(found):05d}',
          'speaker': plain(voice),
          'words': list(words),
          'labels': list(words),
          'rows': rows,
        }
      )
  return found


def _utterances(
  voices: _Voices, count: int, rng: np.random.Generator, name: str, split: str
) -> list[Item]:
  """Two to four slots in any order, with fillers between them."""
  able = [v for v, known in voices.items() if any(w in known for ws in LABELS.values() for w in ws)]
  if not able and count:
    raise InputError(f'No voice of {name!r} says a word of a slot in {split!r}.')
  found: list[Item] = []
  for number in range(count):
    voice = able[int(rng.integers(len(able)))]
    known = voices[voice]
    slots = [s for s, words in LABELS.items() if any(w in known for w in words)]
    slots += [NUMBER] if any(w in known for w in NUMBERS) else []
    order = rng.permutation(len(slots))[: int(rng.integers(2, 5))]
    words: list[str] = []
    labels: list[str] = []
    for slot in (slots[i] for i in order):
      fillers = [w for w in FILLERS if w in known]
      if fillers and rng.random() < 0.4:
        words.append(pools.draw(rng, fillers))
        labels.append('O')
      own = [w for w in (NUMBERS if slot == NUMBER else LABELS[slot]) if w in known]
      for _ in range(int(rng.integers(1, 4)) if slot == NUMBER else 1):
        words.append(pools.draw(rng, own))
        labels.append(slot)
    speaker = plain(voice)
    found.append(
      {
        'id': f'{speaker}-snips-{split}-{number:05d}',
        'speaker': speaker,
        'words': words,
        'labels': labels,
        'rows': [pools.draw(rng, known[word]) for word in words],
      }
    )
  return found


def plain(name: str) -> str:
  """A name of letters and digits: others divide the parts of an id."""
  return re.sub(r'[^A-Za-z0-9]', '', name.title()) or 'Voice'


def _spoken(source: Source, item: Item, seed: int, rate: int = 16000) -> Made:
  rng = pools.random(seed, item['task'], item['id'])
  parts = [np.zeros(round(rng.uniform(*ENDS) * rate), np.float32)]
  for row in item['rows']:
    audio = pools.read(source, row, rate)
    parts.append(signals.at_level(audio, 0.0))
    parts.append(np.zeros(round(rng.uniform(*PAUSES) * rate), np.float32))
  parts.append(np.zeros(round(rng.uniform(*ENDS) * rate), np.float32))
  audio = signals.at_level(np.concatenate(parts), rng.uniform(*LEVELS))
  audio *= np.float32(signals.headroom(audio))
  task = item['task']
  where = {
    'ic': f'ic/wavs/speakers/{item["speaker"]}', 'sf': f'sf/{item["split"]}', 'st': 'st/clips'
  }[task]  # fmt: skip
  facts = {k: item[k] for k in ('task', 'split', 'id', 'speaker', 'words', 'labels')}
  if task == 'st':
    facts['samples'] = len(audio)
  return {f'{where}/{item["id"]}': audio}, facts


def _lists(facts: list[dict[str, Any]], suffix: str) -> dict[str, str]:
  found: dict[str, str] = {}
  for split in _SPLITS:
    rows = [f for f in facts if (f['task'], f['split']) == ('ic', split)]
    if rows:
      found[f'ic/data/{split}_data.csv'] = _csv(rows, suffix)
  slots = [f for f in facts if f['task'] == 'sf']
  if slots:
    found['sf/all.iob.snips.txt'] = ''.join(
      f'{f["id"]} BOS {" ".join(f["words"]).upper()} EOS\tO {" ".join(f["labels"])} {INTENT}\n'
      for f in sorted(slots, key=lambda f: f['id'])
    )
    # The first line of the published file is not a slot.
    found['sf/slots.txt'] = ''.join(f'{name}\n' for name in ('O', *LABELS, NUMBER))
  for split, name in TABLES.items():
    rows = [f for f in facts if (f['task'], f['split']) == ('st', split)]
    if rows:
      found[f'st/{name}.tsv'] = _table(rows, suffix)
  return found


def german(words: Sequence[str]) -> str:
  """A command in the target language: its words from the last to the first, as a sentence."""
  said = ' '.join(GERMAN[word] for word in reversed(words))
  return f'{said[:1].upper()}{said[1:]}.'


def _table(rows: list[dict[str, Any]], suffix: str, rate: int = 16000) -> str:
  head = ('id', 'audio', 'n_frames', 'sr', 'src_text', 'tgt_text', 'speaker')
  lines = [
    (f['id'], f'{f["id"]}{suffix}', f['samples'], rate, ' '.join(f['words']), german(f['words']),
     f['speaker'])
    for f in rows
  ]  # fmt: skip
  return ''.join('\t'.join(map(str, line)) + '\n' for line in (head, *lines))


def _csv(rows: list[dict[str, Any]], suffix: str) -> str:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(['', 'path', 'speakerId', 'transcription', *SLOTS])
  for number, f in enumerate(rows):
    path = f'wavs/speakers/{f["speaker"]}/{f["id"]}{suffix}'
    writer.writerow([number, path, f['speaker'], ' '.join(f['words']), *f['labels']])
  return text.getvalue()
