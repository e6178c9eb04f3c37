"""Audio Flamingo: windows that overlap, gates that are open."""

import numpy as np

from research.objectives.autoregressive import answer_tokens
from tests.contract import MESHES, Subject

SMALL = dict(
  size='tiny', clap_width=4, clap_depths=(1, 1), clap_heads=(1, 2), seconds=0.1, hop_seconds=0.05,
  max_windows=3, max_clips=2, audio_width=16, audio_depth=1, audio_heads=2, audio_hidden=24,
  gate_heads=2, gate_head_dim=4, gate_mult=2, gate_init=0.5, text_width=16, text_depth=2,
  text_heads=4, text_kv_heads=4, text_hidden=24, vocab_size=32, audio_token=30,
)  # fmt: skip


def prompts(b):
  """Prompts of a text, a placeholder, more text and an answer, of several paddings."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 20, (b, 10)).astype(np.int32)
  tokens[:, 3] = 30
  answer = np.zeros(tokens.shape, bool)
  answer[:, 6:9] = True
  tokens[:, 9], tokens[::2, :2] = -1, -1
  return {'tokens': tokens, 'answer_mask': answer}


def subject(name, meshes=(), **args):
  return Subject(
    name,
    SMALL | args,
    answer_tokens,
    outputs=('logits',),
    framed={'audio_vectors': 'vector_mask'},
    extra=prompts,
    untrained={'^clap_': 'frozen: tests/models/audio_flamingo_test.py'},
    meshes=meshes,
  )


SUBJECTS = {'audio_flamingo': subject('audio_flamingo', MESHES[-1:])}
