"""Progress of long loops: a bar on a terminal, nothing in a log."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from research.errors import printable


@contextlib.contextmanager
def bar(text: str, total: int, active: bool = True) -> Iterator[Callable[[int], None]]:
  """Gives a function that takes how many of `total` are done.

  Args:
    text: what is going on.
    total: how many there are.
    active: False shows nothing (all processes but the first).
  """
  if not (active and sys.stderr.isatty()):
    yield lambda done: None
    return
  from rich.console import Console
  from rich.markup import escape
  from rich.progress import Progress

  with Progress(console=Console(stderr=True), transient=True) as progress:
    task = progress.add_task(escape(printable(text)), total=total)
    yield lambda done: progress.update(task, completed=done)
