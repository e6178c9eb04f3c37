"""Every front-end against its reference implementation, on whatever cases the golden folder holds.

A case is told by what it gives out (`fbank<i>`, `input<i>`, `logmel_torchaudio<i>` …) and its
settings come from its json. The limits are those the golden files state. Every clip is checked
twice: alone, and in a batch with the others, NaN behind its end.
"""

import re

import jax
import numpy as np
import scipy.fft

from research.features import augment, clips, filters
from research.features.fbank import EPSILON, kaldi_fbank
from research.features.frontend import Frontend, fit_frames
from research.features.mfcc import kaldi_mfcc, kaldi_mfcc_deltas
from tests.parity.golden import Case, assert_close, assert_near, each_case


def batched(waves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """[b, t] with NaN behind each clip's end, and the mask."""
  longest = max(len(wave) for wave in waves)
  audio = np.full((len(waves), longest), np.nan, np.float32)
  mask = np.zeros((len(waves), longest), bool)
  for row, wave in enumerate(waves):
    audio[row, : len(wave)] = wave
    mask[row, : len(wave)] = True
  return audio, mask


def numbered(arrays: dict[str, np.ndarray], pattern: str) -> dict[int, np.ndarray]:
  """Arrays whose name matches `pattern`, by the number in its group."""
  found = ((re.fullmatch(pattern, name), value) for name, value in arrays.items())
  return {int(match[1]): value for match, value in found if match}


def alone_and_batched(function, waves: dict[int, np.ndarray]):
  """(number, spectrogram [s, f]) of each wave, alone and then from one padded batch, jitted."""
  function = jax.jit(function)
  for number, wave in waves.items():
    values, frame_mask = function(*batched([wave]))
    assert np.asarray(frame_mask).all()
    yield number, np.asarray(values[0])
  values, frame_mask = function(*batched(list(waves.values())))
  for row, number in enumerate(waves):
    real = np.asarray(frame_mask[row])
    assert (np.asarray(values[row])[~real] == 0).all()
    yield number, np.asarray(values[row])[real]


def all_real(function):
  """A front-end that takes every sample of its input as audio."""
  return lambda audio: function(audio, np.ones(audio.shape, bool))


@each_case('features')
def test_front_end(case: Case):
  checks = {
    r'fbank\d+': check_kaldi_fbank,
    r'input\d+': check_audio_mae_input,
    r'logmel_torchaudio\d+': check_byol_a_v1,
    r'logmel\d+': check_byol_a_v2,
    r'nonfusion_mel\d+': check_clap,
    r'logmel\d+_pad\d+_\d+': check_whisper,
    r'mfcc\d+_\d+': check_mfcc,
  }
  known = [
    check
    for pattern, check in checks.items()
    if any(re.fullmatch(pattern, name) for name in case.outputs)
  ]
  assert len(known) == 1, f'no check knows the outputs {sorted(case.outputs)}'
  known[0](case)


@each_case('mfcc_kmeans', where=lambda case: case.info.get('kind') == 'mfcc')
def test_mfcc(case: Case):
  check_mfcc(case)


# ---------------------------------------------------------------------------------------------
# Kaldi.


def kaldi_settings(config: dict) -> dict:
  """Arguments of our functions from a case's names; an unknown setting fails when it is passed."""
  names = {'window_type': 'window'}
  fixed = {'dither': 0.0, 'delta_pad': 'replicate', 'energy_floor': None, 'waveform_scale': None}
  settings = {}
  for key, value in config.items():
    if key in fixed:
      assert fixed[key] in (None, value), f'{key} = {value!r} is not implemented'
    else:
      settings[names.get(key, key)] = value
  if 'energy_floor' in config:
    settings['energy_floor'] = config['energy_floor']
  return settings


def check_kaldi_fbank(case: Case):
  settings = kaldi_settings(case.config)
  waves, wanted = numbered(case.inputs, r'wave(\d+)'), numbered(case.outputs, r'fbank(\d+)')
  assert waves and set(waves) == set(wanted)
  for number, got in alone_and_batched(lambda a, m: kaldi_fbank(a, m, **settings), waves):
    want = wanted[number]
    if not settings.get('use_log_fbank', True):
      assert_close(got, want, what=f'fbank{number}')
      continue
    assert_near(got, want, max_abs=5e-3, mean_abs=5e-5, what=f'fbank{number}')
    assert_close(np.exp(got), np.exp(want), what=f'exp(fbank{number})')


def check_mfcc(case: Case):
  settings = kaldi_settings(case.config)
  plain = {key: value for key, value in settings.items() if key != 'delta_win_length'}
  mel = {key: value for key, value in plain.items() if key not in ('num_ceps', 'cepstral_lifter')}
  stages = {
    'log_mel': lambda a, m: kaldi_fbank(a, m, **mel),
    f'mfcc{settings["num_ceps"]}': lambda a, m: kaldi_mfcc(a, m, **plain),
    f'mfcc{3 * settings["num_ceps"]}': lambda a, m: kaldi_mfcc_deltas(a, m, **settings),
  }
  waves = numbered(case.inputs, r'wave(?:form_)?(\d+)')
  compared = set()
  for kind, (stage, function) in zip(('log_mel', 'ceps', 'deltas'), stages.items()):
    if not any(name.startswith(f'{stage}_') for name in case.outputs):
      continue
    for number, got in alone_and_batched(function, waves):
      key = f'{stage}_{number}'
      compared.add(key)
      log_mel = case.outputs.get(f'log_mel_{number}')
      if log_mel is None:
        assert_close(got, case.outputs[key], what=key)
      else:
        exact = mfcc_in_float64(waves[number], settings)[kind]
        check_by_mel_floor(key, got, case.outputs[key], exact, log_mel)
  assert compared == set(case.outputs)


def check_by_mel_floor(key: str, got, want, exact, log_mel):
  """The stated limits: 1e-3 in frames above the mel floor (log-mel: in such bins), 1e-2 elsewhere.

  A chirp's mel energies span ten decades, and the float32 FFT of the recorded values is itself
  farther from float64 arithmetic than the limit (1.3e-2 against 1e-2). Two float32 computations can
  differ by twice such a distance: where it is larger than the limit, that is the limit.
  """
  floored = log_mel <= np.log(EPSILON) + 1e-4
  low = (
    floored
    if got.shape == log_mel.shape
    else np.broadcast_to(floored.any(axis=1)[:, None], got.shape)
  )
  for where, limit in ((~low, 1e-3), (low, 1e-2)):
    if where.any():
      rounding = np.abs(want - exact)[where].max()
      assert_near(got[where], want[where], max_abs=max(limit, 2 * rounding), what=key)
      assert_near(got[where], exact[where], max_abs=max(limit, 2 * rounding), what=f'exact {key}')


def mfcc_in_float64(wave: np.ndarray, settings: dict) -> dict[str, np.ndarray]:
  """The same chain in float64 NumPy, to know how far rounding carries float32 values."""
  assert settings.get('window', 'povey') == 'povey' and not settings.get('use_energy')
  rate, ceps = settings['sample_rate'], settings['num_ceps']
  size, shift = (
    int(rate * settings.get(k, d) / 1000)
    for k, d in (('frame_length_ms', 25), ('frame_shift_ms', 10))
  )
  frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), size)[::shift]
  frames = frames - frames.mean(axis=1, keepdims=True)
  previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
  taper = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))) ** 0.85
  frames = (frames - settings.get('preemphasis', 0.97) * previous) * taper
  n_fft = 2 ** int(np.ceil(np.log2(size)))
  matrix = filters.mel_filterbank(
    sample_rate=rate,
    n_fft=n_fft,
    num_mel_bins=settings['num_mel_bins'],
    f_min=settings['low_freq'],
    f_max=settings['high_freq'] or rate / 2,
    scale='kaldi',
  )
  log_mel = np.log(
    np.maximum(np.abs(np.fft.rfft(frames, n_fft)) ** 2 @ matrix.astype(np.float64), EPSILON)
  )
  lifter = 1 + settings['cepstral_lifter'] / 2 * np.sin(
    np.pi * np.arange(ceps) / settings['cepstral_lifter']
  )
  cepstra = (
    log_mel @ scipy.fft.dct(np.eye(settings['num_mel_bins']), norm='ortho')[:, :ceps] * lifter
  )

  def slope(x):
    half = settings['delta_win_length'] // 2
    padded = np.pad(x, ((half, half), (0, 0)), mode='edge')
    weights = np.arange(-half, half + 1) / (2 * sum(i * i for i in range(1, half + 1)))
    return sum(w * padded[i : i + len(x)] for i, w in enumerate(weights))

  first = slope(cepstra)
  return {
    'log_mel': log_mel,
    'ceps': cepstra,
    'deltas': np.concatenate([cepstra, first, slope(first)], axis=1),
  }


