"""WavLM in pre-training."""

from tests.contract import MESHES
from tests.models.subjects.hubert import masked_prediction

SUBJECTS = {
  # One table tells it from HuBERT: the mesh with all its axes is enough.
  'wavlm': masked_prediction('wavlm', buckets=16, max_distance=40, meshes=MESHES[-1:]),
  'wavlm, layer norm, scan, remat': masked_prediction(
    'wavlm', norm='layer', pre_norm=True, scan_layers=True, remat=True
  ),
}
