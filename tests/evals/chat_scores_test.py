import json

import numpy as np
import pytest
import soundfile

from research.audio.sources import open_source
from research.errors import InputError
from research.evals import chat_scores, rubrics
from research.evals.judging import Judge

CATEGORIES = ('acoustic', 'comparison', 'acoustic', 'word-align')


@pytest.fixture(scope='module')
def questions(tmp_path_factory):
  home = tmp_path_factory.mktemp('evalsift')
  rows = []
  for i, category in enumerate(CATEGORIES):
    clips = [f'{i}.wav', f'{i}b.wav'][: 2 if category == 'comparison' else 1]
    for clip in clips:
      soundfile.write(home / clip, np.full(400, (i + 1) / 10 + ('b' in clip) / 100), 16_000)
    parts = [*({'audio_path': c} for c in clips), {'text': f'Question {i}?'}]
    talk = [{'role': 'user', 'content': parts}, {'role': 'assistant', 'content': f'answer {i}'}]
    rows.append({'id': f'q{i}', 'category': category, 'messages': talk})
  spoken = [{'role': 'user', 'content': 'Say it very slowly.'},
            {'role': 'assistant', 'content': [{'audio': '0.wav'}]}]  # fmt: skip
  rows.append({'id': 'spoken', 'category': 'generation', 'messages': spoken})
  (home / 'data.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  return open_source(str(home / 'data.jsonl'))


def test_answers_are_graded_by_category(questions):
  rows = chat_scores.read_questions(questions)
  assert [q.label for q in rows] == [f'answer {i}' for i in range(4)]
  heard = []

  def answer(clips, messages):
    heard.append([round(float(np.median(c)), 2) for c in clips])
    return '' if len(heard) == 4 else f'I say answer {len(heard) - 1}'

  def ask(prompt):
    number = prompt.split('Question ')[1][0]
    assert f'Reference answer: answer {number}' in prompt
    return {'0': '{"reason": "x", "score": 8}', '1': 'no idea'}.get(number, 'Score: 5')

  judge = Judge(ask, rubrics.get('evalsift_open'), 'judge-1')
  found = chat_scores.score_chat(rows, answer, judge, system='m')
  assert heard == [[0.1], [0.2, 0.21], [0.3], [0.4]]
  assert found.groups == {
    'acoustic': {'score': 6.5, 'count': 2, 'unparsable': 0},
    'comparison': {'score': 0.0, 'count': 1, 'unparsable': 1},
    'word-align': {'score': 0.0, 'count': 1, 'unparsable': 0},
    'all': {'score': 13 / 4, 'count': 4, 'unparsable': 1},
  }
  assert found.missing == 0.25
  assert found.stated['judge'] == 'judge-1' and len(found.stated['prompt_version']) == 12
  # The lowest grade of AIR-Bench is 1, also of what is empty or cannot be parsed.
  lowest = Judge(lambda prompt: 'hm', rubrics.get('air_bench'), 'judge-1')
  scored = chat_scores.score_chat(rows, lambda c, m: '', lowest, system='silent', by='none')
  assert scored.groups == {'all': {'score': 1.0, 'count': 4, 'unparsable': 0}}
  scored = chat_scores.score_chat(rows, lambda c, m: 'x', lowest, system='other')
  assert scored.groups['all'] == {'score': 1.0, 'count': 4, 'unparsable': 4}


def test_generation_is_measured(questions):
  (row,) = chat_scores.read_questions(questions, 'audio')
  assert row.text == 'Say it very slowly.' and row.clips == ()
  assert chat_scores.bin_of('speaking_rate', row.text) == 0
  assert chat_scores.bin_of('average_pitch', 'a slightly high pitch') == 4
  assert chat_scores.bin_of('average_intensity', 'softly, then loudly') is None
  found = chat_scores.generation_scores(
    {'average_intensity': [0, 1, 2]},
    [{'average_intensity': [0, 1, 2]}, {'average_intensity': [1, 1, 1]}],
  )
  want = {'mae': 1 / 3, 'quadratic_weighted_kappa': 0.5}
  assert found == {'average_intensity': pytest.approx(want)}
  pitch = {'average_pitch': [1]}
  for call, sentence in (
    (lambda: chat_scores.bin_of('pitch', 'x'), 'average_pitch'),
    (lambda: chat_scores.generation_scores({'average_pitch': [7]}, [pitch]), '7 bins'),
    (lambda: chat_scores.generation_scores({'average_pitch': [1]}, [{}]), 'not measured'),
    (lambda: chat_scores.read_questions(open_source('builtin')), 'no messages'),
  ):
    with pytest.raises(InputError, match=sentence):
      call()
