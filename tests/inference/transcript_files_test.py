"""Files of transcripts: their formats, going on after a kill, and what is refused."""

import contextlib
import json
import os

import numpy as np
import pytest
import soundfile

from research.audio.clips import Files, Source, Table
from research.errors import InputError
from research.inference import row_jobs, transcribe, transcript_files
from research.inference.ctc import Word
from research.inference.transcribe import Transcriber
from research.jobs import folders
from research.jobs.parts import Parts
from research.metrics.asr import Errors
from tests.inference.toy_ctc import RATE, ToyCTC, speak, variables

SAID = {'b.wav': 'NO TEA', 'a.wav': 'SIT ON A STONE', 'c d.wav': ''}


@pytest.fixture(scope='module')
def transcriber():
  model = ToyCTC()
  return Transcriber(model, variables(model))


@pytest.fixture
def source(tmp_path):
  for name, said in SAID.items():
    soundfile.write(tmp_path / name, speak(said) if said else np.zeros(4000), RATE)
  return Source(Table('clips', list(SAID), {}, Files(str(tmp_path), list(SAID))))


def with_bad(tmp_path):
  (tmp_path / 'bad.wav').write_bytes(b'')
  names = ['bad.wav', *SAID]
  return Source(Table('clips', names, {}, Files(str(tmp_path), names)))


def lines(path):
  return path.read_text().splitlines()


def test_rows_in_the_order_of_the_source(transcriber, source, tmp_path):
  shown = []
  out = tmp_path / 'new' / 't.jsonl'
  rows = transcript_files.transcribe_source(
    transcriber, source, out, references=['no tea', '', ''], show=lambda *row: shown.append(row)
  )
  assert rows == [json.loads(line) for line in lines(out)]
  assert [row['id'] for row in rows] == list(SAID)
  assert [row['text'] for row in rows] == list(SAID.values())
  assert sorted(shown) == sorted(SAID.items())
  assert rows[0]['seconds'] == 0.7 and rows[0]['reference'] == 'no tea'
  assert [w['word'] for w in rows[0]['words']] == ['NO', 'TEA'] and 'reference' not in rows[1]
  assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == ['t.jsonl']
  assert transcript_files.transcribe_source(transcriber, source)[1] == rows[1]


def test_bad_files_are_rows_that_say_why(transcriber, source, tmp_path):
  rows = transcript_files.transcribe_source(transcriber, with_bad(tmp_path), tmp_path / 't.jsonl')
  assert json.loads(lines(tmp_path / 't.jsonl')[0]) == {
    'id': 'bad.wav', 'error': 'It is empty (0 bytes).',
  }  # fmt: skip
  assert len(rows) == 4
  with pytest.raises(InputError, match='Too many bad audio files: 1 of 4'):
    transcript_files.transcribe_source(
      transcriber, with_bad(tmp_path), tmp_path / 'u.jsonl', max_bad_fraction=0.1
    )
  only = with_bad(tmp_path).select([0])
  with pytest.raises(InputError, match=r"Nothing of 'clips' could be .* bad.wav: It is empty"):
    transcript_files.transcribe_source(transcriber, only, tmp_path / 'v.txt', max_bad_fraction=1.0)
  assert not list(tmp_path.glob('v.txt*'))


def test_text_and_ctm(transcriber, source, tmp_path):
  for suffix in ('txt', 'ctm'):
    transcript_files.transcribe_source(transcriber, source, tmp_path / f't.{suffix}')
  assert lines(tmp_path / 't.txt') == ['b.wav\tNO TEA', 'a.wav\tSIT ON A STONE', 'c d.wav\t']
  found = [line.split() for line in lines(tmp_path / 't.ctm')]
  assert [(f[0], f[1], f[4]) for f in found] == [
    *(('b.wav', '1', w) for w in ('NO', 'TEA')),
    *(('a.wav', '1', w) for w in ('SIT', 'ON', 'A', 'STONE')),
  ]
  start, length = (float(x) for x in found[1][2:4])
  assert start == pytest.approx(0.3, abs=0.021) and length == pytest.approx(0.26, abs=0.021)
  # Spaces of an id would make other fields of it.
  row = dict(id='c d.wav', words=[dict(word='A', start=0.02, end=0.1)])
  assert list(transcript_files._ctm([row])) == ['c_d.wav 1 0.020 0.080 A\n']


def test_subtitles_of_one_recording(transcriber, source, tmp_path):
  one = source.select([0])
  for suffix in ('srt', 'vtt'):
    transcript_files.transcribe_source(transcriber, one, tmp_path / f't.{suffix}')
    with pytest.raises(InputError, match='subtitles of one recording, and the input has 3'):
      transcript_files.transcribe_source(transcriber, source, tmp_path / f'u.{suffix}')
  assert lines(tmp_path / 't.srt') == ['1', '00:00:00,000 --> 00:00:00,560', 'NO TEA', '']
  assert lines(tmp_path / 't.vtt') == [
    'WEBVTT', '', '00:00:00.000 --> 00:00:00.560', 'NO TEA', '',
  ]  # fmt: skip
  row = dict(id='x', words=[dict(word='A<B&', start=3723.4567, end=3724.0)])
  (cue,) = list(transcript_files._vtt([row]))[1:]
  assert cue == '01:02:03.457 --> 01:02:04.000\nA&lt;B&amp;\n\n'


