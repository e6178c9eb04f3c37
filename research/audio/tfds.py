"""Prepared TensorFlow Datasets, read without TensorFlow.

This works for data sets prepared in the `array_record` format. TFDS's `Audio` feature imports
TensorFlow even to be described, so it is described as the tensor it is stored as. Preparing
(download and conversion) does need TensorFlow: run `python -m launch.prepare_data
--source=tfds:NAME --out=…` once.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from research.audio import trouble
from research.audio.clips import Source, Table
from research.audio.decode import AudioError
from research.audio.example import Value
from research.errors import InputError, listed
from research.jobs.cache import cache_folder

INSTALL = "pip install 'oido[tfds]'"


def tfds(
  name: str = '',
  data_dir: str | None = None,
  path: str | None = None,
  config: str | None = None,
  audio: str | None = None,
) -> Source:
  """The clips of a prepared data set: all its splits, with the split in the column `split`.

  Features that are text, classes or numbers become columns. This reads all records once; the
  columns are cached on disk. For fast reading, convert the data with `launch/prepare_data.py`.

  Args:
    name: e.g. 'speech_commands', or 'librispeech/default' with a config.
    data_dir: folder of prepared data; $TFDS_DATA_DIR or ~/tensorflow_datasets by default.
    path: folder of one prepared version, instead of `name`.
    config: the builder config, if not part of `name`.
    audio: name of the audio feature; None detects it.

  Raises:
    InputError: the data set is not prepared, or its format needs TensorFlow.
  """
  folder = pathlib.Path(path) if path else find(name, data_dir, config)
  info = _json(folder / 'dataset_info.json')
  _check_description(folder, info)
  if info.get('fileFormat') not in ('array_record', 'ARRAY_RECORD'):
    raise InputError(
      f'{folder} is prepared as {info.get("fileFormat", "tfrecord")}, which needs TensorFlow; '
      f'prepare it again: `python -m launch.prepare_data --source=tfds:{name or info["name"]} …`.'
    )
  records = TfdsRecords(str(folder), audio)
  rows = _scan_cached(folder, records)
  table = Table(
    name=f'tfds:{info.get("name", name)}',
    ids=[row['id'] for row in rows],
    columns={n: [row['columns'].get(n, '') for row in rows] for n in _names(rows)},
    locate=records,
    label_sets=records.classes,
    seconds=np.array([row['seconds'] for row in rows]),
  )
  return Source(table)


def find(name: str, data_dir: str | None, config: str | None) -> pathlib.Path:
  """The folder of the newest prepared version of a data set."""
  base = data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  root = pathlib.Path(os.path.expanduser(base)) / name
  root = root / config if config else root
  found = [p.parent for p in sorted(root.glob('*/features.json'))]
  found += [p.parent for p in sorted(root.glob('*/*/features.json'))]
  if not name or not found:
    raise InputError(
      f'No prepared TFDS data set in {root}: prepare it with `python -m launch.prepare_data '
      f'--source=tfds:{name or "NAME"} --out=…` (needs {INSTALL}), or give data_dir=.'
    )
  configs = {p.parent for p in found}
  if len(configs) > 1:
    names = ', '.join(sorted(str(p.relative_to(root)) for p in configs))
    raise InputError(f'{root} holds several configs ({names}); name one with config=.')
  return max(found, key=lambda p: _version(p.name))


def prepare(name: str, data_dir: str | None = None) -> None:
  """Downloads a TFDS data set and converts it to array_record, unless it is prepared already.

  Raises:
    InputError: TensorFlow is not installed, or TFDS does not know the name.
  """
  try:
    find(name, data_dir, None)
    return
  except InputError:
    pass  # Not prepared yet.
  try:
    import tensorflow  # noqa: F401
    import tensorflow_datasets as tfds_module
  except ImportError:
    raise InputError(
      f'Preparing the TFDS data set {name!r} needs TensorFlow, which is not installed: {INSTALL}. '
      'Data already prepared in array_record are read without it.'
    ) from None
  try:
    builder = tfds_module.builder(name, data_dir=data_dir, file_format='array_record')
  except tfds_module.core.DatasetNotFoundError:
    raise InputError(f'TFDS knows no data set {name!r}.') from None
  builder.download_and_prepare()


# TFDS imports the module of a feature's class by its name, whatever that is.
_FEATURES = 'tensorflow_datasets.core.features.'


def _check_description(folder: pathlib.Path, info: Mapping[str, Any]) -> None:
  """Raises InputError where a description, which came with the data, names code that is not of
  TFDS, or files that are not in the folder."""
  for kind in _classes_of(_json(folder / 'features.json')):
    if not (isinstance(kind, str) and kind.startswith(_FEATURES)):
      raise InputError(
        f'{folder / "features.json"} has a feature of class {kind!r}; only the classes of '
        f'{_FEATURES.rstrip(".")} are read. Prepare the data set again with these.'
      )
  features = _json(folder / 'features.json').get('featuresDict')
  features = features.get('features') if isinstance(features, Mapping) else None
  splits = info.get('splits')
  if not isinstance(features, Mapping) or not isinstance(splits, list):
    raise InputError(f'{folder} describes no features or no splits; prepare the data set again.')
  names: list[Any] = [*_names_of(features)]
  for split in splits:
    known = isinstance(split, Mapping) and isinstance(split.get('shardLengths'), list)
    names += [split.get('name'), split.get('filepathTemplate') or 'default'] if known else [None]
  for each in names:
    if not isinstance(each, str) or not each or re.search(r'[/\\\0]|\.\.', each):
      raise InputError(
        f'{folder} describes a feature or a split named {each!r}, which leads out of that folder; '
        'prepare the data set again.'
      )


def _classes_of(described: Any) -> Iterator[Any]:
  """Every class that a features.json names, at any depth."""
  if isinstance(described, Mapping):
    for key, value in described.items():
      # Older versions write the name of the class as `type`.
      if key in ('pythonClassName', 'python_class_name', 'type'):
        yield value
      else:
        yield from _classes_of(value)
  elif isinstance(described, list):
    for each in described:
      yield from _classes_of(each)


def _names_of(features: Mapping[str, Any]) -> Iterator[Any]:
  """Names of features and of those in them."""
  for name, feature in features.items():
    yield name
    inner = feature.get('featuresDict') if isinstance(feature, Mapping) else None
    if isinstance(inner, Mapping) and isinstance(inner.get('features'), Mapping):
      yield from _names_of(inner['features'])


def retype(feature: Mapping[str, Any]) -> dict[str, Any]:
  """A features.json with every Audio feature described as the Tensor it is stored as."""
  feature = {k: retype(v) if isinstance(v, Mapping) else v for k, v in feature.items()}
  if str(feature.get('pythonClassName', '')).endswith('audio_feature.Audio'):
    audio = feature.pop('audio', {})
    feature['pythonClassName'] = 'tensorflow_datasets.core.features.tensor_feature.Tensor'
    if str(audio.get('lazyDecode', '')).lower() == 'true':
      feature['pythonClassName'] = 'tensorflow_datasets.core.features.text_feature.Text'
      feature['text'] = {}
    else:
      feature['tensor'] = {k: audio[k] for k in ('shape', 'dtype') if k in audio}
      feature['tensor']['encoding'] = str(audio.get('encoding') or 'none').lower()
  return feature


def _scan_cached(folder: pathlib.Path, records: 'TfdsRecords') -> list[dict[str, Any]]:
  """The scanned rows, from the cache if this preparation was scanned before."""
  stat = (folder / 'dataset_info.json').stat()
  key = repr((str(folder.resolve()), records.audio, stat.st_size, stat.st_mtime_ns))
  path = cache_folder() / f'tfds-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json'
  with contextlib.suppress(OSError, ValueError):
    return json.loads(path.read_text())
  rows = records.scan()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f'.{os.getpid()}.tmp')
    temporary.write_text(json.dumps(rows))
    temporary.replace(path)
  except OSError:  # Without the cache, only the next run is slower.
    pass
  return rows


class TfdsRecords:
  """Locates row i of a prepared TFDS data set. Thread-safe; reopened in every process."""

  def __init__(self, folder: str, audio: str | None):
    self.folder = folder
    self._lock = threading.Lock()
    self._opened: dict[str, Any] | None = None
    described = _json(pathlib.Path(folder) / 'features.json')
    features = described.get('featuresDict', {}).get('features', {})
    self.audio = audio or _audio_feature(folder, features)
    if self.audio not in features:
      raise InputError(
        f'{folder} has no feature {audio!r} (it has: {listed(features)}); name it with audio=.'
      )
    held = features[self.audio].get('audio', {})
    self.sample_rate = int(held.get('sampleRate', 0) or _known_rate(pathlib.Path(folder)))
    self.classes = {n: v for n in features if (v := _class_names(folder, n)) is not None}
    splits = _json(pathlib.Path(folder) / 'dataset_info.json')['splits']
    self.splits = [(s['name'], sum(int(n) for n in s['shardLengths'])) for s in splits]
    self._starts = np.cumsum([0] + [n for _, n in self.splits])

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if k not in ('_lock', '_opened')}

  def __setstate__(self, state):
    self.__dict__.update(state, _lock=threading.Lock(), _opened=None)

  def __call__(self, row: int) -> dict[str, Any]:
    return self._audio(self.example(row)[self.audio])

  def example(self, row: int) -> dict[str, Any]:
    """All features of row `row`, decoded by TFDS."""
    return trouble.patiently(lambda: self._example(row))

  def _example(self, row: int) -> dict[str, Any]:
    split = int(np.searchsorted(self._starts, row, side='right')) - 1
    try:
      return self._source(self.splits[split][0])[row - int(self._starts[split])]
    except (ValueError, IndexError, RuntimeError, OSError) as error:
      if why := trouble.reason(error):
        with self._lock:
          self._opened = None  # A reader that has failed once fails for ever.
        raise trouble.Trouble(self.folder, why) from None
      raise AudioError(f'{self.folder}#{row}', f'The record cannot be read ({error}).') from None

  def scan(self) -> list[dict[str, Any]]:
    """id, columns and seconds of every row."""
    rows = []
    for s, (split, count) in enumerate(self.splits):
      for i in range(count):
        example = self.example(int(self._starts[s]) + i)
        audio = self._audio(example.pop(self.audio))
        columns = {n: v for n, f in example.items() if (v := self._column(n, f)) is not None}
        seconds = len(audio['array']) / audio['sample_rate'] if 'array' in audio else np.nan
        row = {'id': f'{split}/{i:08d}', 'columns': {'split': split, **columns}}
        rows.append(row | {'seconds': seconds})
    return rows

  def _audio(self, value: Any) -> dict[str, Any]:
    if isinstance(value, bytes | np.bytes_):
      return {'data': bytes(value)}
    array = np.asarray(value)
    if array.dtype in (np.int64, np.int32):  # 16-bit PCM in a wider type.
      if len(array) and np.abs(array).max() > 32768:
        raise AudioError(self.folder, 'Its PCM has more than 16 bits.')
      array = array.astype(np.int16)
    return {'array': array, 'sample_rate': self.sample_rate}

  def _column(self, name: str, value: Any) -> Value | None:
    if isinstance(value, bytes):
      return value.decode('utf-8', 'replace')
    array = np.asarray(value)
    names = self.classes.get(name)
    if array.ndim == 0 and array.dtype.kind in 'iub':
      return names[int(array)] if names and int(array) >= 0 else str(array.item())
    if array.ndim == 0 and array.dtype.kind in 'fUS':
      return str(array.item())
    if array.ndim == 1 and names and array.dtype.kind in 'iu':
      return [names[int(i)] for i in array]
    return None

  def _source(self, split: str):
    """TFDS's reader of a split, with a description that has no Audio feature."""
    with self._lock:
      if self._opened is None:
        self._opened = _open(pathlib.Path(self.folder))
      return self._opened[split]


