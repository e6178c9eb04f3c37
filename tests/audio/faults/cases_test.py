"""The recorded cases of `../shared/cases` ($OIDO_CASES), where they are there."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from launch.inputs import open_input
from research.audio import tables
from research.audio.decode import AudioError, crop, decode, duration
from research.audio.example import Example
from research.audio.formats import media
from research.audio.sources import open_source
from research.errors import InputError
from tests.audio.faults import made

ROOT = Path(__file__).resolve().parents[3]
CASES = Path(os.environ.get('OIDO_CASES') or ROOT.parent / 'shared' / 'cases')
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f'no {CASES}: set OIDO_CASES')


def clip(path):
  return Example(id='x', columns={}, path=str(CASES / path))


LENGTHS = {
  '01_flac_unknown_total/flac_unknown_len.flac': 48320,
  '02_mp3_no_xing_length_guessed/guessed_long.mp3': 449280,
  '07_second_link_lost/chain.ogg': 2 * 48320,
  '07_second_link_lost/concat.mp3': 2 * 48320,
  '08_valid_files_called_truncated/nil_eos.ogg': 48320,
  '08_valid_files_called_truncated/hdr_plus36.wav': 48320,
  '08_valid_files_called_truncated/hdr_2000000000.wav': 48320,
  '09_truncation_not_noticed/flac_total_half.flac': 48320,
}


@pytest.mark.parametrize('path', LENGTHS)
def test_what_is_there_is_read(path):
  audio = decode(clip(path), sample_rate=16000)
  assert len(audio) == LENGTHS[path] and np.abs(audio).max() > 0.2
  assert duration(clip(path)) == pytest.approx(LENGTHS[path] / 16000)


@pytest.mark.parametrize('rate', [8000, 16000, 22050])
def test_crops_of_a_guessed_length_are_sound(rate):
  path = '02_mp3_no_xing_length_guessed/guessed_long.mp3'
  for place in np.linspace(0, 1, 25):
    got = crop(clip(path), sample_rate=rate, samples=2 * rate, place=place)
    assert len(got.audio) == 2 * rate and got.total == round(449280 * rate / 16000)
    # 12 s of digital silence follow 16 s of speech; a resampler sees half a window further.
    assert got.start > 15.5 * rate or got.audio.any()


def test_windows_of_an_mp3():
  path = '03_mp3_seek_warmup/seekA.mp3'
  whole = decode(clip(path), sample_rate=44100)
  for first in (0, 1000, 30.2 * 44100, *np.linspace(30.51, 43.9, 20) * 44100):
    first = round(first)
    got = decode(clip(path), sample_rate=44100, start_seconds=first / 44100, seconds=1)
    np.testing.assert_array_equal(got, whole[first : first + 44100])


def test_gsm_is_decoded_from_the_beginning():
  path = '08_valid_files_called_truncated/gsm_crop.wav'
  whole = decode(clip(path), sample_rate=8000)
  got = decode(clip(path), sample_rate=8000, start_seconds=1.0, seconds=0.5)
  np.testing.assert_array_equal(got, whole[8000:12000])


@pytest.mark.parametrize('name', ['cut_aiff.aiff', 'cut_w64.w64'])
def test_truncation(name):
  with pytest.raises(AudioError, match='truncated'):
    decode(clip(f'09_truncation_not_noticed/{name}'), sample_rate=16000)


@pytest.mark.parametrize(('name', 'codec'), [('aac.aac', 'AAC'), ('g722.wav', 'G.722')])
def test_codecs(name, codec, monkeypatch):
  path = clip(f'10_codec_called_damaged/{name}')
  if media.available():
    assert len(decode(path, sample_rate=16000)) >= 48320
  monkeypatch.setattr(media, 'available', lambda: False)
  with pytest.raises(AudioError, match=f'{codec}.*cannot be read; convert'):
    decode(path, sample_rate=16000)


@pytest.fixture
def folder(tmp_path):
  """Four clips, and two in a folder, as the lists name them."""
  for name in ('a', 'b', 'c', 'd', 'crlf_bom/a', 'crlf_bom/b'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / f'{name}.wav').write_bytes(made.file(made.noise(0.1)))
  return tmp_path


def given(folder, path):
  return shutil.copy(CASES / path, folder)


def test_quotes_in_a_tsv(folder):
  for name, count in (('validated.tsv', 4), ('validated3.tsv', 2)):
    given(folder, f'04_tsv_quotes/{name}')
    source = open_source({'name': 'folder', 'args': {'path': str(folder), 'manifest': name}})
    assert len(source) == count and source.column('sentence')[0].startswith('"Hello')


def test_a_comma_that_nobody_quoted(folder):
  with pytest.raises(InputError, match='line 2: 3 fields, the header names 2'):
    open_input(given(folder, '05_list_csv_unquoted_comma/list.csv'))


def test_encodings_of_lists(folder):
  source = open_input(given(folder, '11_text_list_encoding/bom.txt'))
  assert [len(decode(e, sample_rate=16000)) for e in source] == [1600, 1600]
  for name, says in (('latin.txt', 'line 1: not UTF-8'), ('utf16.txt', 'UTF-16')):
    with pytest.raises(InputError, match=says):
      open_input(given(folder, f'11_text_list_encoding/{name}'))


def test_lists_of_other_tools(folder):
  for name in ('list.tsv', 'LIST.TXT'):
    source = open_input(given(folder, f'12_manifests_of_other_tools/{name}'))
    assert len(decode(source[0], sample_rate=16000)) == 1600
  assert tables.header(given(folder, '12_manifests_of_other_tools/metadata.csv'))[0] == 'file_name'


@pytest.mark.parametrize('name', ['backslash', 'spaces', 'nfc', 'header_space'])
def test_paths_that_are_spelt_otherwise(folder, name):
  (folder / 'sub').mkdir()
  for each in ('a', 'b'):
    shutil.copy(folder / f'{each}.wav', folder / 'sub')
  shutil.copy(folder / 'a.wav', folder / unicodedata.normalize('NFD', 'é.wav'))
  given(folder, f'13_paths_spelt_otherwise/{name}.csv')
  source = open_source({'name': 'folder', 'args': {'path': str(folder), 'manifest': f'{name}.csv'}})
  assert [len(decode(e, sample_rate=16000)) for e in source] == [1600] * len(source)
  assert source.column('label')[0] == 'x'
