"""Instruction data of a labelled folder: questions about its clips, in several phrasings each, and
the answers that its columns give. No model is needed.

Every draw is a hash of the seed and the clip, so the same data and seed give the same bytes, and
another clip more changes none of the others. Some phrasings of every question are held out: they
occur in `test.jsonl` alone, so that a model can be judged on questions that it has not read.

| question | asks | needs |
|---|---|---|
| `class` | what it is | labels |
| `choice` | which of several it is; the others are drawn of the other classes | two classes |
| `yes_no` | whether it is one class; half of the answers are no | two classes |
| `compare` | whether two clips are of one class; half of them are | two classes |
| `transcript` | what is said | a column of texts |
| `caption` | a description | a column of texts |
"""

import collections
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from research.audio import batching
from research.audio.clips import Source
from research.audio.fields.captions import together
from research.errors import InputError, listed, unknown
from research.jobs import folders

# Phrasings; the first two of every question are never held out.
PHRASINGS: dict[str, tuple[str, ...]] = {
  'class': (
    'What do you hear?',
    'Name the {what} in this recording.',
    'Which {what} is this?',
    'Listen to the clip and say what {what} it holds.',
    'Give the {what} of this audio in a few words.',
    'How would you label this recording?',
    'What {what} can be heard here?',
    'Tell me the {what} of this clip.',
    'What is the {what} in this clip?',
    'Say the {what} that you hear.',
    'Can you name the {what}?',
    'I would like to know the {what} of this recording.',
  ),
  'choice': (
    'Which of these is it: {options}?',
    'Choose the {what} of this recording from: {options}.',
    'Is this {options}?',
    'One of these fits the clip: {options}. Which one?',
    'Pick the {what} that you hear: {options}.',
    'From {options}, name the one in this audio.',
    'What do you hear: {options}?',
    'Here are some answers: {options}. Which is right?',
    'The {what} is {options}. Say which.',
    'Decide between {options}.',
  ),
  'yes_no': (
    'Is this {label}? Answer yes or no.',
    'Do you hear {label}? Answer yes or no.',
    'Yes or no: is the {what} of this clip {label}?',
    'Would you label this recording as {label}? Yes or no.',
    'Is {label} what this audio holds? Answer with yes or no.',
    'Check whether the {what} is {label}. Answer yes or no.',
    'Does this clip hold {label}? Yes or no.',
    'The {what} is {label}: yes or no?',
    'Answer yes or no: is it {label}?',
    'Somebody says that this is {label}. Is that right? Answer with yes or no.',
    'Can {label} be heard? Say yes or no.',
    'Yes or no, do you hear {label} here?',
  ),
  'compare': (
    'Do both clips have the same {what}? Answer yes or no.',
    'Is the {what} of the two recordings the same? Answer yes or no.',
    'Yes or no: the two clips share one {what}.',
    'Compare the {what} of these recordings: is it the same? Yes or no.',
    'Are these two of one {what}? Answer yes or no.',
    'Does the second clip have the {what} of the first? Answer yes or no.',
    'Do the first and the second clip have one {what}? Yes or no.',
    'Is there one {what} in both recordings? Say yes or no.',
    'Same {what} twice: yes or no?',
    'Answer yes or no: do these clips agree in their {what}?',
  ),
  'transcript': (
    'What is said?',
    'Transcribe the speech.',
    'Write down the words of this recording.',
    'Give a transcript of the clip.',
    'Which words does the speaker say?',
    'Turn this speech into text.',
    'What are the words in this clip?',
    'Please transcribe.',
    'Type what you hear somebody say.',
    'Repeat the speech as text.',
  ),
  'caption': (
    'Describe this recording.',
    'What happens in this clip?',
    'Write a caption for the audio.',
    'Summarise what can be heard in a sentence.',
    'Put into words what you hear.',
    'Give a short description of this audio.',
    'What is going on here?',
    'Say what the recording holds in one sentence.',
    'Please describe the sounds.',
    'How would you describe this clip?',
  ),
}
LABELLED = ('class', 'choice', 'yes_no', 'compare')
SPLITS = ('train', 'valid', 'test')
OPTIONS = 4
# Clips of a class that are looked at for a second one.
TRIES = 20


