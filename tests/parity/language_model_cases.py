"""Language models of golden cases: built from their configuration, converted by their key table."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from research.models.language_decoder import KINDS, LanguageModel
from research.nn.positions import Rotary
from research.weights import tables
from research.weights.families import language_models


class Alone(nn.Module):
  """A language model whose batches are ids and their mask, of the figures of a case.

  `args` are those of `LanguageModel`, `kind` is a style of `families.language_models`.
  """

  TITLE: ClassVar[str] = 'a language model'

  kind: str
  args: Any

  def setup(self):
    self.language_model = LanguageModel(**self.args)

  @property
  def text_depth(self):
    return self.args['depth']

  @property
  def text_heads(self):
    return self.args['heads']

  @property
  def text_kv_heads(self):
    return self.args.get('kv_heads') or self.text_heads

  def example(self):
    return jnp.zeros((1, 1), jnp.int32)

  def __call__(self, ids, real=None, kept=None, **how):
    ids, real = (None if x is None else jnp.asarray(x) for x in (ids, real))
    out, kept = self.language_model(self.language_model.words(ids), real, kept, **how)
    return out if kept is None else (out, kept)

  def start(self, rows, slots):
    return LanguageModel(**self.args, parent=None).start(rows, slots)

  def rules(self):
    tied = self.args.get('tied', False)
    return language_models.rules(self.kind, tied=tied)


def figures(kind: str, model: dict) -> dict[str, Any]:
  """Arguments of `LanguageModel`, of a configuration in the names of its library."""
  if kind == 'opt':
    own = dict(
      hidden=model['ffn_dim'],
      positions=model['max_position_embeddings'],
      tied=model['tie_word_embeddings'],
    )
  elif kind == 'qwen':
    own = dict(
      hidden=model['intermediate_size'] // 2,
      head_dim=model['kv_channels'],
      epsilon=model['layer_norm_epsilon'],
      rotary=Rotary(float(model['rotary_emb_base'])),
      trained_length=model['seq_length'],
      dynamic_ntk=model['use_dynamic_ntk'],
      logn=model['use_logn_attn'],
      count_padding=True,
    )
  else:
    own = dict(
      hidden=model['intermediate_size'],
      kv_heads=model['num_key_value_heads'],
      epsilon=model['rms_norm_eps'],
      rotary=Rotary(float(model['rope_parameters']['rope_theta'])),
      tied=model['tie_word_embeddings'],
    )
  return {
    **KINDS[kind],
    'vocabulary': model['vocab_size'],
    'width': model['hidden_size'],
    'depth': model['num_hidden_layers'],
    'heads': model['num_attention_heads'],
    **own,
  }


def made(kind: str, model: dict, weights, **changes):
  """(model, variables) of a case."""
  alone = Alone(kind, FrozenDict({**figures(kind, model), **changes}))
  return alone, tables.to_ours(alone.rules(), alone, weights, ())


def theirs(alone, gradients):
  """Gradients by original keys."""
  return tables.to_theirs(alone.rules(), alone, {'params': gradients['params']})


def mean_loss(logits, labels):
  """Mean cross entropy of labels [b, u], each predicted by the token before; negative: none."""
  want = jnp.asarray(labels[:, 1:])
  chosen = jnp.take_along_axis(
    jax.nn.log_softmax(logits[:, :-1]), jnp.maximum(want, 0)[..., None], axis=2
  )[..., 0]
  counted = (want >= 0).astype(jnp.float32)
  return -(chosen * counted).sum() / counted.sum()


def step_greedily(step, state, logits, count):
  """Greedy tokens [b, n] and the logits [b, n, v] that gave them."""
  tokens, seen = [], []
  for i in range(count):
    seen.append(np.asarray(logits))
    tokens.append(seen[-1].argmax(axis=-1))
    if i + 1 < count:
      logits, state = step(tokens[-1][:, None].astype(np.int32), state)
  return np.stack(tokens, axis=1), np.stack(seen, axis=1)
