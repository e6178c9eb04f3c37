"""Entry point of every command: parses flags, and turns bad input into one sentence and exit
code 2."""

import contextlib
import logging as std_logging
import multiprocessing
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from launch.memory import keep_freed_memory
from research import peers
from research.errors import InputError, printable
from research.jobs import children
from research.jobs.cache import cache_folder

# Messages of Python and the flag library, and their plain replacements.
_REPLACEMENTS = (
  (r'invalid literal for int\(\) with base 10: (.*)', r'\1 is not a whole number.'),
  (r'could not convert string to float: (.*)', r'\1 is not a number.'),
  (
    r'flag --([\w.]+)=.*Failed to parse .* as a ConfigDict.*',
    r'--\1 is a group of settings: set its members, as in --\1.<name>=…, or {} for none.',
  ),
)
UNFINISHED = 75  # exit code of a run that has to be started again (EX_TEMPFAIL)
MAX_SENTENCE = 20_000  # characters of an error, whatever is in it
_REQUIRED: list[str] = []
_SHARED: list[str] = []


def fail(message: object) -> None:
  """Prints `error: <message>` on one line to stderr and exits with code 2."""
  sentence = printable(' '.join(str(message).split()))
  if len(sentence) > MAX_SENTENCE:
    sentence = f'{sentence[: MAX_SENTENCE // 2]} … {sentence[-MAX_SENTENCE // 2 :]}'
  if peers.several():
    peers.end(sentence, 2)
  print(f'error: {sentence}', file=sys.stderr, flush=True)
  sys.exit(2)


def say(text: object) -> None:
  """Prints text that may hold names of files, labels or transcripts."""
  print(printable(text), flush=True)


class _Printable(std_logging.Filter):
  """Log lines name files too."""

  def filter(self, record: std_logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), None
    return True


def _exit_interrupted() -> None:
  """Exits at once, without Python's shutdown, in which threads that still run would crash."""
  for child in multiprocessing.active_children():
    child.terminate()
  if peers.several():
    peers.end('Interrupted.', 2)
  print('error: Interrupted.', file=sys.stderr, flush=True)
  with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
  os._exit(2)


def required(*names: str) -> None:
  """Registers required flags; a missing one is reported after parsing."""
  _REQUIRED.extend(names)


def _cause(error: BaseException) -> str:
  """The message of an error in one line; flag libraries put whole tracebacks in theirs."""
  lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
  if not lines:
    return type(error).__name__
  # A traceback ends in 'ValueError: text'; keep the text.
  if len(lines) > 1 and 'Traceback' in str(error):
    return lines[-1].split(': ', 1)[-1]
  text = ' '.join(lines)
  for pattern, plain in _REPLACEMENTS:
    text = re.sub(pattern, plain, text)
  return text


def _at_home(text: str) -> str:
  """A flag or value with `~` as the shell expands it, which it does not behind `=`."""
  return re.sub(r'(?:(?<=[=,])|^)~(?=/|,|$)', lambda _: os.path.expanduser('~'), text)


def _check_config_file(argv: Sequence[str]) -> None:
  """Checks that the config file exists, before the flag library fails on it."""
  for i, arg in enumerate(argv):
    name, _, value = arg.lstrip('-').partition('=')
    if not arg.startswith('-') or name != 'config':
      continue
    value = value or (argv[i + 1] if i + 1 < len(argv) else '')
    path = Path(value.split(':', 1)[0])
    if path.is_file() and path.suffix != '.py':
      raise InputError(f'--config={value}: expected a Python file (experiments/….py).')
    if not path.is_file():
      near = sorted(str(p) for p in path.parent.glob('*.py')) if path.parent.is_dir() else []
      hint = f' In {path.parent}: {", ".join(near)}.' if near else ''
      raise InputError(f'--config={value}: file {str(path)!r} does not exist.{hint}')


