"""Enhancement and separation of SUPERB-SG against s3prl's downstream experts."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.inference import separation as signals
from research.metrics import enhancement, separation
from research.objectives import permutation
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.superb_cases import check, kind
from tests.parity.superb_heads import check_gradients, load

STEP = 2  # large arrays are stored every second frame


@each_case('superb', where=kind('superb_se', 'superb_ss'))
def test_masks(case: Case):
  config, want, inputs = case.config, case.outputs, case.inputs
  head, params = load(case, hop=config['hop'], activation=config['non_linear'])
  assert (head.signals, head.n_fft) == (config['num_speakers'], config['n_fft'])
  lengths = inputs['wav_lengths']
  names = ['clean'] if head.signals == 1 else [f'target{i + 1}' for i in range(head.signals)]
  scale = np.float32(1 / 32768)
  mixture = inputs['mix'].astype(np.float32) * scale
  sources = np.stack([inputs[n].astype(np.float32) * scale for n in names], axis=1)
  audio_mask = np.arange(mixture.shape[1]) < lengths[:, None]
  batch = jax.tree.map(
    jnp.asarray, {'audio': mixture, 'audio_mask': audio_mask, 'sources': sources}
  )
  features = jnp.asarray(inputs['features'])
  mask = jnp.arange(features.shape[1]) < inputs['feature_lengths'][:, None]

  def outputs(params, features):
    return head.apply({'params': params}, features, mask, {'batch': batch}, False)

  def value(params, features, kind):
    out = outputs(params, features)
    return permutation.phase_sensitive_mask(out, batch, kind=kind)[0], out

  (loss, out), gradients = jax.jit(
    jax.value_and_grad(value, argnums=(0, 1), has_aux=True), static_argnums=2
  )(params, features, config['mask_type'])
  np.testing.assert_array_equal(np.asarray(out['mask_frames']).sum(1), want['stft_frames'])
  check(out['mixture'][:, ::STEP], want['mix_stft'], 'mixture')
  for i in range(head.signals):
    check(out['masks'][:, i, ::STEP], want[f'mask{i + 1}'], f'mask {i}')
  np.testing.assert_allclose(loss, want['loss'], rtol=1e-5)
  for other in ('AM', 'PSM'):
    found = permutation.phase_sensitive_mask(out, batch, kind=other)[0]
    np.testing.assert_allclose(found, want[f'loss_{other}'], rtol=1e-5)
  check_gradients(case, head, gradients)

  estimates = signals.signals(
    np.asarray(out['masks']), np.asarray(out['mixture']), lengths, hop=head.hop
  )
  rough = signals.signals(
    np.asarray(out['masks']), np.asarray(out['mixture']), lengths, hop=head.hop, clear_ends=False
  )
  for row, (got, before, samples) in enumerate(zip(estimates, rough, lengths)):
    assert_close(got, want['estimate'][row, :, :samples], what=f'estimate {row}')
    changed = [(a != b).sum() for a, b in zip(got, before)]
    np.testing.assert_array_equal(changed, want['changed_by_end_rule'][row])
    own = sources[row, :, :samples]
    each, input_, order = separation.assigned_si_sdr(got, own, mixture[row, :samples])
    if 'metric/permutation' in want:
      np.testing.assert_array_equal(order, want['metric/permutation'][row])
    for name, values in (('si_sdr', each), ('input_si_sdr', input_)):
      assert np.mean(values) == pytest.approx(float(want[f'metric/{name}'][row]), abs=1e-2)
    improvement = np.mean(each) - np.mean(input_)
    assert improvement == pytest.approx(float(want['reported/si_sdr'][row]), abs=1e-2)
    np.testing.assert_allclose(each, want['metric/si_sdr_per_source'][row], atol=1e-2)
    for metric, library, limit in (('stoi', 'pystoi', 1e-3), ('pesq', 'pesq', 5e-3)):
      if importlib.util.find_spec(library):
        f = getattr(enhancement, metric)
        values = [f(got[j], own[i]) for i, j in enumerate(order)]
        np.testing.assert_allclose(
          values, want[f'metric/{metric}_per_source'][row], atol=limit, err_msg=metric
        )
        assert np.mean(values) == pytest.approx(float(want[f'reported/{metric}'][row]), abs=limit)
  for key, x in inputs.items():
    if key.startswith('end_rule/'):
      np.testing.assert_array_equal(signals.clear_end(x), want[key], err_msg=key)