def _open(folder: pathlib.Path) -> dict[str, Any]:
  try:
    import tensorflow_datasets as tfds_module
  except ImportError:
    raise InputError(
      f'Reading TFDS data needs `{INSTALL}` (without TensorFlow: tensorflow-datasets).'
    ) from None
  # TFDS reads the description from the folder: link all files there, but replace features.json.
  temporary = tempfile.TemporaryDirectory(prefix='oido-tfds-')
  view = pathlib.Path(temporary.name, *folder.resolve().parts[-3:])
  view.mkdir(parents=True)
  for file in folder.resolve().iterdir():
    if file.name != 'features.json':
      (view / file.name).symlink_to(file)
  described = retype(_json(folder / 'features.json'))
  (view / 'features.json').write_text(json.dumps(described))
  opened = dict(tfds_module.builder_from_directory(view).as_data_source())
  return opened | {'': temporary}  # Keeps the links alive as long as the readers.


def _audio_feature(folder: str, features: Mapping[str, Any]) -> str:
  """The one feature that is audio, by type or by name."""
  typed = [n for n, f in features.items() if str(f.get('pythonClassName', '')).endswith('.Audio')]
  named = [n for n in ('audio', 'speech') if n in features]
  found = typed or named[:1]
  if len(found) != 1:
    raise InputError(
      f'{folder} has {len(found)} audio features ({listed(found)}; all features: '
      f'{listed(features)}); name one with audio=.'
    )
  return found[0]


