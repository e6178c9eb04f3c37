"""Golden cases of Whisper as weights of ours."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from research.weights import convert
from tests.parity.golden import Case

EMBEDDING = 'decoder.token_embedding.weight'
DIMS = {
  'n_audio_ctx': 'n_audio_ctx', 'n_audio_head': 'heads', 'n_audio_layer': 'depth',
  'n_audio_state': 'width', 'n_vocab': 'n_vocab', 'n_text_ctx': 'n_text_ctx',
  'n_text_head': 'decoder_heads', 'n_text_layer': 'decoder_depth',
}  # fmt: skip


def full_weights(case: Case) -> dict[str, np.ndarray]:
  """The weights of a case; the token embedding is made as it says."""
  arrays = dict(case.weights)
  recipe = case.config['token_embedding']
  rows = arrays.pop(f'{EMBEDDING}.special_rows', None)
  shape = case.config['n_vocab'], case.config['n_text_state']
  if rows is not None:
    shape = shape[0] - len(rows), shape[1]
  draws = np.random.RandomState(recipe['seed']).standard_normal(shape).astype(np.float32)
  table = np.float32(recipe['scale']) * draws
  arrays[EMBEDDING] = table if rows is None else np.concatenate([table, rows])
  return arrays


@functools.lru_cache(maxsize=2)
def _build(system: str, name: str, folder: Path):
  case = Case(system, name, folder)
  sizes = {ours: case.config[theirs] for theirs, ours in DIMS.items()}
  pairs = case.config.get('alignment_heads')
  args = {} if pairs is None else {'alignment_heads': tuple(map(tuple, pairs))}
  model, variables = convert('whisper', full_weights(case), **sizes, **args)
  return model, jax.tree.map(jnp.asarray, variables)


def build(case: Case):
  """(model, variables) of a case."""
  return _build(case.system, case.name, case.folder)
