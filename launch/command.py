"""How every command starts: flags are parsed, and a person's mistake becomes one sentence and exit
code 2."""

import contextlib
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from launch.memory import keep_freed_memory
from research.errors import InputError
from research.jobs.cache import cache_folder

# What Python says of a value of the wrong kind, and what a person is told.
_PLAIN = (
  (r'invalid literal for int\(\) with base 10: (.*)', r'\1 is not a whole number.'),
  (r'could not convert string to float: (.*)', r'\1 is not a number.'),
  (
    r'flag --([\w.]+)=.*Failed to parse .* as a ConfigDict.*',
    r'--\1 is a group of settings: set its members, as in --\1.<name>=…, or {} for none.',
  ),
)
_REQUIRED: list[str] = []
_SHARED: list[str] = []


def fail(message: object) -> None:
  """Prints `error: <message>` on one line to stderr and exits with code 2."""
  print(f'error: {" ".join(str(message).split())}', file=sys.stderr, flush=True)
  sys.exit(2)


def _leave() -> None:
  """Ends the process here: threads that still read or compute crash when Python is taken down
  around them."""
  for child in multiprocessing.active_children():
    child.terminate()
  print('error: Interrupted.', file=sys.stderr, flush=True)
  with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
  os._exit(2)


def required(*names: str) -> None:
  """Flags that must be given; checked with one sentence each, after parsing."""
  _REQUIRED.extend(names)


def _cause(error: BaseException) -> str:
  """The last line of what went wrong: flag libraries put whole tracebacks in their messages."""
  lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
  if not lines:
    return type(error).__name__
  # Tracebacks end in 'ValueError: text'; the sentence is what follows the type.
  if len(lines) > 1 and 'Traceback' in str(error):
    return lines[-1].split(': ', 1)[-1]
  text = ' '.join(lines)
  for pattern, plain in _PLAIN:
    text = re.sub(pattern, plain, text)
  return text


def _check_config_file(argv: Sequence[str]) -> None:
  """Says that a config file is missing before the flag library fails on it later."""
  for i, arg in enumerate(argv):
    name, _, value = arg.lstrip('-').partition('=')
    if not arg.startswith('-') or name != 'config':
      continue
    value = value or (argv[i + 1] if i + 1 < len(argv) else '')
    path = Path(value.split(':', 1)[0])
    if path.is_file() and path.suffix != '.py':
      raise InputError(f'--config={value}: a config is a Python file (experiments/….py).')
    if not path.is_file():
      near = sorted(str(p) for p in path.parent.glob('*.py')) if path.parent.is_dir() else []
      hint = f' In {path.parent}: {", ".join(near)}.' if near else ''
      raise InputError(f'--config={value}: there is no file {str(path)!r}.{hint}')


def _parse(argv: Sequence[str]) -> Sequence[str]:
  rest = flags.FLAGS(argv)
  if len(rest) > 1:
    raise InputError(
      f'Unexpected argument {rest[1]!r}: this command takes flags only, as in --name=value.'
    )
  return rest


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Parses the flags and runs `main(argv)`; a mistake ends in one sentence.

  Set OIDO_TRACEBACK=1 to see where it came from.
  """
  show = os.environ.get('OIDO_TRACEBACK') == '1'
  # --help shows the flags of the command's own module; those it got from here belong to it too.
  for name in _SHARED:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])

  def parse(argv: Sequence[str]) -> Sequence[str]:
    try:
      if any(a.lstrip('-') in ('help', 'helpshort', 'helpfull', 'help=true') for a in argv[1:]):
        return _parse(argv)
      _check_config_file(argv)
      rest = _parse(argv)
      for name in _REQUIRED:
        if flags.FLAGS[name].value in (None, ''):
          raise InputError(f'Missing flag --{name}: {flags.FLAGS[name].help}')
      return rest
    # A config file is a person's code: whatever it raises is about what they wrote.
    except Exception as error:
      if show:
        raise
      fail(_cause(error))
      raise  # Not reached: fail() exits.

  def guarded(argv: Sequence[str]) -> None:
    # Libraries log every file they write; --verbosity=0 shows that.
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    try:
      main(argv)
    except InputError as error:
      if show:
        raise
      fail(error)
    except KeyboardInterrupt:
      _leave()

  app.run(guarded, flags_parser=parse)


def config_flag() -> Any:
  """--config=FILE.py[:ARG], with --config.path.to.value=… for single values."""
  from ml_collections import config_flags

  # New attributes are accepted here so that `research.train.build` can name the nearest known one.
  holder = config_flags.DEFINE_config_file(
    'config', None, 'A config file: experiments/….py[:ARG].', lock_config=False,
    accept_new_attributes=True,
  )  # fmt: skip
  _SHARED.append('config')
  parser = flags.FLAGS['config'].parser
  read = parser.parse

  def parse(argument: str) -> Any:
    return _with_groups(read(argument), sys.argv[1:])

  parser.parse = parse  # type: ignore[method-assign]
  return holder


def _with_groups(config: Any, argv: Sequence[str]) -> Any:
  """Makes room for overrides on the command line: groups that the config file leaves out; lists,
  None and descriptions of data, which a single value may replace; and what None replaces."""
  from ml_collections import ConfigDict

  for arg in argv:
    match = re.match(r'--?config\.([\w.]+)=(.*)', arg, re.DOTALL)
    if not match:
      continue
    *groups, name = match[1].split('.')
    node = config
    for part in groups:
      if not isinstance(node, ConfigDict):
        break
      if node.get(part) is None:
        node[part] = ConfigDict()
      node = node[part]
    known = isinstance(node, ConfigDict) and name in node
    if known and (isinstance(node[name], list | None) or match[2] == 'None' or name == 'source'):
      del node[name]
  return config


def distributed_flags() -> None:
  """Flags for runs on several hosts."""
  flags.DEFINE_bool('distributed', False, 'Several hosts, found from the environment (TPU, Slurm).')
  flags.DEFINE_string('coordinator', None, 'Several hosts: HOST:PORT of the first one.')
  flags.DEFINE_integer('num_processes', None, 'Several hosts: how many.', lower_bound=1)
  flags.DEFINE_integer('process_id', None, 'Several hosts: the number of this one.', lower_bound=0)
  flags.DEFINE_string(
    'compilation_cache',
    os.environ.get('JAX_COMPILATION_CACHE_DIR', str(cache_folder() / 'xla')),
    'Folder where compiled programs are kept between runs (empty: none).',
  )
  _SHARED.extend(('distributed', 'coordinator', 'num_processes', 'process_id', 'compilation_cache'))


def start_jax() -> None:
  """Sets up memory, `jax.distributed` when the flags ask for it, and the compilation cache."""
  keep_freed_memory()
  import jax

  values = flags.FLAGS
  if values.compilation_cache:
    jax.config.update('jax_compilation_cache_dir', values.compilation_cache)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  given = [values.coordinator, values.num_processes, values.process_id]
  if any(v is not None for v in given):
    if any(v is None for v in given):
      raise InputError(
        '--coordinator, --num_processes and --process_id go together: give all three.'
      )
    jax.distributed.initialize(values.coordinator, values.num_processes, values.process_id)
  elif values.distributed:
    jax.distributed.initialize()
