"""End-to-end evaluation on folders of tones: embeddings, protocols, tables and files."""

import dataclasses
import json

import numpy as np
import pytest

from research.errors import InputError
from research.evals import harness, probe, protocols, tasks
from research.evals.probe import ProbeConfig
from research.inference import embedder
from research.metrics import classification
from research.report import tables
from tests.evals import toy

QUICK = ProbeConfig(
  learning_rates=(1e-2, 3e-2), weight_decays=(0.0, 1e-2), seeds=2, max_rounds=20, patience=5
)
OPTIONS = protocols.Options(probe=QUICK)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv('OIDO_CACHE', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('data') / 'tones'
  fold = lambda i, c: (str(i % 3), 'abc'[(i * 7 + c) % 3])  # noqa: E731
  return toy.tones(root, per_class=12, columns=('fold', 'noise'), row=fold)


@pytest.fixture(scope='module')
def found(folder, tmp_path_factory):
  """(rows, folder, log lines, tasks) of three systems on two tasks with two protocols."""
  out = tmp_path_factory.mktemp('out')
  systems = [toy.embedder(), *(embedder.random_init(toy.Toy(), seed) for seed in (1, 2))]
  systems.append(embedder.log_mel(toy.FRONTEND))
  made = [tasks.prepare(str(folder)), tasks.prepare(f'{folder}:noise')]
  lines = []
  rows = harness.evaluate(
    systems, made, out=out, use=('probe', 'knn'), options=OPTIONS, log=lines.append
  )
  return rows, out, lines, made


def pick(rows, task, kind, protocol='probe'):
  return next(r for r in rows if (r['task'], r['kind'], r['protocol']) == (task, kind, protocol))


def test_tones_are_classified_and_noise_labels_are_not(found):
  rows = found[0]
  for protocol in ('probe', 'knn'):
    assert pick(rows, 'tones', 'logmel', protocol)['score'] == 1.0
    assert pick(rows, 'tones_noise', 'logmel', protocol)['score'] < 0.7  # a third by chance
  assert pick(rows, 'tones', 'model')['score'] > 0.9


def test_a_row_documents_its_score(found):
  rows, out, _, made = found
  assert rows == json.loads((out / 'scores.json').read_text())['rows']
  assert len(rows) == 2 * 2 * 3  # the two random models are one row
  row = pick(rows, 'tones', 'model')
  assert row['split']['hash'] == made[0].splits.fingerprint
  assert row['split']['sizes'] == [[12, 12, 12]] * 3
  assert row['weights'] == toy.embedder().weights
  assert row['frontend'] == toy.FRONTEND.to_dict()
  assert (row['clips'], row['clips_missing'], row['width']) == (36, 0, 12)
  assert row['pool'] == 'mean' and pick(rows, 'tones', 'logmel')['pool'] == 'mean_std'
  assert row['layers'] == ['2'] * 3
  assert row['wall_seconds'] > 0 and row['embed_seconds'] > 0
  assert {c['learning_rate'] for c in row['chosen']} <= {1e-2, 3e-2}
  assert len(row['grid']) == 4 and all({'validation', 'test'} <= set(g) for g in row['grid'])


@pytest.mark.slow
def test_the_interval_is_over_folds(found):
  row = pick(found[0], 'tones_noise', 'model')
  assert np.shape(row['values']) == (3, 2) and row['ci_over'] == 'folds'
  mean, half = classification.mean_ci(np.mean(row['values'], axis=1))
  assert (row['score'], row['ci']) == (pytest.approx(mean), pytest.approx(half))


def test_random_models_are_one_row_with_their_spread(found):
  row = pick(found[0], 'tones', 'random')
  assert row['ci_over'] == 'inits' and len(row['values']) == len(row['weights']) == 2
  mean, half = classification.mean_ci(np.ravel(row['values']))
  assert (row['score'], row['ci']) == (pytest.approx(mean), pytest.approx(half))


def test_each_clip_is_counted_once_in_the_confusion_matrix(found):
  row = pick(found[0], 'tones_noise', 'model')
  matrix = np.array(row['confusion'])
  labels = found[3][1].labels
  np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(labels))
  recalls = dict(zip(row['classes'], np.diag(matrix) / matrix.sum(axis=1)))
  assert row['per_class'] == pytest.approx(recalls)
  one_seed = np.mean([v[0] for v in row['values']])
  assert np.trace(matrix) / matrix.sum() == pytest.approx(one_seed)


def test_files_are_written(found):
  _, out, lines, _ = found
  markdown = (out / 'scores.md').read_text()
  assert '### Linear probe' in markdown and '### Nearest neighbours' in markdown
  assert '| log-mel statistics | **100.0 ± 0.0** |' in markdown
  page = (out / 'scores.html').read_text()
  assert page.startswith('<!doctype html>') and 'log-mel statistics' in page
  names = {p.name for p in out.iterdir()}
  assert {'confusion_tones_probe_toy.svg', 'map_tones.svg', 'map.npz'} <= names
  assert not [n for n in names if 'partial' in n]
  with np.load(out / 'map.npz') as arrays:
    assert arrays['tones/points'].shape == (36, 2)
    assert set(arrays['tones/names'][arrays['tones/groups']]) == {'f300', 'f900', 'f2700'}
  assert sum(line.startswith('embedded') for line in lines) == 4  # the second task shares the clips


