"""HuBERT under transformers' names, see `families.speech_hf`."""

from research.weights.families import speech_hf
from research.weights.releases.hubert import FAMILY

# By what it is recognised, see `weights/detect.py`.
MARKS = (
  ('hubert.feature_extractor.', 'feature_extractor.'),
  ('feature_extractor.conv_layers.0.conv.',),
)
MODEL_TYPE = 'hubert'
RELEASE = speech_hf.release(FAMILY)
