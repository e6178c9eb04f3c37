"""Transcripts in batches: the tokens match the clips, whatever their length."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from research.audio import pipeline, sources
from research.audio.fields import make, transcript
from research.errors import InputError
from research.text import characters
from research.train import build, selection
from research.train.config import DATA, complete
from tests.experiments_test import ROOT, load


def spoken():
  return sources.open_source('builtin').where(dict(kind=['word', 'sentence']))


def check(batch, source):
  for index, valid, tokens, mask in zip(
    *(batch[k] for k in ('index', 'valid', 'tokens', 'audio_mask'))
  ):
    ids = tokens[tokens >= 0]
    assert (tokens[len(ids) :] == -1).all()
    if not valid:
      assert not len(ids)
      continue
    want = source.column('transcript')[index]
    np.testing.assert_array_equal(ids, characters.encode(want))
    assert characters.spell(ids) == want.upper()
    seconds = source.durations()[index]
    assert abs(mask.sum() / 16_000 - seconds) < 2e-3, 'the clip is not whole'


def test_training_batches_have_whole_clips_with_their_transcripts_in_few_shapes():
  source = spoken()
  batches = iter(
    pipeline.train_batches(
      source, batch_size=8, buckets=3, fields=make(dict(transcript='transcript')), num_threads=0
    )
  )
  shapes = {}
  for _ in range(40):
    batch = next(batches)
    check(batch, source)
    shapes.setdefault(batch['audio'].shape, set()).add(batch['tokens'].shape)
  assert len(shapes) > 1 and all(len(s) == 1 for s in shapes.values())


def test_evaluation_batches_have_every_transcript_once():
  source = spoken().split('test')
  seen = []
  for batch in pipeline.eval_batches(
    source, batch_size=8, fields=make(dict(transcript='transcript'))
  ):
    check(batch, source)
    seen += batch['index'][batch['valid']].tolist()
  assert sorted(seen) == list(range(len(source)))


def test_unusable_transcripts_are_refused():
  source = spoken()
  with pytest.raises(InputError, match='longer than 1 s'):
    pipeline.train_batches(
      source, batch_size=8, seconds=1.0, fields=make(dict(transcript='transcript'))
    )
  with pytest.raises(InputError, match="Did you mean 'transcript'"):
    pipeline.train_batches(source, batch_size=8, fields=make(dict(transcript='transcrip')))
  events = sources.open_source('builtin').where(dict(kind='event'))
  with pytest.raises(InputError, match='CTC needs transcripts'):
    pipeline.train_batches(events, batch_size=8, fields=make(dict(transcript='transcript')))


def test_characters_that_a_vocabulary_lacks_are_named(caplog):
  transcript.check_characters(['no tea', "it's ON"], characters.CHARACTERS)
  assert not caplog.records
  transcript.check_characters(['no tea', 'für 3|4 €'], characters.CHARACTERS)
  assert "41.7 % of the transcripts' characters are not in the vocabulary" in caplog.text
  assert all(c in caplog.text for c in 'Ü34€|') and '<unk>' in caplog.text
  with pytest.raises(
    InputError, match=r'No character of the transcripts .*日.*vocabulary: .* E T A'
  ):
    transcript.check_characters(['日本語', '語'], characters.CHARACTERS)


def test_clips_with_fewer_frames_than_characters_are_counted(caplog):
  ids = [characters.encode(t) for t in ('a', 'book', 'book')]
  # "BOOK|" is five symbols, plus a blank between the two equal ones.
  tokens = transcript.Tokens(ids, np.array([0.04, 0.12, 0.10]), 16_000)
  tokens.check_frames(Frames(lambda samples: round(samples / 320)))
  assert '1 of 3 clips have fewer frames' in caplog.text
  caplog.clear()
  tokens.check_frames(Frames(lambda samples: 6))
  assert not caplog.records
  with pytest.raises(InputError, match='Every transcript needs more frames'):
    tokens.check_frames(Frames(lambda samples: 1))
  # Files that cannot be opened are bad files, not bad transcripts.
  transcript.Tokens(ids, np.zeros(3), 16_000).check_frames(Frames(lambda samples: 0))
  assert not caplog.records


@dataclasses.dataclass
class Frames:
  """A raw-waveform front-end with a given number of frames."""

  frames: Callable[[int], int]
  name: str = 'waveform'


def test_runs_check_their_transcripts(caplog):
  config = load(ROOT / 'experiments/wav2vec2/finetune_librispeech_subset.py').get_config('debug')
  config.model.args.head.args.vocabulary = ('<pad>', '<unk>', '|', 'E', 'T')
  config = complete(config)
  clips = selection.usable(selection.source(config['data']), config['data'])
  build.train_batches(
    config['data'], clips, bad_files=None,
    model=build.model(config),
  )  # fmt: skip
  assert 'are not in the vocabulary' in caplog.text


def test_clips_without_a_transcript_are_left_out_of_training():
  data = dict(DATA, fields=dict(transcript='transcript'))
  clips = selection.usable(sources.open_source('builtin', split='train'), data)
  assert set(clips.column('kind')) == {'digit', 'word', 'sentence'}
  events = sources.open_source('builtin').where(dict(kind='event'))
  with pytest.raises(InputError, match="has a 'transcript'"):
    selection.usable(events, data)


def test_the_blank_of_the_loss_is_that_of_the_model():
  head = dict(name='ctc', args=dict(vocabulary=['a', '_', '|'], blank=1))
  model = dict(name='finetuned', args=dict(encoder=dict(name='wav2vec2'), head=head))
  config = dict(total_steps=1, model=model, objective=dict(name='ctc', args={}))
  with pytest.raises(InputError, match='blank is 0 and '):
    complete(config)
  config['objective']['args'] = dict(blank=1)
  assert complete(config)['objective']['args']['blank'] == 1


def test_a_bad_clip_is_replaced_together_with_its_transcript(tmp_path):
  import csv

  import soundfile

  rng = np.random.default_rng(0)
  (tmp_path / 'a').mkdir()
  rows = []
  for i in range(12):
    # Half of the clips are short; a short one is bad, and long ones do not fit in its slot.
    seconds = 0.5 if i % 2 else 2.0
    path = tmp_path / f'a/{i}.wav'
    soundfile.write(path, 0.1 * rng.normal(size=int(16_000 * seconds)), 16_000)
    rows.append(dict(path=f'a/{i}.wav', transcript='AB'[i % 2] * (i + 1), split='train'))
  (tmp_path / 'a/1.wav').write_bytes((tmp_path / 'a/1.wav').read_bytes()[:44] + b'')
  with open(tmp_path / 'labels.csv', 'w', newline='') as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
  source = sources.open_source(str(tmp_path))
  batches = iter(
    pipeline.train_batches(
      source,
      batch_size=4,
      buckets=[0.5, 2.0],
      fields=make(dict(transcript='transcript')),
      num_threads=0,
    )
  )
  for _ in range(12):
    check(next(batches), source)
