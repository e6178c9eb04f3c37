"""Key tables and figures of Audio Flamingo 1 and 2, under the names of NVIDIA's code.

A state dict there has tensors under several names, may start each with 'module.', and is loaded
whatever it lacks; here duplicates must be equal, and a missing tensor is an error. Tables that a
front-end or a window computes are left out, and so are counters of batch norms, and text towers.
"""

import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from research.errors import InputError
from research.models.gated_audio import GatedAudioModel
from research.weights import tables
from research.weights.families import clap, language_models
from research.weights.stated import check_agreement
from research.weights.tables import Rule, linear, vector

Arrays = Mapping[str, np.ndarray]
LANGUAGE, BLOCKS = 'lang_encoder.', 'lang_encoder.old_decoder_blocks'
IGNORED = (
  '*.spectrogram_extractor.*', '*.logmel_extractor.*', '*.attn_mask',
  '*.relative_position_index', '*.num_batches_tracked',
)  # fmt: skip


class Names(NamedTuple):
  """How a version calls its parts.

  Attributes:
    model: name of our model's class.
    style: a key of `language_models.STYLES`.
    transformer: over vectors of windows.
    buffer: (its table of positions or of frequencies, our name, layout).
    gates: the list of gates.
    tower: HTSAT.
    layers: the layers of the language model, which hold the gates too.
    gate: of a layer.
    figures: our arguments that weights need but do not show.
  """

  model: str
  style: str
  transformer: str
  buffer: tuple[str, str, str]
  gates: str
  tower: str
  layers: str
  gate: str
  figures: Sequence[str]


# -- Key table ---------------------------------------------------------------------------------


def rules(model: Any, names: Names) -> list[Rule]:
  """The key table of a model, without the projection of CLAP.

  Raises:
    InputError: another model.
  """
  if not isinstance(model, GatedAudioModel) or type(model).__name__ != names.model:
    raise InputError(f'{type(model).__name__} has no layout of {names.model}: give a model of it.')
  found = [*transformer(names), *_gates(model, names), *_language(model, names)]
  return found + (_tower(model, names) if model.encoder else [])


def transformer(names: Names) -> list[Rule]:
  """The key table of the transformer over vectors."""
  t, o, depth = names.transformer, 'params/audio_transformer', 'audio_depth'
  buffer, own, layout = names.buffer
  found = [
    Rule(f'{t}.position_enc.{buffer}', f'buffers/audio_transformer/{own}', layout),
    *vector(f'{t}.layer_norm', f'{o}/norm'),
  ]
  attn, mlp = f'{t}.layer_stack.{{i}}.slf_attn', f'{t}.layer_stack.{{i}}.pos_ffn'
  own = f'{o}/layers_{{i}}'
  for theirs, ours in (('w_qs', 'query'), ('w_ks', 'key'), ('w_vs', 'value')):
    path = f'{own}_attn/{ours}/kernel'
    found.append(Rule(f'{attn}.{theirs}.weight', path, 'heads', depth, 'audio_heads'))
  path = f'{own}_attn/out/kernel'
  return [
    *found,
    Rule(f'{attn}.fc.weight', path, 'heads_out', depth, 'audio_heads'),
    *vector(f'{attn}.layer_norm', f'{own}_attn_norm', depth),
    *linear(f'{mlp}.w_1', f'{own}_mlp/fc1', depth),
    *linear(f'{mlp}.w_2', f'{own}_mlp/fc2', depth),
    *vector(f'{mlp}.layer_norm', f'{own}_mlp_norm', depth),
  ]


def _gates(model: Any, names: Names) -> list[Rule]:
  found: list[Rule] = []
  heads = model.gate_heads
  for i in range(model.text_depth):
    if (i + 1) % model.gate_every:
      continue
    t, o = f'{names.gates}.{i}', f'params/language_model/blocks_{i}/before'
    found += [
      Rule(f'{t}.attn_gate', f'{o}/attn_gate'),
      Rule(f'{t}.ff_gate', f'{o}/ff_gate'),
      *vector(f'{t}.attn.norm', f'{o}/norm'),
      Rule(f'{t}.attn.to_q.weight', f'{o}/attn/query/kernel', 'heads', heads=heads),
      Rule(f'{t}.attn.to_kv.weight#0', f'{o}/attn/key/kernel', 'heads', heads=heads),
      Rule(f'{t}.attn.to_kv.weight#1', f'{o}/attn/value/kernel', 'heads', heads=heads),
      Rule(f'{t}.attn.to_out.weight', f'{o}/attn/out/kernel', 'heads_out', heads=heads),
      *vector(f'{t}.ff.0', f'{o}/mlp_norm'),
      Rule(f'{t}.ff.1.weight', f'{o}/mlp/fc1/kernel', 'linear'),
      Rule(f'{t}.ff.3.weight', f'{o}/mlp/fc2/kernel', 'linear'),
    ]
  return found


