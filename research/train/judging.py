"""A model on held-out clips, judged by a metric of its task (`evals/judges.py`)."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from research.audio import pipeline
from research.audio.clips import Source
from research.errors import InputError
from research.evals.judges import Decodes, Hides, Judge
from research.train import build, sharding


class Judging:
  """Clips, batched once, on which any weights of one model are judged.

  judging = Judging(model, config['data'], rows, judge, mesh)
  judging(variables)                                        # {'accuracy': 0.93}
  """

  def __init__(self, model: Any, data: Mapping[str, Any], rows: Source, judge: Judge, mesh: Mesh):
    """
    Args:
      model: a module that is called with a batch.
      data: `config['data']`: fields, sample rate, clip length, batch size.
      rows: the clips.
      judge: what is kept of each, and what is said of all.
      mesh: the devices.

    Raises:
      InputError: several processes, of which each would see some of the clips.
    """
    if jax.process_count() > 1:
      raise InputError('Tasks are judged in one process: start it on one host.')
    self.rows, self.judge, self.mesh = rows, judge, mesh
    parts = sharding.batch_devices(mesh)
    self.batches = pipeline.eval_batches(
      rows,
      batch_size=-(-min(data['batch_size'], len(rows)) // parts) * parts,
      sample_rate=data['sample_rate'],
      fields=build.fields_for(data, model),
      model=model,
      root=data['root'],
      num_threads=data['num_threads'],
    )

    hidden = judge.HIDDEN if isinstance(judge, Hides) else ()
    self.model = model

    def keep(variables: Any, batch: Mapping[str, jax.Array]) -> Any:
      shown = {name: x for name, x in batch.items() if name not in hidden}
      return judge.keep(model.apply(variables, shown, train=False), batch)

    self._keep = jax.jit(keep, out_shardings=NamedSharding(mesh, PartitionSpec()))

  def kept(self, variables: Any) -> dict[int, Mapping[str, np.ndarray]]:
    """{row: what the judge keeps of it}; rows that cannot be read are left out."""
    found: dict[int, Mapping[str, np.ndarray]] = {}
    for batch in self.batches:
      out = self._keep(variables, sharding.to_devices(batch, self.mesh))
      if isinstance(self.judge, Decodes):
        out = self.judge.decode(self.model, variables, out)
      out = jax.device_get(out)
      for i, (row, valid) in enumerate(zip(batch['index'], batch['valid'])):
        if valid:
          found[int(row)] = self.judge.reduce({name: np.asarray(x[i]) for name, x in out.items()})
    return found

  def __call__(self, variables: Any) -> dict[str, float]:
    """The metrics of all clips."""
    found = self.kept(variables)
    if not found:
      raise InputError(f'None of the {len(self.rows)} clips of {self.rows.name!r} could be read.')
    return self.judge.score(found, self.rows)
