"""Kinds I and J: files that are left out are named; names that are spelt otherwise are found."""

import unicodedata

import numpy as np
import pytest

from research.audio.decode import decode
from research.audio.folder import MEDIA
from research.audio.formats import media
from research.audio.sources import open_source
from research.audio.spelling import Spelling
from research.errors import InputError
from tests.audio.faults import made

READ = ('a.wav', 'b.WAVE', 'c.Bwf', 'd.mp2', 'e.MPGA', 'f.snd', 'g.AIFF')


def fill(folder, names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(made.file(made.noise(0.1)))


def test_other_endings_in_any_case_are_audio(tmp_path):
  fill(tmp_path, READ)
  source = open_source(str(tmp_path))
  assert tuple(source.id(i) for i in range(len(source))) == READ
  assert source.durations().tolist() == [0.1] * len(READ)


def test_what_is_left_out_is_counted_and_named_once(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(media, 'available', lambda: False)
  fill(tmp_path, ['a.wav', 'x.webm', 'sub/y.WEBM', 'z.amr', 'notes.md', '.hidden.amr'])
  (tmp_path / 'speakers.tsv').write_text('name\tsex\na\tf\n')
  assert len(open_source(str(tmp_path))) == 1
  (said,) = [r.getMessage() for r in caplog.records if 'Not read' in r.getMessage()]
  assert '1 .amr, 2 .webm files' in said and 'speakers.tsv' in said and 'notes' not in said
  assert '[media]' in said and 'labels.csv' in said


def test_a_folder_of_nothing_but_others_says_so(tmp_path, monkeypatch):
  monkeypatch.setattr(media, 'available', lambda: False)
  fill(tmp_path, ['x.wma', 'y.wma'])
  with pytest.raises(InputError, match=r'holds no audio files .* Not read: 2 \.wma files'):
    open_source(str(tmp_path))


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, caplog):
  fill(tmp_path, ['a.wav'])
  (tmp_path / 'README.txt').write_text('x')
  open_source(str(tmp_path))
  assert not [r for r in caplog.records if 'Not read' in r.getMessage()]


def test_with_pyav_they_are_clips(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(media, 'available', lambda: True)
  fill(tmp_path, [f'x{ending}' for ending in MEDIA])
  assert len(open_source(str(tmp_path))) == len(MEDIA)
  assert not [r for r in caplog.records if 'Not read' in r.getMessage()]


NFC, NFD = 'é ö/ñ.wav', unicodedata.normalize('NFD', 'é ö/ñ.wav')


@pytest.mark.parametrize(
  ('on_disk', 'in_list'),
  [
    ('sub/a.wav', 'sub\\a.wav'),
    ('sub/deep/a.wav', 'sub\\deep\\a.wav'),
    ('a.wav', 'a.wav '),
    ('b.wav', ' b.wav'),
    (NFD, NFC),
    (NFC, NFD),
    (NFD, NFC.replace('/', '\\') + ' '),
    (f'é/{NFD}', f'{unicodedata.normalize("NFD", "é")}/{NFC}'),
  ],
)
def test_paths_that_are_on_disk_under_another_spelling(tmp_path, on_disk, in_list):
  fill(tmp_path, [on_disk])
  (tmp_path / 'labels.csv').write_text(f'path,label\n{in_list},x\n', encoding='utf-8')
  source = open_source(str(tmp_path))
  assert source.id(0) == on_disk
  np.testing.assert_array_equal(decode(source[0], sample_rate=16000), made.noise(0.1))


def test_a_path_that_is_there_as_it_is_stays(tmp_path):
  names = ['a\\b.wav', ' c.wav', NFD.replace('/', '_')]
  fill(tmp_path, names)
  assert list(map(Spelling(tmp_path), names)) == names
  assert Spelling(tmp_path)('nö.wav') == 'nö.wav'


def test_a_backslash_leads_out_of_no_folder(tmp_path):
  fill(tmp_path, ['in/a.wav', 'out.wav'])
  (tmp_path / 'in' / 'labels.csv').write_text('path,label\n..\\out.wav,x\n')
  with pytest.raises(InputError, match=r'goes up by "\.\."'):
    open_source(str(tmp_path / 'in'))
