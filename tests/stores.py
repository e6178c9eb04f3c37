"""Object stores on 127.0.0.1 for the tests: packages that behave as S3 and Google Cloud Storage."""

import contextlib
import io
import re
import threading
import urllib.parse
import urllib.request

import pytest

BUCKET = 'bucket'
# Settings by which the clients find the servers, and what keeps them from looking elsewhere.
COMMON = {
  'EPATH_USE_TF': 'false',
  'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
  'AWS_ACCESS_KEY_ID': 'test',
  'AWS_SECRET_ACCESS_KEY': 'test',
  'AWS_DEFAULT_REGION': 'us-east-1',
  'AWS_REGION': 'us-east-1',
  'AWS_EC2_METADATA_DISABLED': 'true',
  'NO_GCE_CHECK': 'true',
  'GOOGLE_CLOUD_PROJECT': 'test',
}


class Server:
  """A store.

  Attributes:
    env: the environment that leads clients to it.
    root: an address of its bucket.
    requests: how many it has answered.
    failing: function (method, path, number of the request) -> an HTTP status to answer instead, or
      None.
  """

  def __init__(self, scheme):
    self.scheme, self.root = scheme, f'{scheme}://{BUCKET}'
    self.requests, self.failing = 0, None
    self._lock = threading.Lock()
    self._http = getattr(self, f'_{scheme}')()
    self.url = f'http://127.0.0.1:{self._http.server_port}'
    threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
    where = (
      {'AWS_ENDPOINT_URL': self.url}
      if scheme == 's3'
      else {'STORAGE_EMULATOR_HOST': self.url, 'TENSORSTORE_GCS_HTTP_URL': self.url}
    )
    self.env = COMMON | where

  def _status(self, method, path):
    with self._lock:
      self.requests += 1
      return self.failing(method, path, self.requests) if self.failing else None

  def _s3(self):
    import boto3  # noqa: F401  (a part of moto's server that is imported late)
    from moto.moto_api._internal.managed_state_model import ManagedState  # noqa: F401
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    inner = DomainDispatcherApplication(create_backend_app)

    def app(environ, start):
      status = self._status(environ['REQUEST_METHOD'], environ['PATH_INFO'])
      if status:
        code = {403: 'AccessDenied', 503: 'SlowDown'}.get(status, 'InternalError')
        start(f'{status} {code}', [('Content-Type', 'application/xml')])
        return [f'<Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()]
      return inner(environ, start)

    return make_server('127.0.0.1', 0, app, threaded=True)

  def _gs(self):
    from http.server import HTTPServer

    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    storage, outer = Storage(use_memory_fs=True), self
    buckets.create_bucket(BUCKET, storage)

    class Handler(RequestHandler):
      def __init__(self, *args):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
          super().__init__(storage, *args)

      def end_headers(self):
        # The package leaves out what the real store sends, and tensorstore compares.
        place = urllib.parse.urlsplit(self.path)
        named = re.search(r'/b/([^/]+)/o/([^/?]+)', place.path)
        if self.command == 'GET' and named and 'alt=media' in place.query:
          with contextlib.suppress(Exception):
            about = storage.get_file_obj(named[1], urllib.parse.unquote(named[2]))
            self.send_header('x-goog-generation', about['generation'])
        super().end_headers()

      def parse_request(self):
        if not super().parse_request():
          return False
        status = outer._status(self.command, self.path)
        body = None
        if status or 'ifGenerationMatch=0' in self.path:
          body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        if not status and body is not None and self._there(body):
          status = 412
        if status:
          self.send_error(status)
        elif body is not None:
          self.rfile = io.BytesIO(body)
        return not status

      def _there(self, body):
        # The package makes an object anew whatever the request demands.
        name = re.search(rb'"name":\s*"([^"]+)"', body)
        with contextlib.suppress(Exception):
          return bool(name and storage.get_file_obj(BUCKET, name[1].decode()))
        return False

    return HTTPServer(('127.0.0.1', 0), Handler)

  def start(self, patch):
    """Points this process to the store."""
    for name, value in self.env.items():
      patch.setenv(name, value)
    _forget()
    if self.scheme == 's3':
      import boto3

      boto3.client('s3', endpoint_url=self.url).create_bucket(Bucket=BUCKET)

  def stop(self):
    if self.scheme == 's3':  # one memory for all servers of a process
      self.failing = None
      request = urllib.request.Request(f'{self.url}/moto-api/reset', method='POST')
      urllib.request.urlopen(request).close()
    self._http.shutdown()
    self._http.server_close()
    _forget()


def _forget():
  """Lets clients be made anew: they have read the environment of an earlier test."""
  import fsspec

  from research.jobs import paths

  for scheme in paths.SCHEMES:
    with contextlib.suppress(ImportError):
      fsspec.get_filesystem_class('gcs' if scheme == 'gs' else scheme).clear_instance_cache()
  from etils.epath import backend

  backend.fsspec_backend._get_filesystem.cache_clear()


@contextlib.contextmanager
def running(scheme, tmp_path):
  """A store for one test, with a cache folder of its own."""
  patch = pytest.MonkeyPatch()
  for name, value in COMMON.items():  # some are read when the clients are imported
    patch.setenv(name, value)
  for name in {'s3': ('moto', 'flask', 's3fs'), 'gs': ('gcp_storage_emulator', 'gcsfs')}[scheme]:
    pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[test]'")
  patch.setenv('OIDO_CACHE', str(tmp_path / 'cache'))
  server = Server(scheme)
  try:
    server.start(patch)
    yield server
  finally:
    server.stop()
    patch.undo()
