"""Shards prepared by an Apache Beam pipeline, on any of its runners; needs the [beam] extra.

An element of the pipeline is a part of the preparation (`prepare.prepare`), which a runner may
start several times: finished shards are kept. All workers see the source and `out` on one disk.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from research.audio import prepare, shards
from research.audio.sources import Spec, open_source
from research.errors import InputError

INSTALL = "pip install 'oido[beam]'"


def run(
  spec: Spec,
  out: str | os.PathLike,
  *,
  count: int,
  settings: prepare.Settings,
  parts: int,
  split: str | None = None,
  root: str | None = None,
  max_bad_fraction: float = 0.01,
  options: Sequence[str] = (),
) -> dict[str, Any]:
  """Writes `count` shards and their index into `out`, as `prepare.prepare`; returns index.json.

  Args:
    spec: the source, see `sources.open_source`; as are `split` and `root`.
    out: folder for the shards.
    count: how many shards.
    settings: encoding and sample rate.
    parts: elements of the pipeline, `count` at most.
    split: only this split.
    root: folder of named data sets.
    max_bad_fraction: of the clips.
    options: flags of Beam, as '--runner=FlinkRunner'; without any, it runs in this process.

  Raises:
    InputError: Apache Beam is not installed, or the pipeline ended without an index.
  """
  try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError:
    raise InputError(f'A Beam pipeline needs Apache Beam, not installed: {INSTALL}.') from None
  numbers = [(i, min(parts, count)) for i in range(min(parts, count))]
  how = dict(
    spec=spec, out=os.fspath(out), count=count, settings=settings, split=split, root=root,
    max_bad_fraction=max_bad_fraction,
  )  # fmt: skip
  with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
    made = pipeline | 'Parts' >> beam.Create(numbers) | 'Spread' >> beam.Reshuffle()
    made | 'Prepare' >> beam.Map(part, **how)
  return shards.read_index(pathlib.Path(out))


def part(
  number: tuple[int, int],
  spec: Spec,
  out: str,
  count: int,
  settings: prepare.Settings,
  split: str | None,
  root: str | None,
  max_bad_fraction: float,
) -> None:
  """Writes the shards of one part, on a worker."""
  prepare.prepare(
    open_source(spec, split=split, root=root),
    out,
    count=count,
    settings=settings,
    max_bad_fraction=max_bad_fraction,
    part=number,
  )
