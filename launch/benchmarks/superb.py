"""SUPERB's keyword spotting and diarization heads on HuBERT base: a step of ours on cached layers
against a step as s3prl makes it, which runs the frozen encoder every time (transformers and torch).

Both take the same batch of random audio; ours reads its layers from memory, as it does from disk.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from launch.benchmarks import timing

RATE, LAYERS, WIDTH, HOP = 16_000, 13, 768, 320
# task -> (clips, seconds of a clip); published micro-batches, diarization with shorter chunks.
TASKS = {'KS': (32, 1.0), 'SD': (8, 10.0)}
CLASSES, SPEAKERS = 12, 2


def _frames(seconds: float) -> int:
  return round(seconds * RATE / HOP)


def make_ours(task: str) -> tuple[Callable[[], float], Any]:
  """(() -> loss, parameters of the head): mix, head, loss, gradients, Adam; these heads have no
  dropout."""
  import jax
  import optax

  from research import models, objectives

  clips, seconds = TASKS[task]
  n = _frames(seconds)
  head, objective = (
    (dict(name='utterance', args=dict(classes=CLASSES)), objectives.get('cross_entropy'))
    if task == 'KS'
    else (dict(name='diarization'), objectives.get('permutation_invariant_bce'))
  )
  args = dict(layers=LAYERS, width=WIDTH, hop=HOP, dtype='float16')
  model = models.get('finetuned')(
    encoder=dict(name='cached_layers', args=args), head=head, layer='mix', freeze=True
  )
  rng = np.random.default_rng(0)
  batch: dict[str, Any] = {
    'layers': rng.standard_normal((clips, n, LAYERS, WIDTH)).astype(np.float16),
    'layers_mask': np.ones((clips, n), bool),
  }
  if task == 'KS':
    batch['label'] = rng.integers(0, CLASSES, clips)
  else:
    batch['label'] = rng.integers(0, 2, (clips, n, SPEAKERS))
    batch['label_mask'] = np.ones((clips, n), bool)
  variables = dict(cast(Any, model.init(jax.random.key(0), batch)))
  params = variables.pop('params')
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-4))

  @jax.jit
  def step(params: Any, state: Any, batch: Any) -> Any:
    def loss(params):
      return objective(model.apply({'params': params, **variables}, batch), batch)[0]

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  carried = [params, optimizer.init(params)]

  def run() -> float:
    carried[0], carried[1], value = step(*carried, batch)
    return float(value)

  return run, sum(x.size for x in jax.tree.leaves(params))


def make_theirs(task: str) -> tuple[Callable[[], float], Any]:
  """(() -> loss, threads) of the same head in torch behind a frozen HuBERT base."""
  import torch
  import transformers

  clips, seconds = TASKS[task]
  upstream = cast(Any, transformers).HubertModel(transformers.HubertConfig()).eval()
  mix = torch.nn.Parameter(torch.zeros(LAYERS))
  rng = np.random.default_rng(0)
  audio = torch.from_numpy(0.1 * rng.standard_normal((clips, round(seconds * RATE)), np.float32))
  layers: list[Any]
  if task == 'KS':
    layers = [torch.nn.Linear(WIDTH, 256), torch.nn.Linear(256, CLASSES)]
    label = torch.from_numpy(rng.integers(0, CLASSES, clips))
  else:
    layers = [torch.nn.LSTM(WIDTH, 512, batch_first=True), torch.nn.Linear(512, SPEAKERS)]
    label = torch.from_numpy(rng.integers(0, 2, (clips, _frames(seconds), SPEAKERS))).float()
  params = [mix, *(p for layer in layers for p in layer.parameters())]
  optimizer = torch.optim.Adam(params, lr=1e-4)
  bce = torch.nn.functional.binary_cross_entropy_with_logits

  def run() -> float:
    with torch.no_grad():
      states = torch.stack(upstream(audio, output_hidden_states=True).hidden_states)
    x = (torch.softmax(mix, 0)[:, None, None, None] * states).sum(0)
    if task == 'KS':
      loss = torch.nn.functional.cross_entropy(layers[1](layers[0](x).mean(1)), label)
    else:
      logits = layers[1](layers[0](x)[0])
      target = label[:, : logits.shape[1]]
      each = [bce(logits, t, reduction='none').mean((1, 2)) for t in (target, target.flip(2))]
      loss = torch.minimum(*each).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()
    return float(loss)

  return run, torch.get_num_threads()


def compare_superb(repeats: int) -> list[dict[str, Any]]:
  """Rows of `timing.compare` of a step of each task."""
  rows = []
  for task, (clips, seconds) in TASKS.items():
    with timing.Worker(make_ours, task=task) as ours, timing.Worker(make_theirs, task=task) as peer:
      times = timing.rounds({'oido': ours, 's3prl-like': peer}, repeats)
      what = f'{task}, HuBERT base, {clips} x {seconds:g} s'
      rows += timing.compare(times, 'oido', what=what, threads=peer.facts)
  return rows
