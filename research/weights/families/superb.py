"""Heads of SUPERB's tasks under the names that s3prl's downstream experts save them by.

A checkpoint of s3prl holds the state dict of the head under 'Downstream' and the weights of the
layer mix under 'Featurizer'; the upstream is not in it.
"""

import fnmatch
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from research.errors import InputError, listed
from research.models import heads, settings
from research.models.finetuned import Finetuned
from research.models.heads import x_vector
from research.weights import read, tables
from research.weights.tables import Rule, linear, vector

Arrays = Mapping[str, np.ndarray]
# Where a checkpoint has the weights of the layers.
DOWNSTREAM, FEATURIZER, MIX = 'Downstream', 'Featurizer', 'weights'


def lstm(theirs: str, ours: str, suffix: str = '_l0', bidirectional: bool = True) -> list[Rule]:
  """Rules of one layer of torch's LSTM."""
  rules = []
  directions = {'': 'forward', '_reverse': 'backward'} if bidirectional else {'': 'forward'}
  dot = f'{theirs}.' if theirs else ''
  for ending, name in directions.items():
    end, place = f'{suffix}{ending}', f'{ours}/{name}'
    rules += [
      Rule(f'{dot}weight_ih{end}', f'{place}/kernel', 'linear'),
      Rule(f'{dot}weight_hh{end}', f'{place}/recurrent', 'linear'),
      Rule(f'{dot}bias_ih{end}', f'{place}/bias'),
      Rule(f'{dot}bias_hh{end}', f'{place}/recurrent_bias'),
    ]
  return rules


# -- Key tables: head -> rules -----------------------------------------------------------------


def _utterance(head: Any) -> list[Rule]:
  del head
  return linear('projector', 'projector') + linear('model.post_net.linear', 'head')


def _phones(head: Any) -> list[Rule]:
  del head
  return linear('projector', 'projector') + linear('model.linear', 'head')


def _recurrent_ctc(head: Any) -> list[Rule]:
  both = head.bidirectional
  rnn = [lstm(f'model.rnns.{i}.layer', f'rnn_{i}', '_l0', both) for i in range(head.num_layers)]
  return [
    *linear('projector', 'projector'),
    *itertools.chain.from_iterable(rnn),
    *linear('model.linear', 'head'),
  ]


def _x_vector(head: Any) -> list[Rule]:
  frames, segments = 'model.framelevel_feature_extractor', 'model.utterancelevel_feature_extractor'
  rules = linear('connector', 'connector')
  for i in range(len(x_vector.CONTEXTS)):
    rules += linear(f'{frames}.module.{i}.kernel', f'tdnn_{i}')
  for i in (1, 2):
    rules += linear(f'{segments}.linear{i}', f'segment_{i}')
  return rules + ([Rule('objective.W', 'speakers_kernel')] if head.speakers else [])


def _diarization(head: Any) -> list[Rule]:
  rnn = [lstm('model.rnn', f'rnn_{i}', f'_l{i}', False) for i in range(head.num_layers)]
  return [*itertools.chain.from_iterable(rnn), *linear('model.linear', 'head')]


def _masks(head: Any) -> list[Rule]:
  both = head.bidirectional
  rnn = [lstm('model.rnn', f'rnn_{i}', f'_l{i}', both) for i in range(head.num_layers)]
  masks = [linear(f'model.linear.{i}', f'mask_{i}') for i in range(head.signals)]
  return list(itertools.chain.from_iterable(rnn + masks))


def _attention(theirs: str, ours: str, heads: int) -> list[Rule]:
  rules = []
  for part in ('query', 'key', 'value'):
    key = f'{theirs}.{part[0]}_proj'
    rules += [
      Rule(f'{key}.weight', f'{ours}/{part}/kernel', 'heads', heads=heads),
      Rule(f'{key}.bias', f'{ours}/{part}/bias', 'heads_bias', heads=heads),
    ]
  return [
    *rules,
    Rule(f'{theirs}.out_proj.weight', f'{ours}/out/kernel', 'heads_out', heads=heads),
    Rule(f'{theirs}.out_proj.bias', f'{ours}/out/bias'),
  ]


def _block(theirs: str, ours: str, heads: int, decodes: bool) -> list[Rule]:
  cross = _attention(f'{theirs}.encoder_attn', f'{ours}/cross', heads)
  cross += vector(f'{theirs}.encoder_attn_layer_norm', f'{ours}/cross_norm')
  return [
    *_attention(f'{theirs}.self_attn', f'{ours}/attention', heads),
    *vector(f'{theirs}.self_attn_layer_norm', f'{ours}/attention_norm'),
    *(cross if decodes else []),
    *linear(f'{theirs}.fc1', f'{ours}/fc1'),
    *linear(f'{theirs}.fc2', f'{ours}/fc2'),
    *vector(f'{theirs}.final_layer_norm', f'{ours}/mlp_norm'),
  ]


