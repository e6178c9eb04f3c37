"""Answers judged by a language model: any callable prompt -> reply, such as `endpoint.Endpoint`.

Every reply is kept (`transcripts.py`). A score names the judge, its model, and the version of its
prompt; replies that cannot be parsed are counted.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from research.errors import InputError
from research.evals.rubrics import Rubric
from research.evals.transcripts import Transcripts, key_of
from research.jobs import progress

Ask = Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """One judged answer.

  Attributes:
    score: what the rubric reads in the reply: a number; None: it cannot be parsed.
    reply: of the judge.
  """

  score: Any
  reply: str


@dataclasses.dataclass(frozen=True)
class Judge:
  """A language model with a rubric.

  Attributes:
    ask: prompt -> reply; called from several threads.
    rubric: what is asked, and how the reply is read.
    model: name of the language model, as it is written beside scores.
    transcripts: where replies are kept.
    settings: what replies depend on besides.
    workers: prompts that are asked at once.
  """

  ask: Ask
  rubric: Rubric
  model: str
  transcripts: Transcripts = dataclasses.field(default_factory=lambda: Transcripts(None))
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  workers: int = 4

  @property
  def stated(self) -> dict[str, str]:
    """What is written beside scores."""
    return {
      'judge': self.model, 'rubric': self.rubric.name, 'prompt_version': self.rubric.version
    }  # fmt: skip

  def __call__(self, rows: Sequence[Mapping[str, str]], text: str = 'judged') -> list[Verdict]:
    """Judges answers; equal ones are asked once.

    Args:
      rows: fields of the rubric: instruction, label, response and, where it is asked for,
        task_name. text: of the progress bar.

    Raises:
      InputError: some answers could not be judged; the others are kept.
    """
    prompts = [self.rubric.fill(**row) for row in rows]
    keys = [self._key(prompt) for prompt in prompts]
    open_ = {key: p for key, p in zip(keys, prompts) if self.transcripts.get(key) is None}
    failed: list[InputError] = []
    pool = concurrent.futures.ThreadPoolExecutor(max(1, self.workers))
    try:
      with progress.bar(text, len(open_), active=bool(open_)) as advance:
        jobs = [pool.submit(self._one, key, prompt) for key, prompt in open_.items()]
        for done, job in enumerate(concurrent.futures.as_completed(jobs), start=1):
          if error := job.exception():
            if not isinstance(error, InputError):
              raise error
            failed.append(error)
            break  # what has not begun would fail as well
          advance(done)
    finally:
      # Replies that are under way are kept.
      pool.shutdown(cancel_futures=True)
    if failed:
      raise failed[0]
    replies = [(self.transcripts.get(key) or {})['reply'] for key in keys]
    return [Verdict(self.rubric.parse(reply), reply) for reply in replies]

  def _key(self, prompt: str) -> str:
    return key_of(prompt=prompt, model=self.model, settings=dict(self.settings))

  def _one(self, key: str, prompt: str) -> None:
    reply = self.ask(prompt)
    if not isinstance(reply, str):
      raise InputError(f'The judge {self.model} replied {type(reply).__name__}; expected a text.')
    row = {'model': self.model, 'version': self.rubric.version, 'prompt': prompt, 'reply': reply}
    self.transcripts.add(key, row)


@dataclasses.dataclass(frozen=True)
class Judged:
  """Scores of one task.

  Attributes:
    score: mean; unparsable replies count as the lowest score.
    count: answers.
    unparsable: replies that could not be parsed.
    stated: judge, rubric and version of the prompt.
  """

  score: float
  count: int
  unparsable: int
  stated: Mapping[str, str]


def judged(verdicts: Sequence[Verdict], judge: Judge) -> Judged:
  """The mean of verdicts.

  Raises:
    InputError: there are none.
  """
  if not verdicts:
    raise InputError('There are no answers to judge.')
  low = judge.rubric.low
  scores = [low if v.score is None else v.score for v in verdicts]
  lost = sum(v.score is None for v in verdicts)
  return Judged(float(np.mean(scores)), len(scores), lost, judge.stated)
