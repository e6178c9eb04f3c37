"""A resumable job over the clips of a source: each goes through an embedder, and what is kept of it
lies in parts until all clips are there (`research/jobs/parts.py`)."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from research import distributed
from research.audio.bad_files import BadFiles
from research.inference.embedder import Embedder
from research.inference.stream import BATCH_SECONDS, TOO_SHORT, Embedded, plan, stream, too_long
from research.jobs.parts import PART_SECONDS, Job, Parts, key

# A part also has these, of its batches: `counts` of `rows`, the clips that could be embedded; and
# the clips that could not.
_CLIPS = ('rows', 'counts', 'too_short', 'failed', 'reasons')

T = TypeVar('T')


class ClipJob:
  """The clips of a source through an embedder, each with `counts` tokens in the end.

  Attributes:
    parts: the finished batches.
    resumed: clips that were done before.
    counts: int [clips], tokens of every clip (1 if pooled), -1 where it has none.
    reasons: {row: why it has none}, in the order of the source. Both are there when `finish` is
      called.
  """

  def __init__(
    self,
    embedder: Embedder,
    source: Any,
    out: str | os.PathLike,
    settings: Mapping[str, Any],
    *,
    layers: Sequence[int],
    pool: str,
    seconds: float | None = None,
    batch_seconds: float = BATCH_SECONDS,
    bad_files: str | os.PathLike | None = None,
    max_bad_fraction: float = 0.5,
    part_seconds: float = PART_SECONDS,
    worker: tuple[int, int] = (0, 1),
  ):
    """
    Args:
      embedder: the system.
      source: clips.
      out: the file or folder that is written in the end; parts lie in `<out>.parts`.
      settings: what else the result depends on, JSON-able.
      layers, pool, seconds, batch_seconds: as in `stream`.
      bad_files: the list of clips that could not be used; in the folder of parts if None.
      max_bad_fraction: fraction of unreadable clips above which it stops.
      part_seconds: age at which a part is written.
      worker: (index, count) of the independent runs that divide the clips.
    """
    self.embedder, self.source = embedder, source
    self.how: dict[str, Any] = dict(layers=layers, pool=pool, seconds=seconds)
    self.batches = plan(embedder, source, seconds=seconds, batch_seconds=batch_seconds)
    self.parts = Parts(out, dict(settings, source=source.fingerprint()))
    listed = self.parts.folder / 'bad_files.jsonl' if bad_files is None else Path(bad_files)
    self._bad = functools.partial(
      BadFiles,
      listed,
      max_bad_fraction,
      total=len(source),
      process=distributed.process()[0] or worker[0],
    )
    self.job = Job(
      self.parts,
      [key(batch.rows.astype(np.int64), batch.samples) for batch in self.batches],
      [int((batch.rows >= 0).sum()) for batch in self.batches],
      out=out,
      process=distributed.process(),
      worker=worker,
      part_seconds=part_seconds,
    )
    self.counts = np.full(len(source), -1, np.int64)
    self.reasons: dict[int, str] = {}

  @property
  def resumed(self) -> int:
    return self.job.resumed

  def run(
    self,
    keep: Callable[[Embedded], Mapping[str, np.ndarray]],
    finish: Callable[[], T],
    text: str | None,
  ) -> T | None:
    """Embeds all clips, then finishes; on all processes at once.

    Args:
      keep: what is kept of a batch: `counts` [b] of its `rows`, and arrays [sum of counts, ...].
      finish: makes the whole; called on the first process.
      text: what a progress bar says.

    Returns:
      what `finish` returns; None on the other processes.
    """

    def work(numbers: list[int]) -> Iterator[dict[str, np.ndarray]]:
      bad = self._bad()
      batches = [self.batches[i] for i in numbers]
      for chunk in stream(self.embedder, self.source, batches=batches, bad_files=bad, **self.how):
        said = dict(bad.items()) if len(chunk.failed) else {}
        reasons = [said.get(self.source.id(i), 'could not be read') for i in chunk.failed]
        yield {
          **keep(chunk),
          'rows': chunk.rows,
          'too_short': chunk.too_short,
          'failed': chunk.failed,
          'reasons': np.array(reasons, dtype=str),
        }

    def look_and_finish() -> T:
      self._look()
      return finish()

    return self.job.run(work, look_and_finish, text)

  def _look(self) -> None:
    found = too_long(self.embedder, self.source, self.how['seconds'])
    for arrays in self.parts.read(self.job.keys, only=_CLIPS):
      self.counts[arrays['rows']] = arrays['counts']
      found |= dict.fromkeys(arrays['too_short'].tolist(), TOO_SHORT)
      found |= dict(zip(arrays['failed'].tolist(), arrays['reasons'].tolist()))
    self.reasons = dict(sorted(found.items()))

  def skipped(self) -> dict[str, str]:
    """{id: why it is left out}, in the order of the source."""
    return {self.source.id(row): reason for row, reason in self.reasons.items()}

  def first_reason(self) -> str:
    """Why the first clip that was left out was."""
    return next(iter(self.reasons.values()), 'there is none').rstrip('.')

  def each(self) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of every part, and its `rows` and `counts`."""
    return self.parts.read(self.job.keys)

  def joined(self, *names: str) -> tuple[Int[np.ndarray, 'n'], dict[str, np.ndarray]]:
    """(offsets of the clips that have tokens, arrays on disk with all tokens in the order of the
    source): memory holds one part at a time."""
    rows = np.flatnonzero(self.counts >= 0)
    offsets = np.concatenate([[0], np.cumsum(self.counts[rows])])
    place = np.full(len(self.counts), -1, np.int64)
    place[rows] = offsets[:-1]
    found: dict[str, np.ndarray] = {}
    for arrays in self.each():
      # Where each token goes: its clip's place, and its number within the clip.
      counts, total = arrays['counts'], int(arrays['counts'].sum())
      start = np.repeat(place[arrays['rows']], counts)
      within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
      for name in names:
        loaded = arrays[name]
        if name not in found:
          file = self.parts.folder / f'joined_{name}.npy'
          shape = (int(offsets[-1]), *loaded.shape[1:])
          found[name] = np.lib.format.open_memmap(file, 'w+', loaded.dtype, shape)
        found[name][start + within] = loaded
    return offsets, found

  def remove(self) -> None:
    """Deletes the parts: what is made of them is written."""
    self.parts.remove()
