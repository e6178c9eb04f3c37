"""The contract (tests/contract.py) on every model."""

import dataclasses
import functools

import numpy as np
import pytest

from research import models
from research.models import audio_mae
from research.objectives.bootstrap import bootstrap
from research.objectives.contrastive import wav2vec2_contrastive, wav2vec_contrastive
from research.objectives.prediction import masked_codes, masked_units
from research.objectives.reconstruction import masked_patch_mse
from research.objectives.supervised import binary_cross_entropy, ctc
from tests import contract
from tests.contract import Subject

ENCODER = dict(size='tiny', width=32, depth=2, heads=2, frames=64)
DECODER = dict(decoder_width=16, decoder_depth=2, decoder_heads=2)


def mask_noise(model, b):
  rows, columns = audio_mae.grid(model)
  rng = [np.random.default_rng(100 + i) for i in range(b)]
  names = {'mask_noise': rows * columns, 'mask_noise_t': rows, 'mask_noise_f': columns}
  return {k: np.stack([r.random(n, np.float32) for r in rng]) for k, n in names.items()}


def labels(b):
  return {'label': np.random.default_rng(0).integers(0, 2, (b, 5)).astype(np.float32)}


def pretraining(**args):
  return Subject(
    'audio_mae',
    ENCODER | DECODER | args,
    masked_patch_mse,
    outputs=('pred', 'target', 'mask', 'latent'),
    draws=mask_noise,
  )


def classifier(**args):
  return Subject(
    'audio_mae_classifier',
    ENCODER | dict(classes=5, mask_t_prob=0.2, mask_f_prob=0.2, freq_mask=8, time_mask=8) | args,
    binary_cross_entropy,
    outputs=('logits', 'pooled'),
    extra=labels,
  )


def view_draws(model, b):
  rng = [np.random.default_rng(100 + i) for i in range(b)]
  return {'draws': np.stack([r.random((2, 8), np.float32) for r in rng])}


def of_itself(out, batch):
  """Without a teacher: each view is foretold by the other's projection."""
  return bootstrap(out | {'teacher': out}, batch)


def byol_a(size, **args):
  small = dict(hidden=24, width=32, channels=8, projection=16, projection_hidden=24, bank=6)
  return Subject(
    'byol_a',
    dict(size=size, frames=32) | small | args,
    of_itself,
    outputs=('embedding',),
    draws=view_draws,
  )


def spans(model, b):
  masks = [np.random.default_rng(100 + i).random(300) < 0.5 for i in range(b)]
  draws = [np.random.default_rng(200 + i).integers(0, 5, (300, 7)) for i in range(b)]
  return {'span_mask': np.stack(masks), 'negative_draws': np.stack(draws).astype(np.int32)}


def spans_and_noise(model, b):
  """Noise that decides the codes: rounding to bf16 must not, where two are nearly as good."""
  codes = [np.random.default_rng(400 + i).integers(0, 12, (300, 2)) for i in range(b)]
  noise = 1000.0 * np.eye(12, dtype=np.float32)[np.stack(codes)]
  return {**spans(model, b), 'gumbel_noise': noise}


def wav2vec2(**args):
  sizes = dict(size='tiny', channels=24, width=32, depth=2, heads=2, hidden=64, final_width=16)
  return Subject(
    'wav2vec2',
    sizes | dict(tap_groups=4, codes=12, mask_prob=0.5, mask_length=2, negatives=7) | args,
    wav2vec2_contrastive,
    outputs=('embedding',),
    framed={'context': 'used', 'targets': 'used', 'features': 'frame_mask'},
    draws=spans_and_noise,
  )


SPEECH = dict(size='tiny', channels=24, width=32, depth=2, heads=2, hidden=64, tap_groups=4)


def masks_and_units(model, b):
  sets = [
    np.stack(
      [np.random.default_rng(500 + 7 * i + j).integers(0, k, 600) for j, k in sets_of(model)]
    )
    for i in range(b)
  ]
  return {
    'span_mask': spans(model, b)['span_mask'],
    'units': np.stack(sets).swapaxes(1, 2).astype(np.int32),
  }


def sets_of(model):
  return list(enumerate(model.sets))


def masked_prediction(name, objective=masked_units, **args):
  return Subject(
    name,
    SPEECH | dict(final_width=16, codes=9) | args,
    objective,
    outputs=('embedding',),
    framed={'features': 'frame_mask'},
    draws=masks_and_units,
  )


def transcripts(b):
  tokens = np.random.default_rng(0).integers(1, 5, (b, 6)).astype(np.int32)
  tokens[:, 4:] = -1
  return {'tokens': tokens}


def channel_masks(model, b):
  masks = [np.random.default_rng(300 + i).random(model.width) < 0.2 for i in range(b)]
  return {'span_mask': spans(model, b)['span_mask'], 'channel_mask': np.stack(masks)}


def speech_ctc(name, **args):
  rates = dict(vocabulary=('_', *'abcd'), activation_dropout=0.0, layer_drop=0.0)
  return Subject(
    name,
    SPEECH | rates | dict(freeze_feature_encoder=False) | args,
    ctc,
    outputs=('embedding',),
    framed={'logits': 'frame_mask'},
    draws=channel_masks,
    extra=transcripts,
  )


