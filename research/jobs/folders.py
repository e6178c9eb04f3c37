"""Files and folders that a long job writes: checked before it starts, there whole or not at all."""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from absl import logging

from research.errors import InputError
from research.jobs import locks


def local(path: str | os.PathLike, flag: str) -> Path:
  """The path, of this machine or a mounted disk.

  Raises:
    InputError: it is an address (gs://…), which would become a folder of that name here.
  """
  if '://' in str(path):
    scheme = str(path).split('://')[0]
    raise InputError(
      f'--{flag}={path}: a path of a disk was expected, not an address ({scheme}://). Mount the '
      'bucket on every host (gcsfuse, a network disk) and give that path, or write to a disk and '
      'copy the folder to the bucket afterwards.'
    )
  return Path(path)


def writable(out: str | os.PathLike, suffixes: Sequence[str], overwrite: bool) -> Path:
  """The path of the file to be written.

  Raises:
    InputError: its ending is not one of `suffixes`, it is a folder, or it exists.
  """
  out = local(out, 'out')
  if out.suffix not in suffixes:
    known = f'{", ".join(suffixes[:-1])} or {suffixes[-1]}'
    raise InputError(f'--out={out}: the file has to end in {known}.')
  if out.is_dir():
    raise InputError(f'{out} is a folder; a file to write was expected.')
  if out.exists() and not overwrite:
    raise InputError(f'{out} is there already: give another --out, or --overwrite.')
  return out


def folder(path: str | os.PathLike, flag: str) -> Path:
  """The folder of that flag, made and tried out.

  Raises:
    InputError: it is a file, or cannot be written to.
  """
  made = local(path, flag)
  trial = made / f'.{os.getpid()}.trial'
  try:
    made.mkdir(parents=True, exist_ok=True)
    trial.touch()
    trial.unlink()
  except OSError as error:
    raise InputError(
      f'--{flag}={path} is no folder that can be written to: {error.strerror}.'
    ) from None
  return made


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
  """The folder, made, for one process at a time; others wait. It ends with the process.

  Raises:
    InputError: it cannot be written to.
  """
  try:
    path.mkdir(parents=True, exist_ok=True)
    (path / locks.LOCK).touch()
  except OSError as error:
    raise InputError(f'{path} cannot be written to: {error.strerror}.') from None
  held = filelock.FileLock(path / locks.LOCK, fallback_to_soft=False)
  try:
    held.acquire()
  except OSError as error:
    logging.warning(
      '%s is on a disk without locks (%s): no two runs may use it at once.', path, error
    )
  try:
    yield
  finally:
    held.release()


def parts_folder(out: Path) -> Path:
  """Where the parts of an unfinished file lie."""
  return out.with_name(f'{out.name}.parts')


@contextlib.contextmanager
def disk_errors(out: str | os.PathLike, parts: Path) -> Iterator[None]:
  """A full or read-only disk, while `out` is made of what lies in `parts`, in one sentence.

  Raises:
    InputError: instead of an OSError.
  """
  try:
    yield
  except OSError as error:
    kept = ''
    if parts.is_dir():
      kept = f' The finished parts are kept in {parts}; the same command goes on from them.'
    raise InputError(f'Cannot write {out}: {error.strerror or error}.{kept}') from error


def read_arrays(file: Any, name: str = '', only: Sequence[str] | None = None) -> dict[str, Any]:
  """The arrays of an .npz that a job has written, or `only` some of them.

  `name` says what it is where `file` is no path.

  Raises:
    InputError: it is damaged.
  """
  try:
    with np.load(file, allow_pickle=False) as arrays:
      return {key: arrays[key] for key in (arrays.files if only is None else only)}
  except (
    ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile
  ) as error:  # fmt: skip
    raise InputError(
      f'{name or file} is damaged ({error}): delete it, and what it held is computed again.'
    ) from None


def begin(
  folder: Path, settings: Mapping[str, Any], what: str = 'an unfinished job with another'
) -> None:
  """Begins the job of a folder, or goes on with it; `what` is said of the job of another.

  Raises:
    InputError: the folder holds a job with other settings, or another process is at it.
  """
  locks.claim(folder)
  same_job(folder, settings, what)


def same_job(
  folder: Path, settings: Mapping[str, Any], what: str = 'an unfinished job with another'
) -> None:
  """As `begin`, for a folder that several processes share."""
  settings = json.loads(json.dumps(settings))
  file = folder / 'job.json'
  if not file.exists():
    replace_text(file, json.dumps(settings))
  try:
    found = json.loads(file.read_text(encoding='utf-8'))
  except ValueError as error:
    raise InputError(
      f'{file} is damaged ({error}): delete {folder}, and what it held is computed again.'
    ) from None
  different = [
    f'{k} ({_short(found.get(k))} -> {_short(settings.get(k))})'
    for k in {**found, **settings}
    if found.get(k) != settings.get(k)
  ]
  if different:
    raise InputError(
      f'{folder} holds {what} {", ".join(different[:4])}: give another --out, or delete that '
      'folder.'
    )


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


def replace_text(path: Path, text: str) -> None:
  """Writes a file that is there whole or not at all."""
  partial = path.with_name(f'{path.name}.partial')
  partial.write_text(text, encoding='utf-8', errors='surrogateescape')
  os.replace(partial, path)
