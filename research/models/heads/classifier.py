"""Classes of clips: pooling, a norm, a linear map (AudioMAE, arXiv 2207.06405; timm's
VisionTransformer has the same).

Upstream of the figures: facebookresearch/AudioMAE, commit bd60e29 (models_vit.py,
main_finetune_as.py).
Letters: b batch, n tokens, d width, c classes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError, unknown
from research.models.spectrogram import mean_tokens
from research.nn import layers, pooling


class Classifier(nn.Module):
  """Pooling, norm, linear map.

  Attributes:
    classes: number of logits; 0 leaves the linear map out.
    pooling: 'cls', the class token of an encoder that has one; or a key of `pooling.POOLS`, as
      'mean', over the real tokens.
    norm: layer norm of the pooled vector, instead of the encoder's own at the end, where it has
      such an option (published for the mean: `fc_norm`); None: with every pooling but 'cls'.
    norm_epsilon: of that norm.
    init_std: of the linear map's kernel (main_finetune_as.py).
    labels: names of the classes, where they are known.
  """

  PARAMETERS: ClassVar[tuple[str, ...]] = ('head', 'fc_norm')

  classes: int
  pooling: str = 'mean'
  norm: bool | None = None
  norm_epsilon: float = 1e-6
  init_std: float = 2e-5
  labels: tuple[str, ...] = ()

  def __post_init__(self):
    poolings = ('cls', *pooling.POOLS)
    if self.pooling not in poolings:
      raise unknown('pooling of head classifier', self.pooling, poolings)
    if self.classes < 0:
      raise InputError(
        f'head classifier got classes={self.classes}; 0 (no linear map) or more is needed.'
      )
    object.__setattr__(self, 'labels', tuple(self.labels))
    if self.labels and len(self.labels) != self.classes:
      raise InputError(
        f'head classifier got classes={self.classes} and {len(self.labels)} labels; expected a '
        'label for every class, or none.'
      )
    super().__post_init__()

  @property
  def norms(self) -> bool:
    """Whether the pooled vector is normed."""
    return self.pooling != 'cls' if self.norm is None else self.norm

  @property
  def encoder_args(self) -> Mapping[str, Any]:
    """One norm is enough: the encoder has none at its end where the pooled vector is normed."""
    return {'final_norm': not self.norms}

  def setup(self):
    if self.norms:
      self.fc_norm = layers.LayerNorm(self.norm_epsilon)
    if self.classes:
      self.head = layers.Dense(self.classes, kernel_init=nn.initializers.normal(self.init_std))

  def __call__(
    self,
    tokens: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'],
    encoded: Mapping[str, Any],
    train: bool,
  ) -> dict[str, Array]:
    """'logits' [b, c] float32; 'pooled' [b, k]: what they are made of."""
    del train
    if self.pooling == 'cls':
      if 'cls' not in encoded:
        raise InputError(
          "head classifier got pooling='cls', but the encoder has no class token: give "
          "pooling='mean'."
        )
      pooled = encoded['cls'].astype(jnp.float32)
    elif self.pooling == 'mean':
      pooled = mean_tokens(tokens, mask)  # a sum, which no accelerator rounds as it does products
    else:
      pooled = pooling.POOLS[self.pooling](tokens[None], mask)[0]
    if self.norms:
      pooled = self.fc_norm(pooled)
    return {'pooled': pooled} | ({'logits': self.head(pooled)} if self.classes else {})
