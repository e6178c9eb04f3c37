"""Reading files of weights: safetensors, PyTorch files without their code, our own checkpoints."""

import argparse
import importlib.util
import json
import logging
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from research.errors import InputError
from research.jobs import orbax_s3, paths
from research.weights import ctranslate2, shards, sums, torch_zip

TORCH_SUFFIXES = ('.pth', '.pt', '.th', '.bin', '.ckpt', '.pth.tar')
# Where training scripts put the state dict inside what they save.
NESTED = ('best_state', 'model', 'state_dict', 'model_state_dict')
# Where they put what they were told: fairseq's configuration, and that of its older versions.
CONFIGS = ('cfg', 'args')
# The configuration in a checkpoint that audiocraft has exported, as YAML.
AUDIOCRAFT = 'xp.cfg'
# What a file of weights may hold beside its arrays, by the names under which it is read.
BESIDE = ('cfg', 'task_state', 'dims', 'ctranslate2', AUDIOCRAFT)
# Where fairseq's tasks keep the symbols of their labels, and the class that they are saved as.
LABELS = ('dictionaries', 'target_dictionary')
DICTIONARY = 'fairseq.data.dictionary.Dictionary'
# The settings beside the arrays of Jukebox: a dict of plain values.
HYPERPARAMS = 'jukebox.hparams.Hyperparams'
# What a folder of transformers holds; the first that is there counts.
IN_FOLDERS = ('model.safetensors', 'pytorch_model.bin')
INDEX = '.index.json'
# What shows that a folder holds weights.
CTRANSLATE2 = 'model.bin'
WEIGHTS = (*(name + end for name in IN_FOLDERS for end in ('', INDEX)), CTRANSLATE2)


class NoTeacherError(InputError):
  """A teacher was asked for that was never trained."""


class _Dictionary:
  """Stands for fairseq's Dictionary in a file: it keeps what was saved of one and does nothing.

  A slot, so that no file can give an instance methods of its own.
  """

  __slots__ = ('said',)

  def __setstate__(self, said: Any) -> None:
    self.said = said

  @classmethod
  def of(cls, said: Any) -> '_Dictionary':
    made = cls()
    made.said = said
    return made


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """(arrays by their keys, metadata) of a safetensors or PyTorch file.

  Raises:
    InputError: no such file, another format, a damaged file, or a PyTorch file without torch
      installed.
  """
  arrays, about = _read(path)
  return arrays, {k: v for k, v in about.items() if isinstance(v, str)}


