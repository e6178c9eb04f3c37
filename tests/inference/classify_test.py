"""Classes of audio of any length, by a classifier and by texts."""

import json
import socket

import jax
import numpy as np
import pytest
import soundfile

from research import models, weights
from research.audio import sources
from research.errors import InputError
from research.inference import inputs
from research.inference.classify import Classifier, classify_source, embed_texts
from research.text.subwords import read_tokenizer
from research.weights import Pretrained
from tests import contract
from tests.launch import runner
from tests.text.vocabularies import write_roberta
from tests.weights.toy import filled

RATE = 16_000
LABELS = ('dog', 'rain', 'speech')


def wave(seconds, seed=0):
  return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope='module')
def ast():
  args = dict(
    encoder=dict(name='ast', args=dict(width=16, depth=1, heads=2, frames=64)),
    head=dict(
      name='classifier', args=dict(classes=3, pooling='cls', norm=True, labels=list(LABELS))
    ),
  )
  model = models.get('finetuned')(**args)
  return Pretrained('finetuned', model, filled(model), 'made here')


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


def direct(pretrained, audio):
  # One length, one program.
  audio, mask = inputs.padded([audio], 1, RATE // 2)
  batch = {'audio': audio, 'audio_mask': mask}
  return np.asarray(contract.jit(pretrained.model.apply)(pretrained.variables, batch)['logits'][0])


def test_scores_are_the_mean_over_windows(ast):
  """Of 0.5 s each here: a clip of 1.25 s has two and a half."""
  classifier = Classifier.of_model(ast, window=0.5, batch_size=2)
  audio = wave(1.25)
  pieces = [audio[:8000], audio[8000:16000], audio[16000:]]
  each = [1 / (1 + np.exp(-direct(ast, piece))) for piece in pieces]
  want = np.average(each, axis=0, weights=[0.5, 0.5, 0.25])
  got = classifier.scores(audio, RATE)
  np.testing.assert_allclose(got, want, atol=1e-5)
  seconds = [s for s, _ in classifier.windows(audio, RATE)]
  assert seconds == [0.5, 0.5, 0.25]
  # A rest below one frame is left out.
  assert len(classifier.windows(audio[: 8000 + 100], RATE)) == 1
  top = classifier.top(got, 2)
  assert [label.name for label in top] == [LABELS[i] for i in np.argsort(-got)[:2]]
  one = Classifier.of_model(ast, activation='softmax', window=0.5, batch_size=2)
  assert one.scores(audio, RATE).sum() == pytest.approx(1.0)


def test_labels_of_a_file_of_weights_are_kept(ast, tmp_path):
  weights.save(ast, tmp_path)
  loaded = weights.load(tmp_path)
  assert Classifier.of_model(loaded).labels == LABELS
  assert Classifier.of_model(loaded, 'abc').labels == ('a', 'b', 'c')
  with pytest.raises(InputError, match='2 labels were given; the model has 3 classes'):
    Classifier.of_model(loaded, ['a', 'b'])
  with pytest.raises(InputError, match='a label for every class'):
    models.get('finetuned')(
      encoder=dict(name='ast'), head=dict(name='classifier', args=dict(classes=3, labels=['a']))
    )


def test_zero_shot_is_the_softmax_of_similarities(clap, tmp_path):
  tokenizer = read_tokenizer(write_roberta(tmp_path))
  classifier = Classifier.zero_shot(clap, tokenizer, LABELS, 'hello {}')
  rate = clap.model.frontend.sample_rate
  audio = np.random.default_rng(0).standard_normal(rate // 5).astype(np.float32) * 0.1
  ids, mask = tokenizer.batch([f'hello {name}' for name in LABELS], length=12)
  batch = {'audio': audio[None], 'audio_mask': np.ones((1, len(audio)), bool)}
  out = contract.jit(clap.model.apply)(clap.variables, batch | {'text': ids, 'text_mask': mask})
  want = np.asarray(jax.nn.softmax(out['similarity'])[0])
  assert np.isfinite(want).all()
  np.testing.assert_allclose(classifier.scores(audio, rate), want, atol=1e-5)
  vectors = embed_texts(clap, tokenizer, ['hello'] * 5, batch_size=2)
  assert vectors.shape == (5, 8)
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_what_cannot_be_classified_is_refused(ast, clap, tmp_path):
  tokenizer = read_tokenizer(write_roberta(tmp_path))
  with pytest.raises(InputError, match='clap has no logits of classes'):
    Classifier.of_model(clap)
  with pytest.raises(InputError, match='does not compare audio with text'):
    Classifier.zero_shot(ast, tokenizer, LABELS)
  with pytest.raises(InputError, match=r'expected a text with \{\}'):
    Classifier.zero_shot(clap, tokenizer, LABELS, 'a sound')
  with pytest.raises(InputError, match="Unknown activation 'relu'"):
    Classifier.of_model(ast, activation='relu')
  with pytest.raises(InputError, match='is too short'):
    Classifier.of_model(ast).scores(wave(0.001), RATE)


def test_the_command(ast, tmp_path):
  weights.save(ast, tmp_path / 'model')
  (tmp_path / 'audio').mkdir()
  for i in range(2):
    soundfile.write(tmp_path / 'audio' / f'{i}.wav', wave(0.7, i), RATE)
  (tmp_path / 'audio' / 'broken.wav').write_bytes(b'RIFF')
  out = tmp_path / 'classes.jsonl'
  places = dict(model=tmp_path / 'model', input=tmp_path / 'audio', out=out)
  done = runner.run('launch.classify', *(f'--{name}={path}' for name, path in places.items()))
  assert done.returncode == 0, done.stderr[-2000:]
  assert '2 clips, 1 left out' in done.stdout
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert [set(row.get('scores', ())) for row in rows if 'scores' in row] == [set(LABELS)] * 2
  want = Classifier.of_model(ast).scores(tmp_path / 'audio' / '0.wav')
  got = [rows[0]['scores'][name] for name in LABELS]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_job_that_was_killed_goes_on(ast, tmp_path):
  """Blocks that are done are not done again, unless the classes are others; scores are those of
  each clip alone."""
  for i in range(300):
    soundfile.write(tmp_path / f'{i:03d}.wav', wave(0.03 + 0.01 * (i % 3), i), RATE)
  source, out = sources.open_source(str(tmp_path)), tmp_path / 'out' / 'c.jsonl'
  out.parent.mkdir()
  classifier = Classifier.of_model(ast, window=0.05)
  done = []

  class Killed(Classifier):
    def stream(self, *args):
      for each in super().stream(*args):
        done.append(each)
        yield each
        if len(done) == 280:
          raise KeyboardInterrupt

  killed = Killed.of_model(ast, window=0.05)
  with pytest.raises(KeyboardInterrupt):
    classify_source(killed, source, out)
  with pytest.raises(InputError, match=r'c\.jsonl\.parts'):
    classify_source(Classifier.of_model(ast, 'abc', window=0.05), source, out)
  rows = classify_source(killed, source, out)
  assert 300 < len(done) + 1 < 600 and not (out.parent / 'c.jsonl.parts').exists()
  assert [json.loads(line) for line in out.read_text().splitlines()] == rows
  for i in (0, 2, 299):
    want = classifier.scores(tmp_path / f'{i:03d}.wav')
    got = [rows[i]['scores'][name] for name in LABELS]
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.slow
def test_two_processes_write_one_file(ast, tmp_path):
  weights.save(ast, tmp_path / 'model')
  (tmp_path / 'audio').mkdir()
  for i in range(5):
    soundfile.write(tmp_path / 'audio' / f'{i}.wav', wave(0.3, i), RATE)
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  args = ('launch.classify', f'--model={tmp_path / "model"}', f'--input={tmp_path / "audio"}')
  more = (f'--out={tmp_path / "two.jsonl"}', f'--coordinator=localhost:{port}', '--num_processes=2')
  both = [runner.start(*args, *more, f'--process_id={i}') for i in range(2)]
  ends = [process.communicate() for process in both]
  assert [process.returncode for process in both] == [0, 0], ends
  one = runner.run(*args, f'--out={tmp_path / "one.jsonl"}')
  assert one.returncode == 0, one.stderr
  assert (tmp_path / 'two.jsonl').read_text() == (tmp_path / 'one.jsonl').read_text()


@pytest.mark.slow
def test_mistakes_are_a_sentence(ast, tmp_path):
  weights.save(ast, tmp_path / 'model')
  soundfile.write(tmp_path / 'a.wav', wave(0.3), RATE)
  (tmp_path / 'two.txt').write_text('a\nb\n')
  usual = (f'--model={tmp_path / "model"}', f'--input={tmp_path / "a.wav"}')
  cases = {
    'no model': ((f'--input={tmp_path / "a.wav"}',), ('--model',)),
    'labels of another number': ((*usual, f'--labels={tmp_path / "two.txt"}'), ('2 labels',)),
    'no such labels': ((*usual, '--labels=/nowhere'), ('--labels=/nowhere', 'cannot be read')),
    'a template without a CLAP': ((*usual, '--template=x {}'), ('--template', '--tokenizer')),
    'a tokenizer without labels': ((*usual, f'--tokenizer={tmp_path}'), ('--labels',)),
    'another kind of file': ((*usual, '--out=a.csv'), ('.jsonl',)),
  }
  runner.check_mistakes('launch.classify', cases)
