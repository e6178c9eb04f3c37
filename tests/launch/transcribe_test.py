"""`python -m launch.transcribe`, as a person starts it, and kills it."""

import json
import signal
import socket
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research import weights
from research.inference import ctc, row_jobs
from research.jobs import parts
from research.text import characters
from tests.evals import toy
from tests.inference import beam_test
from tests.inference.toy_ctc import RATE, ToyCTC, speak, variables
from tests.launch import runner
from tests.models.toy import make

SAID = {
  'one.wav': 'NO TEA',
  'two.wav': 'SIT ON A STONE',
  'three.wav': 'THE HEN THAT SITS ON A STONE IN THE NET SEES NO SEED',
  'four.wav': 'TEN ANTS',
}


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  saved = weights.Pretrained('toy_ctc', ToyCTC(), variables(ToyCTC()), 'tones, for tests')
  return weights.save(saved, tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Clips with transcripts: one word of another kind, one clip without, and files that are bad."""
  root = tmp_path_factory.mktemp('said')
  rows = ['path,transcript']
  for name, said in SAID.items():
    soundfile.write(root / name, speak(said), RATE)
    rows.append(f'{name},{said.lower().replace("tea", "sea") if name != "four.wav" else ""}')
  soundfile.write(root / 'short.wav', np.zeros(80), RATE)
  (root / 'broken.wav').write_bytes(b'RIFF')
  (root / 'labels.csv').write_text('\n'.join([*rows, 'short.wav,', 'broken.wav,no']) + '\n')
  return root


def transcribe(model, source, *more, module='tests.launch.toy_transcribe'):
  return runner.run(module, f'--model={model}', f'--input={source}', *more)


def rows_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_with_transcripts(model, folder, tmp_path):
  out = tmp_path / 't.jsonl'
  done = transcribe(model, folder, f'--out={out}')
  assert done.returncode == 0, done.stderr
  printed = done.stdout.splitlines()
  for name, said in SAID.items():
    assert f'{name}: {said}' in printed
  assert f'{out}: 4 clips, 2 left out:' in printed
  assert '  short.wav: It is too short: 80 samples at 16000 Hz' in done.stdout
  assert '  broken.wav: ' in done.stdout
  # 'sea' for 'tea' in 2 + 4 + 13 words, one letter of the 72 with the spaces between words.
  assert 'WER 5.26 % (1 substitutions, 0 deletions, 0 insertions; 19 words)' in printed[-1]
  assert 'CER 1.39 % (72 characters), 3 clips with a transcript' in printed[-1]
  rows = rows_of(out)
  assert [row['id'] for row in rows] == [*SAID, 'short.wav', 'broken.wav']
  assert rows[1]['words'][3]['word'] == 'STONE'
  assert rows[1]['words'][3]['start'] == pytest.approx(0.9, abs=0.021)
  assert not (tmp_path / 't.jsonl.parts').exists()


@pytest.mark.slow
def test_one_file_in_chunks_to_the_screen_and_to_subtitles(model, folder, tmp_path):
  file, out = folder / 'three.wav', tmp_path / 't.srt'
  done = transcribe(model, file, f'--out={out}', '--window=2', '--overlap=0.4')
  assert done.returncode == 0, done.stderr
  assert f'three.wav: {SAID["three.wav"]}' in done.stdout and f'{out}: 1 clips\n' in done.stdout
  text = out.read_text()
  assert text.startswith('1\n00:00:00,000 --> 00:00:05,') and 'SEES NO SEED' in text
  screen = transcribe(model, file)
  assert screen.stdout == f'three.wav: {SAID["three.wav"]}\n1 clips\n'


@pytest.mark.slow
def test_an_n_gram_and_a_lexicon(model, tmp_path):
  pytest.importorskip('flashlight', reason="needs flashlight-text ('.[lm]')")
  lm = beam_test.arpa(tmp_path / 'lm.arpa', beam_test.WORDS)
  soundfile.write(tmp_path / 'a.wav', speak('BAT TAB'), RATE)
  (tmp_path / 'words.txt').write_text('AT\nBAT\n')
  done = transcribe(model, tmp_path / 'a.wav', f'--lm={lm}')
  assert done.stdout.splitlines()[0] == 'a.wav: BAT TAB', done.stderr
  done = transcribe(model, tmp_path / 'a.wav', f'--lm={lm}', f'--lexicon={tmp_path}/words.txt')
  heard = done.stdout.splitlines()[0].split()
  assert heard[:2] == ['a.wav:', 'BAT'] and set(heard[2:]) <= {'AT', 'BAT'}, done.stderr


def test_killed_it_goes_on(model, tmp_path):
  """SIGKILL as soon as the first of several blocks of clips is being written."""
  clips = tmp_path / 'clips'
  clips.mkdir()
  said = {f'{i:03d}.wav': f'{"ETAONIHSRD"[i % 10]} {"TEN" if i % 3 else "ANT"}' for i in range(700)}
  for name, words in said.items():
    soundfile.write(clips / name, speak(words), RATE)
  out = tmp_path / 't.jsonl'
  args = ('tests.launch.toy_transcribe', f'--model={model}', f'--input={clips}', f'--out={out}')
  process = runner.start(*args)
  kept = tmp_path / 't.jsonl.parts'
  limit = time.monotonic() + 120
  while not list(kept.glob('part_*.npz')) and time.monotonic() < limit:
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL and not out.exists()
  before = len(list(row_jobs.read(parts.Parts(out, {}))))
  assert 0 < before < 700
  done = runner.run(*args)
  assert done.returncode == 0, done.stderr
  # All of them are printed, in the order given.
  printed = [line.split(':')[0] for line in done.stdout.splitlines() if '.wav: ' in line]
  assert printed == sorted(said) and len(printed) == 700
  assert {row['id']: row['text'] for row in rows_of(out)} == said
  again = runner.run(*args)
  assert again.returncode == 2 and 'is there already' in again.stderr


@pytest.mark.slow
def test_two_processes_write_one_file(model, folder, tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  args = (f'--model={model}', f'--input={folder}')
  more = (f'--out={tmp_path / "two.ctm"}', f'--coordinator=localhost:{port}', '--num_processes=2')
  pair = [
    runner.start('tests.launch.toy_transcribe', *args, *more, f'--process_id={i}') for i in range(2)
  ]
  outputs = [p.communicate(timeout=300) for p in pair]
  assert [p.returncode for p in pair] == [0, 0], outputs
  assert '4 clips, 2 left out' in outputs[0][0] and 'left out' not in outputs[1][0]
  assert transcribe(model, folder, f'--out={tmp_path / "one.ctm"}').returncode == 0
  assert (tmp_path / 'two.ctm').read_bytes() == (tmp_path / 'one.ctm').read_bytes()


@pytest.mark.slow
def test_the_real_model(tmp_path):
  """Random weights spell nonsense: the same that the model's logits say."""
  small = dict(size='tiny', channels=24, width=32, depth=2, heads=2, hidden=64, conv_pos_groups=4)
  module = make('wav2vec2+ctc', **small)
  batch = {'audio': jnp.zeros((1, 4000)), 'audio_mask': jnp.ones((1, 4000), bool)}
  fresh = jax.device_get(jax.jit(module.init)(jax.random.key(0), batch))
  # A blank that wins often, as it does in real models.
  fresh['params']['head']['bias'] = 0.5 * (np.arange(32) == 0).astype(np.float32)
  loaded = weights.Pretrained('finetuned', module, fresh, 'random')
  path = weights.save(loaded, tmp_path)
  rng = np.random.default_rng(0)
  clip = (0.1 * rng.standard_normal(3 * RATE)).astype(np.float32)
  soundfile.write(tmp_path / 'noise.wav', clip, RATE, subtype='FLOAT')
  done = transcribe(path, tmp_path / 'noise.wav', module='launch.transcribe')
  assert done.returncode == 0, done.stderr
  batch = {'audio': jnp.asarray(clip)[None], 'audio_mask': jnp.ones((1, len(clip)), bool)}
  out = module.apply(jax.tree.map(jnp.asarray, fresh), batch)
  path = ctc.Greedy()(np.asarray(out['logits'][0]))
  expected = characters.spell(ctc.collapse(path).ids)
  assert done.stdout.splitlines()[0] == f'noise.wav: {expected}' and len(expected) > 3


@pytest.mark.slow
def test_mistakes_are_one_sentence(model, folder, tmp_path):
  lm = tmp_path / 'lm.bin'
  lm.write_bytes(bytes(100))
  for args, sentence in (
    ((model, folder, f'--out={tmp_path}/t.doc'), 'has to end in .jsonl, .txt'),
    ((model, folder, f'--out={tmp_path}/t.srt'), 'subtitles of one recording'),
    ((model, folder, '--reference_column=trancript'), "Did you mean 'transcript'"),
    ((model, folder, '--lexicon=words.txt'), '--lexicon is for the search with an n-gram'),
    ((model, folder, '--word_score=1'), '--word_score is for the search with an n-gram'),
    ((model, folder, '--window=1', '--overlap=2'), 'Chunks of 1 s that share 2 s'),
    ((toy.save_audio_mae(tmp_path), folder), 'AudioMAE gives no letters'),
  ):
    done = transcribe(*args)
    assert done.returncode == 2, (args, done.stdout)
    last = done.stderr.splitlines()[-1]
    assert last.startswith('error: ') and sentence in last and 'Traceback' not in done.stderr
  assert not list(tmp_path.glob('t.*'))
