"""wav2vec 2.0 in and out under both names: what a file holds, what is said beside it, what is
refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from research.errors import InputError
from research.features.waveform import Waveform
from research.models.wav2vec2 import Wav2Vec2
from research.text.characters import CHARACTERS
from research.weights import conversion, convert, load, revert, save
from tests.launch import runner
from tests.models.toy import encoder_of, flat_arguments, kind_of
from tests.weights.toy import check_identical, filled, same
from tests.weights.wav2vec2_toy import (
  CTC,
  ENCODER,
  KINDS,
  LAYERED,
  OTHER,
  PRETRAINING,
  SIZES,
  SYMBOLS,
  make,
  original,
)

RELEASES = pytest.mark.parametrize('release', ['wav2vec2', 'wav2vec2_hf'])


# -- There and back ----------------------------------------------------------------------------


@RELEASES
@pytest.mark.parametrize('layered', [False, True])
@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_there_and_back(release, layered, kind):
  arrays = original(kind, release, **(LAYERED if layered else {}))
  name, own = kind
  given = {k: v for k, v in own.items() if k in ('vocabulary', 'blank') and v}
  scan = dict(scan_layers=layered)
  model, variables = convert(release, arrays, heads=2, **given, **scan)
  assert kind_of(model) == name
  flat = flat_arguments(model)
  got = {k: flat[k] for k in [*SIZES, *own, 'norm', 'conv_bias', 'pre_norm'] if k != 'size'}
  want = make(kind, **(LAYERED if layered else {}))
  assert got == {k: flat_arguments(want)[k] for k in got}
  assert model.frontend.normalise == layered
  assert ('blocks' in variables['params']['encoder']) == layered

  # What no release has comes in as it starts, in its own type.
  updates = variables['counters']['updates']
  assert updates.dtype == np.int32 and updates == 0
  check_identical(revert(release, model, variables), arrays)


def test_both_names_are_the_same_weights():
  for kind in KINDS.values():
    given = {k: v for k, v in kind[1].items() if k in ('vocabulary', 'blank') and v}
    theirs = original(kind)
    model, variables = convert('wav2vec2', theirs, heads=2, **given)
    there = revert('wav2vec2_hf', model, variables)
    again, back = convert('wav2vec2_hf', there, heads=2, **given)
    assert again == model and same(back, variables)
  assert {k for k in there if not k.startswith('wav2vec2.')} == {'lm_head.weight', 'lm_head.bias'}


def test_keys_are_the_published_ones():
  """A few by hand, of every part; lists of all are in the tables."""
  theirs, layered = original(PRETRAINING), original(CTC, **LAYERED)
  assert theirs['mask_emb'].shape == (16,)
  assert theirs['quantizer.vars'].shape == (1, 10, 4)
  assert theirs['quantizer.weight_proj.weight'].shape == (10, 8)
  assert theirs['project_q.weight'].shape == (12, 8)
  assert theirs['final_proj.weight'].shape == (12, 16)
  assert theirs['encoder.pos_conv.0.weight_v'].shape == (16, 4, 6)
  assert theirs['feature_extractor.conv_layers.0.2.weight'].shape == (8,)
  assert layered['w2v_encoder.w2v_model.feature_extractor.conv_layers.6.2.1.bias'].shape == (8,)
  assert layered['w2v_encoder.w2v_model.encoder.layers.1.self_attn.k_proj.weight'].shape == (16, 16)
  assert layered['w2v_encoder.proj.weight'].shape == (32, 16)

  hf, model = original(PRETRAINING, 'wav2vec2_hf'), original(ENCODER, 'wav2vec2_hf', **LAYERED)
  prefix = 'wav2vec2.encoder.layers.1'
  assert hf[f'{prefix}.attention.out_proj.weight'].shape == (16, 16)
  assert hf[f'{prefix}.feed_forward.intermediate_dense.weight'].shape == (24, 16)
  assert hf['wav2vec2.masked_spec_embed'].shape == (16,)
  assert hf['quantizer.codevectors'].shape == (1, 10, 4)
  assert hf['project_hid.weight'].shape == (12, 16)
  name = 'encoder.pos_conv_embed.conv.parametrizations.weight.original0'
  assert model[name].shape == (1, 1, 6)
  assert model['feature_extractor.conv_layers.3.layer_norm.bias'].shape == (8,)
  assert model['feature_projection.layer_norm.weight'].shape == (8,)


def test_layouts_are_not_mixed_up():
  """One element of each kind of kernel, followed by hand."""
  arrays = original(PRETRAINING)
  _, variables = convert('wav2vec2', arrays, heads=2)
  p = variables['params']
  qkv = p['encoder']['blocks_1']['attn']['qkv']['kernel']
  layer = 'encoder.layers.1.self_attn'
  assert qkv[7, 1, 1, 3] == arrays[f'{layer}.k_proj.weight'][8 + 3, 7]
  assert (
    p['encoder']['blocks_1']['attn']['proj']['kernel'][1, 3, 7]
    == (arrays[f'{layer}.out_proj.weight'][7, 8 + 3])
  )
  assert (
    p['feature_extractor']['conv_1']['kernel'][2, 3, 5]
    == (arrays['feature_extractor.conv_layers.1.0.weight'][5, 3, 2])
  )
  assert (
    p['encoder']['positions']['kernel'][4, 3, 9] == (arrays['encoder.pos_conv.0.weight_v'][9, 3, 4])
  )
  assert p['quantizer']['codebook'][1, 2, 3] == arrays['quantizer.vars'][0, 5 + 2, 3]


@pytest.mark.slow
@RELEASES
def test_launch_convert_and_saved_files(tmp_path, release):
  arrays = original(OTHER, release, **LAYERED)
  save_file(arrays, tmp_path / 'theirs.safetensors')
  given = ['--args=heads=2', f'--args=vocabulary={json.dumps(SYMBOLS)}', '--args=blank=3']
  done = runner.run(
    'launch.convert', f'--release={release}', f'--source={tmp_path / "theirs.safetensors"}',
    f'--out={tmp_path / "ours"}', *given,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  ours = load(tmp_path / 'ours')
  assert kind_of(ours.model) == 'wav2vec2+ctc' and ours.model.vocabulary == SYMBOLS
  assert ours.frontend.normalise and ours.variables['counters']['updates'].dtype == np.int32
  saved = load_file(tmp_path / 'ours' / 'model.safetensors')
  assert saved['counters/updates'].dtype == np.int32
  done = runner.run(
    'launch.convert', f'--release={release}', f'--source={tmp_path / "ours"}',
    f'--out={tmp_path / "back.safetensors"}', '--reverse',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  check_identical(load_file(tmp_path / 'back.safetensors'), arrays)


def test_another_frontend_is_refused_with_both_values(tmp_path):
  save_file(original(ENCODER, 'wav2vec2_hf', **LAYERED), tmp_path / 'a.safetensors')
  save(load(tmp_path / 'a.safetensors', release='wav2vec2_hf', heads=2), tmp_path / 'ours')
  assert load(tmp_path / 'ours', frontend={'normalise': True}).frontend.normalise
  with pytest.raises(InputError, match='normalise is True in the weights, False was asked for'):
    load(tmp_path / 'ours', frontend={'normalise': False})
  with pytest.raises(InputError, match='weights of ours: load it without a release'):
    load(tmp_path / 'ours', release='wav2vec2')


# -- What the arrays show ----------------------------------------------------------------------


def test_a_published_size_gives_its_rates():
  arrays = original(PRETRAINING)
  assert convert('wav2vec2', arrays, heads=2)[0].size == 'base'
  # A model with the figures of a published size, but few channels.
  large = dict(width=192, depth=4, heads=3, hidden=768, norm='group', conv_bias=False)
  model = Wav2Vec2(**{**SIZES, **large, 'final_dim': 64, 'latent_dim': 64})
  found, _ = convert('wav2vec2', revert('wav2vec2', model, filled(model)))
  assert (found.size, found.heads, found.temperature_end) == ('tiny', 3, 0.5)


def test_frontends_of_both_libraries_differ_in_epsilon_alone():
  front = [
    convert(release, original(ENCODER, release, **args), heads=2)[0].frontend
    for args in ({}, LAYERED)
    for release in ('wav2vec2', 'wav2vec2_hf')
  ]
  assert front == [Waveform(), Waveform(), Waveform(normalise=True), Waveform(16_000, True, 1e-7)]
  chosen = dict(frontend={'epsilon': 1e-5}, heads=2)
  model, _ = convert('wav2vec2_hf', original(ENCODER, 'wav2vec2_hf', **LAYERED), **chosen)
  assert model.frontend == Waveform(normalise=True)


@RELEASES
def test_without_a_mask_token_there_are_no_masks(release):
  arrays = original(CTC, release, mask_embedding=False, mask_prob=0.0)
  model, variables = convert(release, arrays, heads=2)
  assert (encoder_of(model).mask_embedding, encoder_of(model).mask_prob) == (False, 0.0)
  assert 'mask_token' not in variables['params']
  check_identical(revert(release, model, variables), arrays)
  with pytest.raises(
    InputError, match=r'mask_prob=0\.5 was given, but the weights have mask_prob=0'
  ):
    convert(release, arrays, heads=2, mask_prob=0.5)
  with pytest.raises(InputError, match=r'mask_prob=0\.65 without mask_embedding'):
    make(CTC, mask_embedding=False)
  batch = {'audio': jnp.zeros((1, 900)), 'audio_mask': jnp.ones((1, 900), bool)}
  with pytest.raises(InputError, match='has no mask_embedding'):
    jax.jit(model.apply, static_argnames='train')(
      variables, {**batch, 'span_mask': jnp.ones((1, 2), bool)}, train=True
    )


def test_old_names_of_weight_norm_and_a_prefix_without_need():
  arrays = original(ENCODER, 'wav2vec2_hf')
  today = 'encoder.pos_conv_embed.conv.parametrizations.weight.original'
  old = {f'wav2vec2.{k}': x for k, x in arrays.items() if not k.startswith(today)}
  for i, name in enumerate(('weight_g', 'weight_v')):
    old[f'wav2vec2.encoder.pos_conv_embed.conv.{name}'] = arrays[f'{today}{i}']
  model, variables = convert('wav2vec2_hf', old, heads=2)
  check_identical(revert('wav2vec2_hf', model, variables), arrays)
  twice = {**arrays, 'encoder.pos_conv_embed.conv.weight_g': arrays[f'{today}0']}
  with pytest.raises(InputError, match='original0 twice'):
    convert('wav2vec2_hf', twice, heads=2)


@RELEASES
def test_symbols_of_the_head(release):
  model, _ = convert(release, original(CTC, release), heads=2)
  assert (model.vocabulary, model.blank) == (CHARACTERS, 0)
  arrays = original(OTHER, release)
  with pytest.raises(InputError, match='head has 5 rows and nothing says which symbols'):
    convert(release, arrays, heads=2)
  with pytest.raises(
    InputError, match='vocabulary of 2 symbols was given, but the head has 5 rows'
  ):
    convert(release, arrays, heads=2, vocabulary=['a', 'b'])
  with pytest.raises(InputError, match='expected a list of strings'):
    convert(release, arrays, heads=2, vocabulary='abcde')
  with pytest.raises(InputError, match='blank=5 is no index of a vocabulary of 5'):
    convert(release, arrays, heads=2, vocabulary=list(SYMBOLS), blank=5)
  with pytest.raises(InputError, match='blank is 31 and not 0'):
    convert(release, original(CTC, release), heads=2, blank=31)


def without(arrays, *names):
  return {k: x for k, x in arrays.items() if k not in names}


@pytest.mark.parametrize(
  'release, change, args, message',
  [
    ('wav2vec2', lambda a: a, {}, 'width 16 is in no table: give its number of heads'),
    ('wav2vec2', lambda a: a, dict(heads=5), 'multiple of heads'),
    ('wav2vec2', lambda a: a, dict(heads=2, width=48), 'width=48 was given.*width=16'),
    ('wav2vec2', lambda a: a, dict(heads=2, norm='layer'), "norm='layer' was given.*norm='group'"),
    ('wav2vec2', lambda a: a, dict(heads=2, groups=3), '10 rows, which are not groups=3 alike'),
    ('wav2vec2', lambda a: a, dict(heads=2, vocabulary=['a']), "argument of model wav2vec2 'vocab"),
    ('wav2vec2', lambda a: a, dict(heads=2, frontend=3), 'frontend is 3; expected its arguments'),
    ('wav2vec2', lambda a: without(a, 'encoder.layers.1.fc2.bias'), dict(heads=2),
     r'missing: encoder\.layers\.1\.fc2\.bias; not expected: none'),
    ('wav2vec2', lambda a: {**a, 'surprise': np.zeros(2)}, dict(heads=2), 'not expected: surprise'),
    ('wav2vec2', lambda a: {'x': np.zeros(2)}, {},
     r'holds no post_extract_proj.*weights of fairseq'),
    ('wav2vec2_hf', lambda a: a, dict(heads=2),
     r'holds no wav2vec2\.feature_projection.*of transformers'),
    ('wav2vec2', lambda a: {f'w2v_encoder.w2v_model.{k}': x for k, x in a.items()}, {},
     r'without w2v_encoder\.proj\.weight'),
  ],
)  # fmt: skip
def test_what_is_refused(release, change, args, message):
  with pytest.raises(InputError, match=message):
    convert(release, change(original(PRETRAINING)), **args)


# -- fairseq's configuration -------------------------------------------------------------------

CFG = dict(
  encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=24, encoder_attention_heads=2,
  extractor_mode='layer_norm', layer_norm_first=False, conv_bias=True, conv_pos=6,
  conv_pos_groups=4,
  conv_feature_layers='[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8,2,2)] + [(8,2,2)]',
  quantize_targets=True, latent_groups=4, latent_vars=5, latent_dim=8, final_dim=12,
  latent_temp='(2, 0.25, 0.999)', feature_grad_mult=0.3, mask_prob=0.4, mask_length=7,
  no_mask_overlap=True, mask_min_space=2, mask_channel_prob=0.2, mask_channel_length=3,
  num_negatives=9, dropout=0.0, encoder_layerdrop=0.15, activation_fn='gelu',
  mask_selection='static',
)  # fmt: skip
TRAINED = dict(
  feature_grad_mult=0.3, mask_prob=0.4, mask_length=7, mask_overlap=False, mask_space=2,
  mask_channel_prob=0.2, mask_channel_length=3, negatives=9, dropout=0.0, layerdrop=0.15,
  temperature_start=2.0, temperature_end=0.25, temperature_decay=0.999,
)  # fmt: skip


def from_cfg(arrays, cfg, **args):
  return conversion.convert_files('wav2vec2', arrays, {'cfg': cfg}, args)[0]


def quantised():
  return original(
    ('wav2vec2', dict(final_dim=12, latent_dim=8, codebook_size=5, groups=4)),
    norm='layer',
    conv_bias=True,
  )


def test_a_configuration_says_what_does_not_show():
  model = from_cfg(quantised(), {'model': CFG, 'task': {'normalize': True, 'sample_rate': 16000}})
  assert (model.heads, model.pre_norm, model.groups, model.codebook_size) == (2, False, 4, 5)
  assert model.frontend == Waveform(normalise=True)
  assert {k: getattr(model, k) for k in TRAINED} == TRAINED
  # Old checkpoints have one flat list of arguments.
  flat = {**CFG, 'arch': 'wav2vec2', 'task': 'audio_pretraining', 'normalize': False}
  model = from_cfg(quantised(), flat, mask_prob=0.5, feature_grad_mult=0.0)
  assert model.frontend == Waveform() and (model.mask_prob, model.feature_grad_mult) == (0.5, 0.0)
  assert model.mask_channel_prob == 0.2


def test_a_fine_tuned_configuration_holds_that_of_its_pretraining():
  arrays = original(CTC, norm='layer', conv_bias=True)
  finetuned = dict(
    _name='wav2vec_ctc', w2v_path='elsewhere.pt', normalize='${task.normalize}', apply_mask=True,
    mask_prob=0.5, mask_length=10, no_mask_overlap=False, mask_channel_prob=0.1,
    mask_channel_length=64, feature_grad_mult=0.0, dropout=0.0, attention_dropout=0.0,
    activation_dropout=0.1, dropout_input=0.0, layerdrop=0.05, final_dropout=0.2,
    freeze_finetune_updates=10_000,
  )  # fmt: skip
  before = {'model': CFG, 'task': {'normalize': True}}
  cfg = {'model': {**finetuned, 'w2v_args': before}, 'task': {'normalize': True}}
  model = from_cfg(arrays, cfg)
  want = dict(
    heads=2, pre_norm=False, vocabulary=CHARACTERS, feature_grad_mult=0.0, mask_prob=0.5,
    mask_length=10,
    mask_overlap=True, mask_space=2, mask_channel_prob=0.1, mask_channel_length=64, dropout=0.0,
    attention_dropout=0.0, activation_dropout=0.1, input_dropout=0.0, layerdrop=0.05,
    head_dropout=0.2, freeze_updates=10_000, frontend=Waveform(normalise=True).to_dict(),
  )  # fmt: skip
  assert {k: flat_arguments(model)[k] for k in want} == want
  cfg['model']['apply_mask'] = False
  model = from_cfg(arrays, cfg)
  assert (encoder_of(model).mask_prob, encoder_of(model).mask_channel_prob) == (0.0, 0.0)
  before['task']['normalize'] = False
  with pytest.raises(
    InputError, match=r'cfg.task \(normalize\) says normalise=True, but cfg.model'
  ):
    from_cfg(arrays, cfg)


@pytest.mark.parametrize(
  'change, args, message',
  [
    ({}, dict(heads=4), r'heads=4 was given, but cfg \(encoder_attention_heads\) says heads=2'),
    ({}, dict(pre_norm=True), r'pre_norm=True was given, but cfg \(layer_norm_first\) says'),
    ({}, dict(groups=2), r'groups=2 was given, but cfg \(latent_groups\) says groups=4'),
    ({}, dict(frontend={'normalise': False}),
     r'normalise=False was given, but cfg\.task \(normalize\) says normalise=True'),
    ({}, dict(frontend=Waveform()), 'normalise=False was given'),
    ({'extractor_mode': 'default'}, {},
     r"extractor_mode='default'\) says norm='group', but the arrays have norm='layer'"),
    ({'extractor_mode': 'conv'}, {}, "cfg says extractor_mode='conv'"),
    ({'encoder_layers': 12}, {}, r'says depth=12, but the arrays have depth=2'),
    ({'conv_bias': False}, {}, r'says conv_bias=False, but the arrays have conv_bias=True'),
    ({'latent_vars': 7}, {}, 'says codebook_size=7, but the arrays have codebook_size=5'),
    ({'quantize_targets': False}, {}, 'says quantise=False, but the arrays have quantise=True'),
    ({'activation_fn': 'relu'}, {},
     "cfg says activation_fn='relu'; models with activation_fn='gelu'"),
    ({'layer_type': 'conformer'}, {}, "cfg says layer_type='conformer'"),
    ({'conv_feature_layers': '[(8, 10, 5)] + [(8, 3, 2)] * 5'}, {}, 'the seven convolutions of'),
    ({'conv_feature_layers': '__import__("os")'}, {}, 'the seven convolutions of'),
    ({'mask_prob': 'much'}, {}, "cfg says mask_prob='much', which cannot be"),
    ({'latent_temp': 3}, {}, 'cfg says latent_temp=3; expected three numbers'),
  ],
)  # fmt: skip
def test_contradictions_with_a_configuration_are_refused(change, args, message):
  with pytest.raises(InputError, match=message):
    from_cfg(quantised(), {'model': {**CFG, **change}, 'task': {'normalize': True}}, **args)


def test_training_that_is_not_known_is_said():
  with pytest.warns(
    UserWarning, match="cfg says mask_selection='normal', negatives_from_everywhere=True"
  ):
    cfg = {**CFG, 'mask_selection': 'normal', 'negatives_from_everywhere': True}
    from_cfg(quantised(), {'model': cfg})


def test_distractors_and_a_dropout_of_the_quantiser():
  own = {'dropout_features': 0.25, 'cross_sample_negatives': 5, 'codebook_negatives': 7}
  model = from_cfg(quantised(), {'model': {**CFG, 'dropout_input': 0.1, **own}})
  assert (model.input_dropout, model.feature_dropout) == (0.1, 0.25)
  assert (model.cross_sample_negatives, model.codebook_negatives) == (5, 7)
