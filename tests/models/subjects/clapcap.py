"""clapcap: everything learns, and the mapper alone."""

from research.objectives.autoregressive import caption_tokens
from tests.contract import MESHES, Subject
from tests.models.subjects import clap

# Two stages: most of the time is their compilation.
SWIN = dict(audio_width=4, depths=(1, 1), audio_heads=(1, 2))
SMALL = clap.TEXT | SWIN | dict(
  dim=8, seconds=0.3, prefix_length=3, prefix_length_clip=2, num_layers=1, mapper_heads=2,
  dropout=0.0, drop_path=0.0, freeze_audio_encoder_weights=False, freeze_gpt_weights=False,
)  # fmt: skip


def crops(model, b):
  return {'crop_start': clap.starts(model, b)['crop_start']}


def clapcap(meshes=(), untrained=None, **args):
  return Subject(
    'clapcap',
    SMALL | args,
    caption_tokens,
    outputs=('logits', 'audio_embedding', 'prefix'),
    draws=crops,
    extra=clap.captions,
    untrained=untrained or {},
    meshes=meshes,
  )


SUBJECTS = {
  'clapcap': clapcap(MESHES[-1:]),
}
