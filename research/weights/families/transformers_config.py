"""What the files of a transformers folder say of wav2vec 2.0, HuBERT or WavLM.

config.json says the architecture, processor_config.json or preprocessor_config.json how audio
comes in, vocab.json and added_tokens.json the symbols. Values that config.json leaves out are the
defaults of that library (transformers 5, configuration_*.py of the three and
models/wav2vec2/feature_extraction_wav2vec2.py). Its rates and masks of training are not taken: they
are that library's own defaults as often as a recipe.
"""

from collections.abc import Mapping
from typing import Any

from research.capabilities import spells
from research.errors import InputError
from research.models.finetuned import Finetuned, encoder_of, flat_arguments
from research.models.waveform import stem_layers
from research.weights.stated import NOTHING, Fact, Stated

FILES = (
  'config.json',
  'preprocessor_config.json',
  'processor_config.json',
  'vocab.json',
  'added_tokens.json',
)
# Of the variance, in Wav2Vec2FeatureExtractor.
EPSILON = 1e-7

# What the weights are: transformers' name -> (ours, its default there).
_FACTS: dict[str, tuple[str, Any]] = {
  'num_hidden_layers': ('depth', 12),
  'hidden_size': ('width', 768),
  'intermediate_size': ('hidden', 3072),
  'num_attention_heads': ('heads', 12),
  'feat_extract_norm': ('norm', 'group'),
  'do_stable_layer_norm': ('pre_norm', False),
  'conv_bias': ('conv_bias', False),
  'num_conv_pos_embeddings': ('conv_pos', 128),
  'num_conv_pos_embedding_groups': ('conv_pos_groups', 16),
  'vocab_size': ('rows', 32),
}
# And what only some families have.
_OWN_FACTS: dict[str, dict[str, tuple[str, Any]]] = {
  'wav2vec2': {
    'num_codevector_groups': ('groups', 2),
    'num_codevectors_per_group': ('codebook_size', 320),
    'codevector_dim': ('latent_dim', 256),
    'proj_codevector_dim': ('final_dim', 256),
  },
  'hubert': {},
  'wavlm': {'num_buckets': ('buckets', 320), 'max_bucket_distance': ('max_distance', 800)},
}
# Of these the encoder knows one value, which is the default too.
_ONLY: dict[str, Any] = {
  'hidden_act': 'gelu',
  'feat_extract_activation': 'gelu',
  'layer_norm_eps': 1e-5,
  'add_adapter': False,
  'adapter_attn_dim': None,
  'feat_proj_layer_norm': True,
  'conv_pos_batch_norm': False,
  'conv_kernel': [kernel for _, kernel, _ in stem_layers()],
  'conv_stride': [stride for *_, stride in stem_layers()],
}
_EXTRACTOR = 'Wav2Vec2FeatureExtractor'


def describe(files: Mapping[str, Any], family: str) -> Stated:
  """What the files say, if there is a config.json.

  Args:
    files: {name: content} of the .json files of a folder.
    family: 'wav2vec2', 'hubert' or 'wavlm', which is the model_type too.

  Raises:
    InputError: another kind of model, or a value that the encoder does not know.
  """
  config = _mapping(files, 'config.json')
  if config is None:
    return NOTHING
  kind = config.get('model_type')
  if kind != family:
    hint = f' Give release={kind}_hf.' if kind in _OWN_FACTS else ''
    raise InputError(f'config.json says model_type={kind!r}; expected {family!r}.{hint}')
  for key, known in _ONLY.items():
    value = config.get(key, known)
    value = list(value) if isinstance(value, (list, tuple)) else value
    if value != known:
      raise InputError(
        f'config.json says {key}={value!r}; models with {key}={known!r} can be read, and no others.'
      )
  facts = {}
  for key, (ours, default) in {**_FACTS, **_OWN_FACTS[family]}.items():
    left_out = '' if key in config else ', which is left out'
    facts[ours] = Fact(config.get(key, default), f'config.json ({key}{left_out})')
  channels = config.get('conv_dim', [512] * 7)
  if not isinstance(channels, list) or len(channels) != 7 or len(set(channels)) != 1:
    raise InputError(
      f'config.json says conv_dim={channels!r}; seven convolutions of equally many channels can be '
      'read, and no others.'
    )
  facts['channels'] = Fact(channels[0], 'config.json (conv_dim)')
  if config.get('pad_token_id', 0) is not None:
    facts['blank'] = Fact(config.get('pad_token_id', 0), 'config.json (pad_token_id)')
  symbols = _vocabulary(files, config.get('vocab_size', 32))
  if symbols is not None:
    facts['vocabulary'] = symbols
  return Stated(facts, _frontend(files))


