"""All of Audio Flamingo 1 or 2 from files: its own, and those of the audio tower it does not
hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import InputError
from research.weights import conversion, detect, read, shards
from research.weights.pretrained import Pretrained

# In a folder of chunks: {name of a chunk: anything}.
CHUNKS = 'metadata.json'


def load_audio_flamingo(
  path: str | Path, clap: str | Path | None = None, release: str | None = None, **args: Any
) -> Pretrained:
  """Audio Flamingo with its audio tower.

  Args:
    path: `foundation.pt` or `chat.pt` of Audio Flamingo, the folder `safe_ckpt` of Audio Flamingo
      2, or any file of the same arrays.
    clap: `clapcap_weights_2023.pth`, or `epoch_16.pt` of Audio Flamingo 2; None where the files
      hold the tower. Where both do, that of `path` counts, as upstream.
    release: 'audio_flamingo' or 'audio_flamingo2', if the keys do not say it.
    **args: of the model, see `weights.convert`: max_clips, max_windows, ….

  Raises:
    InputError: files that cannot be read, that lack a tensor, or that hold no tower.
  """
  own = _arrays(Path(path))
  name = release or detect.release(Path(path), own.keys(), {})
  renew = conversion.get(name).renew
  arrays = dict(renew(own))
  if clap is not None:
    arrays = {**renew(_arrays(Path(clap))), **arrays}
  model, variables = conversion.convert(name, arrays, **args)
  if not getattr(model, 'encoder', False):
    raise InputError(
      f'{str(path)!r} holds no audio tower: give clap=…, the file of the CLAP it was trained with.'
    )
  origin = f'{name} of {path}' + ('' if clap is None else f' and {clap}')
  return Pretrained(name, model, variables, origin)


def _arrays(path: Path) -> dict[str, np.ndarray]:
  if not (path / CHUNKS).is_file():
    return read.read_release(path)[0]
  try:
    names = list(json.loads((path / CHUNKS).read_text(encoding='utf-8')))
  except (OSError, ValueError, TypeError) as error:
    raise InputError(f'{str(path / CHUNKS)!r} cannot be read as JSON ({error}).') from error
  found: dict[str, np.ndarray] = {}
  for name in names:
    if not isinstance(name, str) or Path(name).name != name:
      raise InputError(f'{str(path / CHUNKS)!r} names the chunk {name!r}; expected a plain name.')
    found |= shards.mapped(path / f'{name}.safetensors')
  return found