def _parse(argv: Sequence[str]) -> Sequence[str]:
  rest = flags.FLAGS(argv)
  if len(rest) > 1:
    raise InputError(
      f'Unexpected argument {rest[1]!r}: this command takes only flags, --name=value.'
    )
  return rest


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Parses the flags and runs `main(argv)`; bad input exits with one sentence.

  OIDO_TRACEBACK=1 shows the traceback instead.
  """
  children.die_together()
  sys.argv[1:] = map(_at_home, sys.argv[1:])
  show = os.environ.get('OIDO_TRACEBACK') == '1'
  # --help shows flags of the command's module only; add those defined here on its behalf.
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
    # A config file is user code and may raise anything.
    except Exception as error:
      if show:
        raise
      fail(_cause(error))
      raise  # Not reached: fail() exits.

  def guarded(argv: Sequence[str]) -> None:
    # Libraries log every file they write; --verbosity=0 shows these lines.
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().addFilter(_Printable())
    try:
      main(argv)
      peers.done()
    except SystemExit:  # an exit code of its own
      peers.done()
      raise
    except InputError as error:
      if show:
        traceback.print_exc()
      fail(error)
    except KeyboardInterrupt:
      _exit_interrupted()
    except Exception as error:
      if not peers.several():
        raise
      # A collective fails where another process has ended: that one's sentence is the cause.
      peers.await_cause(error)
      traceback.print_exc()
      peers.end(printable(f'{type(error).__name__}: {_cause(error)}'), 1)

  app.run(guarded, flags_parser=parse)


def shared(*names: str) -> None:
  """Registers flags that another module defines for commands, so that --help shows them."""
  _SHARED.extend(names)


def config_flag() -> Any:
  """The flag --config=FILE.py[:ARG], with --config.path.to.value=… to override single values."""
  from ml_collections import config_flags

  # Unknown settings are accepted here, so that `research.train.config` can suggest known ones.
  holder = config_flags.DEFINE_config_file(
    'config', None, 'Config file: experiments/….py[:ARG].', lock_config=False,
    accept_new_attributes=True,
  )  # fmt: skip
  _SHARED.append('config')
  parser: Any = flags.FLAGS['config'].parser
  read = parser.parse

  def parse(argument: str) -> Any:
    return _with_groups(_home_config(read(argument)), sys.argv[1:])

  parser.parse = parse
  return holder


def _home_config(config: Any) -> Any:
  """A config whose paths that begin with `~` lead to the home folder."""
  from ml_collections import ConfigDict

  def expanded(value: Any) -> Any:
    if isinstance(value, str):
      return _at_home(value) if value.startswith('~/') else value
    if isinstance(value, list | tuple):
      return type(value)(map(expanded, value))
    return {k: expanded(v) for k, v in value.items()} if isinstance(value, dict) else value

  for name, value in config.items() if isinstance(config, ConfigDict) else ():
    if isinstance(value, ConfigDict):
      _home_config(value)
    elif isinstance(value, str | list | tuple | dict) and expanded(value) != value:
      config[name] = expanded(value)
  return config


def _with_groups(config: Any, argv: Sequence[str]) -> Any:
  """Prepares a config for command-line overrides that ml_collections would reject.

  Missing groups are added. Values that may change their type are removed: lists, None and data
  sources, words and booleans, and any value overridden by None.
  """
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
    if not known:
      continue
    free = isinstance(node[name], list | None) or match[2] == 'None' or name == 'source'
    # True or a word, as `remat`.
    value, word = node[name], match[2].lower()
    to_word = isinstance(value, bool) and word not in ('true', 'false', '1', '0')
    to_bool = isinstance(value, str) and word in ('true', 'false')
    if free or to_word or to_bool:
      del node[name]
  return config


def distributed_flags() -> None:
  """Defines the flags for multi-host runs and the compilation cache."""
  flags.DEFINE_bool(
    'distributed', False, 'Multi-host run configured by the environment (TPU pod, Slurm).'
  )
  flags.DEFINE_string('coordinator', None, 'Multi-host run: HOST:PORT of process 0.')
  flags.DEFINE_integer('num_processes', None, 'Multi-host run: number of processes.', lower_bound=1)
  flags.DEFINE_integer('process_id', None, 'Multi-host run: index of this process.', lower_bound=0)
  flags.DEFINE_string(
    'compilation_cache',
    os.environ.get('JAX_COMPILATION_CACHE_DIR', str(cache_folder() / 'xla')),
    'Folder of the compilation cache (empty: no cache).',
  )
  shared('distributed', 'coordinator', 'num_processes', 'process_id', 'compilation_cache')


def start_jax() -> None:
  """Configures malloc, the compilation cache and, if the flags say so, `jax.distributed`."""
  keep_freed_memory()
  import jax

  values = flags.FLAGS
  if values.compilation_cache:
    jax.config.update('jax_compilation_cache_dir', values.compilation_cache)
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  given = [values.coordinator, values.num_processes, values.process_id]
  if any(v is not None for v in given):
    if any(v is None for v in given):
      raise InputError(
        '--coordinator, --num_processes and --process_id go together: give all three.'
      )
    jax.distributed.initialize(values.coordinator, values.num_processes, values.process_id)
    peers.start()
  elif values.distributed:
    jax.distributed.initialize()
    peers.start()
