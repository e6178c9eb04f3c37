"""Data specs of a config to sources of clips: `open_source`."""

import inspect
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from research.audio import clips, datasets, index, lists, manifests
from research.audio.clips import Source, pool, windows
from research.audio.example import Example, Value
from research.audio.folder import MANIFESTS, folder
from research.errors import InputError, unknown
from research.jobs import paths

__all__ = ['Example', 'Source', 'Value', 'names', 'open_source', 'pool', 'windows']

# A name, a path, a dict(name=…, args={…}), a ConfigDict of that shape, or a list of such.
Spec = Any

# Arguments of every source, in addition to those of its reader.
COMMON = ('split', 'where', 'cut_seconds', 'root')


def names() -> tuple[str, ...]:
  """Names accepted by `open_source`."""
  own = ('folder', 'list', 'index', 'array_record', 'tfds')
  return tuple(dict.fromkeys((*datasets.DATASETS, *own, *manifests.names())))


def open_source(
  spec: Spec, *, split: str | None = None, root: str | os.PathLike | None = None
) -> Source:
  """Opens a data source.

  Args:
    spec: a name ('builtin', 'esc50', …; `names()`); an address of a folder of ArrayRecord shards
      (gs://… or s3://…); a path to a folder of audio, of an index of audio (`audio/index.py`), of
      ArrayRecord shards, of a HEAR task or of a prepared TFDS data set; a file or folder of another
      tool (`audio/manifests/`: fairseq, Kaldi, lhotse, …), which is recognised by its form or named
      as 'kaldi:PATH'; a list of files (.txt, .csv, .tsv, .jsonl); 'tfds:NAME'; a dict(name=…,
      args={…}); or a list of these, which is pooled. `args` are those of the reader. Every source
      also takes `split`; `where`, a dict column -> value or values; `cut_seconds`, which cuts long
      files into windows; and `root`. On command lines, dicts and lists are written as JSON.
    split: selects the rows with this value in the column `split` ('a+b' selects both), or a named
      group of splits.
    root: folder in which data sets are looked up; $OIDO_DATA by default.

  Raises:
    InputError: an unknown name or argument, missing data, or an unknown split.
  """
  spec = _from_json(spec.to_dict() if hasattr(spec, 'to_dict') else spec, root)  # ConfigDict
  if isinstance(spec, Sequence) and not isinstance(spec, str):
    if not spec:
      raise InputError('The list of data sources is empty; name at least one.')
    return pool([open_source(part, split=split, root=root) for part in spec])
  name, args = _parse(spec)
  split = args.pop('split', None) or split
  where, cut = args.pop('where', None), args.pop('cut_seconds', None)
  source = _read(name, args, args.pop('root', None) or root)
  if where:
    source = source.where(where)
  if split:
    source = source.split(split)
  return source if cut is None else windows(source, _seconds(cut))


def _seconds(cut: object) -> float:
  """The argument `cut_seconds`."""
  seconds = float(cut) if isinstance(cut, int | float) and not isinstance(cut, bool) else math.nan
  if not 0 < seconds < math.inf:
    raise InputError(f'cut_seconds={cut!r}: expected a number of seconds above 0.')
  return seconds


def holds_data(path: str) -> bool:
  """Whether a path is a folder, or a file that lists or holds clips in a known form."""
  return os.path.isdir(path) or _kind(path) is not None


def _from_json(spec: Spec, root: str | os.PathLike | None) -> Spec:
  """Parses a JSON spec. A string that names an existing folder is not parsed."""
  if not isinstance(spec, str) or not spec.startswith(('{', '[')):
    return spec
  if os.path.exists(_under(spec, root)):
    return spec
  try:
    return json.loads(spec)
  except ValueError as error:
    raise InputError(
      f'The data source {spec} is not JSON ({error}); write it as in '
      '{"name": "libri_light", "args": {"voice_seconds": 60}}.'
    ) from None


