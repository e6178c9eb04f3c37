"""Plans of sampling from a small prior of Jukebox: bytes by hand, what a mesh changes."""

import runpy

import pytest

from research.errors import InputError
from research.train.config import complete
from research.train.planning import sampling, topology


def planned(mesh, rows=None):
  config = runpy.run_path('experiments/jukebox/prior.py')['get_config']('debug')
  config.mesh = mesh
  return sampling.Sampling(complete(config), topology.parse('v5e:2x2'), rows)


@pytest.mark.slow
def test_what_a_token_costs():
  own = planned(dict(data=4, fsdp=1, tensor=1))
  # Weights whole on every chip; a dense cache of 256 keys and values of 4 float32, 3 layers, and
  # what says how far they are written.
  assert own.weights == 4 * own.params
  kept = 2 * 256 * 4 * 4 * 3
  assert kept <= own.caches <= 1.2 * kept
  chip = own.topology.chip
  assert own.seconds['memory'] == pytest.approx((own.weights + own.caches) / chip.hbm_rate)
  assert own.seconds['links'] == 0 and own.error is None and own.rows == 4
  found = dict(own.rows_of_table())
  assert found['windows'] == '4 at once, of 256 tokens and 1.024 s'
  assert 'memory-bound' in found['estimate: token']

  # A part of the weights a chip; the others come over the links.
  spread = planned(dict(data=1, fsdp=4, tensor=1), rows=8)
  assert spread.weights < own.weights and spread.caches > 1.9 * own.caches
  assert spread.seconds['links'] == pytest.approx(3 * spread.weights / chip.link_rate)
  assert spread.flops == pytest.approx(2 * own.flops, rel=1e-6)
  with pytest.raises(InputError, match='multiple of data x fsdp = 4'):
    planned(dict(data=1, fsdp=4, tensor=1), rows=2)
  # Answers: keys and values of all positions, one layer of two heads of 16.
  config = runpy.run_path('experiments/audio_flamingo3/stages.py')['get_config']('debug')
  answers = sampling.Sampling(complete(config), topology.parse('v5e:2x2'))
  assert answers.caches >= 2 * 4096 * 2 * 16 * 4 * 1
  found = dict(answers.rows_of_table())
  assert found['prompts'] == '4 at once, of up to 4,096 tokens with their answers'
  assert '256 tokens' in found['estimate: answer']
  with pytest.raises(InputError, match='prior of Jukebox'):
    config = runpy.run_path('experiments/jukebox/vqvae.py')['get_config']('debug')
    sampling.Sampling(complete(config), topology.parse('v5e:2x2'))
