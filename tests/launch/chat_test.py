"""`launch.chat` and the suites of questions of `launch.evaluate`, as commands."""

import json

import pytest

from tests.evals.dynamic_superb_test import ANIMALS, write_task
from tests.evals.judging_test import says, serve
from tests.inference.chat_test import folder, pretrained  # noqa: F401
from tests.launch import runner


@pytest.mark.slow
def test_questions_and_suites(folder, tmp_path):  # noqa: F811
  model = f'--model={folder / "model"}'
  done = runner.run(
    'launch.chat', model, f'--input={folder / "questions.jsonl"}', f'--out={tmp_path / "a.jsonl"}',
    '--max_new_tokens=3', quick=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  rows = [json.loads(line) for line in (tmp_path / 'a.jsonl').open()]
  assert len(rows) == 3 and rows[0]['answer'] and 'error' in rows[2]
  assert '2 answers, 1 left out' in done.stdout
  write_task(tmp_path / 'tasks', 'BirdSoundDetection_Small', ANIMALS)
  done = runner.run(
    'launch.evaluate', model, '--suite=dynamic_superb', f'--data_root={tmp_path / "tasks"}',
    f'--out={tmp_path / "scores"}', '--decoding={"max_new_tokens": 3}', quick=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'scores' / 'scores.json').read_text())
  assert found['tasks'][0]['value'] == 0.0 and found['tasks'][0]['count'] == 12


@pytest.mark.slow
def test_a_judge_grades_a_chat(folder, tmp_path):  # noqa: F811
  first = json.loads((folder / 'questions.jsonl').read_text().splitlines()[0])
  (folder / 'graded.jsonl').write_text(json.dumps({**first, 'category': 'a'}))
  with serve(lambda number, body: says('{"reason": "x", "score": 7}')) as (url, _):
    done = runner.run(
      'launch.evaluate', f'--model={folder / "model"}', '--suite=evalsift_open',
      f'--data_root={folder / "graded.jsonl"}', f'--out={tmp_path / "scores"}', f'--judge={url}',
      '--judge_model=judge-1', '--decoding={"max_new_tokens": 3}',
    )  # fmt: skip
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'scores' / 'scores.json').read_text())
  assert found['groups']['a'] == {'score': 7.0, 'count': 1, 'unparsable': 0}
  assert found['stated']['judge'] == 'judge-1'


def test_mistakes(folder, tmp_path):  # noqa: F811
  model, clip = f'--model={folder / "model"}', f'--input={folder / "clips/0.wav"}'
  runner.check_mistakes(
    'launch.chat',
    {
      'nothing asked': ([model, clip], ['--question, --task or --out']),
      'unknown task': ([model, clip, '--task=capton'], ["'capton'", 'caption']),
      'no clips': ([model, '--out=a.jsonl'], ['--out was given without --input']),
    },
  )
  runner.check_mistakes(
    'launch.evaluate',
    {
      'no judge': (
        [model, '--suite=air_bench', f'--data_root={folder}', f'--out={tmp_path / "x"}'],
        ['--judge=http://'],
      ),
    },
  )
