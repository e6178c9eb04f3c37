"""Detects the release of original weights from their keys, configuration or config.json."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from research.errors import InputError, printable

# {model_type of transformers' config.json: release}
MODEL_TYPES = {
  'wav2vec2': 'wav2vec2_hf', 'hubert': 'hubert_hf', 'wavlm': 'wavlm_hf', 'whisper': 'whisper_hf',
}  # fmt: skip
# {name of a model in fairseq's configuration: release}
FAIRSEQ = {
  'wav2vec2': 'wav2vec2', 'wav2vec_ctc': 'wav2vec2', 'hubert': 'hubert', 'hubert_ctc': 'hubert',
}  # fmt: skip
# (release, parts of keys that only it has, all required); the first match counts.
MARKS = (
  ('audio_mae', ('decoder_pred.', 'patch_embed.proj.')),
  ('timm_vit', ('patch_embed.proj.', 'blocks.0.mlp.fc1.')),
  ('byol_a', ('features.0.weight', 'fc.0.weight', 'fc.3.weight')),
  ('vq_wav2vec', ('vector_quantizer.', 'feature_aggregator.')),
  ('wav2vec', ('feature_aggregator.', 'feature_extractor.')),
  ('wavlm_hf', ('gru_rel_pos_linear', 'feature_projection.')),
  ('wavlm', ('self_attn.grep_linear',)),
  ('wav2vec2_hf', ('wav2vec2.feature_extractor.',)),
  ('hubert_hf', ('hubert.feature_extractor.',)),
  ('whisper', ('encoder.positional_embedding', 'decoder.blocks.0.cross_attn_ln.')),
  ('whisper', ('encoder/conv1/weight', 'decoder/embeddings/weight')),
  ('whisper_hf', ('encoder.conv1.', 'decoder.layers.0.encoder_attn_layer_norm.')),
  ('hubert', ('label_embs_concat',)),
  ('wav2vec2', ('quantizer.vars', 'project_q.')),
)
# (parts of keys that several releases have, these releases).
SHARED = (
  (('feature_extractor.conv_layers.0.conv.',), ('wav2vec2_hf', 'hubert_hf')),
  (('feature_extractor.conv_layers.0.0.',), ('wav2vec2', 'hubert')),
)


def release(
  path: Path, keys: Collection[str], files: Mapping[str, Any], known: Collection[str] = ()
) -> str:
  """The release of the arrays with these keys.

  Args:
    path: where they were read, for messages.
    keys: of the arrays.
    files: what lies beside them, see `read.read_release`: 'cfg', 'config.json'.
    known: all releases, for messages.

  Raises:
    InputError: several releases fit, or none does.
  """
  config = files.get('config.json')
  kind = config.get('model_type') if isinstance(config, Mapping) else None
  if kind is not None:
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
      raise InputError(
        f'{str(path)!r} is a {printable(str(kind)[:60])} of transformers, which is not known here: '
        f'expected {", ".join(MODEL_TYPES)}.'
      )
    return MODEL_TYPES[kind]
  found = next((name for name, marks in MARKS if _has(keys, marks)), None)
  named = FAIRSEQ.get(_fairseq_name(files.get('cfg')))
  if named and found in (None, 'wav2vec2', 'hubert'):
    return named
  if found:
    return found
  several = next((names for marks, names in SHARED if _has(keys, marks)), None)
  if several:
    raise InputError(
      f'{str(path)!r} does not say whether its weights are {" or ".join(several)}: name the '
      f"release, as release='{several[0]}' (--release={several[0]})."
    )
  some = printable(', '.join(sorted(keys)[:3])[:200])
  raise InputError(
    f'{str(path)!r} does not say which model it is for (its arrays: {some} …): name its release, '
    f'one of {", ".join(known)}.'
  )


def _has(keys: Collection[str], marks: Collection[str]) -> bool:
  return all(any(mark in key for key in keys) for mark in marks)


def _fairseq_name(cfg: Any) -> str:
  """Name of the model in a fairseq configuration, '' if there is none."""
  model = cfg.get('model') if isinstance(cfg, Mapping) else None
  name = model.get('_name') if isinstance(model, Mapping) else None
  return name if isinstance(name, str) else ''
