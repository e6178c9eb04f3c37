"""SUPERB's runner on small made data: rows, page, what goes on after a kill, the saved model."""

import dataclasses
import json

import numpy as np
import pytest

from research.errors import InputError
from research.evals import judges, superb
from research.report import superb as shown
from research.report import superb_board
from research.train import superb as heads
from research.train import superb_suite
from research.weights import load

SIZES = dict(train=60, valid=8, test=8)


def small(name):
  task = superb.TASKS[name]
  made = dataclasses.replace(task.made, args={**task.made.args, **SIZES})
  return dataclasses.replace(task, made=made)


@pytest.fixture
def tasks(monkeypatch):
  names = ('small_ic', 'small_sf')
  for name in names:
    monkeypatch.setitem(superb.TASKS, name, small(name))
  return names


def suite(tasks, out, **changes):
  settings = heads.Settings(debug=True, **{'steps': 2, **changes})
  return superb_suite.run_suite([], tasks, out, settings=settings, log=lambda text: None)


@pytest.mark.slow
def test_a_suite(tasks, tmp_path):
  rows = suite(tasks, tmp_path, lrs=(1e-3, 1e-2))
  assert [r['task'] for r in rows] == list(tasks)
  for row in rows:
    metric = row['metrics'][0]
    assert len(row['sweep']) == 2 and row['lr'] in (1e-3, 1e-2)
    best = max(row['sweep'], key=lambda p: p['valid'])
    assert row['scores'][metric] == best['test'] and row['steps'] == 2
    assert row['layer_weights'] == [1.0] and 0 <= row['scores'][metric] <= 1
    assert 'the data are' in row['differs'][0]
  # Again: nothing is trained, the scores are the same.
  runs = {p: p.stat().st_mtime_ns for p in tmp_path.glob('runs/*/*/*/checkpoints/*')}
  again = suite(tasks, tmp_path, lrs=(1e-3, 1e-2))
  assert [r['scores'] for r in again] == [r['scores'] for r in rows]
  assert runs == {p: p.stat().st_mtime_ns for p in tmp_path.glob('runs/*/*/*/checkpoints/*')}
  # One artefact: the head on its encoder gives what was judged.
  task = superb.TASKS['small_ic']
  (parts,) = superb.open_parts(task, made=tmp_path / 'made')
  model = load(rows[0]['model'])
  judge = judges.Slots(task.target, [len(parts.whole.classes(c)) for c in task.target])
  kept = {}
  for i, example in enumerate(parts.test):
    import soundfile

    audio = soundfile.read(example.path, dtype='float32')[0][None]
    batch = {'audio': audio, 'audio_mask': np.ones(audio.shape, bool)}
    found = judge.keep(model.model.apply(model.variables, batch), batch)
    kept[i] = {'found': np.asarray(found['found'])[0]}
  assert judge.score(kept, parts.test)['accuracy'] == rows[0]['scores']['accuracy']
  page = (tmp_path / 'superb.html').read_text()
  assert 'small_ic accuracy' in page and '<svg' in page
  assert json.loads((tmp_path / 'superb.json').read_text())['rows'] == json.loads(json.dumps(again))


def test_published_recipes_are_those_of_s3prl():
  # The figures themselves are compared with the official files in tests/parity.
  assert superb.RECIPES['SID'].lr == 0.1 and superb.RECIPES['KS'].balanced
  assert superb.RECIPES['PR'].mode == 'min' and superb.RECIPES['SD'].ranks == 'frame_accuracy'
  assert set(superb.SUITES['superb']) >= {f'superb_{n}' for n in ('ks', 'sid', 'er', 'ic', 'qbe')}


def test_absent_data_are_listed_or_refused(tmp_path):
  out = tmp_path / 'out'
  with pytest.raises(InputError, match=r'WORD/\*.wav'):
    superb_suite.run_suite([], ['superb_ks'], out, root=tmp_path, log=lambda text: None)
  with pytest.raises(InputError, match='No task can be scored'):
    superb_suite.run_suite(
      [], ['superb_ks'], out, root=tmp_path, optional=['superb_ks'], log=lambda text: None
    )
  with pytest.raises(InputError, match='superb_ks'):
    superb_suite.run_suite([], ['superb_kss'], out)


def row(system, recipe, metric, value, **changes):
  task = f'superb_{recipe.lower()}'
  return dict(
    task=task, recipe=recipe, title='', benchmark=True, system=system, metrics=[metric], ci=None,
    scores={metric: value}, lower=['per'], lr=0.1, steps=10, seeds=1, sweep=[], curve=[],
    clips=dict(train=1, valid=1, test=1), frames='cache', dtype='float16', wall_seconds=1.0,
    embed_seconds=1.0, chip_hours=0.1, differs=[], weights='abc', layer_weights=[0.5, 0.5],
    ranks=metric, **changes,
  )  # fmt: skip


def test_the_table_has_the_published_rows():
  rows = [row('a', 'KS', 'accuracy', 0.9), row('b', 'KS', 'accuracy', 0.8)]
  rows += [row('a', 'PR', 'per', 0.3), row('b', 'PR', 'per', 0.2)]
  (table,) = shown.tables(rows)
  assert table.rows[0][:3] == ['a', '90.00', '30.00'] and table.best == {(0, 1), (1, 2)}
  published = {line[0]: line for line in table.rows}
  assert published['HuBERT Base (published)'][1:3] == ['96.3', '5.41']
  assert published['WavLM Large (published)'][-1] == '1121'
  assert published['FBANK (published)'][-1] == '0'
  assert len(superb_board.ROWS) == 18
  assert 'wav2vec 2.0 Base (published)' in shown.write_page(rows, {'superb_er': 'absent'})
