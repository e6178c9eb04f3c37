"""Seconds from the command to the end of the first training step, with a cold and a warm
compilation cache."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONFIG = 'experiments/audio_mae/builtin_tiny.py'


def _first_step(cache: str, config: str) -> float:
  with tempfile.TemporaryDirectory() as workdir:
    command = [
      sys.executable, '-m', 'launch.train', f'--config={config}', f'--workdir={workdir}/run',
      f'--compilation_cache={cache}', '--config.log_every=1', '--config.total_steps=100000',
      '--config.evals={}',
    ]  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = Path(workdir) / 'run' / 'metrics.jsonl'
    try:
      while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None:
          raise RuntimeError(f'{" ".join(command)} ended with code {process.returncode}')
        time.sleep(0.02)
      return time.perf_counter() - start
    finally:
      process.terminate()
      process.wait()


def compare_startup(repeats: int = 3, config: str = CONFIG) -> list[dict[str, Any]]:
  """[{cold_seconds, warm_seconds, ratio}] of the start of `config`: medians of `repeats` starts."""
  cold, warm = [], []
  for _ in range(repeats):
    with tempfile.TemporaryDirectory() as cache:
      cold.append(_first_step(cache, config))
      warm.append(_first_step(cache, config))
  return [
    {
      'config': config,
      'cold_seconds': statistics.median(cold),
      'warm_seconds': statistics.median(warm),
      'ratio': statistics.median(cold) / statistics.median(warm),
    }
  ]
