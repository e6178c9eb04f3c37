"""Metrics of SUPERB against the official scorers, on whatever cases the golden folder holds."""

import hashlib
import re

import numpy as np
import pytest

from research.metrics import (
  asr,
  conversion,
  diarization,
  enhancement,
  separation,
  slots,
  spoken_terms,
  superb,
  translation,
  verification,
)
from tests.parity.golden import Case, each_case
from tests.parity.superb_cases import given, kind


@each_case('superb', where=kind('metric_eer'))
def test_verification(case: Case):
  config = case.config
  costs = {k: config[k] for k in ('c_miss', 'c_fa')}
  names = [k.removesuffix('/scores') for k in case.inputs if k.endswith('/scores')]
  assert names
  for name in names:
    pairs = case.inputs[f'{name}/scores'], case.inputs[f'{name}/labels']
    want = {k.removeprefix(f'{name}/'): v for k, v in case.outputs.items() if k.startswith(name)}
    found = dict(zip(('eer', 'eer_threshold'), verification.equal_error_rate(*pairs)))
    for p in config['p_target']:
      cost = verification.minimum_detection_cost(*pairs, p_target=p, **costs)
      found |= dict(zip((f'min_dcf_{p}', f'min_dcf_threshold_{p}'), cost))
    assert found.keys() == want.keys()
    for key, value in found.items():
      limit = 1e-5 if 'threshold' in key else 1e-6
      np.testing.assert_allclose(value, want[key], rtol=0, atol=limit, err_msg=f'{name} {key}')


@each_case('superb', where=kind('metric_error_rates'))
def test_error_rates(case: Case):
  references, hypotheses = (given(case, k) for k in ('reference', 'hypothesis'))
  want = {k: given(case, k, 'outputs') for k in case.info['outputs']}
  splits = {
    'words_single_space': lambda x: x.split(' '),
    'words_whitespace': str.split,
    'chars': list,
  }
  for r, h, row in zip(references, hypotheses, want['per_utterance'], strict=True):
    for name, split in splits.items():
      assert asr.edits(split(r), split(h)) == row[f'edits_{name}']
      assert len(split(r)) == row[name]
      errors = asr.unit_errors([split(r)], [split(h)])
      assert (errors.reference, errors.rate * errors.reference) == (row[name], row[f'edits_{name}'])

  def rate(pairs, split):
    return asr.unit_errors(*([split(x) for x in side] for side in zip(*pairs))).rate

  pairs = list(zip(references, hypotheses))
  assert rate(pairs, lambda x: x.split(' ')) == want['wer']
  assert rate(pairs, list) == want['cer']
  assert rate(given(case, 'phones'), lambda x: x.split(' ')) == want['per']
  words = asr.word_errors(references, hypotheses)
  assert 100 * words.rate == want['asr_wer_percent']
  assert words.rate == want['jiwer']['wer']


@each_case('superb', where=kind('metric_mtwv'))
def test_spoken_terms(case: Case):
  config, want = case.config, case.outputs
  scores, target = case.inputs['score'], case.inputs['target']
  np.testing.assert_array_equal(target.any(axis=1), want['kept_query'])
  beta = spoken_terms.beta(config['p_target'], config['c_miss'], config['c_fa'])
  assert beta == pytest.approx(config['beta'])
  args = dict(weight=beta, unlisted=config['default_score'])
  value, threshold = spoken_terms.maximum_term_weighted_value(scores, target, **args)
  np.testing.assert_allclose(
    [value, threshold], [want['mtwv'], want['mtwv_threshold']], rtol=0, atol=1e-6
  )
  above = np.nextafter(2.0, 3.0)
  for name, thresholds in {
    'twv_curve': np.linspace(-1, 4, len(want['twv_curve'])), 'atwv_at_2': above
  }.items():  # fmt: skip
    got = [
      spoken_terms.term_weighted_value(scores, target, x, **args) for x in np.ravel(thresholds)
    ]
    np.testing.assert_allclose(got, np.ravel(want[name]), rtol=0, atol=1e-6, err_msg=name)


SETTING = re.compile(r'collar_([\d.]+)(_no_overlap)?')


@each_case('superb', where=kind('metric_der'))
def test_diarization(case: Case):
  recordings = given(case, 'recordings')
  for row, (pair, want) in enumerate(zip(recordings, given(case, 'recordings', 'outputs'))):
    # As RTTM files have them: start and duration with two decimals.
    sides = [
      diarization.parse_rttm(diarization.rttm_text({'x': [diarization.Segment(*s) for s in side]}))
      for side in (pair['reference'], pair['hypothesis'])
    ]
    reference, hypothesis = (side.get('x', []) for side in sides)
    assert want
    for name, values in want.items():
      collar, single = SETTING.fullmatch(name).groups()
      args = dict(collar=float(collar), overlap=not single)
      found = diarization.diarization_errors(reference, hypothesis, extent='reference', **args)
      official = values['md_eval']
      assert 100 * found.rate == pytest.approx(official['der_percent'], abs=0.02), (row, name)
      times = (found.scored, found.missed, found.false_alarm, found.confusion)
      keys = ('scored_speaker_time', 'missed', 'false_alarm', 'confusion')
      assert times == pytest.approx([official[k] for k in keys], abs=0.02), (row, name)
      if values['dscore']:
        found = diarization.diarization_errors(reference, hypothesis, extent='joint', **args)
        assert 100 * found.rate == pytest.approx(values['dscore']['der'], abs=0.02), (row, name)
        jer = diarization.jaccard_error(reference, hypothesis)
        # dscore counts frames of 10 ms and loses one here and there; ours is of exact times.
        assert 100 * jer == pytest.approx(values['dscore']['jer'], abs=0.1), (row, name)


