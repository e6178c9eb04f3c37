"""A second recording as a field: a target of the same crop, and a reference voice."""

import csv

import numpy as np
import pytest
import soundfile

from research.audio import sources
from research.audio.bad_files import BadFiles
from research.audio.decode import AudioMismatch
from research.audio.fields import make
from research.audio.pipeline import eval_batches, train_batches
from research.errors import InputError
from tests.audio.pipeline_test import assert_equal, concatenated

SECONDS = (0.5, 0.8, 0.3)


@pytest.fixture
def folder(tmp_path):
  """Clips, targets of the same length and twice the amplitude, and voices of another length."""
  rng = np.random.default_rng(0)
  (tmp_path / 'clean').mkdir()
  with open(tmp_path / 'labels.csv', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['path', 'target', 'voice'])
    for i, seconds in enumerate(SECONDS):
      clip = np.round(0.2 * rng.standard_normal(int(16_000 * seconds)) * 2**14) / 2**15
      soundfile.write(tmp_path / f'{i}.wav', clip, 16_000, 'PCM_16')
      soundfile.write(tmp_path / f'clean/{i}.flac', 2 * clip, 16_000, 'PCM_16')
      soundfile.write(tmp_path / f'clean/voice{i}.wav', 0.01 * (i + 1) * np.ones(9600), 16_000)
      writer.writerow([f'{i}.wav', f'clean/{i}.flac', f'clean/voice{i}.wav'])
  return tmp_path


FIELDS = dict(
  target=dict(name='recording', args=dict(column='target')),
  voice=dict(name='recording', args=dict(column='voice', seconds=0.25)),
)


@pytest.fixture
def clips(folder):
  source = sources.open_source(str(folder))
  return source.select([i for i in range(len(source)) if '/' not in source.id(i)])


def check(batch):
  for row in range(len(batch['index'])):
    n = int(batch['audio_mask'][row].sum())
    assert int(batch['target_mask'][row].sum()) == n
    np.testing.assert_allclose(
      batch['target'][row, :n], 2 * batch['audio'][row, :n], atol=1.5 / 2**15
    )
    assert not batch['target'][row, n:].any()
    assert batch['voice'].shape[1] == 4000 and batch['voice_mask'].all()
    loud = 0.01 * (batch['index'][row] + 1)
    np.testing.assert_allclose(batch['voice'][row], loud, atol=1 / 2**15)


def test_targets_have_the_same_crop_and_voices_a_separate_one(clips):
  settings = dict(batch_size=6, seconds=0.2, fields=make(FIELDS), num_threads=0)
  batches = iter(train_batches(clips, **settings))
  whole = [next(batches) for _ in range(4)]
  for batch in whole:
    check(batch)
  # Split over processes.
  parts = []
  for i in range(2):
    own = iter(train_batches(clips, **settings, process_index=i, process_count=2))
    parts.append([next(own) for _ in range(4)])
  for number, batch in enumerate(whole):
    assert_equal(concatenated([part[number] for part in parts]), batch)


def test_evaluation_has_whole_targets(clips):
  (batch,) = eval_batches(clips, batch_size=3, fields=make(FIELDS), lengths=1)
  check(batch)
  assert sorted(batch['target_mask'].sum(axis=1)) == sorted(int(16_000 * s) for s in SECONDS)


def test_a_target_of_another_length_is_refused(folder, clips):
  soundfile.write(folder / 'clean/1.flac', np.zeros(16_000), 16_000)
  fields = make(dict(target=FIELDS['target']))
  bad = BadFiles(None, 1.0)
  batches = iter(train_batches(clips, batch_size=6, seconds=0.2, fields=fields, bad_files=bad))
  seen = np.concatenate([next(batches)['index'] for _ in range(4)])
  assert set(seen) == {0, 2}
  with pytest.raises(AudioMismatch, match=r'It has 0.80 s, but its target, .*1.flac, has 1.00 s'):
    list(eval_batches(clips, batch_size=3, fields=fields))


def test_mistakes_get_a_sentence(folder, clips):
  def build(**args):
    spec = dict(name='recording', args=args)
    train_batches(clips, batch_size=2, fields=make(dict(target=spec)))

  with pytest.raises(InputError, match="Did you mean 'target'"):
    build(column='targt')
  with pytest.raises(InputError, match='seconds is -1'):
    build(column='target', seconds=-1)
  with pytest.raises(InputError, match=r"1 of 3 files in the column 'target' .*clean/2\.flac"):
    (folder / 'clean/2.flac').unlink()
    build(column='target')
  for path, message in (
    ('../x.wav', 'goes up'),
    ('/etc/passwd', 'is absolute'),
    ('', "no 'target'"),
  ):
    clips.table.columns['target'][int(clips.rows[0])] = path
    with pytest.raises(InputError, match=message):
      build(column='target')
