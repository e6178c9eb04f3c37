r"""Runs all iterations of HuBERT: cluster MFCC, train, cluster a layer of the model, train again …

python -m launch.hubert_iterations --config=experiments/hubert/librispeech_iterations.py \
  --workdir=DIR --data_root=/data

Every stage is a separate command (launch.label_kmeans, launch.train) that is printed before it runs
and can be run by hand. The name of a stage's folder below --workdir consists of its number, its
kind, and a hash of all settings of this and earlier stages that affect its results. Running the
same command again keeps finished stages and resumes the unfinished one. With changed settings it
starts at the first stage they affect. A finished stage of other clips (another --data_root) is
refused; the same clips may be in another place.

The config has `seed` and `iterations`, a list of dicts: `clusters`; `layer`, a layer of the
previous iteration's model (the first iteration clusters MFCC); `percent`, the fraction of the clips
to fit to; `max_epochs`, the max number of passes over them; and `train`, the config of the training
that follows. The clips of that training are the ones that are clustered. The last iteration may
have no training. For a multi-host run start it once on each host, with the flags of launch.train.
"""

import hashlib
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from launch import command
from launch.inputs import open_input
from research.jobs import children, folders

CONFIG = command.config_flag()
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of all stages (created if missing).')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets (default $OIDO_DATA).'
)
TRAIN = flags.DEFINE_multi_string(
  'train', [], 'NAME=VALUE override for the config of every training: --train=optim.lr=1e-3.'
)
command.required('config', 'workdir')
command.distributed_flags()

KEYS = ('clusters', 'layer', 'percent', 'max_epochs', 'train')
HOSTS = ('distributed', 'coordinator', 'num_processes', 'process_id', 'compilation_cache')


class Clips(NamedTuple):
  """The clips of a stage: --input, --data_root, --split and --label_splits."""

  source: str
  root: str | None
  split: str | None
  splits: tuple[str, ...]

  def fingerprints(self) -> dict[str, str]:
    """Hashes of the clips, as in the job.json of launch.label_kmeans."""
    from research.train import selection

    clips = open_input(self.source, root=self.root)
    part = lambda split: selection.part(clips, split) if split else clips  # noqa: E731
    found = {'clips': part('+'.join(self.splits)), 'clips of the fit': part(self.split)}
    return {name: each.fingerprint() for name, each in found.items()}


class Stage(NamedTuple):
  """One command: its output folder, module, flags and clips."""

  folder: Path
  module: str
  args: list[str]
  clips: Clips

  @property
  def done(self) -> bool:
    """Whether the stage is finished: both commands write their report last."""
    return (self.folder / 'report.html').is_file()

  @property
  def record(self) -> Path:
    """The file with the hashes of the clips."""
    own = 'job.json' if self.module == 'launch.label_kmeans' else 'clips.json'
    return self.folder / own


def stages(
  config: Mapping[str, Any], workdir: Path, data_root: str | None, overrides: Sequence[str]
) -> list[Stage]:
  """The stages of a config, in order; runs and writes nothing.

  Raises:
    InputError: an invalid config.
  """
  from research.errors import InputError, unknown

  for key in config:
    if key not in ('seed', 'iterations'):
      raise unknown('setting', f'config.{key}', ['config.seed', 'config.iterations'])
  iterations = config.get('iterations') or ()
  if not iterations or any(not isinstance(each, Mapping) for each in iterations):
    raise InputError('config.iterations must be a list of dicts with clusters, layer, train, …')
  found: list[Stage] = []
  made, model, depth = hashlib.sha256(), None, 0
  data: dict[str, Any] = {}
  for i, each in enumerate(iterations, 1):
    _check_iteration(i, each, model, depth, last=i == len(iterations))
    setup = _training_config(each['train'], overrides) if 'train' in each else None
    if setup:
      held_out = ((setup.get('evals') or {}).get('valid') or {}).get('data') or {}
      data = {**setup['data'], 'held_out': held_out.get('split')}
    root = [r for r in (data_root or data.get('root'),) if r]
    split = data.get('split')
    splits = [s for s in (split, data.get('held_out')) if s]
    source = _input_flag(data)

    args = [] if model is None else [f'--layer={each["layer"]}']
    args += [f'--clusters={each["clusters"]}', f'--percent={each.get("percent", 1.0)}']
    args += [f'--max_epochs={each["max_epochs"]}'] if 'max_epochs' in each else []
    args += [f'--seed={config.get("seed", 0)}', f'--input={source}']
    args += [f'--split={split}'] * bool(split)
    args += [f'--label_splits={",".join(dict.fromkeys(splits))}'] * bool(splits)
    made.update(json.dumps(args).encode())
    what = 'mfcc' if model is None else f'layer{each["layer"]}'
    units = workdir / f'{i}-units-{what}-k{each["clusters"]}-{made.hexdigest()[:8]}'
    args = [f'--features={"mfcc" if model is None else model}', *args]
    args += [f'--data_root={r}' for r in root] + [f'--out={units}']
    clips = Clips(source, next(iter(root), None), split, tuple(dict.fromkeys(splits)))
    found.append(Stage(units, 'launch.label_kmeans', args, clips))

    if setup:
      # The number of units is set by the iteration, not by the config of the training.
      settings = _result_settings(setup, overrides)
      made.update(json.dumps(settings, sort_keys=True, default=str).encode())
      depth = _depth(setup)
      model = workdir / f'{i}-{setup["model"]["name"]}-{made.hexdigest()[:8]}'
      args = [f'--config={each["train"]}', f'--config.data.fields.units={units / "units"}']
      args += [f'--config.model.args.num_clusters={each["clusters"]}']
      args += [f'--config.data.root={r}' for r in root] + [f'--config.{o}' for o in overrides]
      found.append(Stage(model, 'launch.train', [*args, f'--workdir={model}'], clips))
  return found


