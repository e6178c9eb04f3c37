"""Priors of Jukebox under openai's names (prior_level_N.pth.tar).

The file of a prior holds no VQ-VAE. Give one with `vqvae_weights` of `inference.jukebox`, or train
with config.init.under='frozen/vqvae'; until then codes can be given and sampled, but no audio read.
"""

from research.weights.families import jukebox
from research.weights.release import Release
from research.weights.tables import without_module

# By what it is recognised, see `weights/detect.py`.
MARKS = (('prior.transformer._attn_mods.0.', 'prior.x_emb.weight'),)
RELEASE = Release(
  rules=jukebox.prior_rules,
  infer=jukebox.prior_infer,
  renew=without_module,
  fit=jukebox.prior_fit,
  derive=jukebox.prior_derived,
)