# ---------------------------------------------------------------------------------------------
# AudioMAE.


def check_audio_mae_input(case: Case):
  if 'items' in case.config:
    check_audio_mae_training_input(case)
    return
  waves = numbered(case.inputs, r'wave(\d+)')
  assert waves and len(waves) == len(case.config['settings'])
  for number, wave in waves.items():
    settings = case.config['settings'][number]
    frontend = audio_mae_frontend(case, settings)
    # Alone, and with a longer clip beside it.
    beside = np.ones(len(wave) + 3001, np.float32)
    for waves_in in ([wave], [wave, beside]):
      got, _ = jax.jit(frontend, static_argnums=2)(*batched(waves_in), settings['target_length'])
      want = case.outputs[f'input{number}'][0]
      assert_near(got[0], want, max_abs=6e-4, mean_abs=1e-5, what=f'input{number}')


def audio_mae_frontend(case: Case, settings: dict) -> Frontend:
  return Frontend.create(
    'kaldi_fbank',
    sample_rate=case.config['sample_rate'],
    num_mel_bins=case.config['num_mel_bins'],
    mean=settings['mean'],
    std=settings['std'],
  )


def check_audio_mae_training_input(case: Case):
  for number, item in enumerate(case.config['items']):
    got, label = training_input(case, number, item)
    want = case.outputs[f'input{number}'][0]
    assert_near(got, want, max_abs=6e-4, mean_abs=1e-5, what=f'input{number}')
    assert_near(label, case.outputs[f'label{number}'], max_abs=1e-6, what=f'label{number}')


