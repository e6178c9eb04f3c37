"""Commands that speak: texts by a voice, recordings in another voice, their scores; vectors of
voices of a folder."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research import models
from research.units.codebook import Codebook
from research.weights import Pretrained, load, save
from tests.launch import runner
from tests.launch.heads_test import saved, under

RATE = 16_000
WRITER = dict(
  width=16, depth=1, heads=2, hidden=16, num_clusters=(16, 16), label_rate=50.0, max_steps=100,
  vectors={'voice': 8}, dropout=0.0,
)  # fmt: skip


def made(name, seed=0, **args):
  model = models.get(name)(**args)
  example = {k: jnp.zeros(x.shape, x.dtype) for k, x in model.example().items()}
  shapes = jax.eval_shape(model.init, jax.random.key(0), example)
  rng = np.random.default_rng(seed)
  draw = lambda x: (0.2 * rng.standard_normal(x.shape)).astype(x.dtype)  # noqa: E731
  return Pretrained(name, model, jax.tree.map(draw, shapes), 'drawn')


@pytest.mark.slow
def test_speech_voices_and_scores(tmp_path):
  rng = np.random.default_rng(0)
  (tmp_path / 'clips').mkdir()
  for i in range(2):
    noise = (0.1 * rng.standard_normal(RATE)).astype(np.float32)
    soundfile.write(tmp_path / f'clips/{i}.wav', noise, RATE)
  soundfile.write(tmp_path / 'silent.wav', np.zeros(RATE), RATE)
  codec = dict(size='small', n_filters=2, dimension=4, ratios=(8, 5, 4, 2), lstm=0)
  files = {
    'speak': made('code_lm', **WRITER, text={'alphabet': 'english', 'depth': 1}),
    'convert': made('code_lm', **WRITER, text={'units': 5, 'depth': 0}),
    'codec': made('encodec', **codec, quantizers=2, codebook_size=16, bandwidths=(0.4,)),
  }
  for name, each in files.items():
    save(each, tmp_path / f'{name}.safetensors')
  asv = saved(under('x_vector', width=8, pooled_width=10), tmp_path / 'asv')
  parts = f'--parts=codec={tmp_path}/codec.safetensors,voice={asv}'
  lines = [
    dict(id='a', text='seven, 2'),
    dict(id='b', text='nine', voice='silent.wav'),
    dict(id='c', text='Ω'),
  ]
  (tmp_path / 'lines.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
  voice = tmp_path / 'clips/0.wav'
  out = tmp_path / 'said'
  command = (
    'launch.speak', f'--model={tmp_path}/speak.safetensors', parts, f'--voice={voice}',
    f'--input={tmp_path}/lines.jsonl', f'--out={out}', '--attempts=2', '--batch_size=2',
  )  # fmt: skip
  done = runner.run(*command)
  assert done.returncode == 0, done.stderr[-2000:]
  assert '1 texts, 2 left out' in done.stdout and 's of speech in' in done.stdout
  rows = [json.loads(x) for x in (out / 'files.jsonl').read_text().splitlines()]
  assert [row['id'] for row in rows] == ['a', 'b', 'c']
  assert 'silent' in rows[1]['error'] and "'ω'" in rows[2]['error']
  assert rows[0]['attempts'] in (1, 2) and rows[0]['voice'] == str(voice)
  audio, rate = soundfile.read(out / 'a.wav', dtype='float32')
  want = load(tmp_path / 'speak.safetensors').generate(
    labels={'text': 'seven, 2'}, vectors={'voice': str(voice)}, voice=load(asv), attempts=2,
    codec=load(tmp_path / 'codec.safetensors'), batch_size=2,
  )  # fmt: skip
  assert rate == RATE
  np.testing.assert_allclose(audio, want, atol=1e-5)

  Codebook(rng.standard_normal((5, 39)).astype(np.float32), {}).save(tmp_path / 'codebook')
  done = runner.run(
    'launch.convert_voice', f'--model={tmp_path}/convert.safetensors', parts, f'--voice={voice}',
    f'--units={tmp_path}/codebook', f'--source={tmp_path}/clips', f'--out={tmp_path}/other',
    '--attempts=1', '--batch_size=2',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  done = runner.run('launch.score_speech', f'--input={tmp_path}/other', f'--speakers={asv}')
  assert done.returncode == 0, done.stderr[-2000:]
  scores = json.loads((tmp_path / 'other/scores.json').read_text())
  assert scores['results'] == 2 and {'similarity', 'similarity_source', 'aligned'} <= set(scores)
  each = [json.loads(x) for x in (tmp_path / 'other/scores.jsonl').read_text().splitlines()]
  own = load(asv).verify(tmp_path / 'other/1.wav', voice)
  assert each[1]['similarity'] == pytest.approx(own, abs=1e-3)

  done = runner.run(
    'launch.embed', f'--model={asv}', '--voice', f'--input={tmp_path}/clips',
    f'--out={tmp_path}/v.npz',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  found = np.load(tmp_path / 'v.npz')
  assert found['ids'].tolist() == ['0.wav', '1.wav']
  np.testing.assert_allclose(found['embeddings'][0], load(asv).speaker(voice), atol=1e-4)
  base = (f'--model={tmp_path}/speak.safetensors', f'--out={tmp_path}/o')
  runner.check_mistakes(
    'launch.speak',
    {
      'nothing to say': (base, ('one of --text and --input',)),
      'no voice': ((*base, '--text=a'), ('vector voice',)),
      'no encoder': ((*base, '--text=a', f'--voice={voice}'), ('--parts=voice=PATH',)),
      'says no texts': (
        (f'--model={tmp_path}/codec.safetensors', *base[1:], '--text=a'),
        ('texts',),
      ),
    },
  )
