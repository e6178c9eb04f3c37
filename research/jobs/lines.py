"""Files of lines that may be divided into parts: name.jsonl, name-00001.jsonl, …"""

import re

from research.jobs import paths


def part(path: paths.AnyPath, number: int) -> paths.AnyPath:
  """Part `number` of a file; part 0 is the file itself."""
  return path.with_name(f'{path.stem}-{number:05d}{path.suffix}') if number else path


def parts(path: paths.AnyPath) -> list[paths.AnyPath]:
  """The parts that are there, in their order.

  Raises:
    InputError: the store cannot be read.
  """
  pattern = re.compile(rf'{re.escape(path.stem)}(-\d{{5,}})?{re.escape(path.suffix)}')
  if paths.is_remote(path):
    with paths.sentences(path, 'read'):
      names = paths.names(path.parent)
  else:
    names = [p.name for p in path.parent.glob(f'{path.stem}*')] if path.parent.is_dir() else []
  # '-' sorts before '.': the first part is the one without a number.
  found = [name for name in names if pattern.fullmatch(name)]
  return [path.parent / name for name in sorted(found, key=lambda n: (len(n), n))]


def read(path: paths.AnyPath) -> list[str]:
  """The lines of all parts; none if there is no part.

  Raises:
    InputError: the store cannot be read.
  """
  found: list[str] = []
  for each in parts(path):
    with paths.sentences(each, 'read'):
      data = paths.read_bytes(each)
    # Not splitlines: names of files may hold other ends of lines, as U+2028.
    text = data.decode('utf-8', errors='surrogateescape')
    found += [line for line in text.split('\n') if line]
  return found
