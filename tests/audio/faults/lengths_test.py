"""Kinds A, E and F: lengths that headers guess, leave open or claim wrongly; joined files; files
that are cut. What is there is read; a file that was cut is a bad one, in every format."""

import struct

import numpy as np
import pytest

from research.audio import bad_files, durations
from research.audio.decode import AudioError, crop, decode, duration
from research.audio.example import Example
from research.audio.formats import mpeg, raw
from tests.audio.faults import made

FLAC = dict(format='FLAC', subtype='PCM_16')
AUDIO = made.noise()


def flac_total(data, total):
  """A FLAC file whose header claims `total` samples."""
  bits = int.from_bytes(data[21:26], 'big') >> 36 << 36 | total
  return made.changed(data, (21, bits.to_bytes(5, 'big')))


@pytest.mark.parametrize('total', [0, 1, 8000, 15999])
@pytest.mark.parametrize('channels', [1, 2])
def test_flac_of_unknown_or_wrong_length(total, channels):
  audio = made.noise(channels=channels)
  data = flac_total(made.file(audio, **FLAC), total)
  whole = made.read(data)
  np.testing.assert_array_equal(whole, audio if channels == 1 else audio.mean(1))
  part = decode(made.example(data), sample_rate=16000, start_seconds=0.7, seconds=0.2)
  np.testing.assert_array_equal(part, whole[11200:14400])


def test_flac_that_claims_more_than_there_is():
  assert 'truncated: 1 samples are missing' in made.reason(
    flac_total(made.file(AUDIO, **FLAC), 16001)
  )


def test_flac_with_tags_or_zeros_behind_it():
  data = flac_total(made.file(AUDIO, **FLAC), 0)
  np.testing.assert_array_equal(made.read(data + b'TAG' + bytes(125)), AUDIO)
  np.testing.assert_array_equal(made.read(data + bytes(500)), AUDIO)


@pytest.mark.parametrize('seconds', [1.0, 20.0])
def test_joined_flac(seconds):
  """Short ones are searched for a second stream, long ones probed."""
  audio = made.noise(seconds)
  data = made.file(audio, **FLAC)
  np.testing.assert_array_equal(made.read(data + data), np.tile(audio, 2))
  other = made.noise(3.0, seed=1)
  joined = data + made.file(other, **FLAC) + data
  np.testing.assert_array_equal(made.read(joined), np.concatenate([audio, other, audio]))


def without_info(data):
  """An MP3 without the frame that says its length."""
  frames = mpeg.layout(raw.Raw(None, data), 0).links[0].mpeg
  return data[int(frames.starts[0]) :], frames


