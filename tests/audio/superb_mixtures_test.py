"""SUPERB's mixtures as published: diarization, enhancement, separation; and what is said of data
that are not there."""

import numpy as np
import pytest
import soundfile

from research.audio.datasets.superb import mixtures
from research.audio.fields import make
from research.audio.pipeline import eval_batches
from research.errors import InputError
from tests.audio.superb_helpers import by_id, opened, text, warned


@pytest.fixture
def diarized(tmp_path, write):
  root = tmp_path / 'diarization'
  for split in ('train', 'dev', 'test'):
    write(tmp_path / 'wavs' / f'{split}1.wav', 1.0)
    folder = root / split
    text(folder / 'wav.scp', f'{split}1 {tmp_path / "wavs" / split}1.wav', f'{split}2 gone.wav')
    text(folder / 'segments', f'u1 {split}1 0.1 0.5', f'u2 {split}1 0.3 0.9', f'u3 {split}2 0 1')
    text(folder / 'utt2spk', 'u1 b', 'u2 a', 'u3 a')
    text(folder / 'reco2dur', f'{split}1 1.0', f'{split}2 1.5')
  return root


def test_diarization(diarized, tmp_path):
  source = opened('superb_sd', tmp_path)
  assert by_id(source, 'turns') == {
    f'{s}1': ['b 0.1 0.5', 'a 0.3 0.9'] for s in ('train', 'dev', 'test')
  }
  assert source[0].columns['speakers'] == ['a', 'b'] and source.durations().tolist() == [1.0] * 3
  assert source.table.absent == {'train': 1, 'valid': 1, 'test': 1}
  fields = make(dict(activity=dict(name='activity', args=dict(frame_shift=1600))))
  (batch,) = eval_batches(source.split('test'), batch_size=1, lengths=1, fields=fields)
  assert batch['activity'][0, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 0]
  assert batch['activity'][0, :, 1].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]
  for file, lines, message in (
    ('segments', ['u1 dev1 0.1'], 'line 1: 3 fields'),
    ('segments', ['u9 dev1 0.1 0.2'], "has no utterance 'u9'"),
    ('segments', ['u1 dev1 0.3 0.2'], 'ends before it begins'),
    ('segments', ['u1 dev1 x 0.2'], "'x' is no number of seconds"),
    ('segments', ['u1 dev9 0.1 0.2'], "wav.scp has no recording 'dev9'"),
    ('reco2dur', ['dev1 1.0'], "has no recording 'dev2'"),
  ):
    before = (diarized / 'dev' / file).read_text()
    text(diarized / 'dev' / file, *lines)
    with pytest.raises(InputError, match=message):
      opened('superb_sd', diarized)
    (diarized / 'dev' / file).write_text(before)
  (diarized / 'dev' / 'utt2spk').unlink()
  with pytest.raises(InputError, match="utt2spk is missing, a list of 'valid'"):
    opened('superb_sd', diarized)


def test_enhancement_of_both_forms(tmp_path, write, caplog):
  root = tmp_path / 'voicebank'
  for kind in ('noisy', 'clean'):
    for name in ('p226_001', 'p228_001', 'p287_001'):
      write(root / f'{kind}_trainset_28spk_wav_16k' / f'{name}.wav', seed=ord(kind[0]))
    write(root / f'{kind}_testset_wav_16k' / 'p232_001.wav', seed=ord(kind[0]))
  source = opened('superb_se', tmp_path)
  assert by_id(source, 'split') == {
    'p228_001': 'train', 'p226_001': 'valid', 'p287_001': 'valid', 'p232_001': 'test'
  }  # fmt: skip
  lists = tmp_path / 'lists'
  for kind in ('noisy', 'clean'):
    # Lists of another place, with absolute paths.
    path = root / f'{kind}_testset_wav_16k' / 'p232_001.wav'
    text(lists / 'test' / kind / 'wav.scp', f'p232_001 {path}')
  listed = opened('superb_se', lists)
  assert warned(caplog, "has no folder of 'train'")
  fields = make(dict(clean=dict(name='recording', args=dict(column='clean'))))
  for each in (source.split('test'), listed.split('test')):
    (batch,) = eval_batches(each, batch_size=1, lengths=1, fields=fields)
    want, _ = soundfile.read(root / 'clean_testset_wav_16k' / 'p232_001.wav', dtype='float32')
    np.testing.assert_array_equal(batch['clean'][0], want)
    assert not np.array_equal(batch['audio'][0], want)
  text(lists / 'test' / 'clean' / 'wav.scp', 'p999 x.wav')
  with pytest.raises(InputError, match="has no utterance 'p232_001', which is in noise"):
    opened('superb_se', lists)


def test_separation(tmp_path, write):
  root = tmp_path / 'Libri2Mix' / 'wav16k' / 'min'
  for split, count in (('train-100', 2), ('dev', 5), ('test', 1)):
    for kind in ('mix_clean', 's1', 's2'):
      for k in range(count):
        write(root / split / kind / f'{split}{k}.wav', seed=k + len(kind))
  source = opened('superb_ss', tmp_path, dev=3)
  assert {s: len(source.split(s)) for s in ('train', 'valid', 'test')} == {
    'train': 2, 'valid': 3, 'test': 1
  }  # fmt: skip
  assert source[0].columns == {
    'split': 'train', 's1': 'train-100/s1/train-1000.wav', 's2': 'train-100/s2/train-1000.wav'
  }  # fmt: skip
  fields = make({k: dict(name='recording', args=dict(column=k)) for k in ('s1', 's2')})
  (batch,) = eval_batches(source.split('test'), batch_size=1, lengths=1, fields=fields)
  assert batch['s1'].shape == batch['s2'].shape == batch['audio'].shape
  assert len(opened('superb_ss', tmp_path, dev=0).split('valid')) == 5
  text(root / 'dev_1000' / 'mix_clean' / 'wav.scp', f'dev1 {root}/dev/mix_clean/dev1.wav')
  for kind in ('s1', 's2'):
    text(root / 'dev_1000' / kind / 'wav.scp', f'dev1 {root}/dev/{kind}/dev1.wav')
  assert [e.id for e in opened('superb_ss', tmp_path).split('valid')] == ['dev1']
  with pytest.raises(InputError, match="mix_both is missing, recordings of 'train'"):
    opened('superb_ss', tmp_path, mixture='mix_both')
  text(root / 'dev_1000' / 's2' / 'wav.scp', f'dev2 {root}/dev/s2/dev2.wav')
  with pytest.raises(InputError, match="s2 has no utterance 'dev1' of mix_clean"):
    opened('superb_ss', tmp_path)


def test_the_thousand_of_validation():
  """The order of Python's random with seed 7."""
  names = [f'{i:04d}' for i in range(3000)]
  found = mixtures.subset(names)
  assert len(found) == 1000 and found == sorted(found) and found[:5] == mixtures.subset(names)[:5]
  assert mixtures.subset(names[::-1]) == found and mixtures.subset(names[:10]) == names[:10]


def test_pipes_are_refused(tmp_path):
  root = tmp_path / 'ss'
  for kind in ('mix_clean', 's1', 's2'):
    text(root / 'test' / kind / 'wav.scp', 'a sox x.wav -t wav - |')
  with pytest.raises(InputError, match='commands of manifests are not run'):
    opened('superb_ss', root)
