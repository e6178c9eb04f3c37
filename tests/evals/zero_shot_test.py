"""Retrieval and classes by their names, with a model of random weights: against its own numbers."""

import csv
import json

import jax
import numpy as np
import pytest
import soundfile

from research import models, weights
from research.audio import sources
from research.errors import InputError
from research.evals import zero_shot
from research.inference.classify import Classifier
from research.metrics import retrieval
from research.text.subwords import read_tokenizer
from research.weights import Pretrained
from tests.launch import runner
from tests.text.vocabularies import write_roberta
from tests.weights.toy import filled

CAPTIONS = ('hello', 'hello hello', 'ahem')


@pytest.fixture(scope='module')
def clap():
  model = models.get('clap')(
    size='microsoft_2022', audio_width=8, channels=(4, 8), seconds=0.2, text='roberta', dim=8,
    text_width=16, text_depth=1, text_heads=2, text_hidden=16, vocabulary=263, positions=20,
    max_tokens=12,
  )  # fmt: skip
  variables = filled(model)
  # Variances are positive.
  square = lambda path, x: np.square(x) + 0.5 if path[-1].key == 'var' else x  # noqa: E731
  stats = jax.tree_util.tree_map_with_path(square, variables['batch_stats'])
  return Pretrained('clap', model, {**variables, 'batch_stats': stats}, 'made here')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  made = tmp_path_factory.mktemp('captioned')
  rng = np.random.default_rng(0)
  with open(made / 'labels.csv', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['path', 'caption', 'label', 'split'])
    for i in range(12):
      soundfile.write(made / f'{i}.wav', 0.1 * rng.standard_normal(9000), 44_100)
      split = ('train', 'valid', 'test')[i // 4]
      writer.writerow([f'{i}.wav', CAPTIONS[i % 3], ('a_dog', 'rain')[i % 2], split])
  return made


@pytest.mark.slow
def test_retrieval(clap, folder, tmp_path):
  tokenizer = read_tokenizer(write_roberta(tmp_path))
  source = sources.open_source(str(folder))
  got = zero_shot.audio_text_retrieval(clap, tokenizer, source, batch_size=5)
  clips = zero_shot.embed_clips(clap, source, 5)
  apply = jax.jit(clap.model.apply)
  for i in (0, 11):
    samples, _ = soundfile.read(folder / source.id(i), dtype='float32')
    batch = {'audio': samples[None], 'audio_mask': np.ones((1, len(samples)), bool)}
    want = apply(clap.variables, batch)['audio_embedding'][0]
    np.testing.assert_allclose(clips[i], want, atol=2e-5)
  assert np.isfinite(clips).all()
  words = zero_shot.embed_texts(clap, tokenizer, list(source.column('caption')))
  want = retrieval.retrieval_scores(clips @ words.T, np.eye(12, dtype=bool))
  assert got['audio_to_text'] == pytest.approx(want)
  assert set(got) == {'audio_to_text', 'text_to_audio'}
  with pytest.raises(InputError, match=r"caption column of .* 'words'"):
    zero_shot.audio_text_retrieval(clap, tokenizer, source, column='words')


@pytest.mark.slow
def test_the_protocol(clap, folder, tmp_path):
  """Through the command: the score is that of the classifier alone."""
  weights.save(clap, tmp_path / 'model')
  tokenizer = write_roberta(tmp_path / 'tokenizer')
  done = runner.run(
    'launch.evaluate', f'--model={tmp_path / "model"}', f'--tasks={folder}', '--protocol=zero_shot',
    f'--tokenizer={tokenizer}', f'--out={tmp_path / "out"}',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  (row,) = json.loads((tmp_path / 'out' / 'scores.json').read_text())['rows']
  assert row['protocol'] == 'zero_shot' and row['classes'] == ['a_dog', 'rain']
  source = sources.open_source(str(folder))
  classifier = Classifier.zero_shot(clap, read_tokenizer(tokenizer), ['a dog', 'rain'])
  places = [i for i, split in enumerate(source.column('split')) if split == 'test']
  hits = [
    classifier.scores(folder / source.id(i)).argmax()
    == ['a_dog', 'rain'].index(source.column('label')[i])
    for i in places
  ]
  assert row['score'] == pytest.approx(np.mean(hits))