def read_release(
  path: Path, beside: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """(arrays by their keys, {name: what lies beside them}) of original weights.

  Beside them lie 'cfg', the configuration in a checkpoint of fairseq, as plain values, and
  'task_state', the symbols of its labels: {'dictionaries': lists of symbols, 'target_dictionary':
  a list of symbols}, what there is of both; or 'dims', the sizes in a checkpoint of
  openai/whisper; or 'ctranslate2', the numbers in a model.bin; or 'xp.cfg', the
  configuration of audiocraft. In a folder as transformers saves
  it, which may be given itself or by its file of weights, these are the .json files that are named
  in `beside` and exist.

  Raises:
    InputError: as `read_arrays`; a file of ours; a folder without weights, or without one of the
      files that its index names.
  """
  folder = path if path.is_dir() else path.parent
  if path.is_dir() and not is_workdir(path):
    arrays, about = _read_folder(path)
  else:
    arrays, about = _read(path)
  if 'oido' in about:
    raise InputError(f'{str(path)!r} holds weights of ours: load it without a release.')
  files = {k: _parsed(path, k, about[k]) for k in BESIDE if k in about}
  return arrays, files | {n: _read_json(folder / n) for n in beside if (folder / n).is_file()}


def _read_folder(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  for name in IN_FOLDERS:
    if (folder / name).is_file():
      return _read(folder / name)
    index = folder / f'{name}{INDEX}'
    if index.is_file():
      return _read_shards(index), {}
  if (folder / CTRANSLATE2).is_file():
    return _read(folder / CTRANSLATE2)
  expected = ', '.join(f'{name}, {name}{INDEX}' for name in IN_FOLDERS)
  raise InputError(f'{str(folder)!r} holds no original weights: expected one of {expected}.')


def _read_shards(index: Path) -> dict[str, np.ndarray]:
  """The arrays of every file that an index names; each must be where the index says."""
  content = _read_json(index)
  places = content.get('weight_map') if isinstance(content, Mapping) else None
  if not isinstance(places, Mapping) or not all(isinstance(v, str) for v in places.values()):
    raise InputError(f'{str(index)!r} has no weight_map that says which file holds which array.')
  arrays: dict[str, np.ndarray] = {}
  for name in sorted(set(places.values())):
    if Path(name).name != name:
      raise InputError(f'{str(index)!r} names the file {name!r}; expected one in the same folder.')
    part = index.parent / name
    on_disk = part.suffix == '.safetensors' and part.is_file()
    found = shards.mapped(part) if on_disk else _read(part)[0]
    here = {k for k, v in places.items() if v == name}
    if here != set(found):
      other = ', '.join(sorted(here ^ set(found))[:3])
      raise InputError(f'{name} does not hold what {index.name} says: {other} …')
    arrays |= found
  return arrays


def _parsed(path: Path, name: str, value: Any) -> Any:
  """What PyTorch files hold as it is, and safetensors files in their header as JSON."""
  try:
    return json.loads(value) if isinstance(value, str) else value
  except ValueError as error:
    raise InputError(
      f'The header of {str(path)!r} has a {name} that is no JSON ({error}): save the file without '
      'it, or as JSON.'
    ) from error


def _read_json(path: Path) -> Any:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise InputError(f'{str(path)!r} cannot be read as JSON ({error}).') from error


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Arrays, and what the file says beside them: metadata (text), 'cfg' and 'task_state' (plain
  values)."""
  if is_workdir(path):
    raise InputError(
      f'{str(path)!r} is a run of ours, not a file of original weights; convert it to the original '
      'layout with --reverse.'
    )
  if not path.is_file():
    raise InputError(f'There is no weights file at {str(path)!r}.')
  if path.suffix == '.safetensors':
    return _read_safetensors(path)
  if path.name.endswith(TORCH_SUFFIXES):
    return ctranslate2.read(path) if ctranslate2.is_model(path) else _read_torch(path)
  if path.suffix == '.npz':
    return _read_npz(path), {}
  raise InputError(
    f'{str(path)!r} is not a kind of weights file that can be read: expected .safetensors, .npz, '
    f'or {", ".join(TORCH_SUFFIXES)} of PyTorch.'
  )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
  """Arrays of numbers by name, as np.savez writes them: variables of TensorFlow."""
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise InputError(
      f'{str(path)!r} is damaged, or holds more than arrays of numbers ({error}).'
    ) from error


def is_ours(file: Path) -> bool:
  """Whether it is a file of weights that `save` has written."""
  if file.suffix != '.safetensors' or not file.is_file():
    return False
  try:
    with safe_open(file, framework='np') as opened:
      return 'oido' in (opened.metadata() or {})
  except (SafetensorError, OSError, ValueError) as error:
    raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> InputError:
  return InputError(f'{str(file)!r} is damaged or not a safetensors file ({error}).')


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  try:
    with safe_open(path, framework='np') as file:
      return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
  except (SafetensorError, OSError, ValueError) as error:
    raise _damaged(path, error) from error


def read_torch(path: Path) -> Any:
  """What a PyTorch file holds, tensors as arrays: of zip files without torch.

  Raises:
    InputError: no such file, or one that needs code to be loaded.
  """
  if not path.is_file():
    raise InputError(f'There is no weights file at {str(path)!r}.')
  if torch_zip.is_zip(path):
    known = {'argparse.Namespace': torch_zip.namespace, DICTIONARY: _Dictionary.of}
    try:
      return torch_zip.read(path, known)
    except torch_zip.Refused as error:
      raise _refused(path, f'of {error} in it') from error
    except torch_zip.Damaged as error:
      raise _refused(path, str(error)) from error
  if importlib.util.find_spec('torch') is None:
    raise InputError(
      f'{str(path)!r} is a PyTorch file of before version 1.6 and torch is not installed: pip '
      "install -e '.[parity]', or save the file anew, or as safetensors, where torch is."
    )
  import torch

  try:
    # Training scripts save their argparse.Namespace along: plain attributes, no code. fairseq's
    # HuBERT saves its dictionaries: data is read in the place of objects of that class.
    with torch.serialization.safe_globals(
      [argparse.Namespace, (_Dictionary, DICTIONARY), (dict, HYPERPARAMS)]
    ):
      whole = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:
    # torch's own text advises to load the file without the safety.
    needed = re.search(r'GLOBAL ([\w.]+)', str(error))
    raise _refused(path, f'of {needed[1]} in it' if needed else type(error).__name__) from error

  def numpy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
      return (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
    if isinstance(value, Mapping):
      return {k: numpy(v) for k, v in value.items()}
    return value

  return numpy(whole)


def _refused(path: Path, reason: str) -> InputError:
  return InputError(
    f'{str(path)!r} cannot be read as plain PyTorch weights ({reason}): it is damaged, or it needs '
    'code to be loaded, and such files are refused. Where it was written, save its state dict '
    'anew, as safetensors, or with torch.save as {"model": state dict, "cfg": configuration as '
    'plain dicts (OmegaConf.to_container)}.'
  )


def _read_torch(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  whole = found = read_torch(path)
  for name in NESTED:
    if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
      found = found[name]
  tensors = isinstance(found, Mapping) and all(isinstance(v, np.ndarray) for v in found.values())
  if not tensors or not found:
    raise InputError(
      f'{str(path)!r} holds no state dict: expected tensors by name, at the top or under '
      f'{", ".join(NESTED)}.'
    )
  narrow = ml_dtypes.bfloat16
  arrays = {
    str(k): np.ascontiguousarray(v.astype(np.float32) if v.dtype == narrow else v).reshape(v.shape)
    for k, v in found.items()
  }
  if found is whole:
    return arrays, {}
  configs = [whole[k] for k in CONFIGS if whole.get(k) is not None]
  labels = _labels(path, whole.get('task_state'))
  if isinstance(whole.get(AUDIOCRAFT), str):
    return arrays, {AUDIOCRAFT: _read_yaml(path, whole[AUDIOCRAFT])}
  about = {'cfg': _plain(configs[0])} if configs else {}
  if isinstance(whole.get('dims'), Mapping):
    about['dims'] = _plain(whole['dims'])  # openai/whisper's sizes
  return arrays, about | ({'task_state': labels} if labels else {})


def _read_yaml(path: Path, text: str) -> Any:
  """Plain values of YAML."""
  import yaml

  try:
    return yaml.safe_load(text)
  except (yaml.YAMLError, RecursionError, ValueError) as error:
    raise InputError(f'{str(path)!r} has an {AUDIOCRAFT} that is no YAML ({error}).') from None


def _labels(path: Path, state: Any) -> dict[str, Any]:
  """The dictionaries in the state of a task of fairseq, each as the list of its symbols."""

  def symbols(one: Any) -> list[str]:
    if isinstance(one, _Dictionary):
      said = getattr(one, 'said', None)
      one = said.get('symbols') if isinstance(said, Mapping) else None
    if not isinstance(one, list) or not all(isinstance(s, str) for s in one):
      raise InputError(
        f'{str(path)!r} has a dictionary in its task_state that is no list of symbols: it is '
        'damaged, or of another kind. Save it without task_state.'
      )
    return one

  if not isinstance(state, Mapping):
    return {}
  found = {k: state[k] for k in LABELS if state.get(k) is not None}
  # A model that is fine-tuned may keep the place of its first labels, empty.
  several = found.pop('dictionaries', None)
  several = [d for d in several if d is not None] if isinstance(several, list) else several
  labels: dict[str, Any] = {k: symbols(d) for k, d in found.items()}
  if several:
    each = several if isinstance(several, list) else [several]
    labels['dictionaries'] = [symbols(d) for d in each]
  return labels


def _plain(value: Any) -> Any:
  """Namespaces as dicts, at any depth."""
  if isinstance(value, argparse.Namespace):
    value = vars(value)
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  return value


# -- Our own runs ------------------------------------------------------------------------------


def is_workdir(path: paths.AnyPath) -> bool:
  """Whether a folder is a run: config.json beside checkpoints/."""
  return (path / 'config.json').is_file() and (path / 'checkpoints').is_dir()


def is_checkpoint(path: paths.AnyPath) -> bool:
  """Whether a folder is one checkpoint of a run: <workdir>/checkpoints/<step>."""
  if not (path.name.isdigit() and path.is_dir()):
    return False
  return is_workdir((path if paths.is_remote(path) else path.absolute()).parent.parent)


def read_config(workdir: paths.AnyPath) -> dict[str, Any]:
  """{'name', 'args'} of the model of a run."""
  try:
    config = json.loads((workdir / 'config.json').read_text())
    return {'name': config['model']['name'], 'args': dict(config['model'].get('args') or {})}
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'{str(workdir / "config.json")!r} does not say which model was trained ({error!r}).'
    ) from error


def read_tokenizer_place(workdir: paths.AnyPath) -> str | None:
  """Where the tokenizer is that a run was trained with; None if its config names none."""
  fields = json.loads((workdir / 'config.json').read_text()).get('data', {}).get('fields') or {}
  args = [field.get('args') or {} for field in fields.values() if isinstance(field, dict)]
  return next((str(a['tokenizer']) for a in args if a.get('tokenizer')), None)


def read_run(workdir: paths.AnyPath, teacher: bool) -> tuple[dict[str, Any], str]:
  """(variables, which checkpoint) of a run: the best one where its config names what counts
  (`checkpoint.best`) and evaluations have found it, the newest one otherwise, or the next of these
  that can be read; warns about the others."""
  folders = [p for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit()]
  if not folders:
    raise InputError(f'The run {str(workdir)!r} has saved no checkpoint yet.')
  tries = [(p, f'step {p.name}') for p in sorted(folders, key=lambda p: -int(p.name))]
  best = _best(workdir, [p for p, _ in tries])
  broken = []
  if best:
    tries = [best, *((p, which) for p, which in tries if p != best[0])]
  for folder, which in tries:
    try:
      return read_checkpoint(folder, teacher), which
    except (NoTeacherError, paths.StoreError):
      raise
    except InputError as error:
      broken.append(str(error))
      warnings.warn(f'{error} Another one of the run is used.', stacklevel=3)
  raise InputError(f'No checkpoint of {str(workdir)!r} can be read: {broken[0]}')


def _best(
  workdir: paths.AnyPath, folders: Sequence[paths.AnyPath]
) -> tuple[paths.AnyPath, str] | None:
  """The checkpoint (of equal ones the first of `folders`) with the best score, and what it is."""
  try:
    wanted = json.loads((workdir / 'config.json').read_text()).get('checkpoint') or {}
  except ValueError:
    return None  # the reader of the model's settings reports it
  name = wanted.get('best')
  scores = []
  for folder in folders if name else ():
    try:
      score = json.loads((folder / 'metrics' / 'metrics').read_text()).get(name)
    except (OSError, ValueError):
      continue  # saved where nothing was evaluated, or by an older version
    if score is not None and math.isfinite(score):
      worse = score if wanted.get('best_mode', 'min') == 'min' else -score
      scores.append((worse, score, folder))
  if not scores:
    return None
  _, score, folder = min(scores, key=lambda each: each[0])
  return folder, f'step {folder.name} (best {name}, {score:.4g})'


def read_checkpoint(folder: paths.AnyPath, teacher: bool) -> dict[str, Any]:
  """Variables (params and other collections) of one checkpoint, as NumPy arrays.

  The optimiser's state is not read.

  Raises:
    InputError: the checkpoint is damaged, or has no teacher though it was asked for.
  """
  import orbax.checkpoint as ocp

  path = folder / 'state'
  if not paths.is_remote(folder):
    path = path.absolute()
  elif str(folder).startswith(orbax_s3.PREFIX):
    orbax_s3.teach()

  # Our state is one item among others: the file that orbax misses here lies one folder up.
  def quiet(record: logging.LogRecord) -> bool:
    return '_CHECKPOINT_METADATA' not in record.getMessage()

  logging.getLogger('absl').addFilter(quiet)
  try:
    with ocp.PyTreeCheckpointer() as checkpointer:
      tree = checkpointer.metadata(path).item_metadata.tree
      wanted = _wanted(tree, teacher, folder)
      args = ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=_numpy_args(wanted, ocp.RestoreArgs(restore_type=np.ndarray)),
        partial_restore=True,
      )
      found = checkpointer.restore(path, args=args)
    sums.check(_sums(folder), found, where=f'The checkpoint {str(folder)!r}')
  except InputError:
    raise
  except Exception as error:
    if paths.is_remote(folder):
      paths.check_store(folder, error)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    raise InputError(f'The checkpoint {str(folder)!r} cannot be read ({reason}).') from error
  finally:
    logging.getLogger('absl').removeFilter(quiet)
  # What a model remembers of its data its teacher has not, and needs: the trained one's.
  memory = found.get('variables', {}) if teacher else {}
  found = found['teacher'] if teacher else found
  return {'params': found['params'], **memory, **found.get('variables', {})}


def _sums(folder: paths.AnyPath) -> dict[str, int] | None:
  """Checksums of a checkpoint; None where it was saved without."""
  try:
    return json.loads((folder / 'data' / 'metadata').read_text()).get('sums')
  except FileNotFoundError:  # the arrays alone, copied elsewhere
    return None


def _wanted(tree: Mapping[str, Any], teacher: bool, folder: paths.AnyPath) -> dict[str, Any]:
  if teacher and not tree.get('teacher'):
    raise NoTeacherError(
      f'The checkpoint {str(folder)!r} has no teacher: load it with teacher=False.'
    )
  part = tree['teacher'] if teacher else tree
  kept = {k: part[k] for k in ('params', 'variables') if part.get(k)}
  if not teacher:
    return kept
  memory = (tree.get('variables') or {}).get('memory')
  return {'teacher': kept} | ({'variables': {'memory': memory}} if memory else {})


def _numpy_args(tree: Any, args: Any) -> Any:
  if isinstance(tree, Mapping):
    return {k: _numpy_args(v, args) for k, v in tree.items()}
  return args
