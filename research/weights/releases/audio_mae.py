"""Official AudioMAE weights (facebookresearch/AudioMAE): pre-trained and fine-tuned state dicts.

Which of the two a file holds is seen from its keys: `decoder_pred` or `head`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.audio_mae import SIZES, AudioMAE
from research.weights.families import vit
from research.weights.release import Release
from research.weights.stated import NOTHING, Stated
from research.weights.tables import Rule, blocks, linear, vector

_WINDOW = [
  Rule('decoder_blocks.{i}.attn.tau', 'params/decoder/blocks_{i}/attn/tau', layers='decoder_depth'),
  *(
    rule
    for fc in ('fc1', 'fc2')
    for rule in linear(
      f'decoder_blocks.{{i}}.attn.meta_mlp.{fc}',
      f'params/decoder/blocks_{{i}}/attn/meta_mlp/{fc}',
      'decoder_depth',
    )
  ),
]

DECODER = [
  *linear('decoder_embed', 'params/decoder_embed'),
  Rule('mask_token', 'params/mask_token'),
  Rule('decoder_pos_embed', 'buffers/decoder_pos_embed', 'table'),
  *blocks('decoder_blocks', 'params/decoder', 'decoder_depth', 'decoder_heads'),
  *vector('decoder_norm', 'params/decoder/norm'),
  *linear('decoder_pred', 'params/decoder/pred'),
]


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need; see `vit.settle` for what must be given."""
  if 'decoder_pred.weight' not in arrays:
    return vit.infer(arrays, given, stated)
  found = vit.encoder_args(arrays, given)
  found['decoder_width'] = arrays['decoder_pos_embed'].shape[-1]
  found['decoder_depth'] = vit.count_layers(arrays, 'decoder_blocks')
  tau = arrays.get('decoder_blocks.0.attn.tau')
  found['decoder'] = 'global' if tau is None else 'swin'
  heads = {s.decoder_heads for s in SIZES.values() if s.decoder_width == found['decoder_width']}
  if tau is not None:
    found['decoder_heads'] = tau.shape[0]
  elif 'decoder_heads' not in given:
    if len(heads) != 1:
      raise InputError(
        f'A global decoder of width {found["decoder_width"]} is in no table: give decoder_heads=… '
        '(launch.convert: --args=decoder_heads=…).'
      )
    found['decoder_heads'] = heads.pop()
  return 'audio_mae', vit.settle(found, given)


def rules(model: nn.Module) -> list[Rule]:
  """The key table of a pre-training or fine-tuning model."""
  if not isinstance(model, AudioMAE):
    return vit.rules(model)
  window = _WINDOW if model.decoder == 'swin' else []
  return [*vit.ENCODER, *vector('norm', 'params/encoder/norm'), *DECODER, *window]


# By what it is recognised, see `weights/detect.py`.
MARKS = (('decoder_pred.', 'mask_token', 'patch_embed.proj.'),)
RELEASE = Release(
  rules=rules,
  infer=infer,
  # Unused heads of other experiments that older pre-training files still carry.
  ignored=('decoder_emb_pixel.*', 'encoder_emb.*'),
  lacks=vit.lacks,
)
