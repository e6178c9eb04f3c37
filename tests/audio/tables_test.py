"""Kinds C and H: one reader of tables and lists; lists of other tools are told apart."""

import pytest

from launch.inputs import open_input
from research.audio import tables
from research.audio.sources import open_source
from research.errors import InputError
from tests.audio.faults import made


def written(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


@pytest.mark.parametrize(
  'sentence', ['"Hello', 'The end."', '"Hello" she said', "it''s", '""', 'a "b" c', '"']
)
def test_quotes_are_characters_of_a_tsv(tmp_path, sentence):
  path = written(tmp_path / 't.tsv', f'path\tsentence\na\t{sentence}\nb\tplain\n')
  assert list(tables.rows(path)) == [
    (2, {'path': 'a', 'sentence': sentence}),
    (3, {'path': 'b', 'sentence': 'plain'}),
  ]


def test_quotes_enclose_fields_of_a_csv(tmp_path):
  path = written(tmp_path / 't.csv', 'path,text\na,"x, ""y""\nz"\n\nb,c\n')
  assert list(tables.rows(path)) == [
    (2, {'path': 'a', 'text': 'x, "y"\nz'}),
    (5, {'path': 'b', 'text': 'c'}),
  ]


WRONG = {
  'a comma nobody quoted': ('t.csv', 'path,text\na,b\nc,hello, world\n', 'line 3: 3 fields'),
  'too few fields': ('t.csv', 'path,text,n\na,b,1\nc,d\n', 'line 3: 2 fields'),
  'a tab too many': ('t.tsv', 'path\ttext\na\tb\tc\n', 'line 2: 3 fields'),
  'a quote in a field': ('t.csv', 'path,text\na,"b" c\n', 'line 2: not a csv row'),
  'a quote that never ends': ('t.csv', 'path,text\na,b\nc,"d\ne,f\n', 'line 3: not a csv row'),
  'a column twice': ('t.csv', 'path,path\na,b\n', 'names a column twice'),
  'Latin-1': ('t.csv', b'path,text\na,b\nc,m\xfcl\n', 'line 3: not UTF-8'),
  'Latin-1 in a tsv': ('t.tsv', b'path\ttext\nm\xfcl\tb\n', 'line 2: not UTF-8'),
  'UTF-16': ('t.csv', 'path,text\na,b\n'.encode('utf-16'), 'is UTF-16'),
  'UTF-32': ('t.tsv', 'path\ttext\n'.encode('utf-32'), 'is UTF-32'),
  'no JSON': ('t.jsonl', '{"path": "a"}\n{"path"\n', 'line 2: not JSON'),
  'a list in JSON lines': ('t.jsonl', '{"path": "a"}\n\n[1]\n', 'line 3: not a JSON object'),
}


@pytest.mark.parametrize('name', WRONG)
def test_errors_name_the_line(tmp_path, name):
  file, content, says = WRONG[name]
  with pytest.raises(InputError, match=says) as caught:
    list(tables.rows(written(tmp_path / file, content)))
  assert str(tmp_path / file) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('ending', ['\n', '\r\n'])
@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
@pytest.mark.parametrize('file', ['t.csv', 'T.TSV', 't.txt'])
def test_marks_and_ends_of_lines(tmp_path, ending, mark, file):
  tab = '\t' if file == 'T.TSV' else ','
  lines = ['ä.wav', 'b\u2028.wav'] if file == 't.txt' else [f'path{tab}x', f'ä.wav{tab}1']
  path = written(tmp_path / file, mark + ending.join([*lines, '', '']).encode())
  if file == 't.txt':
    assert list(tables.lines(path)) == [(1, 'ä.wav'), (2, 'b\u2028.wav')]
  else:
    assert list(tables.rows(path)) == [(2, {'path': 'ä.wav', 'x': '1'})]


def test_blanks_behind_the_commas_of_a_header(tmp_path):
  path = written(tmp_path / 't.csv', 'path, label ,"text"\na.wav, x, " y"\n')
  assert list(tables.rows(path)) == [(2, {'path': 'a.wav', 'label': 'x', 'text': ' y'})]
  path = written(tmp_path / 'u.csv', 'path,label\na.wav, x\n')
  assert list(tables.rows(path)) == [(2, {'path': 'a.wav', 'label': ' x'})]


def test_a_missing_table(tmp_path):
  with pytest.raises(InputError, match=r'none\.csv cannot be read: No such file'):
    list(tables.rows(tmp_path / 'none.csv'))


@pytest.mark.parametrize(
  ('file', 'content'),
  [
    ('list.txt', '# a comment\nd/a.wav\n'),
    ('LIST.TXT', '\ufeffd/a.wav\r\n'),
    ('list.csv', 'path,text\nd/a.wav,"x, y"\n'),
    ('list.tsv', 'text\tpath\n"x\td/a.wav\n'),
    ('list.jsonl', '{"path": "d/a.wav", "n": 1}\n'),
    ('back.txt', 'd\\a.wav\n'),
  ],
)
def test_lists_that_are_read(tmp_path, file, content):
  (tmp_path / 'd').mkdir()
  written(tmp_path / 'd' / 'a.wav', made.file(made.noise(0.1)))
  source = open_input(str(written(tmp_path / file, content)))
  assert source.durations().tolist() == [0.1] and source.id(0) == 'd/a.wav'


@pytest.mark.parametrize(
  ('file', 'content', 'words'),
  [
    ('wav.scp', 'utt1 a.wav\nutt2 sox b.wav -t wav - |\n', 'commands of manifests are not run'),
    ('cuts.jsonl.gz', b'\x1f\x8b', 'is damaged behind line 0'),
    ('text.json', '[]', 'list of another tool'),
    ('files.lst', 'a.wav\n', r'lists are a \.txt with a path a line, or a \.csv'),
  ],
)
def test_lists_of_other_tools_are_not_audio(tmp_path, file, content, words):
  with pytest.raises(InputError, match=words):
    open_input(str(written(tmp_path / file, content)))


@pytest.mark.parametrize('name', ['Labels.csv', 'LABELS.CSV', 'labels.JSONL'])
def test_a_manifest_in_capitals_is_one(tmp_path, name):
  written(tmp_path / 'a.wav', made.file(made.noise(0.1)))
  rows = '{"path": "a.wav", "label": "x"}\n' if 'JSON' in name else 'path,label\na.wav,x\n'
  written(tmp_path / name, rows)
  assert open_source(str(tmp_path)).column('label') == ['x']


@pytest.mark.parametrize('cut', ['abc', 0, -1, float('nan'), True, [1]])
def test_cut_seconds_is_a_number_above_zero(tmp_path, cut):
  written(tmp_path / 'a.wav', made.file(made.noise(0.1)))
  with pytest.raises(InputError, match=r'cut_seconds=.*expected a number of seconds above 0'):
    open_source({'name': str(tmp_path), 'args': {'cut_seconds': cut}})


@pytest.mark.parametrize(
  ('file', 'text'),
  [
    ('cv/dev.tsv', 'client_id\tpath\tsentence\na\ta.mp3\tx\n'),
    ('af/test/metadata.csv', 'file_name,text\na.wav,x\n'),
    ('nemo/train.json', '{"audio_filepath": "a.wav"}\n'),
  ],
)
def test_manifests_in_utf16_are_named(tmp_path, file, text):
  path, clips = tmp_path / file, tmp_path / file.split('/')[0] / 'clips'
  clips.mkdir(parents=True)
  path.parent.mkdir(exist_ok=True)
  written(clips / 'a.wav', made.file(made.noise(0.1)))
  path.write_bytes(text.encode('utf-16'))
  with pytest.raises(InputError, match='is UTF-16, not UTF-8 text'):
    open_source(str(tmp_path / file.split('/')[0]))
