"""SUPERB and SUPERB-SG as data: the published recipe of every task, and the data it is run on.

Figures of s3prl/downstream, release 0.4.18 (commit ec8064b): the configuration files of the public
benchmark (arXiv 2105.01051, 2203.06849). Of a submission only the learning rate may differ.
"""

import dataclasses
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.audio import datasets, mixtures, sources
from research.audio.clips import Source
from research.audio.datasets.superb import words
from research.audio.datasets.superb.commands import slot_vocabulary
from research.audio.mixtures import writing
from research.errors import InputError, unknown
from research.evals import splits
from research.text.characters import SUPERB_CHARACTERS
from research.text.phones import PHONES

# Metrics of which less is better.
LOWER = ('per', 'wer', 'cer', 'wer_lm', 'cer_lm', 'slot_value_cer', 'eer', 'der', 'mcd')


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a head is trained and judged.

  Attributes:
    title: of the task.
    head: name in `models/heads`.
    head_args: its arguments; those that the data give (classes, vocabulary) are added.
    objective: dict(name=…, args={…}).
    judge: name in `evals/judges.py`.
    metrics: that are reported, the first ranks checkpoints; its leaderboard names are BOARD.
    select: metric on the validation clips that ranks checkpoints; None for the first of `metrics`.
    steps: optimiser steps.
    eval_every: steps between evaluations, after each of which a checkpoint may become the best.
    batch_size: clips of one micro-batch.
    accumulate: micro-batches of a step.
    lr: learning rate.
    clip_norm: of gradients.
    optimizer: as `config.optim.name`; weight decay and others in `optim`.
    optim: further settings of the optimiser.
    seconds: longer training clips are cropped at random; None for whole clips.
    frames: of a micro-batch, padding included, which then has `batch_size` clips at most.
    schedule: of the learning rate; a warm-up is as long in proportion to runs of other lengths.
    balanced: clips are drawn so that classes are equally frequent.
  """

  title: str
  head: str
  objective: Mapping[str, Any]
  judge: str
  metrics: tuple[str, ...]
  steps: int
  eval_every: int
  batch_size: int
  lr: float
  accumulate: int = 1
  clip_norm: float = 1.0
  optimizer: str = 'adam'
  optim: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  head_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  select: str | None = None
  seconds: float | None = None
  frames: int | None = None
  schedule: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  balanced: bool = False

  @property
  def ranks(self) -> str:
    """The metric that ranks checkpoints."""
    return self.select or self.metrics[0]

  @property
  def mode(self) -> str:
    """'min' where less of it is better, else 'max'."""
    return 'min' if self.ranks in LOWER else 'max'


_CLASSES: dict[str, Any] = dict(head='utterance', judge='classes', metrics=('accuracy',))
_CE: dict[str, Any] = dict(name='cross_entropy')
_CTC: dict[str, Any] = dict(name='ctc', args=dict(per_symbol=True))

RECIPES: dict[str, Recipe] = {
  'KS': Recipe(
    'keyword spotting', objective=_CE, steps=200_000, eval_every=5000, batch_size=32, lr=1e-4,
    balanced=True, seconds=1.0, **_CLASSES,
  ),
  # The learning rate of the configuration file is 1e-4; the published scores need 1e-1.
  'SID': Recipe(
    'speaker identification', objective=_CE, steps=200_000, eval_every=5000, batch_size=8,
    accumulate=4, lr=1e-1, seconds=8.0, **_CLASSES,
  ),
  'ER': Recipe(
    'emotion recognition', objective=_CE, steps=30_000, eval_every=1000, batch_size=4,
    accumulate=8, lr=1e-4, **_CLASSES,
  ),
  'IC': Recipe(
    'intent classification', head='utterance', objective=dict(name='slot_cross_entropy'),
    judge='slots', metrics=('accuracy',), steps=200_000, eval_every=5000, batch_size=32, lr=1e-4,
  ),
  'PR': Recipe(
    'phone recognition', head='phones', objective=_CTC, judge='symbols', metrics=('per',),
    steps=100_000, eval_every=1000, batch_size=16, accumulate=2, lr=1e-2,
  ),
  'ASR': Recipe(
    'speech recognition', head='recurrent_ctc', objective=_CTC, judge='words',
    metrics=('wer', 'cer'), steps=200_000, eval_every=2000, batch_size=32, lr=1e-4,
  ),
  'SF': Recipe(
    'slot filling', head='recurrent_ctc', objective=_CTC, judge='slot_text',
    metrics=('slot_type_f1', 'slot_value_cer'), steps=200_000, eval_every=2000, batch_size=32,
    lr=1e-4,
  ),
  # `train_batch_size` of chunks of 2000 frames of labels.
  'SD': Recipe(
    'speaker diarization', head='diarization', objective=dict(name='permutation_invariant_bce'),
    judge='activity', metrics=('der', 'frame_accuracy'), select='frame_accuracy', steps=30_000,
    eval_every=500, batch_size=8, accumulate=4, lr=1e-4, seconds=40.0,
  ),
  # The published score is the best of ten checkpoints on the test trials; ours is the last one of
  # the run, or the best on validation pairs where there are some.
  'ASV': Recipe(
    'speaker verification', head='x_vector', objective=dict(name='additive_margin_softmax'),
    judge='trials', metrics=('eer', 'min_dcf'), steps=200_000, eval_every=20_000, batch_size=10,
    accumulate=5, lr=1e-4, clip_norm=1e3, optimizer='adamw',
    optim=dict(weight_decay=0.01, no_decay='^$'), seconds=8.0,
  ),
  # Nothing is trained: the layer is chosen on the queries of the development set.
  'QbE': Recipe(
    'query by example', head='', objective={}, judge='search', metrics=('mtwv',), steps=0,
    eval_every=0, batch_size=1, lr=0.0,
  ),
  'SE': Recipe(
    'speech enhancement', head='masks', judge='masked', metrics=('pesq', 'stoi'),
    objective=dict(name='phase_sensitive_mask'), steps=150_000, eval_every=1250, batch_size=8,
    lr=1e-4, optimizer='s3prl_adamw', optim=dict(eps=1e-7),
  ),
  'SS': Recipe(
    'source separation', head='masks', head_args=dict(signals=2), judge='masked',
    objective=dict(name='phase_sensitive_mask'), metrics=('si_sdri',), steps=150_000,
    eval_every=2000, batch_size=8, lr=1e-4, optimizer='s3prl_adamw', optim=dict(eps=1e-7),
  ),
  # `max_tokens` of fairseq: 10,000 frames, of clips of half a second or more 400.
  'ST': Recipe(
    'speech translation', head='translation', objective=dict(name='label_smoothed_sentences'),
    judge='translated', metrics=('bleu',), steps=32_000, eval_every=2000, batch_size=400,
    frames=10_000, accumulate=8, lr=1e-3, clip_norm=10.0,
    schedule=dict(name='inverse_sqrt', warmup_steps=10_000),
  ),
  # Published checkpoints are ranked by the distortion of the test clips; ours by that of the
  # target speaker's validation clips.
  'VC': Recipe(
    'voice conversion', head='voice', objective=dict(name='normalised_l1'), judge='converted',
    metrics=('mcd',), steps=10_000, eval_every=1000, batch_size=6, lr=1e-4,
    optimizer='s3prl_adamw', optim=dict(eps=1e-7),
    schedule=dict(name='polynomial', warmup_steps=4000),
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Made:
  """Data that a seeded recipe makes of others (`audio/mixtures`).

  Attributes:
    recipe: its name.
    folder: of the task in what it makes.
    source: folder below the data root of the clips that it takes; None where it takes none.
    noise: the same of noise.
    args: of the recipe.
  """

  recipe: str
  folder: str
  source: str | None = None
  noise: str | None = None
  args: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
  """A recipe on data.

  Attributes:
    name: of the task.
    recipe: a key of RECIPES.
    source: a named data set, or a folder below the data root.
    args: of its reader.
    target: the column of classes, or of transcripts; several for slots.
    judge: name in `evals/judges.py`, where it is not that of the recipe.
    made: how the data are made where the folder is not there.
    split: how symbols are separated, see the field `symbols`.
    eos: symbol behind every sequence.
    kind: 'split' (column split), 'fold' (column fold), 'seeded'.
    seeded: settings of a seeded split.
    folds: what is tested one after the other; the score is their mean.
    over: argument of the reader that a fold is.
    where: column -> values; a clip must have one of them.
    exclude: column -> values; a clip must have none of them.
    head_args: arguments of the head that are not the published ones.
    judge_args: arguments of the judge.
    benchmark: whether it is the published task on the published data.
    suite: of the benchmark.
  """

  name: str
  recipe: str
  source: str
  args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  target: str | tuple[str, ...] = 'label'
  judge: str | None = None
  made: Made | None = None
  split: str = 'spaces'
  eos: str | None = None
  kind: str = 'split'
  seeded: splits.Seeded | None = None
  folds: tuple[int | str, ...] = (0,)
  over: str = 'fold'
  where: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  exclude: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  head_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  judge_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  benchmark: bool = True
  suite: str = 'superb'

  @property
  def how(self) -> Recipe:
    """Its recipe."""
    return RECIPES[self.recipe]


_NOISE = {'label': ('_background_noise_',)}
TASKS: dict[str, Task] = {
  t.name: t
  for t in (
    Task('superb_ks', 'KS', 'superb_ks'),
    Task('superb_sid', 'SID', 'superb_sid', target='speaker'),
    Task('superb_er', 'ER', 'superb_er', folds=(1, 2, 3, 4, 5)),
    Task('superb_ic', 'IC', 'superb_ic', target=('action', 'object', 'location')),
    Task('superb_pr', 'PR', 'superb_asr', target='phones', eos='<eos>'),
    Task('superb_asr', 'ASR', 'superb_asr', target='transcript', split='letters', eos='</s>'),
    Task('superb_sf', 'SF', 'superb_sf', target='slots', split='slots'),
    Task('superb_sd', 'SD', 'superb_sd', target='turns'),
    Task('superb_asv', 'ASV', 'superb_asv', target='speaker'),
    Task('superb_qbe', 'QbE', 'superb_qbe'),
    Task('superb_se', 'SE', 'superb_se', target=('clean',), suite='superb_sg'),
    Task('superb_ss', 'SS', 'superb_ss', target=('s1', 's2'), suite='superb_sg'),
    Task('superb_st', 'ST', 'superb_st', target='translation', suite='superb_sg'),
    Task(
      'superb_vc', 'VC', 'superb_vc', target='reference', folds=words.TARGETS, over='target',
      suite='superb_sg',
    ),
    # Small data: not the benchmark.
    Task(
      'small_ks', 'KS', 'speech_commands_v2_test', kind='fold', benchmark=False, exclude=_NOISE,
    ),
    Task(
      'small_sid', 'SID', 'librispeech_test_clean_sub', target='speaker', kind='seeded',
      seeded=splits.Seeded(validation=0.1, test=0.2), benchmark=False,
    ),
    # Emotions need acted or licensed speech; digits of unseen speakers have the same protocol.
    Task(
      'small_er', 'ER', 'fsdd', kind='seeded', folds=tuple(range(6)),
      seeded=splits.Seeded(group='speaker', folds=6), benchmark=False,
    ),
    Task(
      'small_asr', 'ASR', 'librispeech_test_clean_sub', target='transcript', split='letters',
      eos='</s>', head_args=dict(width=256, features=128), benchmark=False,
    ),
    Task(
      'small_pr', 'PR', 'librispeech_test_clean_sub', target='transcript', split='letters',
      eos='</s>', judge='letters', benchmark=False,
    ),
    Task(
      'small_asv', 'ASV', 'librispeech_test_clean_sub', target='speaker',
      head_args=dict(width=256, pooled_width=512), benchmark=False,
    ),
    Task(
      'small_sd', 'SD', 'superb_sd', target='turns', head_args=dict(features=128), benchmark=False,
      made=Made('small_mixtures', 'sd', 'librispeech_test_clean_sub', args=dict(tasks=['sd'])),
    ),
    Task(
      'small_ic', 'IC', 'superb_ic', target=('action', 'object', 'location'), benchmark=False,
      made=Made('small_commands', 'ic', args=dict(tasks=['ic'])),
    ),
    Task(
      'small_sf', 'SF', 'superb_sf', target='slots', split='slots',
      head_args=dict(width=256, features=128), benchmark=False,
      made=Made('small_commands', 'sf', args=dict(tasks=['sf'])),
    ),
    Task(
      'small_se', 'SE', 'superb_se', target=('clean',),
      head_args=dict(features=128, num_layers=2), benchmark=False,
      made=Made('small_noisy', '', 'librispeech_test_clean_sub', 'esc10'),
    ),
    Task(
      'small_ss', 'SS', 'superb_ss', target=('s1', 's2'),
      head_args=dict(features=128, num_layers=2), benchmark=False,
      made=Made('small_mixtures', 'ss', 'librispeech_test_clean_sub', args=dict(tasks=['ss'])),
    ),
    Task(
      'small_st', 'ST', 'superb_st', target='translation',
      head_args=dict(width=128, heads=4, hidden=256, depth=2, decoder_depth=2, channels=256),
      judge_args=dict(beams=5, max_tokens=60), benchmark=False,
      made=Made('small_commands', 'st', args=dict(tasks=['st'])),
    ),
    # One voice from its own layers: nothing is converted.
    Task(
      'small_vc', 'VC', 'builtin', target='', kind='seeded',
      seeded=splits.Seeded(group='', validation=0.1, test=0.2),
      where={'speaker': ('en-gb_andrea',)},
      head_args=dict(width=128, channels=128, prenet=64), benchmark=False,
    ),
    # Single digits: a document is a clip of another take.
    Task('small_qbe', 'QbE', 'fsdd', kind='fold', benchmark=False),
  )
}  # fmt: skip
# Of a trial run, `SUITE:debug`: few steps, narrow heads.
DEBUG_STEPS = 20
DEBUG_HEADS: dict[str, dict[str, Any]] = {
  'utterance': dict(width=32),
  'phones': dict(width=32),
  'recurrent_ctc': dict(width=32, features=16),
  'diarization': dict(features=16),
  'x_vector': dict(width=32, pooled_width=48),
  'masks': dict(features=16, num_layers=1),
  'translation': dict(
    width=16, heads=2, hidden=16, depth=1, decoder_depth=1, channels=16, max_tokens=64
  ),
  'voice': dict(width=16, channels=16, prenet=16),
}
# Arguments of judges in a trial run.
DEBUG_JUDGES: dict[str, dict[str, Any]] = {'translated': dict(beams=2, max_tokens=16)}
# What a judge cannot do without.
NEEDS = {
  'translated': (('sentencepiece', 'translation'), ('sacrebleu', 'translation')),
  'converted': (('pyworld', 'conversion'),),
}
SUITES: dict[str, tuple[str, ...]] = {
  'superb': tuple(n for n, t in TASKS.items() if t.benchmark and t.suite == 'superb'),
  'superb_sg': tuple(n for n, t in TASKS.items() if t.benchmark and t.suite == 'superb_sg'),
  'superb_small': tuple(n for n, t in TASKS.items() if not t.benchmark),
}


@dataclasses.dataclass(frozen=True)
class Parts:
  """The clips of one fold of a task.

  Attributes:
    train, valid, test: clips.
    whole: all of them.
    origin: how they were split, one phrase.
    fingerprint: hash of the ids in every part.
    root: the folder of the data set, with what lies beside the audio.
    fold: which of `Task.folds` it is.
  """

  train: Source
  valid: Source
  test: Source
  whole: Source
  origin: str
  fingerprint: str
  root: str = ''
  fold: int | str = 0


def get(name: str) -> Task:
  """The task of this name; raises InputError with the nearest names for an unknown one."""
  if name not in TASKS:
    raise unknown('task', name, TASKS)
  return TASKS[name]


def vocabulary_of(task: Task, parts: Parts) -> list[str]:
  """Symbols of a task whose targets are sequences, the blank first.

  Raises:
    InputError: no vocabulary is known.
  """
  if task.split == 'letters':
    return list(SUPERB_CHARACTERS)
  if task.split == 'slots':
    return list(slot_vocabulary(parts.root))
  if task.target == 'phones':
    return list(PHONES)
  raise InputError(f'Task {task.name!r} has no vocabulary.')


def open_parts(
  task: Task, root: str | os.PathLike | None = None, made: str | os.PathLike | None = None
) -> list[Parts]:
  """The clips of every fold of a task.

  Args:
    task: which.
    root: folder of the data sets; default $OIDO_DATA.
    made: folder for data that a recipe makes.

  Raises:
    InputError: data that are absent or incomplete: what is missing and how the folder must look.
  """
  root = root or os.environ.get(datasets.ROOT)
  _check_libraries(task)
  if task.source in datasets.DATASETS and len(task.folds) > 1:
    each = [(fold, *_read(task, root, {task.over: fold})) for fold in task.folds]
    return [_parts(task, source, fold, 0, place) for fold, source, place in each]
  if task.made is not None:
    found, place = _made(task, root, made)
  else:
    found, place = _read(task, root, {})
  return [_parts(task, found, fold, i, place) for i, fold in enumerate(task.folds)]


def _check_libraries(task: Task) -> None:
  """Raises InputError where the judge of a task needs a library that is not installed."""
  for library, extra in NEEDS.get(task.judge or task.how.judge, ()):
    try:
      importlib.import_module(library)
    except ImportError as error:  # of the library, or of what it imports
      raise InputError(
        f"Task {task.name!r} needs {library}: pip install -e '.[{extra}]' ({error})."
      ) from None


def _made(task: Task, root: Any, out: str | os.PathLike | None) -> tuple[Source, str]:
  """The source of data that a recipe makes, and its folder."""
  how = task.made
  assert how is not None
  if out is None:
    raise InputError(f'Task {task.name!r} makes its data: give a folder for them.')
  opened = {
    name: sources.open_source(str(_folder(task, root, place)))
    for name, place in (('source', how.source), ('noise', how.noise))
    if place is not None
  }
  recipe = mixtures.recipe(how.recipe, **opened, **how.args)
  folder = Path(out) / task.name
  writing.write(recipe, folder, text=f'{task.name}: {len(recipe.items)} items')
  path = str(folder / how.folder)
  return sources.open_source({'name': task.source, 'args': {**task.args, 'root': path}}), path


def _folder(task: Task, root: Any, name: str) -> Path:
  path = Path(os.path.expanduser(root or '')) / name
  if root is None or not path.is_dir():
    raise InputError(
      f'Task {task.name!r} needs the folder {name!r}, which is not in '
      f'{root or "any data root (--data_root=DIR or $OIDO_DATA)"}.'
    )
  return path


def _read(task: Task, root: Any, more: Mapping[str, Any]) -> tuple[Source, str]:
  """The source of data on disk, and its folder."""
  if task.source in datasets.DATASETS:
    # A corpus of the package has no folder of a person's.
    packaged = task.source in datasets.PACKAGED
    path = '' if packaged else datasets.find(task.source, root)[0]
    source = sources.open_source({'name': task.source, 'args': {**task.args, **more}}, root=root)
  else:
    path = _folder(task, root, task.source)
    source = sources.open_source(str(path))
  for column, values in task.where.items():
    source = source.where({column: values})
  for column, values in task.exclude.items():
    kept = sorted(source.present(column) - set(values))
    source = source.where({column: kept})
  return source, str(path)


def _parts(task: Task, source: Source, fold: int | str, place: int, root: str) -> Parts:
  if task.recipe == 'QbE' and task.benchmark:
    train, valid, test = (source.split(name) for name in ('documents', 'valid', 'test'))
    return Parts(train, valid, test, source, 'column split', source.fingerprint(), root, fold)
  classes = task.target if isinstance(task.target, str) else task.target[0]
  strata = np.zeros(len(source), np.int64)
  if task.how.judge == 'classes':
    numbers = {name: i for i, name in enumerate(source.classes(classes))}
    strata = np.array([numbers[str(v)] for v in source.column(classes)])
  made = splits.make(source, strata, kind=task.kind, seeded=task.seeded)
  train, valid, test = (source.select(rows) for rows in made.folds[place].rows())
  if task.recipe == 'VC' and task.target:
    references = test.column(str(task.target))
    if lacking := sum(not path for path in references):
      raise InputError(
        f'{lacking} of {len(test)} test clips of {task.name!r} have no recording of {fold} that '
        f'they are compared with: put {fold}/E30001.wav to E30025.wav, the ground truth of VCC '
        f'2020, into {root}.'
      )
  return Parts(train, valid, test, source, made.origin, made.fingerprint, root, fold)
