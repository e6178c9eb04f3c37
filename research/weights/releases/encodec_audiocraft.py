"""EnCodec as audiocraft exports it (compression_state_dict.bin): {'best_state': tensors under
encodec's names, 'xp.cfg': its configuration as YAML}.

Its defaults are others than encodec's (padding with zeros, residual units that add their input as
it is, no causality), and it has no segments: what `xp.cfg` says counts, and what our codec does not
do is refused. [unverified] on a published file: none was at hand. Keys and figures are those of
audiocraft's config/model/encodec and models/builders.py.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.errors import InputError
from research.weights.families import encodec as family
from research.weights.release import Release
from research.weights.stated import NOTHING, Fact, Stated, settle

CONFIG = 'xp.cfg'
# Key -> our argument.
SAID = {
  'encodec.channels': 'channels',
  'encodec.causal': 'causal',
  'encodec.renormalize': 'normalize',
  'seanet.channels': 'channels',
  'seanet.causal': 'causal',
  'seanet.dimension': 'dimension',
  'seanet.n_filters': 'n_filters',
  'seanet.n_residual_layers': 'n_residual_layers',
  'seanet.ratios': 'ratios',
  'seanet.norm': 'norm',
  'seanet.kernel_size': 'kernel_size',
  'seanet.residual_kernel_size': 'residual_kernel_size',
  'seanet.last_kernel_size': 'last_kernel_size',
  'seanet.dilation_base': 'dilation_base',
  'seanet.pad_mode': 'pad_mode',
  'seanet.true_skip': 'true_skip',
  'seanet.compress': 'compress',
  'seanet.lstm': 'lstm',
  'seanet.decoder.trim_right_ratio': 'trim_right_ratio',
  'rvq.n_q': 'quantizers',
  'rvq.bins': 'codebook_size',
}
# What the codec does and cannot do otherwise.
FIXED: dict[str, Any] = {
  'compression_model': 'encodec',
  'encodec.autoencoder': 'seanet',
  'encodec.quantizer': 'rvq',
  'seanet.activation': 'ELU',
  'seanet.activation_params': {'alpha': 1.0},
  'seanet.norm_params': {},
  'seanet.disable_norm_outer_blocks': 0,
  'seanet.decoder.final_activation': None,
  'seanet.decoder.final_activation_params': None,
  'seanet.encoder': {},
}
# Keys that older configurations do not have.
YOUNGER = {
  'encodec.renormalize': False,
  'rvq.q_dropout': False,
  'seanet.decoder.trim_right_ratio': 1.0,
  **FIXED,
}
# What audiocraft's configurations say, for a file without one; sizes are in the arrays.
DEFAULTS = dict(
  causal=False, pad_mode='constant', normalize=False, trim_right_ratio=1.0, dilation_base=2
)
REFERENCE = re.compile(r'\$\{([\w.]+)\}')
# The decoder's own settings; any other one would be for one of the two networks alone.
OF_DECODER = ('trim_right_ratio', 'final_activation', 'final_activation_params')


def look_up(config: Mapping[str, Any], key: str, depth: int = 8) -> Any:
  """A value by its path; one that refers to another, `${channels}`, is that one.

  Raises:
    InputError: it is not there, or references go round.
  """
  value: Any = config
  for part in key.split('.'):
    if not isinstance(value, Mapping) or part not in value:
      if key in YOUNGER:
        return YOUNGER[key]
      raise InputError(f'{CONFIG} has no {key}: it is not the configuration of a codec.')
    value = value[part]
  reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
  if reference is None:
    return tuple(value) if isinstance(value, list) else value
  if not depth:
    raise InputError(f'{CONFIG} refers round in a circle at {key}: {value}.')
  return look_up(config, reference[1], depth - 1)


def describe(files: Mapping[str, Any]) -> Stated:
  """What `xp.cfg` says.

  Raises:
    InputError: it says something else than our codec does; both values are named.
  """
  config = files.get(CONFIG)
  if config is None:
    return NOTHING
  if not isinstance(config, Mapping):
    raise InputError(f'{CONFIG} is {type(config).__name__}; expected the settings of a codec.')
  for key, ours in FIXED.items():
    if look_up(config, key) != ours:
      raise InputError(
        f'{CONFIG} says {key}={look_up(config, key)!r}, and codecs here have {ours!r}: these '
        'weights cannot be used.'
      )
  extra = sorted(set(look_up(config, 'seanet.decoder')) - set(OF_DECODER))
  if extra:
    raise InputError(
      f'{CONFIG} says {extra[0]}={look_up(config, f"seanet.decoder.{extra[0]}")!r} for the decoder '
      'alone, and codecs here have the same for both networks: these weights cannot be used.'
    )
  facts: dict[str, Fact] = {}
  for key, ours in SAID.items():
    fact = Fact(look_up(config, key), f'{CONFIG} ({key})')
    if facts.get(ours, fact).value != fact.value:
      raise InputError(
        f'{facts[ours].where} says {facts[ours].value!r} and {fact.where} {fact.value!r}: both '
        'have to be the same.'
      )
    facts[ours] = fact
  rate = Fact(look_up(config, 'encodec.sample_rate'), f'{CONFIG} (encodec.sample_rate)')
  sizes = {name: fact.value for name, fact in facts.items()}
  known = bandwidths(sizes, rate.value, bool(look_up(config, 'rvq.q_dropout')))
  facts['segment'] = Fact(None, f'{CONFIG}, which knows no segments,')
  facts['bandwidths'] = Fact(known, f'{CONFIG} (rvq)')
  return Stated(facts, {'sample_rate': rate})


def bandwidths(sizes: Mapping[str, Any], rate: int, dropped: bool) -> tuple[float, ...]:
  """kbit/s of all codebooks, or of every number of them where training left some out."""
  frames = math.ceil(rate / math.prod(sizes['ratios']))
  unit = int(math.log2(sizes['codebook_size'])) * frames / 1000
  first = 1 if dropped else sizes['quantizers']
  return tuple(round(n * unit, 6) for n in range(first, sizes['quantizers'] + 1))


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need.

  Raises:
    InputError: arrays that are missing, or that contradict the files or the caller; weights without
      `xp.cfg` whose sample rate the caller does not give.
  """
  found = family.sizes(arrays, family.OWN)
  defaults: dict[str, Any] = dict(
    size='24khz', frontend={}, learning='reset', commit_all=True, segment=None, **DEFAULTS
  )
  if not stated.facts:
    front = given.get('frontend')
    rate = front.get('sample_rate') if isinstance(front, Mapping) else None
    rate = getattr(front, 'sample_rate', rate)
    if rate is None:
      raise InputError(
        f"audiocraft's weights without their {CONFIG} do not say the sample rate: give "
        "frontend={'sample_rate': 32000}."
      )
    defaults['bandwidths'] = bandwidths(found, rate, False)
  return 'encodec', settle(found, given, stated, defaults)


