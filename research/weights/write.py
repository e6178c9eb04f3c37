"""Writing files of original weights, see `read` for the way in."""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from research.errors import InputError

# What of a model lies in the file of its weights itself; all else is named as the file it is.
INSIDE = ('cfg', 'task_state', 'dims', 'xp.cfg')
# What lies beside a checkpoint of r9y9/wavenet_vocoder.
HPARAMS = 'hparams.json'


def write_release(
  path: Path, release: str, arrays: Mapping[str, np.ndarray], files: Mapping[str, Any]
) -> Path:
  """Writes original weights with what lies beside them, see `releases.revert_files`.

  Args:
    path: a folder; or a file, .safetensors (the configuration as JSON in its header) or .pt
      (fairseq's checkpoint: {'cfg': plain values, 'model': tensors by name, …}, or that of
      openai/whisper: {'dims': sizes, 'model_state_dict': tensors by name}, or audiocraft's:
      {'xp.cfg': YAML, 'best_state': tensors by name}), or .pth of a release
      that lies beside its hparams.json ({'state_dict': tensors by name, …}). In a folder the files
      beside are written too.
    release: a key of RELEASES.
    arrays: {original key: array}.
    files: {name: content}.

  Returns:
    the file of the weights.

  Raises:
    InputError: a file of another kind; .pt of a release that has no such checkpoints, or without
      torch; a place that cannot be written to.
  """
  inside = {k: v for k, v in files.items() if k in INSIDE}
  beside = {k: v for k, v in files.items() if k not in INSIDE}
  whole = path.suffix in ('.safetensors', '.pt') or (path.suffix == '.pth' and HPARAMS in files)
  if not whole and path.suffix in ('.pth', '.bin', '.ckpt', '.npz'):
    raise InputError(f'{str(path)!r}: give a folder, or a file that ends in .safetensors or .pt.')
  name = 'model.safetensors' if beside else f'{release}.safetensors'
  file = path if whole else path / name
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    # A reader never sees half a file.
    partial = file.with_suffix('.partial')
    if file.suffix in ('.pt', '.pth'):
      _write_torch(file, partial, release, arrays, inside)
    else:
      said = {k: json.dumps(v, ensure_ascii=False) for k, v in inside.items()}
      # safetensors writes wrong data for arrays that are not contiguous; a scalar stays one.
      whole_arrays = {k: np.asarray(x, order='C') for k, x in arrays.items()}
      save_file(whole_arrays, partial, metadata={'format': 'pt', **said})
    os.replace(partial, file)
    if not whole or file.suffix == '.pth':
      for other, content in beside.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (file.parent / other).write_text(text + '\n', encoding='utf-8')
  except OSError as error:
    raise InputError(
      f'Cannot write weights to {str(file)!r}: {error.strerror or error}.'
    ) from error
  return file


def _write_torch(
  file: Path,
  partial: Path,
  release: str,
  arrays: Mapping[str, np.ndarray],
  inside: Mapping[str, Any],
) -> None:
  """A checkpoint as fairseq's and unilm's loaders open it, or openai/whisper's, at `partial`."""
  if file.suffix != '.pth' and not {'cfg', 'dims', 'xp.cfg'} & set(inside):
    raise InputError(
      f'{str(file)!r}: weights of {release} are written as .safetensors; give such a file, or a '
      'folder.'
    )
  if importlib.util.find_spec('torch') is None:
    raise InputError(
      f"{str(file)!r} is a PyTorch file and torch is not installed: pip install -e '.[parity]', "
      'or write a file that ends in .safetensors.'
    )
  import torch

  tensors = {k: torch.from_numpy(np.array(x)) for k, x in arrays.items()}
  if file.suffix == '.pth':
    # r9y9's loader looks these up, unless it is to begin its optimiser anew.
    steps = dict.fromkeys(('global_step', 'global_epoch', 'global_test_step'), 0)
    torch.save({'state_dict': tensors, 'optimizer': None, **steps}, partial)
    return
  if 'dims' in inside:
    torch.save({'dims': dict(inside['dims']), 'model_state_dict': tensors}, partial)
    return
  if 'xp.cfg' in inside:
    import yaml

    text = yaml.safe_dump(inside['xp.cfg'], sort_keys=False)
    about = {'xp.cfg': text, 'version': 'oido', 'exported': True}
    torch.save({'best_state': tensors, **about}, partial)
    return
  # fairseq's loader looks these up, whatever it is asked for.
  history = {'criterion_name': '', 'optimizer_name': '', 'lr_scheduler_state': {}, 'num_updates': 0}
  content = {
    'args': None,
    'cfg': inside['cfg'],
    'model': tensors,
    'optimizer_history': [history],
    'extra_state': {'train_iterator': {'epoch': 1, 'iterations_in_epoch': 0}},
    'task_state': inside.get('task_state', {}),
  }
  torch.save(content, partial)
