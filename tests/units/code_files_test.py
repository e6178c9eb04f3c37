"""Codes of vq-wav2vec as text."""

import jax
import numpy as np
import pytest
import soundfile

from research import models
from research.audio import clips, sources
from research.errors import InputError
from research.units import code_files
from research.weights import Pretrained, save
from tests.evals import toy
from tests.jobs.kills import killed
from tests.launch import runner

TINY = dict(size='tiny', channels=16, kernels=(2, 3), codebook_size=9)


def tokenizer(**args):
  model = models.get('wav2vec')(**TINY, **args)
  batch = {'audio': np.zeros((1, 3000), np.float32), 'audio_mask': np.ones((1, 3000), bool)}
  return model, jax.jit(model.init)(jax.random.key(0), batch)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Clips of several lengths, the longest first, one below a frame and one that is no audio."""
  root = tmp_path_factory.mktemp('clips')
  for i, seconds in enumerate((1.1, 0.3, 0.9, 0.6, 0.3)):
    soundfile.write(root / f'{i}.wav', toy.tone(300 + 90 * i, seconds, i), toy.RATE)
  soundfile.write(root / '5.wav', np.zeros(400, np.float32), toy.RATE)
  (root / '6.wav').write_bytes(b'RIFF')
  return root


def lines_of(path):
  return [line.split('\t') for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_every_clip_has_a_line_of_the_codes_that_the_model_hears(folder, tmp_path):
  model, variables = tokenizer(vq_type='kmeans')
  source = sources.open_source(str(folder))
  out = tmp_path / 'codes.tsv'
  done = code_files.write_codes(model, variables, source, out)
  assert [p.name for p in tmp_path.iterdir()] == ['codes.tsv']
  lines = lines_of(out)
  ids = [source.id(i) for i in range(len(source))]
  assert [name for name, _ in lines] == ids[:5] == [f'{i}.wav' for i in range(5)]
  assert set(done['skipped']) == set(ids[5:]) and 'one frame' in done['skipped']['5.wav']
  heard = [soundfile.read(folder / name, dtype='float32')[0] for name, _ in lines]
  audio = np.zeros((5, max(map(len, heard))), np.float32)
  for row, clip in zip(audio, heard):
    row[: len(clip)] = clip
  mask = np.arange(audio.shape[1]) < np.array([len(clip) for clip in heard])[:, None]
  encode = jax.jit(lambda *args: model.apply(variables, *args, method='encode'))
  codes, real = map(np.asarray, encode(audio, mask))
  for i, (_, text) in enumerate(lines):
    assert text == ' '.join(f'{a}-{b}' for a, b in codes[i][real[i]].tolist())
  assert done['clips'] == 5 and done['frames'] == real.sum() == 5 * 1 + sum(
    (len(clip) - 465) // 160 for clip in heard
  )
  with pytest.raises(InputError, match='is there already'):
    code_files.write_codes(model, variables, source, out)


@pytest.mark.slow
def test_a_failure_leaves_what_was_there(folder, tmp_path):
  model, variables = tokenizer(vq_type='kmeans')
  source = sources.open_source(str(folder))
  out = tmp_path / 'codes.tsv'
  out.write_text('of before')
  with pytest.raises(InputError, match='Too many bad audio files'):
    code_files.write_codes(model, variables, source, out, overwrite=True, max_bad_fraction=0.0)
  with pytest.raises(InputError, match='None of the 1 clips has codes: shorter than one frame'):
    code_files.write_codes(model, variables, source.select([5]), out, overwrite=True)
  assert [p.name for p in tmp_path.iterdir()] == ['codes.tsv']
  assert out.read_text() == 'of before'


def test_a_killed_job_goes_on(folder, tmp_path, monkeypatch):
  model, variables = tokenizer(vq_type='kmeans')
  source = clips.pool([sources.open_source(str(folder))] * 2)  # more than eight devices share
  whole, out = tmp_path / 'whole.tsv', tmp_path / 'codes.tsv'
  done = code_files.write_codes(model, variables, source, whole, batch_seconds=1.0)
  with monkeypatch.context() as patch:
    killed(patch, after=1)
    with pytest.raises(KeyboardInterrupt):
      code_files.write_codes(
        model, variables, source, out, batch_seconds=1.0, part_seconds=0.0
      )  # fmt: skip
  assert not out.exists()
  assert code_files.write_codes(model, variables, source, out, batch_seconds=1.0) == done
  assert out.read_bytes() == whole.read_bytes()
  assert sorted(p.name for p in tmp_path.iterdir()) == ['codes.tsv', 'whole.tsv']


@pytest.mark.slow
def test_models_without_a_codebook_are_refused(folder, tmp_path):
  source = sources.open_source(str(folder))
  for model in (tokenizer()[0], models.get('hubert')(size='tiny')):
    with pytest.raises(InputError, match=f'{type(model).__name__} has no codebook of its own'):
      code_files.write_codes(model, {}, source, tmp_path / 'codes.tsv')
  with pytest.raises(InputError, match=r'end in \.tsv or \.txt'):
    code_files.write_codes(tokenizer(vq_type='gumbel')[0], {}, source, tmp_path / 'codes.npz')


@pytest.mark.slow
def test_the_command_writes_them(folder, tmp_path):
  model, variables = tokenizer(vq_type='gumbel')
  path = save(Pretrained('wav2vec', model, variables, 'random'), tmp_path / 'model')
  asked = [f'--model={path}', f'--input={folder}', f'--out={tmp_path / "codes.tsv"}', '--codes']
  done = runner.run('launch.embed', *asked)
  assert done.returncode == 0, done.stderr
  assert '5 clips, ' in done.stdout and '2 left out' in done.stdout and '6.wav: ' in done.stdout
  assert len(lines_of(tmp_path / 'codes.tsv')) == 5
  wrong = runner.run('launch.embed', *asked, '--overwrite', '--pool=mean')
  assert wrong.returncode == 2 and '--pool does not go with --codes' in wrong.stderr
