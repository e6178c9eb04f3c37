"""Sizes of Jukebox's priors: hparams.py of openai/jukebox."""

from typing import Any, NamedTuple


class Size(NamedTuple):
  """Arguments of `models.jukebox.Jukebox`, with the defaults of hparams.py where a set has none."""

  n_ctx: int
  prior_width: int
  prior_depth: int
  heads: int
  attn_order: int
  blocks: int
  init_scale: float
  vqvae: dict[str, Any] = dict(size='jukebox')  # noqa: RUF012
  level: int = -1
  merged_decoder: bool = False
  labels: bool = True
  labels_v3: bool = False
  y_bins: tuple[int, int] = (120, 4111)  # genres, artists
  t_bins: int = 128
  min_duration: float = 60.0
  max_duration: float = 600.0
  max_bow_genre_size: int = 5
  n_tokens: int = 0
  n_vocab: int = 80
  single_enc_dec: bool = False
  prime_width: int = 128
  prime_depth: int = 3
  prime_heads: int = 1
  prime_attn_order: int = 0
  prime_blocks: int = 0
  prime_init_scale: float = 1.0
  cond_width: int = 128
  cond_depth: int = 3
  cond_dilation_growth_rate: int = 1
  cond_dilation_cycle: int | None = None
  cond_res_scale: bool = False
  alignment_layer: int | None = None
  alignment_head: int | None = None


# Upsamplers share everything but the level, and the scale of branches in level 1.
_UPSAMPLER: dict[str, Any] = dict(
  n_ctx=8192,
  prior_width=1920,
  prior_depth=72,
  heads=1,
  attn_order=2,
  blocks=128,
  init_scale=0.4,
  cond_width=1024,
  cond_depth=16,
  cond_dilation_growth_rate=3,
  cond_dilation_cycle=8,
)
_5B: dict[str, Any] = dict(
  n_ctx=8192, prior_width=4800, heads=8, blocks=128, init_scale=0.1, merged_decoder=True
)
# Of the training demos in the README: 10 genres, 100 artists.
_SMALL: dict[str, Any] = dict(
  prior_width=1024, prior_depth=48, blocks=64, init_scale=0.7, t_bins=64
)
_OWN_LABELS: dict[str, Any] = dict(labels_v3=True, y_bins=(10, 100), max_bow_genre_size=1)

SIZES = {
  'prior_5b': Size(**_5B, prior_depth=72, attn_order=2),
  'prior_5b_lyrics': Size(
    **_5B,
    prior_depth=79,
    attn_order=10,
    min_duration=23.8,
    n_tokens=512,
    prime_width=1280,
    prime_depth=18,
    prime_heads=4,
    prime_attn_order=2,
    prime_blocks=32,
    prime_init_scale=0.7,
    alignment_layer=68,
    alignment_head=2,
  ),
  'prior_1b_lyrics': Size(
    n_ctx=6144,
    prior_width=2048,
    prior_depth=72,
    heads=2,
    attn_order=12,
    blocks=64,
    init_scale=0.2,
    labels_v3=True,
    y_bins=(604, 7898),
    t_bins=64,
    min_duration=17.84,
    max_bow_genre_size=1,
    n_tokens=384,
    n_vocab=79,
    single_enc_dec=True,
    alignment_layer=63,
    alignment_head=0,
  ),
  'upsampler_level_1': Size(**_UPSAMPLER, level=1, cond_res_scale=True),
  'upsampler_level_0': Size(**_UPSAMPLER, level=0),
  'small_prior': Size(**_SMALL, n_ctx=8192, heads=1, attn_order=2, labels=False),
  'small_labelled_prior': Size(**_SMALL, **_OWN_LABELS, n_ctx=8192, heads=1, attn_order=2),
  'small_single_enc_dec_prior': Size(
    **_SMALL,
    **_OWN_LABELS,
    n_ctx=6144,
    heads=2,
    attn_order=12,
    n_tokens=384,
    n_vocab=79,
    single_enc_dec=True,
  ),
  'small_sep_enc_dec_prior': Size(
    **{**_SMALL, 'prior_depth': 50},
    **_OWN_LABELS,
    n_ctx=6144,
    heads=2,
    attn_order=8,
    n_tokens=384,
    n_vocab=79,
    prime_width=256,
    prime_depth=9,
    prime_heads=2,
    prime_attn_order=2,
    prime_blocks=32,
    prime_init_scale=0.7,
  ),
  'small_upsampler': Size(
    **_SMALL,
    n_ctx=8192,
    heads=1,
    attn_order=2,
    labels=False,
    level=0,
    vqvae=dict(size='small'),
    cond_width=512,
    cond_depth=16,
    cond_dilation_growth_rate=3,
    cond_dilation_cycle=8,
  ),
  'tiny': Size(  # ours
    n_ctx=512,
    prior_width=64,
    prior_depth=3,
    heads=2,
    attn_order=2,
    blocks=16,
    init_scale=1.0,
    vqvae=dict(size='tiny'),
    labels=False,
    y_bins=(10, 100),
    t_bins=16,
    min_duration=0.5,
    max_duration=60.0,
    max_bow_genre_size=1,
    labels_v3=True,
    n_vocab=79,
    cond_width=32,
    cond_depth=3,
    cond_dilation_growth_rate=3,
  ),
}
