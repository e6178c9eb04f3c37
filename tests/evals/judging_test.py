import contextlib
import http.server
import json
import threading
import time

import pytest

from research.errors import InputError
from research.evals import rubrics
from research.evals.endpoint import Endpoint
from research.evals.judging import Judge, judged
from research.evals.transcripts import Transcripts

KEY = 'sk-secret-of-this-test'


@contextlib.contextmanager
def serve(answer):
  """A server on this machine; `answer(number, body, headers)` gives (status, bytes, headers), or
  None, which never answers. Yields its address and what it was asked."""
  asked, lock = [], threading.Lock()
  ended = threading.Event()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
      with lock:
        asked.append((self.path, body, dict(self.headers)))
        number = len(asked)
      found = answer(number, body)
      if found is None:
        ended.wait(5)
        return
      status, data, *more = found
      self.send_response(status)
      for name, value in (more[0] if more else {}).items():
        self.send_header(name, value)
      self.send_header('Content-Length', str(len(data)))
      self.end_headers()
      self.wfile.write(data)

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  server.daemon_threads = True
  thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_address[1]}/v1', asked
  finally:
    ended.set()
    server.shutdown()
    server.server_close()


def says(text):
  return 200, json.dumps({'choices': [{'message': {'content': text}}]}).encode()


def test_an_endpoint_is_asked_as_openai_is(monkeypatch):
  monkeypatch.setenv('OIDO_TEST_KEY', KEY)
  with serve(lambda number, body: says('Result: YES')) as (url, asked):
    reply = Endpoint(f'{url}/', 'm-1', key_variable='OIDO_TEST_KEY')('Is it?')
    assert reply == 'Result: YES'
    ((path, body, headers),) = asked
    assert path == '/v1/chat/completions'
    assert body == {
      'model': 'm-1',
      'temperature': 0.0,
      'max_tokens': 512,
      'messages': [{'role': 'user', 'content': 'Is it?'}],
    }
    assert headers['Authorization'] == f'Bearer {KEY}'
    monkeypatch.delenv('OIDO_TEST_KEY')
    Endpoint(url, 'm-1', key_variable='OIDO_TEST_KEY')('Is it?')
    assert 'Authorization' not in asked[-1][2]


@pytest.mark.parametrize(
  'first',
  [
    None,
    (500, b'broken'),
    (429, b'slowly', {'Retry-After': '0.01'}),
    (200, b'<html>no JSON</html>'),
    (200, b'{"choices": []}'),
    (200, b'{"choices": [{"message": {"content": null}}]}'),
  ],
)
def test_what_may_be_better_later_is_asked_again(first):
  with serve(lambda n, body: first if n == 1 else says('fine')) as (url, asked):
    assert Endpoint(url, 'm', timeout=0.3, wait=0.01)('x') == 'fine'
    assert len(asked) == 2


def test_refusals_are_a_sentence_without_the_key(monkeypatch, caplog):
  monkeypatch.setenv('OIDO_TEST_KEY', KEY)
  made = dict(key_variable='OIDO_TEST_KEY', wait=0.01, tries=2, timeout=0.2)
  echo = f'wrong key {KEY}\x1b[31m'.encode()
  for answer, sentence, tries in (
    ((401, echo), 'refused with status 401 .wrong key …', 1),
    ((302, b'', {'Location': 'http://127.0.0.1:1/'}), 'refused with status 302', 1),
    ((503, echo), 'no reply in 2 tries; the last: status 503', 2),
    (None, 'no reply within 0.2 s', 2),
    ((200, b'x' * 100), 'reply without choices', 2),
  ):
    with serve(lambda number, body, answer=answer: answer) as (url, asked):
      with pytest.raises(InputError, match=sentence) as error:
        Endpoint(url, 'm', **made)('x')
      assert len(asked) == tries
      assert KEY not in str(error.value) and '\x1b' not in str(error.value)
  with pytest.raises(InputError, match='no reply in 2 tries; the last: URLError'):
    Endpoint(url, 'm', **made)('x')
  assert KEY not in caplog.text
  for wrong in ('localhost:8000', 'file:///etc/passwd', 'http://user:pw@host/v1'):
    with pytest.raises(InputError, match='address'):
      Endpoint(wrong, 'm')


def test_a_body_that_never_ends_is_given_up():
  class Slow:
    def read1(self, size):
      time.sleep(0.05)
      return b' '

  endpoint = Endpoint('http://localhost/v1', 'm', timeout=0.1)
  start = time.monotonic()
  with pytest.raises(TimeoutError):
    endpoint._read(Slow(), start + endpoint.timeout)
  assert time.monotonic() - start < 1


ROWS = [
  {'instruction': 'What {braces}?', 'label': 'dog', 'response': f'{answer}', 'task_name': 'T'}
  for answer in ('a dog', 'a cat', 'a dog', '{label}')
]