@dataclasses.dataclass(frozen=True)
class Maker:
  """What is asked about the clips of a source.

  Attributes:
    source: with files of its own.
    column: of labels, or of texts for `transcript` and `caption`.
    questions: of PHRASINGS.
    what: what the labels are, as it stands in questions: 'sound', 'word', 'instrument'.
    per_clip: questions of each kind about a clip.
    held_out: fraction of phrasings that only the test has.
    seed: of all draws.
    phrasings: instead of PHRASINGS.
  """

  source: Source
  column: str = 'label'
  questions: Sequence[str] = ('class', 'choice', 'yes_no')
  what: str = 'sound'
  per_clip: int = 1
  held_out: float = 0.25
  seed: int = 0
  phrasings: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=lambda: PHRASINGS)

  def __post_init__(self):
    for question in self.questions:
      if question not in self.phrasings:
        raise unknown('question', question, self.phrasings)
    if self.per_clip < 1 or not 0 <= self.held_out < 1:
      raise InputError(
        f'per_clip is {self.per_clip} and held_out {self.held_out}; give at least 1, and a '
        'fraction from 0 to below 1.'
      )
    if not self.source.table.root:
      raise InputError(
        f'{self.source.name!r} has no audio files of its own, which instructions could name: take '
        'the folder it was made of.'
      )

  # -- Phrasings -------------------------------------------------------------------------------

  def split_phrasings(self, question: str) -> tuple[list[str], list[str]]:
    """(phrasings of training, those held out); none is held out where there are fewer than
    three."""
    known = list(self.phrasings[question])
    count = min(round(self.held_out * len(known)), max(0, len(known) - 2))
    order = sorted(known[2:], key=lambda text: self._draw(question, text))
    held = set(order[:count])
    return [t for t in known if t not in held], [t for t in known if t in held]

  # -- Records ---------------------------------------------------------------------------------

  def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, record) of every question; the split is that of the clip.

    Raises:
      InputError: no such column, no clip has a label, or there is one class where two are needed.
    """
    labels = [_labels(value) for value in self.source.column(self.column)]
    if not any(labels):
      raise InputError(f'No clip of {self.source.name!r} has a {self.column!r}.')
    classes = sorted({name for each in labels for name in each})
    needs = [q for q in self.questions if q in LABELLED and q != 'class']
    if needs and len(classes) < 2:
      raise InputError(f'Questions {listed(needs)} need two classes; {self.column!r} has one.')
    named = 'split' in self.source.column_names
    splits = self.source.column('split') if named else [''] * len(labels)
    members = collections.defaultdict(list)
    for row, each in enumerate(labels):
      for name in each:
        members[self._split(row, splits), name].append(row)
    for row, each in enumerate(labels):
      if not each:
        continue
      split = self._split(row, splits)
      for question in self.questions:
        known, held = self.split_phrasings(question)
        texts = held or known if split == 'test' else known
        for number in range(self.per_clip):
          key = (question, self.source.id(row), number)
          phrasing = texts[int(self._draw(*key, 'phrasing') * len(texts))]
          made = self._ask(question, row, labels, classes, members, split, key)
          if made is not None:
            yield split, self._record(question, row, number, phrasing, *made)

  def _ask(
    self, question: str, row: int, known: Sequence[Sequence[str]], classes: Sequence[str],
    members: Mapping[tuple[str, str], list[int]], split: str, key: tuple,
  ) -> tuple[dict[str, str], str, list[int]] | None:  # fmt: skip
    """(what is filled in, answer, rows of the clips); None: the split has no second clip."""
    labels = known[row]
    right = together(labels)
    others = [name for name in classes if name not in labels]
    if question not in LABELLED:
      return {}, ' '.join(labels), [row]
    if question == 'class':
      return {}, right, [row]
    if not others:
      return None
    if question == 'choice':
      wrong = sorted(others, key=lambda name: self._draw(*key, name))[: OPTIONS - 1]
      shown = sorted([right, *map(_spoken, wrong)], key=lambda name: self._draw(*key, 'at', name))
      return {'options': ', '.join(shown[:-1]) + f' or {shown[-1]}'}, right, [row]
    yes = self._draw(*key, 'yes') < 0.5
    other = others[int(self._draw(*key, 'other') * len(others))]
    if question == 'yes_no':
      named = labels[int(self._draw(*key, 'own') * len(labels))] if yes else other
      return {'label': _spoken(named)}, 'Yes' if yes else 'No', [row]
    second = self._second(row, labels if yes else others, known, members, split, yes, key)
    return None if second is None else ({}, 'Yes' if yes else 'No', [row, second])

  def _second(
    self, row: int, names: Sequence[str], known: Sequence[Sequence[str]],
    members: Mapping[tuple[str, str], list[int]], split: str, alike: bool, key: tuple,
  ) -> int | None:  # fmt: skip
    """Another clip with one of these labels; without `alike` it has none of the row's."""
    order = sorted(names, key=lambda name: self._draw(*key, 'class', name))
    for name in order:
      rows = members.get((split, name), [])
      start = int(self._draw(*key, 'second') * len(rows))
      for other in (rows[start:] + rows[:start])[:TRIES]:
        if other != row and (alike or not set(known[other]) & set(known[row])):
          return other
    return None

  def _record(
    self, question: str, row: int, number: int, phrasing: str, filled: Mapping[str, str],
    answer: str, rows: Sequence[int],
  ) -> dict[str, Any]:  # fmt: skip
    text = phrasing
    for name, value in {'what': self.what, **filled}.items():
      text = text.replace(f'{{{name}}}', value)
    parts: list[dict[str, str]] = [{'audio_path': self._path(r)} for r in rows]
    return {
      'id': f'{self.source.id(row)}/{question}/{number}',
      'task': question,
      'messages': [
        {'role': 'user', 'content': [*parts, {'text': text}]},
        {'role': 'assistant', 'content': answer},
      ],
    }

  def _path(self, row: int) -> str:
    found = self.source[row]
    if found.path is None or found.start or found.seconds is not None:
      raise InputError(
        f'Clip {found.id!r} of {self.source.name!r} is no whole file, which instructions could '
        'name: cut the recordings into files.'
      )
    return os.path.relpath(found.path, self.source.table.root).replace(os.sep, '/')

  def _split(self, row: int, splits: Sequence[Any]) -> str:
    """The split of a clip: its own, else one of ten clips is for valid, one for the test."""
    own = str(splits[row])
    if own:
      return own if own in SPLITS else 'valid' if own in ('validation', 'dev', 'val') else 'train'
    drawn = self._draw('split', self.source.id(row))
    return 'test' if drawn < 0.1 else 'valid' if drawn < 0.2 else 'train'

  def _draw(self, *key: Any) -> float:
    return batching.uniform(self.seed, 0, json.dumps(key))