@pytest.mark.parametrize('rate', [16000, 44100])
def test_vbr_mp3_without_its_length(rate):
  """The first frames are of silence, so that a guess by their size would be far off."""
  audio = np.concatenate([np.zeros(4 * rate, np.float32), made.noise(4.0, rate)])
  data = made.file(audio, rate, 'MP3', bitrate_mode='VARIABLE')
  bare, frames = without_info(data)
  whole = made.read(bare, rate)
  assert len(whole) == len(frames.ends) * frames.samples
  # The same samples, but for the first of them, which the length lets out.
  known = made.read(data, rate)
  same = whole[frames.skip + 2000 :][: len(known) - 2000]
  np.testing.assert_allclose(same, known[2000:], atol=1e-6)
  for place in np.linspace(0, 1, 20):
    got = crop(made.example(bare), sample_rate=rate, samples=rate // 2, place=place)
    np.testing.assert_array_equal(got.audio, whole[got.start : got.start + rate // 2])
    assert got.total == len(whole) and len(got.audio) == rate // 2


@pytest.mark.parametrize('field', ['third', 'more'])
def test_mp3_with_a_wrong_number_of_frames(field):
  data = made.file(AUDIO, format='MP3')
  at = data.index(b'Xing') + 8 if b'Xing' in data else data.index(b'Info') + 8
  count = int.from_bytes(data[at : at + 4], 'big')
  if field == 'more':
    wrong = made.changed(data, (at, (count * 3).to_bytes(4, 'big')))
    assert f'of {count * 3} MPEG frames' in made.reason(wrong)
  else:
    wrong = made.changed(data, (at, (count // 3).to_bytes(4, 'big')))
    np.testing.assert_array_equal(made.read(wrong)[:16000], made.read(data))


def test_joined_mp3():
  parts = [made.file(made.noise(s, seed=i), format='MP3') for i, s in enumerate((1.0, 0.5, 2.0))]
  apart = [made.read(part) for part in parts]
  tagged = b'ID3\4\0\0\0\0\0\7' + bytes(7) + parts[0] + b'TAG' + bytes(125) + parts[1] + parts[2]
  np.testing.assert_array_equal(made.read(tagged), np.concatenate(apart))
  got = decode(made.example(tagged), sample_rate=16000, start_seconds=0.9, seconds=0.8)
  np.testing.assert_array_equal(got, np.concatenate(apart)[14400:27200])


def test_joined_streams_of_two_rates_are_refused():
  other = made.file(made.noise(rate=22050), 22050, format='MP3')
  assert '16000 and 22050 Hz' in made.reason(made.file(AUDIO, format='MP3') + other)


@pytest.mark.parametrize('subtype', ['VORBIS', 'OPUS'])
@pytest.mark.parametrize('seconds', [0.5, 20.0])
def test_chained_ogg(subtype, seconds):
  form = dict(format='OGG', subtype=subtype)
  parts = [made.file(made.noise(seconds, seed=i), **form) for i in range(3)]
  apart = np.concatenate([made.read(part) for part in parts])
  np.testing.assert_array_equal(made.read(b''.join(parts)), apart)
  # One file joined with itself: the serial numbers are equal too.
  twice = np.tile(made.read(parts[0]), 2)
  np.testing.assert_array_equal(made.read(parts[0] * 2), twice)


def test_channels_may_differ_between_links():
  one, two = AUDIO, made.noise(channels=2)
  form = dict(format='OGG', subtype='VORBIS')
  joined = made.read(made.file(one, **form) + made.file(two, **form))
  assert len(joined) == 32000


def test_joined_wav_and_joined_files_of_other_formats():
  data = made.file(AUDIO)
  np.testing.assert_array_equal(made.read(data * 3), np.tile(AUDIO, 3))
  for format in ('AIFF', 'AU', 'CAF', 'W64'):
    assert 'several files in one' in made.reason(made.file(AUDIO, format=format) * 2)


SIZES = (0, 36 + 32000, 44 + 32000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFF - 36)
ROUND = (1_000_000_000, 2_000_000_000, 1 << 30, (1 << 31) - 44, (1 << 28) - 8)


@pytest.mark.parametrize('size', [*SIZES, *ROUND])
@pytest.mark.parametrize('subtype', ['PCM_16', 'FLOAT', 'ULAW'])
def test_wav_whose_header_claims_a_placeholder(size, subtype):
  data = made.file(AUDIO, subtype=subtype)
  at = data.index(b'data') + 4
  if size in SIZES[1:3]:
    size = len(data) - at - 4 + size - 32000
  wrong = made.changed(
    data,
    (at, struct.pack('<I', size)),
    (4, struct.pack('<I', min(size + 36, 0xFFFFFFFF) if size else 0)),
  )
  np.testing.assert_array_equal(made.read(wrong), made.read(data))


def test_a_wav_that_is_really_empty():
  data = made.changed(made.file(AUDIO), (40, bytes(4)))[:44]
  assert 'holds no samples' in made.reason(data)
  assert 'holds no samples' in made.reason(data + b'LIST' + struct.pack('<I', 4) + b'INFO')


@pytest.mark.parametrize('format', ['AIFF', 'AU', 'CAF', 'RF64'])
def test_other_formats_whose_length_is_left_open(format):
  data = made.file(AUDIO, format=format)
  wrong = {
    'AIFF': lambda: (data.index(b'SSND') + 4, b'\x7f\xff\xff\xff'),
    'AU': lambda: (8, b'\xff\xff\xff\xff'),
    'CAF': lambda: (data.index(b'data') + 4, b'\xff' * 8),
    'RF64': lambda: (28, b'\xff' * 8),
  }[format]()
  np.testing.assert_array_equal(made.read(made.changed(data, wrong)), AUDIO)


def test_an_empty_last_page_of_ogg():
  """The segment count of a page may be 0 (RFC 3533)."""
  data = made.file(AUDIO, format='OGG', subtype='VORBIS')
  last = data[data.rindex(b'OggS') :][:26]
  page = made.changed(last, (5, b'\4'), (22, bytes(4))) + b'\0'
  check = 0
  for byte in page:
    check ^= byte << 24
    for _ in range(8):
      check = (check << 1 ^ (0x04C11DB7 if check >> 31 else 0)) & 0xFFFFFFFF
  closed = data + made.changed(page, (22, struct.pack('<I', check)))
  np.testing.assert_array_equal(made.read(closed), made.read(data))


@pytest.mark.parametrize(
  ('format', 'subtype'),
  [('WAV', 'GSM610'), ('AIFF', 'GSM610'), ('AU', 'G721_32'), ('WAV', 'G721_32')],
)
def test_formats_that_cannot_seek_are_decoded_from_the_beginning(format, subtype):
  data = made.file(AUDIO, format=format, subtype=subtype)
  whole = decode(made.example(data), sample_rate=16000)
  for start in (0.1, 0.5, 0.77):
    part = decode(made.example(data), sample_rate=16000, start_seconds=start, seconds=0.2)
    first = round(start * 16000)
    np.testing.assert_array_equal(part, whole[first : first + 3200])


FORMATS = {
  'wav': {},
  'wav24': dict(subtype='PCM_24'),
  'adpcm': dict(subtype='IMA_ADPCM'),
  'rf64': dict(format='RF64'),
  'w64': dict(format='W64'),
  'aiff': dict(format='AIFF'),
  'au': dict(format='AU'),
  'caf': dict(format='CAF'),
  'sphere': dict(format='NIST'),
  'avr': dict(format='AVR'),
  'voc': dict(format='VOC', subtype='PCM_16'),
  'svx': dict(format='SVX', subtype='PCM_16'),
  'flac': FLAC,
  'mp3': dict(format='MP3'),
  'vorbis': dict(format='OGG', subtype='VORBIS'),
  'opus': dict(format='OGG', subtype='OPUS'),
}


@pytest.mark.parametrize('format', FORMATS)
def test_a_file_that_was_cut_is_a_bad_one(format):
  data = made.file(AUDIO, **FORMATS[format])
  assert len(made.read(data)) >= 16000
  for fraction in (0.25, 2 / 3, 0.9):
    cut = made.example(data[: int(len(data) * fraction)])
    with pytest.raises(AudioError, match='truncated'):
      decode(cut, sample_rate=16000)
    # A crop of the part that is there is one of a bad file too.
    with pytest.raises(AudioError, match='truncated'):
      decode(cut, sample_rate=16000, seconds=0.05)
    with pytest.raises(AudioError):
      duration(cut)


def test_a_bare_mp3_that_was_cut():
  bare, _ = without_info(made.file(AUDIO, format='MP3'))
  assert 'middle of an MPEG frame' in made.reason(bare[: len(bare) * 2 // 3 + 1])


def test_a_stream_that_was_cut_at_its_beginning_is_read():
  """Its first frames need what is gone; the others are as they were."""
  data = made.file(made.noise(3.0), format='MP3', bitrate_mode='VARIABLE')
  bare, frames = without_info(data)
  whole = made.read(bare)
  later = made.read(bare[int(frames.starts[20] - frames.starts[0]) :])
  assert len(later) == len(whole) - 20 * frames.samples
  np.testing.assert_allclose(later[10 * 576 :], whole[30 * 576 :], atol=1e-6)


@pytest.mark.parametrize('cut', [1, 50, 131])
def test_a_stream_that_begins_in_the_middle_of_a_frame_is_read(cut):
  bare, frames = without_info(made.file(made.noise(3.0), format='MP3'))
  later = made.read(bare[cut:])
  whole = made.read(bare)
  assert len(later) == len(whole) - frames.samples
  np.testing.assert_allclose(later[10 * 576 :], whole[11 * 576 :], atol=1e-6)


def test_a_damaged_mp3():
  data = made.file(made.noise(2.0), format='MP3')
  half = len(data) // 2
  assert 'MPEG frames' in made.reason(data[:half] + b'\1\2\3\4' * 50 + data[half:])


@pytest.mark.parametrize('rate', [1, 7, 0x7FFFFFFF])
def test_absurd_rates_take_no_memory(rate):
  data = made.changed(made.file(AUDIO), (24, struct.pack('<I', rate)))
  assert 'Hz' in made.reason(data)


@pytest.mark.parametrize('format', FORMATS)
def test_bytes_changed_anywhere_never_end_a_run(format):
  data, rng = made.file(made.noise(0.2), **FORMATS[format]), np.random.default_rng(0)
  for _ in range(25):
    at = rng.integers(min(len(data), int(rng.choice([64, 200, len(data)]))), size=4)
    wrong = made.changed(data, *((int(a), bytes([int(rng.choice([0, 127, 255]))])) for a in at))
    try:
      assert len(decode(made.example(wrong), sample_rate=16000)) < 10**6
    except AudioError as error:
      assert str(error).endswith('.')


@pytest.mark.parametrize('error', [MemoryError(), ZeroDivisionError('x'), KeyError('y')])
def test_whatever_the_decoder_raises_makes_a_bad_file(tmp_path, write, monkeypatch, error):
  from research.audio.formats import streams

  write(tmp_path / 'a.flac')
  monkeypatch.setattr('research.audio.decode.LARGE', 1)

  def failing(*_):
    raise error

  monkeypatch.setattr(streams, '_take', failing)
  with pytest.raises(AudioError, match=r'cannot be decoded|too large'):
    decode(Example('x', {}, path=str(tmp_path / 'a.flac')), sample_rate=16000)


def test_durations_are_those_of_what_is_there(tmp_path):
  (tmp_path / 'a.flac').write_bytes(flac_total(made.file(AUDIO, **FLAC), 0))
  (tmp_path / 'b.mp3').write_bytes(without_info(made.file(AUDIO, format='MP3'))[0])
  (tmp_path / 'c.wav').write_bytes(made.file(AUDIO)[:1000])
  names = ['a.flac', 'b.mp3', 'c.wav']
  locate = lambda row: {'path': str(tmp_path / names[row])}  # noqa: E731
  found = durations.measure(names, locate, np.arange(3))
  assert found[0] == 1.0 and 1.0 < found[1] < 1.2 and found[2] == 0.0


def test_shards_of_a_folder_with_a_length_left_open(tmp_path):
  """It used to end the run: its 2^63 - 1 samples were believed."""
  from research.audio import prepare, shards
  from research.audio.sources import open_source

  for number in range(3):
    (tmp_path / 'd').mkdir(exist_ok=True)
    (tmp_path / 'd' / f'{number}.wav').write_bytes(made.file(made.noise(0.5, seed=number)))
  (tmp_path / 'd' / 'x.flac').write_bytes(flac_total(made.file(AUDIO, **FLAC), 0))
  settings = prepare.Settings(num_workers=0)
  source = open_source(str(tmp_path / 'd'))
  assert prepare.shard_count(source, settings, 1.0) == 1
  index = prepare.prepare(source, tmp_path / 'out', count=1, settings=settings)
  assert index['count'] == 4 and index['seconds'] == pytest.approx(2.5)
  last = shards.array_record(str(tmp_path / 'out'))[3]
  np.testing.assert_array_equal(decode(last, sample_rate=16000), AUDIO)


def test_a_wrong_claim_is_reported_once_a_file(tmp_path, caplog):
  (tmp_path / 'x.flac').write_bytes(flac_total(made.file(AUDIO, **FLAC), 0))
  for _ in range(3):
    decode(Example('x', {}, path=str(tmp_path / 'x.flac')), sample_rate=16000)
  said = [r.getMessage() for r in caplog.records if 'leaves its length open' in r.getMessage()]
  assert len(said) == 1 and str(tmp_path / 'x.flac') in said[0] and '16000 samples' in said[0]


def test_bad_files_of_a_stopped_run_do_not_count_in_the_next(tmp_path):
  path = tmp_path / 'bad_files.jsonl'
  first = bad_files.BadFiles(path, 0.1, total=10)
  for name in 'ab':
    first.seen(1)
    first.record(name, None, 'It is empty.')
  with pytest.raises(ValueError, match='2 of 10'):
    first.check()
  second = bad_files.BadFiles(path, 0.1, total=10)
  second.seen(8)
  second.record('a', None, 'It is still empty.')
  second.check()
  # Killed, the second attempt goes on with its own.
  third = bad_files.BadFiles(path, 0.1, total=10)
  third.check()
  third.record('c', None, 'It is empty.')
  with pytest.raises(ValueError, match='2 of 10'):
    third.check()
  assert {id for id, _ in third.items()} == {'a', 'b', 'c'}


@pytest.mark.parametrize('info', [True, False])
def test_tags_around_an_mp3_are_no_audio(info):
  data = made.file(AUDIO, format='MP3')
  data = data if info else without_info(data)[0]
  expected = made.read(data)
  size = 70_000  # of a picture
  picture = b'ID3\3\0\0' + bytes((size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127))
  picture += b'\xff\xfb\x90\x64' * (size // 4)
  ape = b'APETAGEX' + struct.pack('<4I', 2000, 32 + 8, 1, 0) + bytes(8)
  for wrapped in (
    picture + data,
    data + b'TAG' + bytes(125),
    data + bytes(8) + ape,
    data + bytes(8) + ape + b'TAG' + bytes(125),
    bytes(300) + data,
    data + bytes(1000),
  ):
    np.testing.assert_array_equal(made.read(wrapped), expected)


def test_a_wav_with_other_chunks_around_its_audio():
  data = made.file(AUDIO)
  extra = b'bext' + struct.pack('<I', 602) + bytes(602)
  early = data[:36] + extra + data[36:]
  np.testing.assert_array_equal(made.read(early), AUDIO)
  np.testing.assert_array_equal(made.read(data + b'LIST' + struct.pack('<I', 4) + b'INFO'), AUDIO)
  assert 'truncated' in made.reason(early[:-1000])
