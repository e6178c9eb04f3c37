"""Names of arrays of Jukebox: openai's, and those of transformers 4 (`JukeboxModel`), one by one.

A model of transformers holds all parts: `vqvae.…`, and `priors.N.…`, numbered from the top level
down. Its last version with Jukebox is 4.57.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
# What stands for numbers and ends in the forms below.
FIELDS = {
  'l': r'\d+', 'i': r'\d+', 'n': r'\d+', 'r': r'\d+', 'c': r'\d', 'e': 'weight|bias',
  'rest': '.+', 'name': 'bow_genre|artist', 'range': 'total_length|absolute_pos|relative_pos',
  'conv': r'attn\.c_attn|attn\.c_enc_kv|attn\.c_proj|mlp\.c_fc|mlp\.c_proj', 'k': '[01]',
}  # fmt: skip
# Ends of names of Conv1D, and convolutions of a residual block: openai's -> transformers'.
ENDS = {'w': 'weight', 'b': 'bias'}
PLACES = {'1': '1', '3': '2'}


class Form(NamedTuple):
  """Names of one kind.

  Attributes:
    openai, transformers: with fields in braces.
    times, plus: number n of openai's is times n + plus of transformers'.
    short: whether openai ends in w and b.
  """

  openai: str
  transformers: str
  times: int = 1
  plus: int = 0
  short: bool = False


def _decoder(theirs: str, blocks: str, ours: str) -> list[Form]:
  """Forms of what turns codes into more of them."""
  up, res = f'{ours}.upsample_block.{{n}}', 'resnet_block.{r}.conv1d_{c}.{e}'
  return [
    Form(f'{theirs}.model.{{n}}.0.{blocks}.{{r}}.model.{{c}}.{{e}}', f'{up}.{res}', 2, -2),
    Form(f'{theirs}.model.{{n}}.1.{{e}}', f'{up}.{{e}}', 2, -1),
    Form(f'{theirs}.model.0.{{e}}', f'{ours}.proj_in.{{e}}'),
  ]


def _transformer(theirs: str, ours: str) -> list[Form]:
  """Forms of a transformer over codes or lyrics."""
  layer = '.transformer._attn_mods.{i}'
  return [
    Form(f'{theirs}.x_emb.weight', f'{ours}.embed_tokens.weight'),
    Form(f'{theirs}.x_out.weight', f'{ours}.fc_proj_out.weight'),
    Form(f'{theirs}{layer}.{{conv}}.{{e}}', f'{ours}{layer}.{{conv}}.{{e}}', short=True),
    Form(f'{theirs}{layer}.ln_{{k}}.{{e}}', f'{ours}{layer}.layer_norm_{{k}}.{{e}}'),
    Form(f'{theirs}.{{rest}}', f'{ours}.{{rest}}'),
  ]


_ENCODER, _DECODER = 'encoders.{l}.level_blocks.{i}', 'decoders.{l}.level_blocks.{i}'
_DOWN = f'{_ENCODER}.downsample_block.{{n}}'
# The first form that fits counts.
VQVAE = (
  Form(
    f'{_ENCODER}.model.{{n}}.1.model.{{r}}.model.{{c}}.{{e}}',
    f'{_DOWN}.resnet_block.{{r}}.conv1d_{{c}}.{{e}}', 2, 1,
  ),
  Form(f'{_ENCODER}.model.{{n}}.0.{{e}}', f'{_DOWN}.{{e}}', 2),
  # The last of a block, whose number is that of those before: see `openai`.
  Form(f'{_ENCODER}.model.{{n}}.{{e}}', f'{_ENCODER}.proj_out.{{e}}'),
  *_decoder(_DECODER, 'model', _DECODER),
  Form('bottleneck.level_blocks.{l}.k', 'bottleneck.level_blocks.{l}.codebook'),
  Form('decoders.{l}.out.{e}', 'decoders.{l}.out.{e}'),
)  # fmt: skip
PRIOR = (
  *_decoder('conditioner_blocks.0.cond', 'blocks', 'conditioner_blocks.upsampler'),
  Form('conditioner_blocks.0.x_emb.weight', 'conditioner_blocks.embed_tokens.weight'),
  Form('conditioner_blocks.0.ln.{e}', 'conditioner_blocks.layer_norm.{e}'),
  Form('y_emb.{name}_emb.emb.weight', 'metadata_embedding.{name}_emb.weight'),
  Form('y_emb.{range}_emb.emb.weight', 'metadata_embedding.{range}_emb.emb.weight'),
  Form('prime_state_proj.{e}', 'encoder.proj_in.{e}', short=True),
  Form('prime_state_ln.{e}', 'encoder.final_layer_norm.{e}'),
  Form('prime_x_out.weight', 'encoder.lm_head.weight'),
  *_transformer('prior', 'prior'),
  *_transformer('prime_prior', 'encoder'),
)


def _pattern(form: str, short: bool) -> re.Pattern[str]:
  known = FIELDS | ({'e': '[wb]'} if short else {})
  parts = re.split(r'\{(\w+)\}', form)
  return re.compile(
    ''.join(f'(?P<{p}>{known[p]})' if i % 2 else re.escape(p) for i, p in enumerate(parts))
  )


def transformers(key: str, forms: Iterable[Form]) -> str | None:
  """Transformers' name of one of openai's; None where no form fits."""
  for form in forms:
    found = _pattern(form.openai, form.short).fullmatch(key)
    if found is None:
      continue
    fields = found.groupdict()
    if 'n' in fields:
      fields['n'] = str(form.times * int(fields['n']) + form.plus)
    if 'c' in fields:
      fields['c'] = PLACES[fields['c']]
    if form.short:
      fields['e'] = ENDS[fields['e']]
    return form.transformers.format(**fields)
  return None


def openai(key: str, forms: Iterable[Form], keys: Iterable[str] = ()) -> str | None:
  """Openai's name of one of transformers'; None where no form fits.

  Args:
    key: the name.
    forms: VQVAE or PRIOR.
    keys: all names, by which convolutions of a block are counted.
  """
  for form in forms:
    found = _pattern(form.transformers, False).fullmatch(key)
    if found is None:
      continue
    fields = found.groupdict()
    if 'n' in fields:
      fields['n'] = str((int(fields['n']) - form.plus) // form.times)
    elif '{n}' in form.openai:
      # Two blocks of transformers' for one of openai's.
      block = re.escape(key.partition('.proj_out.')[0]) + r'\.downsample_block\.(\d+)\.'
      numbers = [int(m[1]) for m in (re.match(block, each) for each in keys) if m]
      fields['n'] = str(max(numbers, default=-2) // 2 + 1)
    if 'c' in fields:
      fields['c'] = {b: a for a, b in PLACES.items()}.get(fields['c'], '')
    if form.short:
      fields['e'] = {b: a for a, b in ENDS.items()}[fields['e']]
    return form.openai.format(**fields)
  return None


def part(arrays: Arrays, prefix: str, forms: Iterable[Form]) -> dict[str, np.ndarray]:
  """Arrays of a part under openai's names; those of which no form fits keep theirs, so that they
  are seen to be unexpected."""
  own = {key[len(prefix) :]: x for key, x in arrays.items() if key.startswith(prefix)}
  return {openai(key, forms, own) or key: x for key, x in own.items()}


def priors(arrays: Arrays) -> int:
  """How many priors there are."""
  found = [int(m[1]) for m in (re.match(r'priors\.(\d+)\.', key) for key in arrays) if m]
  return max(found, default=-1) + 1
