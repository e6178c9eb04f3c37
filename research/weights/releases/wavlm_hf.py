"""WavLM under transformers' names, see `families.speech_hf`."""

from research.weights.families import speech_hf
from research.weights.releases.wavlm import FAMILY

# By what it is recognised, see `weights/detect.py`.
MARKS = (('gru_rel_pos_linear', 'feature_projection.'),)
MODEL_TYPE = 'wavlm'
RELEASE = speech_hf.release(FAMILY)
