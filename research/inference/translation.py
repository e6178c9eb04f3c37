"""Texts from speech by head translation: fairseq's beam search on the memories of a batch.

Letters: b batch, n tokens, m tokens after the convolutions, d width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.inference.generate import Generated, Settings, generate
from research.inference.generate_rules import MinTokens, StopAt, Suppress

PAD = 1  # of fairseq's dictionaries
# SUPERB-SG's search (s3prl speech_translation/config.yaml): a text has up to 400 tokens.
BEAMS, MAX_TOKENS = 20, 400


def settings(
  stop: int, *, beams: int = BEAMS, max_tokens: int = MAX_TOKENS, never: tuple[int, ...] = (PAD,)
) -> Settings:
  """fairseq's search: no empty text, an end after `max_tokens`, scores a token with the end."""
  return Settings(
    max_tokens=max_tokens + 1,
    stop=(stop,),
    beams=beams,
    style='fairseq',
    rules=(Suppress(never), MinTokens(1, (stop,)), StopAt(max_tokens, (stop,))),
  )


def translate(
  head: Any,
  params: Any,
  tokens: Float[Array, 'b n d'],
  mask: Bool[Array, 'b n'],
  *,
  beams: int = BEAMS,
  max_tokens: int = MAX_TOKENS,
) -> Generated:
  """Texts of a batch of features, the best of each by `Generated.best`.

  Args:
    head: of `models/heads/translation.py`, unbound.
    params: its parameters.
    tokens: what it stands on.
    mask: which of them are real.
    beams: hypotheses; 1 is greedy.
    max_tokens: of a text, without its end; never above the positions of the decoder.
  """
  heard = _encode(head, {'params': params}, jnp.asarray(tokens), jnp.asarray(mask))
  return translate_encoded(head, params, *heard, beams=beams, max_tokens=max_tokens)


def translate_encoded(
  head: Any,
  params: Any,
  heard: Float[Array, 'b m d'],
  real: Bool[Array, 'b m'],
  *,
  beams: int = BEAMS,
  max_tokens: int = MAX_TOKENS,
) -> Generated:
  """Texts of what the encoder of the head gave, see `translate`.

  Args:
    head, params, beams, max_tokens: as there.
    heard: 'encoder_out' of the head.
    real: 'encoder_mask' of the head.
  """
  variables = {'params': params}
  memories = _memories(head, variables, jnp.asarray(heard), jnp.asarray(real))
  room = min(max_tokens, head.max_tokens - 1)
  how = settings(head.start_token, beams=beams, max_tokens=room)
  return generate(head, variables, [[head.start_token]] * len(heard), how, memories=memories)


@functools.partial(jax.jit, static_argnames='head')
def _encode(head, variables, tokens, mask):
  return head.apply(variables, tokens, mask, method='encode')


@functools.partial(jax.jit, static_argnames='head')
def _memories(head, variables, heard, real):
  return head.apply(variables, heard, real, method='memories')
