"""Statistics of a task's training clips, and models normalised by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research.errors import InputError
from research.evals import input_statistics, protocols, tasks
from research.inference.embedder import from_model
from research.models.byol_a import ByolA
from tests.evals import toy

MODEL = ByolA(size='v1_d512', hidden=16, width=16, channels=4, projection=0, norm='frontend')


@pytest.fixture(scope='module')
def byol():
  samples = jnp.zeros((1, toy.RATE)), jnp.ones((1, toy.RATE), bool)
  variables = MODEL.init(jax.random.key(0), *samples, method='embed')
  return from_model(MODEL, variables, 'byol')


def folder(root, columns, row):
  return toy.tones(root, per_class=6, columns=columns, row=row)


def by_hand(embedder, paths):
  """Mean and standard deviation over all bins and frames of some files."""
  values = []
  for path in paths:
    audio = soundfile.read(path, dtype='float32')[0][None]
    raw, real = embedder.frontend.raw(jnp.asarray(audio), jnp.ones(audio.shape, bool))
    values.append(np.asarray(raw)[np.asarray(real)].ravel())
  return np.concatenate(values).mean(), np.concatenate(values).std()


@pytest.mark.slow
def test_statistics_are_of_the_training_clips(byol, tmp_path):
  parts = ('train', 'train', 'train', 'valid', 'test', 'test')
  root = folder(tmp_path / 'tones', ('split',), lambda i, c: (parts[i],))
  task = tasks.prepare(str(root))
  found = input_statistics.of_task(byol, task)
  rows = task.splits.folds[0].train
  assert (found.clips, found.of, len(rows)) == (9, 'training clips', 9)
  mean, std = by_hand(byol, [task.source[int(r)].path for r in rows])
  np.testing.assert_allclose([found.mean, found.std], [mean, std], atol=6e-5)  # four decimals


@pytest.mark.slow
def test_tasks_on_the_same_clips_share_embeddings(byol, tmp_path):
  """Although each task draws validation clips by its own classes."""
  parts = ('train', 'train', 'train', 'train', 'test', 'test')
  root = folder(tmp_path / 'tones', ('split', 'mood'), lambda i, c: (parts[i], 'xy'[i % 2]))
  system = protocols.System(byol, protocols.Options(), tmp_path / 'cache')
  first, second = (tasks.prepare(f'{root}{column}') for column in ('', ':mood'))
  assert len(first.splits.folds[0].train) != len(second.splits.folds[0].train)
  assert not system.features(first).cached and system.features(second).cached
  assert system.normalised(first)[1] == system.normalised(second)[1]
  assert system.normalised(first)[1].clips == 12


@pytest.mark.slow
def test_statistics_are_cached_for_the_next_run(byol, tmp_path, monkeypatch):
  root = folder(tmp_path / 'tones', ('fold',), lambda i, c: (str(i % 3),))
  first = input_statistics.of_task(byol, tasks.prepare(str(root)), tmp_path / 'cache')
  with monkeypatch.context() as patch:
    patch.setattr(input_statistics, 'stream', None)  # cannot be called
    # Independent of the normalisation in the weights.
    other = byol.with_statistics(1.0, 2.0)
    assert input_statistics.of_task(other, tasks.prepare(str(root)), tmp_path / 'cache') == first
  # Another clip, other statistics.
  toy.soundfile.write(root / '300_00.flac', toy.tone(5000, 0.8, 1), toy.RATE)
  again = input_statistics.of_task(byol, tasks.prepare(str(root)), tmp_path / 'cache')
  assert again != first


@pytest.mark.slow
def test_a_model_that_takes_them_is_normalised_by_them(byol, tmp_path):
  root = folder(tmp_path / 'tones', ('fold',), lambda i, c: (str(i % 3),))
  task = tasks.prepare(str(root))
  system = protocols.System(byol, protocols.Options(), tmp_path / 'cache')
  row = protocols.logistic_regression(system, task, protocols.Options())
  found = row['statistics']
  # With cross-validation v1 uses all clips.
  assert found['clips'] == 18 and found['of'].startswith('clips, all')
  assert (row['frontend']['mean'], row['frontend']['std']) == (found['mean'], found['std'])
  assert row['pool'] == 'mean+max'  # BYOL-A's own
  clip = soundfile.read(task.source[0].path, dtype='float32')[0]
  model = MODEL.with_statistics(found['mean'], found['std'])
  tokens, mask = model.apply(
    byol.variables, jnp.asarray(clip)[None], jnp.ones((1, len(clip)), bool), method='embed'
  )
  kept = np.asarray(tokens)[0, 0, np.asarray(mask)[0]]
  got = system.features(task).layers[0][0]
  np.testing.assert_allclose(got, kept.mean(axis=0) + kept.max(axis=0), rtol=1e-3, atol=1e-4)

  own = protocols.Options(statistics='weights')
  other = protocols.System(byol, own, tmp_path / 'cache')
  row = protocols.logistic_regression(other, task, own)
  assert row['statistics'] is None and row['frontend']['mean'] == MODEL.frontend.mean
  assert not np.allclose(got, other.features(task).layers[0][0], rtol=1e-2)


def test_models_without_input_statistics_are_unchanged(tmp_path):
  root = folder(tmp_path / 'tones', ('fold',), lambda i, c: (str(i % 3),))
  system = protocols.System(toy.embedder(), protocols.Options(), tmp_path / 'cache')
  embedder, found = system.normalised(tasks.prepare(str(root)))
  assert embedder is system.embedder and found is None


def test_silence_is_refused(byol, tmp_path):
  for i in range(8):
    path = tmp_path / 'quiet' / 'ab'[i % 2] / f'{i}.wav'
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(8000, np.int16), toy.RATE)
  with pytest.raises(InputError, match=r'training clips are equal \(silence\?\)'):
    input_statistics.of_task(byol, tasks.prepare(str(tmp_path / 'quiet')))