def test_all_layers_are_probed_and_each_fold_selects_its_own(folder, tmp_path):
  options = protocols.Options(layers='all', probe=QUICK)
  system = protocols.System(toy.embedder(), options, tmp_path)
  row = protocols.linear_probe(system, tasks.prepare(f'{folder}:noise'), options)
  assert set(row['by_layer']) == {'0', '1', '2'} and len(row['layers']) == 3
  best = max(v['validation'] for v in row['by_layer'].values())
  assert row['validation'] >= best - 1e-9  # selecting per fold is no worse than one layer for all
  mean = protocols.Options(layers='mean', probe=QUICK)
  system = protocols.System(toy.embedder(), mean, tmp_path)
  features = dict(system.candidates(tasks.prepare(str(folder))))
  layers = system.features(tasks.prepare(str(folder))).layers
  np.testing.assert_allclose(features['mean'], (layers[0] + layers[1] + layers[2]) / 3, rtol=1e-5)


def test_missing_clips_are_left_out_and_counted(tmp_path):
  folder = toy.tones(
    tmp_path / 'tones', per_class=6, columns=('fold',), row=lambda i, c: (str(i % 3),)
  )
  (folder / '300_02.flac').write_bytes(b'broken')
  rows = harness.evaluate(
    [embedder.log_mel(toy.FRONTEND)],
    [tasks.prepare(str(folder))],
    out=tmp_path / 'out',
    options=OPTIONS,
    use=('knn',),
    log=lambda text: None,
  )
  assert rows[0]['clips_missing'] == 1 and list(rows[0]['missing']) == ['300_02.flac']
  assert np.sum(rows[0]['confusion']) == 17
  assert '1 of 18 clips could not be used' in (tmp_path / 'out' / 'scores.md').read_text()


@pytest.mark.slow
def test_several_labels_a_clip(tmp_path):
  folder = toy.tones(tmp_path / 'tones', per_class=10)
  lines = []
  for line in (folder / 'labels.csv').read_text().splitlines()[1:]:
    path, label = line.split(',')
    several = [label, 'low'] if label == 'f300' else [label]
    lines.append(json.dumps({'path': path, 'labels': several}))
  (folder / 'labels.csv').unlink()
  (folder / 'labels.jsonl').write_text('\n'.join(lines))
  task = tasks.prepare(str(folder))
  system = protocols.System(embedder.log_mel(toy.FRONTEND), OPTIONS, tmp_path / 'cache')
  for protocol in (protocols.linear_probe, protocols.nearest_neighbours):
    row = protocol(system, task, OPTIONS)
    assert row['metric'] == 'mAP' and row['score'] > 0.95
    assert set(row['scores']) == {'mAP', 'AUC', 'd_prime'} and 'confusion' not in row
    json.dumps(row)


def test_a_custom_protocol(folder, tmp_path):
  """A protocol has access to the task and its folds, not only to embeddings."""

  def majority(system, task, options):
    def fit(x, rows):
      train, _, test = rows
      votes = np.bincount(task.labels[train], minlength=len(task.classes)).astype(np.float32)
      return protocols.Fold(np.tile(votes, (1, len(test), 1)), 0.0, {'steps': 1}, [{'steps': 1}])

    return protocols.row('majority', system, task, fit)

  rows = harness.evaluate(
    [toy.embedder(), embedder.random_init(toy.Toy())],
    [tasks.prepare(str(folder))],
    out=tmp_path,
    use=('majority',),
    known={'majority': majority},
    kinds={'majority': ('model',)},
    options=OPTIONS,
    log=lambda text: None,
  )
  assert [r['system'] for r in rows] == ['toy']
  assert rows[0]['score'] == pytest.approx(1 / 3)
  assert tables.comparison(rows)[0].rows == [['toy', '33.3 ± 0.0']]


def test_unknown_names_are_refused_before_the_work(folder, tmp_path):
  task = [tasks.prepare(str(folder))]
  with pytest.raises(InputError, match=r"Unknown protocol 'prob'\. Did you mean 'probe'"):
    harness.evaluate([toy.embedder()], task, out=tmp_path, use=('prob',))
  with pytest.raises(InputError, match="Unknown choice of layers 'lasst'"):
    protocols.System(toy.embedder(), protocols.Options(layers='lasst'), tmp_path)
  with pytest.raises(InputError, match=r"Unknown pooling 'men'\. Did you mean 'mean'"):
    protocols.Options(pool='men')
  with pytest.raises(InputError, match='layers=7: this model has layers 0'):
    options = protocols.Options(layers=7)
    harness.evaluate([embedder.mfcc()], task, out=tmp_path, options=options)


