"""Tasks as data: clips, label column, splits and metric."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.audio import datasets, sources
from research.audio.datasets import hear
from research.errors import InputError, listed, unknown
from research.evals import splits
from research.metrics import classification


@dataclasses.dataclass(frozen=True)
class Task:
  """A classification of clips.

  Attributes:
    name: name of the task.
    source: data set that `open_source` knows; None if only a folder with a labels.csv is supported.
      Shards of it, in a folder of that name below the data root, take precedence.
    args: arguments of its reader, for the published layout.
    folders: folders below the data root that are searched first for a labels.csv.
    label: column of the classes; None for the first of 'label', 'labels' and 'folder'.
    metric: headline metric, a name in `classification.METRICS`; None for accuracy, or mAP if clips
      have several labels.
    kind: 'split', 'fold', 'seeded' or 'auto' (see `splits.make`).
    parts: train, validation and test values of the column `split`, if they differ from the default.
    seeded: settings of a seeded split, for the kinds 'seeded' and 'auto'.
    seconds: crop each clip to this length from its start; None for the whole clip.
    where: column -> values; a clip must have one of them.
    exclude: column -> values; a clip must have none of them.
    columns: required columns of a hand-made labels.csv, for the message when data are absent.
  """

  name: str
  source: str | None = None
  args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  folders: tuple[str, ...] = ()
  label: str | None = 'label'
  metric: str | None = None
  kind: str = 'auto'
  parts: Mapping[str, Sequence[str]] | None = None
  seeded: splits.Seeded | None = None
  seconds: float | None = None
  where: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  exclude: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  columns: str = 'path,label'


# Clip lengths: EVAR evar/ds_tasks.py (github.com/nttcslab/eval-audio-repr), or those of the data.
_NOISE = {'label': ('_background_noise_',)}  # raw noise files are not one of the 12 classes
_SC_FOLDERS = ('speech_commands_v2_test', 'speech_commands')
_AUDIOSET_EVAL = {'validation': (), 'test': ('eval',)}
TASKS: dict[str, Task] = {
  t.name: t
  for t in (
    Task('esc10', 'esc10', kind='fold', seconds=5.0),
    Task('esc50', 'esc50', kind='fold', seconds=5.0),
    Task(
      'urbansound8k', 'urbansound8k', folders=('urbansound8k', 'UrbanSound8K'), kind='fold',
      seconds=4.0, columns='path,label,fold (1 to 10)',
    ),
    Task('fsdd', folders=('fsdd',), kind='split', columns='path,label,speaker,split'),
    # 300 test clips do not separate systems within three points; five folds do.
    Task(
      'fsdd_folds', folders=('fsdd',), kind='fold', columns='path,label,speaker,fold',
    ),
    Task(
      'fsdd_speaker', folders=('fsdd',), label='speaker', kind='split',
      columns='path,label,speaker,split',
    ),
    # 12 classes. The published layout has official splits; a labels.csv may have folds instead.
    Task(
      'speech_commands', 'speech_commands_12', folders=_SC_FOLDERS, seconds=1.0, exclude=_NOISE,
      columns='path,label,split or fold',
    ),
    Task(
      'speech_commands_35', 'speech_commands_v2', kind='split', seconds=1.0, exclude=_NOISE,
    ),
    Task('speech_commands_v1', 'speech_commands_v1', kind='split', seconds=1.0, exclude=_NOISE),
    Task(
      'speech_commands_v1_12', 'speech_commands_v1_12', kind='split', seconds=1.0, exclude=_NOISE,
    ),
    Task('voxceleb1', 'voxceleb1', label='speaker', kind='split', seconds=8.2),
    # EVAR splits by submission, 70/15/15. Its list is not in the download; without it, a seeded
    # split is used.
    Task('voxforge', 'voxforge', seeded=splits.Seeded(group='submission'), seconds=5.8),
    # EVAR's split by actor. HEAR's five folds do not separate actors.
    Task(
      'crema_d', 'crema_d', folders=('crema_d', 'CREMA-D'), seconds=2.5,
      columns='path,label,speaker,split',
    ),
    # HEAR also has five random folds, but different ones.
    Task('libricount', 'libricount', seeded=splits.Seeded(folds=5), seconds=5.0),
    Task(
      'gtzan', 'gtzan', folders=('gtzan', 'GTZAN'), seconds=30.0, columns='path,label,split',
    ),
    Task('nsynth_instrument', 'nsynth', kind='split', seconds=4.0),
    Task('nsynth_pitch', 'nsynth', label='pitch', kind='split', seconds=4.0),
    # EVAR splits by preset, about 80/10/10. Its list is not in the download; without it, a seeded
    # split is used.
    Task(
      'surge_pitch', 'surge', seeded=splits.Seeded(group='preset', validation=0.1, test=0.1),
      seconds=4.0,
    ),
    Task('fsd50k', 'fsd50k', kind='split', metric='mAP', seconds=7.6358),
    # Validation is drawn from train, so that the evaluation set is used for the final score only.
    Task(
      'audioset20k', 'audioset', kind='split', metric='mAP', seconds=10.0,
      parts={'train': ('balanced',), **_AUDIOSET_EVAL},
    ),
    Task(
      'audioset', 'audioset', kind='split', metric='mAP', seconds=10.0,
      parts={'train': ('balanced', 'unbalanced'), **_AUDIOSET_EVAL},
    ),
    # Built-in corpora: for demos and tests, not benchmarks.
    Task('builtin_digits', 'builtin', kind='split', where={'kind': ('digit',)}),
    Task('builtin_words', 'builtin', kind='split', where={'kind': ('word',)}),
    Task('builtin_events', 'builtin', kind='split', where={'kind': ('event',)}),
    Task('builtin_glides', 'builtin_sequences', kind='split', where={'kind': ('glide',)}),
    Task('builtin_pairs', 'builtin_sequences', kind='split', where={'kind': ('pair',)}),
    Task('builtin_phrases', 'builtin_sequences', kind='split', where={'kind': ('phrase',)}),
  )
}  # fmt: skip
ALIASES = {'emotion': 'crema_d', 'fsdd_digit': 'fsdd', 'speech_commands_12': 'speech_commands'}
SUITES: dict[str, tuple[str, ...]] = {
  'builtin': ('builtin_digits', 'builtin_words', 'builtin_events'),
  'builtin_sequences': ('builtin_glides', 'builtin_pairs', 'builtin_phrases'),
  'small': ('esc10', 'fsdd', 'fsdd_speaker', 'speech_commands'),
  # The tables of EVAR (github.com/nttcslab/eval-audio-repr).
  'evar': (
    'esc50', 'urbansound8k', 'speech_commands_v1', 'speech_commands_35', 'voxceleb1', 'voxforge',
    'crema_d', 'gtzan', 'nsynth_instrument', 'surge_pitch', 'fsd50k',
  ),
  # Data sets of HEAR 2021. For HEAR's own clips and folds use its folders: --tasks=DIR.
  'hear': (
    'esc50', 'fsd50k', 'gtzan', 'libricount', 'crema_d', 'speech_commands', 'nsynth_pitch',
  ),
  'audioset': ('audioset20k', 'fsd50k', 'esc50', 'speech_commands_35'),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A task with its clips.

  Attributes:
    task: the entry, with label and metric filled in.
    source: the clips used by any part of the splits, in order.
    labels: int32 [n], or multi-hot f32 [n, c].
    classes: names of the c classes.
    splits: rows of `source`.
    as_published: whether the data are a named data set in its published layout, or shards of it.
    dropped: number of clips without a label or outside the splits.
    attrition: 'listed': number of clips in the published lists of the splits used; 'absent': split
      -> number of clips without an audio file; 'clip_list', if one was given: its number of
      'clips', its 'hash', the number of clips 'absent' here and the 'first' of them.
  """

  task: Task
  source: Any
  labels: np.ndarray
  classes: tuple[str, ...]
  splits: splits.Splits
  dropped: int
  as_published: bool = False
  attrition: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def metric(self) -> str:
    """Name of the headline metric."""
    return str(self.task.metric)

  @property
  def label(self) -> str:
    """Name of the label column."""
    return str(self.task.label)


