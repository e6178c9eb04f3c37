"""Paths of this machine, and objects in a store (gs://, s3://) by the same names.

A path of a disk is a `pathlib.Path`; an address is an `etils.epath` path, which orbax takes too.
The stores' own clients (gcsfs, s3fs) repeat failed requests; what they give up on is repeated here
for half a minute, and then reported in one sentence. The network is used for addresses alone.
"""

import contextlib
import hashlib
import importlib.util
import json
import logging as std_logging
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from absl import logging

from research.errors import InputError
from research.jobs.cache import cache_folder

# {scheme: the package of its client}
SCHEMES = {'gs': 'gcsfs', 's3': 's3fs'}
# Seconds before each further attempt.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# Seconds after which nothing is tried again.
PATIENCE = 60.0
_BLOCK = 2**24

# pathlib.Path or etils.epath.Path
AnyPath = Any
T = TypeVar('T')


def read_object(path: pathlib.Path, otherwise: str) -> dict[str, Any]:
  """The JSON object of a file of this machine.

  Args:
    path: of the file.
    otherwise: how a sentence ends that begins with the path, where there is no JSON object in it.

  Raises:
    InputError: it cannot be read, or holds something else.
  """
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise InputError(f'{path} cannot be read: {error.strerror or error}.') from None
  except ValueError:
    found = None
  if not isinstance(found, dict):
    raise InputError(f'{path} {otherwise}')
  return found


def is_remote(path: str | os.PathLike) -> bool:
  """Whether it is an address (gs://…) and no path of a disk."""
  return '://' in str(path)


def path(given: str | os.PathLike, flag: str = '') -> AnyPath:
  """The path, of a disk or in an object store.

  Args:
    given: what was named.
    flag: the flag that named it, for messages.

  Raises:
    InputError: an address of another kind, without a bucket, or of a store whose client is not
      installed.
  """
  text = os.fspath(given)
  if not is_remote(text):
    return pathlib.Path(text)
  scheme, _, rest = text.partition('://')
  said = f'--{flag}={text}' if flag else repr(text)
  if scheme not in SCHEMES:
    known = ' or '.join(f'{s}://' for s in SCHEMES)
    raise InputError(f'{said}: expected a path of a disk or an address that begins with {known}.')
  if not rest.split('/')[0]:
    raise InputError(f'{said} names no bucket: expected {scheme}://BUCKET/FOLDER.')
  package = SCHEMES[scheme]
  if importlib.util.find_spec(package) is None:
    raise InputError(
      f"{said} needs {package}, which is not installed: pip install -e '.[remote]', or give a path "
      'of a disk.'
    )
  return _epath().Path(text.rstrip('/'))


def _epath() -> Any:
  # With TensorFlow installed, epath would load it for every address. The choice is epath's own and
  # is made by the environment.
  os.environ.setdefault('EPATH_USE_TF', 'false')
  import fsspec
  from etils import epath

  # It logs a traceback of every failed request, of which a sentence says the same.
  std_logging.getLogger('gcsfs').setLevel(std_logging.CRITICAL)
  # A listing that is kept would hide what other processes write.
  for protocol in ('gcs', 'gs', 's3'):
    fsspec.config.conf.setdefault(protocol, {})['use_listings_cache'] = False
  return epath


def store(path: AnyPath) -> Any:
  """The fsspec file system of an address."""
  _epath()
  import fsspec

  scheme = str(path).split('://')[0]
  return fsspec.filesystem('gcs' if scheme == 'gs' else scheme)


# -- Trouble -----------------------------------------------------------------------------------


def passing(error: BaseException) -> bool:
  """Whether an error may be gone at the next attempt: a broken connection, a server in trouble."""
  seen: BaseException | None = error
  while seen is not None:
    code = getattr(seen, 'code', None) or getattr(seen, 'status', None)
    if isinstance(code, int):
      return code >= 500 or code in (408, 429)
    if isinstance(seen, (FileNotFoundError, FileExistsError, PermissionError)):
      return False
    kinds = {k.__name__ for k in type(seen).__mro__}
    if isinstance(seen, (ConnectionError, TimeoutError)) or kinds & {
      'ClientConnectionError', 'ClientPayloadError', 'HTTPClientError', 'IncompleteRead',
    }:  # fmt: skip
      return True
    if isinstance(seen, OSError) and seen.errno in (5, 16, 121):  # EIO, EBUSY, EREMOTEIO of s3fs
      return True
    seen = seen.__cause__ or seen.__context__
  return False


