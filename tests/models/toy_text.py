"""A language model without audio: embeddings, transformer blocks, logits over the tokens."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.nn import layers


class ToyText(nn.Module):
  """Fills in tokens that are negative, from those around them."""

  size: int = 11
  width: int = 16
  depth: int = 2
  heads: int = 2
  scan_layers: bool = False

  def example(self) -> dict[str, Any]:
    return {'tokens': jax.ShapeDtypeStruct((1, 4), jnp.int32)}

  @nn.compact
  def __call__(self, batch, train=False):
    del train
    tokens = batch['tokens']
    table = self.param('embedding', nn.initializers.normal(1.0), (self.size + 1, self.width))
    positions = self.param('positions', nn.initializers.normal(1.0), (32, self.width))
    x = jnp.asarray(table)[jnp.where(tokens < 0, self.size, tokens)] + positions[: tokens.shape[1]]
    x, _, _ = layers.run_blocks(
      lambda name, index: layers.Block(self.heads, name=name),
      lambda block, x, layer: block(x),
      x,
      jnp.arange(self.depth),
      scan=self.scan_layers,
      remat=False,
    )
    return {'logits': layers.Dense(self.size, name='head')(x)}


def filled_in(out, batch):
  """Cross-entropy of the tokens that the model could not see."""
  hidden = (batch['tokens'] < 0).astype(jnp.float32)
  own = jnp.take_along_axis(jax.nn.log_softmax(out['logits']), batch['answers'][..., None], axis=2)
  loss = -(own[..., 0] * hidden).sum() / jnp.maximum(hidden.sum(), 1.0)
  return loss, {'hidden': hidden.mean()}
