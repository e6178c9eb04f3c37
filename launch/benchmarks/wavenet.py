"""Samples of a WaveNet, one after the other, against the same network with rings of inputs in
torch: the same random weights, the likeliest code of every sample, each in a process of its own.

The network is tensorflow-wavenet's (50 layers). Both begin with silence and end with samples in
host memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from launch.benchmarks import timing

CODES, SILENCE = 256, 128
# Samples that the peer makes in a round.
SHORT = 400


def _loaded() -> tuple[Any, Any]:
  """(model, variables)."""
  import jax

  from research import models

  model = models.get('wavenet')(size='ibab')
  batch = {k: np.zeros(x.shape, x.dtype) for k, x in model.example().items()}
  variables = jax.jit(model.init)(jax.random.key(0), batch)
  # Larger than at the beginning, so that codes change from sample to sample.
  return model, jax.tree.map(lambda x: 2.0 * x if x.ndim > 1 else x, variables)


def make_ours(rows: int, samples: int) -> tuple[Callable[[], Any], Any]:
  """(() -> samples [b, t], number of parameters)."""
  import jax

  from research.inference.generators import Request
  from research.inference.generators.sample_by_sample import Generator

  model, variables = _loaded()
  generator = Generator(model, variables, temperature=0.0, batch_size=rows)
  requests = [Request(samples=samples)] * rows

  def run() -> list[np.ndarray]:
    return [x[:SHORT] for x in generator(requests)]

  return run, sum(x.size for x in jax.tree.leaves(variables['params']))


def make_theirs(rows: int, samples: int) -> tuple[Callable[[], Any], Any]:
  """(() -> samples [b, t], number of threads) of torch."""
  import functools

  import jax
  import torch

  from research.features import mu_law

  model, variables = _loaded()
  plain = jax.device_get(functools.partial(model.apply, method='weights')(variables))
  tensor = lambda x: torch.from_numpy(np.array(x, np.float32))  # noqa: E731
  table = tensor(plain['first'][0])
  layers = [
    (dilation, *map(tensor, (own.kernel, own.bias, own.mix, own.mix_bias)))
    for dilation, own in zip(model.dilations, plain['layers'], strict=True)
  ]
  (one, bias), (two, last) = plain['head']
  one, bias, two, last = tensor(one[0]), tensor(bias), tensor(two[0]), tensor(last)
  width, half = table.shape[-1], layers[0][1].shape[1] // 2

  def run() -> list[np.ndarray]:
    with torch.inference_mode():
      rings = [torch.zeros(dilation, rows, width) for dilation, *_ in layers]
      before, code = None, torch.full((rows,), SILENCE)
      made = torch.empty(rows, samples, dtype=torch.long)
      for t in range(samples):
        x = table[1][code]
        if before is not None:
          x = x + table[0][before]
        skips: Any = 0.0
        for ring, (dilation, kernel, own, mix, more) in zip(rings, layers, strict=True):
          place = t % dilation
          seen = torch.cat([ring[place], x], dim=-1)
          ring[place] = x
          z = torch.addmm(own, seen, kernel)
          y = torch.addmm(more, torch.tanh(z[:, :half]) * torch.sigmoid(z[:, half:]), mix)
          x, skips = x + y[:, :width], skips + y[:, width:]
        y = torch.addmm(last, torch.relu(torch.addmm(bias, torch.relu(skips), one)), two)
        before, code = code, y.argmax(dim=-1)
        made[:, t] = code
    return list(np.asarray(mu_law.decode(made.numpy(), CODES, model.mu_law)))

  return run, torch.get_num_threads()


def compare_wavenet(repeats: int, samples: int = 8192) -> list[dict[str, Any]]:
  """Rows of `timing.compare` for one clip and for sixteen; seconds are those of a sample.

  The peer makes `SHORT` samples in a round, oido `samples`. `same` is the fraction of the first
  ones that are equal.

  Args:
    repeats: rounds.
    samples: of a clip.
  """
  rows = []
  for count in (1, 16):
    with (
      timing.Worker(make_ours, rows=count, samples=samples) as ours,
      timing.Worker(make_theirs, rows=count, samples=SHORT) as theirs,
    ):
      same = np.mean(np.isclose(np.array(ours()), np.array(theirs()), atol=1e-6))
      seconds = timing.rounds({'oido': ours, 'torch': theirs}, repeats)
      each = {'oido': samples, 'torch': SHORT}
      seconds = {name: [s / each[name] for s in found] for name, found in seconds.items()}
      rows += timing.compare(
        seconds, 'oido', what=f'wavenet ibab, {count} clips', threads=theirs.facts, same=same
      )
  return rows
