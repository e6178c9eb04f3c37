"""Clips through a CTC model: batches, chunks joined in the middle of their overlap, bad files."""

import numpy as np
import pytest
import soundfile

from research.audio.bad_files import BadFiles
from research.audio.clips import Files, Source, Table
from research.errors import InputError
from research.inference import ctc, transcribe
from research.inference.transcribe import Transcriber
from tests.evals import toy
from tests.inference.toy_ctc import HOP, RATE, ToyCTC, speak, variables

LONG = 'THE HEN THAT SITS ON A STONE IN THE NET SEES NO SEED ' * 3


def transcriber(reach=0, **settings):
  model = ToyCTC(reach=reach)
  return Transcriber(model, variables(model), **settings)


@pytest.fixture(scope='module')
def whole():
  return transcriber(window=60.0)


def source_of(root, names):
  return Source(Table('clips', names, {}, Files(str(root), names)))


def logits_of(system, audio):
  source = transcribe.in_memory([audio], RATE, RATE)
  ((row, logits, seconds),) = system.logits(source)
  assert row == 0 and seconds == pytest.approx(len(audio) / RATE)
  return logits


def test_a_clip_and_its_word_times(whole):
  found = whole.transcribe(speak('NO TEA'), RATE)
  assert found.text == 'NO TEA' and found.seconds == pytest.approx(0.7)
  # A letter every 100 ms with 60 ms of tone; frames of 25 ms every 20 ms.
  starts, ends = np.array([w[1:] for w in found.words]).T
  assert [w.word for w in found.words] == ['NO', 'TEA']
  np.testing.assert_allclose(starts, [0.0, 0.3], atol=0.021)
  np.testing.assert_allclose(ends, [0.16, 0.56], atol=0.021)


def test_one_or_several_arrays_or_paths(whole, tmp_path):
  soundfile.write(tmp_path / 'a.wav', speak('TEN'), RATE)
  texts = lambda found: [t.text for t in found]  # noqa: E731
  assert texts(whole.transcribe([tmp_path / 'a.wav', str(tmp_path / 'a.wav')])) == ['TEN', 'TEN']
  assert texts(whole.transcribe([speak('SET'), speak('A')], RATE)) == ['SET', 'A']
  assert texts(whole.transcribe(np.stack([speak('NO'), speak('ON')]), RATE)) == ['NO', 'ON']
  assert whole.transcribe(speak('ONE', rate=48_000), 48_000).text == 'ONE'
  assert whole.transcribe([]) == []
  for wrong, sentence in (
    (((speak('A')),), 'without sample_rate'),
    ((np.zeros(80, np.float32), RATE), r'clip 0: It is too short: 80 samples .* 400 \(25 ms\)'),
    ((tmp_path / 'absent.wav',), 'absent.wav: It cannot be opened'),
    (([speak('A'), np.full(800, np.nan, np.float32)], RATE), 'clip 1 holds samples that are not'),
  ):
    with pytest.raises(InputError, match=sentence):
      whole.transcribe(*wrong)


def test_clips_of_every_length_in_their_batches(whole):
  rng = np.random.default_rng(0)
  texts = [''.join(rng.choice(list('ETAONIHS'), size)) for size in rng.integers(1, 60, 40)]
  clips = [speak(t.replace('EE', 'E')) for t in texts]
  assert [t.text for t in whole.transcribe(clips, RATE)] == [t.replace('EE', 'E') for t in texts]


@pytest.mark.slow
def test_a_batch_gives_the_logits_of_a_clip_alone(whole):
  clips = [speak(t) for t in ('NO', 'TEA IN A NET', 'SIT')]
  source = transcribe.in_memory(clips, RATE, RATE)
  for row, logits, _ in whole.logits(source):
    batch = {'audio': clips[row][None], 'audio_mask': np.ones((1, len(clips[row])), bool)}
    alone = whole.model.apply(variables(whole.model), batch)['logits'][0]
    np.testing.assert_allclose(logits, alone, atol=1e-4)


@pytest.mark.parametrize('window, overlap', [(3.0, 0.6), (1.0, 0.5), (5.0, 0.0)])
def test_chunks_joined_equal_the_whole(whole, window, overlap):
  audio = speak(LONG)
  expected = logits_of(whole, audio)
  assert len(expected) == (len(audio) - 400) // HOP + 1
  chunked = transcriber(window=window, overlap=overlap)
  assert len(chunked.pieces(0, len(audio) / RATE)) > 3
  np.testing.assert_allclose(logits_of(chunked, audio), expected, atol=1e-4)
  assert chunked.transcribe(audio, RATE) == whole.transcribe(audio, RATE)


def test_a_model_that_hears_to_both_sides_needs_half_the_overlap():
  audio = speak(LONG)
  expected = logits_of(transcriber(reach=10, window=60.0), audio)
  # 20 frames are shared: every one that counts has 10 of them on its side.
  enough = logits_of(transcriber(reach=10, window=2.0, overlap=0.4), audio)
  np.testing.assert_allclose(enough, expected, atol=1e-4)
  little = logits_of(transcriber(reach=10, window=2.0, overlap=0.2), audio)
  assert little.shape == expected.shape and np.abs(little - expected).max() > 1.0


def test_any_length_is_cut_without_a_gap():
  system = transcriber(window=1.0, overlap=0.3)
  frontend, step = system.model.frontend, system.window - system.overlap
  for samples in [400, 719, 720, *range(15_000, 40_000, 613)]:
    pieces = system.pieces(3, samples / RATE)
    frames = frontend.frames(samples)
    assert [p.first for p in pieces] == [i * step for i in range(len(pieces))]
    assert all(p.row == 3 and p.samples <= system.lengths[-1] for p in pieces)
    last = pieces[-1]
    assert last.first + frontend.frames(last.samples) == frames
    assert last.first * HOP + last.samples == samples
    # No chunk more than needed: the one before does not reach the end.
    assert len(pieces) == 1 or pieces[-2].first + system.window < frames


