"""Captions of clips: a captioner, its files, its command."""

import json

import jax
import numpy as np
import optax
import pytest
import soundfile

from research import models, weights
from research.audio import sources
from research.capabilities import Generates, WritesCaptions
from research.errors import InputError
from research.inference.caption import Captioner, caption_source
from research.text.subwords import read_tokenizer
from research.train import build, optim
from research.weights import Pretrained, tables
from tests.launch import runner
from tests.weights.toy import filled

RATE = 44_100
SIZES = dict(
  audio_width=4, depths=(1, 1), audio_heads=(1, 2), dim=8, seconds=0.2, vocabulary=256,
  positions=24, text_width=16, text_depth=1, text_heads=2, text_hidden=16, prefix_length=3,
  prefix_length_clip=2, num_layers=1, mapper_heads=2,
)  # fmt: skip


def wave(seconds, seed=0):
  t = np.arange(round(seconds * RATE)) / RATE
  return (0.3 * np.sin(2 * np.pi * 150 * 3**seed * t * (1 + t))).astype(np.float32)


@pytest.fixture(scope='module')
def clapcap():
  model = models.get('clapcap')(**SIZES)
  variables = filled(model)
  # What is heard makes a difference.
  flat = tables.flatten(variables)
  louder = {k: 1.0 + x if k.endswith('scale') else 3.0 * x for k, x in flat.items()}
  for name in louder:
    if name.startswith('params/mapper/') and 'kernel' in name:
      louder[name] = 8.0 * louder[name]
  variables = tables.nest(louder, model)
  # Printable bytes alone.
  table = variables['params']['text_tower']['tokens']
  table[:32] = table[127:] = 0.0
  variables['params']['text_tower']['tokens'] = table
  return Pretrained('clapcap', model, variables, 'made here')


def captioner(clapcap, **args):
  args = dict(max_tokens=6, beams=2, batch_size=2) | args
  return Captioner(clapcap.model, clapcap.variables, read_tokenizer('bytes'), '\n', **args)


@pytest.mark.slow
def test_step_by_step_is_all_at_once(clapcap):
  """Logits of a text behind a prefix, whole and in steps; padding on the left changes nothing."""
  model, variables = clapcap.model, clapcap.variables
  assert isinstance(model, Generates) and isinstance(model, WritesCaptions)
  b, u = 2, 6
  audio, mask = np.stack([wave(0.2), wave(0.2, 1)]), np.ones((b, 8820), bool)
  ids = np.random.default_rng(0).integers(40, 100, (b, u)).astype(np.int32)
  text = dict(text=ids, text_mask=np.ones(ids.shape, bool))
  whole = jax.jit(model.apply)(variables, dict(audio=audio, audio_mask=mask, **text))['logits']

  @jax.jit
  def steps(variables, tokens, real):
    memories = model.apply(variables, audio, mask, method='remember_clips')
    state = model.start(b, 8, memories)
    first, state = model.apply(variables, tokens[:, :3], state, real[:, :3], method='step')
    found = [first]
    for i in range(3, tokens.shape[1]):
      logits, state = model.apply(variables, tokens[:, i : i + 1], state, method='step')
      found.append(logits)
    return jax.numpy.concatenate(found, axis=1)

  # The first token stands for the last vector of the prefix: any will do.
  tokens = np.concatenate([np.full((b, 2), 7, np.int32), ids[:, :-1]], axis=1)
  real = np.arange(u + 1)[None].repeat(b, 0) >= 1
  got = steps(variables, tokens, real)[:, 1:]
  np.testing.assert_allclose(got, whole, atol=2e-5)


@pytest.mark.slow
def test_clips_of_any_length(clapcap):
  """The first window of a longer clip, or a caption for each; in a batch as alone."""
  own = captioner(clapcap)
  # Always two at once: one program.
  clips = [wave(0.1), wave(0.2, 1), wave(0.35, 2), wave(0.3, 4)]
  together = own.caption(clips, RATE)
  assert len(together) == 4 and all(together) and len(set(together)) > 1
  assert own.caption([clips[2][:8820], clips[0]], RATE) == [together[2], together[0]]
  assert all(text == text.strip().capitalize() for text in together)
  every = captioner(clapcap, windows=True)
  lines = every.caption(clips[2], RATE).split('\n')
  pieces = [clips[2][i : i + 8820] for i in range(0, len(clips[2]), 8820)]
  assert lines == own.caption(pieces, RATE) and len(lines) == 2
  with pytest.raises(InputError, match='too short'):
    own.caption(np.zeros(3, np.float32), RATE)


