"""SUPERB's words: speech and phone recognition, query by example, translation, conversion."""

import math
import os
import pathlib
import re
from collections.abc import Sequence

from absl import logging

from research.audio import lines, tables
from research.audio.clips import Files, Source, Table
from research.audio.datasets.librispeech import librispeech
from research.audio.datasets.superb.found import GAIN, Found, on_disk
from research.audio.datasets.superb.table import SPLITS
from research.audio.example import Value
from research.audio.folder import Inside
from research.errors import InputError, unknown
from research.text import phones

# -- Speech and phone recognition (s3prl/downstream/asr, downstream/ctc/corpus/libriphone.py) ------

LIBRISPEECH = {'train-clean-100': 'train', 'dev-clean': 'valid', 'test-clean': 'test'}
LEXICONS = ('librispeech-lexicon-200k-g2p.txt', 'librispeech-lexicon-allothers-g2p.txt')


def superb_asr(root: str, lexicon: str | Sequence[str] | None = None) -> Source:
  """Speech and phone recognition: LibriSpeech train-clean-100, dev-clean and test-clean.

  Columns: split, speaker, chapter, sex, transcript, and with a lexicon phones: of every word the
  first pronunciation. Other subsets keep their names as splits, and have no phones.

  Args:
    root: the folder of the subsets.
    lexicon: a file of 'WORD PH ON ES', or several in their order; by default LEXICONS where they
      are found beside the subsets.

  Raises:
    InputError: a lexicon does not exist, or none has a word.
  """
  found = Found('superb_asr', pathlib.Path(root))
  whole = librispeech(str(found.base))
  subsets = [str(v) for v in whole.column('split')]
  for subset in LIBRISPEECH.keys() - set(subsets):
    logging.warning('superb_asr: %s has no audio.', found.base / subset)
  columns = {name: whole.column(name) for name in whole.column_names}
  columns['split'] = [LIBRISPEECH.get(s, s) for s in subsets]
  files = _lexicons(found, lexicon)
  if files:
    columns['phones'] = _phones(columns, whole.table.ids, files)
  assert isinstance(whole.table.locate, Files)
  return Source(Table('superb_asr', whole.table.ids, columns, whole.table.locate))


def _lexicons(found: Found, given: str | Sequence[str] | None) -> list[pathlib.Path]:
  if given is not None:
    names = [given] if isinstance(given, str) else given
    files = [pathlib.Path(os.path.expanduser(name)) for name in names]
    for file in files:
      if not file.is_file():
        raise found.lacks(file, 'a lexicon')
    return files
  for folder in (found.base, found.base / 'lexicon', found.base.parent):
    if files := [folder / name for name in LEXICONS if (folder / name).is_file()]:
      return files
  return []


def _phones(
  columns: dict[str, list[Value]], ids: Sequence[str], files: Sequence[pathlib.Path]
) -> list[Value]:
  known = phones.read_lexicon(text for file in files for _, text in lines.lines(file))
  made: list[Value] = []
  for id, split, text in zip(ids, columns['split'], columns['transcript']):
    try:
      made.append(' '.join(phones.pronounce(str(text), known)) if split in SPLITS else '')
    except InputError as error:
      names = ' and '.join(file.name for file in files)
      raise InputError(f'superb_asr: {id}, by {names}: {error}') from None
  return made


# -- Query by example (s3prl/downstream/quesst14_dtw) ----------------------------------------------

LANGUAGE = 'nnenglish'
_LISTS = {'documents': 'utterances', 'valid': 'dev', 'test': 'eval'}


def superb_qbe(root: str) -> Source:
  """Query by example: the English part of QUESST 2014, levels lowered by 3 dB.

  Columns: split ('documents'; queries are 'valid', also called dev, and 'test', also called eval),
  kind (document or query). Ids are the names of the files without ending, as in the ground truth.

  Raises:
    InputError: a list is missing or malformed.
  """
  found = Found('superb_qbe', pathlib.Path(root))
  inside = Inside(found.base)
  for split, key in _LISTS.items():
    file = found.base / 'scoring' / f'language_key_{key}.lst'
    if not file.is_file():
      raise found.lacks(file, f'the list of {split!r}')
    for number, line in tables.lines(file):
      fields, where = line.split(), f'{file}, line {number}'
      if len(fields) != 2:
        raise InputError(f'{where}: expected "PATH LANGUAGE", found {line[:200]!r}.')
      if fields[1] != LANGUAGE:
        continue
      # The first part is the name of the folder of the data set.
      path = inside(fields[0].partition('/')[2] or fields[0], where)
      name = os.path.splitext(os.path.basename(path))[0]
      kind = 'document' if split == 'documents' else 'query'
      found.add(name, found.base / path, {'split': split, 'kind': kind})
  return found.source(gain=GAIN, splits={'dev': ('valid',), 'eval': ('test',)})


def ground_truth(root: str, split: str) -> pathlib.Path:
  """The folder of the ground truth of the queries of a split (rttm, ecf and tlist files).

  Raises:
    InputError: an unknown split, or no such folder.
  """
  found = Found('superb_qbe', pathlib.Path(root))
  if split not in ('valid', 'test', 'dev', 'eval'):
    raise unknown('split of queries', split, ('valid', 'test'))
  folder = found.base / 'scoring' / f'groundtruth_quesst14_{_LISTS.get(split, split)}'
  if not folder.is_dir():
    raise found.lacks(folder, f'the ground truth of {split!r}')
  return folder