def test_a_judge_asks_once_and_goes_on(tmp_path):
  kept = tmp_path / 'judge' / 'answers.jsonl'
  asked = []

  def ask(prompt):
    if len(asked) == 1:
      raise InputError('The machine is gone.')
    asked.append(prompt)
    return 'Result: YES' if 'system: a dog' in prompt else 'maybe'

  judge = Judge(ask, rubrics.get('correct'), 'm', Transcripts(kept), workers=1)
  with pytest.raises(InputError, match='is gone'):
    judge(ROWS)
  judge.transcripts.close()
  assert len(kept.read_text().splitlines()) == 1
  # A line that was cut off by a kill.
  with open(kept, 'a') as file:
    file.write('{"key": "ab')
  again = Judge(lambda p: asked.append(p) or 'maybe', judge.rubric, 'm', Transcripts(kept))
  found = again(ROWS)
  assert len(asked) == len(set(asked)) == 3
  assert [v.score for v in found] == [1.0, None, 1.0, None]
  total = judged(found, again)
  assert (total.score, total.count, total.unparsable) == (0.5, 4, 2)
  assert total.stated == {
    'judge': 'm', 'rubric': 'correct', 'prompt_version': judge.rubric.version
  }  # fmt: skip
  # Another prompt or model is asked anew; braces in the fields stay.
  Judge(lambda p: asked.append(p) or '', judge.rubric, 'n', again.transcripts)(ROWS)
  assert len(asked) == 6 and '{label}' in asked[-1] + asked[-2] + asked[-3]
  again.transcripts.close()
  reopened = Transcripts(kept)
  assert len(reopened) == 6 and KEY not in kept.read_text()
  reopened.close()
  (tmp_path / 'judge' / 'other.jsonl').write_text('hello\n')
  with pytest.raises(InputError, match='line 1: not an answer'):
    Transcripts(tmp_path / 'judge' / 'other.jsonl')


def test_a_judge_that_fails_asks_no_more():
  asked = []

  def ask(prompt):
    asked.append(prompt)
    time.sleep(0.02)
    raise InputError('The machine is gone.')

  rows = [{**ROWS[0], 'response': str(i)} for i in range(200)]
  with pytest.raises(InputError, match='is gone'):
    Judge(ask, rubrics.get('correct'), 'm', workers=2)(rows)
  assert len(asked) < 10


def test_through_an_endpoint_with_a_server_that_fails_now_and_then(tmp_path):
  def answer(number, body):
    if number % 3 == 1:
      return 500, b''
    return says(
      'Result: YES' if 'system: a dog' in body['messages'][0]['content'] else 'Result: NO'
    )

  with serve(answer) as (url, asked):
    ask = Endpoint(url, 'm', wait=0.01)
    judge = Judge(ask, rubrics.get('correct'), 'm', Transcripts(tmp_path / 'x.jsonl'), ask.settings)
    assert [v.score for v in judge(ROWS)] == [1.0, 0.0, 1.0, 0.0]
    count = len(asked)
    assert [v.score for v in judge(ROWS)] == [1.0, 0.0, 1.0, 0.0] and len(asked) == count


def test_verdicts_are_parsed_strictly():
  for reply, want in (
    ('It fits.\nResult: YES', 1.0),
    ('result:no', 0.0),
    ('**Result:** **YES**', 1.0),
    ('**Result**: no', 0.0),
    ('Result: **YES**', 1.0),
    ('Result: <NO>', 0.0),
    ('Result : yes.', 1.0),
    ('The result: yesterday', None),
    ('Result: notable', None),
    ('Result: YES or NO', None),
    ('Result: NO\nResult: YES', None),
    ('Result: no, final result: no', 0.0),
    ('Yes', None),
    ('', None),
  ):
    assert rubrics.parse_strictly(reply) == want, reply


def test_grades_are_parsed_strictly():
  for reply, want in (
    ('{"reason": "fine", "score": 7}', 7.0),
    ('```json\n{"score": "8.5", "reason": "x {y}"}\n```', 8.5),
    ('```json\n{"score": "8.5", "reason": "x"}\n```', 8.5),
    ('Score: 9/10', 9.0),
    ('**Score**: 4', 4.0),
    ('Score: 1-10', None),
    ('{"score": 11}', None),
    ('{"score": true}', None),
    ('{"score": 3} {"score": 4}', None),
    ('It is a 7.', None),
    ('{"score": NaN}', None),
  ):
    assert rubrics.parse_score(reply, 1, 10) == want, reply
  closed = rubrics.get('evalsift_closed').parse
  assert [closed(f'{{"score": {s}}}') for s in (0, 1, 0.5, 2)] == [0.0, 1.0, None, None]


def test_a_prompt_of_ones_own(tmp_path):
  base = rubrics.get('correct')
  file = tmp_path / 'mine.txt'
  file.write_text('Is "{response}" aligned with "{label}"? {other}')
  mine = rubrics.read_rubric(file, base, official=True)
  assert mine.fill(response='{label}', label='x') == 'Is "{label}" aligned with "x"? {other}'
  assert mine.version != base.version and mine.parse('result: yesterday') == 1.0
  with pytest.raises(InputError, match=r'\{label\}'):
    mine.fill(response='x')
  file.write_text('Is it right?')
  with pytest.raises(InputError, match='no place for the answer'):
    rubrics.read_rubric(file, base)
  with pytest.raises(InputError, match='cannot be read'):
    rubrics.read_rubric(tmp_path / 'none.txt', base)
  with pytest.raises(InputError, match="Did you mean 'air_bench'"):
    rubrics.get('airbench')
