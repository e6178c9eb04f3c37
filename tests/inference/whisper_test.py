"""Transcripts of a small Whisper from files and arrays: the door of notebooks, and bad input."""

import tracemalloc

import jax
import numpy as np
import pytest
import soundfile

from research import models
from research.errors import InputError
from research.features.frontend import Frontend
from research.inference import whisper_mel
from research.inference.whisper_decoding import Options, Result, WhisperDecoder
from research.inference.whisper_transcribe import Transcription
from research.text.whisper import read_whisper_tokenizer
from research.weights import Pretrained, load, save
from tests import contract
from tests.weights.toy import filled

RATE = 16_000
SMALL = dict(
  size='nano', width=16, depth=1, decoder_depth=1, n_audio_ctx=32, n_text_ctx=16,
  alignment_heads=((0, 0), (0, 1)),
)  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Weights of ours, without a tokenizer beside them."""
  model = models.get('whisper')(**SMALL)
  path = tmp_path_factory.mktemp('whisper') / 'model'
  save(Pretrained('whisper', model, filled(model), 'drawn'), path)
  return path


@pytest.fixture(scope='module')
def loaded(folder):
  found = load(folder)
  return Pretrained(found.name, found.model, found.variables, found.origin, 'bytes')


@pytest.mark.slow
def test_two_lines_of_a_notebook(loaded, tmp_path):
  """A path or samples, with segments, words, or text alone."""
  audio = contract.wave(0, 12_000)
  soundfile.write(tmp_path / 'speech.wav', audio, RATE, subtype='FLOAT')
  how = dict(temperature=0.0, condition_on_previous_text=False)  # prompts of one width
  found = loaded.transcribe(tmp_path / 'speech.wav', **how)
  same = loaded.transcribe(audio, RATE, **how)
  assert (found.text, found.segments, found.language) == (same.text, same.segments, 'en')
  assert found.seconds == 0.75
  several = loaded.transcribe([audio, audio[:9000]], RATE, word_timestamps=True, **how)
  assert [t.seconds for t in several] == [0.75, 0.5625]
  alone = loaded.transcribe(audio, RATE, word_timestamps=True, **how)
  assert several[0].words == alone.words
  assert several[0].words and all(0 <= w.start <= w.end <= 0.75 for w in several[0].words)


def test_without_timestamps_a_segment_is_a_window(loaded):
  found = loaded.transcribe(contract.wave(1, 9000), RATE, temperature=0.0, timestamps=False)
  assert len(found.segments) <= 1


@pytest.mark.parametrize('windows', ['voice', 'fixed'])
def test_windows_that_are_known_before(loaded, windows):
  """Windows of 0.64 s here, in one batch: times are those of the recording; silence has none."""
  voiced = 0.3 * np.sin(2 * np.pi * 150 * np.arange(9000) / RATE).astype(np.float32)
  audio = np.concatenate([np.zeros(8000, np.float32), voiced, np.zeros(16_000, np.float32), voiced])
  how = dict(temperature=0.0, windows=windows, overlap=0.1, no_speech_threshold=None)
  how['condition_on_previous_text'] = False
  found = loaded.transcribe([audio, np.zeros(RATE, np.float32)], RATE, **how)
  assert found[0].segments and found[0].seconds == audio.size / RATE
  assert all(0 <= s.start <= s.end for s in found[0].segments)
  assert all(s.start >= 0.25 for s in found[0].segments) or windows == 'fixed'
  assert (found[1].text, found[1].segments) == ('', ()) or windows == 'fixed'


def test_windows_without_voice_are_skipped(loaded):
  """None of them is decoded: nothing is written, though the weights write about anything."""
  how = dict(temperature=0.0, no_speech_threshold=None)
  silence = np.zeros(RATE, np.float32)
  assert loaded.transcribe(silence, RATE, **how).segments
  assert loaded.transcribe(silence, RATE, skip_unvoiced=True, **how).segments == ()


@pytest.mark.parametrize(
  ('options', 'says'),
  [
    (dict(windows='vad'), "Unknown windows of Whisper 'vad'"),
    (dict(windows='fixed', overlap=0.4), 'An overlap of 0.4 s was given'),
    (dict(hallucination_silence_threshold=2.0), 'without word_timestamps'),
    (dict(language='de'), 'this Whisper is English-only'),
    (dict(task='translate'), 'this Whisper is English-only'),
    (dict(language='klingon'), 'klingon'),
    (dict(task='sing'), 'sing'),
    (dict(tokenizer='/nowhere'), '/nowhere'),
  ],
)
def test_options_that_do_not_fit(loaded, options, says):
  with pytest.raises(InputError, match=says):
    loaded.transcribe(contract.wave(0, 9000), RATE, **options)


def test_a_tokenizer_of_other_weights_is_refused(folder):
  """None beside the weights; one of another vocabulary."""
  with pytest.raises(InputError, match=r'is no tokenizer: expected tokenizer\.json'):
    load(folder).transcribe(np.zeros(8000, np.float32), RATE)
  model = models.get('whisper')(**SMALL, n_vocab=60)
  with pytest.raises(InputError, match='does not fit 60 rows of weights'):
    Pretrained('whisper', model, {}, 'drawn', 'bytes').transcribe(np.zeros(8000, np.float32), RATE)
  other = read_whisper_tokenizer('bytes', 51865)
  with pytest.raises(InputError, match='has 51865 tokens, the weights have 51864'):
    other.check_fits(51864)


def test_audio_that_is_none(loaded, tmp_path):
  """Empty, without samples, NaN, too short for one frame; 0.05 s are transcribed."""
  (tmp_path / 'empty.wav').write_bytes(b'')
  soundfile.write(tmp_path / 'no_samples.wav', np.zeros(0, np.float32), RATE)
  broken = np.full(8000, np.nan, np.float32)
  soundfile.write(tmp_path / 'nan.wav', broken, RATE, subtype='FLOAT')
  for audio, says in (
    (tmp_path / 'empty.wav', 'empty.wav'),
    (tmp_path / 'no_samples.wav', 'no_samples.wav'),
    (tmp_path / 'nan.wav', 'nan.wav'),
    (broken, 'not numbers'),
    (np.zeros(100, np.float32), 'too short: 100 samples at 16000 Hz'),
  ):
    rate = RATE if isinstance(audio, np.ndarray) else None
    with pytest.raises(InputError, match=says):
      loaded.transcribe(audio, rate, temperature=0.0)
  clip = contract.wave(0, RATE // 20)
  for more in (dict(word_timestamps=True), dict(windows='voice'), dict(skip_unvoiced=True)):
    found = loaded.transcribe(clip, RATE, temperature=0.0, **more)
    assert found.seconds == 0.05 and all(0 <= word.start <= word.end for word in found.words)


def test_a_text_of_single_bytes_begins_with_a_blank(loaded):
  """Its first token is that of the blank, which real vocabularies have within words."""
  tokenizer = read_whisper_tokenizer('bytes', 51864)
  decoder = WhisperDecoder(loaded.model, loaded.variables, tokenizer)
  first = next(r for r in decoder.settings(Options()).rules if getattr(r, 'first', False))
  assert first.tokens == (tokenizer.eot,)
  assert tokenizer.encode(' up')[:1] == tokenizer.encode(' ')
  assert tokenizer.encode(' ')[0] not in tokenizer.non_speech_tokens
  assert tokenizer.encode('(')[0] in tokenizer.non_speech_tokens


def test_silence_is_not_transcribed():
  """Improbable text of a window without speech is none; probable text stays (openai/whisper)."""
  how = Transcription()
  result = Result(
    'en', text='Thank you.', avg_logprob=-1.5, no_speech_prob=0.9, compression_ratio=0.7
  )
  assert how.silent(result) and not how.failed(result)
  sure = Result('en', avg_logprob=-0.2, no_speech_prob=0.9, compression_ratio=0.7)
  assert not how.silent(sure)
  speech = Result('en', avg_logprob=-1.5, no_speech_prob=0.1, compression_ratio=0.7)
  assert not how.silent(speech) and how.failed(speech)


# -- Log-mel of long recordings ----------------------------------------------------------------


@pytest.mark.parametrize(
  'samples',
  [pytest.param(n, marks=pytest.mark.slow) for n in (120, 30 * RATE)] + [7_777, 31 * RATE + 57],
)
def test_log_mel_in_pieces_is_that_of_the_whole(samples):
  """A loud end lifts the floor of the quiet beginning, pieces before."""
  frontend, silence = Frontend.create('whisper'), 40
  audio = np.float32(0.001) * np.resize(contract.wave(0, 200_000), samples)
  audio[-100:] *= 1000
  whole = frontend.replace(appended=silence * 160)
  want = np.asarray(jax.jit(whole)(audio[None], np.ones((1, samples), bool))[0])[0]
  got, content = whisper_mel.whole_log_mel(frontend, audio, silence)
  assert got.shape == want.shape and content == samples // 160
  np.testing.assert_allclose(got, want, atol=2e-5)
  assert got.min() == pytest.approx(got.max() - 2, abs=1e-6)


@pytest.mark.slow
def test_three_hours_take_little_more_than_their_log_mel():
  audio = np.zeros(3 * 3600 * RATE, np.float32)
  audio[-RATE:] = contract.wave(0, RATE)
  frontend = Frontend.create('whisper')
  tracemalloc.start()
  try:
    mel, frames = whisper_mel.whole_log_mel(frontend, audio, 3000)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert frames == 3 * 3600 * 100
  assert mel.nbytes == 4 * 80 * (frames + 3000)
  assert peak < mel.nbytes + 40e6
