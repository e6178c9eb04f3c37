"""Detects the release of original weights from their keys, configuration or config.json."""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from research.errors import InputError, printable
from research.weights import releases


@dataclasses.dataclass(frozen=True)
class Signs:
  """What its module in `weights/releases` declares of a release, all of it optional.

  Attributes:
    marks: MARKS, alternatives: parts of keys, all of which an original file has. Of several
      releases that fit, the one with the longer alternative counts.
    model_type: MODEL_TYPE in the config.json of transformers.
    fairseq: FAIRSEQ, names of the model in fairseq's configuration.
    beside: BESIDE, what lies beside the arrays of this release alone, see `read.read_release`; ''
      for nothing. Of releases with the same marks it says which one it is.
  """

  marks: tuple[tuple[str, ...], ...]
  model_type: str | None
  fairseq: tuple[str, ...]
  beside: str = ''

  def fit(self, keys: Collection[str]) -> int:
    """Parts of the longest alternative that is there, 0 for none."""
    return max((len(parts) for parts in self.marks if _has(keys, parts)), default=0)


@functools.cache
def signs() -> dict[str, Signs]:
  """{release: its signs}."""
  found = {}
  for module in pkgutil.iter_modules(releases.__path__):
    made = importlib.import_module(f'{releases.__name__}.{module.name}')
    found[module.name] = Signs(
      getattr(made, 'MARKS', ()),
      getattr(made, 'MODEL_TYPE', None),
      getattr(made, 'FAIRSEQ', ()),
      getattr(made, 'BESIDE', ''),
    )
  return found


def model_types() -> dict[str, str]:
  """{model_type of transformers' config.json: release}."""
  return {s.model_type: name for name, s in signs().items() if s.model_type is not None}


def release(path: Path, keys: Collection[str], files: Mapping[str, Any]) -> str:
  """The release of the arrays with these keys.

  Args:
    path: where they were read, for messages.
    keys: of the arrays.
    files: what lies beside them, see `read.read_release`: 'cfg', 'config.json'.

  Raises:
    InputError: several releases fit, or none does.
  """
  config = files.get('config.json')
  kind = config.get('model_type') if isinstance(config, Mapping) else None
  if kind is not None:
    known = model_types()
    if not isinstance(kind, str) or kind not in known:
      raise InputError(
        f'{str(path)!r} is a {printable(str(kind)[:60])} of transformers, which is not known here: '
        f'expected {", ".join(known)}.'
      )
    return known[kind]
  fits = {name: s.fit(keys) for name, s in signs().items()}
  for name, each in signs().items():
    if each.beside:
      fits[name] = fits[name] + 1 if fits[name] and each.beside in files else 0
  best = max(fits.values())
  found = [name for name, fit in fits.items() if fit == best > 0]
  name = _fairseq_name(files.get('cfg'))
  named = next((r for r, s in signs().items() if name in s.fairseq), None)
  if named and all(signs()[each].fairseq for each in found):
    return named
  if len(found) > 1:
    raise InputError(
      f'{str(path)!r} does not say whether its weights are {" or ".join(found)}: name the '
      f"release, as release='{found[0]}' (--release={found[0]})."
    )
  if found:
    return found[0]
  some = printable(', '.join(sorted(keys)[:3])[:200])
  raise InputError(
    f'{str(path)!r} does not say which model it is for (its arrays: {some} …): name its release, '
    f'one of {", ".join(signs())}.'
  )


def _has(keys: Collection[str], marks: Collection[str]) -> bool:
  return all(any(mark in key for key in keys) for mark in marks)


def _fairseq_name(cfg: Any) -> str:
  """Name of the model in a fairseq configuration, '' if there is none."""
  model = cfg.get('model') if isinstance(cfg, Mapping) else None
  name = model.get('_name') if isinstance(model, Mapping) else None
  return name if isinstance(name, str) else ''
