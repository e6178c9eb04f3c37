"""The processes of a run watch each other: when one ends early, all others end at once and say
which one and why.

Without this, the others hang in a collective or in a barrier until a time limit of minutes, and end
without a sentence. Every process holds a TCP connection to process 0. A connection that closes
before its process said that it is done is a death: process 0 tells all others. A lost machine is
noticed by TCP keepalive, after about 25 seconds.
"""

import contextlib
import json
import os
import platform
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from absl import logging

FAILED = 4  # exit code where another process has ended
KEY = 'oido/peers'
CONNECT_SECONDS = 60
GOODBYE_SECONDS = 2.0  # for which a process that ends waits until the others know
CAUSE_SECONDS = 40.0  # longer than keepalive takes to notice a lost machine
MAX_LINE = 100_000
LOST = (
  'has ended without a message: it was killed, ran out of memory, or its machine is gone. Start '
  'the same command again on every host to continue from what is saved.'
)
# Words in errors of collectives and of jax's coordination that mean trouble with another process.
SIGNS = (
  'gloo', 'connection', 'heartbeat', 'coordination', 'deadline', 'unavailable', 'peer', 'nccl',
  'socket', 'barrier',
)  # fmt: skip

_watch: '_Watch | None' = None


def start() -> None:
  """Starts watching; `jax.distributed` must be initialised. Does nothing with one process."""
  global _watch
  from jax._src import distributed

  state = distributed.global_state
  if _watch is not None or not state.num_processes or state.num_processes == 1:
    return
  try:
    _watch = _connect(state)
  except (OSError, RuntimeError, AttributeError) as error:
    logging.warning(
      'The processes of this run do not watch each other (%s): if one of them ends, the others may '
      'hang for minutes.',
      error,
    )


def several() -> bool:
  """Whether this process watches others."""
  return _watch is not None


def end(sentence: str, code: int) -> NoReturn:
  """Tells the other processes why this one ends, and exits without waiting for them."""
  if _watch is not None:
    _watch.end(sentence, code)
  _exit(code)


def done() -> None:
  """This process has done its work: its end is no accident."""
  if _watch is not None:
    _watch.done()


def await_cause(error: BaseException) -> None:
  """After an error of a collective: waits until it is known which process ended. Then this process
  exits with that sentence; otherwise returns."""
  text = str(error).lower()
  if _watch is not None and any(sign in text for sign in SIGNS):
    _watch.over.wait(CAUSE_SECONDS)
    if _watch.over.is_set():
      time.sleep(GOODBYE_SECONDS)  # another thread exits


def _exit(code: int) -> NoReturn:
  with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
    sys.stderr.flush()
  os._exit(code)


def _connect(state: Any) -> '_Watch':
  host = state.coordinator_address.rsplit(':', 1)[0].strip('[]')
  if state.process_id:
    found = json.loads(state.client.blocking_key_value_get(KEY, 1000 * CONNECT_SECONDS))
    link = _Link(socket.create_connection((host, found['port']), CONNECT_SECONDS))
    link.sock.settimeout(None)
    me = {'index': state.process_id, 'pid': os.getpid(), 'host': platform.node()}
    link.send({**me, 'token': found['token']})
    return _Watch(state.process_id, state.num_processes, host, link, None, found['token'])
  if host in ('localhost', '127.0.0.1', '::1'):
    server = socket.create_server(('127.0.0.1', 0))
  elif socket.has_dualstack_ipv6():
    server = socket.create_server(('', 0), family=socket.AF_INET6, dualstack_ipv6=True)
  else:
    server = socket.create_server(('', 0))
  token = secrets.token_hex(16)
  state.client.key_value_set(KEY, json.dumps({'port': server.getsockname()[1], 'token': token}))
  return _Watch(0, state.num_processes, host, None, server, token)