# What tensorstore and gRPC say of a store that cannot be reached or refuses, and not of an object.
_TROUBLE = re.compile(
  r'HTTP response code: (5\d\d|40[138]|429)|\bCURL\b|UNAVAILABLE|DEADLINE_EXCEEDED|UNAUTHENTICATED|'
  r'PERMISSION_DENIED|[Pp]ermission denied|AccessDenied|[Ff]orbidden|[Cc]redential'
)


class StoreError(InputError):
  """A store cannot be reached, or refuses: nothing is known of the objects in it."""


def check_store(path: AnyPath, error: BaseException) -> None:
  """Tells an object that is damaged from a store that is in trouble.

  Args:
    path: a remote folder that is there.
    error: what reading an object below it has raised.

  Raises:
    StoreError: the store is in trouble, or does not answer now.
  """
  why = reason(error) if passing(error) or isinstance(error, PermissionError) else ''
  if not why and (said := _TROUBLE.search(str(error).split('[tensorstore_spec')[0])):
    why = said[0]
  if not why:
    try:
      patiently(lambda: store(path).ls(str(path), detail=False))
    except Exception as other:
      why = reason(other)
  if why:
    raise StoreError(
      f'{path} cannot be read: {why}. Check the bucket, the credentials and the network, and start '
      'the same command again.'
    ) from error


def reason(error: BaseException) -> str:
  """Why a request failed, in a few words."""
  text = ' '.join(str(error).split())[:200] or type(error).__name__
  kinds = {k.__name__ for k in type(error).__mro__}
  code = getattr(error, 'code', None)
  if kinds & {'NoCredentialsError', 'PartialCredentialsError', 'DefaultCredentialsError'}:
    return (
      'no credentials were found (gs://: `gcloud auth application-default login`; s3://: '
      '`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)'
    )
  if isinstance(error, PermissionError) or code in (401, 403) or 'Forbidden' in text:
    return f'the store refuses it with these credentials ({text})'
  if isinstance(error, FileNotFoundError) or code == 404:
    return f'there is no such bucket or object ({text})'
  return text


@contextlib.contextmanager
def sentences(path: AnyPath, what: str) -> Iterator[None]:
  """Turns errors of an object store into one sentence.

  Args:
    path: the address.
    what: what could not be done, as 'written to'.

  Raises:
    InputError: instead of an error of the store or its client.
  """
  try:
    yield
  except (InputError, KeyboardInterrupt):
    raise
  except Exception as error:
    raise InputError(
      f'{path} cannot be {what}: {reason(error)}. Check the bucket, the credentials and the '
      'network.'
    ) from error


def patiently(call: Callable[[], T], waits: Sequence[float] | None = None) -> T:
  """What `call` gives, which is called again while it raises a `passing` error; not for ever, as
  the clients, too, try for half a minute."""
  end = time.monotonic() + PATIENCE
  for wait in WAITS if waits is None else waits:
    try:
      return call()
    except Exception as error:
      if not passing(error) or time.monotonic() + wait > end:
        raise
      logging.warning('%s. Trying again in %g s.', ' '.join(str(error).split())[:200], wait)
      time.sleep(wait)
  return call()


# -- Objects -----------------------------------------------------------------------------------


def info(path: AnyPath) -> dict[str, Any] | None:
  """What the store says of an object or folder (fsspec's `info`), None if it is not there."""
  try:
    return patiently(lambda: store(path).info(str(path)))
  except FileNotFoundError:
    return None


def modified(path: AnyPath) -> float:
  """When an object was written, seconds since 1970 by the clock of the store."""
  return patiently(lambda: store(path).modified(str(path))).timestamp()


