"""Scores models and baselines on tasks: linear probe, nearest neighbours, fine-tuning, zero-shot,
SUPERB.

python -m launch.evaluate --model=runs/tiny --tasks=builtin_digits,builtin_events --out=runs/tiny
python -m launch.evaluate --model=A,B --suite=small --data_root=DATA --protocol=probe,knn \
  --out=runs/compare
python -m launch.evaluate --model=runs/tiny --tasks=my/folder --out=runs/mine
python -m launch.evaluate --model=runs/tiny --suite=superb --data_root=DATA --out=runs/superb
python -m launch.evaluate --model=MODEL --suite=dynamic_superb --data_root=benchmark_tasks \
  --judge=http://localhost:8000/v1 --judge_model=NAME --out=runs/answers

A task is a name in `research/evals/tasks.py`, or a folder of audio with a labels.csv (path, label,
optionally split or fold, speaker) or with one subfolder per class; DIR:COLUMN sets the label
column. A folder written by hear-preprocess has its own splits and metric. --out receives
scores.json, scores.md, scores.html, map.npz, figures (SVG), report.html and the embedding cache.
"""

from absl import flags

from launch import answers, command, outputs
from launch import superb as superb_suite

MODEL = flags.DEFINE_list(
  'model', None, 'Weights: a workdir, a checkpoint or a file; A,B for several.'
)
RELEASE = flags.DEFINE_string(
  'release', None, 'Release of --model if it holds original weights, e.g. audio_mae.'
)
TASKS = flags.DEFINE_string('tasks', None, 'Task names or folders; A,B for several.')
SUITE = flags.DEFINE_string(
  'suite',
  None,
  'A named list of tasks: builtin, builtin_sequences, small, evar, hear, audioset, superb, '
  'superb_sg, superb_small; dynamic_superb, evalsift_closed, evalsift_open, air_bench for audio '
  'language models. Tasks whose data are absent are listed with what they need.',
)
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of the data sets ($OIDO_DATA if not given).'
)
CLIP_LIST = flags.DEFINE_string(
  'clip_list',
  None,
  'A clip list (JSON). If the file exists, only its clips are used and absent ones are counted; '
  'otherwise it is written with the clips of this run.',
)
OUT = flags.DEFINE_string('out', None, 'Output folder (created if missing).')
CACHE = flags.DEFINE_string('cache', None, 'Folder for cached embeddings (default OUT/cache).')
PROTOCOL = flags.DEFINE_list(
  'protocol',
  ['probe'],
  'probe (Adam), evar (the probe with EVAR settings), logistic (solved to its optimum), knn, '
  'finetune; A,B for several.',
)
STEPS = flags.DEFINE_integer('finetune_steps', 500, 'Fine-tuning: steps per fold.', lower_bound=1)
BATCH = flags.DEFINE_integer(
  'finetune_batch_size', 32, 'Fine-tuning: clips per step.', lower_bound=1
)
LR = flags.DEFINE_float('finetune_lr', 5e-4, 'Fine-tuning: peak learning rate.', lower_bound=0)
BASELINES = flags.DEFINE_list(
  'baselines', ['random', 'logmel'],
  "'random': the same architecture, untrained; 'logmel': statistics of the front-end; 'mfcc': "
  "statistics of MFCC; '' for none.",
)  # fmt: skip
RANDOM_SEEDS = flags.DEFINE_integer(
  'random_seeds', 1, 'Number of random initialisations.', lower_bound=1
)
SEEDS = flags.DEFINE_integer('seeds', 3, 'Number of probe seeds.', lower_bound=1)
LAYERS = flags.DEFINE_string(
  'layers', 'last', "'last', a number (0 is the stem), 'mean', or 'all': the best on validation."
)
POOL = flags.DEFINE_string(
  'pool',
  None,
  'Pooling over time: mean, max, mean+max, mean_std, mean_bands, mean_std_bands (default of the '
  'model: mean; mean+max for BYOL-A).',
)
MAPS = flags.DEFINE_bool('maps', True, 'Draw 2-D embedding projections.')
STATISTICS = flags.DEFINE_enum(
  'statistics',
  'task',
  ['task', 'weights'],
  "Input normalisation of BYOL-A: 'task', statistics of the training clips (of all clips with "
  "cross-validation), as published; 'weights', the statistics in the weights.",
)
TOKENIZER = flags.DEFINE_string(
  'tokenizer',
  None,
  'Tokenizer of a CLAP, for --protocol=zero_shot, or of an audio language model: a folder, a file, '
  "or 'bytes' (that of the run, or the one beside the weights, if not given).",
)
TEMPLATE = flags.DEFINE_string(
  'template', None, 'Text of a class, with {} for its name (zero_shot).'
)
SUFFIX = flags.DEFINE_string('suffix', None, 'Put behind every text (zero_shot).')
command.required('model', 'out')
command.distributed_flags()


# Protocols that take more than embeddings.
OTHERS = ('finetune', 'zero_shot')


