import hashlib
import os
import re

import numpy as np
import pytest

from research.audio import index, sources
from research.audio.sources import open_source, windows
from research.errors import InputError
from research.train import selection


def old_hold_out(clips):
  """The rule written out, one id after the other."""
  names = np.array([re.sub(r'@[\d.]+$', '', clips.id(i)) for i in range(len(clips))])
  if len(set(names)) == 1:
    names = np.array([clips.id(i) for i in range(len(clips))])
  order = sorted(set(names), key=lambda name: hashlib.sha256(os.fsencode(name)).hexdigest())
  return np.flatnonzero(np.isin(names, order[: max(len(order) // selection.HELD_OUT, 1)]))


@pytest.fixture
def manifest(tmp_path):
  lines = ['path,kind,seconds', *(f'd{k % 7}/clip_{k}.wav,{k % 3},{k % 5 + 1}' for k in range(500))]
  (tmp_path / 'clips').mkdir()
  (tmp_path / 'clips' / 'labels.csv').write_text('\n'.join(lines))
  return open_source(tmp_path / 'clips')


def check(clips):
  held = old_hold_out(clips)
  expected = [clips.id(i) for i in held]
  valid, train = (selection.hold_out(clips, part) for part in ('valid', 'train'))
  assert [valid.id(i) for i in range(len(valid))] == expected
  rest = np.setdiff1d(np.arange(len(clips)), held)
  np.testing.assert_array_equal(train.rows, clips.rows[rest])


def test_what_is_held_out_is_what_has_always_been(manifest, tmp_path):
  check(open_source('builtin'))
  check(manifest)
  check(manifest.select(range(30)))
  check(windows(manifest, 1.0))
  check(windows(manifest.select([4]), 1.0))  # One recording: its windows are divided.
  (tmp_path / 'index').mkdir()
  index.write_files(manifest, tmp_path / 'index' / index.FILE)
  check(open_source(tmp_path / 'index'))
  check(open_source(tmp_path / 'index').where({'kind': '1'}))
  check(windows(open_source(tmp_path / 'index'), 1.0))


def test_training_and_evaluations_open_a_source_once(manifest, tmp_path, monkeypatch):
  opened, real = [], sources.open_source
  monkeypatch.setattr(sources, 'open_source', lambda *a, **k: opened.append(a) or real(*a, **k))
  data = dict(source=str(tmp_path / 'clips'), split='train', where={}, root=None)
  with selection.opening_once():
    train, valid = (selection.source({**data, 'split': s}) for s in ('train', 'valid'))
    assert len(opened) == 1 and train.table is valid.table
    selection.source({**data, 'split': None})
    assert len(opened) == 1
  selection.source(data)
  assert len(opened) == 2


def test_a_split_for_evaluations_that_is_missing_is_explained(tmp_path):
  (tmp_path / 'a.csv').write_text('path,split\na.wav,train\nb.wav,test\n')
  found = sources.open_source(str(tmp_path / 'a.csv'))
  with pytest.raises(InputError, match=r'Unknown split .*valid.*config\.evals\.valid\.data\.split'):
    selection.part(found, 'valid')
