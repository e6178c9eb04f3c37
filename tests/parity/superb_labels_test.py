"""From files to targets, against the official code."""

import numpy as np
import pytest

from research.text import characters, phones, slots, targets
from tests.parity.golden import Case, each_case
from tests.parity.superb_cases import given, kind


def runs(active):
  """[start, end) of the active frames of a column."""
  steps = np.diff(active.astype(int), prepend=0, append=0)
  return np.stack([np.flatnonzero(steps > 0), np.flatnonzero(steps < 0)], axis=1).tolist()


@each_case('superb', where=kind('superb_task_labels'))
def test_labels(case: Case):
  want = {k: v['value'] for k, v in case.info['outputs'].items()}
  files = given(case, 'ks_files')
  for part in ('train', 'dev'):
    assert [f for f in files if targets.keyword_part(f) == part] == want[f'ks_{part}']
  items = want['ks_dev_items']
  dev = [targets.keyword_class(f.split('/')[0]) for f in want['ks_dev']]
  noise = [row for row in items if row[0] == targets.SILENCE]
  assert sorted([*dev, *[targets.SILENCE] * len(noise)]) == sorted(row[0] for row in items)
  weights = targets.balanced_weights([row[0] for row in items])
  assert weights.tolist() == pytest.approx([row[2] for row in items], abs=1e-6)

  texts = given(case, 'asr_text')
  # The official dictionary grows by characters that it lacks, beyond the logits; ours has <unk>.
  known, unknown = len(characters.SUPERB_CHARACTERS), 3
  ids = [[i if i < known else unknown for i in row] for row in want['asr_ids']]
  assert [targets.spell(t).tolist() for t in texts] == ids
  assert [slots.spell(t).tolist() for t in texts] == want['character_ids']
  lexicon = phones.read_lexicon(given(case, 'pr_lexicon'))
  spoken = [phones.pronounce(t, lexicon) for t in given(case, 'pr_text')]
  assert [phones.encode(p).tolist() for p in spoken] == want['pr_ids']

  rows = given(case, 'ic_rows')
  classes = targets.intent_classes(rows)
  assert classes == want['ic_map'] and [len(c) for c in classes.values()] == want['ic_sizes']
  numbers = targets.intents(rows, classes)
  names = [list(c) for c in classes.values()]
  assert [[n[i] for n, i in zip(names, row)] for row in numbers] == rows
  assert [targets.speaker_class(p) for p in given(case, 'sid_paths')] == want['sid_labels']

  segments = [tuple(s[1:]) for s in given(case, 'sd_segments')]
  for label in want['sd_labels']:
    found = targets.speaker_frames(
      segments, tuple(label['chunk']), frame_shift=label['frame_shift']
    )
    assert [runs(column) for column in found.T] == label['active_runs'], label
  for name, expected in want['sd_chunks'].items():
    found = targets.chunks(int(name.split('_')[1]))
    assert [list(c) for c in found] == expected
