"""Jukebox under the names of transformers 4: pairs of names, and a whole model there and back."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from research.errors import InputError
from research.weights import load
from research.weights.conversion import revert
from research.weights.families.jukebox_names import PRIOR, VQVAE, openai, transformers
from research.weights.jukebox_system import load_jukebox, to_transformers
from tests.contract import flat
from tests.inference.jukebox_test import system

# As transformers' own conversion renames them (4.57.6, convert_jukebox.py).
PAIRS = [
  (VQVAE, 'encoders.2.level_blocks.0.model.1.0.weight',
   'encoders.2.level_blocks.0.downsample_block.2.weight'),
  (VQVAE, 'encoders.0.level_blocks.0.model.2.1.model.3.model.1.bias',
   'encoders.0.level_blocks.0.downsample_block.5.resnet_block.3.conv1d_1.bias'),
  (VQVAE, 'encoders.1.level_blocks.1.model.2.weight', 'encoders.1.level_blocks.1.proj_out.weight'),
  (VQVAE, 'decoders.1.level_blocks.0.model.0.bias', 'decoders.1.level_blocks.0.proj_in.bias'),
  (VQVAE, 'decoders.1.level_blocks.0.model.1.0.model.0.model.3.weight',
   'decoders.1.level_blocks.0.upsample_block.0.resnet_block.0.conv1d_2.weight'),
  (VQVAE, 'decoders.1.level_blocks.0.model.3.1.weight',
   'decoders.1.level_blocks.0.upsample_block.5.weight'),
  (VQVAE, 'bottleneck.level_blocks.1.k', 'bottleneck.level_blocks.1.codebook'),
  (PRIOR, 'conditioner_blocks.0.cond.model.2.0.blocks.4.model.1.weight',
   'conditioner_blocks.upsampler.upsample_block.2.resnet_block.4.conv1d_1.weight'),
  (PRIOR, 'conditioner_blocks.0.cond.model.1.1.bias',
   'conditioner_blocks.upsampler.upsample_block.1.bias'),
  (PRIOR, 'conditioner_blocks.0.ln.weight', 'conditioner_blocks.layer_norm.weight'),
  (PRIOR, 'y_emb.artist_emb.emb.weight', 'metadata_embedding.artist_emb.weight'),
  (PRIOR, 'y_emb.relative_pos_emb.emb.weight', 'metadata_embedding.relative_pos_emb.emb.weight'),
  (PRIOR, 'prior.transformer._attn_mods.7.attn.c_attn.w',
   'prior.transformer._attn_mods.7.attn.c_attn.weight'),
  (PRIOR, 'prior.transformer._attn_mods.7.ln_1.bias',
   'prior.transformer._attn_mods.7.layer_norm_1.bias'),
  (PRIOR, 'prior.pos_emb.pos_emb', 'prior.pos_emb.pos_emb'),
  (PRIOR, 'prime_prior.start_token', 'encoder.start_token'),
  (PRIOR, 'prime_prior.transformer._attn_mods.0.mlp.c_fc.b',
   'encoder.transformer._attn_mods.0.mlp.c_fc.bias'),
  (PRIOR, 'prime_state_proj.w', 'encoder.proj_in.weight'),
  (PRIOR, 'prime_state_ln.bias', 'encoder.final_layer_norm.bias'),
  (PRIOR, 'prime_x_out.weight', 'encoder.lm_head.weight'),
  (PRIOR, 'prior.x_out.weight', 'prior.fc_proj_out.weight'),
]  # fmt: skip


@pytest.mark.parametrize(('forms', 'one', 'other'), PAIRS, ids=[p[1] for p in PAIRS])
def test_names_of_both(forms, one, other):
  assert transformers(one, forms) == other
  block = other.partition('.proj_out')[0]
  assert openai(other, forms, [f'{block}.downsample_block.3.resnet_block.0.x', other]) == one


@pytest.mark.slow
def test_a_whole_model_there_and_back(tmp_path):
  own = system()
  arrays = to_transformers(own)
  starts = {
    key.split('.')[0] + ('.' + key.split('.')[1] if key[0] == 'p' else '') for key in arrays
  }
  assert starts == {'vqvae', 'priors.0', 'priors.1'}
  # The top is prior 0; only it has times.
  assert 'priors.0.metadata_embedding.total_length_emb.emb.weight' in arrays
  assert 'priors.1.conditioner_blocks.upsampler.proj_in.weight' in arrays

  # As transformers write it: outputs that are the embeddings a second time.
  for i in (0, 1):
    embedding = arrays[f'priors.{i}.prior.embed_tokens.weight']
    arrays[f'priors.{i}.prior.fc_proj_out.weight'] = embedding.copy()
  save_file(arrays, tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'jukebox'}))
  top = own.priors[-1].model
  given = {k: getattr(top, k) for k in ('size', 'vqvae', 'n_ctx', 'attn_order', 'heads', 'blocks')}
  with pytest.raises(InputError, match='No published prior'):
    load(tmp_path)
  opened = load(tmp_path, **given)
  assert opened.name == 'jukebox' and opened.model.own_level == 1
  back = revert('jukebox_hf', opened.model, opened.variables)
  assert back and all(np.array_equal(back[key], arrays[key]) for key in back)
  codes = load(tmp_path, release='jukebox_vqvae_hf', size='tiny')
  assert codes.name == 'jukebox_vqvae' and codes.model.hops == own.vqvae.model.hops
  lower = load(tmp_path, level=0, cond_depth=1, **given)
  assert lower.model.own_level == 0

  # The parts of one folder are one system.
  again = load_jukebox(str(tmp_path), args=given, vqvae_args=dict(size='tiny'))
  pairs = zip((again.vqvae, *again.priors), (own.vqvae, *own.priors), strict=True)
  for got, want in pairs:
    assert got.model == want.model
    for name in set(want.variables) & {'params', 'codebooks'}:
      a, b = flat(got.variables[name]), flat(want.variables[name])
      vectors = {key for key in b if name == 'params' or key.endswith('vectors')}
      assert set(a) == set(b) and all(np.array_equal(a[key], b[key]) for key in vectors)