def _class_names(folder: str, feature: str) -> tuple[str, ...] | None:
  path = pathlib.Path(folder) / f'{feature}.labels.txt'
  return tuple(path.read_text(encoding='utf-8').split('\n')[:-1]) if path.is_file() else None


def _known_rate(folder: pathlib.Path) -> int:
  """The sample rate of old preparations, which do not store it."""
  rates = {
    'librispeech': 16000, 'speech_commands': 16000, 'voxceleb': 16000, 'nsynth': 16000,
    'gtzan': 22050, 'crema_d': 16000, 'spoken_digit': 8000, 'gtzan_music_speech': 22050,
    'libritts': 24000, 'ljspeech': 22050, 'vctk': 48000, 'savee': 44100, 'common_voice': 48000,
  }  # fmt: skip
  name = _json(folder / 'dataset_info.json').get('name', '')
  if name not in rates:
    raise InputError(f'{folder} does not state the sample rate of its audio; prepare it again.')
  return rates[name]


def _version(name: str) -> tuple[int, ...]:
  return tuple(int(n) if n.isdecimal() else 0 for n in name.split('.'))


def _names(rows: list[dict[str, Any]]) -> list[str]:
  return list(dict.fromkeys(n for row in rows for n in row['columns']))


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except OSError:
    raise InputError(f'{path} is missing, so its folder is not a prepared TFDS data set.') from None
  except ValueError:
    raise InputError(f'{path} is not JSON; prepare the data set again.') from None
