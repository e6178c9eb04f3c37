"""A Hugging Face hub on 127.0.0.1 that works, stalls, breaks off or lies."""

import contextlib
import hashlib
import http.server
import json
import threading
import time
import urllib.parse

SHA = 'a' * 40


class Hub(http.server.ThreadingHTTPServer):
  """Serves `files`, {repository: {name: bytes}}, at revision 'main' and `SHA`.

  Attributes:
    fault: '' or what it does wrong with files of weights: 'stall', 'break', 'size', 'hash'.
    asked: (method, path) of every request.
  """

  daemon_threads = True

  def __init__(self, files):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.files, self.fault, self.asked = files, '', []
    self.url = f'http://127.0.0.1:{self.server_port}'


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *args):
    pass

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    hub = self.server
    place = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip('/')
    hub.asked.append((self.command, place))
    if place.startswith('api/models/'):
      self._about('/'.join(place.split('/')[2:4]), place.partition('/revision/')[2] or 'main')
    elif '/resolve/' in place:
      name, _, rest = place.partition('/resolve/')
      self._file(name, *rest.split('/', 1))
    else:
      self._file('web', 'main', place)

  def _missing(self, code):
    self._answer(404, b'{}', {'X-Error-Code': code})

  def _answer(self, status, body, headers, size=None):
    self.send_response(status)
    for key, value in {'Content-Length': len(body) if size is None else size, **headers}.items():
      self.send_header(key, str(value))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(body)

  def _about(self, name, revision):
    files = self.server.files.get(name)
    if files is None:
      return self._missing('RepoNotFound')
    if revision not in ('main', SHA):
      return self._missing('RevisionNotFound')
    siblings = []
    for file, data in files.items():
      about = {'rfilename': file, 'size': len(data), 'blobId': 'b' * 40}
      if not file.endswith('.json'):
        about['lfs'] = {'size': len(data), 'sha256': _digest(data), 'pointerSize': 100}
      siblings.append(about)
    body = {'id': name, 'modelId': name, 'sha': SHA, 'siblings': siblings, 'private': False}
    return self._answer(200, json.dumps(body).encode(), {'Content-Type': 'application/json'})

  def _file(self, name, revision, file):
    hub, files = self.server, self.server.files.get(name, {})
    if file not in files:
      return self._missing('EntryNotFound')
    data, weights = files[file], not file.endswith('.json')
    headers = {'X-Repo-Commit': SHA, 'ETag': f'"{_digest(data)}"', 'Accept-Ranges': 'bytes'}
    fault = hub.fault if weights else ''
    if fault == 'size':
      data = data[:-4]
    if fault == 'hash':
      data = data[:-4] + b'\1\2\3\4'
    if self.command == 'HEAD' or not fault or fault in ('size', 'hash'):
      start = int((self.headers.get('Range') or 'bytes=0-').split('=')[1].split('-')[0])
      return self._answer(206 if start else 200, data[start:], headers)
    self._answer(200, data[: len(data) // 2], headers, size=len(data))
    self.wfile.flush()
    if fault == 'stall':
      time.sleep(4)
    self.close_connection = True
    return None


def _digest(data):
  return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def running(files, patch, cache):
  """A hub that this process's `huggingface_hub` asks."""
  import huggingface_hub
  from huggingface_hub import constants

  hub = Hub(files)
  thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
  thread.start()
  template = f'{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
  patch.setattr(constants, 'ENDPOINT', hub.url)
  patch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
  patch.setattr(constants, 'HF_HUB_CACHE', str(cache))
  patch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
  patch.setattr(constants, 'HF_HUB_DISABLE_PROGRESS_BARS', True)
  patch.setattr(constants, 'HF_HUB_OFFLINE', False)
  patch.setattr(constants, 'HF_HUB_DOWNLOAD_TIMEOUT', 1)
  patch.setenv('OIDO_CACHE', str(cache.parent / 'oido'))
  del huggingface_hub
  try:
    yield hub
  finally:
    hub.shutdown()
    hub.server_close()