def _language(model: Any, names: Names) -> list[Rule]:
  found = language_models.rules(names.style, LANGUAGE, tied=model.tied)
  return [r._replace(theirs=r.theirs.replace(f'{names.layers}.', f'{BLOCKS}.')) for r in found]


def _tower(model: Any, names: Names) -> list[Rule]:
  shape = types.SimpleNamespace(
    fusion=model.FUSION, classes=model.classes, depths=model.clap_depths,
    audio_heads=model.clap_heads,
  )  # fmt: skip
  found = clap.htsat(shape, names.tower)
  return [r._replace(ours=r.ours.replace('/audio_tower/', '/clap_tower/')) for r in found]


# -- Names of a state dict ---------------------------------------------------------------------


def renew(arrays: Arrays, names: Names) -> dict[str, np.ndarray]:
  """The arrays, each under one name.

  Raises:
    InputError: two names of one tensor have different values.
  """
  layer = re.compile(rf'{re.escape(names.layers)}\.(\d+)\.({names.gate}|decoder_layer)\.')
  lists = {names.gate: names.gates, 'decoder_layer': BLOCKS}
  words = f'{LANGUAGE}{language_models.words(names.style)}'
  found: dict[str, np.ndarray] = {}
  first: dict[str, str] = {}
  for key, x in tables.without_module(arrays).items():
    own = layer.sub(lambda m: f'{lists[m[2]]}.{m[1]}.', key)
    if own == f'{LANGUAGE}lm_head.weight':
      own = words
    if own in found and not np.array_equal(found[own], x):
      raise InputError(
        f'{key} differs from {first[own]}, which is the same tensor in Audio Flamingo: the file is '
        'damaged, or put together of several.'
      )
    if own not in found:
      found[own], first[own] = x, key
  return found


# -- Figures -----------------------------------------------------------------------------------


def infer(
  arrays: Arrays,
  given: Mapping[str, Any],
  names: Names,
  sizes: Mapping[str, Mapping[str, Any]],
  hidden: str,
  further: Mapping[str, Any],
) -> dict[str, Any]:
  """Arguments that arrays need.

  Args:
    arrays: under the names of the key table.
    given: by the caller.
    names: of the version.
    sizes: published.
    hidden: key of the first projection of the MLP of a layer, behind its number.
    further: arguments that the version finds itself.
  """
  t = names.transformer
  words = f'{LANGUAGE}{language_models.words(names.style)}'
  keys = dict(
    words=words, norm=f'{t}.layer_norm.weight', inner=f'{t}.layer_stack.0.pos_ffn.w_1.weight',
    hidden=f'{BLOCKS}.0.{hidden}',
  )  # fmt: skip
  absent = [key for key in keys.values() if key not in arrays]
  if absent:
    raise InputError(f'The files hold no {", ".join(absent)}: they are no {names.model}.')
  shapes = {part: np.shape(arrays[key]) for part, key in keys.items()}
  depth = clap.count(arrays, f'{BLOCKS}.')
  gates = sorted(
    {int(k[len(names.gates) + 1 :].split('.')[0]) for k in arrays if k.startswith(names.gates)}
  )
  every = gates[0] + 1 if gates else 1
  if gates != [i for i in range(depth) if (i + 1) % every == 0]:
    raise InputError(f'The files hold gates of the layers {gates} of {depth}, which are not even.')
  found: dict[str, Any] = dict(
    further, audio_width=int(shapes['norm'][0]), audio_hidden=int(shapes['inner'][0]),
    audio_depth=clap.count(arrays, f'{t}.layer_stack.'), gate_every=every,
    text_width=int(shapes['words'][1]), text_depth=depth, text_hidden=int(shapes['hidden'][0]),
    vocab_size=int(shapes['words'][0]), tied=True,
    encoder=any(key.startswith(names.tower) for key in arrays),
  )  # fmt: skip
  if found['encoder']:
    own = clap.htsat_sizes(arrays, names.tower)
    found |= dict(
      clap_width=own['audio_width'], clap_depths=own['depths'], clap_heads=own['audio_heads'],
      classes=own['classes'],
    )  # fmt: skip
  plain = {k: tuple(x) if isinstance(x, list) else x for k, x in given.items()}
  check_agreement(found, {k: x for k, x in plain.items() if k in found}, {})
  args = {**plain, **found}
  if 'size' not in args:
    for size, figures in sizes.items():
      if all(figures[k] == args[k] for k in figures.keys() & args.keys() - {'frontend'}):
        return {**args, 'size': size}
    needed = [k for k in names.figures if k not in args]
    if needed:
      raise InputError(
        f'A {names.model} of width {found["text_width"]} is in no table: give {needed[0]}=… '
        f'(launch.convert: --args={needed[0]}=…).'
      )
  return args
