"""Units as files for other programs."""

import json

import numpy as np
import pytest

from research.audio import units
from research.units import files

ABOUT = dict(clusters=9, sample_rate=16_000, hop=320, window=400, fingerprint='ab12')
CLIPS = {'a': [4, 4, 4, 0, 0, 8], 'b c': [], 'd': [1, 2, 1]}


@pytest.fixture
def made(tmp_path):
  units.save(tmp_path / 'u', list(CLIPS), [np.array(x, int) for x in CLIPS.values()], ABOUT)
  return units.Units.open(tmp_path / 'u')


def test_runs():
  found = files.runs(np.array(CLIPS['a']))
  assert (found.units.tolist(), found.durations.tolist()) == ([4, 0, 8], [3, 2, 1])
  assert files.runs(np.zeros(0, np.int32)).units.size == 0
  # A clip may begin with unit 0.
  assert files.runs(np.array([0, 0, 1])).units.tolist() == [0, 1]
  codes = np.random.default_rng(0).integers(0, 3, 100)
  assert np.array_equal(np.repeat(*files.runs(codes)), codes)


def test_text(made, tmp_path):
  out = tmp_path / 'x.tsv'
  assert files.write(made, out) == {'clips': 3, 'units': 9}
  assert out.read_text() == 'a\t4 4 4 0 0 8\nb c\t\nd\t1 2 1\n'
  files.write(made, out, deduplicate=True)
  assert out.read_text() == 'a\t4 0 8\nb c\t\nd\t1 2 1\n'
  assert files.write(made, out, durations=True) == {'clips': 3, 'units': 6}
  assert out.read_text() == 'a\t4 0 8\t3 2 1\nb c\t\t\nd\t1 2 1\t1 1 1\n'


def test_json_lines(made, tmp_path):
  out = tmp_path / 'x.jsonl'
  files.write(made, out, durations=True)
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert rows[0] == {'id': 'a', 'units': [4, 0, 8], 'durations': [3, 2, 1]}
  files.write(made, out)
  assert json.loads(out.read_text().splitlines()[2]) == {'id': 'd', 'units': [1, 2, 1]}


def test_arrays(made, tmp_path):
  out = tmp_path / 'x.npz'
  files.write(made, out, durations=True)
  with np.load(out) as found:
    assert found['ids'].tolist() == list(CLIPS)
    assert found['offsets'].tolist() == [0, 3, 3, 6]
    assert found['units'].tolist() == [4, 0, 8, 1, 2, 1]
    assert found['durations'].tolist() == [3, 2, 1, 1, 1, 1]
    assert json.loads(str(found['about']))['hop'] == 320
  files.write(made, out)
  with np.load(out) as found:
    assert 'durations' not in found.files and len(found['units']) == 9
