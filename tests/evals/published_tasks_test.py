"""Every named task end to end, from its published layout to a score, checked against
scikit-learn."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from research.errors import InputError
from research.evals import harness, knn, protocols, tasks
from research.features.frontend import Frontend
from research.inference import embedder
from research.report import maps
from tests.evals import published

LOG_MEL = embedder.log_mel(Frontend.create('kaldi_fbank'))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
  monkeypatch.setattr(maps, 'has_tsne', lambda: False)  # t-SNE would dominate the time of the test.
  monkeypatch.setenv('OIDO_CACHE', str(tmp_path_factory.mktemp('cache')))
  monkeypatch.delenv('OIDO_DATA', raising=False)


def evaluate(made, out, use=('knn',)):
  """The rows of `use`, and (labels, scores, rows) of every fold of nearest neighbours."""
  caught = []

  def watched(system, task, options):
    def fit(x, rows):
      found = knn.fit(
        x, task.labels, rows, num_classes=len(task.classes), metric=task.metric,
        neighbours=options.neighbours, refit=not task.splits.published_validation,
      )  # fmt: skip
      caught.append((task.labels[rows[2]], found.test_scores, rows))
      return protocols.Fold(found.test_scores[None], found.validation, {}, found.grid)

    return protocols.row('watched', system, task, fit)

  rows = harness.evaluate(
    [LOG_MEL],
    [made],
    out=out,
    use=('watched', *use),
    known={'watched': watched, **protocols.PROTOCOLS},
    log=lambda text: None,
  )
  return rows[1:], caught


def check_scores(row, caught):
  """The row's scores are those of scikit-learn on the same labels and votes."""
  mean = lambda score: np.mean([score(y, s) for y, s, _ in caught])  # noqa: E731
  if caught[0][0].ndim == 1:
    expected = {
      'accuracy': mean(lambda y, s: metrics.accuracy_score(y, s.argmax(1))),
      'macro_f1': mean(lambda y, s: metrics.f1_score(y, s.argmax(1), average='macro')),
    }
    labels, predicted = (np.concatenate(c) for c in zip(*((y, s.argmax(1)) for y, s, _ in caught)))
    matrix = metrics.confusion_matrix(labels, predicted, labels=range(len(row['classes'])))
    np.testing.assert_array_equal(row['confusion'], matrix)
    if len(caught) == 1:
      assert row['score'] == pytest.approx(np.trace(matrix) / matrix.sum())
  else:
    areas = [metrics.roc_auc_score(y, s, average='macro') for y, s, _ in caught]
    expected = {
      'mAP': mean(lambda y, s: metrics.average_precision_score(y, s, average='macro')),
      'AUC': np.mean(areas),
      'd_prime': np.mean([2**0.5 * stats.norm.ppf(a) for a in areas]),
    }
  for name, value in expected.items():
    assert row['scores'][name] == pytest.approx(value), name
  assert row['score'] == pytest.approx(expected[row['metric']])


def check_clips(made, tree):
  """Checks labels and parts against those the tree was written with."""
  rows = {part: set() for part in ('train', 'valid', 'test')}
  for fold in made.splits.folds:
    for part, found in zip(rows, fold.rows()):
      rows[part] |= set(found.tolist())
  seen = 0
  for i, example in enumerate(made.source):
    path = example.path.removeprefix(f'{tree.root}/')
    if path not in tree.columns:  # Silence, cut from the noise files.
      assert example.columns['label'] == '_silence_'
      continue
    seen += 1
    label = tree.columns[path][made.label]
    if isinstance(label, str) and made.labels.ndim == 1:
      assert made.classes[made.labels[i]] == label
    else:
      wanted = {label} if isinstance(label, str) else set(label)
      assert {made.classes[c] for c in np.flatnonzero(made.labels[i])} == wanted
    if (part := tree.parts[path]) in rows:
      assert [p for p in rows if i in rows[p]] == [part]
  assert seen >= 0.3 * len(tree.columns) > 0
  for part in (p for p in set(tree.parts.values()) - {''} if p not in rows):
    # Each fold of the data set is the test part of one of the folds here.
    members = {
      i
      for i, e in enumerate(made.source)
      if tree.parts[e.path.removeprefix(f'{tree.root}/')] == part
    }
    assert members in [set(fold.test.tolist()) for fold in made.splits.folds]


def test_there_is_a_tree_for_every_task():
  assert list(published.TREES) == list(tasks.TASKS)