def _result_settings(setup: Mapping[str, Any], overrides: Sequence[str]) -> list[Any]:
  """The settings of a training, without those that may change when it is resumed."""
  from research.train.config import FREE, FREE_DATA

  free = {*FREE, *(f'data.{name}' for name in FREE_DATA)}
  data = {k: v for k, v in setup['data'].items() if f'data.{k}' not in free}
  rest = {k: v for k, v in setup.items() if k not in free}
  given = []
  for override in overrides:
    key = override.partition('=')[0].split('.')
    if free.isdisjoint((key[0], '.'.join(key[:2]))):
      given.append(override)
  return [{**rest, 'data': data}, given]


def _input_flag(data: Mapping[str, Any]) -> str:
  """--input for the clips of a data config: a name, or JSON if it has more settings."""
  from research.errors import InputError
  from research.train.config import DATA

  def only(spec: Any) -> Any:
    if isinstance(spec, Sequence) and not isinstance(spec, str):
      return [only(each) for each in spec]
    spec = {'name': spec} if isinstance(spec, str) else spec
    args = dict(spec.get('args') or {})
    own = args.get('where') or {}
    if both := sorted(set(own) & set(data['where'])):
      raise InputError(
        f'{", ".join(both)}: set by both data.where and the data source; remove one of them.'
      )
    return {**spec, 'args': {**args, 'where': {**own, **data['where']}}}

  spec = data.get('source', DATA['source'])
  spec = only(spec) if data.get('where') else spec
  return spec if isinstance(spec, str) else json.dumps(spec)


def _check_iteration(
  i: int, each: Mapping[str, Any], model: Path | None, depth: int, last: bool
) -> None:
  """Checks the settings of iteration `i`.

  Args:
    i: number of the iteration, from 1.
    each: its settings.
    model: folder of the previous iteration's model; None in the first.
    depth: number of layers of that model; 0 if unknown.
    last: whether it is the last iteration.

  Raises:
    InputError: an unknown, missing or invalid setting.
  """
  from research.errors import InputError, unknown

  for key in each:
    if key not in KEYS:
      raise unknown(f'setting of iteration {i}', key, KEYS)
  if 'clusters' not in each:
    raise InputError(f'Iteration {i} lacks clusters: give the number of clusters.')
  for key in ('clusters', 'max_epochs'):
    if key in each and (type(each[key]) is not int or each[key] < 1):
      raise InputError(f'Iteration {i} has {key}={each[key]!r}; expected a whole number above 0.')
  if model is None and 'layer' in each:
    raise InputError('Iteration 1 clusters MFCC, so it cannot have a layer: remove it.')
  if model is not None and 'layer' not in each:
    raise InputError(f'Iteration {i} lacks layer: give the layer of the previous model to cluster.')
  layer = each.get('layer')
  if depth and layer != 'last' and (type(layer) is not int or not -depth - 1 <= layer <= depth):
    raise InputError(
      f'Iteration {i} clusters layer {layer!r}, but the previous model has layers 0 (the stem) to '
      f'{depth}.'
    )
  if 'train' not in each and (model is None or not last):
    raise InputError(
      f'Iteration {i} lacks train: give the config of its training. Only the last iteration may '
      'omit it.'
    )