def systems(paths, release, baselines, random_seeds):
  """(embedders of the models and of the baselines of the first model, fingerprint -> path)."""
  from research import weights
  from research.errors import unknown
  from research.inference import embedder

  made, seen = [], set()
  paths = list(dict.fromkeys(paths))
  models = [weights.load(path, release=release) for path in paths]
  for path, loaded in zip(paths, models):
    name = f'{loaded.name}, {loaded.origin}'
    name = name if name not in seen else f'{name} ({path})'
    seen.add(name)
    made.append(embedder.from_model(loaded.model, loaded.variables, name, loaded.fingerprint))
  for baseline in filter(None, baselines):
    if baseline == 'random':
      made += [embedder.random_init(models[0].model, seed) for seed in range(random_seeds)]
    elif baseline == 'logmel':
      made.append(embedder.log_mel(models[0].frontend))
    elif baseline == 'mfcc':
      made.append(embedder.mfcc())
    else:
      raise unknown('baseline', baseline, ('random', 'logmel', 'mfcc'))
  return made, {loaded.fingerprint: path for path, loaded in zip(paths, models)}


def finetuning(paths, out):
  """The fine-tuning protocol; imports the training loop only when used."""

  def protocol(system, task, options):
    import jax

    from research.errors import InputError
    from research.train import finetune

    if jax.process_count() > 1:
      raise InputError('--protocol=finetune runs in one process only: start it on one host.')
    settings = finetune.Finetune(steps=STEPS.value, batch_size=BATCH.value, lr=LR.value)
    return finetune.make_protocol(paths, f'{out}/finetune', settings)(system, task, options)

  return protocol


def zero_shot(paths):
  """The protocol of classes by their names; the tokenizer is read when it is needed."""
  from research.evals import zero_shot as judged
  from research.inference.classify import TEMPLATE as usual
  from research.weights.text_towers import spelling

  def read(path):
    return spelling(path, TOKENIZER.value, SUFFIX.value)

  return judged.make_protocol(paths, read, TEMPLATE.value or usual)


def prepare(names):
  """(prepared tasks, name -> reason for the tasks of a suite whose data are absent)."""
  import dataclasses
  import os

  from research.errors import InputError
  from research.evals import clip_lists, tasks

  lists = clip_lists.read(CLIP_LIST.value) if CLIP_LIST.value else None
  requested = set(tasks.names(TASKS.value)) if TASKS.value else set()
  prepared: list[tasks.Prepared] = []
  absent: dict[str, str] = {}
  for name in names:
    try:
      task = tasks.get(name)
      if task.name in {p.task.name for p in prepared}:  # two folders with one name
        parent = os.path.basename(os.path.dirname(os.path.abspath(name.partition(':')[0])))
        task = dataclasses.replace(task, name=f'{parent}_{task.name}')
      clip_list = clip_lists.of_task(lists, str(CLIP_LIST.value), task.name)
      prepared.append(tasks.prepare(task, DATA_ROOT.value, clip_list))
    except InputError as error:
      # Tasks of a suite may be absent; tasks requested by name may not.
      if name in requested:
        raise
      absent[name] = str(error)
  if not prepared:
    for name, reason in absent.items():
      command.say(f'- {name}: {reason}')
    raise InputError('No task can be scored. The reasons are listed above.')
  return prepared, absent


@outputs.remote('out', folder=True)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research.errors import unknown
  from research.evals import clip_lists, harness, probe, protocols
  from research.evals import tasks as task_list
  from research.jobs import folders
  from research.report import published, run, tables

  if answers.is_answers(SUITE.value):
    answers.run(
      list(MODEL.value or ()), RELEASE.value, TOKENIZER.value, str(SUITE.value), DATA_ROOT.value,
      str(OUT.value),
    )  # fmt: skip
    return
  if superb_suite.is_superb(SUITE.value, TASKS.value):
    how = dict(root=DATA_ROOT.value, cache=CACHE.value, baseline=bool(BASELINES.value))
    superb_suite.run(
      list(MODEL.value or ()), RELEASE.value, SUITE.value, TASKS.value, str(OUT.value), **how
    )
    return
  # Check names before loading weights, which is slow.
  for name in PROTOCOL.value:
    if name not in (*protocols.PROTOCOLS, *OTHERS):
      raise unknown('protocol', name, (*protocols.PROTOCOLS, *OTHERS))
  if jax.process_index() == 0:
    folders.folder(str(OUT.value), 'out')
  options = protocols.Options(
    layers=LAYERS.value,
    pool=POOL.value,
    statistics=STATISTICS.value,
    probe=probe.ProbeConfig(seeds=SEEDS.value),
  )
  names = task_list.names(TASKS.value, SUITE.value)
  prepared, absent = prepare(names)
  requested = set(task_list.names(TASKS.value)) if TASKS.value else set()
  made, paths = systems(MODEL.value, RELEASE.value, BASELINES.value, RANDOM_SEEDS.value)
  rows = harness.evaluate(
    made,
    prepared,
    out=str(OUT.value),
    cache=CACHE.value,
    use=PROTOCOL.value,
    known={
      **protocols.PROTOCOLS,
      'finetune': finetuning(paths, str(OUT.value)),
      'zero_shot': zero_shot(paths),
    },
    options=options,
    absent=absent,
    optional=set(names) - requested,
    maps=MAPS.value,
  )
  if CLIP_LIST.value and jax.process_index() == 0 and clip_lists.read(CLIP_LIST.value) is None:
    clip_lists.write(CLIP_LIST.value, prepared)
    print(f'wrote the clips of this run to {CLIP_LIST.value}')
  if jax.process_index() == 0:
    print()
    others = published.rows([task.task.name for task in prepared if task.as_published])
    for table in (*tables.comparison(rows, others), tables.absent(absent)):
      if table:
        command.say(table.markdown())
    for note in tables.notes(rows):
      command.say(f'- {note}')
    print(f'report: {run.write_report(str(OUT.value))}', flush=True)


if __name__ == '__main__':
  command.run(main)
