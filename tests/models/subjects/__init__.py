"""Subjects of the contract, one file a model: `SUBJECTS` {what it is: Subject}, one of them under
the name of the model; and the draws that several models take.
"""

import importlib
import pkgutil

import numpy as np

SPEECH = dict(size='tiny', channels=24, width=32, depth=2, heads=2, hidden=64, conv_pos_groups=4)


def every():
  """Subjects of all files, by what they are."""
  found = {}
  for each in pkgutil.iter_modules(__path__):
    found |= importlib.import_module(f'{__name__}.{each.name}').SUBJECTS
  return found


def labels(b):
  return {'label': np.random.default_rng(0).integers(0, 2, (b, 5)).astype(np.float32)}


def spans(model, b):
  masks = [np.random.default_rng(100 + i).random(300) < 0.5 for i in range(b)]
  draws = [np.random.default_rng(200 + i).integers(0, 5, (300, 7)) for i in range(b)]
  return {'span_mask': np.stack(masks), 'negative_draws': np.stack(draws).astype(np.int32)}


def masks_and_units(model, b):
  sets = [
    np.stack(
      [np.random.default_rng(500 + 7 * i + j).integers(0, k, 600) for j, k in enumerate(model.sets)]
    )
    for i in range(b)
  ]
  return {
    'span_mask': spans(model, b)['span_mask'],
    'units': np.stack(sets).swapaxes(1, 2).astype(np.int32),
  }


def channel_masks(model, b):
  width = model.upstream.width
  masks = [np.random.default_rng(300 + i).random(width) < 0.2 for i in range(b)]
  return {'span_mask': spans(model, b)['span_mask'], 'channel_mask': np.stack(masks)}


def transcripts(b):
  tokens = np.random.default_rng(0).integers(1, 5, (b, 6)).astype(np.int32)
  tokens[:, 4:] = -1
  return {'tokens': tokens}
