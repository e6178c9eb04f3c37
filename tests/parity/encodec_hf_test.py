"""EnCodec beside transformers' EncodecModel: the codes and the audio of the same weights."""

import functools

import jax
import numpy as np
import pytest

from research.weights import conversion
from tests.parity.golden import assert_close

pytestmark = pytest.mark.peer


@pytest.mark.slow
def test_codes_and_audio_of_transformers():
  import torch
  from transformers import EncodecConfig, EncodecModel

  config = EncodecConfig(
    num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=64,
    target_bandwidths=[0.9, 1.8],
  )  # fmt: skip
  torch.manual_seed(0)
  theirs = EncodecModel(config).eval()
  for name, x in theirs.named_buffers():
    if name.endswith(('embed', 'embed_avg')):
      x.copy_(0.05 * torch.randn_like(x))
  arrays = {k: v.numpy() for k, v in theirs.state_dict().items()}
  model, variables = conversion.convert_files(
    'encodec_hf', arrays, {'config.json': config.to_dict()}, {'bandwidth': 1.8}
  )
  audio = 0.3 * np.random.default_rng(0).standard_normal((1, 5000)).astype(np.float32)
  with torch.no_grad():
    wanted = theirs.encode(torch.from_numpy(audio[:, None]), bandwidth=1.8)
    sound = theirs.decode(wanted.audio_codes, wanted.audio_scales)[0]
  jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
  encode = jit(functools.partial(model.apply, method='encode'))
  codes, _ = encode(variables, audio, np.ones(audio.shape, bool))
  np.testing.assert_array_equal(np.asarray(codes[0]).T, wanted.audio_codes[0, 0].numpy())
  got, _ = jit(functools.partial(model.apply, method='decode'))(variables, codes)
  assert_close(got[:, : sound.shape[-1]], sound[:, 0].numpy(), what='audio')

  back = conversion.revert('encodec_hf', model, variables)
  renewed = conversion.get('encodec_hf').renew(arrays)
  assert set(back) == set(renewed)
  for key, x in renewed.items():
    np.testing.assert_array_equal(back[key], x, err_msg=key)
