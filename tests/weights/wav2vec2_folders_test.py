"""Folders of transformers', written by hand: what they say beside the arrays, shards, and what is
refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from research.capabilities import spells
from research.errors import InputError
from research.features.waveform import Waveform
from research.text.characters import CHARACTERS
from research.weights import convert, load, revert
from tests.models.toy import encoder_of, kind_of
from tests.weights.toy import check_identical, same
from tests.weights.wav2vec2_toy import CTC, ENCODER, LAYERED, OTHER, PRETRAINING, SYMBOLS, original

CONFIG = dict(
  model_type='wav2vec2', architectures=['Wav2Vec2ForCTC'], num_hidden_layers=2, hidden_size=16,
  intermediate_size=24, num_attention_heads=2, feat_extract_norm='layer',
  do_stable_layer_norm=False, conv_bias=True, conv_dim=[8] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2],
  conv_stride=[5, 2, 2, 2, 2, 2, 2], num_conv_pos_embeddings=6, num_conv_pos_embedding_groups=4,
  vocab_size=5, pad_token_id=3, mask_time_prob=0.05, hidden_act='gelu', add_adapter=False,
)  # fmt: skip
AUDIO = dict(
  feature_extractor_type='Wav2Vec2FeatureExtractor', do_normalize=False, sampling_rate=16_000,
  feature_size=1, return_attention_mask=True,
)  # fmt: skip
VOCABULARY = {symbol: i for i, symbol in enumerate(SYMBOLS)}


def write(folder, arrays, **files):
  """A folder with these arrays and .json files; None leaves one out."""
  files = {'config': CONFIG, 'preprocessor_config': AUDIO, 'vocab': VOCABULARY, **files}
  save_file(arrays, folder / 'model.safetensors')
  for name, content in files.items():
    if content is not None:
      (folder / f'{name}.json').write_text(json.dumps(content))
  return folder


def arrays(kind=OTHER, **args):
  return original(kind, 'wav2vec2_hf', norm='layer', conv_bias=True, **args)


@pytest.mark.parametrize('file', [False, True])
def test_files_say_what_does_not_show(tmp_path, file):
  write(tmp_path, arrays())
  path = tmp_path / 'model.safetensors' if file else tmp_path
  ours = load(path, release='wav2vec2_hf')
  model = ours.model
  encoder = encoder_of(model)
  found = (encoder.heads, encoder.norm, encoder.pre_norm, encoder.conv_bias)
  assert found == (2, 'layer', False, True)
  assert (model.vocabulary, model.blank) == (SYMBOLS, 3)
  assert model.frontend == Waveform()
  # Rates are those of the size, not the defaults of that library.
  assert (encoder.mask_prob, encoder.layerdrop) == (0.65, 0.1)
  check_identical(revert('wav2vec2_hf', model, ours.variables), arrays())
  assert ours.origin == f'wav2vec2_hf weights from {path.name}'


def test_the_processor_of_today_and_symbols_added_later(tmp_path):
  processor = {'feature_extractor': {**AUDIO, 'do_normalize': True}}
  vocab, added = {'a': 0, '|': 1, '[UNK]': 2}, {'[PAD]': 3, 'b': 4}
  write(
    tmp_path,
    arrays(),
    preprocessor_config=None,
    processor_config=processor,
    vocab=vocab,
    added_tokens=added,
  )
  model = load(tmp_path, release='wav2vec2_hf').model
  assert model.vocabulary == SYMBOLS and model.frontend == Waveform(normalise=True, epsilon=1e-7)
  # Symbols that the head has no rows for do not count.
  write(tmp_path, arrays(), added_tokens={'<s>': 5, '</s>': 6})
  assert load(tmp_path, release='wav2vec2_hf').model.vocabulary == SYMBOLS


def test_what_is_left_out_is_the_default_there(tmp_path):
  least = {k: v for k, v in CONFIG.items() if k not in ('pad_token_id', 'do_stable_layer_norm')}
  write(tmp_path, arrays(), config=least, preprocessor_config=None)
  model = load(tmp_path, release='wav2vec2_hf').model
  assert (model.blank, model.upstream.pre_norm) == (0, False)
  del least['conv_bias']
  write(tmp_path, arrays(), config=least)
  with pytest.raises(InputError, match=r'conv_bias, which is left out\) says conv_bias=False, but'):
    load(tmp_path, release='wav2vec2_hf')


@pytest.mark.parametrize('kind', [ENCODER, PRETRAINING, CTC])
def test_other_kinds_of_model(tmp_path, kind):
  config = {**CONFIG, 'vocab_size': 32, 'pad_token_id': 0}
  config |= dict(num_codevectors_per_group=5, codevector_dim=8, proj_codevector_dim=12)
  theirs = arrays(kind)
  write(tmp_path, theirs, config=config, vocab=None)
  ours = load(tmp_path, release='wav2vec2_hf')
  assert kind_of(ours.model) == kind[0]
  assert (ours.model.vocabulary if spells(ours.model) else ()) == (
    CHARACTERS if kind is CTC else ()
  )
  check_identical(revert('wav2vec2_hf', ours.model, ours.variables), theirs)


def test_shards(tmp_path):
  theirs = arrays()
  write(tmp_path, theirs)
  (tmp_path / 'model.safetensors').unlink()
  names = sorted(theirs)
  parts = {'model-1-of-2.safetensors': names[::2], 'model-2-of-2.safetensors': names[1::2]}
  for file, keys in parts.items():
    save_file({k: theirs[k] for k in keys}, tmp_path / file)
  places = {k: file for file, keys in parts.items() for k in keys}
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': places}))
  ours = load(tmp_path, release='wav2vec2_hf')
  _, variables = convert('wav2vec2_hf', theirs, heads=2, vocabulary=list(SYMBOLS))
  assert same(ours.variables, variables)

  index.write_text(json.dumps({'weight_map': {**places, names[0]: 'model-2-of-2.safetensors'}}))
  with pytest.raises(InputError, match=r'does not hold what model.safetensors.index.json says'):
    load(tmp_path, release='wav2vec2_hf')
  index.write_text(json.dumps({'weight_map': {**places, names[0]: '../other.safetensors'}}))
  with pytest.raises(
    InputError, match=r"'\.\./other\.safetensors'; expected one in the same folder"
  ):
    load(tmp_path, release='wav2vec2_hf')
  index.write_text('{}')
  with pytest.raises(InputError, match='has no weight_map'):
    load(tmp_path, release='wav2vec2_hf')
  index.unlink()
  with pytest.raises(InputError, match='holds no original weights: expected one of model'):
    load(tmp_path, release='wav2vec2_hf')


REFUSED = [
  # What contradicts the arrays.
  ({'config': {'hidden_size': 32}}, {},
   r'\(hidden_size\) says width=32, but the arrays have width=16'),
  ({'config': {'feat_extract_norm': 'group'}}, {},
   "says norm='group', but the arrays have norm='l"),
  ({'config': {'vocab_size': 6}}, {}, r'\(vocab_size\) is 6, but lm_head.weight has 5 rows'),
  ({'vocab': {'a': 0, 'b': 1}}, {}, 'vocabulary of 2 symbols is in vocab.json, but the head has 5'),
  ({'vocab': {**VOCABULARY, 'b': 3}}, {}, 'numbers in vocab.json are not 0 to 4, each once'),
  ({'vocab': None}, {}, 'head has 5 rows and nothing says which symbols'),
  ({'vocab': {'eng': {'a': 0}}}, {}, 'one vocabulary a language'),
  ({'config': {'pad_token_id': None}}, {}, 'no pad_token_id, which is the blank'),
  # What contradicts the caller.
  ({}, dict(heads=4), r'heads=4 was given, but config.json \(num_attention_heads\) says heads=2'),
  ({}, dict(pre_norm=True), r'pre_norm=True was given, but config.json \(do_stable_layer_norm\)'),
  ({}, dict(blank=0), r'blank=0 was given, but config.json \(pad_token_id\) says blank=3'),
  ({}, dict(vocabulary=list('edcba')), r"'e'.* was given, but vocab.json says vocabulary=\('a'"),
  ({}, dict(frontend={'normalise': True}),
   r'normalise=True was given, but preprocessor_config.json \(do_normalize\) says normalise=False'),
  ({}, dict(frontend={'sample_rate': 8000}), r'sample_rate=8000 was given.*sample_rate=16000'),
  # What is another model.
  ({'config': {'model_type': 'hubert'}}, {}, "model_type='hubert'; expected 'wav2vec2'"),
  ({'config': {'add_adapter': True}}, {}, 'config.json says add_adapter=True'),
  ({'config': {'adapter_attn_dim': 16}}, {}, 'config.json says adapter_attn_dim=16'),
  ({'config': {'conv_kernel': [10, 3, 3, 3, 3, 2, 3]}}, {}, 'config.json says conv_kernel='),
  ({'config': {'conv_stride': [5, 2, 2, 2, 2, 2, 1]}}, {}, 'config.json says conv_stride='),
  ({'config': {'conv_dim': [8] * 6 + [16]}}, {}, 'config.json says conv_dim='),
  ({'config': {'hidden_act': 'relu'}}, {}, "config.json says hidden_act='relu'"),
  ({'config': {'feat_extract_activation': 'relu'}}, {}, "says feat_extract_activation='relu'"),
  ({'config': {'layer_norm_eps': 1e-12}}, {}, 'config.json says layer_norm_eps=1e-12'),
  ({'preprocessor_config': {'feature_size': 80}}, {}, 'and feature_size=80; waveforms alone'),
  ({'preprocessor_config': {'feature_extractor_type': 'Speech2Text'}}, {}, "'Speech2Text'"),
]  # fmt: skip


@pytest.mark.parametrize('changes, args, message', REFUSED, ids=lambda x: str(x)[:60])
def test_what_is_refused(tmp_path, changes, args, message):
  usual = {'config': CONFIG, 'preprocessor_config': AUDIO}
  files = {k: {**usual[k], **v} if k in usual else v for k, v in changes.items()}
  write(tmp_path, arrays(), **files)
  with pytest.raises(InputError, match=message):
    load(tmp_path, release='wav2vec2_hf', **args)


def test_damaged_files_are_named(tmp_path):
  write(tmp_path, arrays(), config=[1])
  with pytest.raises(InputError, match=r'config.json holds list; expected names'):
    load(tmp_path, release='wav2vec2_hf')
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(InputError, match=r'config.json.* cannot be read as JSON'):
    load(tmp_path, release='wav2vec2_hf')


def test_an_encoder_alone_embeds(tmp_path):
  write(tmp_path, arrays(ENCODER), vocab=None)
  ours = load(tmp_path, release='wav2vec2_hf')
  clip = np.random.default_rng(0).normal(size=4000).astype(np.float32) / 10
  embedding = ours.embed(clip, 16_000, layers='all', pool='none')
  assert embedding.shape == (3, Waveform().frames(4000), 16) and np.isfinite(embedding).all()
  assert LAYERED['norm'] == encoder_of(ours.model).norm
