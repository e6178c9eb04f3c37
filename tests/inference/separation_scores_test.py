"""Scores of separated voices: which is which, the improvement by hand, what cannot be scored."""

import numpy as np
import pytest
import soundfile

from research.audio import sources
from research.errors import InputError
from research.inference import enhance
from research.inference.separation_scores import Judge
from tests.contract import wave

RATE, LENGTH = 8000, 6000


def si_sdr(x, clean):
  """By hand; both lose their mean first."""
  x, clean = x - x.mean(), clean - clean.mean()
  target = clean * (x @ clean) / (clean @ clean)
  return 10 * np.log10((target @ target) / ((x - target) @ (x - target)))


@pytest.fixture
def folders(tmp_path):
  """Mixtures of two voices, each voice in a folder, and what was made: in the other order."""
  voices = [[wave(2 * i + k, LENGTH) for k in range(2)] for i in range(2)]
  for name in ('mix', 's1', 's2', 'made'):
    (tmp_path / name).mkdir()
  for i, (one, two) in enumerate(voices):
    soundfile.write(tmp_path / f'mix/{i}.wav', one + two, RATE, subtype='FLOAT')
    for k, x in enumerate((one, two)):
      soundfile.write(tmp_path / f's{k + 1}/{i}.wav', x, RATE, subtype='FLOAT')
      other = 1 - k
      made = 0.5 * x + 0.02 * wave(9 + k, LENGTH)
      soundfile.write(tmp_path / f'made/{i}_{other + 1}.wav', made, RATE, subtype='FLOAT')
  return tmp_path, sources.open_source(str(tmp_path / 'mix')), voices


def test_voices_are_matched_and_the_improvement_is_that_by_hand(folders):
  root, source, voices = folders
  judge = Judge(source, [root / 's1', root / 's2'], RATE, 2, metrics=['si_sdr'])
  rows = [judge(i, [root / f'made/{i}_{k}.wav' for k in (1, 2)]) for i in range(2)]
  for row, pair in zip(rows, voices):
    assert row['order'] == [2, 1]
    made = [0.5 * x + 0.02 * wave(9 + k, LENGTH) for k, x in enumerate(pair)]
    after = np.mean([si_sdr(x, clean) for x, clean in zip(made, pair)])
    before = np.mean([si_sdr(sum(pair), clean) for clean in pair])
    found = row['scores']
    assert found['separated']['si_sdr'] == pytest.approx(after, abs=1e-2)
    assert found['separated']['si_sdri'] == pytest.approx(after - before, abs=1e-2)
    assert found['mixture'] == {'si_sdr': pytest.approx(before, abs=1e-2), 'si_sdri': 0.0}
  table = enhance.summary(rows)
  assert [(x['system'], x['files']) for x in table] == [('mixture', 2), ('separated', 2)]
  mean = np.mean([row['scores']['separated']['si_sdri'] for row in rows])
  assert table[1]['si_sdri'] == pytest.approx(mean, abs=1e-3)
  assert 'si_sdri' in enhance.table(table)
  # A folder with both, by their names: those that were made are in the other order.
  swapped = Judge(source, [root / 'made'], RATE, 2, metrics=['si_sdr'])
  assert swapped(0, [root / f's{k}/0.wav' for k in (1, 2)])['order'] == [2, 1]


def test_what_cannot_be_scored(folders):
  root, source, _ = folders
  with pytest.raises(InputError, match='names 3 of 2 voices'):
    Judge(source, [root / 's1', root / 's2', root / 's2'], RATE, 2)
  with pytest.raises(InputError, match=r'no clean recording.*0_1'):
    Judge(source, [root / 's1'], RATE, 2)
  judge = Judge(source, [root / 's1', root / 's2'], RATE, 2, metrics=['si_sdr'])
  files = [root / f'made/0_{k}.wav' for k in (1, 2)]
  soundfile.write(root / 's2/0.wav', np.zeros(LENGTH), RATE)
  with pytest.raises(InputError, match='is silent'):
    judge(0, files)
  soundfile.write(root / 's2/0.wav', np.ones(2 * LENGTH), RATE)
  with pytest.raises(InputError, match=r'0\.75 s, and its clean recording, .*1\.50 s'):
    judge(0, files)
