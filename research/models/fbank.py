"""Filter banks as an encoder: the front-end alone, no parameters. SUPERB's FBANK row, which its
scores start from (arXiv 2105.01051; s3prl upstream/baseline).

Letters: b batch, t samples, n frames, d width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.capabilities import Embedding, Example, audio_example
from research.features.frontend import Frontend
from research.models.settings import check_choices
from research.nn import layers

AnyArray = jax.Array | np.ndarray


class Fbank(nn.Module):
  """One layer of tokens: frames of the front-end.

  Attributes:
    frontend: 'superb_fbank' by default, 80 log-mel bins with deltas, normalised per clip; SUPERB's
      KS, IC, SID and ER take 'superb_fbank_no_cmvn', as their mean over a clip is 0 otherwise.
    dtype: of tokens under a head.
  """

  EMBEDDING: ClassVar[Embedding] = Embedding()
  FINETUNING: ClassVar[Mapping[str, Any]] = {}

  frontend: Any = None
  dtype: str = 'float32'

  def __post_init__(self):
    if not isinstance(self.frontend, Frontend):
      given = {'name': 'superb_fbank', **(self.frontend or {})}
      object.__setattr__(self, 'frontend', Frontend.from_dict(given))
    check_choices('fbank', self, {'dtype': layers.DTYPES})
    super().__post_init__()

  def example(self) -> Example:
    """A clip of one frame."""
    return audio_example(self.frontend)

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Array]:
    """'tokens' [b, n, d], 'frame_mask' [b, n], 'embedding' [b, d]: mean of the real frames."""
    out = self.hidden_states(batch, train, False)
    weight = out['frame_mask'].astype(jnp.float32)[:, :, None]
    mean = (out['tokens'].astype(jnp.float32) * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)
    return out | {'embedding': mean}

  def hidden_states(
    self, batch: Mapping[str, Any], train: bool = False, layers: bool = True
  ) -> dict[str, Array]:
    """'tokens' [b, n, d], 'frame_mask' [b, n], with `layers` 'layers' [1, b, n, d]."""
    del train
    states, mask = self.embed(batch['audio'], batch['audio_mask'])
    states = states.astype(jnp.dtype(self.dtype))
    out = {'tokens': states[0], 'frame_mask': mask}
    return out | ({'layers': states} if layers else {})

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """The one layer there is. Raises InputError below one frame."""
    features, mask = self.frontend(audio, audio_mask)
    return jnp.where(mask[:, :, None], features, 0.0)[None], mask
