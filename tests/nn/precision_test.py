"""Matrices held in bfloat16 change no bit of a model that computes in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.nn import precision
from tests.contract import jit
from tests.models import subjects

SUBJECTS = subjects.every()

SLOW = ('audio_flamingo', 'audio_flamingo2', 'audio_flamingo3', 'qwen_audio', 'sift_llm')


@pytest.mark.parametrize(
  'what', ['qwen2_audio', *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]
)
def test_outputs_are_the_same_bits(what):
  subject = SUBJECTS[what]
  model = subject.model(dtype='bfloat16')
  batch = subject.batch(model, [model.frontend.samples(60), model.frontend.samples(40)])
  variables = subject.variables(model)
  params = variables['params']
  held = precision.held(params, model.dtype)
  kinds = {str(path[-1].key): x.dtype for path, x in jax.tree_util.tree_leaves_with_path(held)}
  assert kinds['kernel'] == jnp.bfloat16 and kinds['bias'] == jnp.float32
  run = jit(model.apply)
  for got, want in zip(
    *(jax.tree.leaves(run({**variables, 'params': p}, batch)) for p in (held, params))
  ):
    np.testing.assert_array_equal(np.asarray(got, np.float32), np.asarray(want, np.float32))
  shapes = jax.eval_shape(lambda: params)
  assert jax.eval_shape(lambda: held) == precision.held(shapes, 'bfloat16')
  assert precision.held(params, 'float32') is params