def training_input(case: Case, number: int, item: dict):
  """The published training pipeline with the recorded draws, from our parts."""
  parts = ((re.fullmatch(r'(\D+)(\d+)(\D*)', name), value) for name, value in case.inputs.items())
  inputs = {m[1] + m[3]: value for m, value in parts if m and int(m[2]) == number}
  waves = [inputs['wave_a']] + ([inputs['wave_b']] if item['mixup'] else [])
  audio, mask = batched(waves)
  beta = inputs['beta']
  hot = np.zeros((2, case.config['label_num']), np.float32)
  hot[0, item['labels_a']] = hot[1, item['labels_b']] = 1

  # Gain, mixup.
  audio = augment.apply_gain(audio, beta[: len(waves)] + np.float32(0.5))
  weight = beta[2:3] if item['mixup'] else np.ones(1, np.float32)
  last = len(waves) - 1
  audio = augment.mix_waveforms(audio[:1], mask[:1], audio[last:], mask[last:], weight)
  label = augment.mix_labels(hot[:1], hot[1:], weight)[0]

  # Log-mel, SpecAug on it, statistics, noise.
  frontend = audio_mae_frontend(case, item)
  spectrogram, _ = fit_frames(*frontend.raw(audio, mask[:1]), item['target_length'])
  draws = inputs['specaug_u'][None]
  spectrogram = augment.spec_augment(spectrogram, draws, freq=item['freqm'], time=item['timem'])
  spectrogram = frontend.normalise(spectrogram)
  if item['noise']:
    spectrogram = augment.noise_and_roll(
      spectrogram,
      inputs['noise_u'][None],
      inputs['noise_scale'],
      inputs['noise_shift'].astype(np.int32),
    )
  return spectrogram[0], label


