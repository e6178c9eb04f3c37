"""A language model that generates, for tests: a decoder without audio."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.nn import cache as caches
from tests.nn.decoder import Decoder

# Of weights with which some texts end, and some do not.
SEED = 17


class ToyLanguage(nn.Module):
  """`tests.nn.decoder.Decoder` behind the interface of `capabilities.Generates`."""

  vocab_size: int = 23
  max_tokens: int = 40

  def setup(self):
    self.decoder = Decoder(
      vocabulary=self.vocab_size, max_length=self.max_tokens, positions='learned'
    )

  def __call__(self, tokens: Any) -> Any:
    return self.decoder(tokens)[0]

  def start(self, rows: int, slots: int, memories: Any = None) -> caches.State:
    del memories
    made = caches.create_layers(2, False, rows, slots, 4, 8)
    return caches.State(made)

  def step(self, tokens: Any, state: Any, real: Any = None, at: Any = None) -> Any:
    kept = tuple((cache, None) for cache in state.caches)
    logits, kept = self.decoder(jnp.asarray(tokens), real, kept)
    if at is not None:
      logits = jnp.take_along_axis(logits, at[:, :, None], axis=1)
    return logits, state.after(tuple(cache for cache, _ in kept))


def made(scale: float = 3.0, **args: Any) -> tuple[ToyLanguage, Any]:
  """(model, weights) whose choices are far apart."""
  model, rng = ToyLanguage(**args), np.random.default_rng(SEED)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))

  def draw(path: Any, x: Any) -> Any:
    x = 0.4 * rng.standard_normal(x.shape) + (path[-1].key == 'scale')
    return jnp.asarray(scale**0.25 * x, jnp.float32)

  return model, jax.tree_util.tree_map_with_path(draw, shapes)
