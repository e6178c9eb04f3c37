"""Every head of SUPERB by itself: a row is what it is alone, gradients reach every parameter, and
what does not fit is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.models import heads
from research.models.finetuned import Finetuned
from research.weights import tables
from research.weights.families import superb
from tests.models.subjects import SPEECH

LENGTHS = (30, 21, 16)
LETTERS = ('_', *'abcd')
HEADS = {
  'utterance': dict(classes=5, slots=(2, 3), width=8),
  'phones': dict(vocabulary=LETTERS, width=8),
  'recurrent_ctc': dict(
    vocabulary=LETTERS, width=8, features=6, spec_augment=dict(feature_width=3, time_width=4)
  ),
  'x_vector': dict(speakers=3, width=8, pooled_width=10),
  'diarization': dict(speakers=2, features=6, num_layers=2),
  'masks': dict(signals=2, features=4, num_layers=2, n_fft=32, hop=10),
}


def batch_of(mask, hop=10):
  """What heads read beside tokens: audio of as many frames, less one."""
  audio = jax.random.normal(jax.random.key(5), (3, hop * max(LENGTHS)))
  samples = hop * (mask.sum(axis=1) - 1)
  size = hop * (mask.shape[1] - 1)
  return {'audio': audio[: len(mask), :size], 'audio_mask': jnp.arange(size) < samples[:, None]}


def make(name, d=12):
  head = heads.get(name)(**HEADS[name])
  tokens = jax.random.normal(jax.random.key(0), (3, max(LENGTHS), d))
  mask = jnp.arange(max(LENGTHS)) < jnp.array(LENGTHS)[:, None]
  encoded = {'batch': batch_of(mask)}
  params = head.init(jax.random.key(1), tokens, mask, encoded, False)['params']
  return head, params, tokens, mask


@pytest.mark.parametrize('name', HEADS)
def test_rows_are_alone(name):
  head, params, tokens, mask = make(name)
  apply = jax.jit(lambda x, mask, batch: head.apply({'params': params}, x, mask, batch, False))
  batch = batch_of(mask)
  bad = {**batch, 'audio': jnp.where(batch['audio_mask'], batch['audio'], jnp.nan)}
  broken = apply(jnp.where(mask[:, :, None], tokens, jnp.nan), mask, {'batch': bad})
  for row, n in enumerate(LENGTHS):
    one = {k: v[row : row + 1, : 10 * (n - 1)] for k, v in batch.items()}
    alone = apply(tokens[row : row + 1, :n], mask[row : row + 1, :n], {'batch': one})
    assert alone.keys() == broken.keys()
    for key, value in alone.items():
      for got, want in zip(jax.tree.leaves(broken[key]), jax.tree.leaves(value)):
        got = got[row][tuple(slice(n) for n in want.shape[1:])]
        np.testing.assert_allclose(got, want[0], rtol=2e-5, atol=2e-5, err_msg=key)


@pytest.mark.parametrize('name', HEADS)
def test_gradients(name):
  head, params, tokens, mask = make(name)

  def loss(params):
    rngs = dict(zip(('dropout', 'augment'), jax.random.split(jax.random.key(2))))
    out = head.apply({'params': params}, tokens, mask, {'batch': batch_of(mask)}, True, rngs=rngs)
    leaves = [x for x in jax.tree.leaves(out) if x.dtype == jnp.float32]
    leaves = [jnp.where(jnp.isfinite(x), x, 0.0) for x in leaves]
    return sum((x**2).sum() for x in leaves)

  flat = tables.flatten(jax.jit(jax.grad(loss))(params))
  assert {k.split('/')[0] for k in flat} <= set(head.PARAMETERS)
  for key, value in flat.items():
    assert np.isfinite(value).all() and np.any(value), key


@pytest.mark.parametrize('name', HEADS)
def test_names_of_s3prl(name):
  head, params, *_ = make(name)
  arrays = superb.write_head(head, params)
  names = ('vocabulary', 'slots', 'spec_augment', 'hop')  # these do not show in the arrays
  hidden = {k: v for k, v in HEADS[name].items() if k in names}
  again, back = superb.read_head(arrays, **hidden)
  assert {k: getattr(again, k) for k in HEADS[name]} == {k: getattr(head, k) for k in HEADS[name]}
  jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, dict(params)))
  with pytest.raises(InputError, match=r'missing|none of the heads'):
    superb.read_head({k: v for k, v in arrays.items() if not k.endswith('bias')}, **hidden)


def test_checkpoint_of_s3prl(tmp_path):
  torch = pytest.importorskip('torch')
  head, params, *_ = make('utterance', d=SPEECH['width'])
  arrays = {k: torch.tensor(v) for k, v in superb.write_head(head, params).items()}
  path = tmp_path / 'states-10.ckpt'
  torch.save({'Downstream': arrays, 'Featurizer': {'weights': torch.arange(3.0)}, 'Step': 10}, path)
  found, mix = superb.read_checkpoint(path)
  encoder = dict(name='hubert', args=SPEECH | dict(num_clusters=5, final_dim=4))
  head, params = superb.read_head(found, slots=(2, 3))
  plain = Finetuned(encoder=encoder)
  variables = plain.init(jax.random.key(0), example(plain))
  model, variables = superb.put_on(encoder, variables, head, params, mix)
  out = jax.jit(model.apply)(variables, example(model))
  assert out['logits'].shape == (1, 5)
  np.testing.assert_array_equal(variables['params']['layer_mix'], [0, 1, 2])
  with pytest.raises(InputError, match='another upstream'):
    superb.put_on(encoder, variables, head, params, mix[:2])
  torch.save({'model': arrays}, path)
  with pytest.raises(InputError, match='no checkpoint of s3prl'):
    superb.read_checkpoint(path)


def example(model):
  return {k: jnp.ones(v.shape, v.dtype) for k, v in model.example().items()}


@pytest.mark.parametrize(
  'name, args',
  [
    ('utterance', dict(classes=5, slots=(2, 2))),
    ('utterance', dict(classes=2, labels=('a',))),
    ('phones', dict(vocabulary=())),
    ('recurrent_ctc', dict(blank=99)),
    ('recurrent_ctc', dict(num_layers=0)),
  ],
)
def test_refused(name, args):
  with pytest.raises(InputError):
    heads.get(name)(**args)
