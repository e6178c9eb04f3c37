"""Qwen2-Audio, two clips among the tokens of a prompt, in fine-tuning."""

import numpy as np

from research.objectives.autoregressive import answer_tokens
from tests.contract import MESHES, Subject

SMALL = dict(
  size='tiny', audio_width=16, audio_depth=1, audio_heads=2, audio_hidden=24, n_audio_ctx=32,
  text_width=16, text_depth=1, text_heads=4, text_kv_heads=2, text_hidden=24, vocab_size=32,
  audio_token=30,
)  # fmt: skip


def prompts(places):
  """b -> prompts of a text, placeholders and an answer, of several paddings on both sides."""

  def made(b):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 20, (b, 14)).astype(np.int32)
    tokens[:, 3:9] = places
    answer = np.zeros(tokens.shape, bool)
    answer[:, 9:13] = True
    tokens[:, 13], tokens[::2, :2] = -1, -1
    return {'tokens': tokens, 'answer_mask': answer}

  return made


def subject(name, places, meshes=(), **args):
  return Subject(
    name,
    SMALL | args,
    answer_tokens,
    outputs=('logits', 'audio_vectors', 'audio_counts'),
    extra=prompts(places),
    meshes=meshes,
  )


SUBJECTS = {
  'qwen2_audio': subject('qwen2_audio', 30, MESHES[-1:]),
}
