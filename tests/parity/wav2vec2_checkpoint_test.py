"""Whole checkpoint files of fairseq's, as torch saves them: read without running their code."""

import argparse
import sys
import types

import numpy as np
import pytest

from research.errors import InputError
from research.features.waveform import Waveform
from research.weights import load, revert
from tests.models.toy import encoder_of
from tests.weights import wav2vec_files_test as first_wav2vec
from tests.weights.fairseq_files_test import check_there_and_back
from tests.weights.toy import check_identical
from tests.weights.wav2vec2_toy import CTC, LAYERED, PRETRAINING, original

torch = pytest.importorskip('torch')

CFG = dict(
  extractor_mode='layer_norm', layer_norm_first=True, encoder_attention_heads=2, conv_bias=True,
  latent_groups=2, quantize_targets=True, feature_grad_mult=0.5, mask_prob=0.4,
)  # fmt: skip


def tensors(arrays):
  return {k: torch.from_numpy(x) for k, x in arrays.items()}


@pytest.mark.parametrize('old', [False, True])
def test_a_checkpoint_says_what_does_not_show(tmp_path, old):
  arrays = original(PRETRAINING, **LAYERED)
  rest = {'optimizer_history': [{'num_updates': 3}], 'extra_state': {'epoch': 1}}
  if old:
    args = argparse.Namespace(arch='wav2vec2', normalize=True, task='audio_pretraining', **CFG)
    rest |= {'args': args, 'cfg': None}
  else:
    rest |= {'args': None, 'cfg': {'model': CFG, 'task': {'normalize': True}, 'common': {}}}
  torch.save({'model': tensors(arrays), **rest}, tmp_path / 'wav2vec.pt')
  ours = load(tmp_path / 'wav2vec.pt', release='wav2vec2')
  assert (ours.model.heads, ours.model.pre_norm, ours.model.mask_prob) == (2, True, 0.4)
  assert ours.model.feature_grad_mult == 0.5 and ours.frontend == Waveform(normalise=True)
  check_identical(revert('wav2vec2', ours.model, ours.variables), arrays)
  with pytest.raises(InputError, match=r'normalise=False was given, but cfg.*says normalise=True'):
    load(tmp_path / 'wav2vec.pt', release='wav2vec2', frontend={'normalise': False})


def test_a_fine_tuned_checkpoint_of_old(tmp_path):
  before = argparse.Namespace(normalize=False, **{**CFG, 'extractor_mode': 'default'})
  args = argparse.Namespace(w2v_path='x.pt', w2v_args=before, normalize=False, layerdrop=0.05)
  arrays = original(CTC, conv_bias=True, pre_norm=True)
  torch.save({'model': tensors(arrays), 'args': args}, tmp_path / 'a.pt')
  model = encoder_of(load(tmp_path / 'a.pt', release='wav2vec2').model)
  assert (model.heads, model.norm, model.pre_norm, model.layerdrop) == (2, 'group', True, 0.05)
  assert model.frontend == Waveform()
  torch.save({'model': tensors(original(CTC, **LAYERED)), 'args': args}, tmp_path / 'b.pt')
  with pytest.raises(InputError, match="says norm='group', but the arrays have norm='layer'"):
    load(tmp_path / 'b.pt', release='wav2vec2')


def test_a_configuration_that_needs_code_is_refused(tmp_path, monkeypatch):
  module = types.ModuleType('omegaconf.dictconfig')
  module.DictConfig = type('DictConfig', (), {'__module__': module.__name__})
  monkeypatch.setitem(sys.modules, 'omegaconf', types.ModuleType('omegaconf'))
  monkeypatch.setitem(sys.modules, module.__name__, module)
  content = {'model': tensors(original(PRETRAINING)), 'cfg': module.DictConfig()}
  torch.save(content, tmp_path / 'a.pt')
  with pytest.raises(InputError, match=r'omegaconf\.dictconfig\.DictConfig in it.*to_container'):
    load(tmp_path / 'a.pt', release='wav2vec2', heads=2)


def test_shards_of_torch(tmp_path):
  import json

  arrays = original(PRETRAINING)
  names = sorted(arrays)
  parts = {'pytorch_model-1.bin': names[::2], 'pytorch_model-2.bin': names[1::2]}
  for file, keys in parts.items():
    torch.save(tensors({k: arrays[k] for k in keys}), tmp_path / file)
  places = {k: file for file, keys in parts.items() for k in keys}
  index = tmp_path / 'pytorch_model.bin.index.json'
  index.write_text(json.dumps({'weight_map': places}))
  ours = load(tmp_path, release='wav2vec2', heads=2)
  check_identical(revert('wav2vec2', ours.model, ours.variables), arrays)
  assert all(x.dtype == np.float32 for x in arrays.values())


@pytest.mark.parametrize('kind', first_wav2vec.KINDS)
def test_checkpoints_of_wav2vec_that_we_write(tmp_path, kind):
  file = check_there_and_back(*first_wav2vec.unusual(kind), tmp_path / 'theirs.pt')
  assert torch.load(file, weights_only=True)['cfg']['model']['_name'] == 'wav2vec'