def test_score_text_is_in_percent_but_for_d_prime():
  assert tables.score_text({'metric': 'accuracy', 'score': 0.8734, 'ci': 0.0123}) == '87.3 ± 1.2'
  assert tables.score_text({'metric': 'mAP', 'score': 0.5, 'ci': None}) == '50.0'
  assert tables.score_text({'metric': 'd_prime', 'score': 2.5321, 'ci': None}) == '2.532'


def test_a_win_at_the_edge_of_the_grid_is_reported():
  points = ((1e-3, 0.0, 0.6), (1e-2, 0.0, 0.8), (1e-3, 1e-2, 0.6), (1e-2, 1e-2, 0.805))
  grid = [dict(zip(('learning_rate', 'weight_decay', 'validation'), p)) for p in points]
  won = probe.ProbeResult(np.zeros((1, 1, 2)), 0.805, 1e-2, 1e-2, [1], grid)
  assert protocols._at_edge(won, 'learning_rate')  # 20 points better than the next rate
  assert not protocols._at_edge(won, 'weight_decay')  # only half a point better


def half(root, columns, broken):
  """Tones with a column split; files whose stem ends in `broken` are not audio."""
  parts = ('train', 'train', 'train', 'valid', 'test', 'test')
  folder = toy.tones(root, per_class=6, columns=columns, row=lambda i, c: (parts[i],))
  for path in sorted(folder.glob('*.flac')):
    if path.stem.endswith(broken):
      path.write_bytes(b'no audio')
  return tasks.prepare(str(folder))


def test_a_part_without_readable_clips_is_refused(tmp_path):
  task = half(tmp_path / 'lost', ('split',), ('_04', '_05'))
  with pytest.raises(InputError, match='lost: none of the test clips of fold 0 could be embedded'):
    harness.evaluate([toy.embedder()], [task], out=tmp_path / 'out', use=('knn',))


def test_an_optional_task_that_fails_is_recorded_as_absent(tmp_path):
  good = half(tmp_path / 'good', ('split',), ('none',))
  bad = half(tmp_path / 'lost', ('split',), ('_04', '_05'))
  absent = {}
  rows = harness.evaluate(
    [toy.embedder()], [bad, good], out=tmp_path / 'out', use=('knn',), absent=absent,
    optional=('lost',), maps=False,
  )  # fmt: skip
  assert [r['task'] for r in rows] == ['good'] and 'none of the test clips' in absent['lost']
  content = json.loads((tmp_path / 'out' / 'scores.json').read_text())
  assert content['absent'] == absent and not (tmp_path / 'out' / 'map.npz').exists()
  assert '### Not scored' in (tmp_path / 'out' / 'scores.md').read_text()


def test_old_maps_are_removed(tmp_path):
  task = half(tmp_path / 'good', ('split',), ('none',))
  for maps in (True, False):
    harness.evaluate([toy.embedder()], [task], out=tmp_path, use=('knn',), maps=maps)
    assert (tmp_path / 'map.npz').exists() == (tmp_path / 'map_good.svg').exists() == maps


def test_scores_that_are_not_recomputed_are_kept(tmp_path):
  task = half(tmp_path / 'good', ('split',), ('none',))
  one, two = (dataclasses.replace(toy.embedder(seed), name=f'toy {seed}') for seed in (1, 2))

  def run(*systems):
    harness.evaluate(systems, [task], out=tmp_path, use=('knn',), maps=False, log=lines.append)
    return {p.name for p in tmp_path.glob('*.svg')}

  lines = []
  assert len(run(one)) == 1
  assert len(run(one, two)) == 2 and not list(tmp_path.glob('scores-*'))
  assert len(run(two)) == 1  # the figure of the first is removed
  assert 'also held other scores; moved to' in ''.join(lines)
  rows = json.loads((tmp_path / 'scores-1.json').read_text())['rows']
  assert {r['system'] for r in rows} == {'toy 1', 'toy 2'}
  run(one)
  assert (tmp_path / 'scores-2.json').exists()


def test_classes_without_training_or_test_clips_are_reported(tmp_path):
  new = dataclasses.replace(
    (task := half(tmp_path / 'good', ('split',), ('none',))),
    labels=np.where(np.isin(np.arange(len(task.labels)), task.splits.folds[0].test), 0, 1),
    classes=('new', 'old', 'never'),
  )
  assert protocols._classes_without_clips(new) == {
    'untrained': ['new'],
    'untested': ['old', 'never'],
  }
  several = dataclasses.replace(new, labels=np.eye(3, dtype=np.float32)[new.labels])
  assert protocols._classes_without_clips(several) == protocols._classes_without_clips(new)
  rows = harness.evaluate([toy.embedder()], [new], out=tmp_path, use=('knn',), maps=False)
  notes = '\n'.join(tables.notes(rows))
  assert '1 of 3 classes tested without a training clip, and cannot be told: new.' in notes
  assert '2 of 3 classes without a test clip: old, never.' in notes


def test_two_tasks_with_one_name_are_refused(tmp_path):
  made = [half(tmp_path / k / 'tones', ('split',), ('none',)) for k in 'ab']
  with pytest.raises(InputError, match="Two tasks are named 'tones'"):
    harness.evaluate([toy.embedder()], made, out=tmp_path / 'out')