# ---------------------------------------------------------------------------------------------
# BYOL-A.


def byol_a_frontend(case: Case, name: str, **settings) -> Frontend:
  config = case.config
  return Frontend.create(
    name,
    sample_rate=config['sample_rate'],
    num_mel_bins=config['n_mels'],
    n_fft=config['n_fft'],
    win_length=config['win_length'],
    hop_length=config['hop_length'],
    f_min=config['f_min'],
    f_max=config['f_max'],
    **settings,
  )


def check_byol_a(case: Case, frontends: dict[str, Frontend], align: str, unit: int):
  """`logmel…` (a unit cut or padded at the recorded start, zeros taken as audio) and `whole…`."""
  waves = numbered(case.inputs, r'wave(\d+)')
  compared = set()
  for suffix, frontend in frontends.items():
    for number, got in alone_and_batched(frontend.raw, waves):
      key = f'whole{suffix}{number}'
      if key in case.outputs:
        compared.add(key)
        assert_close(got.T[None], case.outputs[key], what=key)
    for number, wave in waves.items():
      start = case.inputs[f'start{number}'].astype(np.int32)
      audio, _ = clips.crop_or_pad(*batched([wave]), start, samples=unit, align=align)
      got, _ = all_real(frontend.raw)(audio)
      key = f'logmel{suffix}{number}'
      compared.add(key)
      assert_close(np.swapaxes(got, 1, 2), case.outputs[key], what=key)
  assert compared == set(case.outputs)


def check_byol_a_v1(case: Case):
  frontends = {
    '_torchaudio': byol_a_frontend(case, 'byol_a_v1'),
    '_librosa_reflect': byol_a_frontend(case, 'byol_a_v1_librosa'),
    '_librosa_constant': byol_a_frontend(case, 'byol_a_v1_librosa', pad_mode='constant'),
  }
  unit = int(case.config['sample_rate'] * case.config['unit_sec'])
  check_byol_a(case, frontends, 'centre', unit)


def check_byol_a_v2(case: Case):
  frontends = {'': byol_a_frontend(case, 'byol_a_v2')}
  check_byol_a(case, frontends, 'start', case.config['unit_samples'])


# ---------------------------------------------------------------------------------------------
# CLAP, Whisper.


def check_clap(case: Case):
  config, max_len = case.config, case.config['max_len']
  audio_config = config['audio_cfg']
  settings = {
    'sample_rate': audio_config['sample_rate'],
    'num_mel_bins': audio_config['mel_bins'],
    'n_fft': audio_config['window_size'],
    'hop_length': audio_config['hop_size'],
    'f_min': audio_config['fmin'],
    'f_max': audio_config['fmax'],
  }
  frontends = {
    'nonfusion': Frontend.create('laion_clap', **settings),
    'fusion': Frontend.create('laion_clap_fusion', **settings),
  }
  compared = set()
  for number, wave in numbered(case.inputs, r'wave(\d+)').items():
    longer = len(wave) > max_len
    audio, mask = batched(
      [np.asarray(clips.int16_round_trip(wave)), np.ones(max_len + 7, np.float32)]
    )
    if longer:
      starts = np.repeat(case.inputs[f'start{number}'].astype(np.int32), 2)
      audio, mask = clips.crop_or_pad(audio, mask, starts, samples=max_len)
    audio = fill(config['data_filling'], audio, mask, max_len)[:1]
    got = {f'longer{number}': np.array([longer]), f'waveform_tail{number}': audio[0]}
    for mode, frontend in frontends.items():
      mel = all_real(frontend.raw)(audio)[0]
      got[f'{mode}_mel{number}'] = mel if mode == 'nonfusion' else mel[0]
    for key, value in got.items():
      if key in case.outputs:
        compared.add(key)
        want = case.outputs[key].astype(np.float32)
        value = value[-len(want) :] if key.startswith('waveform_tail') else value
        check_clap_output(key, np.asarray(value, np.float32), want)
  assert compared == set(case.outputs)


