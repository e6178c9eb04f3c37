"""wav2vec 2.0 under transformers' names, see `families.speech_hf`."""

from research.weights.families import speech_hf
from research.weights.releases.wav2vec2 import FAMILY

RELEASE = speech_hf.release(FAMILY)
