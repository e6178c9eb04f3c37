"""Where labels are in long recordings: windows of a stream, curves, thresholds, files, metrics."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research.audio.sources import open_source
from research.errors import InputError
from research.features.waveform import Waveform
from research.inference import tag
from research.inference.classify import Classifier
from research.metrics import tagging
from tests.inference.toy_heads import RATE, talk


def loud(variables, audio, mask):
  """Fractions of a window in which the first and the second tone sound."""
  del variables
  t = np.arange(audio.shape[1]) / RATE
  count = jnp.maximum(mask.sum(axis=1), 1).astype(jnp.float32)
  found = []
  for hertz in (480.0, 1520.0):
    parts = [
      (audio * f(2 * np.pi * hertz * t).astype(np.float32)).reshape(len(audio), -1, 400).mean(-1)
      for f in (np.cos, np.sin)
    ]
    heard = (jnp.hypot(*parts) > 0.05).astype(jnp.float32)
    found.append(heard.sum(axis=1) * 400 / count)
  return jnp.stack(found, axis=1)


@pytest.fixture(scope='module')
def classifier():
  return Classifier(loud, {}, Waveform(), ('low', 'high'), window=1.0, batch_size=4)


SAID = ((1.0, 3.0, 0), (5.0, 6.0, 0), (2.0, 4.5, 1))
WANT = [('low', 1.0, 3.0), ('high', 2.0, 4.5), ('low', 5.0, 6.0)]


def test_labels_have_their_places(classifier):
  audio = talk(SAID, 7.3)
  tagger = tag.Tagger(classifier, hop=0.25)
  found = tagger(audio, RATE)
  assert [x.label for x in found] == [x[0] for x in WANT]
  np.testing.assert_allclose([x[1:3] for x in found], [x[1:] for x in WANT], atol=0.26)
  assert all(0.9 < x.score <= 1 for x in found[:2])
  # In blocks of any length the windows are those of the whole; the last one ends with it.
  blocks = np.split(audio, [5, 9000, 40_000, 41_000])
  starts = [start / RATE for start, _ in tagger.windows(blocks)]
  assert starts == [*np.arange(0, 6.3, 0.25), pytest.approx(6.3)]
  for start, samples in tagger.windows(blocks):
    np.testing.assert_array_equal(samples, audio[start : start + RATE])
  np.testing.assert_array_equal(tagger.scores(blocks)[0], tagger.scores([audio])[0])
  scores, seconds = tagger.scores([audio])
  assert scores.shape == (30, 2) and seconds == 7.3
  # A hop's score is the mean over the windows that its middle is in.
  near = [row for (start, _), (_, row) in zip(
    tagger.windows([audio]), classifier.batches(x for _, x in tagger.windows([audio]))
  ) if start <= 10.5 * 0.25 * RATE < start + RATE]  # fmt: skip
  assert len(near) == 4
  np.testing.assert_allclose(scores[10], np.mean(near, axis=0), atol=1e-6)
  assert [x.label for x in tag.Tagger(classifier, hop=0.5, names=['high'])(audio, RATE)] == ['high']
  assert tagger(audio[:4000], RATE) == []


def test_thresholds_medians_and_gaps(classifier):
  curve = np.array([0.1, 0.4, 0.9, 0.4, 0.1, 0.4, 0.4, 0.1, 0.8, 0.1], np.float32)

  def tags(**how):
    tagger = tag.Tagger(classifier, hop=0.5, names=['low'], **how)
    return [(x.start, x.end) for x in tagger.tags(curve[:, None], 4.8)]

  assert tags() == [(1.0, 1.5), (4.0, 4.5)]
  assert tags(threshold=0.6, low=0.3) == [(0.5, 2.0), (4.0, 4.5)]
  assert tags(threshold=0.6, low=0.3, gap=2.0) == [(0.5, 4.5)]
  assert tags(threshold=0.6, low=0.3, shortest=1.0) == [(0.5, 2.0)]
  assert tags(threshold=0.3, median=1.5) == [(0.5, 4.0)]
  for how, words in (
    (dict(threshold=0.2, low=0.3), 'at most the threshold'),
    (dict(names=['loud']), "Unknown class 'loud'"),
    (dict(hop=2.0), 'at most the window'),
  ):
    with pytest.raises(InputError, match=words):
      tag.Tagger(classifier, **how)


def test_files_and_their_metrics(classifier, tmp_path):
  folder = tmp_path / 'audio'
  folder.mkdir()
  soundfile.write(folder / 'a, b.wav', talk(SAID, 7.3), RATE, subtype='FLOAT')
  quiet = 1e-3 * np.random.default_rng(0).standard_normal((4 * 22_050, 2))
  soundfile.write(folder / 'quiet.wav', quiet, 22_050)
  soundfile.write(folder / 'zero.wav', np.zeros(RATE), RATE)
  source, tagger = open_source(str(folder)), tag.Tagger(classifier, hop=0.5)
  rows = tag.tag_source(tagger, source, tmp_path / 'tags.csv', seconds=['low', 'high'])
  assert [row.get('error', len(row.get('found', ()))) for row in rows] == [
    3, 0, 'It is silent: all its samples are 0.'
  ]  # fmt: skip
  lines = list(csv.DictReader((tmp_path / 'tags.csv').read_text().splitlines()))
  assert [(x['file'], x['label']) for x in lines] == [('a, b.wav', x[0]) for x in WANT]
  tag.tag_source(tagger, source, tmp_path / 'tracks')
  tracks = (tmp_path / 'tracks' / 'a, b.txt').read_text().splitlines()
  assert [x.split('\t')[0] for x in tracks] == [f'{float(x["start"]):.6f}' for x in lines]
  listed = [json.loads(x) for x in (tmp_path / 'tracks' / 'files.jsonl').read_text().splitlines()]
  assert listed[0]['found'][0]['label'] == 'low' and 'scores' not in listed[0]
  said = tmp_path / 'said.csv'
  text = ''.join(f'"a, b.wav",{name},{start},{end}\n' for name, start, end in WANT)
  said.write_text('file,label,start,end\n' + text)
  turns = tag.read_reference(said)
  done = [row for row in rows if 'scores' in row]
  scores = [np.array(row['scores']) for row in done]
  assert [len(x) for x in scores] == [8, 4]
  found = tagging.mean_average_precisions(
    scores, [turns.get(row['id'], []) for row in done], ('low', 'high')
  )
  assert found['map_file'] == 1.0 and 0.9 < found['map_second'] <= 1.0
  worse = [x[::-1] for x in scores]
  assert tagging.mean_average_precisions(worse, [turns['a, b.wav'], []], ('low', 'high'))[
    'map_second'
  ] < 0.7  # fmt: skip
  want = [[False, True, True, False], [False, False, True, True]]
  turned = tagging.targets([('x', 0.6, 2.9), ('y', 2.5, 4.0)], ('x', 'y'), 4)
  np.testing.assert_array_equal(turned.T, want)
  said.write_text('file,label,start,end\na.wav,low,3,2\n')
  with pytest.raises(InputError, match='line 2'):
    tag.read_reference(said)