def test_half_an_hour_in_a_file(tmp_path):
  times = round(1800 / (len(LONG) / 10)) + 1
  soundfile.write(tmp_path / 'long.wav', np.tile(speak(LONG), times), RATE)
  found = transcriber(window=40.0, overlap=5.0).transcribe(tmp_path / 'long.wav')
  assert found.seconds > 1800 and found.text == (LONG * times).strip()
  last = found.words[-1]
  assert last.word == 'SEED' and found.seconds - 0.7 < last.start < last.end <= found.seconds


def test_joining_by_hand():
  a, b, c = (np.full((6, 1), x, np.float32) for x in (1, 2, 3))
  joined = transcribe.join([(0, a), (4, b), (8, c[:3])], 2)
  # Frames 4 and 5 are shared by a and b, 8 and 9 by b and c: each gets one of them.
  assert joined[:, 0].tolist() == [1] * 5 + [2] * 4 + [3] * 2


def test_every_kind_of_file(whole, tmp_path):
  says = speak('NO ANT IN A TENT')
  soundfile.write(tmp_path / 'mono.wav', says, RATE)
  soundfile.write(tmp_path / 'stereo.flac', np.stack([says, says], axis=1), RATE)
  soundfile.write(tmp_path / 'slow.wav', speak('NO ANT IN A TENT', rate=8000), 8000)
  soundfile.write(tmp_path / 'silent.wav', np.zeros(8000), RATE)
  soundfile.write(tmp_path / 'short.wav', says[:80], RATE)
  soundfile.write(tmp_path / 'cut.wav', says, RATE)
  (tmp_path / 'cut.wav').write_bytes((tmp_path / 'cut.wav').read_bytes()[:9000])
  (tmp_path / 'text.wav').write_text('not audio at all')
  (tmp_path / 'empty.wav').write_bytes(b'')
  names = [f'{n}.wav' for n in ('mono', 'slow', 'silent', 'short', 'cut', 'text', 'empty', 'gone')]
  source = source_of(tmp_path, [*names, 'stereo.flac'])
  bad = BadFiles(None, 0.9, total=len(source))
  found = {source.id(row): result for row, result in whole.stream(source, bad)}
  assert set(found) == {*names, 'stereo.flac'}
  for name in ('mono.wav', 'slow.wav', 'stereo.flac'):
    assert found[name].text == 'NO ANT IN A TENT', name
  assert found['silent.wav'] == ctc.Transcript('', (), 0.5)
  assert found['short.wav'] == (
    'It is too short: 80 samples at 16000 Hz, and one frame takes 400 (25 ms).'
  )
  assert 'truncated' in found['cut.wav'] and 'not an audio file' in found['text.wav']
  assert 'empty' in found['empty.wav'] and 'No such file' in found['gone.wav']
  # What is short is no bad file.
  assert {name for name, _ in bad.items()} == {'cut.wav', 'text.wav', 'empty.wav', 'gone.wav'}
  with pytest.raises(InputError, match='Too many bad audio files: 4 of 9'):
    list(whole.stream(source, BadFiles(None, 0.2, total=len(source))))


def test_a_file_that_breaks_off_in_a_later_chunk(tmp_path):
  audio = speak(LONG)
  soundfile.write(tmp_path / 'broken.flac', audio, RATE)
  data = bytearray((tmp_path / 'broken.flac').read_bytes())
  data[len(data) * 3 // 4 :] = bytes(len(data) - len(data) * 3 // 4)
  (tmp_path / 'broken.flac').write_bytes(data)
  soundfile.write(tmp_path / 'whole.flac', audio, RATE)
  source = source_of(tmp_path, ['broken.flac', 'whole.flac'])
  found = dict(transcriber(window=2.0, overlap=0.4).stream(source))
  assert 'damaged or truncated' in found[0] and found[1].text == LONG.strip()


def test_blocks_bound_what_is_kept(monkeypatch):
  monkeypatch.setattr(transcribe, 'BLOCK_SECONDS', 3.0)
  durations = np.array([2.0, 0.5, 9.0, 0.0, 1.0, 1.0])
  blocks = [b.tolist() for b in transcribe.blocks(durations)]
  assert blocks == [[3, 1, 4, 5], [0], [2]]
  monkeypatch.setattr(transcribe, 'BLOCK_CLIPS', 2)
  assert [len(b) for b in transcribe.blocks(durations)] == [2, 2, 1, 1]


def test_a_beam_search_is_a_decoder_too(whole):
  pytest.importorskip('flashlight', reason="needs flashlight-text ('.[lm]')")
  from research.inference import beam

  search = beam.BeamSearch(whole.model.vocabulary, whole.model.blank)
  found = transcriber(decoder=search).transcribe(speak('NO TEA'), RATE)
  assert found == whole.transcribe(speak('NO TEA'), RATE)


def test_what_cannot_be():
  with pytest.raises(InputError, match='Toy gives no letters'):
    Transcriber(toy.Toy(), {})
  with pytest.raises(InputError, match='ToyCTC gives no letters'):
    Transcriber(ToyCTC(vocabulary=()), {})
  for window, overlap in ((1.0, 1.0), (0.01, 0.0), (2.0, -1.0)):
    with pytest.raises(InputError, match=f'Chunks of {window:g} s that share {overlap:g} s'):
      transcriber(window=window, overlap=overlap)
  broken = Transcriber(ToyCTC(), {'params': {'scale': np.float32(np.nan)}})
  with pytest.raises(InputError, match='scores that are not numbers'):
    broken.transcribe(speak('A'), RATE)
