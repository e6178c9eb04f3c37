"""Scores that others published, to stand beside ours in a table; never mixed up with measured ones.

Only figures that a repository's README or log, or a paper, states for that task and protocol. What
they were trained with besides the audio itself is named, since it is not the same for all.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Published(NamedTuple):
  """One system on several tasks.

  Attributes:
    system: its name.
    supervision: what it learned from.
    protocol: 'evar' (linear, frozen) or 'finetune'.
    source: where it says so.
    scores: task -> its headline metric, a fraction (0 to 1).
  """

  system: str
  supervision: str
  protocol: str
  source: str
  scores: dict[str, float]


_UNLABELLED = 'AudioSet without labels'
_BYOL_A = 'github.com/nttcslab/byol-a, README.md'
_TASKS_V1 = (
  'nsynth_instrument', 'urbansound8k', 'voxceleb1', 'voxforge', 'speech_commands',
  'speech_commands_35',
)  # fmt: skip


def _byol_a_v1(width: int, scores: Sequence[float]) -> Published:
  table = dict(zip(_TASKS_V1, scores, strict=True))
  return Published(f'BYOL-A v1, d = {width}', _UNLABELLED, 'evar', _BYOL_A, table)


PUBLISHED: tuple[Published, ...] = (
  _byol_a_v1(512, (0.691, 0.782, 0.334, 0.835, 0.865, 0.889)),
  _byol_a_v1(1024, (0.727, 0.782, 0.380, 0.885, 0.901, 0.914)),
  _byol_a_v1(2048, (0.741, 0.791, 0.401, 0.902, 0.910, 0.922)),
  Published(
    'BYOL-A v2', _UNLABELLED, 'evar', 'arXiv 2204.07402, abstract; github.com/nttcslab/byol-a, '
    'v2/README.md (CREMA-D, one run)', {'voxceleb1': 0.576, 'crema_d': 0.643},
  ),
  Published(
    'AudioMAE, ViT-B', _UNLABELLED, 'finetune', 'arXiv 2207.06405; '
    'github.com/facebookresearch/AudioMAE, README.md',
    {
      'audioset': 0.473, 'audioset20k': 0.370, 'esc50': 0.941, 'speech_commands_35': 0.983,
      'voxceleb1': 0.948,
    },
  ),
  Published(
    'AST', 'ImageNet labels (ESC-50 and Speech Commands: AudioSet labels too)', 'finetune',
    'github.com/YuanGongND/ast, egs/*/exp',
    {'audioset': 0.459, 'audioset20k': 0.350, 'esc50': 0.9575, 'speech_commands_35': 0.9813},
  ),
  Published(
    'M2D/0.7', _UNLABELLED, 'finetune', 'github.com/nttcslab/m2d, README.md',
    {'audioset': 0.479},
  ),
  Published(
    'EAT, base, 30 epochs', _UNLABELLED, 'finetune', 'github.com/cwx-worst-one/EAT, README.md',
    {'audioset': 0.489, 'audioset20k': 0.413},
  ),
  # HEAR's own folds, sizes and metric; of the ten in its README those that are tasks here.
  Published(
    'MW-MAE, base', _UNLABELLED, 'hear', 'github.com/SarthakYadav/mwmae-jax-official, README.md',
    {'crema_d': 0.731, 'esc50': 0.812, 'libricount': 0.688, 'fsd50k': 0.512},
  ),
)  # fmt: skip

PROTOCOLS = {
  'evar': 'linear evaluation of EVAR or BYOL-A',
  'hear': "HEAR's evaluation (a shallow network)",
  'finetune': 'fine-tuning',
}


def rows(tasks: Sequence[str]) -> list[dict[str, Any]]:
  """The published scores on these tasks, one dict each: task, system, kind 'published', protocol,
  supervision, source, score."""
  found = []
  for entry in PUBLISHED:
    for task in tasks:
      if task in entry.scores:
        found.append(
          dict(
            task=task,
            system=entry.system,
            kind='published',
            protocol=entry.protocol,
            supervision=entry.supervision,
            source=entry.source,
            score=entry.scores[task],
          )
        )
  return found