class _Link:
  """Lines of JSON over a socket."""

  def __init__(self, sock: socket.socket):
    self.sock, self._buffer = sock, b''
    self.who: dict[str, Any] = {}
    self.done = False
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (('TCP_KEEPIDLE', 10), ('TCP_KEEPINTVL', 5), ('TCP_KEEPCNT', 3)):
      if hasattr(socket, option):
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

  def send(self, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
      self.sock.sendall(json.dumps(message).encode() + b'\n')

  def receive(self) -> list[dict[str, Any]] | None:
    """Waits for data; the messages that are complete, or None at the end of the connection."""
    try:
      data = self.sock.recv(65536)
    except OSError:
      return None
    *lines, self._buffer = (self._buffer + data).split(b'\n')
    if not data or len(self._buffer) > MAX_LINE:
      return None
    try:
      return [dict(json.loads(line)) for line in lines]
    except (ValueError, TypeError):
      return None


class _Watch:
  """The connections of one process and the thread that reads them.

  Process 0 has a `server` and a link to each of the others; the others have a `link` to process 0.
  """

  def __init__(self, index, count, host, link, server, token):
    self.index, self.count, self.token = index, count, token
    self.link, self.server = link, server
    self.links: set[_Link] = set()
    self.zero = {'index': 0, 'host': host}
    self.over, self.heard = threading.Event(), threading.Event()
    self._ending = threading.Lock()
    os.register_at_fork(after_in_child=self._close)
    threading.Thread(
      target=self._follow if link else self._serve, name='peers', daemon=True
    ).start()

  def _close(self) -> None:
    """Of a forked worker: a copy of a connection would hide the death of this process."""
    for sock in (self.server, *(each.sock for each in (self.link, *self.links) if each)):
      if sock is not None:
        sock.close()

  # -- This process ends -------------------------------------------------------------------------

  def end(self, sentence: str, code: int) -> None:
    if not self._ending.acquire(blocking=False):
      time.sleep(GOODBYE_SECONDS)  # another thread exits
      return
    print(f'error: {sentence}', file=sys.stderr, flush=True)
    if self.link:
      self.link.send({'ended': sentence, 'code': code})
      # Not until process 0 is gone: jax aborts a process that sees its coordinator end.
      self.heard.wait(GOODBYE_SECONDS)
      return
    self._tell({'index': 0, 'host': platform.node(), 'pid': os.getpid()}, sentence, code)
    # The thread that serves closes the links of those that are gone.
    limit = time.monotonic() + GOODBYE_SECONDS
    while self.links and time.monotonic() < limit:
      time.sleep(0.01)

  def done(self) -> None:
    for link in (self.link,) if self.link else tuple(self.links):
      link.send({'done': True})

  # -- Another process ends ----------------------------------------------------------------------

  def _leave(
    self, who: Mapping[str, Any], why: str | None, code: int, link: _Link | None = None
  ) -> None:
    """Ends this process because `who` has ended, after it where it still has a link."""
    self.over.set()
    if not self._ending.acquire(blocking=False):
      return
    place = ', '.join(str(x) for x in (who.get('host'), _pid(who)) if x)
    text = LOST if why is None else f'has ended: {why}'
    print(
      f'error: Process {who["index"]} of {self.count} ({place}) {text}', file=sys.stderr, flush=True
    )
    if not self.link:
      self._drain([*self._tell(who, why, code), *([link] if link else [])])
    _exit(code)

  def _tell(self, who: Mapping[str, Any], why: str | None, code: int) -> list[_Link]:
    """From process 0 to all others."""
    told = [link for link in tuple(self.links) if link.who.get('index') != who['index']]
    for link in told:
      link.send({'who': dict(who), 'why': why, 'code': code})
    return told

  def _drain(self, links: list[_Link]) -> None:
    """In the thread that serves: waits until these are gone. What they sent and nobody read would
    reset the connection, and with it what they were told."""
    limit = time.monotonic() + GOODBYE_SECONDS
    for link in links:
      with contextlib.suppress(OSError):
        link.sock.settimeout(max(0.01, limit - time.monotonic()))
        while link.sock.recv(65536):
          pass

  def _follow(self) -> None:
    """The thread of processes 1, 2, …: what process 0 says."""
    while (messages := self.link.receive()) is not None:
      for message in messages:
        if 'done' in message:
          self.link.done = True
        elif 'heard' in message:
          self.heard.set()
        elif 'who' in message:
          self._leave(message['who'], message['why'], int(message['code']))
    if not self.link.done:
      self._leave(self.zero, None, FAILED)
    self.over.set()
    self.heard.set()

  def _serve(self) -> None:
    """The thread of process 0: accepts the others and reads what they say."""
    selector = selectors.DefaultSelector()
    selector.register(self.server, selectors.EVENT_READ)
    while True:
      for key, _ in selector.select():
        if key.data is None:
          with contextlib.suppress(OSError):  # it has given up already
            link = _Link(self.server.accept()[0])
            selector.register(link.sock, selectors.EVENT_READ, link)
          continue
        if not self._read(key.data):
          selector.unregister(key.data.sock)
          key.data.sock.close()
          self.links.discard(key.data)

  def _read(self, link: _Link) -> bool:
    """Reads from one of the others; False at the end of its connection."""
    messages = link.receive()
    for message in messages or ():
      if not link.who:
        if not secrets.compare_digest(str(message.get('token')), self.token):
          return False  # not one of us
        link.who = {k: message.get(k) for k in ('index', 'host', 'pid')}
        self.links.add(link)
      elif 'done' in message:
        link.done = True
      elif 'ended' in message:
        link.done = True
        link.send({'heard': True})
        self._leave(link.who, str(message['ended']), int(message['code']), link)
    if messages is None and link.who and not link.done:
      self._leave(link.who, None, FAILED)
    return messages is not None


def _pid(who: Mapping[str, Any]) -> str:
  return f'process id {who["pid"]}' if who.get('pid') else ''