def occurrences(root: str, split: str) -> dict[str, set[str]]:
  """Query -> documents that contain it, of the .rttm of the ground truth: lines LEXEME, document,
  channel, start, duration, query (NIST RTTM).

  Raises:
    InputError: no .rttm, or a line that is none.
  """
  folder = ground_truth(root, split)
  files = sorted(folder.glob('*.rttm'))
  if not files:
    raise InputError(f'superb_qbe: {folder} has no .rttm.')
  made: dict[str, set[str]] = {}
  for file in files:
    for number, line in tables.lines(file):
      fields = line.split()
      if fields[0] != 'LEXEME':
        continue
      if len(fields) < 6:
        raise InputError(
          f'{file}, line {number}: expected "LEXEME document 1 start duration query".'
        )
      made.setdefault(fields[5], set()).add(fields[1])
  return made


# -- Translation (s3prl/downstream/speech_translation) ---------------------------------------------

_ROOT = re.compile(r'^audio_root:\s*[\'"]?(.*?)[\'"]?\s*$', re.MULTILINE)


def superb_st(root: str, audio: str | None = None, languages: str = 'en_de') -> Source:
  """Speech translation: CoVoST 2, English to German.

  Columns: split, transcript (the source text), translation, speaker. Rows are those of s3prl's
  tables, which also give durations, or of CoVoST's own.

  Args:
    root: folder of the tables.
    audio: folder of the clips; by default the audio_root of config.yaml, or clips/ in the folder.
    languages: of CoVoST's own tables.

  Raises:
    InputError: no table, or one without its columns.
  """
  found = Found('superb_st', pathlib.Path(root))
  clips = pathlib.Path(audio).expanduser() if audio else _clips(found.base)
  inside = Inside(clips)
  for split in SPLITS:
    part = 'dev' if split == 'valid' else split
    own = found.base / f'covost_v2.{languages}.{part}.tsv'
    file = own if own.is_file() else found.base / f'{part}.tsv'
    if not file.is_file():
      logging.warning('superb_st: %s is missing; there is no split %r.', file, split)
      continue
    names = (
      ('path', 'sentence', 'translation') if file == own else ('audio', 'src_text', 'tgt_text')
    )
    for number, row in tables.rows(file):
      where = f'{file}, line {number}'
      for name in names:
        if name not in row:
          raise InputError(f'{where}: no column {name!r}.')
      path, spoken, translated = (row[name] for name in names)
      seconds = _seconds(row, where)
      columns = {'split': split, 'transcript': spoken, 'translation': translated}
      columns['speaker'] = row.get('speaker', row.get('client_id', ''))
      id = row.get('id') or os.path.splitext(os.path.basename(path))[0]
      found.add(id, clips / inside(path, where), {**columns}, seconds=seconds)
  return found.source()


def _clips(base: pathlib.Path) -> pathlib.Path:
  config = base / 'config.yaml'
  if config.is_file() and (root := _ROOT.search(tables.text(config))):
    return base / root[1]
  return next((f for f in (base / 'clips', base / 'en' / 'clips') if f.is_dir()), base)


def _seconds(row: dict[str, str], where: str) -> float:
  try:
    return (
      float(row['n_frames']) / float(row.get('sr') or 16000) if row.get('n_frames') else math.nan
    )
  except (ValueError, ZeroDivisionError):
    raise InputError(f'{where}: n_frames and sr are no numbers of samples and Hz.') from None


# -- Conversion (s3prl/downstream/a2o-vc-vcc2020) --------------------------------------------------

SOURCES = ('SEF1', 'SEF2', 'SEM1', 'SEM2')
TARGETS = ('TEF1', 'TEF2', 'TEM1', 'TEM2')
_OTHERS = ('TFF1', 'TFM1', 'TGF1', 'TGM1', 'TMF1', 'TMM1')


def sentences(target: str) -> dict[str, list[str]]:
  """Split -> names of the recordings that VCC 2020's lists give for a target speaker."""
  language = target[1]
  training = [f'{language}1{n:04d}' for n in range(1, 61)]
  if language == 'E':
    training += [f'E2{n:04d}' for n in range(1, 51)]
  return {
    'train': training,
    'valid': [f'{language}1{n:04d}' for n in range(61, 71)],
    'test': [f'E3{n:04d}' for n in range(1, 26)],
  }


def superb_vc(root: str, target: str = 'TEF1') -> Source:
  """Voice conversion: VCC 2020, any speaker to one.

  Columns: split, speaker, sentence, transcript, reference: the path of the target speaker's own
  recording of the sentence, '' where it is not there. train and valid are recordings of the target
  speaker, as many as there are; test the 25 sentences of the four source speakers.

  Args:
    root: folder of the speakers.
    target: speaker; TEF1, TEF2, TEM1 and TEM2 are those of task 1.

  Raises:
    InputError: an unknown speaker, or one whose folder is missing.
  """
  if target not in (*TARGETS, *_OTHERS):
    raise unknown('target speaker', target, (*TARGETS, *_OTHERS))
  found = Found('superb_vc', pathlib.Path(root))
  if not (found.base / target).is_dir():
    raise found.lacks(found.base / target, 'the target speaker')
  texts = {}
  for file in sorted((found.base / 'prompts').glob('*_transcriptions.txt')):
    for _, line in tables.lines(file):
      name, *text = line.split(None, 1)
      texts[name] = text[0] if text else ''
  for split, names in sentences(target).items():
    for name in names:
      reference = on_disk(found.base / target / f'{name}.wav') or ''
      for speaker in SOURCES if split == 'test' else (target,):
        columns = {'split': split, 'speaker': speaker, 'sentence': name}
        columns |= {'transcript': texts.get(name, ''), 'reference': reference}
        found.add(f'{speaker}/{name}', found.base / speaker / f'{name}.wav', {**columns})
  return found.source()
