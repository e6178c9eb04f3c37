"""LSTMs over right-padded batches (Hochreiter and Schmidhuber 1997; gates and biases as torch's).

A row gives what it gives alone: the state does not move behind its end, and the backward direction
starts at its last real step, as torch does with packed sequences.
Letters: b batch, n steps, d inputs, h units.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError
from research.nn.kernels import recurrent
from research.nn.layers import product, uniform

# (output h, cell c), each [b, h].
State = tuple[Float[Array, 'b h'], Float[Array, 'b h']]


class Direction(nn.Module):
  """Parameters of one direction: `kernel` [d, 4 h], `recurrent` [h, 4 h], and two biases [4 h], of
  which torch's have one each for inputs and outputs; uniform in +- h^-0.5, as torch's."""

  features: int

  @nn.compact
  def __call__(
    self, x: Float[Array, '*batch d']
  ) -> tuple[Float[Array, '*batch h4'], Float[Array, 'h h4']]:
    """What the inputs and biases give to the gates, and the recurrent kernel."""
    init, width = uniform(self.features**-0.5), 4 * self.features
    kernel = self.param('kernel', init, (x.shape[-1], width))
    recurrent = self.param('recurrent', init, (self.features, width))
    bias = self.param('bias', init, (width,)) + self.param('recurrent_bias', init, (width,))
    return product(x, kernel, 1, jnp.float32, bias), recurrent


class LSTM(nn.Module):
  """One layer, in float32.

  Attributes:
    features: units of a direction.
    bidirectional: a second direction from the end, its outputs beside those of the first.
  """

  features: int
  bidirectional: bool = False

  def setup(self):
    self.forward = Direction(self.features)
    if self.bidirectional:
      self.backward = Direction(self.features)

  def __call__(
    self, x: Float[Array, 'b n d'], mask: Bool[Array, 'b n'], state: State | None = None
  ) -> tuple[Float[Array, 'b n m'], State]:
    """Runs over the steps of a batch.

    Args:
      x: inputs; what is behind the mask may be anything.
      mask: real steps, which come first.
      state: of the steps before, where a sequence comes in parts.

    Returns:
      outputs, 0 behind the mask, and the state of the forward direction after the last real step.

    Raises:
      InputError: a state for two directions.
    """
    if state is not None and self.bidirectional:
      raise InputError('A bidirectional LSTM takes whole sequences: it has no state to go on from.')
    x = jnp.where(mask[:, :, None], x.astype(jnp.float32), 0.0)
    parts = [self.forward(x)]
    masks = [mask]
    if self.bidirectional:  # both at once: the second on the sequence in reverse, padding first
      parts.append(self.backward(x[:, ::-1]))
      masks.append(mask[:, ::-1])
    z = jnp.stack([part[0].swapaxes(0, 1) for part in parts], axis=1)
    kernel = jnp.stack([part[1] for part in parts])
    zeros = jnp.zeros((len(parts), len(x), self.features), jnp.float32)
    first = (zeros, zeros) if state is None else (state[0][None], state[1][None])
    y, last = recurrent.lstm(z, kernel, jnp.stack([m.T for m in masks], axis=1), first)
    outputs = [y[:, 0], *([y[::-1, 1]] if self.bidirectional else [])]
    return jnp.concatenate(outputs, axis=-1).swapaxes(0, 1), (last[0][0], last[1][0])

  def initial(self, batch: int) -> State:
    """The state before the first step: zeros."""
    zeros = jnp.zeros((batch, self.features), jnp.float32)
    return zeros, zeros

  def step(self, x: Float[Array, 'b d'], state: State) -> tuple[Float[Array, 'b h'], State]:
    """One step of the forward direction: its output, and the next state."""
    z, kernel = self.forward(x)
    _, c, h = recurrent.gates(z + product(state[0], kernel, 1, jnp.float32), state[1])
    return h, (h, c)