def get(name: str) -> Task:
  """The task with this name, or of a folder or a manifest: DIR, or DIR:COLUMN to set the label
  column.

  A HEAR task folder defines its own classes, splits and metric.

  Raises:
    InputError: neither a task name nor a folder, or a HEAR task with an unsupported metric.
  """
  name = ALIASES.get(name, name)
  if name in TASKS:
    return TASKS[name]
  path, _, column = name.partition(':')
  if sources.holds_data(os.path.expanduser(path)):
    folder = os.path.abspath(os.path.expanduser(path))
    shown = os.path.basename(folder) + (f'_{column}' if column else '')
    if not column and os.path.isfile(os.path.join(folder, hear.METADATA)):
      return _hear(shown, folder)
    return Task(shown, folders=(folder,), label=column or None)
  if os.sep in path or path.startswith(('.', '~')):
    raise InputError(
      f'Task {name!r}: there is no folder {path}. Give a folder of audio or the name of a task.'
    )
  raise unknown('task', name, (*TASKS, *ALIASES))


# Metrics of hear-eval-kit, heareval/score.py; its pitch_acc is class accuracy.
_HEAR_METRICS = {
  'top1_acc': 'accuracy', 'pitch_acc': 'accuracy', 'mAP': 'mAP', 'aucroc': 'AUC',
  'd_prime': 'd_prime',
}  # fmt: skip


