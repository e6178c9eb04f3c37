"""`python -m launch.diarize`, `launch.separate` and `launch.verify` with heads of random weights:
what they write is what the functions give."""

import json

import numpy as np
import pytest
import soundfile

from research import weights
from research.inference import calibration
from research.metrics.diarization import rttm_text
from tests.inference.diarize_test import under
from tests.inference.toy_heads import RATE, talk
from tests.launch import runner

NAMES = ('a.wav', 'b.wav', 'deep/c d.wav')


def rows_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Three recordings, one in a folder and with a space in its name, and a bad file."""
  root = tmp_path_factory.mktemp('audio')
  (root / 'deep').mkdir()
  rng = np.random.default_rng(0)
  for i, name in enumerate(NAMES):
    audio = talk(((0.1, 0.7, i), (0.5, 1.1, (i + 1) % 3)), 1.4)
    audio += 1e-2 * rng.standard_normal(len(audio)).astype(np.float32)
    rate = RATE
    if i == 2:  # of another rate, with two channels
      audio, rate = np.stack([audio, 0.5 * audio], axis=1), 22_050
    soundfile.write(root / name, audio, rate, subtype='FLOAT')
  (root / 'broken.wav').write_bytes(b'RIFF')
  return root


def saved(loaded, folder):
  weights.save(loaded, folder)
  return folder


@pytest.mark.slow
def test_diarize(folder, tmp_path):
  loaded = under('diarization', features=6)
  model = saved(loaded, tmp_path / 'model')
  how = dict(threshold=0.5001, median=3)  # random weights are undecided
  want = {
    name: loaded.diarize(folder / file, **how) for name, file in zip(('a', 'b', 'deep/c_d'), NAMES)
  }
  assert sum(map(len, want.values())) > 3
  out, reference = tmp_path / 'found.rttm', tmp_path / 'said.rttm'
  reference.write_text(rttm_text(want))
  done = runner.run(
    'launch.diarize', f'--model={model}', f'--input={folder}', f'--out={out}',
    f'--reference={reference}', *(f'--{name}={value}' for name, value in how.items()),
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  assert '3 recordings, 1 left out' in done.stdout and 'broken.wav' in done.stdout
  # The reference is what `load(…).diarize` finds.
  assert 'DER 0.00 % (missed 0.00 %, false alarms 0.00 %, confusion 0.00 %;' in done.stdout
  assert out.read_text() == reference.read_text()
  assert not out.with_name('found.rttm.parts').exists()


@pytest.mark.slow
def test_separate(folder, tmp_path):
  loaded = under('masks', signals=2, features=4, num_layers=1, hop=160)
  model, out = saved(loaded, tmp_path / 'model'), tmp_path / 'out'
  command = ('launch.separate', f'--model={model}', f'--input={folder}', f'--out={out}')
  done = runner.run(*command)
  assert done.returncode == 0, done.stderr[-2000:]
  assert f'{out}: 6 files of 3 recordings, 1 left out' in done.stdout
  rows = {row['id']: row for row in rows_of(out / 'files.jsonl')}
  assert rows['deep/c d.wav']['files'] == ['deep/c d_1.wav', 'deep/c d_2.wav']
  assert rows['a.wav']['seconds'] == 1.4 and 'error' in rows['broken.wav']
  want = loaded.separate(folder / 'deep/c d.wav')
  for k, name in enumerate(rows['deep/c d.wav']['files']):
    signal, rate = soundfile.read(out / name, dtype='float32')
    assert rate == RATE
    np.testing.assert_allclose(signal, want[k], atol=1e-6)
  # Against what it has just made: itself.
  judged = tmp_path / 'judged'
  done = runner.run(
    'launch.separate', f'--model={model}', f'--input={folder / "a.wav"}', f'--out={judged}',
    f'--reference={out}', '--metrics=si_sdr',
  )  # fmt: skip
  assert done.returncode == 0 and 'si_sdri' in done.stdout, done.stderr[-2000:]
  mixture, separated = json.loads((judged / 'scores.json').read_text())
  assert (mixture['system'], mixture['si_sdri']) == ('mixture', 0.0)
  assert separated['si_sdr'] > 60 and separated['files'] == 1
  again = runner.run(*command)
  assert again.returncode == 2 and 'is there already' in again.stderr


def test_verify(folder, tmp_path):
  loaded = under('x_vector', width=8, pooled_width=10)
  model = saved(loaded, tmp_path / 'model')
  a, b, c = (folder / name for name in NAMES)
  pairs = [(1, a, a), (0, a, b), (1, b, c), (0, b, a), (0, c, a)]
  labelled, kept = tmp_path / 'labelled.txt', tmp_path / 'scores.jsonl'
  labelled.write_text(''.join(f'{s}\t{x}\t{y}\n' for s, x, y in pairs))
  scores = np.array([loaded.verify(x, y) for _, x, y in pairs])
  want = calibration.calibrate(scores, np.array([s for s, *_ in pairs]), model=loaded.fingerprint)
  calibration.save(want, tmp_path / 'c.json')
  base = ('launch.verify', f'--model={model}')
  done = runner.run(
    *base, f'--trials={labelled}', f'--threshold={tmp_path / "c.json"}', f'--out={kept}'
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert f'EER {100 * want.eer:.2f} %' in done.stdout and 'minDCF' in done.stdout
  rows = rows_of(kept)
  np.testing.assert_allclose([row['score'] for row in rows], scores, atol=2e-6)
  assert rows[0]['decision'] == 'same' and rows[0]['score'] == pytest.approx(1.0, abs=1e-5)
  assert rows[1]['probability'] == pytest.approx(float(want.probability(scores[1])), abs=1e-3)


@pytest.mark.slow
def test_calibrate_and_two_files(folder, tmp_path):
  loaded = under('x_vector', width=8, pooled_width=10)
  model = saved(loaded, tmp_path / 'model')
  a, b, c = (folder / name for name in NAMES)
  pairs = [(1, 'a.wav', 'a.wav'), (0, 'a.wav', 'b.wav'), (1, 'b.wav', c), (0, c, 'a.wav')]
  labelled = tmp_path / 'labelled.txt'
  labelled.write_text(''.join(f'{s}\t{x}\t{y}\n' for s, x, y in pairs))
  base = ('launch.verify', f'--model={model}')
  done = runner.run(*base, f'--calibrate={labelled}', f'--root={folder}', '--p_target=0.05')
  assert done.returncode == 0, done.stderr[-2000:]
  scores = np.array([loaded.verify(folder / x, folder / y) for _, x, y in pairs])
  want = calibration.calibrate(scores, np.array([s for s, *_ in pairs]), p_target=0.05)
  file = tmp_path / 'labelled.txt.calibration.json'
  found = calibration.load(file, loaded.fingerprint)
  for name in ('eer', 'min_dcf', 'eer_threshold', 'min_dcf_threshold', 'slope', 'offset'):
    assert getattr(found, name) == pytest.approx(getattr(want, name), rel=1e-2), name
  done = runner.run(*base, f'--files={a},{a}', f'--threshold={file}', '--rule=cost')
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.startswith(f' 1.0000  {a}  {a}  same  (probability')
  # Whole recordings are more alike than the windows that are clustered.
  how = ('launch.diarize', f'--model={model}', f'--input={a}', f'--similarity={file}')
  assert 'is of whole recordings' in runner.run(*how).stderr
  done = runner.run(*base, f'--calibrate={labelled}', f'--root={folder}', '--seconds=0.5',
                    '--overwrite')  # fmt: skip
  middle = [soundfile.read(folder / x, dtype='float32')[0][7200:15200] for x in NAMES[:2]]
  score = loaded.verify(*middle, RATE)
  done = runner.run(*base, f'--files={a},{b}', '--seconds=0.5', f'--threshold={file}')
  assert float(done.stdout.split()[0]) == pytest.approx(score, abs=1e-4)
  assert runner.run(*how, '--window=0.5', '--step=0.25').returncode == 0
  assert 'of other weights' in runner.run(
    'launch.verify', f'--model={saved(under("diarization", features=6), tmp_path / "other")}',
    f'--files={a},{b}', f'--threshold={file}',
  ).stderr  # fmt: skip


@pytest.mark.slow
def test_mistakes_are_a_sentence(folder, tmp_path):
  sd = saved(under('diarization', features=6), tmp_path / 'sd')
  asv = saved(under('x_vector', width=8, pooled_width=10), tmp_path / 'asv')
  a = folder / 'a.wav'
  (tmp_path / 'odd.txt').write_text('1 a b c\n')
  (tmp_path / 'half.txt').write_text(f'1 {a} {a}\n{a} {a}\n')
  (tmp_path / 'plain.txt').write_text(f'{a} {a}\n')
  (tmp_path / 'gone.txt').write_text('1 no.wav gone.wav\n')
  (tmp_path / 'bad.rttm').write_text('SPEAKER a 1 now\n')
  heard = (f'--model={sd}', f'--input={a}')
  runner.check_mistakes(
    'launch.diarize',
    {
      'another head': ((f'--model={asv}', f'--input={a}'), ("the head 'diarization'",)),
      'no file': ((f'--model={sd}', '--input=/no/a.wav'), ('/no/a.wav',)),
      'a flag of clustering': ((*heard, '--step=1'), ('--step', 'clustering')),
      'a flag of the head': ((*heard, '--speakers=2', '--median=3'), ('--median', 'diarization')),
      'an ending': ((*heard, '--out=a.txt'), ('.rttm or .jsonl',)),
      'a bad reference': ((*heard, f'--reference={tmp_path}/bad.rttm'), ('line 1',)),
      'no calibration': ((*heard, f'--similarity={a}'), ('a.wav',)),
    },
  )
  runner.check_mistakes(
    'launch.separate',
    {'another head': ((f'--model={sd}', f'--input={a}', f'--out={tmp_path}/o'), ("head 'masks'",))},
  )
  verify = f'--model={asv}'
  runner.check_mistakes(
    'launch.verify',
    {
      'nothing': ((verify,), ('Give one of --files',)),
      'three files': ((verify, '--files=a,b,c'), ('expected two recordings',)),
      'a line': ((verify, f'--trials={tmp_path}/odd.txt'), ('line 1', '1 PATH PATH')),
      'some labels': ((verify, f'--trials={tmp_path}/half.txt'), ('line 2', 'every line')),
      'no labels': ((verify, f'--calibrate={tmp_path}/plain.txt'), ('need labels',)),
      'no files': ((verify, f'--trials={tmp_path}/gone.txt'), ('no.wav', '1 more of 2')),
    },
  )
