"""A model with a head over pieces of audio: batches of few lengths, and where frames begin.

Letters: b batch, t samples.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.errors import InputError
from research.inference import inputs, lengths

# Seconds of audio in a batch: the first convolution of 120 s of a base model takes 0.8 GB.
BATCH_SECONDS = 120.0
# Tokens of two lengths of some seconds say how far apart they are.
LISTENED = 10


class Runner:
  """Named outputs of a model for lists of pieces.

  Attributes:
    model: the module; its `frontend` says the rate.
    names: of the outputs.
    batch_seconds: audio in a batch, padding included.
  """

  def __init__(
    self, model: Any, variables: Any, names: Sequence[str], batch_seconds: float = BATCH_SECONDS
  ):
    self.model, self.names, self.batch_seconds = model, tuple(names), batch_seconds
    self.rate = model.frontend.sample_rate
    self._variables = jax.device_put(variables)

  def __call__(
    self, pieces: Sequence[np.ndarray], width: int | None = None
  ) -> Iterator[tuple[np.ndarray, ...]]:
    """The outputs of every piece in the order given, padded as its batch was.

    Args:
      pieces: samples [t], none below a frame.
      width: samples that all are padded to; None: those of a grid that hold the longest of a batch.

    Raises:
      InputError: an output is not finite.
    """
    shortest = max(self.model.frontend.min_samples, round(lengths.SHORTEST * self.rate))
    wide = width or lengths.next_length(max(map(len, pieces), default=1), shortest)
    limit = lengths.rows(wide, self.batch_seconds * self.rate)
    for start in range(0, len(pieces), limit):
      batch = pieces[start : start + limit]
      rows = inputs.padded(batch, lengths.few_rows(len(batch), limit), wide)
      found = jax.device_get(_outputs(self.model, self.names, self._variables, *rows))
      for name, values in zip(self.names, found, strict=True):
        if not np.isfinite(values[: len(batch)]).all():
          raise InputError(
            f"The model's output {name!r} holds numbers that are not finite: its weights are "
            'damaged.'
          )
      yield from (tuple(values[row] for values in found) for row in range(len(batch)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs(
  model: Any,
  names: tuple[str, ...],
  variables: Any,
  audio: Float[Array, 'b t'],
  mask: Bool[Array, 'b t'],
) -> list[Array]:
  out = model.apply(variables, {'audio': audio, 'audio_mask': mask})
  return [jnp.asarray(out[name]) for name in names]


def token_hop(model: Any, variables: Any) -> int:
  """Samples from one token to the next, by the shapes of two lengths; nothing is computed.

  Raises:
    InputError: a longer clip has no more tokens.
  """
  samples = LISTENED * model.frontend.sample_rate
  once, twice = (_count(model, variables, n * samples) for n in (1, 2))
  if twice <= once:
    raise InputError(
      f'{LISTENED} s and {2 * LISTENED} s have {once} and {twice} tokens: the model has no frames '
      'at equal distances.'
    )
  return round(samples / (twice - once))


def _count(model: Any, variables: Any, samples: int) -> int:
  shapes = [jax.ShapeDtypeStruct((1, samples), kind) for kind in (jnp.float32, jnp.bool_)]
  encode = functools.partial(model.apply, method='embed')
  return jax.eval_shape(encode, variables, *shapes)[1].shape[1]
