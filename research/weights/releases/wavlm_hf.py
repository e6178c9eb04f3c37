"""WavLM under transformers' names, see `families.speech_hf`."""

from research.weights.families import speech_hf
from research.weights.releases.wavlm import FAMILY

RELEASE = speech_hf.release(FAMILY)
