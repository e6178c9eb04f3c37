"""An audio language model against transformers: a Qwen2-Audio with a small language model, the same
random weights, the same number of tokens, each in a process of its own.

Both start from samples in host memory and end with token ids: log-mel, encoder, merged prompt,
decoder with a cache. The end never comes, so that lengths are equal.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from launch.benchmarks import timing
from launch.benchmarks.whisper import RATE, noise_and_tones, write_random

SECONDS, AUDIO, END = 10, 31_990, 31_999
# The encoder is Whisper tiny's, the language model has 74 million parameters.
ARGS = dict(
  audio_width=384, audio_depth=4, audio_heads=6, audio_hidden=1536, text_width=768, text_depth=8,
  text_heads=12, text_kv_heads=4, text_hidden=2048, vocab_size=32_000, max_tokens=2048,
  audio_token=AUDIO,
)  # fmt: skip
WORDS = [11, 12, 13, 14, 15, 16, 17, 18]


def make_ours(folder: str, tokens: int, rows: int) -> tuple[Callable[[], Any], Any]:
  """(() -> token ids, number of parameters)."""
  import jax

  from research import weights
  from research.inference.generate import Settings, generate
  from research.inference.generate_rules import Suppress

  loaded = weights.load(folder)
  model, variables = loaded.model, jax.device_put(loaded.variables)
  audio = noise_and_tones(rows, SECONDS)
  prompt = [*WORDS, *[AUDIO] * model.placeholders(audio.shape[1]), *WORDS]
  batch = {'audio': audio[:, None], 'audio_mask': np.ones((rows, 1, audio.shape[1]), bool)}
  settings = Settings(max_tokens=tokens, stop=(END,), rules=(Suppress((END,)),))
  remember = jax.jit(lambda v, x: model.apply(v, x, method='remember'))

  def run() -> list[list[int]]:
    heard = remember(variables, batch)
    return generate(model, variables, [prompt] * rows, settings, memories=heard).best()

  return run, sum(x.size for x in jax.tree.leaves(variables['params']))


def make_theirs(folder: str, tokens: int, rows: int) -> tuple[Callable[[], Any], Any]:
  """(() -> token ids, number of threads) of transformers."""
  import torch
  from transformers import Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

  model = Qwen2AudioForConditionalGeneration.from_pretrained(folder).eval()
  extractor = WhisperFeatureExtractor(feature_size=128)
  audio = list(noise_and_tones(rows, SECONDS))
  count = RATE * SECONDS // 160 // 4
  ids = torch.tensor([[*WORDS, *[AUDIO] * count, *WORDS]] * rows)

  def run() -> list[list[int]]:
    mel = extractor(
      audio, sampling_rate=RATE, return_tensors='pt', return_attention_mask=True,
      padding='max_length',
    )  # fmt: skip
    with torch.no_grad():
      found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=mel['input_features'],
        feature_attention_mask=mel['attention_mask'],
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        eos_token_id=END,
        pad_token_id=END,
      )
    return found[:, ids.shape[1] :].tolist()

  return run, torch.get_num_threads()


def compare_chat(folder: Path, tokens: int, repeats: int) -> list[dict[str, Any]]:
  """Rows of `timing.compare` for one question and for eight.

  Args:
    folder: where random weights are written as transformers saves them.
    tokens: of an answer.
    repeats: rounds.

  Each row also says which fraction of the tokens is `same`.
  """
  from research import models

  write_random(folder, 'qwen2_audio', models.get('qwen2_audio')(**ARGS))
  rows = []
  for count in (1, 8):
    args: dict[str, Any] = dict(folder=str(folder), tokens=tokens, rows=count)
    with timing.Worker(make_ours, **args) as ours, timing.Worker(make_theirs, **args) as theirs:
      written = ours(), theirs()
      same = np.mean(np.array(written[0]) == np.array(written[1]))
      seconds = timing.rounds({'oido': ours, 'transformers': theirs}, repeats)
      what = f'{count} questions of {SECONDS} s, {tokens} tokens'
      rows += timing.compare(
        seconds, 'oido', what=what, threads=theirs.facts, parameters=ours.facts, same=same
      )
  return rows
