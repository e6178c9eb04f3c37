"""A head on any encoder, in training and after it: CTC on wav2vec 2.0, classes on AudioMAE, …

  config.model = dict(name='finetuned', args=dict(
    encoder=dict(name='wav2vec2', args=dict(size='base')),
    head=dict(name='ctc', args=dict(vocabulary=['_', 'a', 'b'], blank=0)),
    layer='output', freeze_updates=10_000))

Encoder, head and this module share one tree of parameters: those of the encoder have the names that
they have in pre-training, so that its weights fit. Heads of pre-training are not in it.
Letters: b batch, t samples, n tokens, d width, l layers.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float

from research import models
from research.capabilities import (
  Borrows,
  Embedding,
  Example,
  Freezes,
  GivesHiddenStates,
  mixes_rows,
)
from research.errors import InputError, unknown
from research.models import heads, settings, waveform
from research.nn import layers, pooling

AnyArray = jax.Array | np.ndarray
LAYERS = ('output', 'mix')
HEAD = 'head_'  # before an argument of the head that the encoder has too


class Finetuned(nn.Module):
  """An encoder and a head.

  Attributes:
    encoder: dict(name=…, args={…}) of a model that encodes (`capabilities.Encodes`). What `args`
      leaves out is as the encoder's FINETUNING says, then as in its pre-training.
    head: dict(name=…, args={…}) of `models/heads`; None: the encoder alone.
    layer: what the head sees: the encoder's 'output'; one layer by its number (0 is the input of
      the first one, negative from the end); or 'mix', the sum of all layers by learned weights
      behind a softmax (s3prl's Featurizer, arXiv 2105.01051).
    normalize_layers: every layer of the mix is layer-normed first, without scale and bias (the
      featurizer's `normalize`; SUPERB's public board is without).
    freeze: the encoder is not trained at all: it computes as in evaluation, no gradient enters it
      and no weight decay.
    freeze_updates: for N updates only the head learns; the encoder's masks and dropout act
      all the same (fairseq's freeze_finetune_updates).

  Both specifications become complete: two models with the same parts are equal.
  """

  # Arguments that describe modules, and who knows their classes.
  PARTS: ClassVar[Mapping[str, Callable[[str], type]]] = {
    'encoder': models.get,
    'head': heads.get,
  }
  TRAINING: ClassVar[tuple[str, ...]] = ('freeze', 'freeze_updates')

  encoder: Any
  head: Any = None
  layer: str | int = 'output'
  normalize_layers: bool = False
  freeze: bool = False
  freeze_updates: int = 0

  def __post_init__(self):
    head = None
    if self.head is not None:
      head = _spec(self.head, _built(heads.get, 'head', self.head, {}))
    args = {} if head is None else _make(heads.get, head).encoder_args
    upstream = _built(models.get, 'encoder', self.encoder, args)
    object.__setattr__(self, 'head', head)
    object.__setattr__(self, 'encoder', _spec(self.encoder, upstream))
    if isinstance(self.layer, str) and re.fullmatch(r'-?\d+', self.layer):
      object.__setattr__(self, 'layer', int(self.layer))  # a command line has texts
    if not isinstance(self.layer, int) and self.layer not in LAYERS:
      raise unknown('layer of finetuned', self.layer, (*LAYERS, 'the number of a layer'))
    if self.layer != 'output' and head is None:
      raise InputError(f'finetuned got layer={self.layer!r} and no head that it would be for.')
    if self.normalize_layers and self.layer != 'mix':
      raise InputError(
        f"finetuned got normalize_layers=True and layer={self.layer!r}: it is of layer='mix'."
      )
    if self.freeze_updates < 0 or (self.freeze and self.freeze_updates):
      raise InputError(
        f'finetuned got freeze={self.freeze} and freeze_updates={self.freeze_updates}: the second '
        'is the number of updates for which an encoder that is not frozen waits, 0 or more.'
      )
    super().__post_init__()

  # -- What it declares --------------------------------------------------------------------------

  @property
  def upstream(self) -> Any:
    """The encoder, unbound."""
    return _make(models.get, self.encoder)

  @property
  def top(self) -> Any:
    """The head, unbound; None where there is none."""
    return None if self.head is None else _make(heads.get, self.head)

  @property
  def frontend(self) -> Any:
    """That of the encoder."""
    return self.upstream.frontend

  @property
  def dtype(self) -> str:
    """What the encoder computes in."""
    return self.upstream.dtype

  @property
  def EMBEDDING(self) -> Embedding:
    """That of the encoder."""
    return self.upstream.EMBEDDING

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """Symbols that the logits are of; empty where the head has none."""
    return self.head['args'].get('vocabulary', ()) if self.head else ()

  @property
  def classes(self) -> int:
    """Number of classes that the logits are of; 0 where the head has none."""
    return self.head['args'].get('classes', 0) if self.head else 0

  @property
  def labels(self) -> tuple[str, ...]:
    """Names of the classes; empty where they are not known."""
    return self.head['args'].get('labels', ()) if self.head else ()

  @property
  def blank(self) -> int:
    """Index of CTC's blank."""
    return self.head['args'].get('blank', 0) if self.head else 0

  @property
  def frame_speakers(self) -> int:
    """Speakers of the logits of every frame; 0 where the head has none."""
    return getattr(self.top, 'frame_speakers', 0)

  @property
  def speaker_width(self) -> int:
    """Width of the vectors of speakers; 0 where the head has none."""
    return getattr(self.top, 'speaker_width', 0)

  @property
  def speaker_frames(self) -> int:
    """Tokens that such a vector needs."""
    return getattr(self.top, 'speaker_frames', 1)

  @property
  def signals(self) -> int:
    """Signals that the masks are of; 0 where the head has none."""
    return self.head['args'].get('signals', 0) if self.head else 0

  @property
  def mask_hop(self) -> int:
    """Samples between frames of the masked spectrogram; 0 where there is none."""
    return self.head['args'].get('hop', 0) if self.signals else 0

  @property
  def borrowed(self) -> Mapping[str, Mapping[str, Any]]:
    """What weights of the encoder must have been trained with: see `train/warm_start.py`."""
    return self.upstream.borrowed if isinstance(self.upstream, Borrows) else {}

  @property
  def frozen(self) -> tuple[str, ...]:
    """Patterns of the parameters that never learn."""
    if self.freeze:
      learn = '|'.join(('layer_mix', *(() if self.head is None else self.top.PARAMETERS)))
      return (rf'^(?!({learn})(/|$))',)
    return tuple(self.upstream.frozen) if isinstance(self.upstream, Freezes) else ()

  @property
  def MIXES_ROWS(self) -> bool:
    """Whether the encoder does, where it is trained."""
    return mixes_rows(self.upstream) and not self.freeze

  def example(self) -> Example:
    """The smallest batch of the encoder."""
    return self.upstream.example()

  # -- Computation -------------------------------------------------------------------------------

  def setup(self):
    # Names that no encoder has.
    self.shared_encoder = self.upstream
    nn.share_scope(self, self.shared_encoder)
    if self.head is not None:
      self.shared_head = self.top
      nn.share_scope(self, self.shared_head)
    self.updates = layers.count_updates(self)

  @nn.compact
  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Encodes a batch, and what the head makes of it.

    Args:
      batch: as the encoder takes it; its draws may be given.
      train: masks and dropout act, those of the encoder unless it is frozen.

    Returns:
      what the encoder gives ('tokens' [b, n, d], 'frame_mask' [b, n], …), 'embedding' [b, d]: mean
      of the real tokens, and what the head gives ('logits', …).
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    collect = self.layer != 'output'
    encoded = self.shared_encoder.hidden_states(batch, train and not self.freeze, collect)
    updates = layers.next_update(self, self.updates, train)
    if self.freeze:
      encoded = jax.lax.stop_gradient(encoded)
    elif self.freeze_updates:
      waits = updates < self.freeze_updates
      encoded = jax.tree.map(lambda x: jnp.where(waits, jax.lax.stop_gradient(x), x), encoded)
    tokens, real = encoded['tokens'].astype(jnp.float32), encoded['frame_mask']
    out = {**encoded, 'embedding': waveform.mean_frames(tokens, real)}
    if self.head is None:
      return out
    if collect:
      if 'layers' not in encoded:
        raise InputError(
          f'{self.encoder["name"]} gives no layers: layer={self.layer!r} needs them.'
        )
      tokens = self._layer(encoded['layers'])
    before = set(self.variables.get('params', {}))
    found = self.shared_head(tokens, real, {**encoded, 'batch': batch}, train)
    if not isinstance(found, Mapping):
      raise InputError(
        f'Head {self.head["name"]} gave {type(found).__name__}; expected a dict of named outputs.'
      )
    undeclared = set(self.variables.get('params', {})) - before - set(self.top.PARAMETERS)
    if undeclared:
      raise InputError(
        f'Head {self.head["name"]} has parameters that its PARAMETERS do not name: '
        f'{", ".join(sorted(undeclared))}.'
      )
    return {**out, **found}

  def _layer(self, states: Float[Array, 'l b n d']) -> Float[Array, 'b n d']:
    count = len(states)
    if self.layer == 'mix':
      weights = self.param('layer_mix', nn.initializers.zeros_init(), (count,))
      return pooling.mix_layers(states, weights, self.normalize_layers)
    if not -count <= int(self.layer) < count:
      raise InputError(f'finetuned got layer={self.layer}; the encoder has {count}, from 0 up.')
    return states[int(self.layer)].astype(jnp.float32)

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Every layer's tokens, as the encoder alone gives them."""
    return self.shared_encoder.embed(audio, audio_mask)


# -- Specifications --------------------------------------------------------------------------------


@functools.cache
def _make(get: Callable[[str], type], spec: FrozenDict) -> nn.Module:
  """The module of a complete specification, in no scope."""
  return get(spec['name'])(**settings.thawed(spec['args']), parent=None)


def _spec(given: Mapping[str, Any], module: nn.Module) -> FrozenDict:
  """The complete specification of a module."""
  return settings.frozen({'name': given['name'], 'args': settings.arguments(module)})


def _built(get: Callable[[str], type], what: str, spec: Any, under: Mapping[str, Any]) -> nn.Module:
  """The module of a specification as it was given.

  Args:
    get: finds its class.
    what: the argument's name, for messages.
    spec: dict(name=…, args={…}).
    under: arguments that it has under a head, where it knows them.
  """
  if not isinstance(spec, Mapping) or 'name' not in spec or set(spec) - {'name', 'args'}:
    raise InputError(
      f"finetuned got {what}={spec!r}; expected a specification, dict(name='…', args={{…}})."
    )
  cls: Any = get(spec['name'])
  if what == 'encoder' and not issubclass(cls, GivesHiddenStates):
    raise InputError(f'{spec["name"]} cannot stand under a head: it gives no hidden states.')
  if what == 'encoder' and not hasattr(cls, 'FINETUNING'):
    raise InputError(
      f'{spec["name"]} cannot stand under a head: it does not declare FINETUNING, the arguments '
      'that it has there ({} for none; see capabilities.Encodes).'
    )
  usual = cls.FINETUNING if what == 'encoder' else {}
  known = settings.argument_names(cls)
  given = settings.thawed(spec.get('args') or {})
  for key in given:
    if key not in known:
      raise unknown(f'argument of {what} {spec["name"]}', key, known)
  try:
    return cls(**{**usual, **{k: v for k, v in under.items() if k in known}, **given}, parent=None)
  except TypeError as error:
    raise InputError(f'{what} {spec["name"]}: {error}.') from error


def encoder_of(model: Any) -> Any:
  """The encoder of a model with a head, unbound; any other model itself."""
  return model.upstream if isinstance(model, Finetuned) else model


def encoder_place(model: Any) -> str:
  """Where a config has the arguments of a model, or of the encoder of one with a head."""
  return 'model.args.encoder.args' if isinstance(model, Finetuned) else 'model.args'


def replaced(model: nn.Module, **changes: Any) -> nn.Module:
  """The same model with other arguments, its own or those of its parts (see `route`)."""
  if isinstance(model, Finetuned):
    return Finetuned(**route(settings.arguments(model), changes))
  return model.clone(**changes)


def flat_arguments(model: Any) -> dict[str, Any]:
  """Arguments of a model and of its parts in one dict, as `route` takes them."""
  args = settings.arguments(model)
  if not isinstance(model, Finetuned):
    return args
  parts = {name: dict((args.pop(name) or {}).get('args', {})) for name in Finetuned.PARTS}
  both = set(parts['encoder']) & set(parts['head'])
  head = {HEAD + k if k in both else k: v for k, v in parts['head'].items()}
  return {**parts['encoder'], **head, **args}


def route(args: Mapping[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
  """Arguments of `Finetuned` with flat ones put in the place that has them.

  An argument is one of `Finetuned`, else of the encoder, else of the head; head_dropout is the
  head's dropout where the encoder has one too.

  Args:
    args: 'encoder' and 'head', names and perhaps arguments of both; others.
    flat: {argument: value}.

  Raises:
    InputError: an argument that none of them has.
  """
  own = settings.argument_names(Finetuned) - set(Finetuned.PARTS)
  parts = {name: dict(args[name]) for name in Finetuned.PARTS if args.get(name)}
  known = {
    name: settings.argument_names(Finetuned.PARTS[name](spec['name']))
    for name, spec in parts.items()
  }
  routed = {**args, **{name: {**spec, 'args': dict(spec.get('args') or {})} for name, spec in
                       parts.items()}}  # fmt: skip
  for key, value in flat.items():
    short = key.removeprefix(HEAD)
    if key in own:
      routed[key] = value
    elif key in known['encoder']:
      routed['encoder']['args'][key] = value
    elif short in known.get('head', ()):
      routed['head']['args'][short] = value
    else:
      raise unknown('argument of model finetuned', key, own.union(*known.values()))
  return routed
