"""SUPERB's runner on small made data: rows, page, what goes on after a kill, the saved model."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research.errors import InputError
from research.evals import judges, superb
from research.report import superb as shown
from research.report import superb_board
from research.text.sentencepieces import SentencePieces, train
from research.train import superb as heads
from research.train import superb_suite, superb_targets
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
  settings = Settings(debug=True, **{'steps': 2, **changes})
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
  variables = jax.tree.map(jnp.asarray, model.variables)
  judge = judges.Slots(task.target, [len(parts.whole.classes(c)) for c in task.target])
  kept = {}
  for i, example in enumerate(parts.test):
    audio = soundfile.read(example.path, dtype='float32')[0][None]
    batch = {'audio': audio, 'audio_mask': np.ones(audio.shape, bool)}
    found = judge.keep(model.model.apply(variables, batch), batch)
    kept[i] = {'found': np.asarray(found['found'])[0]}
  assert judge.score(kept, parts.test)['accuracy'] == rows[0]['scores']['accuracy']
  page = (tmp_path / 'superb.html').read_text()
  assert 'small_ic accuracy' in page and '<svg' in page
  assert json.loads((tmp_path / 'superb.json').read_text())['rows'] == json.loads(json.dumps(again))


@pytest.mark.slow
def test_translation(monkeypatch, tmp_path):
  pytest.importorskip('sentencepiece')
  monkeypatch.setitem(superb.TASKS, 'small_st', small('small_st'))
  (row,) = suite(['small_st'], tmp_path)
  assert 0 <= row['scores']['bleu'] <= 100 and row['validation'].keys() == {'bleu'}
  model = load(row['model'])
  # The vocabulary lies beside the run and beside the saved head.
  (pieces,) = (tmp_path / 'runs' / 'small_st').glob('*/spm-*.model')
  (copy,) = (tmp_path / 'runs' / 'small_st').glob('*/model/spm-*.model')
  assert copy.read_bytes() == pieces.read_bytes()
  size = SentencePieces(pieces).size
  assert model.model.head['args']['vocab_size'] == size
  runs = {p: p.stat().st_mtime_ns for p in tmp_path.glob('runs/*/*/*/checkpoints/*')}
  (again,) = suite(['small_st'], tmp_path)
  assert again['scores'] == row['scores']
  assert runs == {p: p.stat().st_mtime_ns for p in tmp_path.glob('runs/*/*/*/checkpoints/*')}


@pytest.mark.slow
def test_conversion(tmp_path):
  try:
    import pyworld  # noqa: F401
  except ImportError:
    pytest.skip('pyworld is not installed')
  (row,) = suite(['small_vc'], tmp_path)
  assert row['scores']['mcd'] > 0 and row['lower'] == ['mcd']
  buffers = load(row['model']).variables['buffers']
  args = load(row['model']).model.head['args']
  np.testing.assert_allclose(buffers['target_mean'], args['target_mean'], rtol=1e-5)
  np.testing.assert_allclose(buffers['target_scale'], args['target_scale'], rtol=1e-5)
  assert (np.array(args['target_mean']) < 0).all() and len(args['target_scale']) == 80


def test_a_vocabulary_beside_the_data_is_taken(tmp_path):
  pytest.importorskip('sentencepiece')
  data, place = tmp_path / 'data', tmp_path / 'run'
  data.mkdir()
  own = superb_targets.pieces(str(data), ['ab', 'ba'], place)
  assert own == superb_targets.pieces(str(data), ['ab', 'ba'], place) and own.parent == place
  assert own != superb_targets.pieces(str(data), ['abc'], place)
  train(['xyz'], data / 'named.model')
  (data / 'config.yaml').write_text('bpe_tokenizer:\n  sentencepiece_model: named.model\n')
  kept = superb_targets.pieces(str(data), ['ab', 'ba'], place)
  assert kept.parent == place and kept.read_bytes() == (data / 'named.model').read_bytes()


def test_warm_ups_are_in_proportion_to_the_run():
  recipe = superb.RECIPES['ST']
  assert heads._schedule(recipe, 32_000) == dict(name='inverse_sqrt', warmup_steps=10_000)
  assert heads._schedule(recipe, 320)['warmup_steps'] == 100
  assert heads._schedule(superb.RECIPES['KS'], 10) == dict(name='constant')


def test_published_trials_are_of_test_clips():
  judge = dict(name='trials', args=dict(column='speaker', trials=[[1, 'test/a', 'test/b']]))
  assert superb_targets.quick(judge)['args'] == dict(column='speaker', trials=None)
  assert superb_targets.held_out(judge) == superb_targets.quick(judge) and judge['args']['trials']


def test_missing_libraries_are_named(monkeypatch):
  monkeypatch.setitem(superb.NEEDS, 'translated', (('no_such_library', 'translation'),))
  with pytest.raises(InputError, match=r"needs no_such_library: pip install -e '.\[translation\]'"):
    superb.open_parts(superb.TASKS['superb_st'], 'x')


def test_conversion_needs_recordings_of_the_target(monkeypatch, tmp_path):
  monkeypatch.setitem(superb.NEEDS, 'converted', ())
  audio = np.zeros(2400, np.float32)
  task = superb.TASKS['superb_vc']
  for target in task.folds:
    for name in (f'{target}/E10001', f'{target}/E10061', 'SEF1/E30001'):
      (tmp_path / 'vcc2020' / name).parent.mkdir(parents=True, exist_ok=True)
      soundfile.write(tmp_path / 'vcc2020' / f'{name}.wav', audio, 24_000)
  with pytest.raises(InputError, match=r'1 of 1 test clips .* no recording of TEF1'):
    superb.open_parts(task, tmp_path)
  for target in task.folds:
    soundfile.write(tmp_path / 'vcc2020' / target / 'E30001.wav', audio, 24_000)
  parts = superb.open_parts(task, tmp_path)
  assert [p.fold for p in parts] == list(task.folds)
  for part in parts:
    assert part.test.column('reference')[0].endswith(f'{part.fold}/E30001.wav')
    assert part.test.column('speaker') == ['SEF1'] and part.train.column('speaker') == [part.fold]


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


@pytest.mark.slow
def test_layers_in_every_step_give_the_scores_of_cached_ones(tasks, tmp_path):
  (cached,) = suite(tasks[:1], tmp_path / 'cached', dtype='float32')
  (streamed,) = suite(tasks[:1], tmp_path / 'streamed', frames='stream')
  assert streamed['frames'] == 'stream' and streamed['validation'] == cached['validation']
  losses = [[p['loss'] for p in r['curve'] if 'loss' in p] for r in (cached, streamed)]
  np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
def test_a_system_that_cannot_do_a_task_is_listed(tasks, tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise InputError('no frames')

  monkeypatch.setattr(superb_suite, 'run_task', refuse)
  with pytest.raises(InputError, match='no frames'):
    suite(tasks[:1], tmp_path)
  with pytest.raises(InputError, match='No task can be scored'):
    superb_suite.run_suite(
      [], tasks[:1], tmp_path, optional=tasks, settings=Settings(), log=lambda text: None
    )
  (tmp_path / 'superb.json').write_text('{"rows": [')
  with pytest.raises(InputError, match='holds earlier scores and cannot be read'):
    suite(tasks[:1], tmp_path)


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
