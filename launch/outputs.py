"""Outputs of commands in an object store: made on this machine, and copied when they are done."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from research.errors import InputError
from research.jobs import mirror, paths
from research.jobs.cache import cache_folder

# What of an output folder is fetched first: the files that commands read there and add to.
READ = ('*.json', '*.jsonl', 'pictures.npz', 'map.npz')
# How many of the files that were left out are named on the screen.
NAMED = 20


def left_out(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Lines that say how many clips are done, and which were left out (see `clip_rows`)."""
  left = [row for row in rows if 'error' in row]
  yield f'{len(rows) - len(left)} clips' + (f', {len(left)} left out:' if left else '')
  yield from (f'  {row["id"]}: {row["error"]}' for row in left[:NAMED])
  if len(left) > NAMED:
    yield f'  … and {len(left) - NAMED} more'


def remote(
  flag: str, folder: bool | Callable[[], bool]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
  """Lets a command write to gs:// or s3://; a decorator of its `main`.

  The command sees a path in the cache folder, always the same for one address, so that it goes on
  with unfinished work of this machine. A path of a disk stays as it is.

  Args:
    flag: name of the flag of the output.
    folder: whether the output is a folder and not a file, or what says so once flags are read.

  Raises:
    InputError: the store cannot be read or written to; the file is there and --overwrite is not
      given; several processes, which would need to see one disk.
  """

  def decorate(main: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(main)
    def wrapped(argv: Sequence[str]) -> None:
      given = flags.FLAGS[flag].value
      if given is None or not paths.is_remote(str(given)):
        main(argv)
        return
      home = paths.path(str(given), flag)
      whole = folder() if callable(folder) else folder
      values: Any = flags.FLAGS
      parts = 'part' in values and (values.part != '0/1' or values.beam is not None)
      if values.distributed or values.num_processes or parts:
        raise InputError(
          f'--{flag}={given}: several processes or parts write to a folder of a disk that all see; '
          'give one, and copy it to the bucket afterwards.'
        )
      key = hashlib.sha256(str(home).encode()).hexdigest()[:24]
      local = cache_folder() / 'outputs' / key / home.name
      with paths.sentences(home, 'read'):
        if not whole:  # a missing bucket is noticed before hours of work
          paths.names(home.parent)
        there = paths.info(home)
      overwrite = 'overwrite' in flags.FLAGS and values.overwrite
      if there and not whole and not overwrite:
        raise InputError(f'{home} is there already: give another --{flag}, or --overwrite.')
      local.parent.mkdir(parents=True, exist_ok=True)
      made = _folder(home, local) if whole else None
      if not whole:
        local.unlink(missing_ok=True)
      flags.FLAGS[flag].value = str(local)
      main(argv)
      if made:
        made.push()
      else:
        with paths.sentences(home, 'written to'):
          paths.upload(local, home)
        local.unlink()
      print(f'copied to {home}', flush=True)

    return wrapped

  return decorate


def _folder(home: paths.AnyPath, local: Path) -> mirror.Mirror:
  """The mirror of an output folder, tried by writing to it."""
  probe = home / '.trial'
  with paths.sentences(home, 'written to'):
    paths.write_bytes(probe, b'')
    paths.remove(probe)
  return mirror.Mirror(home, READ, every=None, folder=local)