def fill(how: str, audio, mask, samples: int):
  """LAION-CLAP's ways to bring a short clip to its length."""
  if how == 'pad':
    return clips.crop_or_pad(audio, mask, np.zeros(len(audio), np.int32), samples=samples)[0]
  assert how in ('repeat', 'repeatpad'), f'data_filling = {how!r} is not implemented'
  return clips.repeat_pad(audio, mask, samples=samples, cut_last=how == 'repeat')


def check_clap_output(key: str, got: np.ndarray, want: np.ndarray):
  if 'mel' not in key:
    assert_near(got, want, max_abs=0.0, what=key)
    return
  loud = want > -80
  assert_near(got[loud], want[loud], max_abs=1e-2, mean_abs=1e-4, what=key)
  assert got.shape == want.shape
  # Below that the reference is rounding noise around its floor: ours must be down there too.
  assert (got[~loud] <= -79.9).all()


def exact_whisper(wave: np.ndarray, n_mels: int, appended: int, config) -> np.ndarray:
  """Whisper's log-mel [f, s] in float64."""
  n_fft, hop = config['n_fft'], config['hop_length']
  padded = np.pad(np.pad(wave.astype(np.float64), (0, appended)), n_fft // 2, mode='reflect')
  frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop][:-1]
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
  power = np.abs(np.fft.rfft(frames * window)) ** 2
  weights = filters.mel_filterbank(
    sample_rate=config['sample_rate'], n_fft=n_fft, num_mel_bins=n_mels, norm='slaney'
  )
  logs = np.log10(np.maximum(power @ weights.astype(np.float64), 1e-10))
  return ((np.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0).T


def check_whisper(case: Case):
  config = case.config
  waves = numbered(case.inputs, r'wave(\d+)')
  compared = set()
  limits = {'max_abs': 3e-4, 'mean_abs': 2e-6}
  settings = {
    'sample_rate': config['sample_rate'],
    'n_fft': config['n_fft'],
    'hop_length': config['hop_length'],
  }
  for n_mels in config['n_mels']:
    for appended in config['padding']:
      frontend = Frontend.create('whisper', num_mel_bins=n_mels, appended=appended, **settings)
      for number, got in alone_and_batched(frontend.raw, waves):
        key = f'logmel{n_mels}_pad{appended}_{number}'
        compared.add(key)
        want = case.outputs[key]
        # On some recordings torch's own rounding is as large as the case's limit: ours may be as
        # far from the exact values as torch's is.
        exact = exact_whisper(waves[number], n_mels, appended, config)
        rounding = float(np.abs(want - exact).mean())
        assert_near(got.T, exact, what=f'{key}, exact', max_abs=3e-4, mean_abs=max(2e-6, rounding))
        assert_near(
          got.T, want, what=key, max_abs=3e-4, mean_abs=max(limits['mean_abs'], 2 * rounding)
        )

  # 30 seconds: zeros count as audio.
  clip30 = config['pad_or_trim']
  audio, mask = batched([case.inputs[clip30['wave']]])
  zero = np.zeros(1, np.int32)
  audio, _ = clips.crop_or_pad(audio, mask, zero, samples=30 * config['sample_rate'])
  frontend = Frontend.create('whisper', num_mel_bins=clip30['n_mels'], **settings)
  got = np.asarray(all_real(frontend.raw)(audio)[0])[0].T
  want = case.outputs['clip30_head']
  assert_near(got[:, : clip30['keep']], want, what='clip30_head', **limits)
  stats = [got.mean(dtype=np.float64), got.std(dtype=np.float64), got.min(), got.max()]
  assert_near(stats, case.outputs['clip30_stats'], what='clip30_stats', max_abs=limits['max_abs'])
  assert_near(stats[:1], case.outputs['clip30_stats'][:1], what='mean', max_abs=limits['mean_abs'])
  assert compared | {'clip30_head', 'clip30_stats'} == set(case.outputs)
