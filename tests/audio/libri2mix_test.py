"""Libri2Mix from metadata: samples, lists, turns, and what is said of missing recordings."""

import csv
import io

import numpy as np
import pytest
import soundfile

from research.audio import mixtures
from research.audio.mixtures import writing
from research.audio.sources import open_source
from research.errors import InputError

IDS = ('10-20-0001_30-40-0002', '50-60-0000_10-20-0001')
GAINS = ((0.5, 1.5, 2.0), (30.0, 0.25, 0.5))  # the first source of the second one clips


@pytest.fixture
def published(tmp_path):
  """LibriSpeech, WHAM and metadata of two mixtures."""
  rng = np.random.default_rng(0)
  lengths = {'10-20-0001': 12_000, '30-40-0002': 16_000, '50-60-0000': 20_000}
  paths = {}
  for name, length in lengths.items():
    speaker, chapter, _ = name.split('-')
    paths[name] = f'test-clean/{speaker}/{chapter}/{name}.flac'
    (tmp_path / 'ls' / paths[name]).parent.mkdir(parents=True)
    audio = 0.1 * rng.standard_normal(length)
    audio[: length // 4] = 0
    soundfile.write(tmp_path / 'ls' / paths[name], audio, 16000)
  (tmp_path / 'wham' / 'tt').mkdir(parents=True)
  for k, length in enumerate((30_000, 9000)):  # the second is shorter than its mixture
    soundfile.write(
      tmp_path / 'wham' / 'tt' / f'{k}.wav', 0.1 * rng.standard_normal((length, 2)), 16000
    )
  rows = []
  for k, (id, gains) in enumerate(zip(IDS, GAINS)):
    one, two = id.split('_')
    rows.append([id, paths[one], gains[0], paths[two], gains[1], f'tt/{k}.wav', gains[2]])
  (tmp_path / 'meta').mkdir()
  table(tmp_path / 'meta' / 'libri2mix_test-clean.csv', rows)
  return tmp_path


def table(path, rows):
  text = io.StringIO()
  names = 'mixture_ID source_1_path source_1_gain source_2_path source_2_gain noise_path noise_gain'
  csv.writer(text, lineterminator='\n').writerows([names.split(), *rows])
  path.write_text(text.getvalue())
  return rows


def made(root, out, noise=True, **args):
  recipe = mixtures.recipe(
    'libri2mix', str(root / 'ls'), str(root / 'wham') if noise else None,
    **{'metadata': str(root / 'meta'), 'subsets': ['test'], **args},
  )  # fmt: skip
  writing.write(recipe, out, encoding='wav', num_workers=1)
  return out


def written(audio):
  """16-bit samples as soundfile writes floats."""
  buffer = io.BytesIO()
  soundfile.write(buffer, audio, 16000, format='WAV', subtype='PCM_16')
  buffer.seek(0)
  return soundfile.read(buffer, dtype='int16')[0]


@pytest.mark.parametrize('mode', ['min', 'max'])
def test_samples(published, tmp_path, mode):
  out = made(published, tmp_path / 'out', mode=mode, types=['mix_clean', 'mix_both', 'mix_single'])
  base = out / 'wav16k' / mode / 'test'
  for k, (id, gains) in enumerate(zip(IDS, GAINS)):
    parts = []
    for name, gain in zip(id.split('_'), gains):
      speaker, chapter, _ = name.split('-')
      path = published / 'ls' / 'test-clean' / speaker / chapter / f'{name}.flac'
      parts.append(soundfile.read(path, dtype='float32')[0] * np.float32(gain))
    longest = max(map(len, parts))
    noise = soundfile.read(published / 'wham' / 'tt' / f'{k}.wav', dtype='float32')[0][:, 0]
    if len(noise) < longest:
      window = np.hanning(16001)
      cross = noise[-8001:] * window[8000::-1] + noise[:8001] * window[:8001]
      once = np.concatenate([noise[:-8001], cross, noise[8001:]])
      while len(once) < longest:
        cross = once[-8001:] * window[8000::-1] + noise[:8001] * window[:8001]
        once = np.concatenate([once[:-8001], cross, noise[8001:]])
      noise = once
    parts.append(noise[:longest] * gains[2])
    size = min(map(len, parts)) if mode == 'min' else longest
    parts = [np.pad(p, (0, max(0, size - len(p))))[:size] for p in parts]
    clean = parts[0] + parts[1]
    want = {
      's1': parts[0], 's2': parts[1], 'noise': parts[2], 'mix_clean': clean,
      'mix_both': (clean + parts[2]).astype(np.float32),
      'mix_single': (parts[0] + parts[2]).astype(np.float32),
    }  # fmt: skip
    for kind, audio in want.items():
      got, rate = soundfile.read(base / kind / f'{id}.wav', dtype='int16')
      assert rate == 16000
      np.testing.assert_array_equal(got, written(audio), err_msg=f'{id} {kind}')
  scp = (base / 's1' / 'wav.scp').read_text().split()
  assert scp == [part for id in sorted(IDS) for part in (id, f'{id}.wav')]


def test_the_readers_open_it(published, tmp_path):
  out = made(published, tmp_path / 'ss', noise=False)
  source = open_source({'name': 'superb_ss', 'args': {'root': str(out)}}, split='test')
  assert len(source) == 2 and not (out / 'wav16k' / 'min' / 'test' / 'noise').exists()
  assert source[0].columns['s2'] == f'test/s2/{IDS[0]}.wav'
  # Turns by the energy of the sources, which are silent in their first quarter.
  out = made(published, tmp_path / 'sd', mode='max', types=['mix_both'])
  source = open_source({'name': 'superb_sd', 'args': {'root': str(out)}}, split='test')
  turns = {e.id: [t.split() for t in e.columns['turns']] for e in source}[IDS[0]]
  assert [t[0] for t in turns] == ['10', '30']
  assert abs(float(turns[0][1]) - 3000 / 16000) <= 0.02 and float(turns[1][2]) == 1.0
  assert source.durations().max() == 20_000 / 16000
  assert source[0].path.endswith(f'mix_both/{IDS[0]}.wav')


def test_turns_of_an_alignment(published, tmp_path):
  rttm = tmp_path / 'rttm'
  rttm.mkdir()
  lines = [
    'SPEAKER 20-0001 1 0.31 0.22 <NA> <NA> 10 <NA> <NA>',
    'SPEAKER 40-0002 1 0.1 0.2 <NA> <NA> 30 <NA> <NA>',
    'SPEAKER 60-0000 1 0.0 0.5 <NA> <NA> 50 <NA> <NA>',
    'SPEAKER 60-0000 1 0.7 0.2 <NA> <NA> 50 <NA> <NA>',
  ]
  file = rttm / 'test_clean.rttm'
  file.write_text('\n'.join(lines) + '\n')
  args = dict(mode='max', types=['mix_both'], rttm=str(rttm))
  out = made(published, tmp_path / 'sd', **args)
  segments = (out / 'wav16k' / 'max' / 'test' / 'segments').read_text().splitlines()
  found = sorted(tuple(map(float, s.split()[2:])) for s in segments if s.split()[1] == IDS[1])
  # Ends are sums, as the official lists have them: 0.7 + 0.2 is not 0.9.
  assert found == [(0.0, 0.5), (0.31, 0.31 + 0.22), (0.7, 0.7 + 0.2)] and 0.7 + 0.2 != 0.9
  file.write_text(lines[0] + '\n')
  with pytest.raises(InputError, match="no turns of the utterance '30-40-0002'"):
    made(published, tmp_path / 'other', **args)
  file.write_text('SPEAKER 20-0001 1\n')
  with pytest.raises(InputError, match='line 1: not a line of RTTM'):
    made(published, tmp_path / 'other', **args)


def test_mistakes(published, tmp_path):
  for args, message in (
    (dict(subsets=['test-clean']), 'Unknown subset of Libri2Mix'),
    (dict(types=['mix']), 'Unknown type of Libri2Mix'),
    (dict(mode='mean'), 'Unknown mode of Libri2Mix'),
    (dict(sample_rate=44100), '16000 or 8000 Hz, not 44100'),
    (dict(types=['mix_both'], noise=False), 'mix_both need --noise'),
    (dict(subsets=['dev']), r'libri2mix_dev-clean\.csv does not exist; expected the metadata'),
  ):
    with pytest.raises(InputError, match=message):
      made(published, tmp_path / 'out', **args)
  with pytest.raises(InputError, match="libri2mix needs the argument 'metadata'"):
    mixtures.recipe('libri2mix', str(published / 'ls'))
  file = published / 'meta' / 'libri2mix_test-clean.csv'
  whole = file.read_text()
  for old, new, message in (
    ('noise_gain', 'gain', "line 2: no column 'noise_gain'"),
    (',0.5,', ',loud,', 'line 2: a gain is no number'),
    (IDS[0] + ',', '../x,', "the mixture '../x' is not named"),
    ('test-clean/10/', '../10/', 'goes up by'),
    ('tt/1.wav', 'tt/1sp08.wav', r'1 of 5 recordings are missing for test.*augment_train_noise'),
  ):
    file.write_text(whole.replace(old, new))
    with pytest.raises(InputError, match=message):
      made(published, tmp_path / 'out', types=['mix_both'])
  file.write_text(whole)
  soundfile.write(published / 'wham' / 'tt' / '0.wav', np.zeros((100, 2)), 8000)
  with pytest.raises(InputError, match=r'0\.wav has 8000 Hz'):
    made(published, tmp_path / 'out', types=['mix_both'])
