"""What the configuration in a fairseq checkpoint says of wav2vec 2.0, HuBERT or WavLM: `cfg`, or
`args` of old.

Names are those of fairseq's Wav2Vec2Config, Wav2VecCtcConfig (models/wav2vec), HubertConfig
(models/hubert), AudioPretrainingConfig (tasks/audio_pretraining.py) and unilm's flat WavLMConfig
(wavlm/WavLM.py). A fine-tuned model holds the configuration of
its pre-training under `w2v_args`.
"""

import ast
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from research.capabilities import PredictsUnits, spells
from research.errors import InputError
from research.models import settings
from research.models.finetuned import encoder_of, flat_arguments
from research.models.waveform import stem_layers
from research.weights.stated import NOTHING, Fact, Stated

Plain = Mapping[str, Any]

# What the weights are: fairseq's name -> ours.
_FACTS = {
  'encoder_layers': 'depth',
  'encoder_embed_dim': 'width',
  'encoder_ffn_embed_dim': 'hidden',
  'encoder_attention_heads': 'heads',
  'layer_norm_first': 'pre_norm',
  'conv_bias': 'conv_bias',
  'conv_pos': 'conv_pos',
  'conv_pos_groups': 'conv_pos_groups',
  'quantize_targets': 'quantise',
  'latent_groups': 'groups',
}
# What fairseq's dictionaries begin with.
SPECIALS = ('<s>', '<pad>', '</s>', '<unk>')
EPSILON = 1e-5  # of fairseq's normalisation of clips
_SPECIAL = re.compile(r'<.+>')
_NORMS = {'default': 'group', 'layer_norm': 'layer'}

# What they were trained with: fairseq's name -> (ours, type).
_MASKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
  'mask_prob': ('mask_prob', float),
  'mask_length': ('mask_length', int),
  'no_mask_overlap': ('mask_overlap', lambda x: not x),
  'mask_channel_prob': ('mask_channel_prob', float),
  'mask_channel_length': ('mask_channel_length', int),
}
_RATES: dict[str, tuple[str, Callable[[Any], Any]]] = {
  'feature_grad_mult': ('feature_grad_mult', float),
  'dropout': ('dropout', float),
  'attention_dropout': ('attention_dropout', float),
  'activation_dropout': ('activation_dropout', float),
  'dropout_input': ('input_dropout', float),
}
_PRETRAINING: dict[str, tuple[str, Callable[[Any], Any]]] = {
  **_MASKS,
  **_RATES,
  'encoder_layerdrop': ('layerdrop', float),
  'mask_min_space': ('mask_space', int),
  'dropout_features': ('feature_dropout', float),
  'num_negatives': ('negatives', int),
  'cross_sample_negatives': ('cross_sample_negatives', int),
  'codebook_negatives': ('codebook_negatives', int),
  'untie_final_proj': ('untied', bool),
  'label_rate': ('label_rate', float),
}
_FINETUNING: dict[str, tuple[str, Callable[[Any], Any]]] = {
  **_MASKS,
  **_RATES,
  'layerdrop': ('layerdrop', float),
  'final_dropout': ('head_dropout', float),
  'freeze_finetune_updates': ('freeze_updates', int),
}

# Of these the encoder knows one value; with another one the weights are of another model.
_ONLY: dict[str, Sequence[Any]] = {
  'activation_fn': ('gelu',),
  'layer_type': ('transformer',),
  'pos_conv_depth': (1,),
  'pos_enc_type': ('abs',),
  'attn_type': ('', None),
  'quantize_input': (False,),
  'target_glu': (False,),
  'quantizer_depth': (1,),
  'gru_rel_pos': (True,),
}
# Of these it knows one value, but they act in training alone.
_TRAINED_ONLY: dict[str, Sequence[Any]] = {
  'mask_selection': ('static',),
  'mask_channel_selection': ('static',),
  'mask_channel_before': (False,),
  'no_mask_channel_overlap': (False,),
  'negatives_from_everywhere': (False,),
}