@pytest.mark.slow
@pytest.mark.parametrize('name', tasks.TASKS)
def test_from_the_published_layout_to_a_score(name, tmp_path):
  tree = published.Tree(tmp_path / 'data')
  published.TREES[name](tree)
  made = tasks.prepare(name, tmp_path / 'data')
  if tree.columns:
    check_clips(made, tree)
  rows, caught = evaluate(made, tmp_path / 'out')
  check_scores(rows[0], caught)
  assert rows[0]['task'] == name and rows[0]['clips_missing'] == 0
  # Every fifth tone is of another class: well above chance, below one.
  chance = 1 / len(made.classes) if made.labels.ndim == 1 else made.labels.mean()
  if tree.columns:
    assert 1.2 * chance < rows[0]['score'] < 0.999


def test_the_same_by_logistic_regression(tmp_path):
  tree = published.Tree(tmp_path / 'data')
  published.gtzan(tree)
  rows, _ = evaluate(tasks.prepare('gtzan', tree.root), tmp_path / 'out', ('logistic',))
  matrix = np.array(rows[0]['confusion'])
  labels, predicted = (np.repeat(i.ravel(), matrix.ravel()) for i in np.indices(matrix.shape))
  assert rows[0]['score'] == pytest.approx(metrics.accuracy_score(labels, predicted))
  recalls = metrics.recall_score(labels, predicted, average=None)
  assert list(rows[0]['per_class'].values()) == pytest.approx(list(recalls))
  assert 0.6 < rows[0]['score'] < 1


def test_unpublished_splits_are_marked_as_seeded(tmp_path):
  origins = {
    'voxforge': 'seeded, by submission 70%/15%/15%, seed 0',
    'surge_pitch': 'seeded, by preset 80%/10%/10%, seed 0',
    'libricount': 'seeded: 5 stratified folds, each tested once, seed 0',
  }
  for name, origin in origins.items():
    tree = published.Tree(tmp_path / name)
    published.TREES[name](tree)
    made = tasks.prepare(name, tree.root)
    assert made.splits.origin == origin and not made.splits.published_validation
    if group := getattr(made.task.seeded, 'group', 'speaker').removeprefix('speaker'):
      values = np.array(made.source.column(group))
      train, validation, test = (set(values[r]) for r in made.splits.folds[0].rows())
      assert not train & validation and not train & test and not validation & test


def test_the_lists_of_evar_are_used_if_present(tmp_path):
  tree = published.Tree(tmp_path)
  published.surge(tree)
  parts = ['train'] * 10 + ['valid', 'valid', 'test', 'test']
  rows = [f'surge-patches-{k}-velocity64,{part}' for k, part in enumerate(parts)]
  tree.text('surge/dataset_surge_tone_splits.csv', 'tone,split', *rows)
  made = tasks.prepare('surge_pitch', tmp_path)
  assert made.splits.origin == 'column split'
  assert [len(r) for r in made.splits.folds[0].rows()] == [30, 6, 6]


@pytest.mark.parametrize(
  'several, evaluation, metric',
  [
    (False, ('top1_acc', 'mAP'), 'accuracy'),
    (False, ('mAP', 'top1_acc'), 'mAP'),
    (True, ('aucroc', 'mAP'), 'AUC'),
    (True, ('d_prime',), 'd_prime'),
  ],
)
def test_a_folder_of_hear(tmp_path, several, evaluation, metric):
  tree = published.Tree(tmp_path / 'data')
  made = tasks.prepare(str(published.hear(tree, several, evaluation)))
  check_clips(made, tree)
  assert made.metric == metric and made.task.name == 'made-v1-full'
  assert len(made.splits.folds) == (3 if several else 1)
  rows, caught = evaluate(made, tmp_path / 'out')
  check_scores(rows[0], caught)


def test_hear_tasks_that_are_not_supported(tmp_path):
  def made(**changed):
    return str(published.hear(published.Tree(tmp_path), **changed))

  assert tasks.get(made(evaluation=('pitch_acc', 'chroma_acc'))).metric == 'accuracy'
  with pytest.raises(InputError, match="scored by 'chroma_acc', which is not supported"):
    tasks.get(made(evaluation=('chroma_acc',)))
  with pytest.raises(InputError, match='scored by None'):
    tasks.get(made(evaluation=()))
  with pytest.raises(InputError, match=r'is a timestamp task .embedding_type .event.'):
    tasks.get(made(embedding_type='event'))
  with pytest.raises(InputError, match='accuracy needs one label per clip'):
    tasks.prepare(made(several=True, evaluation=('top1_acc',)))
