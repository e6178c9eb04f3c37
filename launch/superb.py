"""The suites superb, superb_sg and superb_small of `launch.evaluate`: heads on frozen systems."""

from typing import Any

from absl import flags

STEPS = flags.DEFINE_integer(
  'superb_steps', None, 'SUPERB: optimiser steps of a head; the published number if not given.',
  lower_bound=1,
)  # fmt: skip
LRS = flags.DEFINE_list(
  'superb_lr', [], 'SUPERB: learning rates A,B,…; the best on validation is reported. The '
  'published one if not given.',
)  # fmt: skip
SEEDS = flags.DEFINE_integer('superb_seeds', 1, 'SUPERB: runs of a head.', lower_bound=1)
FRAMES = flags.DEFINE_enum(
  'frames', 'cache', ['cache', 'stream'],
  'SUPERB: layers of all clips on disk, computed once, or computed in every step.',
)  # fmt: skip
DTYPE = flags.DEFINE_enum(
  'frames_dtype', 'float16', ['float16', 'float32'], 'SUPERB: dtype of the layers on disk.'
)
NORMALIZE = flags.DEFINE_bool(
  'superb_normalize', False, 'SUPERB: layer norm of every layer before the mix.'
)
BATCH = flags.DEFINE_integer(
  'superb_batch_size', None, 'SUPERB: clips of a micro-batch; the published number if not given.',
  lower_bound=1,
)  # fmt: skip
HEAD = flags.DEFINE_string(
  'superb_head', '{}', 'SUPERB: arguments of the heads as JSON, by recipe: {"ASR": {"width": 256}}.'
)
LM = flags.DEFINE_string(
  'superb_lm', None, 'SUPERB: n-gram of words for ASR (an ARPA file or a KenLM binary), which is '
  'scored with it too; the published one is the 4-gram of LibriSpeech.',
)  # fmt: skip
LEXICON = flags.DEFINE_string(
  'superb_lexicon', None, 'SUPERB: words of --superb_lm and how they are spelt.'
)

DEBUG = ':debug'  # behind a suite: few steps, narrow heads


def is_superb(suite: str | None, tasks: str | None) -> bool:
  """Whether a suite, or all of the tasks, are those of SUPERB."""
  from research.evals import superb

  if suite is not None:
    return suite.removesuffix(DEBUG) in superb.SUITES
  return tasks is not None and all(name in superb.TASKS for name in tasks.split(','))


def run(
  paths: list[str], release: str | None, suite: str | None, tasks: str | None, out: str, **how: Any
) -> None:
  """Scores models, writes the page and prints the tables."""
  import json

  from launch import command
  from research import weights
  from research.errors import InputError
  from research.evals import superb
  from research.inference import embedder
  from research.report import superb as report
  from research.train import superb as heads
  from research.train import superb_suite
  from research.train.superb_settings import Settings

  try:
    sizes = json.loads(HEAD.value)
    rates = tuple(float(rate) for rate in LRS.value)
  except ValueError as error:
    raise InputError(f'--superb_head and --superb_lr: {error}.') from None
  debug, suite = (suite or '').endswith(DEBUG), (suite or '').removesuffix(DEBUG)
  names = tasks.split(',') if tasks else []
  names += [n for n in superb.SUITES.get(suite, ()) if n not in names]
  upstreams = []
  for path in dict.fromkeys(paths):
    loaded = weights.load(path, release=release)
    name = f'{loaded.name}, {loaded.origin}'
    made = embedder.from_model(loaded.model, loaded.variables, name, loaded.fingerprint)
    upstreams.append(heads.Upstream(made, loaded, path))
  settings = Settings(
    steps=STEPS.value, lrs=rates or None, seeds=SEEDS.value, frames=FRAMES.value,
    dtype=DTYPE.value, normalize=NORMALIZE.value, batch_size=BATCH.value, head_args=sizes,
    lm=LM.value, lexicon=LEXICON.value, debug=debug,
  )  # fmt: skip
  rows = superb_suite.run_suite(
    upstreams, names, out, optional=set(superb.SUITES.get(suite, ())), settings=settings,
    log=command.say, **how,
  )  # fmt: skip
  print()
  for table in report.tables(rows):
    command.say(table.markdown())
  print(f'page: {out}/superb.html', flush=True)