def _hear(name: str, folder: str) -> Task:
  """The task of a HEAR folder; the first metric of its `evaluation` is the headline."""
  about = hear.metadata(folder)
  headline = next(iter(about.get('evaluation') or ()), None)
  if headline not in _HEAR_METRICS:
    raise InputError(
      f'The HEAR task {about["task_name"]} is scored by {headline!r}, which is not supported. '
      f'Supported: {", ".join(_HEAR_METRICS)}.'
    )
  return Task(
    name,
    folders=(folder,),
    metric=_HEAR_METRICS[headline],
    kind='split' if about['split_mode'] == 'trainvaltest' else 'fold',
  )


def names(tasks: str | Sequence[str] | None, suite: str | None = None) -> list[str]:
  """Unique task names from a comma-separated list and a suite.

  Raises:
    InputError: no task at all, or an unknown suite.
  """
  given = tasks.split(',') if isinstance(tasks, str) else list(tasks or ())
  if suite:
    if suite not in SUITES:
      raise unknown('suite', suite, SUITES)
    given += SUITES[suite]
  given = [n.strip() for n in given if n.strip()]
  given = list(dict.fromkeys(ALIASES.get(n, n) for n in given))
  if not given:
    raise InputError(
      f'No task given: use --tasks={",".join(SUITES["small"])}, a folder of audio, or '
      f'--suite={"|".join(SUITES)}.'
    )
  return given


