r"""HuBERT's iterations with one command: cluster, train, cluster the model's frames, train again …

python -m launch.hubert_iterations --config=experiments/hubert/librispeech_iterations.py \
  --workdir=DIR --data_root=/data

Every stage is a command of its own (launch.label_kmeans, launch.train), is shown before it runs and
can be run by hand. Folders below --workdir are named by what made them: number, kind, and a hash of
the settings of this stage and of all before it that change its numbers. The same command again
leaves finished stages as they are and goes on in the unfinished one; with changed settings it
begins where they matter. Stages of other clips (another --data_root) are refused; the same clips
may lie anywhere.

The config has `seed`, and `iterations`, a list: `clusters`; `layer`, of the model of the iteration
before (the first one clusters MFCC); `percent`, the share of the clips to fit to, and
`max_epochs`, how often at most; and `train`, the config of the training that follows, whose data is
what is clustered. The last iteration may end with its units. On several hosts start it once on
each, with the flags of launch.train for that.
"""

import ctypes
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

CONFIG = command.config_flag()
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of all stages (made when missing).')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
TRAIN = flags.DEFINE_multi_string(
  'train', [], 'NAME=VALUE for the config of every training, as in --train=optim.lr=1e-3.'
)
command.required('config', 'workdir')
command.distributed_flags()

KEYS = ('clusters', 'layer', 'percent', 'max_epochs', 'train')
PR_SET_PDEATHSIG = 1  # linux/prctl.h
HOSTS = ('distributed', 'coordinator', 'num_processes', 'process_id', 'compilation_cache')


class Clips(NamedTuple):
  """What is clustered and trained on: --input, --data_root, --split and --label_splits."""

  source: str
  root: str | None
  split: str | None
  splits: tuple[str, ...]

  def fingerprints(self) -> dict[str, str]:
    """Hashes of the clips, as launch.label_kmeans writes them into its job.json."""
    from research.train import selection

    clips = open_input(self.source, root=self.root)
    part = lambda split: selection.part(clips, split) if split else clips  # noqa: E731
    found = {'clips': part('+'.join(self.splits)), 'clips of the fit': part(self.split)}
    return {name: each.fingerprint() for name, each in found.items()}


class Stage(NamedTuple):
  """One command: the folder that it fills, the module with its flags, and the clips."""

  folder: Path
  module: str
  args: list[str]
  clips: Clips

  @property
  def done(self) -> bool:
    """Both commands write their report when all else is there."""
    return (self.folder / 'report.html').is_file()

  @property
  def record(self) -> Path:
    """The file that says of which clips the folder is."""
    own = 'job.json' if self.module == 'launch.label_kmeans' else 'clips.json'
    return self.folder / own


def stages(
  config: Mapping[str, Any], workdir: Path, data_root: str | None, overrides: Sequence[str]
) -> list[Stage]:
  """The commands of a config, in order; nothing is run or written.

  Raises:
    InputError: a config that cannot work.
  """
  from research.errors import InputError, unknown

  for key in config:
    if key not in ('seed', 'iterations'):
      raise unknown('setting', f'config.{key}', ['config.seed', 'config.iterations'])
  iterations = config.get('iterations') or ()
  if not iterations or any(not isinstance(each, Mapping) for each in iterations):
    raise InputError('The config needs iterations, a list of dicts: clusters, layer, train, …')
  found: list[Stage] = []
  made, model, depth = hashlib.sha256(), None, 0
  data: dict[str, Any] = {}
  for i, each in enumerate(iterations, 1):
    _check(i, each, model, depth, last=i == len(iterations))
    setup = _training(each['train'], overrides) if 'train' in each else None
    if setup:
      held_out = ((setup.get('evals') or {}).get('valid') or {}).get('data') or {}
      data = {**setup['data'], 'held_out': held_out.get('split')}
    root = [r for r in (data_root or data.get('root'),) if r]
    split = data.get('split')
    splits = [s for s in (split, data.get('held_out')) if s]
    source = _clustered(data)

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
      # How many units there are is said once, by the iteration.
      settings = _numbers(setup, overrides)
      made.update(json.dumps(settings, sort_keys=True, default=str).encode())
      depth = _depth(setup)
      model = workdir / f'{i}-{setup["model"]["name"]}-{made.hexdigest()[:8]}'
      args = [f'--config={each["train"]}', f'--config.data.fields.units={units / "units"}']
      args += [f'--config.model.args.codes={each["clusters"]}']
      args += [f'--config.data.root={r}' for r in root] + [f'--config.{o}' for o in overrides]
      found.append(Stage(model, 'launch.train', [*args, f'--workdir={model}'], clips))
  return found


def _numbers(setup: Mapping[str, Any], overrides: Sequence[str]) -> list[Any]:
  """The settings of a training without those that a run may change and go on."""
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


def _clustered(data: Mapping[str, Any]) -> str:
  """--input for the clips of a data config: a name, or JSON where there is more to say."""
  from research.errors import InputError
  from research.train.config import DATA

  def only(spec: Any) -> Any:
    if isinstance(spec, Sequence) and not isinstance(spec, str):
      return [only(each) for each in spec]
    spec = {'name': spec} if isinstance(spec, str) else spec
    args = dict(spec.get('args') or {})
    own = args.get('where') or {}
    if both := sorted(set(own) & set(data['where'])):
      raise InputError(f'{", ".join(both)}: both data.where and the data source choose by it.')
    return {**spec, 'args': {**args, 'where': {**own, **data['where']}}}

  spec = data.get('source', DATA['source'])
  spec = only(spec) if data.get('where') else spec
  return spec if isinstance(spec, str) else json.dumps(spec)