@pytest.mark.slow
def test_only_the_mapper_learns(clapcap):
  """As upstream, unless towers are unfrozen."""
  params = clapcap.variables['params']
  grown = jax.tree.map(np.ones_like, params)
  for args, learned in (
    ({}, {'mapper'}),
    (dict(freeze_gpt_weights=False), {'mapper', 'text_tower'}),
    (dict(freeze_audio_encoder_weights=False), {'mapper', 'audio_tower', 'audio_projection'}),
  ):
    model = clapcap.model.clone(**args)
    config = {'optim': {**optim.DEFAULTS, 'name': 'sgd', 'lr': 0.1}}
    optimizer = build.optimizer(config, model, optax.constant_schedule(0.1))
    updates, _ = optimizer.update(grown, optimizer.init(params), params)
    moved = {name for name, tree in updates.items() if any(map(np.any, jax.tree.leaves(tree)))}
    assert moved == learned


def test_what_cannot_be_is_refused(clapcap, tmp_path):
  with pytest.raises(InputError, match='the model has 22 positions'):
    captioner(clapcap, max_tokens=23)
  with pytest.raises(InputError, match='temperature=0'):
    captioner(clapcap, temperature=0.0)
  other = Pretrained('clap', models.get('clap')(size='tiny'), {}, 'made here')
  with pytest.raises(InputError, match='CLAP writes no captions'):
    other.caption(wave(0.2), RATE)
  with pytest.raises(InputError, match='There is no tokenizer'):
    clapcap.caption(wave(0.2), RATE, tokenizer=str(tmp_path / 'none'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('heard')
  for i in range(3):
    soundfile.write(root / f'{i}.wav', wave(0.1 + 0.15 * i, i), RATE)
  (root / 'broken.wav').write_bytes(b'RIFF')
  return root


@pytest.mark.slow
def test_files(clapcap, folder, tmp_path):
  """Rows with a caption or a reason; a killed job goes on with what is left."""
  source = sources.open_source(str(folder))
  own = captioner(clapcap, windows=True)
  rows = caption_source(own, source, tmp_path / 'c.jsonl')
  assert [json.loads(line) for line in (tmp_path / 'c.jsonl').read_text().splitlines()] == rows
  by_id = {row['id']: row for row in rows}
  assert 'error' in by_id['broken.wav']
  for i in range(3):
    assert by_id[f'{i}.wav']['text'] == own.caption(str(folder / f'{i}.wav'))
  assert [s['start'] for s in by_id['2.wav']['segments']] == [0.0, 0.2, 0.4][
    : len(by_id['2.wav']['segments'])
  ]
  caption_source(own, source, tmp_path / 'c.tsv')
  lines = (tmp_path / 'c.tsv').read_text().splitlines()
  assert lines[0] == 'id\tcaption' and len(lines) == 4
  with pytest.raises(InputError, match=r'\.jsonl, \.tsv or \.txt'):
    caption_source(own, source, tmp_path / 'c.srt')


@pytest.mark.slow
def test_the_command(clapcap, folder, tmp_path):
  weights.save(clapcap, tmp_path / 'model')
  args = (
    f'--model={tmp_path / "model"}', f'--input={folder}', f'--out={tmp_path / "c.txt"}',
    '--tokenizer=bytes', '--suffix=\n', '--max_tokens=6', '--beam=2',
  )  # fmt: skip
  done = runner.run('launch.caption', *args)
  assert done.returncode == 0, done.stderr[-2000:]
  assert f'{tmp_path / "c.txt"}: 3 clips, 1 left out:' in done.stdout
  loaded = weights.load(tmp_path / 'model')
  options = dict(tokenizer='bytes', suffix='\n', max_tokens=6, beams=2)
  own = [loaded.caption(folder / f'{i}.wav', **options) for i in range(3)]
  assert (tmp_path / 'c.txt').read_text().splitlines() == [' '.join(x.split()) for x in own]
  done = runner.run('launch.caption', *args)
  assert done.returncode == 2 and 'is there already' in done.stderr