def describe(files: Mapping[str, Any]) -> Stated:
  """What the configuration says, if there is one that is plain data, and the symbols of labels.

  Args:
    files: 'cfg': {'model': …, 'task': …}, or the flat arguments that old checkpoints have;
      'task_state', see `read.read_release`.

  Raises:
    InputError: a value that the encoder does not know, or two that contradict each other.
  """
  labels = _labels(files.get('task_state'))
  cfg = files.get('cfg')
  if not isinstance(cfg, Mapping) or not cfg:
    return Stated(labels) if labels else NOTHING
  model, parts = cfg_model(cfg), [cfg]
  pretrained = model.get('w2v_args')
  finetuned = 'w2v_args' in model or 'w2v_path' in model
  if isinstance(pretrained, Mapping):
    parts.append(pretrained)
  # Fine-tuning says nothing of the encoder itself where its pre-training is not beside it.
  encoder = cfg_model(pretrained) if isinstance(pretrained, Mapping) else {} if finetuned else model

  relative = encoder.get('relative_position_embedding')
  for key, known in _ONLY.items():
    if key == 'gru_rel_pos' and not relative:
      continue
    if key in encoder and encoder[key] not in known:
      raise InputError(
        f'cfg says {key}={encoder[key]!r}; models with {key}={known[0]!r} can be read, and no '
        'others.'
      )
  section, names = (model, _FINETUNING) if finetuned else (encoder, _PRETRAINING)
  training = {
    ours: cast(kind, section[key], key) for key, (ours, kind) in names.items() if key in section
  }
  if finetuned and 'mask_min_space' in encoder:
    training['mask_space'] = cast(int, encoder['mask_min_space'], 'mask_min_space')
  if finetuned and not model.get('apply_mask', True):
    training |= {'mask_prob': 0.0, 'mask_channel_prob': 0.0}
  strange = {k: section[k] for k, v in _TRAINED_ONLY.items() if section.get(k, v[0]) not in v}
  if strange:
    named = ', '.join(f'{k}={v!r}' for k, v in strange.items())
    warnings.warn(
      f'cfg says {named}: training goes on without, nothing else depends on it.', stacklevel=2
    )
  return Stated(_facts(encoder) | labels, frontend(parts), training | temperature(encoder))


# -- The way out -------------------------------------------------------------------------------


def compose(model: Any, family: str) -> dict[str, dict[str, Any]]:
  """What `describe` reads, of a model of ours: {'cfg': …, 'task_state': …}, plain values.

  WavLM without letters has unilm's flat configuration, all others fairseq's sections. Dictionaries
  are lists of symbols, which are plain data: fairseq's loader counts them to build the model; who
  decodes with its scripts gives its task a Dictionary of theirs (`task.load_state_dict`).

  Args:
    model: in pre-training, an encoder alone, or with letters.
    family: 'wav2vec2', 'hubert' or 'wavlm'.
  """
  symbols = model.vocabulary if spells(model) else ()
  units = isinstance(model, PredictsUnits)
  head = _training(model, _FINETUNING)
  model = encoder_of(model)
  encoder = _encoder(model, family)
  front = {'normalize': model.frontend.normalise, 'sample_rate': model.frontend.sample_rate}
  state: dict[str, Any] = {}
  if units:
    names = [*SPECIALS, *(f'<special{i}>' for i in range(len(SPECIALS), model.specials))]
    start = names[: model.specials]
    state['dictionaries'] = [[*start, *(str(k) for k in range(n))] for n in model.sets]
  if symbols:
    state['target_dictionary'] = list(symbols)
    if family != 'wav2vec2':
      # fairseq builds the model of pre-training first, and would look for the file of its units.
      state.setdefault('dictionaries', [None])
    return {'cfg': _finetuned(head, model, family, encoder, front), 'task_state': state}
  if family == 'wavlm':
    return {'cfg': {**encoder, **front}, 'task_state': state}
  task = _task(family, front)
  if units:
    task |= {'label_rate': model.label_rate}
    task['labels'] = ['km'] if len(model.sets) == 1 else [f'km{i}' for i in range(len(model.sets))]
  return {'cfg': {'model': {'_name': family, **encoder}, 'task': task}, 'task_state': state}


def lacks(model: Any) -> str:
  """What fairseq has no setting for and does in another way than this model."""
  blank, model = (model.blank if spells(model) else 0), encoder_of(model)
  own = {
    'frontend.epsilon': (model.frontend.epsilon if model.frontend.normalise else EPSILON, EPSILON),
    'min_masks': (model.min_masks, 2),
    'blank': (blank, 0),
    'predict_unmasked': (settings.arguments(model).get('predict_unmasked', False), False),
  }
  named = [f'{k}={ours} (it has {theirs})' for k, (ours, theirs) in own.items() if ours != theirs]
  if model.channels == model.width:
    named.append(
      "the projection between equal widths (it is in the file, but fairseq's loader refuses that)"
    )
  return ', '.join(named)