def _translation(head: Any) -> list[Rule]:
  rules = []
  for i in range(len(head.kernels)):
    key = f'encoder.subsample.conv_layers.{i}'
    rules += [
      Rule(f'{key}.weight', f'conv_{i}/kernel', 'conv1d'),
      Rule(f'{key}.bias', f'conv_{i}/bias'),
    ]
  for i in range(head.depth):
    rules += _block(f'encoder.transformer_layers.{i}', f'encoder_{i}', head.heads, False)
  for i in range(head.decoder_depth):
    rules += _block(f'decoder.layers.{i}', f'decoder_{i}', head.heads, True)
  for part in ('encoder', 'decoder'):
    rules += vector(f'{part}.layer_norm', f'{part}_norm')
  rules.append(Rule('decoder.embed_tokens.weight', 'token_embedding'))
  # A tied output is stored twice.
  output = 'token_embedding' if head.tied else 'output'
  return [*rules, Rule('decoder.output_projection.weight', output)]


def _voice(head: Any) -> list[Rule]:
  rules = linear('encoder.input_layer', 'input') + lstm('encoder.blstm', 'blstm')
  for i in range(head.convolutions):
    norm, stats = f'encoder.convs.{i}.1', f'batch_stats/norm_{i}'
    rules += [
      Rule(f'encoder.convs.{i}.0.weight', f'conv_{i}', 'conv1d'),
      *vector(norm, f'norm_{i}'),
      Rule(f'{norm}.running_mean', f'{stats}/mean'),
      Rule(f'{norm}.running_var', f'{stats}/var'),
      Rule(f'{norm}.num_batches_tracked', f'{stats}/count', 'count'),
    ]
  for i in range(head.prenet_layers):
    rules += linear(f'prenet.prenet.{i}.0', f'prenet_{i}')
  for i in range(head.cells):
    rules += lstm(f'lstmps.{i}.cell', f'cell_{i}', '', False)
    rules += linear(f'lstmps.{i}.pj', f'project_{i}')
  statistics = [Rule(f'target_{k}', f'buffers/target_{k}') for k in ('mean', 'scale')]
  return [*rules, *linear('proj', 'output'), *statistics]


RULES: dict[str, Callable[[Any], list[Rule]]] = {
  'utterance': _utterance,
  'phones': _phones,
  'recurrent_ctc': _recurrent_ctc,
  'x_vector': _x_vector,
  'diarization': _diarization,
  'masks': _masks,
  'translation': _translation,
  'voice': _voice,
}
# Collections beside 'params', by the beginning of a path.
OTHERS = ('batch_stats/', 'buffers/')
# Keys of fairseq's that hold no weights of the model: counters, and copies of the encoder's for a
# faster path, which are made of the others.
IGNORED = (
  '*._float_tensor',
  'decoder.version',
  *(f'encoder.transformer_layers.*.{p}_{k}' for p in ('in_proj', 'out_proj', 'fc1', 'fc2')
    for k in ('weight', 'bias')),
)  # fmt: skip


# -- What the arrays show: arrays -> arguments -------------------------------------------------


def _count(arrays: Arrays, pattern: str) -> int:
  """How many of the keys 'pattern'.format(0), …(1), … there are."""
  return next(i for i in itertools.count() if pattern.format(i) not in arrays)


def _rows(arrays: Arrays, key: str) -> int:
  return int(arrays[key].shape[0])


def _utterance_args(arrays: Arrays) -> dict[str, Any]:
  return dict(
    width=_rows(arrays, 'projector.weight'), classes=_rows(arrays, 'model.post_net.linear.weight')
  )


def _phones_args(arrays: Arrays) -> dict[str, Any]:
  return dict(width=_rows(arrays, 'projector.weight'))


def _recurrent_ctc_args(arrays: Arrays) -> dict[str, Any]:
  return dict(
    width=_rows(arrays, 'projector.weight'),
    features=int(arrays['model.rnns.0.layer.weight_hh_l0'].shape[1]),
    num_layers=_count(arrays, 'model.rnns.{}.layer.weight_hh_l0'),
    bidirectional='model.rnns.0.layer.weight_hh_l0_reverse' in arrays,
  )


