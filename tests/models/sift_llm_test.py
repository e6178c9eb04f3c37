"""SIFT-LLM: the paper's number of parameters that learn, and silence behind a clip."""

import importlib.util
from pathlib import Path

import jax
import numpy as np

from research import models
from research.nn import adapters
from research.train.config import complete

FILE = Path(__file__).resolve().parents[2] / 'experiments/sift/instructions.py'


def test_what_learns_is_as_published():
  """8.7 M: adapters of rank 16 on queries and values, and the connector."""
  spec = importlib.util.spec_from_file_location('instructions', FILE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = complete(module.get_config())
  model = models.get('sift_llm')(**config['model']['args'])
  shapes = jax.eval_shape(model.init, jax.random.key(0), model.example())['params']
  how = {k: config['adapters'][k] for k in ('rank', 'alpha', 'targets')}
  grown = jax.eval_shape(lambda params: adapters.add(params, jax.random.key(0), **how), shapes)
  leaves = jax.tree_util.tree_flatten_with_path(grown)[0]
  named = {'/'.join(key.key for key in path): x for path, x in leaves}
  learned = {
    k: int(np.prod(x.shape))
    for k, x in named.items()
    if adapters.trained(f'/{k}', None) or k.startswith('projector/')
  }
  assert sum(learned.values()) == 8_719_872
  assert config['adapters']['trained'] == '^projector/'
  assert model.placeholders(16_000) == model.placeholders(480_000) == 1500
  assert model.clone(whole_windows=False).placeholders(16_000) == 50
