"""Jukebox's priors: a top level with labels and lyrics in front, and an upsampler."""

import numpy as np

from research.objectives.jukebox import jukebox_prior
from tests.contract import MESHES, Subject

VQVAE = dict(
  size='tiny', downs_t=(3, 2), multipliers=(1, 1), width=8, depth=1, emb_width=8, l_bins=16
)
SMALL = dict(
  size='tiny', vqvae=VQVAE, n_ctx=160, prior_width=16, prior_depth=3, heads=1, blocks=8, labels=True
)


def labels(tokens):
  def made(b):
    rng = np.random.default_rng(0)
    head = [[40_000 + 900 * i, 900 * i, 5120, i % 7, i % 3] for i in range(b)]
    lyrics = rng.integers(0, 20, (b, tokens))
    return {'labels': np.concatenate([head, lyrics], axis=1).astype(np.int32)}

  return made


SUBJECTS = {
  'jukebox': Subject(
    'jukebox',
    dict(SMALL, n_tokens=8, single_enc_dec=True, n_vocab=20, blocks=8),
    jukebox_prior,
    outputs=('embedding',),
    framed={'gen_logits': 'code_mask'},
    extra=labels(8),
    meshes=MESHES,
  ),
  'jukebox, lyric encoder': Subject(
    'jukebox',
    dict(
      SMALL, n_tokens=8, n_vocab=20, attn_order=6, prior_depth=4, merged_decoder=True,
      prime_width=16, prime_depth=3, prime_heads=1, prime_attn_order=2, prime_blocks=2,
    ),
    jukebox_prior,
    outputs=('embedding',),
    framed={'gen_logits': 'code_mask'},
    extra=labels(8),
    untrained={
      r'prior/blocks_3/(norm\d|attn/(q|kv)|fc1)/': 'the block that reads lyrics starts as nothing'
    },
  ),
  'jukebox, upsampler': Subject(
    'jukebox',
    dict(SMALL, n_ctx=640, level=0, cond_width=16, cond_depth=2, labels=False),
    jukebox_prior,
    outputs=('embedding',),
    framed={'gen_logits': 'code_mask'},
  ),
}  # fmt: skip
