"""HuBERT in pre-training."""

import functools

from research.objectives.prediction import masked_units
from tests.contract import MESHES, Subject
from tests.models.subjects import SPEECH, masks_and_units


def masked_prediction(name, objective=masked_units, meshes=(), **args):
  return Subject(
    name,
    SPEECH | dict(final_dim=16, num_clusters=9) | args,
    objective,
    outputs=('embedding',),
    framed={'features': 'frame_mask'},
    draws=masks_and_units,
    meshes=meshes,
  )


SUBJECTS = {
  'hubert': masked_prediction('hubert', meshes=MESHES),
  'hubert, two sets, unmasked too, layer norm, scan': masked_prediction(
    'hubert',
    functools.partial(masked_units, pred_nomask_weight=0.5),
    num_clusters=(9, 7),
    label_rate=100.0,
    predict_unmasked=True,
    norm='layer',
    pre_norm=True,
    scan_layers=True,
    frontend={'normalise': True},
  ),
}
