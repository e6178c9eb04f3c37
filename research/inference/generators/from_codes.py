"""Recordings again, from their codes alone: VQ-VAE's encoder and codebook, then its WaveNet, in the
voice of any speaker that it knows (arXiv 1711.00937, §4.2).

Letters: t samples, n codes, d width of codes.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from research.errors import InputError
from research.inference import generators
from research.inference.generators import Report, Request, sample_by_sample

# Clips are filled up to whole seconds, so that few programs are compiled.
SECONDS = 1.0


class Generator:
  """Audio of a VQ-VAE of waveforms.

  loaded = weights.load('runs/vq_vae')
  loaded.generate(source='a.wav', labels={'speaker': 'theo'})
  """

  PARTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

  def __init__(
    self,
    model: Any,
    variables: Any,
    *,
    temperature: float = 1.0,
    batch_size: int = 16,
    fold_seconds: float = 0.0,
    overlap_seconds: float = 0.05,
  ):
    """Args:
      model: a `models.vq_vae.VqVae`.
      variables: its weights.
      temperature, batch_size, fold_seconds, overlap_seconds: see `sample_by_sample.Generator`.

    Raises:
      InputError: the model is of spectrograms, or options that cannot be.
    """
    if model.input != 'waveform':
      raise InputError(
        f'This vq_vae has input={model.input!r}: it gives spectrograms, no audio. Take one of '
        "input='waveform', or its codes (launch.codec --format=tsv) and embeddings."
      )
    self.model, self.variables, self.generation = model, variables, model.generation
    own = {'params': variables['params']['wavenet_decoder']}
    self._samples = sample_by_sample.Generator(
      model.wavenet(), own, temperature=temperature, batch_size=batch_size,
      fold_seconds=fold_seconds, overlap_seconds=overlap_seconds,
    )  # fmt: skip

  def __call__(
    self, requests: Sequence[Request], report: Report | None = None
  ) -> list[Float[np.ndarray, ' t']]:
    """Audio of each request, as long as its source; of codes, as long as they stand for.

    Args:
      requests: what is asked for.
      report: called with the number of samples that were made.

    Raises:
      InputError: what the model cannot be asked for, or codes that there are not.
    """
    generators.check(self.generation, requests)
    given = [self._with_vectors(request) for request in requests]
    return self._samples.made(given, report)

  def _with_vectors(self, request: Request) -> Request:
    """The request with the vectors of its codes in the place of its source."""
    hop, size = self.model.hop, self.model.codebook_size
    if request.source is None:
      codes = np.asarray(request.units, np.int32).reshape(-1)
      if not len(codes) or codes.min() < 0 or codes.max() >= size:
        raise InputError(f'{len(codes)} codes were given: expected some, from 0 to {size - 1}.')
      samples = len(codes) * hop
    else:
      codes, samples = self.encode(request.source), len(request.source)
    vectors = _vectors(self.model, self.variables, jnp.asarray(codes)[None])
    return dataclasses.replace(
      request, source=None, units=None, samples=samples, frames=np.asarray(vectors)[0]
    )

  def encode(self, audio: Float[np.ndarray, ' t']) -> np.ndarray:
    """Codes int32 [n] of a clip, silence behind it until they are whole."""
    hop = self.model.hop
    count = max(-(-len(audio) // hop), 1)
    block = max(round(SECONDS * self.model.frontend.sample_rate / hop), 1)
    width = -(-count // block) * block * hop
    x, mask = np.zeros((1, width), np.float32), np.arange(width) < count * hop
    x[0, : len(audio)] = audio
    codes = _encode(self.model, self.variables, jnp.asarray(x), jnp.asarray(mask)[None])
    return np.asarray(codes, np.int32)[0, :count, 0]


@functools.partial(jax.jit, static_argnames=('model',))
def _encode(model, variables, audio, mask):
  return model.apply(variables, audio, mask, method='encode')[0]


@functools.partial(jax.jit, static_argnames=('model',))
def _vectors(model, variables, codes):
  return model.apply(variables, codes, method='vectors_of')
