"""`python -m launch.transcribe` with a Whisper: real weights on real speech."""

import json

import numpy as np
import pytest

from research import weights
from research.audio.decode import decode
from research.audio.example import Example
from research.inference.whisper_decoding import Options, WhisperDecoder
from research.inference.whisper_files import WhisperTranscriber
from research.inference.whisper_transcribe import Transcription
from tests.launch import runner
from tests.parity.golden import CHECKOUT
from tests.parity.whisper_vocabulary import WEIGHTS, tokenizer

SPEECH = CHECKOUT.parent / 'shared' / 'data' / 'librispeech_test_clean_sub'
FILE = SPEECH / 'audio' / '121' / '121-127105-0015.opus'
SAID = 'He quitted the fire and dropped back into his chair.'

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not (WEIGHTS.is_dir() and FILE.is_file()), reason=f'no {WEIGHTS} or no {FILE}'
  ),
]


def transcribe(*more):
  return runner.run('launch.transcribe', f'--model={WEIGHTS}', *more)


def test_subtitles_words_and_rows(tmp_path):
  """Segments as subtitles and as tab-separated lines; words in a .ctm; rows with both."""
  outputs = {}
  for suffix in ('.srt', '.tsv', '.ctm', '.vtt'):
    out = tmp_path / f't{suffix}'
    done = transcribe(f'--input={FILE}', f'--out={out}', '--temperature=0')
    assert done.returncode == 0, done.stderr
    assert f'{FILE.name}: {SAID}' in done.stdout
    outputs[suffix] = out.read_text()
  assert outputs['.srt'].startswith('1\n00:00:00,000 --> 00:00:0')
  assert outputs['.srt'].splitlines()[2] == SAID
  assert outputs['.vtt'].startswith('WEBVTT\n\n00:00:00.000 -->')
  start, end, text = outputs['.tsv'].splitlines()[1].split('\t')
  assert int(start) == 0 and 2000 <= int(end) <= 3000 and text == SAID
  words = [line.split() for line in outputs['.ctm'].splitlines()]
  assert [w[4] for w in words] == SAID.split()
  starts = [float(w[2]) for w in words]
  assert starts == sorted(starts)


def test_a_list_with_transcripts(tmp_path):
  table = tmp_path / 'list.csv'
  said = 'HE QUITTED THE FIRE AND DROPPED BACK INTO HIS CHAIR'
  (tmp_path / 'broken.wav').write_bytes(b'RIFF')
  table.write_text(f'path,transcript\n{FILE},{said}\nbroken.wav,NO\n')
  out = tmp_path / 't.jsonl'
  done = transcribe(
    f'--input={table}', f'--out={out}', '--beam=5', '--temperature=0', '--word_timestamps'
  )
  assert done.returncode == 0, done.stderr
  assert '1 clips' in done.stdout or '2 clips, 1 left out' in done.stdout
  assert 'WER 0.00 %' in done.stdout
  row = json.loads(out.read_text().splitlines()[0])
  assert row['text'] == SAID and row['language'] == 'en'
  assert row['segments'][0]['text'] == SAID
  assert [w['word'] for w in row['words']] == SAID.split()


def test_windows_cut_in_pauses(tmp_path):
  """Two readings of a clip with 40 s of silence between them: no window has to be heard twice, and
  times are those of the recording."""
  clip = decode(Example('clip', {}, path=str(FILE)), sample_rate=16_000)
  audio = np.concatenate([clip, np.zeros(40 * 16_000, np.float32), clip])
  loaded = weights.load(WEIGHTS)
  for more in (dict(windows='voice'), dict(windows='fixed'), dict(skip_unvoiced=True)):
    found = loaded.transcribe(audio, 16_000, temperature=0.0, **more)
    assert found.text == f'{SAID} {SAID}', more
    assert found.segments[0].start < 1 and found.segments[-1].end > 42, more


def test_from_python():
  loaded = weights.load(WEIGHTS)
  decoder = WhisperDecoder(loaded.model, loaded.variables, tokenizer(51864))
  how = Transcription(temperature=0.0, options=Options(language='en'))
  found = WhisperTranscriber(decoder, how).transcribe(str(FILE))
  assert found.text == SAID and found.segments[0].word == SAID and not found.words


def test_from_python_in_two_lines():
  model = weights.load(WEIGHTS)
  found = model.transcribe(FILE, word_timestamps=True, temperature=0.0)
  assert found.text == SAID and [w.word for w in found.words] == SAID.split()
  assert found.words[0].start < 0.5 and 2.0 < found.words[-1].end <= 3.0


def test_silence_and_noise():
  """By upstream's rules a probable text of a silent window stays; by no-speech alone it does
  not."""
  model = weights.load(WEIGHTS)
  silence = np.zeros(40 * 16_000, np.float32)
  noise = 0.01 * np.random.default_rng(0).standard_normal(40 * 16_000).astype(np.float32)
  assert model.transcribe(silence, 16_000, temperature=0.0).text == 'you you'
  for audio in (silence, noise, noise[:800]):
    found = model.transcribe(audio, 16_000, temperature=0.0, logprob_threshold=None)
    assert found.text == ''


def test_flags_of_others_are_refused():
  for flag, match in (
    ('--lm=some.arpa', '--lm is for a model with a CTC head'),
    ('--window=3', '--window is for a model with a CTC head'),
    ('--temperature=warm', '--temperature=warm: expected numbers'),
    ('--language=klingon', 'klingon'),
    ('--tokenizer=/nowhere', '/nowhere'),
    ('--logprob_threshold=low', 'logprob_threshold=low: expected a number or none'),
  ):
    done = transcribe(f'--input={FILE}', flag)
    assert done.returncode == 2, flag
    assert match in done.stderr, done.stderr