def compose(model: Any, family: str) -> dict[str, dict[str, Any]]:
  """What `describe` reads, of a model of ours: {name: content} of the .json files of a folder that
  transformers opens."""
  table = {**_FACTS, **_OWN_FACTS[family]}
  args = flat_arguments(model)
  config = {key: args[ours] for key, (ours, _) in table.items() if ours in args}
  finetuned, symbols = isinstance(model, Finetuned), model.vocabulary if spells(model) else ()
  kind = 'ForCTC' if symbols else 'Model' if finetuned else 'ForPreTraining'
  blank, model = (model.blank if symbols else 0), encoder_of(model)
  titles = {'wav2vec2': 'Wav2Vec2', 'hubert': 'Hubert', 'wavlm': 'WavLM'}
  config |= {
    'model_type': family,
    'architectures': [titles[family] + kind],
    **{key: value for key, value in _ONLY.items() if value is not None},
    'conv_dim': [model.channels] * 7,
    'num_feat_extract_layers': 7,
    **_training(args, family),
  }
  files = {'config.json': config}
  files['preprocessor_config.json'] = {
    'feature_extractor_type': _EXTRACTOR,
    'feature_size': 1,
    'sampling_rate': model.frontend.sample_rate,
    'do_normalize': model.frontend.normalise,
    'padding_side': 'right',
    'padding_value': 0.0,
    # Models with group norm were trained without a mask; see the padding 'transformers'.
    'return_attention_mask': model.norm == 'layer',
  }
  if symbols:
    config |= {'vocab_size': len(symbols), 'pad_token_id': blank}
    files['vocab.json'] = {symbol: i for i, symbol in enumerate(symbols)}
  return files


def _training(args: Mapping[str, Any], family: str) -> dict[str, Any]:
  """Rates and masks of training there: none is left to that library's defaults, which are not
  those of the published recipes."""
  # Without either there is no vector for masked frames there.
  masks = args['mask_embedding']
  said = {
    'hidden_dropout': args['dropout'],
    'attention_dropout': args['attention_dropout'],
    'activation_dropout': args['activation_dropout'],
    'feat_proj_dropout': args['input_dropout'],
    'final_dropout': args.get('head_dropout', 0.0),
    'layerdrop': args['layerdrop'],
    'apply_spec_augment': bool(masks),
    'mask_time_prob': args['mask_prob'] if masks else 0.0,
    'mask_time_length': args['mask_length'],
    'mask_time_min_masks': args['min_masks'],
    'mask_feature_prob': args['mask_channel_prob'] if masks else 0.0,
    'mask_feature_length': args['mask_channel_length'],
    # Clips whose transcript does not fit count 0, as in `objectives.supervised` and in fairseq.
    'ctc_zero_infinity': True,
  }
  if family != 'wavlm':
    said['mask_feature_min_masks'] = 0
  if family == 'wav2vec2':
    said['num_negatives'] = args['negatives']
    said['feat_quantizer_dropout'] = args['feature_dropout']
  return said


def _mapping(files: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
  found = files.get(name)
  if found is not None and not isinstance(found, Mapping):
    raise InputError(f'{name} holds {type(found).__name__}; expected names with values.')
  return found


def _frontend(files: Mapping[str, Any]) -> dict[str, Fact]:
  name = 'preprocessor_config.json'
  settings = _mapping(files, name)
  processor = _mapping(files, 'processor_config.json')
  if settings is None and processor is not None and 'feature_extractor' in processor:
    name, settings = 'processor_config.json', processor['feature_extractor']
  if not isinstance(settings, Mapping):
    return {}
  kind = settings.get('feature_extractor_type', _EXTRACTOR)
  if kind != _EXTRACTOR or settings.get('feature_size', 1) != 1:
    raise InputError(
      f'{name} says feature_extractor_type={kind!r} and feature_size='
      f'{settings.get("feature_size", 1)!r}; waveforms alone, as {_EXTRACTOR!r} prepares them with '
      'feature_size=1, can be read.'
    )
  return {
    'normalise': Fact(settings.get('do_normalize', True), f'{name} (do_normalize)'),
    'sample_rate': Fact(settings.get('sampling_rate', 16_000), f'{name} (sampling_rate)'),
  }


def _vocabulary(files: Mapping[str, Any], rows: int) -> Fact | None:
  """Symbols in the order of their numbers: of vocab.json, with added_tokens.json where the head has
  rows for these too."""
  symbols = _mapping(files, 'vocab.json')
  if symbols is None:
    return None
  where = 'vocab.json'
  if any(isinstance(v, Mapping) for v in symbols.values()):
    raise InputError(
      f'vocab.json holds one vocabulary a language ({", ".join(list(symbols)[:5])} …): replace it '
      'by that of the head.'
    )
  added = _mapping(files, 'added_tokens.json')
  if added and len(symbols) < rows:
    symbols, where = {**symbols, **added}, 'vocab.json with added_tokens.json'
  if sorted(symbols.values(), key=str) != sorted(range(len(symbols)), key=str):
    raise InputError(f'The numbers in {where} are not 0 to {len(symbols) - 1}, each once.')
  return Fact(tuple(sorted(symbols, key=lambda s: symbols[s])), where)