def _parse(spec: str | os.PathLike | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
  if isinstance(spec, str | os.PathLike):
    return os.fspath(spec), {}
  if not isinstance(spec, Mapping) or 'name' not in spec:
    raise InputError(
      f'{spec!r} is not a data source: give a name, a path, or dict(name=…, args={{…}}).'
    )
  for key in spec:
    if key not in ('name', 'args'):
      raise unknown('key of a data source', key, ('name', 'args'))
  return os.fspath(spec['name']), dict(spec.get('args') or {})


def _read(name: str, args: dict[str, Any], root: str | os.PathLike | None) -> Source:
  if root is not None and paths.is_remote(root):
    raise InputError(
      f'The folder of data sets {root} is an address: expected a folder of a disk. Only prepared '
      'shards are read from a store; name their folder as the data source.'
    )
  form, _, rest = name.partition(':')
  if rest and form in ('folder', 'list', *manifests.names()):
    name, args = form, {'path': rest, **args}
  named = args.get('path', name) if name in ('folder', 'index', 'array_record') else name
  if named is not None and paths.is_remote(named):
    if name in ('folder', 'index'):
      raise InputError(
        f'Audio files are read from a disk alone, and {named} is an address: make shards of them '
        'with `python -m launch.prepare_data`, and copy that folder to the store.'
      )
    return _call(name, _reader('array_record'), {**args, 'path': named})
  if name in datasets.PACKAGED:
    return _call(name, datasets.DATASETS[name].function(), args)
  if name in manifests.names() and (name not in datasets.DATASETS or 'path' in args):
    return _call(name, manifests.reader(name), {**args, 'path': _path_of(name, args, root)})
  if name in datasets.DATASETS:
    found, published = datasets.find(name, root)
    if not published:
      return _call(name, folder, {'path': str(found), 'name': name, **args})
    return _call(name, datasets.DATASETS[name].function(), {'root': str(found), **args})
  if name in ('folder', 'list', 'index', 'array_record'):
    return _call(name, _reader(name), {**args, 'path': _path_of(name, args, root)})
  if name == 'tfds' or name.startswith('tfds:'):
    if ':' in name:
      args = {'name': name.split(':', 1)[1], **args}
    return _call('tfds', _reader('tfds'), args)
  path = _under(name, root)
  kind = _kind(path)
  if kind is not None:
    return _call(name, _reader(kind), {'root' if kind == 'hear' else 'path': path, **args})
  if os.sep in name or name.startswith(('.', '~')):
    what = 'is a file, not a folder' if os.path.exists(path) else 'does not exist'
    raise InputError(f'The folder of audio {path} {what}.')
  raise unknown('data source', name, names())


def _path_of(name: str, args: Mapping[str, Any], root: str | os.PathLike | None) -> str:
  """The argument `path` of a reader."""
  if 'path' not in args:
    raise InputError(f'Data source {name!r} needs a path in its args.')
  path = _under(args['path'], root)
  if name in manifests.names() and not os.path.exists(path) and '{' not in path:
    raise InputError(f'{path} does not exist; expected a file or folder of {name}.')
  return path


def _under(path: str | os.PathLike, root: str | os.PathLike | None) -> str:
  """`path` if it exists, else `path` below the root if that exists."""
  path = os.path.expanduser(path)
  base = root if root is not None else os.environ.get(datasets.ROOT)
  if base is not None and not os.path.isabs(path) and not os.path.exists(path):
    below = os.path.join(os.path.expanduser(base), path)
    return below if os.path.exists(below) else path
  return path


def _kind(path: str) -> str | None:
  """Kind of data at a path: shards, an index, a prepared TFDS data set, a HEAR task, a folder with
  our manifest, one of the forms of other tools, a list, or a folder of audio; None for no data."""
  folder_path = pathlib.Path(path)
  if not folder_path.is_dir():
    form = manifests.recognise(folder_path)
    return form or ('list' if lists.is_list(folder_path) else None)
  if (folder_path / 'index.json').is_file() and list(folder_path.glob('*.array_record')):
    return 'array_record'
  if (folder_path / index.FILE).is_file():
    return 'index'
  if (folder_path / 'features.json').is_file() and (folder_path / 'dataset_info.json').is_file():
    return 'tfds'
  if (folder_path / 'task_metadata.json').is_file():
    return 'hear'
  if any((folder_path / name).is_file() for name in MANIFESTS):
    return 'folder'
  return manifests.recognise(folder_path) or 'folder'


def _reader(kind: str) -> Callable[..., Source]:
  # Lazy imports: reading folders needs neither array_record nor tfds.
  if kind == 'array_record':
    from research.audio import shards

    return shards.array_record
  if kind == 'tfds':
    from research.audio import tfds

    return tfds.tfds
  if kind == 'index':
    return index.index
  if kind == 'hear':
    from research.audio.datasets import hear

    return hear.hear
  if kind == 'list':
    return lists.file_list
  return manifests.reader(kind) if kind in manifests.names() else folder


def _call(name: str, function: Callable[..., Source], args: Mapping[str, Any]) -> Source:
  accepted = inspect.signature(function).parameters
  for key in args:
    if key not in accepted:
      known = {p for p in accepted if p != 'root'} | set(COMMON)
      raise unknown(f'argument of data source {name}', key, known)
  source = function(**args)
  if not len(source):
    raise InputError(f'Data source {name!r} has no clips.')
  return source


# Re-exported: this module is the public interface to sources.
Table = clips.Table
