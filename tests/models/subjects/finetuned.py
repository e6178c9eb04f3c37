"""Encoders under heads."""

from research.objectives.supervised import binary_cross_entropy, ctc
from tests.contract import MESHES, Subject
from tests.models.subjects import SPEECH, audio_mae, channel_masks, labels, transcripts

RATES = dict(activation_dropout=0.0, layerdrop=0.0, feature_grad_mult=1.0)
LETTERS = dict(name='ctc', args=dict(vocabulary=('_', *'abcd')))
LAYERED = dict(norm='layer', conv_bias=True, pre_norm=True, scan_layers=True)


def letters(encoder, meshes=(), untrained=None, **args):
  return Subject(
    'finetuned',
    dict(encoder=dict(name=encoder, args=SPEECH | RATES | args), head=LETTERS),
    ctc,
    outputs=('embedding',),
    framed={'logits': 'frame_mask'},
    draws=channel_masks,
    extra=transcripts,
    untrained=untrained or {},
    meshes=meshes,
  )


def speech_classes(**args):
  encoder = dict(name='hubert', args=SPEECH | RATES)
  head = dict(name='classifier', args=dict(classes=5, init_std=0.1))
  return Subject(
    'finetuned',
    dict(encoder=encoder, head=head) | args,
    binary_cross_entropy,
    outputs=('logits', 'pooled', 'embedding'),
    draws=channel_masks,
    extra=labels,
  )


def classes(meshes=(), pooling='mean', **args):
  masks = dict(mask_t_prob=0.2, mask_f_prob=0.2, freq_mask=8, time_mask=8)
  return Subject(
    'finetuned',
    dict(
      encoder=dict(name='audio_mae', args=audio_mae.ENCODER | masks | args),
      head=dict(name='classifier', args=dict(classes=5, pooling=pooling)),
    ),
    binary_cross_entropy,
    outputs=('logits', 'pooled'),
    extra=labels,
    meshes=meshes,
  )


SUBJECTS = {
  'finetuned': letters('wav2vec2', MESHES),
  'finetuned, wav2vec2, layer norm, frozen convolutions': letters(
    'wav2vec2',
    untrained={'^feature_extractor/': 'feature_grad_mult=0'},
    **LAYERED,
    feature_grad_mult=0.0,
  ),
  # Only other sizes or one table tell these from wav2vec 2.0.
  'finetuned, hubert': letters('hubert', MESHES[-1:]),
  'finetuned, wavlm': letters('wavlm', MESHES[-1:]),
  'finetuned, hubert, classes, mix of layers': speech_classes(layer='mix'),
  'finetuned, audio_mae, classes': classes(MESHES),
  'finetuned, audio_mae, classes, cls, masked padding': classes(pooling='cls', padding='masked'),
}