def _x_vector_args(arrays: Arrays) -> dict[str, Any]:
  last = len(x_vector.CONTEXTS) - 1
  return dict(
    width=_rows(arrays, 'connector.weight'),
    pooled_width=_rows(arrays, f'model.framelevel_feature_extractor.module.{last}.kernel.weight'),
    speakers=int(arrays['objective.W'].shape[1]) if 'objective.W' in arrays else 0,
  )


def _diarization_args(arrays: Arrays) -> dict[str, Any]:
  return dict(
    features=int(arrays['model.rnn.weight_hh_l0'].shape[1]),
    num_layers=_count(arrays, 'model.rnn.weight_hh_l{}'),
    speakers=_rows(arrays, 'model.linear.weight'),
  )


def _masks_args(arrays: Arrays) -> dict[str, Any]:
  return dict(
    signals=_count(arrays, 'model.linear.{}.weight'),
    features=int(arrays['model.rnn.weight_hh_l0'].shape[1]),
    num_layers=_count(arrays, 'model.rnn.weight_hh_l{}'),
    bidirectional='model.rnn.weight_hh_l0_reverse' in arrays,
    n_fft=2 * (_rows(arrays, 'model.linear.0.weight') - 1),
  )


def _translation_args(arrays: Arrays) -> dict[str, Any]:
  return dict(
    vocab_size=_rows(arrays, 'decoder.embed_tokens.weight'),
    width=int(arrays['decoder.embed_tokens.weight'].shape[1]),
    hidden=_rows(arrays, 'decoder.layers.0.fc1.weight'),
    depth=_count(arrays, 'encoder.transformer_layers.{}.fc1.weight'),
    decoder_depth=_count(arrays, 'decoder.layers.{}.fc1.weight'),
    channels=_rows(arrays, 'encoder.subsample.conv_layers.0.weight'),
    kernels=tuple(
      int(arrays[f'encoder.subsample.conv_layers.{i}.weight'].shape[2])
      for i in range(_count(arrays, 'encoder.subsample.conv_layers.{}.weight'))
    ),
    tied=_tied(arrays),
  )


def _tied(arrays: Arrays) -> bool:
  """Whether the logits are made by the embedding: then the file has no other, or the same again."""
  output = arrays.get('decoder.output_projection.weight')
  return output is None or np.array_equal(output, arrays['decoder.embed_tokens.weight'])


def _voice_args(arrays: Arrays) -> dict[str, Any]:
  return dict(
    bins=_rows(arrays, 'proj.weight'),
    width=int(arrays['proj.weight'].shape[1]),
    channels=_rows(arrays, 'encoder.input_layer.weight'),
    convolutions=_count(arrays, 'encoder.convs.{}.0.weight'),
    taps=int(arrays['encoder.convs.0.0.weight'].shape[2]),
    prenet=_rows(arrays, 'prenet.prenet.0.0.weight'),
    prenet_layers=_count(arrays, 'prenet.prenet.{}.0.weight'),
    cells=_count(arrays, 'lstmps.{}.pj.weight'),
  )


# (head, key that only it has, arguments).
SIGNS: tuple[tuple[str, str, Callable[[Arrays], dict[str, Any]]], ...] = (
  ('utterance', 'model.post_net.linear.weight', _utterance_args),
  ('recurrent_ctc', 'model.rnns.0.layer.weight_hh_l0', _recurrent_ctc_args),
  ('x_vector', 'connector.weight', _x_vector_args),
  ('translation', 'decoder.embed_tokens.weight', _translation_args),
  ('voice', 'lstmps.0.pj.weight', _voice_args),
  ('masks', 'model.linear.0.weight', _masks_args),
  ('diarization', 'model.rnn.weight_hh_l0', _diarization_args),
  ('phones', 'model.linear.weight', _phones_args),
)
# Heads whose logits are of a vocabulary, and the key that shows its size.
SPELLING = {'phones': 'model.linear.weight', 'recurrent_ctc': 'model.linear.weight'}


# -- Both ways ---------------------------------------------------------------------------------


