"""A run with units, noise and utterance mixing."""

import json

import numpy as np
import pytest

from research.audio import decode, sources, units
from research.errors import InputError
from research.train import build, loop
from research.train.config import complete
from tests.experiments_test import ROOT, load

ABOUT = dict(clusters=500, sample_rate=16_000, hop=320, window=400, fingerprint='x')


def label(path, clips):
  counts = [1 + (len(decode.decode(c, sample_rate=16_000)) - 400) // 320 for c in clips]
  units.save(path, [c.id for c in clips], [np.arange(n) for n in counts], ABOUT)
  return str(path)


def config(path):
  full = load(ROOT / 'experiments/audio_mae/builtin_tiny.py').get_config('debug').to_dict()
  full['data'].update(
    where=dict(kind=['word', 'sentence']),
    fields=dict(
      units=path,
      noise=dict(args=dict(source=dict(name='builtin', args=dict(where=dict(kind='event'))))),
    ),
    batch_size=16,
    seconds=0.5,
  )
  mix = dict(name='mix_utterances', args=dict(prob=0.5, noise_prob=0.5, snr=[-5, 5]))
  return {**full, 'augment': [mix], 'total_steps': 2}


@pytest.mark.slow
def test_a_run_has_units_with_mixed_clips(tmp_path, monkeypatch):
  clips = sources.open_source('builtin').where(dict(kind=['word', 'sentence']))
  path = label(tmp_path / 'units', clips)
  seen = []
  objective = build.objective

  def watching(config):
    inner = objective(config)

    def loss(out, batch):
      seen.append({name: x.shape for name, x in batch.items()})
      return inner(out, batch)

    return loss

  monkeypatch.setattr(build, 'objective', watching)
  result = loop.train(config(path), tmp_path / 'run', quiet=True)
  assert result.finished and np.isfinite(result.metrics['valid/loss'])
  train = next(s for s in seen if 'noise' in s)
  assert train['units'] == (16, 24, 1) and train['noise'] == train['noise_mask'] == (16, 8000)
  assert any(s['units'][1] > 0 and 'noise' not in s for s in seen)  # validation
  rows = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').open()]
  assert not any('warning' in row for row in rows)
  # Validation clips without units are refused before the first step.
  only = label(tmp_path / 'only', clips.split('train'))
  with pytest.raises(InputError, match=r'No clip of .* has units in .*only'):
    loop.train(config(only), tmp_path / 'other', quiet=True)


def test_noise_and_its_augmentation_go_together():
  full = config('units')
  complete(full)
  fields = {**full['data']['fields'], 'noise': None}
  without = {**full, 'data': {**full['data'], 'fields': fields}}
  with pytest.raises(InputError, match=r'there is no noise: set config\.data\.fields\.noise'):
    complete(without)
  with pytest.raises(InputError, match=r'noise is .* but no augmentation uses it'):
    complete({**full, 'augment': [dict(name='mix_utterances')]})
  with pytest.raises(InputError, match="Did you mean 'noise_prob'"):
    complete({**full, 'augment': [dict(name='mix_utterances', args=dict(noise_pro=1))]})
