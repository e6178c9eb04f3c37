"""wav2vec 2.0 under transformers' names, see `families.speech_hf`."""

from research.weights.families import speech_hf
from research.weights.releases.wav2vec2 import FAMILY

# By what it is recognised, see `weights/detect.py`.
MARKS = (
  ('wav2vec2.feature_extractor.', 'feature_extractor.'),
  ('feature_extractor.conv_layers.0.conv.',),
)
MODEL_TYPE = 'wav2vec2'
RELEASE = speech_hf.release(FAMILY)
