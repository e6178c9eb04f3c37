"""Hand-written derivatives and other answers to a compiler, for layers that can be read without.

The functions are the plain ones of their names; how they are computed, forward and backward, was
chosen by measurement. `dense` holds what acts on each token by itself, `attention` softmax
attention, `convolutions` convolutions and what goes with them, `products` matrix products on CPUs,
`tpu_attention` and `tpu_programs` attention on TPUs.
"""

from research.nn.kernels.dense import (
  Dtype,
  add_bias,
  contract,
  gelu,
  layer_norm,
  scale_gradient,
  settled,
  similarities,
)

__all__ = [
  'Dtype', 'add_bias', 'contract', 'gelu', 'layer_norm', 'scale_gradient', 'settled',
  'similarities',
]  # fmt: skip