def prepare(
  task: Task | str,
  data_root: str | os.PathLike | None = None,
  clip_list: Mapping[str, Any] | None = None,
) -> Prepared:
  """Opens a task's data and splits them.

  Args:
    task: an entry, its name, or a folder.
    data_root: folder of the data sets; default $OIDO_DATA.
    clip_list: restricts the task to these clips and parts (`clip_lists.py`), so that scores on
      several machines are of the same clips.

  Raises:
    InputError: the data are absent, have no such column, or hold no clip of the clip list.
  """
  task = get(task) if isinstance(task, str) else task
  whole, as_published = _open(task, data_root or os.environ.get(datasets.ROOT))
  column = task.label or _label_column(whole)
  source = _filter(task, whole, column)
  attrition: dict[str, Any] = {}
  if clip_list is not None:
    source, attrition['clip_list'] = _select_listed(task, source, clip_list)
  values = source.column(column)
  several = any(not isinstance(v, str) for v in values)
  joined = next((v for v in values if isinstance(v, str) and ';' in v), None)
  if task.source is None and joined is not None:
    raise InputError(
      f"Task {task.name}: {column!r} holds {joined!r}. Name the column 'labels' if clips have "
      "several labels; class names must not contain ';'."
    )
  metric = task.metric or ('mAP' if several else 'accuracy')
  if several and metric not in classification.MULTI_LABEL:
    raise InputError(
      f'Task {task.name}: {metric} needs one label per clip, but {column!r} holds several. Use one '
      f'of {", ".join(classification.MULTI_LABEL)}.'
    )
  several = several or metric in classification.MULTI_LABEL
  labels, classes = _labels(source, column, several)
  strata = np.argmax(labels, axis=1) if several else labels
  if clip_list is None:
    made = splits.make(source, strata, kind=task.kind, names=task.parts, seeded=task.seeded)
  else:
    made = splits.from_clip_list(source, clip_list)

  # Only clips used by some part are embedded: AudioSet-20k skips two million.
  used = np.unique(np.concatenate([r for fold in made.folds for r in fold.rows()]))
  folds = tuple(
    splits.Split(*(np.searchsorted(used, r) for r in fold.rows())) for fold in made.folds
  )
  attrition |= _attrition(whole, source.select(used))
  return Prepared(
    task=dataclasses.replace(task, label=column, metric=metric),
    source=source.select(used),
    labels=labels[used],
    classes=classes,
    splits=dataclasses.replace(made, folds=folds),
    dropped=len(whole) - len(used),
    as_published=as_published,
    attrition=attrition,
  )


def _open(task: Task, root: str | os.PathLike | None) -> tuple[Any, bool]:
  """(clips, whether they are the named data set as published)."""
  if task.source in datasets.PACKAGED:
    return sources.open_source(task.source), True
  base = Path(os.path.expanduser(root)) if root is not None else None
  for folder in task.folders:
    path = Path(folder) if os.path.isabs(folder) or base is None else base / folder
    named = os.path.isabs(folder) and path.exists()
    if named or (path.is_dir() and _readable(path, task.source)):
      return sources.open_source(str(path)), bool(task.source) and _shards_of(path) == task.source
  if task.source is None:
    where = f'in {base}' if base else 'and no data root is given (--data_root=DIR or $OIDO_DATA)'
    raise InputError(
      f'Task {task.name!r} needs the folder {task.folders[0]!r}, which does not exist {where}. Put '
      f'the audio there, with a labels.csv that has the columns {task.columns}. '
      + _faster(f'{base or "DIR"}/{task.folders[0]}', '', task.folders[0])
    )
  if base is not None and _shards_of(base / task.source) == task.source:
    return sources.open_source(str(base / task.source)), True
  try:
    as_published = datasets.find(task.source, base)[1]
    source = sources.open_source({'name': task.source, 'args': dict(task.args)}, root=base)
    return source, as_published
  except datasets.Absent as error:
    folders = datasets.DATASETS[task.source].folders
    made = f', or a labels.csv ({task.columns}) in {task.folders[0]!r}' if task.folders else ''
    root = f' --data_root={base or "DIR"}'
    raise InputError(
      f'Task {task.name!r}: {error} Put it there as {folders[0]!r}{made}. '
      + _faster(task.source, root, task.source)
    ) from None


def _faster(source: str, root: str, name: str) -> str:
  return (
    f'Then `python -m launch.prepare_data --source={source}{root} --out=SHARDS/{name}` makes '
    'shards, which --data_root=SHARDS reads several times faster.'
  )