def negatives(model, b):
  draws = [np.random.default_rng(200 + i).integers(0, 19, (300, 5)) for i in range(b)]
  return {'negative_draws': np.stack(draws).astype(np.int32)}


def wav2vec(**args):
  return Subject(
    'wav2vec',
    dict(size='tiny', channels=32, kernels=(2, 3), codes=12, steps=4) | args,
    functools.partial(wav2vec_contrastive, quantiser=1.0),
    outputs=('embedding',),
    framed={'predictions': 'used', 'targets': 'frame_mask'},
    draws=negatives,
  )


def code_masks(model, b):
  rng = [np.random.default_rng(300 + i) for i in range(b)]
  draws = {
    'span_mask': [r.random(300) < 0.4 for r in rng],
    'replace_draws': [r.random(300, np.float32) for r in rng],
    'random_codes': [r.integers(0, 12, (300, 2)).astype(np.int32) for r in rng],
  }
  return {name: np.stack(x) for name, x in draws.items()}


def code_bert(**args):
  tokenizer = dict(size='tiny', channels=16, codes=12, vq_type='kmeans')
  return Subject(
    'code_bert',
    dict(size='tiny', width=32, depth=2, heads=2, hidden=64, tokenizer=tokenizer) | args,
    masked_codes,
    outputs=('embedding',),
    framed={'code_logits': 'frame_mask', 'codes': 'frame_mask'},
    draws=code_masks,
  )


SUBJECTS = {
  'audio_mae': pretraining(),
  'audio_mae, global decoder, masked padding, scan': pretraining(
    decoder='global', masking='time_frequency', padding='masked', scan_layers=True
  ),
  'audio_mae, overlap, masked padding': pretraining(
    stride=10, masking='time', mask_ratio=0.5, padding='masked'
  ),
  'audio_mae_classifier': classifier(),
  'audio_mae_classifier, cls, masked padding': classifier(pooling='cls', padding='masked'),
  'byol_a': byol_a('v1_d512'),
  'byol_a, v2': byol_a('v2', norm='frontend', frontend=dict(mean=-9.66, std=4.72)),
  'code_bert': code_bert(),
  'code_bert, windows, scan': code_bert(
    frames=40,
    scan_layers=True,
    tokenizer=dict(size='tiny', channels=16, codes=12, vq_type='gumbel'),
  ),
  'hubert': masked_prediction('hubert'),
  'hubert, two sets, unmasked too, layer norm, scan': masked_prediction(
    'hubert',
    functools.partial(masked_units, pred_nomask_weight=0.5),
    codes=(9, 7),
    label_rate=100.0,
    predict_unmasked=True,
    norm='layer',
    pre_norm=True,
    scan_layers=True,
    frontend={'normalise': True},
  ),
  'hubert_ctc': speech_ctc('hubert_ctc'),
  'wavlm': masked_prediction('wavlm', buckets=16, max_distance=40),
  'wavlm, layer norm, scan, remat': masked_prediction(
    'wavlm', norm='layer', pre_norm=True, scan_layers=True, remat=True
  ),
  'wavlm_ctc': speech_ctc('wavlm_ctc'),
  'wav2vec': wav2vec(),
  'wav2vec, Gumbel': wav2vec(vq_type='gumbel', activation='gelu'),
  'wav2vec, k-means': wav2vec(vq_type='kmeans', combine_groups=True, skip=False),
  'wav2vec2': wav2vec2(),
  'wav2vec2, layer norm, scan': wav2vec2(
    norm='layer', conv_bias=True, pre_norm=True, scan_layers=True, frontend={'normalise': True}
  ),
  'wav2vec2_ctc': speech_ctc('wav2vec2_ctc'),
  'wav2vec2_ctc, layer norm, frozen convolutions': dataclasses.replace(
    speech_ctc(
      'wav2vec2_ctc',
      norm='layer',
      conv_bias=True,
      pre_norm=True,
      scan_layers=True,
      freeze_feature_encoder=True,
    ),
    untrained={'^extractor/': 'freeze_feature_encoder'},
  ),
}
SUBJECT = pytest.mark.parametrize('subject', SUBJECTS.values(), ids=SUBJECTS)
NAME = pytest.mark.parametrize('name', models.MODELS)


def test_every_model_is_here():
  assert {s.name for s in SUBJECTS.values()} == set(models.MODELS)


@SUBJECT
def test_padding_changes_nothing(subject):
  contract.check_padding(subject)


@NAME
def test_jit_changes_nothing(name):
  contract.check_jit(SUBJECTS[name])


@SUBJECT
def test_gradients_reach_every_parameter(subject):
  contract.check_gradients(subject)


@SUBJECT
def test_bfloat16(subject):
  contract.check_bfloat16(subject)


# Models that only other sizes or one table tell from another: the mesh with all its axes is enough.
ALIKE = ('hubert_ctc', 'wavlm', 'wavlm_ctc')
MESHED = [(n, m) for n in models.MODELS for m in contract.MESHES if n not in ALIKE]
MESHED += [(n, contract.MESHES[-1]) for n in ALIKE]


@pytest.mark.parametrize(('name', 'mesh'), MESHED, ids=str)
def test_meshes(name, mesh):
  contract.check_mesh(SUBJECTS[name], mesh)


@SUBJECT
def test_embed_any_length(subject):
  contract.check_embed_lengths(subject)
