"""timm VisionTransformer weights over one-channel spectrograms (1024 x 128), classifier or
features only.

Class token and average pooling (`fc_norm`) or token pooling (`norm`), LayerNorm epsilon 1e-6, as
huggingface.co/gaunernst/vit_base_patch16_1024_128.audiomae_as2m_ft_as20k. timm trains the position
table; here it is a fixed buffer.
"""

from research.weights.families import vit
from research.weights.release import Release

# By what it is recognised, see `weights/detect.py`.
MARKS = (('patch_embed.proj.', 'blocks.0.mlp.fc1.'),)
RELEASE = Release(rules=vit.rules, infer=vit.infer, lacks=vit.lacks)