@each_case('superb', where=kind('superb_sd_scoring'))
def test_frames_to_der(case: Case):
  config = case.config
  seconds = config['frame_shift'] / config['sampling_rate']
  probability = case.inputs['probability']
  text = diarization.rttm_text(
    {'rec0': [diarization.Segment(*s) for s in given(case, 'reference')]}
  )
  reference = diarization.parse_rttm(text)['rec0']
  names = [f'rec0_{i}' for i in range(probability.shape[1])]
  rates = []
  for want in given(case, 'scores', 'outputs'):
    segments = diarization.frames_to_segments(
      probability, threshold=want['threshold'], median=want['median'], frame_seconds=seconds,
      names=names,
    )  # fmt: skip
    text = diarization.rttm_text({'rec0': segments})
    assert len(segments) == want['segments']
    assert hashlib.sha1(text.encode()).hexdigest() == want['rttm_sha1'], want
    if (want['median'], want['threshold']) == (1, 0.3):
      assert text == given(case, 'first_rttm', 'outputs')
    hypothesis = diarization.parse_rttm(text).get('rec0', [])
    found = diarization.diarization_errors(reference, hypothesis)
    rates.append(100 * found.rate)
    assert rates[-1] == pytest.approx(want['dscore_der'], abs=0.02)
    for key, collar in (('md_eval', 0.0), ('md_eval_collar_0.25', 0.25)):
      found = diarization.diarization_errors(
        reference, hypothesis, collar=collar, extent='reference'
      )
      assert 100 * found.rate == pytest.approx(want[key]['der_percent'], abs=0.02)
  assert min(rates) == pytest.approx(given(case, 'reported', 'outputs'), abs=0.02)


@each_case('superb', where=kind('metric_slots'))
def test_slots(case: Case):
  pairs = [(p['reference'], p['hypothesis']) for p in given(case, 'pairs')]
  functions = {
    'slot_type_f1': slots.slot_type_f1,
    'slot_value_cer': slots.slot_value_cer,
    'slot_value_wer': slots.slot_value_wer,
    'slot_edit_f1_full': lambda r, h: 100 * slots.slot_edit_f1(r, h),
    'slot_edit_f1_part': lambda r, h: 100 * slots.slot_edit_f1(r, h, all_slots=False),
  }
  for (r, h), want in zip(pairs, given(case, 'per_pair', 'outputs'), strict=True):
    assert slots.slots(r) == want['reference_slots']
    assert slots.slots(h, clean=True) == want['hypothesis_slots']
    for name, f in functions.items():
      value = np.nan if want[name] is None else want[name]
      assert f([r], [h]) == pytest.approx(value, rel=1e-12, nan_ok=True), (name, r, h)
  references, hypotheses = zip(*pairs)
  for name, value in given(case, 'corpus', 'outputs').items():
    assert functions[name](references, hypotheses) == pytest.approx(value, rel=1e-12), name


@each_case('superb', where=kind('metric_separation'))
def test_separation(case: Case):
  reference, estimate, mix = (case.inputs[k] / 32768 for k in ('reference', 'estimate', 'mix'))
  want = case.outputs
  matrix = separation.si_sdr(estimate[None], reference[:, None])
  np.testing.assert_allclose(matrix, want['si_sdr_matrix'], rtol=0, atol=1e-4)
  plain = separation.si_sdr(estimate[None], reference[:, None], zero_mean=False, eps=0.0)
  np.testing.assert_allclose(plain, want['si_sdr_matrix_no_mean_removal'], rtol=0, atol=1e-4)
  order = separation.best_permutation(matrix)
  np.testing.assert_array_equal(order, want['si_sdr_permutation'])
  each = separation.si_sdr(estimate[list(order)], reference)
  np.testing.assert_allclose(each, want['si_sdr'], rtol=0, atol=1e-4)
  before = separation.si_sdr(mix, reference)
  np.testing.assert_allclose(before, want['si_sdr_mix'], rtol=0, atol=1e-4)
  assert np.mean(each - before) == pytest.approx(float(want['si_sdr_improvement']), abs=1e-4)
  found = separation.bss_eval(estimate, reference)
  np.testing.assert_array_equal(found.permutation, want['bss_permutation'])
  for name in ('sdr', 'sir', 'sar'):
    np.testing.assert_allclose(getattr(found, name), want[f'bss_{name}'], rtol=0, atol=1e-2)


