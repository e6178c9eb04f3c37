"""The sizes and modes of AudioMAE that the recorded cases lack, against a second implementation.

Each case is made in the format of the golden files and goes through the checks of
audio_mae_test.py.
"""

import json

import pytest
from safetensors.numpy import save_file

from tests.parity import audio_mae_test as checks
from tests.parity.golden import Case

torch = pytest.importorskip('torch')

CONFIG = dict(
  img_size=[1024, 128],
  embed_dim=48,
  depth=2,
  num_heads=4,
  decoder_embed_dim=32,
  decoder_mode=1,
  decoder_depth=2,
  decoder_num_heads=2,
  contextual_depth=0,
  use_custom_patch=False,
  mask_ratio=0.8,
  mask_2d=False,
  mask_t_prob=0.7,
  mask_f_prob=0.3,
  no_shift=False,
  token_stride=3,
  grads=[
    'patch_embed.proj.weight',
    'blocks.0.attn.qkv.weight',
    'mask_token',
    'decoder_pred.weight',
  ],
)
MODES = {
  'swin': {},
  'no shift': dict(no_shift=True),
  'overlap': dict(use_custom_patch=True),
  'overlap, no shift, 2-D masks': dict(use_custom_patch=True, no_shift=True, mask_2d=True),
  'overlap, 2-D masks': dict(use_custom_patch=True, mask_2d=True),
  'overlap, global decoder': dict(use_custom_patch=True, decoder_mode=0),
  'swin, 2-D masks': dict(mask_2d=True, mask_t_prob=0.5, mask_f_prob=0.5),
  'short, global decoder': dict(
    img_size=[256, 128], decoder_mode=0, depth=3, num_heads=2, mask_ratio=0.6
  ),
  'short, swin, many heads': dict(img_size=[512, 128], num_heads=12, mask_ratio=0.75),
}


# A minute or more each.
LONG = (
  'no shift', 'overlap', 'overlap, no shift, 2-D masks', 'overlap, 2-D masks', 'swin, 2-D masks',
)  # fmt: skip
PARAMS = [
  pytest.param(config, marks=pytest.mark.slow if name in LONG else (), id=name)
  for name, config in MODES.items()
]


@pytest.fixture(scope='module', params=PARAMS)
def case(request, tmp_path_factory):
  from tests.parity.audio_mae_reference import make_case

  config = CONFIG | request.param
  folder = tmp_path_factory.mktemp('case')
  save_file(make_case(config), folder / 'made.safetensors')
  (folder / 'made.json').write_text(json.dumps({'config': config}))
  return Case('audio_mae', 'made', folder)


def test_forward(case):
  checks.test_pretraining_forward(case)


def test_losses_and_gradients(case):
  checks.test_pretraining_losses_and_gradients(case)
