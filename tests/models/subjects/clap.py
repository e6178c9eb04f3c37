"""CLAP: both kinds of audio towers, text towers and projections."""

import numpy as np

from research.objectives.contrastive import audio_text_contrastive
from tests.contract import MESHES, Subject

TEXT = dict(text_width=16, text_depth=1, text_heads=2, text_hidden=16, vocabulary=40, positions=16)
SMALL = TEXT | dict(dim=8, seconds=0.5, dropout=0.0, drop_path=0.0)
SWIN = dict(audio_width=4, depths=(2, 1, 1, 1), audio_heads=(1, 2, 2, 4))
CONVOLUTIONS = dict(audio_width=8, channels=(4, 4, 4, 4, 4, 8))


def captions(b):
  rng = np.random.default_rng(0)
  ids = rng.integers(4, 40, (b, 8)).astype(np.int32)
  mask = np.arange(8) < rng.integers(2, 9, (b, 1))
  return {'text': np.where(mask, ids, 1), 'text_mask': mask}


def starts(model, b):
  rows = [np.random.default_rng(100 + i) for i in range(b)]
  return {
    'crop_start': np.zeros(b, np.int32),
    'piece_u': np.stack([r.random(3, np.float32) for r in rows]),
  }


def clap(meshes=(), untrained=None, **args):
  return Subject(
    'clap',
    SMALL | args,
    audio_text_contrastive,
    outputs=('audio_embedding', 'embedding'),
    draws=starts,
    extra=captions,
    untrained=untrained or {},
    meshes=meshes,
  )


UNUSED = {
  'logit_scale_t|_transform/': 'only the loss with `transformed` uses them',
  'text_tower/qkv/bias': 'a bias of keys moves no softmax',
}

FUSED = UNUSED | {'fuse/whole/fc[12]/bias': 'a batch norm of the batch takes it away'}

SUBJECTS = {
  # The smallest first: it is tested in every run.
  'clap': clap(
    size='microsoft_2022', audio_width=8, channels=(4, 8), seconds=0.2, untrained=UNUSED
  ),
  'clap, Cnn14 and BERT': clap(
    MESHES[-1:], size='microsoft_2022', **CONVOLUTIONS, untrained=UNUSED
  ),
  'clap, HTSAT and RoBERTa': clap(
    MESHES[-1:], size='laion', transforms=False, untrained=UNUSED, **SWIN
  ),
  'clap, fusion': clap(size='laion', fusion=True, transforms=False, untrained=FUSED, **SWIN),
  'clap, HTSAT and GPT-2': clap(size='microsoft_2023', untrained=UNUSED, **SWIN),
}
