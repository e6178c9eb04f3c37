"""What a release declares: whose arrays become which of our models, and back."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from research.weights.stated import NOTHING, Stated
from research.weights.tables import Rule

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Release:
  """One release, `RELEASE` of its module in `weights/releases`.

  Attributes:
    rules: model -> its key table.
    infer: (arrays, what the caller gave, what the files say) -> (name, arguments) of our model.
    ignored: patterns of keys that are left out.
    files: names of the .json files of a folder that are read beside the arrays.
    describe: {name: content} of what lies beside the arrays (a checkpoint's 'cfg', `files`) ->
      what it says of the model.
    renew: arrays -> arrays under the names of the key table.
    fit: (arrays, model) -> arrays of the shapes of the key table, where a release takes those of
      another size too (a table of positions for another length).
    derive: (model, {our path: array}) -> variables that files do not hold, by our paths, made of
      those that they do; the way back leaves them out.
    compose: model -> what `describe` reads, for the way back; None: arrays are all there is.
    encoder_alone: (model, variables) -> the same of the model without its heads of pre-training,
      by the suffix of the file whose loader has no model with them; '' is every file.
    lacks: model -> what the way back does not say of it, '' for nothing.
  """

  rules: Callable[[Any], list[Rule]]
  infer: Callable[[Arrays, Mapping[str, Any], Stated], tuple[str, dict[str, Any]]]
  ignored: Sequence[str] = ()
  files: Sequence[str] = ()
  describe: Callable[[Mapping[str, Any]], Stated] = lambda files: NOTHING
  renew: Callable[[Arrays], Arrays] = lambda arrays: arrays
  fit: Callable[[Arrays, Any], Arrays] = lambda arrays, model: arrays
  derive: Callable[[Any, Mapping[str, Any]], Arrays] = lambda model, flat: {}
  compose: Callable[[Any], dict[str, Any]] | None = None
  encoder_alone: Mapping[str, Callable[[Any, Mapping[str, Any]], tuple[Any, dict[str, Any]]]] = (
    dataclasses.field(default_factory=dict)
  )
  lacks: Callable[[Any], str] = lambda model: ''