def _encoder(model: Any, family: str) -> dict[str, Any]:
  """The section of a model in pre-training, or of an encoder alone."""
  args = settings.arguments(model)
  cfg = {key: args[ours] for key, ours in _FACTS.items() if ours in args}
  c = model.channels
  cfg |= {
    'extractor_mode': {ours: key for key, ours in _NORMS.items()}[model.norm],
    'conv_feature_layers': f'[({c},10,5)] + [({c},3,2)] * 4 + [({c},2,2)] * 2',
    'activation_fn': 'gelu',
    **_training(model, _PRETRAINING),
  }
  cfg['final_dim'] = model.final_dim
  if family == 'wav2vec2' and model.quantise:
    cfg |= {'latent_vars': model.codebook_size, 'latent_dim': model.latent_dim}
    falling = (model.temperature_start, model.temperature_end, model.temperature_decay)
    cfg['latent_temp'] = list(falling)
  if family == 'wavlm':
    cfg |= {'relative_position_embedding': bool(model.buckets), 'gru_rel_pos': bool(model.buckets)}
    cfg |= {'num_buckets': model.buckets or 320, 'max_distance': model.max_distance}
  return cfg


def _training(model: Any, names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
  args = flat_arguments(model)
  section = {key: args[ours] for key, (ours, _) in names.items() if ours in args}
  return {**section, 'no_mask_overlap': not args['mask_overlap']}


def _task(family: str, front: Plain) -> dict[str, Any]:
  name = 'audio_pretraining' if family == 'wav2vec2' else 'hubert_pretraining'
  return {'_name': name, 'data': '', **front}


def _finetuned(
  head: Plain, model: Any, family: str, encoder: Plain, front: Plain
) -> dict[str, Any]:
  """A model with letters; the configuration of its encoder lies beneath."""
  letters: dict[str, Any] = {'_name': 'audio_finetuning', 'labels': 'ltr'}
  if family != 'wav2vec2':
    letters = {'labels': ['ltr'], 'fine_tuning': True, 'single_target': True}
    # fairseq asks for it even where no units are predicted.
    encoder = {'label_rate': model.frontend.sample_rate / model.frontend.hop_samples, **encoder}
  before = {'model': {'_name': family, **encoder}, 'task': _task(family, front)}
  return {
    'model': {
      '_name': 'wav2vec_ctc' if family == 'wav2vec2' else 'hubert_ctc',
      'w2v_path': '',
      'normalize': front['normalize'],
      'apply_mask': True,
      **head,
      'w2v_args': before,
    },
    'task': {**_task(family, front), **letters},
  }


# -- Parts -------------------------------------------------------------------------------------


def _labels(state: Any) -> dict[str, Fact]:
  """How many units every dictionary has behind its special symbols, or the letters of a head."""
  facts: dict[str, Fact] = {}
  if not isinstance(state, Mapping):
    return facts
  if state.get('target_dictionary'):
    where = 'task_state (target_dictionary)'
    facts['vocabulary'] = Fact(tuple(state['target_dictionary']), where)
  several = [d for d in state.get('dictionaries') or [] if d is not None]
  if not several or 'vocabulary' in facts:
    return facts
  where = 'task_state (dictionaries)'
  specials = [
    next((i for i, s in enumerate(d) if not _SPECIAL.fullmatch(s)), len(d)) for d in several
  ]
  if len(set(specials)) > 1:
    raise InputError(
      f'{where} begin with {specials} special symbols; dictionaries with equally many can be read, '
      'and no others.'
    )
  facts['specials'] = Fact(specials[0], where)
  sets = tuple(len(d) - specials[0] for d in several)
  facts['num_clusters'] = Fact(sets[0] if len(sets) == 1 else sets, where)
  for i, symbols in enumerate(several):
    units = symbols[specials[0] :]
    if all(s.isdecimal() for s in units) and units != [str(k) for k in range(len(units))]:
      warnings.warn(
        f'{where}: set {i} has its units in another order than 0, 1, 2 …; here unit k is the row k '
        'behind the special symbols, so number the labels of further training in that order.',
        stacklevel=3,
      )
  return facts


def cfg_model(cfg: Plain) -> Plain:
  """The section of the model, without what is left open; old arguments are one flat section."""
  section = cfg.get('model')
  return _said(section if isinstance(section, Mapping) else cfg)


def _said(section: Plain) -> Plain:
  """A section without values that are missing or only refer to others."""
  return {
    k: v
    for k, v in section.items()
    if v is not None and not (isinstance(v, str) and (v == '???' or v.startswith('${')))
  }


def cast(kind: Callable[[Any], Any], value: Any, key: str) -> Any:
  """`kind(value)`; raises InputError, naming the key, where that cannot be."""
  try:
    return kind(value)
  except (TypeError, ValueError) as error:
    raise InputError(f'cfg says {key}={value!r}, which cannot be.') from error


def _facts(encoder: Plain) -> dict[str, Fact]:
  facts = {
    ours: Fact(encoder[key], f'cfg ({key})') for key, ours in _FACTS.items() if key in encoder
  }
  if 'extractor_mode' in encoder:
    mode = encoder['extractor_mode']
    if mode not in _NORMS:
      raise InputError(
        f'cfg says extractor_mode={mode!r}; models with {" or ".join(map(repr, _NORMS))} can be '
        'read, and no others.'
      )
    facts['norm'] = Fact(_NORMS[mode], f'cfg (extractor_mode={mode!r})')
  if 'conv_feature_layers' in encoder:
    text = encoder['conv_feature_layers']
    shapes = _convolutions(text)
    channels = shapes[0][0] if shapes else 0
    if tuple(shapes) != stem_layers(channels):
      raise InputError(
        f'cfg says conv_feature_layers={text!r}; the seven convolutions of wav2vec 2.0, a frame '
        'every 320 samples, can be read, and no others.'
      )
    facts['channels'] = Fact(channels, 'cfg (conv_feature_layers)')
  # 0 stands for the width of what comes before.
  width = encoder.get('encoder_embed_dim')
  if width is not None and 'final_dim' in encoder:
    final = encoder['final_dim'] or width
    facts['final_dim'] = Fact(final, 'cfg (final_dim)')
    if encoder.get('quantize_targets') and 'latent_dim' in encoder:
      facts['latent_dim'] = Fact(encoder['latent_dim'] or final, 'cfg (latent_dim)')
  if 'relative_position_embedding' in encoder:
    where = 'cfg (relative_position_embedding{})'
    if not encoder['relative_position_embedding']:
      facts['buckets'] = Fact(0, where.format('=False'))
    for key, ours in {'num_buckets': 'buckets', 'max_distance': 'max_distance'}.items():
      if encoder['relative_position_embedding'] and key in encoder:
        facts[ours] = Fact(encoder[key], f'cfg ({key})')
  if encoder.get('quantize_targets') and 'latent_vars' in encoder:
    facts['codebook_size'] = Fact(encoder['latent_vars'], 'cfg (latent_vars)')
  return facts


def _convolutions(text: Any) -> list[tuple[int, int, int]]:
  """'[(512, 10, 5)] + [(512, 3, 2)] * 4' -> its (channels, kernel, stride); [] if it is not so."""
  shapes: list[tuple[int, int, int]] = []
  for part in str(text).split('+'):
    match = re.fullmatch(r'\s*(\[.*\])\s*(?:\*\s*(\d+))?\s*', part)
    try:
      row = ast.literal_eval(match[1]) if match else []
      shapes += [tuple(shape) for shape in row] * int((match and match[2]) or 1)
    except (ValueError, SyntaxError, TypeError):
      return []
  return shapes


def temperature(encoder: Plain, key: str = 'latent_temp') -> dict[str, float]:
  """Where the temperature of a Gumbel softmax starts and ends, and its decay."""
  value = encoder.get(key)
  if value is None:
    return {}
  try:
    start, end, decay = ast.literal_eval(value) if isinstance(value, str) else value
    names = ('temperature_start', 'temperature_end', 'temperature_decay')
    return dict(zip(names, map(float, (start, end, decay))))
  except (ValueError, SyntaxError, TypeError) as error:
    raise InputError(f'cfg says {key}={value!r}; expected three numbers.') from error


def frontend(parts: Sequence[Plain]) -> dict[str, Fact]:
  """Sample rate and normalisation, which pre-training and fine-tuning must agree on."""
  facts: dict[str, Fact] = {}
  for part, where in zip(parts, ('cfg', 'cfg.model.w2v_args')):
    for name, section in {'': part, '.model': part.get('model'), '.task': part.get('task')}.items():
      said = _said(section) if isinstance(section, Mapping) else {}
      for key, ours in (('normalize', 'normalise'), ('sample_rate', 'sample_rate')):
        if key not in said:
          continue
        fact = Fact(said[key], f'{where}{name} ({key})')
        other = facts.setdefault(ours, fact)
        if other.value != fact.value:
          raise InputError(
            f'{other.where} says {ours}={other.value!r}, but {fact.where} says '
            f'{ours}={fact.value!r}: a model is fine-tuned on audio as in its pre-training.'
          )
  return facts
