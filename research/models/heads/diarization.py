"""Who speaks in every frame, as SUPERB's speaker diarization has it (arXiv 2105.01051; figures of
s3prl downstream/diarization): an LSTM and a linear map.

Letters: b batch, n tokens, m frames of labels, d width, k speakers.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.features.lengths import match_frames
from research.nn import layers
from research.nn.recurrent import LSTM


class Diarization(nn.Module):
  """LSTMs that see the past alone, and a linear map.

  Where the batch has labels, 'label' [b, m, k] with their mask 'label_mask' [b, m], tokens are
  brought to their frames first (`features.lengths.match_frames`, with repeats).

  Attributes:
    speakers: k.
    features: units of an LSTM.
    num_layers: LSTMs.
  """

  PARAMETERS: ClassVar[tuple[str, ...]] = (*(f'rnn_{i}' for i in range(8)), 'head')
  encoder_args: ClassVar[Mapping[str, Any]] = {}

  speakers: int = 2
  features: int = 512
  num_layers: int = 1

  @property
  def frame_speakers(self) -> int:
    """See `capabilities.Diarizes`."""
    return self.speakers

  def setup(self):
    self.rnn = [LSTM(self.features) for _ in range(self.num_layers)]
    self.head = layers.Linear(self.speakers)

  def __call__(
    self,
    tokens: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'],
    encoded: Mapping[str, Any],
    train: bool,
  ) -> dict[str, Array]:
    """'logits' [b, m, k] float32, m = n without labels; 'logits_mask' [b, m]."""
    del train
    batch = encoded.get('batch', {})
    x, real = jnp.where(mask[:, :, None], tokens, 0.0), mask
    if 'label_mask' in batch:
      real = jnp.asarray(batch['label_mask'])
      x = match_frames(x, real.shape[1], repeat=True)
    for rnn in self.rnn:
      x, _ = rnn(x, real)
    return {'logits': self.head(x), 'logits_mask': real}
