"""A language model behind an address: the chat completions of OpenAI's API, which vLLM, llama.cpp
and others speak too. Standard library only."""

import dataclasses
import email.utils
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from absl import logging

from research.errors import InputError, printable

# Answers that may be better the next time.
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
MAX_BYTES = 8 * 2**20
SHOWN = 200


class _Passing(Exception):
  """Something that may be better the next time; `wait` is what the server asks for, seconds."""

  def __init__(self, reason: str, wait: float | None = None):
    super().__init__(reason)
    self.wait = wait


class _Stay(urllib.request.HTTPRedirectHandler):
  """Follows nothing: the key must not be sent to another host."""

  def redirect_request(self, *_: Any) -> None:
    return None


@dataclasses.dataclass(frozen=True)
class Endpoint:
  """A callable: prompt -> reply.

  Attributes:
    url: of the API, as 'http://localhost:8000/v1'; '/chat/completions' is put behind it.
    model: name of the model there.
    key_variable: environment variable with the key, which is sent as a bearer token and never
      written anywhere; no key is sent if it is not set.
    temperature: 0 for judging.
    max_tokens: of a reply.
    timeout: seconds for one try, all together.
    tries: of one prompt.
    wait: seconds before the second try; doubled before each further one.
    longest_wait: limit of what a server may ask to wait, seconds.
  """

  url: str
  model: str
  key_variable: str = 'OPENAI_API_KEY'
  temperature: float = 0.0
  max_tokens: int = 512
  timeout: float = 60.0
  tries: int = 5
  wait: float = 1.0
  longest_wait: float = 60.0

  def __post_init__(self):
    parts = urllib.parse.urlsplit(self.url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
      raise InputError(
        f'{printable(self.url)!r} is no address of a language model: expected http://… or '
        'https://…, as http://localhost:8000/v1.'
      )
    if parts.username or parts.password:
      raise InputError(
        'The address of the language model holds a password: put the key into '
        f'${self.key_variable}.'
      )
    if self.tries < 1 or not self.timeout > 0:
      raise InputError(f'tries={self.tries} and timeout={self.timeout}: expected at least 1 and 0.')

  @property
  def settings(self) -> dict[str, Any]:
    """What a reply depends on."""
    return {
      'model': self.model, 'temperature': self.temperature, 'max_tokens': self.max_tokens
    }  # fmt: skip

  def __call__(self, prompt: str) -> str:
    """The reply to one message of the user.

    Raises:
      InputError: the endpoint refuses, or gives no reply in all tries.
    """
    wait = self.wait
    for attempt in range(1, self.tries + 1):
      try:
        return self._ask(prompt)
      except _Passing as error:
        reason, asked = str(error), error.wait
      if attempt < self.tries:
        pause = min(max(wait, asked or 0.0), self.longest_wait)
        logging.warning('%s: %s; again in %.1f s.', self._where, reason, pause)
        time.sleep(pause)
        wait *= 2
    raise InputError(
      f'{self._where} gave no reply in {self.tries} tries; the last: {reason}. What was answered '
      'so far is kept: start again to go on.'
    )

  @property
  def _where(self) -> str:
    parts = urllib.parse.urlsplit(self.url)
    return f'The language model at {parts.scheme}://{parts.netloc}'

  def _ask(self, prompt: str) -> str:
    body = {
      **self.settings,
      'messages': [{'role': 'user', 'content': prompt}],
    }
    headers = {'Content-Type': 'application/json', 'Accept': 'application/json'}
    key = os.environ.get(self.key_variable, '').strip()
    if key:
      headers['Authorization'] = f'Bearer {key}'
    request = urllib.request.Request(
      self.url.rstrip('/') + '/chat/completions', json.dumps(body).encode(), headers
    )
    deadline = time.monotonic() + self.timeout
    try:
      with urllib.request.build_opener(_Stay).open(request, timeout=self.timeout) as response:
        data = self._read(response, deadline)
    except urllib.error.HTTPError as error:
      said = self._said(error, deadline, key)
      if error.code in PASSING:
        raise _Passing(f'status {error.code}{said}', _retry_after(error)) from None
      raise InputError(
        f'{self._where} refused with status {error.code}{said}: check the address, the name of the '
        f'model ({printable(self.model)}) and the key in ${self.key_variable}.'
      ) from None
    except TimeoutError:
      raise _Passing(f'no reply within {self.timeout:g} s') from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
      reason = getattr(error, 'reason', error)
      if isinstance(reason, TimeoutError):
        raise _Passing(f'no reply within {self.timeout:g} s') from None
      raise _Passing(f'{type(error).__name__}: {printable(reason)[:SHOWN]}') from None
    return _reply(data)

  def _read(self, response: Any, deadline: float) -> bytes:
    """The body, however slowly it comes."""
    found = bytearray()
    while chunk := response.read1(65536):
      found += chunk
      if time.monotonic() > deadline:
        raise TimeoutError
      if len(found) > MAX_BYTES:
        raise _Passing(f'a reply of more than {MAX_BYTES} bytes')
    return bytes(found)

  def _said(self, error: Any, deadline: float, key: str) -> str:
    """What the body of a refusal says, in short and without the key."""
    try:
      text = self._read(error, deadline).decode('utf-8', 'replace')
    except (OSError, http.client.HTTPException, _Passing):
      return ''
    text = ' '.join((text.replace(key, '…') if key else text).split())
    return f' ({printable(text)[:SHOWN]})' if text else ''


def _retry_after(error: urllib.error.HTTPError) -> float | None:
  """Seconds that a server asks to wait, as a number or a date."""
  asked = error.headers.get('Retry-After') if error.headers else None
  if not asked:
    return None
  try:
    return max(0.0, float(asked))
  except ValueError:
    pass
  try:
    return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
  except (ValueError, TypeError):
    return None


def _reply(data: bytes) -> str:
  try:
    found = json.loads(data)['choices'][0]['message']['content']
  except (ValueError, KeyError, IndexError, TypeError, RecursionError):
    found = None
  if not isinstance(found, str):
    shown = printable(' '.join(data[: 4 * SHOWN].decode('utf-8', 'replace').split()))[:SHOWN]
    raise _Passing(f'a reply without choices[0].message.content: {shown!r}')
  return found
