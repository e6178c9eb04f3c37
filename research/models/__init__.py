"""Models by name."""

import importlib

from research.errors import unknown

# name -> 'module:class'; a model is imported when it is asked for.
MODELS = {
  'audio_mae': 'research.models.audio_mae:AudioMAE',
  'audio_mae_classifier': 'research.models.heads.classify:AudioMAEClassifier',
  'byol_a': 'research.models.byol_a:ByolA',
  'code_bert': 'research.models.code_bert:CodeBert',
  'hubert': 'research.models.hubert:Hubert',
  'hubert_ctc': 'research.models.hubert:HubertCTC',
  'wav2vec': 'research.models.wav2vec:Wav2Vec',
  'wav2vec2': 'research.models.wav2vec2:Wav2Vec2',
  'wav2vec2_ctc': 'research.models.wav2vec2:Wav2Vec2CTC',
  'wavlm': 'research.models.wavlm:WavLM',
  'wavlm_ctc': 'research.models.wavlm:WavLMCTC',
}


def get(name: str) -> type:
  """The Flax module class of a model; raises InputError with the nearest names for an unknown
  one."""
  if name not in MODELS:
    raise unknown('model', name, MODELS)
  module, attribute = MODELS[name].split(':')
  return getattr(importlib.import_module(module), attribute)
