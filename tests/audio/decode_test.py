import os
import pickle

import librosa
import numpy as np
import pytest
import soundfile
import soxr

from research.audio.decode import AudioError, crop, decode, duration
from research.audio.example import Example


def example(path, **fields):
  return Example(id='x', columns={}, path=str(path), **fields)


@pytest.mark.parametrize('kind', ['wav', 'flac', 'aiff', 'caf', 'au'])
def test_lossless_formats_give_the_samples_back(tmp_path, write, kind):
  audio = write(tmp_path / f'a.{kind}', 0.2, subtype='PCM_16')
  got = decode(example(tmp_path / f'a.{kind}'), sample_rate=16000)
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, audio)


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('a.mp3', {}),
    ('a.ogg', {'format': 'OGG', 'subtype': 'VORBIS'}),
    ('a.opus', {'format': 'OGG', 'subtype': 'OPUS'}),
  ],
)
def test_lossy_formats_give_nearly_the_samples_back(tmp_path, name, options):
  t = np.arange(32000) / 16000
  audio = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
  soundfile.write(tmp_path / name, audio, 16000, **options)
  got = decode(example(tmp_path / name), sample_rate=16000)
  assert abs(len(got) - 32000) < 1200
  # The tone keeps its level: half a second from the middle, by correlation with 440 Hz.
  middle = got[12000:20000]
  tone = 2 * abs(np.mean(middle * np.exp(-2j * np.pi * 440 * np.arange(8000) / 16000)))
  assert tone == pytest.approx(0.3, rel=0.02)
  assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.02)