def _training_config(name: str, overrides: Sequence[str]) -> dict[str, Any]:
  """The config of a training, with the command-line overrides of its data."""
  from research.errors import InputError, unknown
  from research.train.config import complete

  if not isinstance(name, str):
    raise InputError(
      f'train={name!r}: expected the path of a config, as in experiments/….py:debug.'
    )
  path, _, variant = name.partition(':')
  if not Path(path).is_file():
    raise InputError(f'train={name!r}: config file {path!r} does not exist.')
  spec = importlib.util.spec_from_file_location('training', path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    setup = (module.get_config(variant) if variant else module.get_config()).to_dict()
  except Exception as error:  # a config file is user code and may raise anything
    reason = str(error).strip() or type(error).__name__
    raise InputError(f'train={name!r}: the config cannot be read: {reason}') from error
  known = complete(setup)
  for override in overrides:
    key, equals, value = override.partition('=')
    if not equals:
      raise InputError(f'--train={override}: expected NAME=VALUE.')
    if key in ('data.source', 'data.split', 'data.root'):
      setup['data'][key.removeprefix('data.')] = value
    if key.startswith('data.where.'):
      chosen = setup['data'].get('where') or {}
      setup['data']['where'] = {**chosen, key.removeprefix('data.where.'): value}
    where: Any = known
    for step, part in enumerate(key.split('.')):
      # `args` are checked where the model, objective, … is built.
      if not isinstance(where, Mapping) or (step and key.split('.')[step - 1] == 'args'):
        break
      if part not in where:
        raise unknown('setting', f'--train={key}', _names(known))
      where = where[part]
  return setup


def _names(tree: Mapping[str, Any], prefix: str = '') -> list[str]:
  found = []
  for key, value in tree.items():
    found.append(f'--train={prefix}{key}')
    if isinstance(value, Mapping):
      found += _names(value, f'{prefix}{key}.')
  return found


def _depth(setup: Mapping[str, Any]) -> int:
  """Number of layers of the model of a training; 0 if unknown."""
  from research.train import build
  from research.train.config import complete

  return int(getattr(build.model(complete(setup)), 'depth', 0))


def run(stage: Stage, flags_of_hosts: Sequence[str]) -> int:
  """Runs a stage in a subprocess, passes SIGTERM on to it, and returns its exit status."""
  line = [sys.executable, '-m', stage.module, *stage.args, *flags_of_hosts]
  print(f'$ python {shlex.join(line[1:])}', flush=True)
  process = subprocess.Popen(line, env=children.environment())

  def forward(number, frame):
    del frame
    process.send_signal(number)

  # The terminal sends Ctrl-C to both processes: the stage saves and exits, and this one waits.
  old = {
    signal.SIGTERM: signal.signal(signal.SIGTERM, forward),
    signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
  }
  try:
    return process.wait()
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


def check_clips(stage: Stage, fingerprints: Mapping[str, str]) -> None:
  """Checks that a finished stage is of these clips.

  Raises:
    InputError: the stage is of other clips, or has no record of them.
  """
  from research.errors import InputError

  try:
    found = json.loads(stage.record.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    found = None
  if isinstance(found, dict) and all(found.get(k) == v for k, v in fingerprints.items()):
    return
  where = f' below --data_root={stage.clips.root}' if stage.clips.root else ''
  raise InputError(
    f'{stage.folder} is finished, but was made from other clips than {stage.clips.source}{where} '
    'has now. Give another --workdir, or delete that folder and the later ones.'
  )


def _write_record(stage: Stage, fingerprints: Mapping[str, str]) -> None:
  """Writes the hashes of the clips into the folder of a training, before it starts."""
  from research.errors import InputError

  try:
    stage.folder.mkdir(parents=True, exist_ok=True)
    # Several hosts may write the same content at once.
    with tempfile.NamedTemporaryFile('w', dir=stage.folder, delete=False) as file:
      json.dump(fingerprints, file)
    os.replace(file.name, stage.record)
  except OSError as error:
    raise InputError(f'Cannot write {stage.folder}: {error.strerror or error}.') from None


def main(argv):
  del argv
  import jax

  # Leave the accelerators to the stages; this process only reads configs.
  jax.config.update('jax_platforms', 'cpu')
  workdir = folders.local(str(WORKDIR.value), 'workdir').expanduser()
  todo = stages(CONFIG.value.to_dict(), workdir, DATA_ROOT.value, TRAIN.value)
  given = [flags.FLAGS[name] for name in HOSTS if flags.FLAGS[name].present]
  hosts = [f'--{flag.name}={flag.value}' for flag in given]
  known: dict[Clips, dict[str, str]] = {}
  for number, stage in enumerate(todo, 1):
    if stage.clips not in known:
      known[stage.clips] = stage.clips.fingerprints()
    if stage.done:
      check_clips(stage, known[stage.clips])
      print(f'[{number}/{len(todo)}] {stage.folder} is finished', flush=True)
      continue
    print(f'[{number}/{len(todo)}] {stage.folder}', flush=True)
    if stage.module == 'launch.train':
      _write_record(stage, known[stage.clips])
    status = run(stage, hosts)
    if status or not stage.done:
      print(f'Stopped in {stage.folder}. Run the same command to resume.', flush=True)
      sys.exit(status if status > 0 else 1)
  _summarise(todo)


def _summarise(todo: Sequence[Stage]) -> None:
  """Prints a table of the results of every stage."""
  from research.units import quality

  print(f'{"stage":<40} result')
  for stage in todo:
    if stage.module == 'launch.label_kmeans':
      found = json.loads((stage.folder / 'quality.json').read_text())
      parts = [
        f'{name} {quality.sentence(row)}'
        for name, row in found['references'].items()
        if row['pnmi'] is not None
      ]
      parts.append(f'{found["in_use"]} of {found["clusters"]} clusters in use')
    else:
      rows = [json.loads(line) for line in (stage.folder / 'metrics.jsonl').open()]
      last = {key: value for row in rows for key, value in row.items()}
      names = ('accuracy', 'valid/accuracy')
      parts = [f'{name} {last[name]:.3f}' for name in names if name in last]
    print(f'{stage.folder.name:<40} {"; ".join(parts)}')


if __name__ == '__main__':
  command.run(main)