def compose(model: Any) -> dict[str, dict[str, Any]]:
  """`xp.cfg` of a codec, as far as audiocraft's builders read it.

  Raises:
    InputError: a codec that audiocraft has not.
  """
  if model.segment is not None:
    raise InputError(
      f'The codec has segment={model.segment:g} s, and audiocraft codes clips as a whole '
      '(segment=None): write it as release encodec or encodec_hf.'
    )
  if model.causal and model.normalize:
    raise InputError(
      'The codec has causal=True and normalize=True, and audiocraft has causal codecs with '
      'renormalize=False alone.'
    )
  config: dict[str, Any] = {
    'compression_model': 'encodec',
    'sample_rate': model.frontend.sample_rate,
    'channels': model.channels,
    'encodec': {'autoencoder': 'seanet', 'quantizer': 'rvq'},
    'seanet': {'encoder': {}, 'decoder': {}},
    'rvq': {'q_dropout': len(model.bandwidths) > 1},
  }
  config['encodec']['sample_rate'] = model.frontend.sample_rate
  values = {**FIXED, **{key: getattr(model, ours) for key, ours in SAID.items()}}
  for key, value in values.items():
    *path, name = key.split('.')
    place = functools.reduce(lambda inner, part: inner[part], path, config)
    if not isinstance(value, Mapping) or name not in place:
      place[name] = list(value) if isinstance(value, tuple) else value
  return {CONFIG: config}


# By what it is recognised, see `weights/detect.py`: encodec's keys, and the configuration.
MARKS = (('encoder.model.0.conv.conv.', 'quantizer.vq.layers.0._codebook.'),)
BESIDE = CONFIG
RELEASE = Release(
  rules=functools.partial(family.rules, names=family.OWN),
  infer=infer,
  describe=describe,
  renew=family.renew,
  compose=compose,
)