def _check(i: int, each: Mapping[str, Any], model: Path | None, depth: int, last: bool) -> None:
  from research.errors import InputError, unknown

  for key in each:
    if key not in KEYS:
      raise unknown(f'setting of iteration {i}', key, KEYS)
  if 'clusters' not in each:
    raise InputError(f'Iteration {i} does not say how many clusters.')
  for key in ('clusters', 'max_epochs'):
    if key in each and (type(each[key]) is not int or each[key] < 1):
      raise InputError(f'Iteration {i} says {key}={each[key]!r}; give a whole number above 0.')
  if model is None and 'layer' in each:
    raise InputError('Iteration 1 has a layer, but it clusters MFCC: there is no model yet.')
  if model is not None and 'layer' not in each:
    raise InputError(f'Iteration {i} does not say which layer of the model before it clusters.')
  layer = each.get('layer')
  if depth and layer != 'last' and (type(layer) is not int or not -depth - 1 <= layer <= depth):
    raise InputError(
      f'Iteration {i} clusters layer {layer!r}; the model before it has 0 (the stem) to {depth}.'
    )
  if 'train' not in each and (model is None or not last):
    raise InputError(f'Iteration {i} does not say what to train: only the last one may end there.')


def _training(name: str, overrides: Sequence[str]) -> dict[str, Any]:
  """The config of a training, with settings of the command line where they name its data."""
  from research.errors import InputError, unknown
  from research.train.config import complete

  if not isinstance(name, str):
    raise InputError(
      f'train={name!r}: expected the path of a config, as in experiments/….py:debug.'
    )
  path, _, variant = name.partition(':')
  if not Path(path).is_file():
    raise InputError(f'There is no config file {path!r} to train.')
  spec = importlib.util.spec_from_file_location('training', path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    setup = (module.get_config(variant) if variant else module.get_config()).to_dict()
  except Exception as error:  # whatever the file of another does
    reason = str(error).strip() or type(error).__name__
    raise InputError(f'The config {name} to train cannot be read: {reason}') from error
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
      # Arguments of models and the like are checked with them.
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
  """Layers of the model of a training; 0 where it does not say."""
  from research.train import build
  from research.train.config import complete

  return int(getattr(build.model(complete(setup)), 'depth', 0))


def run(stage: Stage, flags_of_hosts: Sequence[str]) -> int:
  """Runs a command in a process of its own, which gets this one's signals; its exit status."""
  line = [sys.executable, '-m', stage.module, *stage.args, *flags_of_hosts]
  print(f'$ python {shlex.join(line[1:])}', flush=True)
  process = subprocess.Popen(line, preexec_fn=_die_together)

  def pass_on(number, frame):
    del frame
    process.send_signal(number)

  # Ctrl-C reaches both already; the command saves and leaves, and this waits for it.
  old = {
    signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
    signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
  }
  try:
    return process.wait()
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


def _die_together() -> None:
  """Where this is killed, its command is too: two of them in one folder would be in each other's
  way."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def demand_own(stage: Stage, fingerprints: Mapping[str, str]) -> None:
  """Checks that a finished stage is of these clips.

  Raises:
    InputError: it is of others, or does not say of which.
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
    f'{stage.folder} is finished, but of other clips than {stage.clips.source}{where} has now: '
    'give another --workdir, or delete that folder and those after it.'
  )


def _write_record(stage: Stage, fingerprints: Mapping[str, str]) -> None:
  """Says beside a training of which clips it is, before it starts."""
  from research.errors import InputError

  try:
    stage.folder.mkdir(parents=True, exist_ok=True)
    # Several hosts may write the same at once.
    with tempfile.NamedTemporaryFile('w', dir=stage.folder, delete=False) as file:
      json.dump(fingerprints, file)
    os.replace(file.name, stage.record)
  except OSError as error:
    raise InputError(f'Cannot write {stage.folder}: {error.strerror or error}.') from None


def main(argv):
  del argv
  import jax

  # The commands of the stages take the accelerators; this only looks at configs.
  jax.config.update('jax_platforms', 'cpu')
  workdir = Path(str(WORKDIR.value)).expanduser()
  todo = stages(CONFIG.value.to_dict(), workdir, DATA_ROOT.value, TRAIN.value)
  given = [flags.FLAGS[name] for name in HOSTS if flags.FLAGS[name].present]
  hosts = [f'--{flag.name}={flag.value}' for flag in given]
  known: dict[Clips, dict[str, str]] = {}
  for number, stage in enumerate(todo, 1):
    if stage.clips not in known:
      known[stage.clips] = stage.clips.fingerprints()
    if stage.done:
      demand_own(stage, known[stage.clips])
      print(f'[{number}/{len(todo)}] {stage.folder} is there', flush=True)
      continue
    print(f'[{number}/{len(todo)}] {stage.folder}', flush=True)
    if stage.module == 'launch.train':
      _write_record(stage, known[stage.clips])
    status = run(stage, hosts)
    if status or not stage.done:
      print(f'Stopped in {stage.folder}. The same command goes on from there.', flush=True)
      sys.exit(status if status > 0 else 1)
  _summarise(todo)


def _summarise(todo: Sequence[Stage]) -> None:
  """What every stage came to, in one table."""
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
