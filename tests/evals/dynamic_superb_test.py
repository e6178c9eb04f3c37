import io
import json
import math

import numpy as np
import pytest
import soundfile

from research.errors import InputError
from research.evals import answer_scores, dynamic_superb, leaderboard, rubrics
from research.evals.judging import Judge
from research.evals.transcripts import Transcripts

INSTRUCTIONS = [f'Which of the animals is it, phrased in way {i}?' for i in range(10)]


def write_task(root, name, labels, clips=1, **about):
  """A task of rows with short clips of one pitch each."""
  home = root / name.split('_')[0] / name
  home.mkdir(parents=True)
  own = {'name': name, 'path': 'DynamicSuperb/x', 'version': 'abc', **about}
  (home / 'instance.json').write_text(json.dumps(own))
  rows = []
  for i, label in enumerate(labels):
    row = {'file': f'{i}.wav', 'instruction': INSTRUCTIONS[i % 10], 'label': label}
    for k in range(clips):
      key = 'audio' if k == 0 else f'audio{k + 1}'
      row[key] = f'{i}_{k}.wav'
      soundfile.write(home / row[key], np.full(800, (i + 1) / 100 + k / 1000), 16_000)
    rows.append(row)
  (home / 'test.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  return home


ANIMALS = ['Dog', 'cat', 'bird', 'horse'] * 3


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
  root = tmp_path_factory.mktemp('benchmark_tasks')
  write_task(root, 'BirdSoundDetection_Small', ANIMALS, clips=2)
  write_task(root, 'SpeechTextMatching_Small', ['yes', 'no'] * 6)
  write_task(root, 'Recognition_Small', ['hello there', 'good morning, all'] * 6, metric='wer')
  write_task(root, 'Distance_Small', ['1.5', '-20'] * 6, metrics=['mse'])
  return root


def echo(task):
  """A system that hears which row it is given, and gives its label."""
  labels = [q.label for q in task.questions]
  return lambda clips, messages: labels[round(float(clips[0].mean()) * 100) - 1]


def test_echo_and_silence(tasks):
  folders = dynamic_superb.find_tasks(tasks)
  assert len(folders) == 4
  found = {}
  for folder in folders:
    task = dynamic_superb.read_task(folder)
    for system, answer in (('echo', echo(task)), ('silent', lambda clips, messages: '')):
      scored = dynamic_superb.score_task(task, answer, system=system)
      found[task.name, system] = scored
      one = scored.score
      assert one.missing == (0.0 if system == 'echo' else 1.0)
      want = {'accuracy': (1.0, 0.0), 'wer': (0.0, math.nan), 'mse': (0.0, math.nan)}[one.metric]
      np.testing.assert_equal(one.value, want[system == 'silent'])
      if one.metric != 'mse':
        assert one.score == (1.0 if system == 'echo' else 0.0)
      assert (scored.version, one.count) == ('abc', 12)
  table = dynamic_superb.table([s for (_, system), s in found.items() if system == 'echo'])
  assert table['domains'] == {'audio': 1.0, 'content': 1.0, 'other': 1.0, 'all': 1.0}
  want = {'task': 'BirdSoundDetection', 'dataset': 'Small', 'domain': 'audio', 'value': 1.0}
  want |= {'judge': 'exact match', 'version': 'abc', 'missing': 0.0}
  assert want.items() <= table['tasks'][0].items()


def test_all_tasks_at_once(tasks, tmp_path):
  echoes = {folder.name: echo(dynamic_superb.read_task(folder))
          for folder in dynamic_superb.find_tasks(tasks)}  # fmt: skip
  asked = []

  def answer(clips, messages):
    asked.append(len(clips))
    return echoes['SpeechTextMatching_Small'](clips, messages)

  for _ in range(2):
    found = dynamic_superb.score_tasks(tasks, answer, system='m', out=tmp_path / 'out')
    assert len(asked) == 48
  assert {row['task']: row['value'] for row in found['tasks']} == {
    'BirdSoundDetection': 0.0, 'SpeechTextMatching': 1.0, 'Recognition': 1.0,
    'Distance': pytest.approx(math.nan, nan_ok=True),
  }  # fmt: skip
  written = json.loads((tmp_path / 'out/scores.json').read_text())
  assert written['domains']['content'] == 1.0 and written['tasks'][1]['value'] is None
  assert '| content | 1.0000 |' in (tmp_path / 'out/scores.md').read_text()
  # The same answers, judged.
  judge = Judge(
    lambda p: 'Result: NO' if 'Result' in p else 'Extracted: N/A', rubrics.get('correct'), 'j'
  )
  found = dynamic_superb.score_tasks(tasks, answer, system='m', out=tmp_path / 'out', judge=judge)
  assert len(asked) == 48
  assert [row['value'] for row in found['tasks'][:1]] == [0.0]
  assert [row['missing'] for row in found['tasks']] == [0.0, 1.0, 1.0, 0.0]


def test_what_a_system_is_given_and_a_killed_run(tasks, tmp_path):
  task = dynamic_superb.read_task(tasks / 'BirdSoundDetection' / 'BirdSoundDetection_Small')
  given = []

  def answer(clips, messages):
    if len(given) == 5:
      raise KeyboardInterrupt
    given.append((clips, messages))
    return 'dog'

  kept = tmp_path / 'answers.jsonl'
  with pytest.raises(KeyboardInterrupt):
    dynamic_superb.score_task(task, answer, system='m', transcripts=Transcripts(kept))
  (clips, (message,)) = given[2]
  assert [c.dtype for c in clips] == ['float32'] * 2 and len(clips[0]) == 800
  np.testing.assert_allclose([c.mean() for c in clips], [0.03, 0.031], atol=1e-4)
  assert [type(p).__name__ for p in message.parts] == ['Clip', 'Clip', 'str']
  assert message.role == 'user' and message.text == INSTRUCTIONS[2]
  again = []
  scored = dynamic_superb.score_task(
    task, lambda c, m: again.append(m) or ' DOG ', system='m', transcripts=Transcripts(kept)
  )
  assert len(again) == 12 - 5
  assert scored.score.value == 0.25


def test_judged_and_extracted(tasks):
  task = dynamic_superb.read_task(tasks / 'BirdSoundDetection' / 'BirdSoundDetection_Small')
  prompts = []

  def ask(prompt):
    prompts.append(prompt)
    return 'Result: YES' if 'system: a dog' in prompt and 'answer: Dog' in prompt else 'No idea.'

  judge = Judge(ask, rubrics.get('correct'), 'judge-1')
  echoes = echo(task)

  def answer(clips, messages):
    label = echoes(clips, messages)
    return {'Dog': 'a dog', 'cat': '', 'bird': 'N/A'}.get(label, 'a dog')

  scored = dynamic_superb.score_task(task, answer, system='m', judge=judge)
  assert (scored.score.value, scored.score.missing, scored.score.unparsable) == (0.25, 0.5, 3)
  assert scored.row()['judge'] == 'judge-1' and len(prompts) == 6
  exact = dynamic_superb.score_task(task, answer, system='m')
  with pytest.raises(InputError, match='cannot be compared'):
    dynamic_superb.table([scored, exact])
  # Numbers and transcripts by a language model that does not see the label.
  rows = [{'instruction': 'How far?', 'label': '5'}] * 4
  replies = iter(['Extracted: 4', '**Extracted:** N/A', 'I cannot', 'Extracted: 7'])
  shown = []
  judge = Judge(
    lambda p: shown.append(p) or next(replies), answer_scores.extractor('mae'), 'm', workers=1
  )
  answers = ['four or so', 'no idea', 'what?', 'seven', None]
  found = answer_scores.score([*rows, rows[0]], answers, 'mae', judge=judge)
  assert (found.value, found.missing, found.unparsable) == (1.5, 0.6, 1)
  assert not any('5' in prompt for prompt in shown)
  replies = iter(['Extracted: "good morning"', 'Extracted: hello their'])
  judge = Judge(lambda p: next(replies), answer_scores.extractor('wer'), 'm', workers=1)
  rows = [{'instruction': 'x', 'label': label} for label in ('Good morning!', 'hello there')]
  found = answer_scores.score(rows, ['It says good morning', 'hello their?'], 'wer', judge=judge)
  assert (found.value, found.score, found.missing) == (0.25, 0.75, 0.0)
  ruled = answer_scores.score(rows, ['good mourning', 'n/a'], 'cer')
  assert ruled.value == pytest.approx(1 / 12) and ruled.score == pytest.approx(11 / 24)
  with pytest.raises(InputError, match='no number'):
    answer_scores.score(rows, ['1', '2'], 'mse')


def test_parquet_of_the_hub(tmp_path):
  pyarrow = pytest.importorskip('pyarrow')
  parquet = pytest.importorskip('pyarrow.parquet')

  def wav(value):
    file = io.BytesIO()
    soundfile.write(file, np.full(400, value), 8_000, format='wav')
    return {'bytes': file.getvalue(), 'path': None}

  home = write_task(tmp_path, 'Verification_Small', [])
  (home / 'test.jsonl').unlink()
  rows = [
    {'file': f'{i}', 'instruction': INSTRUCTIONS[i], 'label': 'yes', 'audio': wav(0.25),
     'audio2': wav(0.5)}
    for i in range(10)
  ]  # fmt: skip
  parquet.write_table(pyarrow.Table.from_pylist(rows), home / 'test-00000-of-00001.parquet')
  task = dynamic_superb.read_task(home)
  heard = []
  scored = dynamic_superb.score_task(
    task, lambda clips, m: heard.append([round(float(np.median(c)), 3) for c in clips]) or 'Yes',
    system='m', sample_rate=8_000,
  )  # fmt: skip
  assert scored.score.value == 1.0 and heard == [[0.25, 0.5]] * 10


def test_rules_of_the_validator(tmp_path):
  good = {'file': 'a', 'instruction': 'x', 'label': 'y', 'audio': 'a.wav'}
  rows = [{**good, 'instruction': text} for text in INSTRUCTIONS]
  dynamic_superb.check_rows(rows, 'T')
  dynamic_superb.check_rows([{**r, 'label1': r['label'], 'label': None} for r in rows], 'T')
  for change, sentence in (
    ({'split': 'train'}, 'only the split test'),
    ({'instruction': ' '}, "no text 'instruction'"),
    ({'file': None}, "no text 'file'"),
    ({'label1': 'z'}, 'exactly one of label and label1, got label, label1'),
    ({'label': ''}, 'exactly one of label and label1, got none'),
    ({'audio1': 'b.wav'}, 'exactly one of audio and audio1'),
    ({'label': {'bytes': b''}}, 'answers are audio'),
  ):
    with pytest.raises(InputError, match=f'row 1: .*{sentence}'):
      dynamic_superb.check_rows([rows[0], {**rows[1], **change}, *rows[2:]], 'T')
  with pytest.raises(InputError, match='1 different instructions for 10 rows'):
    dynamic_superb.check_rows([good] * 10, 'T')
  with pytest.raises(InputError, match='300 rows; its rules ask for 15'):
    dynamic_superb.check_rows(rows * 30, 'T')
  home = write_task(tmp_path, 'Some_Task', ANIMALS, metric='FAD')
  with pytest.raises(InputError, match='names the metric FAD'):
    dynamic_superb.read_task(home)
  assert dynamic_superb.read_task(home, metric='accuracy').metric == 'accuracy'
  (home / 'test.jsonl').write_text('{"file": "a", "audio": "../a.wav"}')
  with pytest.raises(InputError, match='goes up by'):
    dynamic_superb.read_task(home)
  with pytest.raises(InputError, match='holds no instance'):
    dynamic_superb.find_tasks(tmp_path / 'none')
  (home / 'instance.json').write_text('[]')
  with pytest.raises(InputError, match='not an object'):
    dynamic_superb.read_task(home)


def test_relative_scores_and_submissions():
  assert leaderboard.relative(0.6, 0.5, 'accuracy') == pytest.approx(0.2)
  assert leaderboard.relative(0.4, 0.5, 'WER') == pytest.approx(0.2)
  with pytest.raises(InputError, match='not defined'):
    leaderboard.relative(0.4, 0.0, 'wer')
  score = {'metric': 'wer', 'value': 0.1, 'version': 'abc', 'seen': False, 'other': 1}
  found = leaderboard.submission('m', [score])
  assert found == {'name': 'm', 'scores': [{k: score[k] for k in list(score)[:4]}]}
  with pytest.raises(InputError, match='lacks seen'):
    leaderboard.submission('m', [{'metric': 'wer', 'value': 0, 'version': ''}])
