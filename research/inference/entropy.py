"""Codes of a codec as bits by a language model that says how likely each of them is.

Both ways run the model frame by frame through one compiled program: the coder needs the same
probabilities, to 1e-8, as the decoder. Between machines, or with the probabilities of another
implementation of the model, they may differ in the last bit, and the file then cannot be read.
Letters: n frames, q codebooks, k codes.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from research.errors import InputError
from research.inference import ecdc


class EntropyCoder:
  """A language model as a coder of codes.

  Args:
    model, variables: an `EncodecLm`.

  Raises:
    InputError: another model.
  """

  def __init__(self, model: Any, variables: Mapping[str, Any]):
    if not all(hasattr(model, name) for name in ('quantizers', 'codebook_size', 'past_context')):
      raise InputError(
        f'{type(model).__name__} is no language model of a codec: give encodec_lm_24khz or '
        'encodec_lm_48khz, or a run of encodec_lm.'
      )
    self.model, self.variables = model, variables

  def check(self, codec: Any) -> None:
    """Raises InputError unless it is for the codes of that codec."""
    own, theirs = (
      (m.codebook_size, m.frontend.sample_rate, m.quantizers) for m in (self.model, codec)
    )
    if own[:2] != theirs[:2] or own[2] < theirs[2]:
      raise InputError(
        f'The language model is for {own[2]} codebooks of {own[0]} at {own[1]} Hz, the codec has '
        f'{theirs[2]} of {theirs[0]} at {theirs[1]} Hz.'
      )

  def pack(self, codes: Int[np.ndarray, 'n q']) -> bytes:
    """The bits of a segment."""
    coder, steps = ecdc.Coder(), _Steps(self, codes.shape[1])
    for row in codes:
      for code, ends in zip(row, steps.ends(), strict=True):
        coder.push(int(code), ends)
      steps.after(row)
    return coder.finish()

  def unpack(
    self, data: bytes, frames: int, codebooks: int, where: str
  ) -> tuple[Int[np.ndarray, 'n q'], int]:
    """(codes of a segment, how many bytes they took).

    Raises:
      InputError: the bits end before the codes, or fit none.
    """
    decoder, steps = ecdc.Decoder(data), _Steps(self, codebooks)
    found: list[np.ndarray] = []  # grows with the bits, whatever the header says
    for _ in range(frames):
      row = np.zeros(codebooks, np.int32)
      for j, ends in enumerate(steps.ends()):
        code = decoder.pull(ends)
        if code is None:
          raise InputError(
            f'{where} ends before the last code, or its bits fit none: it is cut off, or was '
            'packed with other weights of the language model or on another machine.'
          )
        row[j] = code
      found.append(row)
      steps.after(row)
    return np.stack(found), decoder.used


class _Steps:
  """The model behind the frames of one segment so far."""

  def __init__(self, own: EntropyCoder, codebooks: int):
    self._own = own
    self._codes = np.full((1, 1, codebooks), -1, np.int32)
    self._state = _start(own.model, own.variables)

  def ends(self) -> Int[np.ndarray, 'q k']:
    """Ends of the ranges of the codes of the next frame."""
    own = self._own
    p, self._state = _step(own.model, own.variables, jnp.asarray(self._codes), self._state)
    return ecdc.cumulative(np.asarray(p))

  def after(self, codes: Int[np.ndarray, ' q']) -> None:
    """Takes the codes of the frame."""
    self._codes = np.asarray(codes, np.int32)[None, None]


@functools.partial(jax.jit, static_argnums=0)
def _start(model, variables):
  return model.apply(variables, 1, method='start')


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _step(model, variables, codes, state):
  """(probabilities [q, k] of the codes of the next frame, the next state)."""
  logits, state = model.apply(variables, codes, state, method='step')
  return jax.nn.softmax(logits[0, 0], axis=-1), state
