"""Embeddings in the space of audio and text: of clips of any length, and of texts in files."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import soundfile

from research import models, weights
from research.errors import InputError
from research.inference import generators, inputs, joint
from research.inference.classify import embed_texts
from research.inference.generators import Request
from research.text.subwords import read_tokenizer
from research.weights import Pretrained, text_towers
from tests import contract
from tests.evals import toy
from tests.launch import runner
from tests.text.vocabularies import write_roberta
from tests.weights.toy import filled

RATE = 44_100


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


def wave(seconds, seed=0):
  rng = np.random.default_rng(seed)
  return 0.1 * rng.standard_normal(round(seconds * RATE)).astype(np.float32)


def clip_embedding(clap, samples, name='audio_embedding'):
  # One length, one program.
  audio, mask = inputs.padded([samples], 1, round(0.2 * RATE))
  batch = {'audio': audio, 'audio_mask': mask}
  return np.asarray(contract.jit(clap.model.apply)(clap.variables, batch)[name][0])


@pytest.mark.slow
def test_clips_are_averaged_over_their_pieces(clap):
  ours = joint.joint_embedder(clap)
  size = round(0.2 * RATE)
  audio = wave(0.5)
  pieces = [audio[:size], audio[size : 2 * size], audio[2 * size :]]
  mean = np.average(
    [clip_embedding(clap, piece) for piece in pieces], axis=0, weights=[size, size, size // 2]
  )
  got = ours.embed(audio, RATE)
  assert got.shape == (8,)
  np.testing.assert_allclose(got, mean / np.linalg.norm(mean), atol=2e-5)
  # Beside a longer clip, as alone.
  both = ours.embed([pieces[0], audio], RATE)
  np.testing.assert_allclose(both[0], clip_embedding(clap, pieces[0]), atol=2e-5)
  np.testing.assert_allclose(both[1], got, atol=2e-5)
  raw = joint.joint_embedder(clap, normalize=False)
  want = clip_embedding(clap, pieces[0], 'audio_projected')
  np.testing.assert_allclose(raw.embed(pieces[0], RATE), want, atol=2e-5)
  assert len({ours.fingerprint(), raw.fingerprint(), clap.embedder.fingerprint()}) == 3


@pytest.mark.slow
def test_what_a_generator_is_asked_for(clap, tmp_path):
  """Words, or a recording, as the vector that a language model of codes takes."""
  place = write_roberta(tmp_path)
  own = dataclasses.replace(clap, tokenizer=str(place))
  model = models.get('code_lm')(
    width=16, depth=1, heads=2, hidden=16, num_clusters=5, max_steps=16, vectors=dict(clap=8)
  )
  generator = generators.make(model, filled(model), clap=own, batch_size=2)
  words = generator.vector('clap', 'hello')
  want = embed_texts(own, read_tokenizer(place), ['hello'])[0]
  np.testing.assert_array_equal(words, want)
  soundfile.write(tmp_path / 'a.wav', wave(0.2), RATE, subtype='FLOAT')
  heard = generator.vector('clap', str(tmp_path / 'a.wav'))
  np.testing.assert_allclose(heard, clip_embedding(clap, wave(0.2)), atol=2e-5)
  requests = [Request(samples=6 * model.frontend.hop_samples, vectors={'clap': x})
              for x in (words, heard)]  # fmt: skip
  assert [len(x) <= 6 for x in generator(requests)] == [True, True]
  for value, text in (('gone.wav', 'no recording gone.wav'), (' ', 'is empty')):
    with pytest.raises(InputError, match=text):
      generator.vector('clap', value)
  with pytest.raises(InputError, match='vector clap the CLAP'):
    generators.make(model, filled(model)).vector('clap', 'hello')
  with pytest.raises(InputError, match='take a CLAP'):
    generators.make(model, filled(model), clap=dataclasses.replace(own, model=model))


@pytest.mark.slow
def test_the_command(clap, tmp_path):
  """Texts of a file and clips of a folder, in one space; the tokenizer lies beside the weights."""
  weights.save(clap, tmp_path / 'model')
  tokenizer = read_tokenizer(write_roberta(tmp_path / 'model'))
  (tmp_path / 'words.txt').write_text('hello\n\nhello hello\nahem\n')
  model = f'--model={tmp_path / "model"}'
  out = tmp_path / 'words.npz'
  done = runner.run('launch.embed', model, f'--text={tmp_path / "words.txt"}', f'--out={out}')
  assert done.returncode == 0, done.stderr[-2000:]
  assert f'{out}: 3 texts' in done.stdout
  found = np.load(out)
  assert found['ids'].tolist() == ['1', '3', '4']
  assert found['column/text'].tolist() == ['hello', 'hello hello', 'ahem']
  ids, mask = tokenizer.batch(found['column/text'].tolist(), length=12)
  apply = jax.jit(lambda v: clap.model.apply(v, ids, mask, method='embed_texts'))
  want = apply(clap.variables)
  np.testing.assert_allclose(found['embeddings'], want['text_embedding'], atol=1e-5)
  about = json.loads(str(found['about']))
  assert about['normalized'] is True and about['space'] == 'joint'
  # One sentence, not normalised.
  raw = tmp_path / 'raw.npz'
  done = runner.run('launch.embed', model, '--text=hello', '--nonormalize', f'--out={raw}')
  assert done.returncode == 0, done.stderr[-2000:]
  np.testing.assert_allclose(
    np.load(raw)['embeddings'], want['text_projected'][:1], rtol=1e-4, atol=1e-5
  )
  # Clips in the same space.
  (tmp_path / 'clips').mkdir()
  for i, seconds in enumerate((0.2, 0.5)):
    soundfile.write(tmp_path / 'clips' / f'{i}.wav', wave(seconds, i), RATE, subtype='FLOAT')
  sounds = tmp_path / 'sounds.npz'
  done = runner.run(
    'launch.embed', model, '--joint', f'--input={tmp_path / "clips"}', f'--out={sounds}'
  )
  assert done.returncode == 0, done.stderr[-2000:]
  vectors = np.load(sounds)['embeddings']
  np.testing.assert_allclose(vectors[0], clip_embedding(clap, wave(0.2, 0)), atol=2e-5)
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
  # The same clips judged: by what they should be, and against themselves.
  listed = '\n'.join(json.dumps({'file': f'{i}.wav', 'text': 'hello'}) for i in range(2))
  (tmp_path / 'clips/files.jsonl').write_text(listed)
  done = runner.run(
    'launch.score_sounds', model.replace('model=', 'clap=', 1), f'--input={tmp_path / "clips"}',
    f'--real={tmp_path / "clips"}', '--joint', '--text=text', f'--out={tmp_path / "scores.json"}',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  scores = json.loads((tmp_path / 'scores.json').read_text())
  hello = want['text_embedding'][0]
  assert scores['clap_score'] == pytest.approx(float(np.mean(vectors @ hello)), abs=1e-5)
  assert scores['fad'] == pytest.approx(0.0, abs=1e-6) and scores['real'] == 2


def test_texts_to_parquet(clap, tmp_path):
  parquet = pytest.importorskip('pyarrow.parquet')
  tokenizer = read_tokenizer(write_roberta(tmp_path))
  out = tmp_path / 'words.parquet'
  assert joint.export_texts(clap, tokenizer, ['hello', 'ahem'], out) == 2
  table = parquet.read_table(out)
  assert table['id'].to_pylist() == ['1', '2'] and table['text'].to_pylist() == ['hello', 'ahem']
  assert np.shape(table['layer_00'].to_pylist()) == (2, 8)
  with pytest.raises(InputError, match='is there already'):
    joint.export_texts(clap, tokenizer, ['hello'], out)


def test_the_tokenizer_of_weights(clap, tmp_path):
  """That of the run, else the one beside the weights, else an error that says what to give."""
  file = weights.save(clap, tmp_path / 'model')
  with pytest.raises(InputError, match=r"No tokenizer was found beside .* or 'bytes'"):
    text_towers.spelling(file)
  given = text_towers.spelling(file, 'bytes', '!')
  assert (given.tokenizer.size, given.suffix) == (256, '!')
  write_roberta(tmp_path / 'model')
  assert text_towers.spelling(file).tokenizer.size == 263
  assert text_towers.spelling(tmp_path / 'model').suffix == ''
  run = tmp_path / 'run'
  (run / 'checkpoints' / '3').mkdir(parents=True)
  for fields, size, suffix in (
    (dict(text=dict(name='captions', args=dict(suffix=' .'))), 256, ' .'),
    (dict(captions='label'), 256, ''),
    (dict(text=dict(name='captions', args=dict(tokenizer=str(tmp_path / 'model')))), 263, ''),
  ):
    (run / 'config.json').write_text(json.dumps(dict(data=dict(fields=fields), model={})))
    found = text_towers.spelling(run)
    assert (found.tokenizer.size, found.suffix) == (size, suffix)


def test_what_is_read_as_texts(tmp_path):
  (tmp_path / 'a.txt').write_text('\nein Bär\n\n x \n')
  assert joint.read_texts(str(tmp_path / 'a.txt')) == (['2', '4'], ['ein Bär', 'x'])
  assert joint.read_texts('a dog barks') == (['1'], ['a dog barks'])
  assert joint.read_texts('x' * 5000)[0] == ['1']
  (tmp_path / 'b.txt').write_text('\n')
  for spec, message in (
    ('no/such.txt', 'there is no such file'),
    (' ', '--text is empty'),
    (str(tmp_path / 'b.txt'), 'has no lines'),
  ):
    with pytest.raises(InputError, match=message):
      joint.read_texts(spec)


def test_models_without_text_are_refused():
  model = models.get('audio_mae')(size='base')
  with pytest.raises(InputError, match='audio_mae does not compare audio with text: take a CLAP'):
    joint.joint_embedder(Pretrained('audio_mae', model, {}, 'made here'))


@pytest.mark.slow
def test_mistakes_are_a_sentence(tmp_path):
  model = toy.save_audio_mae(tmp_path / 'model')
  out = f'--out={tmp_path / "e.npz"}'
  usual = (f'--model={model}', out)
  cases = {
    'no text tower': ((*usual, '--text=a dog'), ('does not compare audio with text',)),
    'text and clips': ((*usual, '--text=a', '--input=builtin'), ('--input is for clips',)),
    'neither': (usual, ('--input is missing', '--text')),
    'a tokenizer of clips': ((*usual, '--input=builtin', '--tokenizer=x'), ('is for --text',)),
    'a pooling': ((*usual, '--input=builtin', '--joint', '--pool=max'), ('--joint',)),
  }
  runner.check_mistakes('launch.embed', cases)
