"""A head that s3prl has trained, from its checkpoint onto an encoder, as one file."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.models import heads
from research.nn.pooling import mix_layers
from research.weights import Pretrained, load, s3prl_heads, save
from research.weights.families import superb
from tests.models.subjects import SPEECH
from tests.weights.toy import filled

pytestmark = pytest.mark.peer
MIX = np.array([0.3, -0.2, 0.5], np.float32)  # two layers and what enters the first


def head_of(width, **args):
  head = heads.get('utterance')(width=8, classes=5, **args)
  tokens, mask = jnp.zeros((1, 4, width)), jnp.ones((1, 4), bool)
  variables = head.init(jax.random.key(3), tokens, mask, {}, False)
  return head, jax.tree.map(np.asarray, dict(variables))


def write(path, state):
  """As torch saves it, arrays as tensors."""
  torch = pytest.importorskip('torch')
  torch.save(jax.tree.map(lambda x: torch.from_numpy(np.array(x)), state), path)
  return path


def checkpoint(path, head, variables, mix=MIX):
  state = dict(Downstream=superb.write_head(head, variables), Featurizer=dict(weights=mix))
  return write(path, state)


@pytest.fixture
def encoder(tmp_path):
  model = models.get('hubert')(**SPEECH)
  made = Pretrained('hubert', model, filled(model), 'made up')
  return save(made, tmp_path / 'encoder'), made


@pytest.mark.slow
def test_one_model_of_both(tmp_path, encoder):
  path, made = encoder
  head, own = head_of(32)
  own = jax.tree.map(jnp.asarray, own)
  source = checkpoint(tmp_path / 'best-states-dev.ckpt', head, own)
  labels = ['a', 'b', 'c', 'd', 'e']
  whole = s3prl_heads.load_head(source, path, labels=labels)
  whole = load(save(whole, tmp_path / 'whole'))
  assert whole.model.freeze and whole.model.labels == tuple(labels)
  assert 'best-states-dev.ckpt' in whole.origin
  audio = np.random.default_rng(0).standard_normal((1, 8000)).astype(np.float32)
  batch = {'audio': audio, 'audio_mask': np.ones(audio.shape, bool)}
  variables = jax.tree.map(jnp.asarray, made.variables)
  states, mask = made.model.apply(variables, *map(jnp.asarray, batch.values()), method='embed')
  want = head.apply(own, mix_layers(states, jnp.asarray(MIX), False), mask, {}, False)['logits']
  got = whole.model.apply(jax.tree.map(jnp.asarray, whole.variables), batch)['logits']
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_what_does_not_fit(tmp_path, encoder):
  path, _ = encoder
  other = checkpoint(tmp_path / 'wide.ckpt', *head_of(48))
  with pytest.raises(InputError, match=r'shape \(48, 8\), and on hubert it would have \(32, 8\)'):
    s3prl_heads.load_head(other, path)
  deep = checkpoint(tmp_path / 'deep.ckpt', *head_of(32), mix=np.zeros(13, np.float32))
  with pytest.raises(InputError, match='mixes 13 layers, and hubert has 3'):
    s3prl_heads.load_head(deep, path)
  write(tmp_path / 'no.ckpt', dict(model={}))
  with pytest.raises(InputError, match='is no checkpoint of s3prl'):
    s3prl_heads.load_head(tmp_path / 'no.ckpt', path)


@pytest.mark.slow
def test_the_command(tmp_path, encoder):
  path, _ = encoder
  source = checkpoint(tmp_path / 'best.ckpt', *head_of(32))
  command = [sys.executable, '-m', 'launch.convert', '--release=s3prl_head', f'--source={source}']
  out = f'--out={tmp_path / "out"}'
  run = subprocess.run([*command, f'--encoder={path}', out], capture_output=True, text=True)
  assert run.returncode == 0, run.stderr
  assert load(tmp_path / 'out').model.classes == 5
  run = subprocess.run([*command, out], capture_output=True, text=True)
  assert run.returncode and 'belong together' in run.stderr + run.stdout