def test_channels_are_averaged(tmp_path, write):
  audio = write(tmp_path / 'a.wav', 0.1, channels=3, subtype='FLOAT')
  got = decode(example(tmp_path / 'a.wav'), sample_rate=16000)
  np.testing.assert_allclose(got, audio.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize('rate', [8000, 11025, 22050, 44100, 48000])
def test_resampling_is_that_of_soxr_and_librosa(tmp_path, write, rate):
  audio = write(tmp_path / 'a.wav', 0.8, rate, subtype='FLOAT')
  got = decode(example(tmp_path / 'a.wav'), sample_rate=16000)
  assert len(got) == 12800
  np.testing.assert_array_equal(got, soxr.resample(audio, rate, 16000, quality='HQ'))
  by_librosa = librosa.resample(audio, orig_sr=rate, target_sr=16000, res_type='soxr_hq')
  np.testing.assert_allclose(got, by_librosa[:12800], atol=1e-6)


def test_resampling_keeps_a_tone_and_removes_what_is_above_nyquist(tmp_path):
  t = np.arange(48000) / 48000
  audio = 0.5 * np.sin(2 * np.pi * 1000 * t) + 0.5 * np.sin(2 * np.pi * 12000 * t)
  soundfile.write(tmp_path / 'a.wav', audio, 48000, subtype='FLOAT')
  got = decode(example(tmp_path / 'a.wav'), sample_rate=16000)
  expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
  np.testing.assert_allclose(got[500:-500], expected[500:-500], atol=1e-4)


@pytest.mark.parametrize('rate', [8000, 16000, 22050, 44100, 47999])
@pytest.mark.parametrize('start', [0.0, 0.33337, 1.7, 2.9])
def test_a_crop_is_the_slice_of_the_whole(tmp_path, write, rate, start):
  write(tmp_path / 'a.flac', 3.0, rate)
  whole = decode(example(tmp_path / 'a.flac'), sample_rate=16000)
  crop = decode(example(tmp_path / 'a.flac'), sample_rate=16000, start_seconds=start, seconds=0.5)
  first = round(start * 16000)
  expected = whole[first : first + 8000]
  assert len(crop) == len(expected) == min(8000, 48000 - first)
  if rate == 16000:
    np.testing.assert_array_equal(crop, expected)
  np.testing.assert_allclose(crop, expected, atol=1e-6)


def test_a_crop_of_a_lossy_file_is_the_slice_of_the_whole(tmp_path, write):
  write(tmp_path / 'a.opus', 4.0, format='OGG', subtype='OPUS')
  whole = decode(example(tmp_path / 'a.opus'), sample_rate=16000)
  crop = decode(example(tmp_path / 'a.opus'), sample_rate=16000, start_seconds=2.5, seconds=1.0)
  np.testing.assert_array_equal(crop, whole[40000:56000])


def test_only_the_crop_is_read(tmp_path, write, monkeypatch):
  write(tmp_path / 'a.wav', 20.0)
  counts = []
  read = soundfile.SoundFile.read

  def counting(self, frames=-1, **kwargs):
    counts.append(frames)
    return read(self, frames, **kwargs)

  monkeypatch.setattr(soundfile.SoundFile, 'read', counting)
  decode(example(tmp_path / 'a.wav'), sample_rate=16000, start_seconds=15, seconds=1)
  decode(example(tmp_path / 'a.wav'), sample_rate=8000, start_seconds=15, seconds=1)
  assert counts[0] == 16000
  assert counts[1] <= 16000 + 2 * 2048 + 2


def test_place_positions_the_crop_in_the_clip(tmp_path, write):
  audio = write(tmp_path / 'a.flac', 1.0)
  given = example(tmp_path / 'a.flac')
  for place, first in ((0.0, 0), (0.5, 6000), (0.999999, 12000), (1.0, 12000)):
    got, start, total = crop(given, sample_rate=16000, samples=4000, place=place)
    np.testing.assert_array_equal(got, audio[first : first + 4000])
    assert (start, total) == (first, 16000)
  got, start, total = crop(given, sample_rate=16000, samples=32000, place=0.7)
  np.testing.assert_array_equal(got, audio)
  assert (start, total) == (0, 16000)


@pytest.mark.parametrize('rate', [16000, 22050, 48000])
def test_crops_start_on_a_grid(tmp_path, write, rate):
  write(tmp_path / 'a.flac', 1.0, rate)
  given = example(tmp_path / 'a.flac')
  whole = decode(given, sample_rate=16000)
  starts = []
  for place in np.linspace(0, 1, 60):
    got, start, total = crop(given, sample_rate=16000, samples=14000, place=place, step=320)
    np.testing.assert_allclose(got, whole[start : start + 14000], atol=1e-6)
    assert len(got) == 14000 and total == 16000
    starts.append(start)
  # 2000 spare samples are 6 steps of 320; the 7 positions are equally likely.
  assert sorted(set(starts)) == [320 * i for i in range(7)]
  assert min(starts.count(s) for s in set(starts)) >= 8
  # Fewer spare samples than a step.
  assert crop(given, sample_rate=16000, samples=15990, place=1.0, step=320).start == 0


def test_part_of_a_file(tmp_path, write):
  audio = write(tmp_path / 'a.flac', 2.0)
  part = example(tmp_path / 'a.flac', start=0.5, seconds=1.0)
  np.testing.assert_array_equal(decode(part, sample_rate=16000), audio[8000:24000])
  inner = decode(part, sample_rate=16000, start_seconds=0.25, seconds=5.0)
  np.testing.assert_array_equal(inner, audio[12000:24000])
  assert duration(part) == 1.0
  with pytest.raises(AudioError, match=r'ends at 2.00 s, before the clip at 3'):
    decode(example(tmp_path / 'a.flac', start=3.0), sample_rate=16000)


def test_bytes_and_arrays(tmp_path, write):
  audio = write(tmp_path / 'a.flac', 0.3)
  data = (tmp_path / 'a.flac').read_bytes()
  by_bytes = decode(Example(id='x', columns={}, data=data), sample_rate=16000)
  np.testing.assert_array_equal(by_bytes, audio)
  pcm = np.round(audio * 32768).astype(np.int16)
  by_array = Example(id='x', columns={}, array=pcm, sample_rate=16000)
  np.testing.assert_array_equal(decode(by_array, sample_rate=16000), audio)
  stereo = Example(id='x', columns={}, array=np.stack([pcm, -pcm], 1), sample_rate=16000)
  assert abs(decode(stereo, sample_rate=16000)).max() < 1e-6
  crop = decode(by_array, sample_rate=8000, start_seconds=0.1, seconds=0.1)
  whole = decode(by_array, sample_rate=8000)
  np.testing.assert_allclose(crop, whole[800:1600], atol=1e-6)


def test_content_decides_not_the_name(tmp_path, write):
  audio = write(tmp_path / 'a.flac', 0.1)
  (tmp_path / 'a.flac').rename(tmp_path / 'a.wav')
  np.testing.assert_array_equal(decode(example(tmp_path / 'a.wav'), sample_rate=16000), audio)


def bad_text(folder, write):
  (folder / 'x.wav').write_text('this is not audio at all\n' * 50)


def bad_empty(folder, write):
  (folder / 'x.wav').write_bytes(b'')


def bad_no_samples(folder, write):
  soundfile.write(folder / 'x.wav', np.zeros(0, np.float32), 16000)


def bad_truncated_wav(folder, write):
  write(folder / 'x.wav', 1.0)
  (folder / 'x.wav').write_bytes((folder / 'x.wav').read_bytes()[:20000])


def bad_truncated_flac(folder, write):
  write(folder / 'y.flac', 1.0)
  (folder / 'x.wav').write_bytes((folder / 'y.flac').read_bytes()[:9000])


def bad_truncated_opus(folder, write):
  write(folder / 'y.ogg', 4.0, format='OGG', subtype='OPUS')
  data = (folder / 'y.ogg').read_bytes()
  (folder / 'x.wav').write_bytes(data[: len(data) * 2 // 3])


def bad_truncated_mp3(folder, write):
  write(folder / 'y.mp3', 4.0)
  data = (folder / 'y.mp3').read_bytes()
  (folder / 'x.wav').write_bytes(data[: len(data) // 2])


def bad_damaged(folder, write):
  write(folder / 'y.flac', 2.0)
  data = bytearray((folder / 'y.flac').read_bytes())
  data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
  (folder / 'x.wav').write_bytes(data)


def bad_nan(folder, write):
  audio = np.zeros(1000, np.float32)
  audio[500] = np.nan
  soundfile.write(folder / 'x.wav', audio, 16000, subtype='FLOAT')


def bad_infinite(folder, write):
  audio = np.zeros(1000, np.float32)
  audio[-1] = np.inf
  soundfile.write(folder / 'x.wav', audio, 44100, subtype='FLOAT')


def bad_directory(folder, write):
  (folder / 'x.wav').mkdir()


def bad_dangling(folder, write):
  (folder / 'x.wav').symlink_to(folder / 'nothing.wav')


def bad_missing(folder, write):
  pass


def bad_aac(folder, write):
  (folder / 'x.wav').write_bytes(b'\0\0\0 ftypM4A ' + bytes(100))


BAD = {
  'text': (bad_text, "not an audio file that can be read: it begins with b'this is"),
  'empty': (bad_empty, 'empty (0 bytes)'),
  'no_samples': (bad_no_samples, 'holds no samples'),
  'truncated_wav': (bad_truncated_wav, 'truncated: it has 19956 of 32000 bytes'),
  'truncated_flac': (bad_truncated_flac, 'is truncated'),
  'truncated_opus': (bad_truncated_opus, 'truncated in the middle of an Ogg page'),
  'truncated_mp3': (bad_truncated_mp3, 'is truncated'),
  'damaged': (bad_damaged, 'damaged or truncated'),
  'nan': (bad_nan, 'not numbers'),
  'infinite': (bad_infinite, 'not numbers'),
  'directory': (bad_directory, 'is a directory'),
  'dangling': (bad_dangling, 'which does not exist'),
  'missing': (bad_missing, 'No such file'),
  'aac': (bad_aac, 'AAC'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_files_say_why_in_one_sentence(tmp_path, write, case):
  make, reason = BAD[case]
  make(tmp_path, write)
  with pytest.raises(AudioError) as caught:
    decode(example(tmp_path / 'x.wav'), sample_rate=16000)
  assert reason in caught.value.reason
  assert caught.value.where == str(tmp_path / 'x.wav')
  assert '\n' not in str(caught.value) and str(caught.value).endswith('.')


def test_a_crop_of_a_truncated_wav_is_refused_too(tmp_path, write):
  bad_truncated_wav(tmp_path, write)
  with pytest.raises(AudioError, match='truncated'):
    decode(example(tmp_path / 'x.wav'), sample_rate=16000, seconds=0.1)


def test_a_wav_of_unknown_length_is_read(tmp_path, write):
  audio = write(tmp_path / 'a.wav', 0.1)
  data = bytearray((tmp_path / 'a.wav').read_bytes())
  data[4:8] = data[40:44] = b'\xff\xff\xff\xff'  # As written to a pipe.
  (tmp_path / 'a.wav').write_bytes(data)
  np.testing.assert_array_equal(decode(example(tmp_path / 'a.wav'), sample_rate=16000), audio)


def test_errors_survive_pickling():
  error = pickle.loads(pickle.dumps(AudioError('a.wav', 'It is empty.')))
  assert (error.where, error.reason, str(error)) == (
    'a.wav',
    'It is empty.',
    'a.wav: It is empty.',
  )


def test_clips_of_one_sample_survive_any_rate(tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.array([0.5]), 44100, subtype='FLOAT')
  got = decode(example(tmp_path / 'a.wav'), sample_rate=16000)
  assert got.shape == (1,) and np.isfinite(got).all()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_a_file_without_permission(tmp_path, write):
  write(tmp_path / 'a.wav')
  (tmp_path / 'a.wav').chmod(0)
  with pytest.raises(AudioError, match='Permission denied'):
    decode(example(tmp_path / 'a.wav'), sample_rate=16000)


def test_a_name_that_is_not_utf8(tmp_path, write):
  """It is decoded, and listed if it is bad."""
  from research.audio.bad_files import BadFiles
  from research.audio.sources import open_source

  audio = write(tmp_path / 'a.wav', 0.2, subtype='PCM_16')
  odd = os.fsencode(tmp_path) + b'/caf\xe9.wav'
  os.rename(tmp_path / 'a.wav', odd)
  source = open_source(str(tmp_path))
  assert source.durations().tolist() == [0.2]
  np.testing.assert_array_equal(decode(source[0], sample_rate=16_000), audio)
  for _ in range(2):
    bad = BadFiles(tmp_path / 'bad_files.jsonl', 1.0)
    bad.record(source.id(0), os.fsdecode(odd), 'It is empty.')
    assert bad.items() == [(source.id(0), 'It is empty.')]
  assert len((tmp_path / 'bad_files.jsonl').read_bytes().splitlines()) == 1
