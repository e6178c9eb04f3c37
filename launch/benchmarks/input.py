"""Clips per second of the input pipeline and of torch's DataLoader on the same FLAC files."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from launch.benchmarks import timing
from research.audio import pipeline, prepare, sources

RATE, SECONDS, BATCH = 16_000, 10.0, 8


def _write_clips(folder: Path, clips: int) -> list[Path]:
  """Writes FLAC files of 10 s from the built-in corpus, which compresses like real data."""
  import soundfile

  from research.audio import decode

  corpus = sources.open_source('builtin')
  rng = np.random.default_rng(0)
  samples = int(RATE * SECONDS)
  pool = [decode.decode(corpus[i], sample_rate=RATE) for i in range(0, len(corpus), 4)]
  paths = []
  for n in range(clips):
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < samples:
      parts.append(pool[rng.integers(len(pool))])
    path = folder / f'{n:05d}.flac'
    soundfile.write(path, np.concatenate(parts)[:samples], RATE, subtype='PCM_16')
    paths.append(path)
  return paths


def _torch_run(paths: list[Path], workers: int) -> Any:
  import soundfile
  import torch

  class Clips(torch.utils.data.Dataset):
    def __len__(self):
      return len(paths)

    def __getitem__(self, i):
      audio, _ = soundfile.read(paths[i], dtype='float32')
      return torch.from_numpy(audio)

  loader = torch.utils.data.DataLoader(
    Clips(), batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True,
    persistent_workers=workers > 0,
  )  # fmt: skip

  def run():
    for batch in loader:
      batch.numpy()

  return run


def _our_run(spec: Any, clips: int, threads: int) -> Any:
  source = sources.open_source(spec)

  def run():
    iterator = iter(
      pipeline.train_batches(
        source, batch_size=BATCH, sample_rate=RATE, seconds=SECONDS, num_threads=threads
      )
    )
    for _ in range(clips // BATCH):
      next(iterator)

  return run


def compare_input(clips: int = 400, threads: int = 2, repeats: int = 5) -> list[dict[str, Any]]:
  """Rows for FLAC and for prepared ArrayRecord, each against a DataLoader on FLAC.

  One epoch of `clips` clips of 10 s at 16 kHz in batches of 8. The DataLoader has `threads` workers
  and keeps them between epochs.
  """
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary) / 'flac'
    folder.mkdir()
    paths = _write_clips(folder, clips)
    prepared = Path(temporary) / 'prepared'
    source, settings = sources.open_source(str(folder)), prepare.Settings(sample_rate=RATE)
    count = prepare.shard_count(source, settings, 256.0)
    prepare.prepare(source, prepared, count=count, settings=settings)
    peer = f'torch DataLoader, {threads} workers, FLAC'
    runs = {
      peer: _torch_run(paths, threads),
      'oido, FLAC': _our_run(str(folder), clips, threads),
      'oido, ArrayRecord': _our_run(
        dict(name='array_record', args=dict(path=str(prepared))), clips, threads
      ),
    }
    seconds = timing.rounds(runs, repeats)
  rows = []
  for ours in ('oido, FLAC', 'oido, ArrayRecord'):
    for row in timing.compare({peer: seconds[peer], ours: seconds[ours]}, ours):
      rows.append({**row, 'ours_clips_per_second': clips / row['ours_seconds'],
                   'peer_clips_per_second': clips / row['peer_seconds']})  # fmt: skip
  return rows
