"""How much of the LibriSpeech subset's batches is padding, with the experiment's own buckets."""

import os
from pathlib import Path

import numpy as np
import pytest

from research.audio import batching
from research.train import config, selection
from tests.audio.padding import padding_efficiency
from tests.experiments_test import ROOT, load

DATA = Path(os.environ.get('OIDO_DATA') or ROOT.parent / 'shared' / 'data')


def test_less_than_a_tenth_of_the_batches_is_padding(monkeypatch):
  if not (DATA / 'librispeech_test_clean_sub').is_dir():
    pytest.skip(f'no librispeech_test_clean_sub in {DATA}: set OIDO_DATA')
  monkeypatch.setenv('OIDO_DATA', str(DATA))
  file = ROOT / 'experiments/wav2vec2/finetune_librispeech_subset.py'
  data = config.complete(load(file).get_config('scratch'))['data']
  durations = selection.usable(selection.source(data), data).durations()
  lengths = batching.best_buckets(durations, data['buckets'], longest=data['seconds'])
  batches = batching.Bucketed(
    durations, lengths, batch_size=data['batch_size'], sample_rate=data['sample_rate'], seed=0
  )
  real = np.mean([padding_efficiency(durations, batches, epoch) for epoch in range(5)])
  print(f'padding: {100 * (1 - real):.1f} %')
  assert real > 0.9
