"""Whisper on 30 seconds of noise and tones against transformers: the same random weights, the same
number of tokens, each in a process of its own.

Both start from samples in host memory and end with token ids: log-mel, encoder, decoder with a
cache. Tokens are suppressed alike; the end never comes, so that the lengths are equal.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from launch.benchmarks import timing

RATE, SECONDS = 16000, 30


def noise_and_tones(rows: int, seconds: int) -> np.ndarray:
  """Clips [b, t] at RATE."""
  rng = np.random.default_rng(0)
  t = np.arange(RATE * seconds) / RATE
  tones = np.sin(2 * np.pi * 220 * t) * np.sin(2 * np.pi * 3 * t)
  return (0.2 * tones + 0.05 * rng.standard_normal((rows, len(t)))).astype(np.float32)


def write_random(folder: Path, release: str, model: Any) -> None:
  """Writes random weights of a model as transformers saves them."""
  import jax

  from research.weights import conversion, write

  batch = {k: np.zeros(x.shape, x.dtype) for k, x in model.example().items()}
  variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), batch))
  arrays, files, _ = conversion.revert_files(release, model, variables)
  write.write_release(folder, release, arrays, files)


def make_ours(folder: str, tokens: int, beams: int) -> tuple[Callable[[], Any], Any]:
  """(() -> token ids, number of parameters)."""
  import jax

  from research import weights
  from research.inference.generate import Settings, generate
  from research.inference.generate_rules import Suppress
  from research.inference.whisper_decoding import listen_to_audio

  loaded = weights.load(folder)
  model, variables = loaded.model, jax.device_put(loaded.variables)
  audio = noise_and_tones(1, SECONDS)
  mask = np.ones(audio.shape, bool)
  end = 50256 + int(model.multilingual)
  rules = (Suppress((end,)),)
  settings = Settings(max_tokens=tokens, stop=(end,), beams=beams, rules=rules)

  def run() -> list[int]:
    heard = listen_to_audio(model, variables, audio, mask)
    return generate(model, variables, [[end + 1]], settings, memories=heard.memories).best()[0]

  return run, sum(x.size for x in jax.tree.leaves(variables['params']))


def make_theirs(folder: str, tokens: int, beams: int) -> tuple[Callable[[], Any], Any]:
  """(() -> token ids, number of threads) of transformers."""
  import torch
  from transformers import (
    GenerationMixin,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
  )

  model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
  extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
  audio, end = noise_and_tones(1, SECONDS)[0], model.config.eos_token_id
  start = torch.tensor([[end + 1]])

  def run() -> list[int]:
    mel = extractor(audio, sampling_rate=RATE, return_tensors='pt')['input_features']
    with torch.no_grad():
      # The loop itself: Whisper's own `generate` rules around it, and decodes windows.
      found = GenerationMixin.generate(
        model,
        input_features=mel,
        decoder_input_ids=start,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
      )
    return found[0].tolist()[1:]

  return run, torch.get_num_threads()


def compare_whisper(folder: Path, size: str, tokens: int, repeats: int) -> list[dict[str, Any]]:
  """Rows of `timing.compare`, greedy and with five beams.

  Args:
    folder: where random weights are written as transformers saves them.
    size: of `models.whisper`.
    tokens: written for the window.
    repeats: rounds.
  """
  from research.models.whisper import Whisper

  write_random(folder, 'whisper_hf', Whisper(size=size))
  rows = []
  for beams in (1, 5):
    args: dict[str, Any] = dict(folder=str(folder), tokens=tokens, beams=beams)
    with timing.Worker(make_ours, **args) as ours, timing.Worker(make_theirs, **args) as theirs:
      seconds = timing.rounds({'oido': ours, 'transformers': theirs}, repeats)
      what = f'whisper {size}, 30 s, {tokens} tokens, beams {beams}'
      rows += timing.compare(seconds, 'oido', what=what, threads=theirs.facts)
  return rows
