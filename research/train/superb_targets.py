"""What the data of a task of SUPERB give: targets in a batch, sizes of the head, judge."""

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from research.audio import decode, tables
from research.audio.clips import Source
from research.audio.datasets.superb.speakers import read_trials
from research.audio.log_mel import LogMel, statistics
from research.errors import InputError
from research.evals import superb
from research.evals.superb import Parts, Task
from research.inference.embedder import digest
from research.text import sentencepieces

# fairseq's names of the vocabulary beside the tables of CoVoST.
PIECES = ('spm-tgt_text.model', 'spm.model')
_PIECES = re.compile(r'^\s*sentencepiece_model:\s*[\'"]?(.*?)[\'"]?\s*$', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Given:
  """What a run takes from the data.

  Attributes:
    fields: of a batch.
    judge: dict(name=…, args={…}).
    objective: dict(name=…, args={…}).
    head_args: of the head.
  """

  fields: Mapping[str, Any]
  judge: dict[str, Any]
  objective: dict[str, Any]
  head_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def of(
  task: Task, parts: Parts, hop: int, rate: int, place: str | os.PathLike | None = None
) -> Given:
  """What the data of a task give.

  Args:
    task: which.
    parts: its clips.
    hop: samples between the frames of the system.
    rate: sample rate of the system, Hz.
    place: folder for vocabularies that are made of the data.

  Raises:
    InputError: data that cannot work.
  """
  name = task.judge or task.how.judge
  make: Callable[..., tuple[dict, dict, dict]] = _MAKERS.get(name, _symbols)
  fields, args, sized = make(task, parts, hop, rate, place)
  objective: dict[str, Any] = dict(task.how.objective)
  if name == 'slots':
    objective['args'] = dict(slots=sized['slots'])
  return Given(fields, dict(name=name, args=args), objective, sized)


def _classes(task: Task, parts: Parts, *_: Any) -> tuple[dict, dict, dict]:
  column = str(task.target)
  names = parts.whole.classes(column)
  return dict(label=column), dict(column=column), dict(classes=len(names), labels=list(names))


def _slots(task: Task, parts: Parts, *_: Any) -> tuple[dict, dict, dict]:
  columns = list(task.target)
  sizes = [len(parts.whole.classes(column)) for column in columns]
  label = dict(name='label', args=dict(column=columns))
  judge = dict(columns=columns, sizes=sizes)
  return dict(label=label), judge, dict(classes=sum(sizes), slots=sizes)


def _activity(task: Task, parts: Parts, hop: int, rate: int, *_: Any) -> tuple[dict, dict, dict]:
  label = dict(name='activity', args=dict(column=task.target, frame_shift=hop))
  return dict(label=label), dict(column=task.target, frame_seconds=hop / rate), {}


def _trials(task: Task, parts: Parts, *_: Any) -> tuple[dict, dict, dict]:
  column = str(task.target)
  judge: dict[str, Any] = dict(column=column)
  if task.benchmark:
    known = read_trials(parts.root)
    judge['trials'] = [[int(s), f'test/{a}', f'test/{b}'] for s, a, b in known]
  return dict(label=column), judge, dict(speakers=len(parts.whole.classes(column)))


def _masked(task: Task, parts: Parts, hop: int, rate: int, *_: Any) -> tuple[dict, dict, dict]:
  sources = dict(name='sources', args=dict(columns=list(task.target)))
  judge = dict(hop=hop, sample_rate=rate, heard=len(task.target) == 1)
  return dict(sources=sources), judge, dict(hop=hop)


def _symbols(task: Task, parts: Parts, *_: Any) -> tuple[dict, dict, dict]:
  vocabulary = superb.vocabulary_of(task, parts)
  args = dict(column=task.target, vocabulary=vocabulary, split=task.split, eos=task.eos)
  tokens = dict(name='symbols', args=args)
  judge = dict(column=str(task.target), vocabulary=vocabulary)
  return dict(tokens=tokens), judge, dict(vocabulary=vocabulary)


def _translated(
  task: Task, parts: Parts, hop: int, rate: int, place: str | os.PathLike | None
) -> tuple[dict, dict, dict]:
  column = str(task.target)
  if place is None:
    raise InputError(f'Task {task.name!r} makes a vocabulary: give a folder for it.')
  model = str(pieces(parts.root, [str(v) for v in parts.train.column(column)], place))
  size = sentencepieces.SentencePieces(model).size
  targets = dict(name='subwords', args=dict(model=model, column=column))
  start = dict(vocab_size=size, start_token=sentencepieces.EOS)
  return dict(targets=targets), dict(model=model, column=column), start


def pieces(root: str, texts: list[str], place: str | os.PathLike) -> Path:
  """The vocabulary of a run, in its folder: the one that lies beside the data, else one of the
  characters of the training texts, as published."""
  place = Path(place).absolute()
  given = next((f for f in _beside(Path(root)) if f.is_file()), None)
  if given is None:
    made = place / f'spm-{digest(dict(texts=texts))[:12]}.model'
    return made if made.is_file() else sentencepieces.train(texts, made)
  kept = place / f'spm-{digest(dict(file=given.read_bytes().hex()))[:12]}.model'
  if not kept.is_file():
    place.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f'{kept.name}.partial')
    shutil.copyfile(given, partial)
    os.replace(partial, kept)
  return kept


def _beside(root: Path) -> list[Path]:
  config, named = root / 'config.yaml', []
  if config.is_file() and (found := _PIECES.search(tables.text(config))):
    named = [root / os.path.basename(found[1])]  # beside it, wherever it was on their machine
  return [*named, *(root / name for name in PIECES)]


def _converted(task: Task, parts: Parts, *_: Any) -> tuple[dict, dict, dict]:
  how = LogMel()
  mean, scale = statistics(_spectrograms(parts.train, how))
  known: dict[str, Any] = dict(reference=task.target or None)
  known['speaker'] = str(parts.fold) if task.target else None
  # Six digits: the same on machines whose last bits differ.
  sized = dict(
    bins=how.bands,
    target_mean=[round(float(x), 6) for x in mean],
    target_scale=[round(float(x), 6) for x in scale],
  )
  return dict(mel=dict(name='mel')), known, sized


def _spectrograms(clips: Source, how: LogMel) -> Any:
  for i in range(len(clips)):
    yield how.spectrogram(decode.decode(clips[i], sample_rate=how.sample_rate))


_MAKERS: dict[str, Callable[..., tuple[dict, dict, dict]]] = {
  'classes': _classes,
  'slots': _slots,
  'activity': _activity,
  'trials': _trials,
  'masked': _masked,
  'translated': _translated,
  'converted': _converted,
}


# -- Judges of validation clips ---------------------------------------------------------------


def held_out(judge: dict[str, Any]) -> dict[str, Any]:
  """The judge of validation clips: published trials are of the test clips alone, and so is the
  search with an n-gram, which chooses nothing."""
  left = {'trials': ('trials',), 'words': ('lm', 'lexicon')}.get(judge['name'], ())
  if not left:
    return judge
  return dict(judge, args={**judge['args'], **dict.fromkeys(left)})


def quick(judge: dict[str, Any]) -> dict[str, Any]:
  """That of validation clips during training, without what takes long and ranks nothing."""
  if judge['name'] != 'activity':
    return held_out(judge)
  return dict(judge, args=dict(judge['args'], search=False))
