"""From files to targets as the official code makes them: the recorded cases of SUPERB's data."""

import numpy as np

from research.audio.clips import Source, Table
from research.audio.fields import Context, activity, symbols
from research.text import characters
from tests.parity import golden


def kind(name):
  return lambda case: case.info['kind'] == name


def given(case, name, part='inputs'):
  return case.info[part][name]['value']


def cases(name):
  return golden.each_case('superb', where=kind(name))


def recorded(system_kind):
  """The config of the case of that kind beside another."""
  return next(c for c in golden.cases('superb') if c.info['kind'] == system_kind).config


def table(**columns):
  """A source of rows without audio."""
  count = len(next(iter(columns.values())))
  seconds = np.full(count, 10.0)
  ids = [str(i) for i in range(count)]
  return Source(Table('rows', ids, columns, lambda row: {'data': b''}, seconds=seconds))


def encoded(values, **args):
  opened = symbols.Symbols('tokens', 'value', **args).open(table(value=values), Context(16000))
  return [ids.tolist() for ids in opened.ids]


@cases('superb_task_labels')
def test_letters_phones_and_characters(case):
  vocabularies = recorded('superb_data')
  # In another order than fairseq's.
  dictionary = vocabularies['ASR']['dictionary']
  assert set(dictionary) == set(characters.CHARACTERS)
  text = given(case, 'asr_text')
  letters = encoded(text, vocabulary=dictionary, split='letters', eos='</s>')
  # The official dictionary grows by a character that it lacks, to an id without a logit.
  unknown, size = dictionary.index('<unk>'), len(dictionary)
  wanted = given(case, 'asr_ids', 'outputs')
  assert letters == [[i if i < size else unknown for i in row] for row in wanted]
  own = ['<pad>', '<eos>', '<unk>', *vocabularies['SF']['characters']]
  assert encoded(text, vocabulary=own, split='characters', eos='<eos>') == given(
    case, 'character_ids', 'outputs'
  )


@cases('superb_task_labels')
def test_diarization_frames_and_intents(case):
  names = sorted({speaker for _, speaker, _, _ in given(case, 'sd_segments')})
  turns = [(names.index(s), start, end) for _, s, start, end in given(case, 'sd_segments')]
  for each in given(case, 'sd_labels', 'outputs'):
    first, last = each['chunk']
    shift = each['frame_shift']
    got = activity.frame_labels(turns, first, last - first, speakers=len(names), frame_shift=shift)
    want = np.zeros((last - first, len(names)), np.int32)
    for speaker, runs in enumerate(each['active_runs']):
      for start, end in runs:
        want[start:end, speaker] = 1
    np.testing.assert_array_equal(got, want)
