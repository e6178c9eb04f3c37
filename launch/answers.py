"""The suites of `launch.evaluate` that put questions to audio language models: dynamic_superb,
evalsift_closed, evalsift_open and air_bench."""

import json
import pathlib
from typing import Any

from absl import flags

JUDGE = flags.DEFINE_string(
  'judge', None, 'Address of the language model that judges answers, as http://localhost:8000/v1 '
  '(chat completions; its key in $OPENAI_API_KEY).',
)  # fmt: skip
JUDGE_MODEL = flags.DEFINE_string('judge_model', None, 'Name of that language model there.')
RUBRIC = flags.DEFINE_string(
  'rubric', None, 'A file with the prompt of the judge instead of ours, with {instruction}, '
  '{label} and {response}.',
)  # fmt: skip
OFFICIAL = flags.DEFINE_bool(
  'official_parser', False, 'Read YES and NO of the judge as the runner of Dynamic-SUPERB does.'
)
DECODING = flags.DEFINE_string(
  'decoding', '{"do_sample": false}', 'How answers are decoded, in the names of '
  'generation_config.json, as JSON.',
)  # fmt: skip
BY = flags.DEFINE_string('group_by', 'category', 'Column of instruction data that groups scores.')
ANSWER_BATCH = flags.DEFINE_integer(
  'answer_batch_size', 8, 'Windows of audio at once.', lower_bound=1
)

DYNAMIC = 'dynamic_superb'
# Sets of conversations, by the rubric that grades them.
CHATS = ('evalsift_closed', 'evalsift_open', 'air_bench')


def is_answers(suite: str | None) -> bool:
  """Whether a suite is one of questions."""
  return suite in (DYNAMIC, *CHATS)


def run(
  paths: list[str], release: str | None, tokenizer: str | None, suite: str, root: str | None,
  out: str,
) -> None:  # fmt: skip
  """Scores models on a suite, writes the tables and prints them.

  Args:
    paths: weights.
    release: whose original weights they are; None: as they say.
    tokenizer: of the weights; None: as they say.
    suite: of questions.
    root: the folder of tasks, or of the JSON lines.
    out: a folder; each of several models has a folder in it.
  """
  from research import weights
  from research.errors import InputError
  from research.weights import writers

  if root is None:
    raise InputError(
      f'--suite={suite} needs --data_root=…: the folder of '
      f'{"tasks with instance.json" if suite == DYNAMIC else "JSON lines with messages"}.'
    )
  try:
    decoding = json.loads(DECODING.value)
  except ValueError as error:
    raise InputError(f'--decoding: {error}.') from None
  if not isinstance(decoding, dict):
    raise InputError(f'--decoding={DECODING.value}: expected {{"name": value, …}}.')
  for number, path in enumerate(dict.fromkeys(paths)):
    loaded = weights.load(path, release=release)
    chat = writers.chat(loaded, tokenizer, batch_size=ANSWER_BATCH.value, **decoding)
    system = json.dumps({'model': loaded.fingerprint, **chat.about()}, sort_keys=True)
    home = pathlib.Path(out) / str(number) if len(set(paths)) > 1 else pathlib.Path(out)
    home.mkdir(parents=True, exist_ok=True)
    score = _dynamic if suite == DYNAMIC else _chats
    score(chat, system, suite, root, home, f'{loaded.name}, {loaded.origin}')


def _judge(rubric: str, home: pathlib.Path) -> Any:
  """The judge of the flags; None without one."""
  from research.errors import InputError
  from research.evals import rubrics
  from research.evals.endpoint import Endpoint
  from research.evals.judging import Judge
  from research.evals.transcripts import Transcripts

  if JUDGE.value is None:
    return None
  if not JUDGE_MODEL.value:
    raise InputError(f'--judge={JUDGE.value} needs --judge_model=…: its name there.')
  ask, own = Endpoint(JUDGE.value, JUDGE_MODEL.value), rubrics.get(rubric)
  if RUBRIC.value:
    own = rubrics.read_rubric(RUBRIC.value, own, OFFICIAL.value)
  kept = Transcripts(home / 'judge' / 'replies.jsonl')
  return Judge(ask, own, ask.model, kept, ask.settings)


def _answer(chat: Any) -> Any:
  """The chat, whose answer to what it cannot take is none."""
  from absl import logging

  from research.errors import InputError

  def answer(clips: Any, messages: Any) -> str:
    try:
      return chat(clips, messages)
    except InputError as error:
      logging.warning('A question has no answer: %s', error)
      return ''

  return answer


def _dynamic(
  chat: Any, system: str, suite: str, root: str, home: pathlib.Path, name: str
) -> None:  # fmt: skip
  from launch import command
  from research.evals import dynamic_superb

  judge = _judge('correct', home)
  found = dynamic_superb.score_tasks(
    root, _answer(chat), system=system, out=home, judge=judge, sample_rate=chat.rate
  )
  command.say(f'\n{name}\n\n{dynamic_superb.markdown(found)}')
  command.say(f'{home / "scores.md"}')


def _chats(
  chat: Any, system: str, suite: str, root: str, home: pathlib.Path, name: str
) -> None:  # fmt: skip
  from launch import command
  from research.audio.sources import open_source
  from research.errors import InputError
  from research.evals import chat_scores
  from research.evals.transcripts import Transcripts

  judge = _judge(suite, home)
  if judge is None:
    raise InputError(
      f'--suite={suite} is graded by a language model: give --judge=http://… and --judge_model=….'
    )
  source = open_source(root)
  kept = Transcripts(home / 'answers.jsonl')
  try:
    found = chat_scores.score_chat(
      chat_scores.read_questions(source), _answer(chat), judge, system=system,
      version=source.fingerprint(), by=BY.value, sample_rate=chat.rate, transcripts=kept,
    )  # fmt: skip
  finally:
    kept.close()
  chat_scores.write_table(home / 'scores.json', found)
  command.say(f'\n{name}\n\n{chat_scores.markdown(found)}')
  command.say(f'{home / "scores.json"}')