def test_subtitles_stay_short():
  words = [Word('SEVEN', 0.5 * i, 0.5 * i + 0.3) for i in range(40)]
  cues = transcript_files.cues(words)
  assert [w for cue in cues for w in cue] == words
  assert all(cue[-1].end - cue[0].start <= 7.0 for cue in cues)
  assert all(len(' '.join(w.word for w in cue)) <= 84 for cue in cues)
  # 14 words of 5 letters are 83 with their spaces and last 6.8 s.
  assert [len(cue) for cue in cues] == [14, 14, 12]
  first, second = transcript_files._lines(cues[0]).split('\n')
  assert len(first) <= 42 and len(second) <= 42
  pause = [Word('A', 0.0, 0.2), Word('B', 1.1, 1.3), Word('C', 2.4, 2.5)]
  assert [len(cue) for cue in transcript_files.cues(pause)] == [2, 1]
  assert transcript_files.cues([]) == []


def test_a_killed_job_goes_on(transcriber, source, tmp_path, monkeypatch):
  """The third clip kills the job; a file that was bad is there by then."""
  monkeypatch.setattr(transcribe, 'BLOCK_CLIPS', 1)
  everything = with_bad(tmp_path)
  expected = transcript_files.transcribe_source(transcriber, source)
  out = tmp_path / 't.jsonl'
  done = []

  def kill(id, text):
    done.append(id)
    if len(done) == 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    transcript_files.transcribe_source(transcriber, everything, out, show=kill)
  parts = tmp_path / 't.jsonl.parts'
  # The bad file and the shortest clip.
  assert not out.exists() and len(list(parts.glob('part_*.npz'))) == 2
  (parts / 'part_cut.partial').write_bytes(b'{"id": "a.w')
  with pytest.raises(InputError, match='unfinished job with another beam'):
    transcript_files.transcribe_source(transcriber, everything, out, about={'beam': 5})
  soundfile.write(tmp_path / 'bad.wav', speak('TEN'), RATE)
  # Killed again after the repaired file, it is tried once more.
  for kills in (True, False):
    again = []

    def show(id, text, kills=kills, again=again):
      again.append(id)
      if kills and len(again) == 3:
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
      rows = transcript_files.transcribe_source(transcriber, everything, out, show=show)
    assert len(again) == 3 - 2 * (not kills)
  assert rows[1:] == expected and rows[0]['text'] == 'TEN' and again == ['bad.wav']
  assert not parts.exists()


def test_a_job_of_another_process_is_left_alone(transcriber, source, tmp_path):
  folders.begin(tmp_path / 't.txt.parts', {'of': 'another'})
  Parts(tmp_path / 't.txt', {}).write({'k': {'lines': np.zeros(0, np.uint8)}})
  with pytest.raises(InputError, match='unfinished job with another'):
    transcript_files.transcribe_source(transcriber, source, tmp_path / 't.txt')
  assert len(list((tmp_path / 't.txt.parts').glob('part_*.npz'))) == 1


def test_error_rates_of_the_rows_with_a_reference():
  rows = [
    dict(id='1', text='THE CAT SAT', reference='the cat  sat'),
    dict(id='2', text='ON A MAT', reference='on the mat'),
    dict(id='3', text='NOTHING IS KNOWN'),
    dict(id='4', error='It is empty (0 bytes).', reference='not heard'),
  ]
  clips, words, characters = transcript_files.error_rates(rows, ('|', 'A', 'B'))
  assert clips == 2 and words == Errors(5, 1, 0, 0)
  # 'A' for 'THE' of the 11 + 10 characters: one other, two missing.
  assert characters == Errors(18, 1, 2, 0)


def test_what_is_refused(transcriber, source, tmp_path):
  (tmp_path / 'there.txt').write_text('mine')
  (tmp_path / 'folder.txt').mkdir()
  for name, sentence in (
    ('t.doc', 'has to end in .jsonl, .txt, .srt, .vtt, .ctm or .tsv'),
    ('there.txt', 'is there already'),
    ('folder.txt', 'is a folder'),
  ):
    with pytest.raises(InputError, match=sentence):
      transcript_files.transcribe_source(transcriber, source, tmp_path / name)
  assert (tmp_path / 'there.txt').read_text() == 'mine'
  transcript_files.transcribe_source(transcriber, source, tmp_path / 'there.txt', overwrite=True)
  assert lines(tmp_path / 'there.txt')[0] == 'b.wav\tNO TEA'
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match=r'Cannot write .*t\.txt'):
    transcript_files.transcribe_source(transcriber, source, tmp_path / 'file' / 't.txt')


def test_names_of_files_may_be_any_bytes(transcriber, tmp_path):
  name = os.fsdecode(b'caf\xe9.wav')
  soundfile.write(tmp_path / 'plain.wav', speak('NO TEA'), RATE)
  (tmp_path / 'plain.wav').rename(tmp_path / name)
  source = Source(Table('clips', [name], {}, Files(str(tmp_path), [name])))
  for out in ('t.jsonl', 't.txt'):
    transcript_files.transcribe_source(transcriber, source, tmp_path / out)
    assert b'NO TEA' in (tmp_path / out).read_bytes()
  (tmp_path / 't.txt').unlink()
  # What a killed job has written is read again.
  (row,) = transcript_files.transcribe_source(transcriber, source)
  parts = Parts(tmp_path / 't.txt', {})
  parts.open()
  line = row_jobs.line(row).encode(errors='surrogateescape')
  parts.write({'k': {'lines': np.frombuffer(line, np.uint8)}})
  assert list(row_jobs.read(parts)) == [row] and row['id'] == name
