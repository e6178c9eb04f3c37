"""Encoders of speech against the official code, on whatever cases the golden folder holds:
convolutions, positions, every layer, with and without padding."""

import jax
import jax.numpy as jnp
import numpy as np

from research.features.waveform import Waveform
from research.models.finetuned import encoder_of
from research.nn.relative_bias import RelativeBias, bucket, by_distance
from research.weights import revert
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.speech_cases import SYSTEMS, batch_of, build, kind
from tests.weights.toy import check_identical


@each_case(*SYSTEMS, where=kind('_features'))
def test_features(case: Case):
  model, variables = build(case)
  whole, model = model, encoder_of(model)  # they have the same tree of parameters
  batch = batch_of(case)
  if 'raw_waveform' in case.inputs:
    front = Waveform(normalise=case.info['run']['normalize_input'])
    heard = front(case.inputs['raw_waveform'], batch['audio_mask'])
    assert_close(heard, batch['audio'], what='normalised waveform')

  def run(audio, mask):
    features, real, normed = model.apply(variables, audio, mask, method='_frames')
    out = model.apply(variables, normed, real, None, False, method='_encode')
    return {'features': features, 'normed': normed, 'real': real, **out}

  want = case.outputs
  for name, function in {'eager': run, 'jit': jax.jit(run)}.items():
    got = function(batch['audio'], batch['audio_mask'])
    real = np.asarray(got['real'])
    if 'frame_padding_mask' in want:
      np.testing.assert_array_equal(real, want['frame_padding_mask'] == 0)
    else:
      assert real.all()
    pairs = {
      'conv_features': np.swapaxes(got['features'], 1, 2),
      'normed_features': got['normed'],
      'projected': got['projected'],
      'pos_conv': got['positions'],
      'layer_input': got['layers'][0],
      'final': got['tokens'],
    }
    pairs |= {f'layer_{i}': x for i, x in enumerate(got['layers'][1:])}
    if 'extract_features_output_layer' in want:
      k = case.info['run']['output_layer']
      pairs['extract_features_output_layer'] = got['layers'][min(k, model.depth)]
    if 'position_bias' in want:
      bias = RelativeBias(model.heads, model.buckets, model.max_distance)
      table = {'params': variables['params']['encoder']['relative_bias']}
      pairs_of_frames = bias.apply(table, real.shape[1])
      assert_close(pairs_of_frames, want['position_bias'], what='position_bias')
    if 'output_layer_last' in want:
      pairs['output_layer_last'] = got['layers'][-1]
    for key, x in pairs.items():
      x, y = np.asarray(x), want[key]
      if key == 'conv_features':
        x, y = np.swapaxes(x, 1, 2), np.swapaxes(y, 1, 2)
      assert_close(x[real], y[real], what=f'{name} {key}')
  check_identical(revert(case.system, whole, variables), case.weights)


@each_case('wavlm', where=kind('_bucket_table'))
def test_buckets(case: Case):
  figures = case.config['num_buckets'], case.config['max_distance']
  distance = case.inputs['relative_position'].astype(np.int64)
  np.testing.assert_array_equal(bucket(distance, *figures), case.outputs['bucket'])
  # The recorded pairs are of 20 queries and 23 keys.
  heads, queries, keys = case.outputs['position_bias'].shape
  bias, table = RelativeBias(heads, *figures), case.weights['relative_attention_bias.weight']
  got = bias.apply({'params': {'table': jnp.asarray(table)}}, keys)
  assert_close(np.asarray(got)[:, :queries], case.outputs['position_bias'], relative=1e-6)


def test_distances_without_a_gather():
  n = 7
  values = np.arange(2 * 2 * n, dtype=np.float32).reshape(2, 2 * n)
  pairs = np.arange(n)[None, :] - np.arange(n)[:, None]
  np.testing.assert_array_equal(by_distance(jnp.asarray(values)), values[:, pairs % (2 * n)])
