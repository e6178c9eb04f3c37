"""AST and CLAP against transformers: from samples in host memory to embeddings, the same random
weights of the published sizes, each in a process of its own.

Both compute their front-end (transformers in NumPy, ours on the device). AST: the class and
distillation tokens of its last layer, averaged. CLAP: the projected, normalised embedding of clips
of 10 s.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from launch.benchmarks import timing

SECONDS = 10.0
RATES = {'ast': 16_000, 'clap': 48_000}


def _audio(kind: str, batch: int) -> np.ndarray:
  samples = round(SECONDS * RATES[kind])
  return 0.1 * np.random.default_rng(0).standard_normal((batch, samples), np.float32)


def make_ours(folder: str, kind: str, batch: int) -> tuple[Callable[[], Any], Any]:
  """(() -> embeddings, number of parameters)."""
  import jax

  from research import weights

  loaded = weights.load(folder)
  model, variables = cast(Any, loaded.model), jax.device_put(loaded.variables)
  audio = _audio(kind, batch)
  given = {'audio': audio, 'audio_mask': np.ones(audio.shape, bool)}

  @jax.jit
  def embed(variables: Any, given: Any) -> Any:
    if kind == 'clap':
      return model.apply(variables, given, method='embed_clips')['audio_embedding']
    return model.apply(variables, given)['logits']

  def run() -> np.ndarray:
    return np.asarray(embed(variables, given))

  return run, sum(x.size for x in jax.tree.leaves(variables['params']))


def make_theirs(folder: str, kind: str, batch: int) -> tuple[Callable[[], Any], Any]:
  """(() -> embeddings, number of threads) of transformers."""
  import torch
  import transformers as hf

  if kind == 'clap':
    model = cast(Any, hf).ClapModel.from_pretrained(folder).eval()
    extractor: Any = hf.ClapFeatureExtractor.from_pretrained(folder)
  else:
    model = cast(Any, hf).ASTForAudioClassification.from_pretrained(folder).eval()
    extractor = hf.ASTFeatureExtractor.from_pretrained(folder)
  audio = list(_audio(kind, batch))

  def run() -> np.ndarray:
    given = extractor(audio, sampling_rate=RATES[kind], return_tensors='pt')
    with torch.no_grad():
      if kind == 'ast':
        return model(**given).logits.numpy()
      given['is_longer'] = torch.zeros((batch, 1), dtype=torch.bool)
      pooled = model.audio_model(**given).pooler_output
      return torch.nn.functional.normalize(model.audio_projection(pooled), dim=-1).numpy()

  return run, torch.get_num_threads()


def _save(kind: str, folder: Path) -> None:
  """Random weights of the published size, as transformers saves them."""
  import transformers as hf

  if kind == 'clap':
    cast(Any, hf).ClapModel(hf.ClapConfig()).save_pretrained(folder)
    # laion/clap-htsat-unfused.
    extractor = hf.ClapFeatureExtractor(frequency_min=50, truncation='rand_trunc')
    extractor.save_pretrained(folder)
  else:
    config = cast(Any, hf).ASTConfig(num_labels=527)
    cast(Any, hf).ASTForAudioClassification(config).save_pretrained(folder)
    hf.ASTFeatureExtractor().save_pretrained(folder)


def compare_embeddings(folder: Path, batch: int, repeats: int) -> list[dict[str, Any]]:
  """Rows of `timing.compare` of AST base and CLAP (HTSAT-tiny), with the largest difference.

  Args:
    folder: where random weights are written.
    batch: clips of 10 s.
    repeats: rounds.
  """
  rows = []
  for kind in RATES:
    place = folder / kind
    _save(kind, place)
    args: dict[str, Any] = dict(folder=str(place), kind=kind, batch=batch)
    with timing.Worker(make_ours, **args) as ours, timing.Worker(make_theirs, **args) as theirs:
      far = float(np.abs(ours() - theirs()).max())
      seconds = timing.rounds({'oido': ours, 'transformers': theirs}, repeats)
      what = f'{kind}, {batch} x {SECONDS:g} s'
      rows += timing.compare(seconds, 'oido', what=what, max_diff=far, threads=theirs.facts)
  return rows