@each_case('superb', where=kind('metric_pesq_stoi'))
def test_enhancement(case: Case):
  from scipy.signal import resample_poly

  for library in ('pesq', 'pystoi'):
    pytest.importorskip(library)
  clean, noisy = (case.inputs[k] / 32768 for k in ('clean', 'noisy'))
  rate = case.config['sample_rate']
  for i, (x, row) in enumerate(zip(noisy, case.inputs['clean_index'], strict=True)):
    y = clean[row]
    half = [resample_poly(z, 1, 2) for z in (x, y)]
    found = {
      'pesq_wb': enhancement.pesq(x, y, rate),
      'pesq_nb': enhancement.pesq(x, y, rate, wide_band=False),
      'pesq_nb_8k': enhancement.pesq(*half, rate // 2, wide_band=False),
      'stoi': enhancement.stoi(x, y, rate),
      'estoi': enhancement.stoi(x, y, rate, extended=True),
      'si_sdr': separation.si_sdr(x, y),
    }
    assert found.keys() == case.outputs.keys()
    for name, value in found.items():
      limit = 1e-3 if 'pesq' in name else 1e-4
      assert value == pytest.approx(float(case.outputs[name][i]), abs=limit), (i, name)


@each_case('superb', where=kind('metric_mcd'))
def test_conversion(case: Case):
  pytest.importorskip('pyworld')
  config, want = case.config, case.outputs
  assert (config['mcep_dim'], config['alpha']) == (conversion.ORDER, conversion.ALPHA)
  pitch_range = tuple(config['f0_range'])
  for pair in sorted({k.split('/')[0] for k in case.inputs}):
    x, y = (case.inputs[f'{pair}/{k}'] / 32768 for k in ('converted', 'reference'))
    if f'{pair}/mcep_converted' in want:
      found = conversion.analyse(x, config['fs'], pitch_range)
      step = -(-len(found.cepstra) // len(want[f'{pair}/mcep_converted']))
      np.testing.assert_allclose(found.cepstra[::step], want[f'{pair}/mcep_converted'], atol=1e-3)
      np.testing.assert_allclose(found.pitch, want[f'{pair}/f0_converted'], atol=1e-2)
      np.testing.assert_allclose(found.power, want[f'{pair}/power_converted'], atol=1e-3)
    found = conversion.distortion(x, y, config['fs'], pitch_range)
    assert found.mcd == pytest.approx(float(want[f'{pair}/mcd']), abs=1e-3)
    assert found.f0_rmse == pytest.approx(float(want[f'{pair}/f0rmse']), abs=1e-2)
    assert found.f0_correlation == pytest.approx(float(want[f'{pair}/f0corr']), abs=1e-4)
    assert found.duration == pytest.approx(float(want[f'{pair}/ddur']), abs=1e-6)


@each_case('superb', where=kind('metric_bleu'))
def test_translation(case: Case):
  pytest.importorskip('sacrebleu')
  references, hypotheses = zip(*((p['reference'], p['hypothesis']) for p in given(case, 'pairs')))
  for name, entry in case.info['outputs'].items():
    if name == 'signature':
      continue
    found = translation.bleu(references, hypotheses, tokenize=name)
    assert found.score == pytest.approx(entry['value']['score'], abs=1e-6), name
    assert found.precisions == pytest.approx(entry['value']['precisions']), name
    assert found.brevity_penalty == pytest.approx(entry['value']['bp']), name
    assert f'tok:{name}' in found.signature


@each_case('superb', where=kind('superb_s'))
def test_overall(case: Case):
  for name, point in superb.REFERENCE_POINTS.items():
    assert list(point) == case.info['reference_points'][f'{name}_public']
  for result in case.info['results']:
    points = {n: tuple(case.info['reference_points'][n]) for n in result['metrics_used']}
    tasks = sorted({name.split('_')[0] for name in points})
    if result['subset'] in superb.SUBSETS:
      ours = superb.metrics_of(result['subset'])
      assert {f'{name}_public' for name in ours} == points.keys()
    rows = result['rows']
    found = superb.overall(
      [{k: v for k, v in row.items() if k in points} for row in rows],
      tasks,
      parameters=[row.get('paramShared') or 0 for row in rows],
      points=points,
    )
    assert [x.score for x in found] == result['score']
    numbers = lambda values: [np.nan if v is None else v for v in values]  # noqa: E731
    for key, wanted in (('superb_s', 'superb_s_unrounded'), ('superb_s_p', 'superb_s_p_unrounded'),
                        ('rank', 'rank')):  # fmt: skip
      got = [getattr(x, key) for x in found]
      assert got == pytest.approx(numbers(result[wanted]), rel=1e-9, nan_ok=True), key
    for x, want in zip(found, result['per_metric'], strict=True):
      want = {k: v for k, v in want.items() if v is not None}
      assert x.per_metric == pytest.approx(want, rel=1e-9)