def read_head(arrays: Arrays, **args: Any) -> tuple[nn.Module, dict[str, Any]]:
  """The head of a state dict of s3prl's, and its variables.

  Args:
    arrays: {original key: array}, 'Downstream' of a checkpoint.
    **args: arguments of the head that do not show in the arrays (vocabulary, slots, labels, …).

  Returns:
    an unbound head of `models/heads`, and its variables, 'params' and what else it has.

  Raises:
    InputError: no head of SUPERB has such keys, an argument contradicts the arrays, or the symbols
      are not as many as the logits.
  """
  signs = next(((name, f) for name, key, f in SIGNS if key in arrays), None)
  if signs is None:
    raise InputError(
      f'These arrays are of none of the heads {", ".join(RULES)} of s3prl: '
      f'{listed(sorted(arrays)[:8])}.'
    )
  name, shown = signs[0], signs[1](arrays)
  for key, value in shown.items():
    if key in args and args[key] != value:
      raise InputError(
        f'{key}={args[key]!r} was given, and the arrays have {value!r}: leave it out.'
      )
  head: Any = heads.get(name)(**{**shown, **args})
  if name in SPELLING and len(head.vocabulary) != _rows(arrays, SPELLING[name]):
    raise InputError(
      f'The head spells {_rows(arrays, SPELLING[name])} symbols and its vocabulary has '
      f'{len(head.vocabulary)}: give vocabulary=[…], in the order of the logits.'
    )
  return head, _convert(RULES[name](head), arrays)


def write_head(head: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The inverse of `read_head`: {original key: array}.

  Raises:
    InputError: s3prl has no such head.
  """
  name = type(head).__name__.lower()
  rules = next((f for key, f in RULES.items() if key.replace('_', '') == name), None)
  if rules is None:
    raise InputError(f's3prl has no head {type(head).__name__}: it has {", ".join(RULES)}.')
  flat = tables.flatten(variables)
  rows = tables.expand(_placed(rules(head)), head)
  return {
    theirs: np.asarray(layout.revert(np.asarray(flat[ours]), size), order='C')
    for theirs, ours, layout, size in rows
  }


def _placed(rules: list[Rule]) -> list[Rule]:
  """Rules with the collection before each path."""
  return [r if r.ours.startswith(OTHERS) else r._replace(ours=f'params/{r.ours}') for r in rules]


def _convert(rules: list[Rule], arrays: Arrays) -> dict[str, Any]:
  rows = tables.expand(_placed(rules), nn.Module())
  known = {theirs for theirs, *_ in rows}
  given = {k for k in arrays if not any(fnmatch.fnmatch(k, p) for p in IGNORED)}
  missing, more = known - given, given - known
  if missing or more:
    raise InputError(
      f'The weights do not fit the head: missing {listed(sorted(missing))}; not expected '
      f'{listed(sorted(more))}.'
    )
  flat = {ours: np.array(layout.convert(arrays[k], size)) for k, ours, layout, size in rows}
  return flax.traverse_util.unflatten_dict(flat, sep='/')


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """(state dict of the head, weights of the layer mix before the softmax) of a file that s3prl's
  runner has saved.

  Raises:
    InputError: the file cannot be read, or is none of these.
  """
  whole = read.read_torch(path)
  parts = [whole.get(k) if isinstance(whole, Mapping) else None for k in (DOWNSTREAM, FEATURIZER)]
  head, mix = parts
  if not isinstance(head, Mapping) or not isinstance(mix, Mapping) or MIX not in mix:
    raise InputError(
      f'{str(path)!r} is no checkpoint of s3prl: expected {DOWNSTREAM!r} and {FEATURIZER!r} with '
      f'{MIX!r} in it.'
    )
  return {k: np.asarray(v) for k, v in head.items()}, np.asarray(mix[MIX])


def put_on(
  encoder: Mapping[str, Any],
  variables: Mapping[str, Any],
  head: nn.Module,
  own: Mapping[str, Any],
  mix: np.ndarray,
) -> tuple[Finetuned, dict[str, Any]]:
  """An encoder with a head of SUPERB on its layers.

  Args:
    encoder: dict(name=…, args={…}).
    variables: of the encoder.
    head, own: the head and its variables, as `read_head` gives them.
    mix: weights of the layers before the softmax.

  Returns:
    (model, variables); the encoder is frozen.

  Raises:
    InputError: the encoder has another number of layers.
  """
  name = next(n for n in heads.names() if heads.get(n) is type(head))
  spec = dict(name=name, args=settings.arguments(head))
  model = Finetuned(encoder=dict(encoder), head=spec, layer='mix', freeze=True)
  example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), model.example())
  expected = jax.eval_shape(model.init, jax.random.key(0), example)['params']
  if expected['layer_mix'].shape != mix.shape:
    raise InputError(
      f'The featurizer mixes {len(mix)} layers, and {encoder["name"]} has '
      f'{expected["layer_mix"].shape[0]}: it is of another upstream.'
    )
  theirs = {k: v for k, v in variables['params'].items() if k in expected}
  merged = {k: {**variables.get(k, {}), **own.get(k, {})} for k in {*variables, *own}}
  return model, {**merged, 'params': {**theirs, **own['params'], 'layer_mix': mix}}