def write(maker: Maker, out: str | os.PathLike) -> dict[str, int]:
  """Writes train.jsonl, valid.jsonl and test.jsonl, and phrasings.json, which says what is held
  out.

  Args:
    maker: what is asked.
    out: a new or empty folder.

  Returns:
    {split: records}.

  Raises:
    InputError: the folder holds something.
  """
  home = Path(out).expanduser()
  if home.exists() and (not home.is_dir() or any(home.iterdir())):
    raise InputError(f'{home} exists and is not empty: name a new folder.')
  lines: dict[str, list[str]] = {name: [] for name in SPLITS}
  for split, record in maker.records():
    lines[split].append(json.dumps(record, ensure_ascii=False))
  home.mkdir(parents=True, exist_ok=True)
  phrasings = {q: dict(zip(('train', 'test'), maker.split_phrasings(q))) for q in maker.questions}
  folders.replace_text(home / 'phrasings.json', json.dumps(phrasings, indent=2, ensure_ascii=False))
  for split, each in lines.items():
    if each:
      folders.replace_text(home / f'{split}.jsonl', '\n'.join(each) + '\n')
  return {split: len(each) for split, each in lines.items() if each}


def read_phrasings(path: str | os.PathLike) -> dict[str, tuple[str, ...]]:
  """Phrasings of one's own: {question: [text, …]} in JSON, with {what}, {label} and {options}.

  Raises:
    InputError: the file is not of this form, or a question lacks what it needs.
  """
  file = Path(path).expanduser()
  try:
    found = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise InputError(f'{file} cannot be read as JSON: {error}.') from None
  if not isinstance(found, dict) or not found or not all(map(_is_texts, found.values())):
    raise InputError(f'{file}: expected {{question: [phrasing, …]}}.')
  for question, given in found.items():
    if question not in PHRASINGS:
      raise unknown(f'question of {file}', question, PHRASINGS)
    place = {'choice': '{options}', 'yes_no': '{label}'}.get(question, '')
    lacking = [text for text in given if place not in text]
    if lacking:
      raise InputError(f'{file}: {lacking[0]!r} has no place for {place}.')
  return {question: tuple(given) for question, given in found.items()}


def _is_texts(value: Any) -> bool:
  return isinstance(value, list) and bool(value) and all(isinstance(t, str) for t in value)


def _labels(value: str | list[str]) -> list[str]:
  given = [value] if isinstance(value, str) else list(value)
  return [name for name in given if name.strip()]


def _spoken(label: str) -> str:
  return together([label])
