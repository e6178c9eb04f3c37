"""`python -m launch.tag` and `launch.enhance`: what they write is what the functions give."""

import csv
import json

import numpy as np
import pytest
import soundfile

from research import models, weights
from research.inference import classic, tag
from research.inference.classify import Classifier
from research.weights import Pretrained
from tests.inference.toy_heads import RATE, talk
from tests.launch import runner
from tests.weights.toy import filled


@pytest.mark.slow
def test_tag_and_its_mistakes(tmp_path):
  encoder = dict(name='fbank', args=dict(frontend=dict(name='superb_fbank_no_cmvn')))
  head = dict(name='utterance', args=dict(classes=3, width=4, labels=['yes', 'no', 'other']))
  model = models.get('finetuned')(encoder=encoder, head=head)
  loaded = Pretrained('finetuned', model, filled(model), 'made here')
  weights.save(loaded, tmp_path / 'model')
  soundfile.write(tmp_path / 'a.wav', talk(((1.0, 1.5, 1),), 2.6), RATE, subtype='FLOAT')
  ours = Classifier.of_model(loaded, activation='softmax', window=0.5)
  audio = soundfile.read(tmp_path / 'a.wav', dtype='float32')[0]
  scores, _ = tag.Tagger(ours, hop=0.25, names=['yes']).scores([audio])
  limit = float(scores.min() + scores.max()) / 2
  want = tag.Tagger(ours, hop=0.25, names=['yes'], threshold=limit)(tmp_path / 'a.wav')
  assert want
  (tmp_path / 'said.csv').write_text('file,label,start,end\na.wav,yes,0.9,1.6\n')
  command = (
    f'--model={tmp_path / "model"}', f'--input={tmp_path / "a.wav"}', '--activation=softmax',
    '--window=0.5', '--hop=0.25', '--names=yes', f'--threshold={limit}',
  )  # fmt: skip
  out = tmp_path / 'tags.csv'
  done = runner.run('launch.tag', *command, f'--out={out}', f'--reference={tmp_path}/said.csv')
  assert done.returncode == 0, done.stderr[-2000:]
  assert 'mAP by file 1.0000, by second' in done.stdout
  lines = list(csv.DictReader(out.read_text().splitlines()))
  got = [(x['label'], *(float(x[k]) for k in ('start', 'end', 'score'))) for x in lines]
  assert [x[0] for x in got] == ['yes'] * len(want)
  np.testing.assert_allclose([x[1:] for x in got], [x[1:] for x in want], atol=1e-5)
  (tmp_path / 'said.csv').write_text('file,label,start,end\na.wav,yess,0.9,1.6\n')
  runner.check_mistakes(
    'launch.tag',
    {
      'a label': ((*command, f'--reference={tmp_path}/said.csv'), ("'yess'", 'yes')),
      'an ending': ((*command, '--out=a.txt'), ('.jsonl or .csv',)),
      'a threshold': ((*command, '--low=2'), ('at most the threshold',)),
    },
  )


@pytest.mark.slow
def test_enhance_by_a_classic_method_with_scores(tmp_path):
  rng = np.random.default_rng(0)
  for name in ('noisy', 'clean'):
    (tmp_path / name).mkdir()
  clean = talk(tuple((0.5 * i + 0.2, 0.5 * i + 0.45, i % 3) for i in range(8)), 4.0)
  for ratio in (0.0, 10.0):
    noise = rng.standard_normal(len(clean))
    noise *= np.sqrt(np.square(clean).sum() / np.square(noise).sum() / 10 ** (ratio / 10))
    for kind, audio in (('noisy', clean + noise), ('clean', clean)):
      soundfile.write(tmp_path / kind / f'{ratio:g}.wav', audio, RATE, subtype='FLOAT')
  out = tmp_path / 'out'
  command = (f'--input={tmp_path / "noisy"}', f'--out={out}', '--metrics=si_sdr')
  compared = (*command, f'--reference={tmp_path / "clean"}', '--compare=spectral_gate')
  done = runner.run('launch.enhance', '--model=wiener', *compared)
  assert done.returncode == 0, done.stderr[-2000:]
  assert '2 files of 2 recordings' in done.stdout
  found = json.loads((out / 'scores.json').read_text())
  assert [(x['snr'], x['system']) for x in found] == [
    (snr, x) for snr in (0.0, 10.0, 'all') for x in ('noisy', 'spectral_gate', 'enhanced')
  ]
  assert found[0]['si_sdr'] == pytest.approx(0.0, abs=0.1)
  assert all(found[i + 2]['si_sdr'] > found[i]['si_sdr'] + 3 for i in (0, 3, 6))
  noisy = soundfile.read(tmp_path / 'noisy' / '0.wav', dtype='float32')[0]
  want = classic.separator('wiener')(noisy, RATE)[0]
  np.testing.assert_allclose(soundfile.read(out / '0.wav')[0], want, atol=1e-5)
  again = ('--model=wiener', *compared, '--overwrite')
  runner.check_mistakes(
    'launch.enhance',
    {
      'finished': (('--model=wiener', *command), ('is there already',)),
      'a metric': ((*again, '--metrics=snr'), ("'snr'", 'stoi')),
      'a method': ((*again, '--compare=gate'), ("'gate'", 'wiener')),
    },
  )
  (tmp_path / 'clean' / '10.wav').unlink()
  runner.check_mistakes(
    'launch.enhance', {'no reference': (again, ("no clean recording of '10.wav'",))}
  )