def read_bytes(path: AnyPath, start: int | None = None, end: int | None = None) -> bytes:
  """The bytes of a file, or those from `start` to `end`."""
  if is_remote(path):
    return patiently(lambda: store(path).cat_file(str(path), start=start, end=end))
  with open(path, 'rb') as file:
    file.seek(start or 0)
    return file.read(-1 if end is None else end - (start or 0))


def write_bytes(path: AnyPath, data: bytes, create: bool = False) -> None:
  """Writes a file that is there whole or not at all.

  Raises:
    FileExistsError: with `create`, for an object that is there.
  """
  if is_remote(path):
    how = {'mode': 'create'} if create else {}

    def put() -> None:
      try:
        store(path).pipe_file(str(path), data, **how)
      except Exception as error:
        conflict = getattr(error, 'code', None) in (409, 412)
        if create and (conflict or 'recondition' in str(error)):
          raise FileExistsError(str(path)) from error
        raise

    patiently(put)
    return
  partial = path.with_name(f'{path.name}.partial')
  partial.write_bytes(data)
  os.replace(partial, path)


def names(folder: AnyPath) -> list[str]:
  """Names of what a remote folder holds, sorted; nothing if it is not there."""
  try:
    found = patiently(lambda: store(folder).ls(str(folder), detail=False))
  except FileNotFoundError:
    return []
  return sorted({name.rstrip('/').rsplit('/', 1)[-1] for name in found} - {'', folder.name})


def remove(path: AnyPath) -> None:
  """Removes an object or a remote folder, if it is there."""
  with contextlib.suppress(FileNotFoundError):
    patiently(lambda: store(path).rm(str(path), recursive=True))


def move(path: AnyPath, target: AnyPath) -> None:
  """Moves a folder; object by object, where it is remote."""
  if is_remote(path):
    patiently(lambda: store(path).copy(f'{path}/', f'{target}/', recursive=True))
    remove(path)
  else:
    os.rename(path, target)


# -- Copies on this machine --------------------------------------------------------------------


def upload(file: pathlib.Path, target: AnyPath) -> None:
  """Copies a local file to an object."""
  patiently(lambda: store(target).put_file(str(file), str(target)))


def local_copy(path: AnyPath) -> pathlib.Path:
  """A remote file as a file of this machine; a local path as it is.

  It lies in the cache folder under a name of its address, size and version, so that one that has
  changed is fetched again.

  Raises:
    InputError: it is not there, or cannot be read.
  """
  if not is_remote(path):
    return path
  with sentences(path, 'read'):
    found = info(path)
    if found is None or found.get('type') == 'directory':
      raise InputError(f'There is no file at {path}.')
    version = found.get('ETag') or found.get('etag') or found.get('generation') or ''
    key = hashlib.sha256(f'{path} {found["size"]} {version}'.encode()).hexdigest()[:24]
    target = cache_folder() / 'remote' / key / path.name
    if not target.is_file() or target.stat().st_size != found['size']:
      target.parent.mkdir(parents=True, exist_ok=True)
      partial = target.with_name(f'{target.name}.{os.getpid()}.partial')
      try:
        with open(partial, 'wb') as file:
          for at in range(0, found['size'], _BLOCK):
            file.write(read_bytes(path, at, min(at + _BLOCK, found['size'])))
        if partial.stat().st_size != found['size']:
          raise ConnectionError(f'{partial.stat().st_size} of {found["size"]} bytes came')
        os.replace(partial, target)
      finally:
        partial.unlink(missing_ok=True)
    return target


def local_folder(path: AnyPath) -> pathlib.Path:
  """The files of a remote folder, without folders in it, as a folder of this machine; a local path
  as it is.

  Raises:
    InputError: it cannot be read.
  """
  if not is_remote(path):
    return path
  with sentences(path, 'read'):
    found = patiently(lambda: store(path).ls(str(path), detail=True))
    key = hashlib.sha256(str(path).encode()).hexdigest()[:24]
    folder = cache_folder() / 'remote' / f'folder-{key}' / path.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for entry in found:
      name = entry['name'].rstrip('/').rsplit('/', 1)[-1]
      if entry.get('type') == 'file' and name:
        os.symlink(local_copy(path / name), folder / name)
    return folder