def _readable(path: Path, source: str | None) -> bool:
  """Whether a folder has a manifest, a prepared TFDS data set, or shards of this data set.

  Shards of another named data set are not accepted: Speech Commands with 35 and with 12 classes
  share a folder name.
  """
  known = ('labels.csv', 'labels.jsonl', 'features.json')
  if any((path / name).is_file() for name in known):
    return True
  name = _shards_of(path)
  return name is not None and (name == source or name not in datasets.DATASETS)


def _shards_of(path: Path) -> str | None:
  """Name of the data set that a folder of shards was made from; None if it holds no shards."""
  try:
    index = json.loads((path / 'index.json').read_text())
  except (OSError, ValueError):
    return None
  return str(index.get('name', '')) if isinstance(index, dict) else None


def _label_column(source: Any) -> str:
  for name in ('label', 'labels', 'folder'):
    if name in source.column_names and any(source.column(name)):
      return name
  raise InputError(
    f'{source.name!r} has no column "label"; its columns are '
    f'{listed(source.column_names)}. Put the clips of each class in a subfolder, write a '
    'labels.csv (path,label), or name the label column with --tasks=DIR:COLUMN.'
  )


def _filter(task: Task, source: Any, column: str) -> Any:
  """The clips that the task selects and that have a label."""
  if task.where:
    source = source.where(dict(task.where))
  keep = np.array([bool(v) for v in source.column(column)])
  for name, banned in task.exclude.items():
    if name in source.column_names:
      keep &= np.array([v not in banned for v in source.column(name)])
  if not keep.any():
    raise InputError(f'Task {task.name}: no clip of {source.name!r} has a value in {column!r}.')
  return source.select(np.flatnonzero(keep))


def _select_listed(
  task: Task, source: Any, clip_list: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
  """(clips of the list that are present, facts about the list for the report)."""
  wanted = set(clip_list['ids'])
  here = np.array([source.id(i) in wanted for i in range(len(source))], bool)
  source = source.select(np.flatnonzero(here))
  if not len(source):
    raise InputError(
      f'Task {task.name}: {source.name!r} has none of the {len(wanted):,} clips in the clip list. '
      'Check that the list belongs to this task.'
    )
  absent = sorted(wanted - {source.id(i) for i in range(len(source))})
  return source, dict(
    clips=len(wanted), hash=clip_list['hash'], absent=len(absent), first=absent[:100]
  )


def _attrition(whole: Any, used: Any) -> dict[str, Any]:
  """Numbers of clips in the published lists of the splits used, and of those without audio."""
  if not used.table.absent:
    return {}
  parts = set(used.column('split'))
  absent = {part: n for part, n in used.table.absent.items() if part in parts}
  here = sum(part in parts for part in whole.column('split'))
  return dict(listed=here + sum(absent.values()), absent=absent)


def _labels(source: Any, column: str, several: bool) -> tuple[np.ndarray, tuple[str, ...]]:
  """(labels, class names): int [n] over the classes that occur, or multi-hot [n, c] over all."""
  values = source.column(column)
  classes = source.classes(column)
  number = {c: i for i, c in enumerate(classes)}
  unknown_classes = {c for v in values for c in ([v] if isinstance(v, str) else v)} - set(number)
  if unknown_classes:
    raise InputError(
      f'{source.name!r}: {sorted(unknown_classes)[0]!r} in column {column!r} is not one of its '
      f'classes: {", ".join(classes[:12])}{" …" if len(classes) > 12 else ""}.'
    )
  if not several:
    seen = set(values)
    classes = tuple(c for c in classes if c in seen)
    if len(classes) < 2:
      raise InputError(
        f'{source.name!r}: the column {column!r} holds a single class, {classes[0]!r}. A task '
        'needs two classes or more.'
      )
    number = {c: i for i, c in enumerate(classes)}
    return np.array([number[v] for v in values], np.int32), classes
  hot = np.zeros((len(values), len(classes)), np.float32)
  for row, value in enumerate(values):
    for name in [value] if isinstance(value, str) else value:
      hot[row, number[name]] = 1.0
  return hot, classes
