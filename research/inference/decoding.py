"""How answers are decoded, under the names of transformers' generation_config.json."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from research.errors import InputError, unknown
from research.inference import generate_rules as rules
from research.inference.generate import Settings

FILE = 'generation_config.json'


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How a model writes; the defaults take the likeliest token.

  Attributes:
    max_new_tokens: of an answer, its stop token included.
    min_new_tokens: no stop token comes before.
    do_sample: draw tokens; the others below are then of use.
    temperature: logits are divided by it.
    top_k: tokens that can be drawn; 0 for all.
    top_p: probability that these have together; 1 for all.
    repetition_penalty: of tokens that are there already, the prompt's too; 1 for none.
    no_repeat_ngram_size: no N tokens in a row come twice; 0 for any.
    num_beams: hypotheses of a search.
    length_penalty: they are ranked by the sum of log-probabilities / length^penalty.
    seed: of draws. Equal questions and seeds give equal answers, whatever the batch.
  """

  max_new_tokens: int = 256
  min_new_tokens: int = 0
  do_sample: bool = False
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  repetition_penalty: float = 1.0
  no_repeat_ngram_size: int = 0
  num_beams: int = 1
  length_penalty: float = 1.0
  seed: int = 0

  def __post_init__(self):
    lowest = dict(
      max_new_tokens=1, min_new_tokens=0, top_k=0, no_repeat_ngram_size=0, num_beams=1, seed=0
    )
    for name, low in lowest.items():
      if getattr(self, name) < low:
        raise InputError(f'{name}={getattr(self, name)} was given: give at least {low}.')
    for name in ('temperature', 'repetition_penalty'):
      if not getattr(self, name) > 0:
        raise InputError(f'{name}={getattr(self, name):g} was given: give more than 0.')
    if not 0 < self.top_p <= 1:
      raise InputError(f'top_p={self.top_p:g} was given: give a probability above 0, up to 1.')
    if self.do_sample and self.num_beams > 1:
      raise InputError(
        f'do_sample was given with num_beams={self.num_beams}: a beam search draws nothing.'
      )

  def settings(self, stop: Sequence[int], beams: str = 'transformers') -> Settings:
    """The same for `generate`, with the style of a beam search; rules come in the order of
    transformers."""
    found: list[rules.Rule] = []
    if self.repetition_penalty != 1.0:
      found.append(rules.RepetitionPenalty(self.repetition_penalty))
    if self.no_repeat_ngram_size:
      found.append(rules.BlockNgrams(self.no_repeat_ngram_size))
    if self.min_new_tokens:
      found.append(rules.MinTokens(self.min_new_tokens, tuple(stop)))
    searches = self.num_beams > 1
    return Settings(
      self.max_new_tokens,
      tuple(stop),
      beams=self.num_beams,
      sample=self.do_sample,
      top_k=self.top_k or None if self.do_sample else None,
      top_p=self.top_p if self.do_sample and self.top_p < 1 else None,
      length_penalty=self.length_penalty if searches else None,
      style=beams if searches else 'whisper',
      rules=tuple(found),
    )


def names() -> list[str]:
  """Names of all settings."""
  return [field.name for field in dataclasses.fields(Decoding)]


def decoding(*given: Mapping[str, Any]) -> Decoding:
  """The settings of mappings, of which later ones count; None is not given.

  Raises:
    InputError: an unknown name, or a value of another kind.
  """
  kinds = {field.name: type(field.default) for field in dataclasses.fields(Decoding)}
  found: dict[str, Any] = {}
  for mapping in given:
    for name, value in mapping.items():
      if name not in kinds:
        raise unknown('setting of decoding', name, kinds)
      if value is None:
        continue
      kind = kinds[name]
      number = isinstance(value, int | float) and not isinstance(value, bool)
      if not (number if kind is float else type(value) is kind):
        wanted = {bool: 'true or false', int: 'a whole number', float: 'a number'}[kind]
        raise InputError(f'{name}={value!r} was given: give {wanted}.')
      found[name] = float(value) if kind is float else value
  return Decoding(**found)


def beside(folder: str | epath.PathLike | None) -> dict[str, Any]:
  """What generation_config.json of a folder says; {} where there is none."""
  file = epath.Path(folder or '.') / FILE
  if not folder or not file.exists():
    return {}
  try:
    said = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    said = None
  if not isinstance(said, Mapping):
    raise InputError(f'{file} is not an object in JSON: copy it again, or remove it.')
  return {name: said[name] for name in names() if said.get(name) is not None}
