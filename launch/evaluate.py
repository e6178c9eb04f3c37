"""Scores models on tasks: linear probe, nearest neighbours, fine-tuning, against baselines.

python -m launch.evaluate --model=runs/tiny --tasks=builtin_digits,builtin_events --out=runs/tiny
python -m launch.evaluate --model=A,B --suite=small --data_root=DATA --protocol=probe,knn \
  --out=runs/compare
python -m launch.evaluate --model=runs/tiny --tasks=my/folder --out=runs/mine

A task is a name of `research/evals/tasks.py`, or a folder of audio with a labels.csv (path,label
and, if you have them, split or fold, speaker) or with one subfolder a class; DIR:COLUMN takes
another label column. A folder that hear-preprocess wrote has its own splits and metric. --out gets
scores.json, scores.md, scores.html, map.npz, pictures (SVG), report.html, and the cache of
embeddings.
"""

from absl import flags

from launch import command

MODEL = flags.DEFINE_list(
  'model', None, 'Weights: a workdir, a checkpoint or a file; A,B for several.'
)
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, e.g. audio_mae.')
TASKS = flags.DEFINE_string('tasks', None, 'Names of tasks or folders, A,B for several.')
SUITE = flags.DEFINE_string(
  'suite',
  None,
  'A named list of tasks instead: builtin, small, evar, hear, audioset. Tasks of it whose data are '
  'absent are listed with what prepares them.',
)
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of the data sets ($OIDO_DATA if not given).'
)
PIN = flags.DEFINE_string(
  'pin',
  None,
  'A list of clips (JSON): where it exists only those take part, and those that are absent are '
  'counted; else it is written with the clips of this run.',
)
OUT = flags.DEFINE_string('out', None, 'Folder for what is written (made when missing).')
CACHE = flags.DEFINE_string('cache', None, 'Folder of the embeddings (OUT/cache if not given).')
PROTOCOL = flags.DEFINE_list(
  'protocol',
  ['probe'],
  'probe (Adam), evar (the probe with the published settings), logistic (at its optimum), knn, '
  'finetune; A,B for several.',
)
STEPS = flags.DEFINE_integer('finetune_steps', 500, 'Fine-tuning: steps a fold.', lower_bound=1)
BATCH = flags.DEFINE_integer('finetune_batch_size', 32, 'Fine-tuning: clips a step.', lower_bound=1)
LR = flags.DEFINE_float('finetune_lr', 5e-4, 'Fine-tuning: peak learning rate.', lower_bound=0)
BASELINES = flags.DEFINE_list(
  'baselines', ['random', 'logmel'],
  "'random': the same architecture untrained; 'logmel': statistics of the front-end; 'mfcc': of "
  "MFCC; '' for none.",
)  # fmt: skip
RANDOM_SEEDS = flags.DEFINE_integer('random_seeds', 1, 'How many random models.', lower_bound=1)
SEEDS = flags.DEFINE_integer('seeds', 3, 'Seeds of every probe.', lower_bound=1)
LAYERS = flags.DEFINE_string(
  'layers', 'last', "'last', a number (0 is the stem), 'mean', or 'all': the best on validation."
)
POOL = flags.DEFINE_string(
  'pool',
  None,
  'Over time: mean, max, mean+max, mean_std, mean_bands, mean_std_bands (the usual one of each '
  'model if not given: mean; that of BYOL-A is mean+max).',
)
MAPS = flags.DEFINE_bool('maps', True, 'Draw 2-D maps of the embeddings.')
STATISTICS = flags.DEFINE_enum(
  'statistics',
  'task',
  ['task', 'weights'],
  "What BYOL-A is normalised by: 'task', its training clips (all clips where folds take turns), as "
  "published; or 'weights', what is in them.",
)
command.required('model', 'out')
command.distributed_flags()


def systems(paths, release, baselines, random_seeds):
  """Embedders of the models and of the baselines that go with the first one; paths by weights."""
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
  """The protocol that trains the whole model; the training loop is imported when it is used."""

  def protocol(system, task, options):
    import jax

    from research.errors import InputError
    from research.train import finetune

    if jax.process_count() > 1:
      raise InputError('--protocol=finetune runs in one process: start it on one host.')
    settings = finetune.Finetune(steps=STEPS.value, batch_size=BATCH.value, lr=LR.value)
    return finetune.make_protocol(paths, f'{out}/finetune', settings)(system, task, options)

  return protocol


def prepare(names):
  """(tasks, name -> why not of those of a suite whose data are absent)."""
  import dataclasses
  import os

  from research.errors import InputError
  from research.evals import clip_lists, tasks

  listed = clip_lists.read(PIN.value) if PIN.value else None
  asked = set(tasks.names(TASKS.value)) if TASKS.value else set()
  prepared: list[tasks.Prepared] = []
  absent: dict[str, str] = {}
  for name in names:
    try:
      task = tasks.get(name)
      if task.name in {p.task.name for p in prepared}:  # two folders of one name
        above = os.path.basename(os.path.dirname(os.path.abspath(name.partition(':')[0])))
        task = dataclasses.replace(task, name=f'{above}_{task.name}')
      prepared.append(
        tasks.prepare(task, DATA_ROOT.value, clip_lists.of(listed, str(PIN.value), task.name))
      )
    except InputError as error:
      # A suite is scored on what is there; a task that was asked for by name has to be.
      if name in asked:
        raise
      absent[name] = str(error)
  if not prepared:
    for name, why in absent.items():
      print(f'- {name}: {why}')
    raise InputError('No task can be scored: what each of them lacks is said above.')
  return prepared, absent


def main(argv):
  del argv
  command.start_jax()
  import jax

  from research.errors import unknown
  from research.evals import clip_lists, harness, probe, protocols
  from research.evals import tasks as task_list
  from research.jobs import folders
  from research.report import published, run, tables

  # Before the weights are read, which takes a while.
  for name in PROTOCOL.value:
    if name not in (*protocols.PROTOCOLS, 'finetune'):
      raise unknown('protocol', name, (*protocols.PROTOCOLS, 'finetune'))
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
  asked = set(task_list.names(TASKS.value)) if TASKS.value else set()
  made, paths = systems(MODEL.value, RELEASE.value, BASELINES.value, RANDOM_SEEDS.value)
  rows = harness.evaluate(
    made,
    prepared,
    out=str(OUT.value),
    cache=CACHE.value,
    use=PROTOCOL.value,
    known={**protocols.PROTOCOLS, 'finetune': finetuning(paths, str(OUT.value))},
    options=options,
    absent=absent,
    optional=set(names) - asked,
    maps=MAPS.value,
  )
  if PIN.value and jax.process_index() == 0 and clip_lists.read(PIN.value) is None:
    clip_lists.write(PIN.value, prepared)
    print(f'pinned the clips of this run in {PIN.value}')
  if jax.process_index() == 0:
    print()
    others = published.rows([task.task.name for task in prepared if task.as_published])
    for table in (*tables.comparison(rows, others), tables.absent(absent)):
      print(table.markdown() if table else '', end='\n' if table else '')
    for note in tables.notes(rows):
      print(f'- {note}')
    print(f'report: {run.write_report(str(OUT.value))}', flush=True)


if __name__ == '__main__':
  command.run(main)
